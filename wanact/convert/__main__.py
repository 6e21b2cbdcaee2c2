"""`python -m wanact.convert`: where it lives now."""

import runpy
import sys

print("python -m wanact.convert is `python -m wanact convert` now", file=sys.stderr)
sys.argv[1:1] = ["convert"]
runpy.run_module("wanact", run_name="__main__")
