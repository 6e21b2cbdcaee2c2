"""log.jsonl: a line for every logged step, once and in order, also where the disk was full for a while."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from wanact.files import CheckpointError, replacing
from wanact.runs.log import LOG


class RunLog:
    """The log of one run, written by its main process.

    Args:
        run: the run's folder.

    Raises:
        CheckpointError: if something lies there that is no log.
        OSError: if it cannot be read.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LOG
        self._waiting: list[bytes] = []  # lines that the disk did not take
        if self.path.exists() and not self.path.is_file():
            raise CheckpointError(f"{self.path} is no file, where the log is to lie; move it away")
        lines = self._lines()
        if lines[:1] and not (len(lines) == 1 and _is_half(lines[0])) and all(_step_of(line) is None for line in lines):
            raise CheckpointError(f"{self.path} holds no line of a training log; move it away")

    def go_back_to(self, step: int) -> None:
        """Drop the lines of later steps, which were lost, and what is no line, so that it reads as if nothing happened.

        Lines at the end are cut off in place, which needs no room on the disk.
        """
        lines = self._lines()
        kept = b"".join(line for line in lines if (at := _step_of(line)) is not None and at <= step)
        content = b"".join(lines)
        if content == kept:
            return
        if content.startswith(kept):
            os.truncate(self.path, len(kept))
            return
        with replacing(self.path) as temporary:
            temporary.write_bytes(kept)

    def add(self, row: dict[str, Any]) -> None:
        """Write a line. What a full disk does not take is kept and written when there is room again."""
        first_failure = not self._waiting
        self._waiting.append(json.dumps(row).encode() + b"\n")
        try:
            self._append(b"".join(self._waiting))
        except OSError as error:
            if first_failure:
                warnings.warn(
                    f"{self.path} was not written: {error.strerror}. Training goes on, and its lines are kept until "
                    "there is room",
                    stacklevel=2,
                )
        else:
            self._waiting.clear()

    def _append(self, data: bytes) -> None:
        """All of the data, or nothing of it."""
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(handle).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(handle, data[written:])
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []


def _is_half(line: bytes) -> bool:
    """Whether this is the beginning of a first line that was never finished."""
    return not line.endswith(b"\n") and line.startswith(b'{"step"'[: len(line)])


def _step_of(line: bytes) -> int | None:
    """The step of a whole line, None for anything else."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None
