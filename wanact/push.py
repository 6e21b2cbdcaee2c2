"""`python -m wanact.push`: where it lives now."""

import runpy
import sys

print("python -m wanact.push is `python -m wanact push` now", file=sys.stderr)
sys.argv[1:1] = ["push"]
runpy.run_module("wanact", run_name="__main__")
