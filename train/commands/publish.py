"""`python -m train publish`: the steps of a run that are worth keeping, as a smaller run that only flies."""

from __future__ import annotations

import argparse

import torch

from wanact.files import place
from wanact.runs.publish import publish


def main(argv: list[str] | None = None) -> None:
    """Write a run that only flies: weights, configuration, metadata and log of chosen steps."""
    parser = argparse.ArgumentParser(prog="python -m train publish", description=main.__doc__)
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("--out", type=place, required=True, help="folder of the new run")
    parser.add_argument("--steps", type=int, nargs="+", help="steps to keep; all if not given")
    parser.add_argument("--base_model", help="name of the base model to write, instead of a path of this machine")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="of the weights; as they are if not given"
    )
    args = parser.parse_args(argv)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    for path in publish(args.run, args.out, args.steps, args.base_model, dtype):
        print(f"wrote {path}")
