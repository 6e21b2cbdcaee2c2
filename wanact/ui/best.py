"""The best times of every course: a bounded table in one file, and finished flights that may still enter it.

Times are the server's own. A flight that has finished leaves a note under its id, which nobody guesses; whoever knows
the id may enter it once, under a name.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from wanact.errors import UserError
from wanact.files import BusyError, Lock, parse_json, read_bytes, read_model, whole, write_json
from wanact.ui.mailbox import is_flight_id

MAX_PLACES = 10  # of a course
MAX_NAME = 16
MAX_NOTES = 64
_MAX_FILE_BYTES = 2**18
_FILE = "best-times.json"
_NOTE = ".finish"
_TRIES, _PAUSE_S = 40, 0.05

logger = logging.getLogger(__name__)


class BestError(UserError):
    """A time that cannot be entered; the message is one sentence for the visitor."""


class Best(BaseModel):
    """A line of the table."""

    name: Annotated[str, Field(max_length=MAX_NAME)]
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
    day: Annotated[str, Field(max_length=10)]


class _Table(BaseModel):
    best_times: dict[str, list[Best]]


class _Finish(BaseModel):
    course: Annotated[str, Field(max_length=40)]
    milliseconds: Annotated[int, whole(0, 86_400_000)]


def checked_name(name: Any) -> str:
    """A nickname as it may stand in the table.

    Raises:
        BestError: if it may not.
    """
    if not isinstance(name, str) or len(name) > 200:
        raise BestError(f"the name has to be text of 2 to {MAX_NAME} characters")
    text = " ".join(unicodedata.normalize("NFKC", name).split())
    if not 2 <= len(text) <= MAX_NAME:
        raise BestError(f"the name has {len(text)} characters, expected 2 to {MAX_NAME}")
    wrong = next((char for char in text if not (char.isalnum() or char in " -_.'")), None)
    if wrong is not None:
        shown = wrong if wrong.isprintable() else f"U+{ord(wrong):04X}"
        raise BestError(f"the name has {shown} in it; letters, digits, spaces and - _ . ' are taken")
    return text


class BestTimes:
    """The table, on the disk. Several processes may have the same folder.

    Args:
        folder: where its file is kept.
    """

    def __init__(self, folder: Path):
        self.file = folder / _FILE
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int] | None, dict[str, list[Best]]] = (None, {})

    def of(self, course: str) -> list[Best]:
        """The best of a course, fastest first; none if the file is damaged, which the log says."""
        try:
            return self._load().get(course, [])[:MAX_PLACES]
        except (UserError, OSError) as error:
            logger.error("the table of best times cannot be read: %s", error)
            return []

    def place(self, course: str, seconds: float) -> int:
        """The place that a time would have, from 1; 0 for none."""
        place = 1 + sum(best.seconds <= seconds for best in self.of(course))
        return place if place <= MAX_PLACES else 0

    def enter(self, course: str, name: str, seconds: float) -> int:
        """Enter a time; of a name the best one stays.

        Returns:
            Its place, from 1; 0 if it has none, or the name has a better one.

        Raises:
            BestError: if the table is being written, or damaged; OSError if it cannot be written.
        """
        entry = Best(name=name, seconds=seconds, day=datetime.datetime.now(datetime.timezone.utc).date().isoformat())
        with self._writing():
            try:
                table = dict(self._load())
            except UserError as error:
                logger.error("the table of best times cannot be read: %s", error)
                raise BestError("the table of best times is damaged; whoever runs this page can mend it") from error
            rows = table.get(course, [])
            own = next((row for row in rows if row.name.casefold() == name.casefold()), None)
            if own is not None and own.seconds <= seconds:
                return 0
            rows = sorted([*(row for row in rows if row is not own), entry], key=lambda row: row.seconds)[:MAX_PLACES]
            if not any(row is entry for row in rows):
                return 0
            table[course] = rows
            write_json(self.file, {"best_times": {key: [r.model_dump() for r in kept] for key, kept in table.items()}})
            return 1 + next(number for number, row in enumerate(rows) if row is entry)

    def _load(self) -> dict[str, list[Best]]:
        """What the file says; read again where it has changed.

        Raises:
            UserError: if it is damaged.
        """
        try:
            stat = self.file.stat()
        except FileNotFoundError:
            return {}
        stamp = stat.st_mtime_ns, stat.st_size
        if self._read[0] != stamp:
            content = parse_json(self.file, read_bytes(self.file, _MAX_FILE_BYTES))
            self._read = stamp, read_model(_Table, content, lambda problem: BestError(problem)).best_times
        return self._read[1]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone with the file, among threads and processes."""
        with self._lock, self._lock_file():
            yield

    def _lock_file(self) -> Lock:
        for _ in range(_TRIES):
            try:
                return Lock(self.file.with_name(f"{_FILE}.lock"), "the table of best times")
            except BusyError:
                time.sleep(_PAUSE_S)
        raise BestError("the table of best times is busy; try again in a moment")


class Finishes:
    """Notes of flights that have finished a course; each may be taken once, by any process.

    Args:
        folder: readable for this user only.
        keep_s: how long a note is kept.
    """

    def __init__(self, folder: Path, keep_s: float):
        self.folder, self.keep_s = folder, keep_s

    def note(self, flight_id: str, course: str, seconds: float) -> None:
        """A flight has finished; the oldest notes go."""
        self.forget_old(MAX_NOTES - 1)
        write_json(self._file(flight_id), {"course": course, "milliseconds": round(1000 * seconds)})

    def take(self, flight_id: Any) -> tuple[str, float]:
        """Course and seconds of a flight that has finished, which is then gone.

        Raises:
            BestError: if there is none.
        """
        gone = BestError(f"this flight has finished no course, or was entered, or is older than {self.keep_s / 60:.0f} "
                         "minutes")  # fmt: skip
        if not is_flight_id(flight_id):
            raise gone
        self.forget_old(MAX_NOTES)
        taken = self._file(flight_id).with_suffix(".taken")
        try:
            self._file(flight_id).rename(taken)  # of two that take it, one does
        except OSError as error:
            raise gone from error
        try:
            finish = read_model(_Finish, parse_json(taken, read_bytes(taken)), lambda problem: BestError(problem))
        finally:
            taken.unlink(missing_ok=True)
        return finish.course, finish.milliseconds / 1000

    def forget_old(self, most: int) -> None:
        """Forget notes that are too old or too many."""
        dated: list[tuple[float, Path]] = []
        for path in self.folder.glob(f"*{_NOTE}"):
            with contextlib.suppress(OSError):
                dated.append((path.stat().st_mtime, path))
        for number, (when, path) in enumerate(sorted(dated, reverse=True)):
            if number >= most or time.time() - when > self.keep_s:
                path.unlink(missing_ok=True)

    def _file(self, flight_id: str) -> Path:
        return self.folder / f"{flight_id}{_NOTE}"
