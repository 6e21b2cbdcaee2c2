"""The control cards that lie beside runs, read again where a file has changed, and which step they call best."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from wanact.control_card.card import FOLDER, ControlCard, read_card
from wanact.runs.store import step_of

_MAX_RUNS = 256
_Stamp = tuple[int, int, int]


class KeptCards:
    """The cards of runs by their step. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, tuple[_Stamp, ControlCard | None]]] = {}

    def of(self, run: Path) -> dict[int, ControlCard]:
        """The cards of a run's steps; costs a look at the folder where nothing has changed."""
        with self._lock:
            known = self._runs.pop(str(run), {})
            found = {name: self._read(known, path, stamp) for name, path, stamp in _files(run / FOLDER)}
            if found:
                while len(self._runs) >= _MAX_RUNS:
                    self._runs.pop(next(iter(self._runs)))
                self._runs[str(run)] = found
        cards = {step_of(name.removesuffix(".json")): card for name, (_, card) in found.items()}
        return {step: card for step, card in cards.items() if step is not None and card is not None}

    @staticmethod
    def _read(
        known: Mapping[str, tuple[_Stamp, ControlCard | None]], path: Path, stamp: _Stamp
    ) -> tuple[_Stamp, ControlCard | None]:
        before = known.get(path.name)
        return before if before is not None and before[0] == stamp else (stamp, read_card(path))


def _files(folder: Path) -> list[tuple[str, Path, _Stamp]]:
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as items:
        for item in items:
            if item.name.startswith("step-") and item.name.endswith(".json"):
                stat = item.stat(follow_symlinks=False)
                found.append((item.name, Path(item.path), (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
    return found


def best_step(cards: Mapping[int, ControlCard], steps: Collection[int]) -> int | None:
    """The step that obeys best, None where none of them has a card.

    By control, then by its worst channel, by how near its gain is to 1, and the later one. A quick card counts where
    there are no others: it has a third of the runs, so that a lucky one would win.
    """
    there = {step: card for step, card in cards.items() if step in steps and card.number("sign_accuracy") is not None}
    full = {step: card for step, card in there.items() if not card.is_quick} or there
    return max(full, key=lambda step: (*_merit(full[step]), step), default=None)


def _merit(card: ControlCard) -> tuple[float, float, float]:
    gain = card.number("gain")
    return card.number("sign_accuracy") or 0.0, card.number("worst_channel") or 0.0, -abs((gain or 0.0) - 1)
