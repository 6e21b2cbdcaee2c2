"""`python -m train.crash_test`: where it lives now."""

import runpy
import sys

print("python -m train.crash_test is `python -m train crash_test` now", file=sys.stderr)
sys.argv[1:1] = ["crash_test"]
runpy.run_module("train", run_name="__main__")
