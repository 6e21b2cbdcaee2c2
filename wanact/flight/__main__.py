"""`python -m wanact.flight`: where it lives now."""

import runpy
import sys

print("python -m wanact.flight is `python -m wanact replay` now", file=sys.stderr)
runpy.run_module("wanact", run_name="__main__")
