"""A run's folder belongs to one trainer at a time, which looks at it before anything loads."""

from __future__ import annotations

from pathlib import Path

from wanact.files import CheckpointError, Lock
from wanact.runs.ref import CHECKPOINTS

LOCK = ".lock"


def claim(run: Path) -> Lock:
    """Make a run's folder and take it; two trainers would remove each other's half-written checkpoints.

    Raises:
        BusyError: if another trainer has it.
        CheckpointError: if something in it is not what a run has there.
        OSError: if it cannot be written.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / CHECKPOINTS).exists() and not (run / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{run / CHECKPOINTS} is a file, where checkpoints are to lie; move it away")
    return Lock(run / LOCK, f"the run {run}")
