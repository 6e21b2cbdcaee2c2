"""What a training run says when it ends: which step is best, and the commands that open it."""

from __future__ import annotations

import shlex
from pathlib import Path

from wanact.runs import store
from wanact.runs.check import flight_files


def ending(run: Path, model_dir: str | None) -> list[str]:
    """Lines for people; none if the run has no checkpoint that is whole.

    Args:
        run: the run's folder.
        model_dir: what it was trained on, None if that was no directory.
    """
    infos = [info for info in store.list_checkpoints(run) if info.problem is None and info.metadata]
    if not infos:
        return []
    last = next((info for info in infos if info.is_latest), infos[-1])
    best = next((info for info in infos if info.is_best), None)
    lines = [f"the last checkpoint is step {last.step}: {last.path}"]
    if best is not None:
        lines = [f"best by training loss is step {best.step} (loss {best.loss:.4f}); {lines[0]}"]
    if flight_files((best or last).path):
        base = shlex.quote(model_dir or "DIR")
        chosen = shlex.quote(f"{run}@{(best or last).step}")
        lines += [
            f"  fly it:       python app.py --model_dir {base} --runs {shlex.quote(str(run.parent))}",
            f"  how it obeys: python -m wanact card {chosen} --model_dir {base}   (the loss hardly tells)",
        ]
    return lines
