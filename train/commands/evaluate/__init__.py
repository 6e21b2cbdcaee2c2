"""`python -m train evaluate MEASURE`: what a model is worth, on worlds that training never sees.

One file a measure. Every measure prints a table and, with `--json FILE`, writes the numbers.
"""

from __future__ import annotations

import argparse

from train.commands.evaluate import control, grid, idm, idm_mask, live, picture, vae, words


def main(argv: list[str] | None = None) -> int:
    """Measure a model on held-out worlds."""
    parser = argparse.ArgumentParser(prog="python -m train evaluate", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for measure in (vae, control, live, grid, picture, words, idm, idm_mask):
        measure.add(commands)
    args = parser.parse_args(argv)
    args.run(args)
    return 0
