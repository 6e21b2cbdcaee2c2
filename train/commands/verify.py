"""`python -m train verify`: read every file of a run's checkpoints and compare it with its sum."""

from __future__ import annotations

import argparse
from pathlib import Path

from wanact.files import CheckpointError, place
from wanact.runs import store
from wanact.runs.ref import CHECKPOINTS


def main(argv: list[str] | None = None) -> int:
    """Check runs or checkpoints; the exit status is 1 if anything is damaged."""
    parser = argparse.ArgumentParser(prog="python -m train verify", description=main.__doc__)
    parser.add_argument("paths", nargs="+", type=place, help="runs or checkpoints")
    args = parser.parse_args(argv)
    damaged = 0
    for path in args.paths:
        for checkpoint in _checkpoints(path):
            try:
                store.verify(checkpoint)
            except CheckpointError as error:
                damaged += 1
                print(f"DAMAGED {checkpoint.name}: {error}")
            else:
                size = sum(entry["bytes"] for entry in store.read_metadata(checkpoint)["files"].values())
                print(f"ok      {checkpoint.name} ({size / 1e6:,.1f} MB)")
    return 1 if damaged else 0


def _checkpoints(path: Path) -> list[Path]:
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder; expected a run or one of its checkpoints")
    if not (path / CHECKPOINTS).is_dir():
        return [path]
    found = [info.path for info in store.list_checkpoints(path)]
    if not found:
        raise CheckpointError(f"{path} has no checkpoints")
    return found
