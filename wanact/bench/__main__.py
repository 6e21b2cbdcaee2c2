"""`python -m wanact.bench`: where it lives now."""

import runpy
import sys

print("python -m wanact.bench is `python -m wanact bench` now", file=sys.stderr)
sys.argv[1:1] = ["bench"]
runpy.run_module("wanact", run_name="__main__")
