"""`python -m wanact.control_card`: where it lives now."""

import runpy
import sys

print("python -m wanact.control_card is `python -m wanact card` now", file=sys.stderr)
sys.argv[1:1] = ["card"]
runpy.run_module("wanact", run_name="__main__")
