"""`python -m train publish`: the steps of a run that are worth keeping, as a smaller run that only flies."""

from __future__ import annotations

import argparse

from wanact.files import place
from wanact.runs.publish import publish


def main(argv: list[str] | None = None) -> None:
    """Write a run that only flies: weights, configuration, metadata and log of chosen steps."""
    parser = argparse.ArgumentParser(prog="python -m train publish", description=main.__doc__)
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("--out", type=place, required=True, help="folder of the new run")
    parser.add_argument("--steps", type=int, nargs="+", help="steps to keep; all if not given")
    parser.add_argument("--base_model", help="name of the base model to write, instead of a path of this machine")
    args = parser.parse_args(argv)
    for path in publish(args.run, args.out, args.steps, args.base_model):
        print(f"wrote {path}")
