"""Curves from a run's log, however long it has grown."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path

import numpy as np

LOG = "log.jsonl"
MAX_POINTS = 500
_MAX_BYTES = 16 * 2**20  # of a longer log the end is read
_MAX_LINE = 64 * 2**10
_MAX_CACHED = 64

OF_MODELS, OF_PILOTS = ("loss", "learning_rate"), ("success", "return")

Curve = dict[str, list[float | None]]
_cache: dict[tuple[str, tuple[str, ...]], tuple[tuple[int, int], Curve]] = {}
_lock = threading.Lock()


def read_curve(run: Path, names: tuple[str, ...] = OF_MODELS) -> Curve:
    """Step, loss and learning rate of a run: {"step": [...], "loss": [...], "learning_rate": [...]}, rising in step.

    With `OF_PILOTS`, the share of the last episodes that were done, and their mean return, of a pilot's run.

    A log of more than 500 lines is averaged down to about as many points. Where a run went on from an older checkpoint,
    the newer of two lines for a step counts. Empty lists without a log; None where a line has no such number.
    """
    file = run / LOG
    try:
        if file.is_symlink():  # it might lead anywhere
            return _empty(names)
        stat = os.stat(file)
    except OSError:
        return _empty(names)
    stamp = (stat.st_mtime_ns, stat.st_size)
    with _lock:
        known = _cache.get((str(file), names))
        if known is not None and known[0] == stamp:
            return known[1]
    curve = _shorten(_read_rows(file, names), names)
    with _lock:
        while len(_cache) >= _MAX_CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[str(file), names] = (stamp, curve)
    return curve


def _empty(names: tuple[str, ...]) -> Curve:
    return {name: [] for name in ("step", *names)}


def _read_rows(file: Path, names: tuple[str, ...]) -> dict[int, tuple[float, ...]]:
    rows: dict[int, tuple[float, ...]] = {}
    try:
        with open(file, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _MAX_BYTES))
            lines = log.read(_MAX_BYTES).split(b"\n")
    except OSError:
        return {}
    for line in lines:
        if len(line) > _MAX_LINE:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the line that is being written, or damage: the others still tell the story
        step = row.get("step") if isinstance(row, dict) else None
        if isinstance(step, int) and 0 <= step <= 10**12:
            rows.pop(step, None)
            rows[step] = tuple(_number(row.get(name)) for name in names)
    return rows


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
        return float(value)
    return math.nan


def _shorten(rows: dict[int, tuple[float, ...]], names: tuple[str, ...]) -> Curve:
    if not rows:
        return _empty(names)
    steps = np.array(sorted(rows))
    values = np.array([rows[step] for step in steps.tolist()])
    per_point = math.ceil(len(steps) / MAX_POINTS)
    curve = _empty(names)
    for start in range(0, len(steps), per_point):
        part = values[start : start + per_point]
        curve["step"].append(int(steps[start : start + per_point].mean()))
        for column, name in enumerate(names):
            known = part[:, column][np.isfinite(part[:, column])]
            curve[name].append(float(known.mean()) if len(known) else None)
    return curve
