"""`python -m train.bench`: where it lives now."""

import runpy
import sys

print("python -m train.bench is `python -m train bench` now", file=sys.stderr)
sys.argv[1:1] = ["bench"]
runpy.run_module("train", run_name="__main__")
