"""Every run and checkpoint of several folders, read once and then only where something has changed on disk.

A checkpoint's metadata is read again when its folder or its metadata file has another time, so that thousands of
checkpoints are listed in the time it takes to look at their times. What is listed with a problem cannot be flown. Names
come from the folders themselves: nobody outside names a path, and links that lead out of a folder are shown as such and
not followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from wanact.errors import without_folders
from wanact.files import CheckpointError, read_json
from wanact.models.pilot import WEIGHTS as PILOT_WEIGHTS
from wanact.runs import store
from wanact.runs.check import EXPORTED, check_flight_files, check_values, flight_files
from wanact.runs.ref import CHECKPOINTS, EXPORTED_ID, RUN_CONFIG, CheckpointRef, checkpoint_id
from wanact.runs.store import PILOT, CheckpointInfo

# Larger checkpoints are verified when somebody asks: reading them would keep the disk from whoever flies or trains.
MAX_UNASKED_BYTES = 256 * 2**20
# The mark of a run's best checkpoint. Losses of different runs do not compare, so that one by loss is called just that.
BEST_BY = {"control": "best", "loss": "lowest loss"}
_LOSS = re.compile(r"loss(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Entry(CheckpointRef):
    """One row of the list; the name of its run, and so its id, is unique over all folders.

    Attributes:
        loss, saved_at, is_best, is_latest, metadata: as in `CheckpointInfo`; `saved_at` falls back to the file's time.
        best_by: what it is the best of its run by: "loss", or "control" where somebody has measured that.
        num_bytes: of all files that the metadata lists.
        state: "verified" (every sum holds and the weights are finite and fit their configuration), "whole" (all files
            have their size), "unsummed" (an older layout, which wrote no sums), "weightless" (nothing to fly with) or
            "damaged".
        problem: why it is damaged or weightless, one sentence, else None.
    """

    path: Path
    loss: float | None = None
    saved_at: str = ""
    is_best: bool = False
    best_by: str = "loss"
    is_latest: bool = False
    num_bytes: int = 0
    state: str = "damaged"
    problem: str | None = None
    metadata: dict[str, Any] = field(repr=False, default_factory=dict)
    stamp: tuple = field(repr=False, default=())

    @property
    def is_sound(self) -> bool:
        return self.state in ("verified", "whole", "unsummed")

    @property
    def is_pilot(self) -> bool:
        """Whether it is no model but a pilot, which flies inside one."""
        return self.metadata.get("kind") == PILOT

    @property
    def flyable(self) -> bool:
        """Whether a flight can be drawn with it."""
        return self.is_sound and not self.is_pilot

    @property
    def label(self) -> str:
        """Run, step, loss and marks, for people."""
        parts = [super().label, *([] if self.loss is None else [f"loss {self.loss:.4f}"])]
        marks = ((BEST_BY[self.best_by], self.is_best), ("latest", self.is_latest))
        return " · ".join([*parts, *(word for word, holds in marks if holds and self.step is not None)])


@dataclass(frozen=True)
class Run:
    """One run: its name, folder, configuration ({} if it has none) and checkpoints in the order of saving.

    Attributes:
        problem: why nothing of it is read (a link out of the folder), else None.
    """

    name: str
    path: Path
    config: dict[str, Any]
    entries: list[Entry]
    problem: str | None = None

    @property
    def is_pilot(self) -> bool:
        """Whether a pilot is trained here, and no model."""
        return any(entry.is_pilot for entry in self.entries)


class RunIndex:
    """The runs of several folders. Safe to share between threads.

    Args:
        roots: folders of runs, or runs themselves; they may be missing and are looked at anew each time.
    """

    def __init__(self, roots: Sequence[str | os.PathLike]):
        self.roots = [Path(root) for root in roots]
        self._lock = threading.RLock()
        self._infos: dict[str, tuple[tuple, CheckpointInfo]] = {}
        self._configs: dict[str, tuple[tuple, dict[str, Any]]] = {}
        self._verdicts: dict[str, tuple[tuple, str | None]] = {}
        self._verifier: threading.Thread | None = None

    def runs(self) -> list[Run]:
        """All runs by folder and name, each with its checkpoints."""
        with self._lock:
            found, seen, names = [], set(), set()
            for root in self.roots:
                for path, problem in _run_folders(root):
                    name = _unique(path.name, names)
                    with contextlib.suppress(FileNotFoundError):  # it is being removed
                        found.append(Run(name, path, {}, [], problem) if problem else self._read_run(name, path, seen))
                        names.add(name)
            self._infos = {key: value for key, value in self._infos.items() if key in seen}
            self._verdicts = {key: value for key, value in self._verdicts.items() if key in seen}
            return found

    def entries(self) -> list[Entry]:
        """All checkpoints of all runs."""
        return [entry for run in self.runs() for entry in run.entries]

    def find(self, entry_id: Any) -> Entry:
        """The checkpoint with this id, its files looked at again.

        Raises:
            CheckpointError: if it is not, or no longer, on disk.
        """
        if isinstance(entry_id, str):
            for entry in self.entries():
                if entry.id == entry_id:
                    return self._look_again(entry)
        raise CheckpointError(f"the checkpoint “{str(entry_id)[:80]}” is not there any more; choose another one")

    def run(self, name: Any) -> Run:
        """The run of this name.

        Raises:
            CheckpointError: if there is none.
        """
        for run in self.runs():
            if run.name == name:
                return run
        raise CheckpointError(f"the run “{str(name)[:80]}” is not there any more; choose another one")

    # ---- verifying -----------------------------------------------------------------------------------------

    def verify(self, entry: Entry) -> Entry:
        """Read every file: sums, headers, shapes and values. The verdict holds until something changes on disk."""
        if not entry.is_sound:
            return entry
        problem = None
        try:
            if not self._is_known(entry):
                if entry.metadata:
                    store.verify(entry.path)
                if entry.is_pilot:
                    check_values(entry.path / PILOT_WEIGHTS)
                else:
                    check_flight_files(entry.path, entry.config)
        except CheckpointError as error:
            problem = self.plain(str(error))
        except OSError as error:
            problem = f"{entry.path.name} cannot be read: {error.strerror}"
        with self._lock:
            if not self._is_known(entry):
                self._verdicts[str(entry.path)] = (entry.stamp, problem)
            return self._judged(entry)

    def verify_in_background(self) -> None:
        """Verify what is small enough and not yet known, one after the other, in a thread that ends when all is."""
        with self._lock:
            if self._verifier is not None and self._verifier.is_alive():
                return
            waiting = [entry for entry in self.entries() if self._wants_verifying(entry)]
            if not waiting:
                return
            self._verifier = threading.Thread(target=self._verify_all, args=(waiting,), daemon=True)
            self._verifier.start()

    def _verify_all(self, waiting: Iterable[Entry]) -> None:
        for entry in waiting:
            self.verify(entry)

    def _wants_verifying(self, entry: Entry) -> bool:
        is_small = entry.num_bytes <= MAX_UNASKED_BYTES
        return entry.state in ("whole", "unsummed") and is_small and not self._is_known(entry)

    def _is_known(self, entry: Entry) -> bool:
        return self._verdicts.get(str(entry.path), (None,))[0] == entry.stamp

    def _judged(self, entry: Entry) -> Entry:
        if not entry.is_sound or not self._is_known(entry):
            return entry
        problem = self._verdicts[str(entry.path)][1]
        if problem is not None:
            return replace(entry, state="damaged", problem=problem)
        return replace(entry, state="verified" if entry.metadata else "unsummed")

    def plain(self, message: str) -> str:
        """A message without the folders that runs lie in, which a visitor need not know."""
        for root in self.roots:
            for folder in {str(root), str(root.parent)} if store.is_run(root) else {str(root)}:
                message = message.replace(f"{folder}{os.sep}", "")
        return without_folders(" ".join(message.split()))

    # ---- reading -------------------------------------------------------------------------------------------

    def _read_run(self, name: str, path: Path, seen: set[str]) -> Run:
        config = self._read_config(path)
        folder = path / CHECKPOINTS
        entries = self._read_folder(name, path, folder, seen) if folder.is_dir() else []
        if all(entry.state == "weightless" for entry in entries) and any((path / file).exists() for file in EXPORTED):
            entries.append(self._exported(name, path, seen))
        return Run(name, path, config, entries)

    def _read_config(self, path: Path) -> dict[str, Any]:
        file = path / RUN_CONFIG
        try:
            stamp = _stamp(os.stat(file))
            known = self._configs.get(str(path))
            if known is None or known[0] != stamp:
                inside = file.resolve().is_relative_to(path.resolve())
                known = (stamp, read_json(file) if inside else {})
                self._configs[str(path)] = known
            return known[1]
        except (OSError, CheckpointError):
            return {}

    def _read_folder(self, name: str, run: Path, folder: Path, seen: set[str]) -> list[Entry]:
        if not folder.resolve().is_relative_to(run.resolve()):
            return []
        entries, infos = [], []
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
            for item in found:
                if not store.is_step_name(item.name):
                    continue
                if item.is_symlink():
                    if store.step_of(item.name) is not None and not _leads_inside(item.path, folder):
                        entries.append(_foreign(name, Path(item.path)))
                elif item.is_dir() and (info := self._info(item.path)):
                    seen.add(item.path)
                    infos.append(info)
        infos = store.own_checkpoints(infos)
        latest, best = store.find_marks(folder, infos)
        for info in infos:
            is_best, is_latest = info.path.name == best, info.path.name == latest
            with contextlib.suppress(FileNotFoundError):  # it is being pruned
                stamp = self._infos[str(info.path)][0]
                entries.append(self._judged(_entry(name, info, stamp, is_best, is_latest, self.plain)))
        sequence = {entry.id: entry.metadata.get("sequence", -1) for entry in entries}
        return sorted(entries, key=lambda entry: (sequence[entry.id], entry.step or 0, entry.id))

    def _info(self, path: str) -> CheckpointInfo | None:
        """What a checkpoint's metadata says, read anew if it has changed; None if it has just been pruned."""
        stamp = _checkpoint_stamp(path)
        known = self._infos.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, store.checkpoint_info(Path(path)))
            self._infos[path] = known
        return known[1] if store.is_there(known[1]) else None

    def _look_again(self, entry: Entry) -> Entry:
        """The sizes of its files, which can change without a trace in any time that listing looks at."""
        if entry.step is None or not entry.is_sound:
            return entry
        info = store.checkpoint_info(entry.path)
        if info.problem is None:
            return entry
        return replace(entry, state="damaged", problem=self.plain(info.problem))

    def _exported(self, name: str, path: Path, seen: set[str]) -> Entry:
        seen.add(str(path))
        stamp = tuple(_stamp(os.lstat(path / file)) for file in (*EXPORTED, RUN_CONFIG) if (path / file).exists())
        outside = next((file for file in EXPORTED if not _leads_inside(str(path / file), path)), None)
        sizes = [os.lstat(path / file).st_size for file in EXPORTED if (path / file).exists()]
        entry = Entry(
            id=f"{name}/{EXPORTED_ID}",
            run=name,
            path=path,
            step=None,
            loss=None,
            saved_at=_time_of(path),
            is_best=False,
            is_latest=True,
            num_bytes=sum(sizes),
            state="damaged" if outside else "unsummed",
            problem=f"{name}/{outside} is a link out of its run; it is not followed" if outside else None,
            stamp=stamp,
        )
        return entry if outside else self._judged(entry)


def _run_folders(root: Path) -> list[tuple[Path, str | None]]:
    """The runs of a folder, and why one of them is not read."""
    if not root.is_dir():
        return []
    if store.is_run(root):
        return [(root, None)]
    found = []
    try:
        entries = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if not _leads_inside(str(entry), root):
            found.append((entry, f"{entry.name} is a link out of the runs folder; it is not followed"))
        elif store.is_run(entry):
            found.append((entry, None))
    return found


def _unique(name: str, taken: set[str]) -> str:
    """The name itself, or with a number where another folder has a run of that name."""
    number, unique = 2, name
    while unique in taken:
        unique, number = f"{name}~{number}", number + 1
    return unique


def _entry(run: str, info: CheckpointInfo, stamp: tuple, is_best: bool, is_latest: bool, plain: Any) -> Entry:
    files = info.metadata.get("files", {})
    state, problem = "whole" if info.metadata else "unsummed", info.problem
    try:
        flown = (PILOT_WEIGHTS,) if info.metadata.get("kind") == PILOT else EXPORTED
        flies = any(name in flown for name in files) if files else bool(flight_files(info.path))
    except CheckpointError as error:
        flies, problem = False, problem or str(error)
    if problem is not None:
        state, problem = "damaged", plain(problem)
    elif not flies:
        state = "weightless"
        problem = f"{info.path.name} holds no exported weights ({', '.join(EXPORTED)}): it can be resumed, not flown"
    loss = info.loss
    if loss is None and not info.metadata and (match := _LOSS.search(info.path.name)):
        loss = float(match[1])
    return Entry(
        id=checkpoint_id(info.path, run),
        run=run,
        path=info.path,
        step=min(max(info.step, 0), 10**12),
        loss=loss if loss is not None and abs(loss) < float("inf") else None,
        saved_at=info.saved_at[:40] or _time_of(info.path),
        is_best=is_best,
        is_latest=is_latest,
        num_bytes=min(sum(entry["bytes"] for entry in files.values()), 2**53) if files else _bytes_in(info.path),
        state=state,
        problem=problem,
        metadata=info.metadata,
        stamp=stamp,
    )


def _foreign(run: str, path: Path) -> Entry:
    problem = f"{run}/{path.name} is a link out of the run; it is not followed"
    step = store.step_of(path.name)
    return Entry(checkpoint_id(path, run), run, step, path, problem=problem)


def _checkpoint_stamp(path: str) -> tuple:
    """What changes when files are added, removed or replaced, and when the metadata is written anew."""
    try:
        metadata = _stamp(os.stat(os.path.join(path, store.METADATA)))
    except OSError:
        metadata = ()
    try:
        return (os.stat(path).st_mtime_ns, *metadata)
    except OSError:
        return metadata


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _leads_inside(path: str, folder: Path) -> bool:
    return Path(path).resolve().is_relative_to(folder.resolve())


def _time_of(path: Path) -> str:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    except (OSError, OverflowError, ValueError):
        return ""


def _bytes_in(path: Path) -> int:
    with os.scandir(path) as items:
        return sum(item.stat(follow_symlinks=False).st_size for item in items if item.is_file(follow_symlinks=False))
