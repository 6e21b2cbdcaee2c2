"""A data set as it is looked at: its clips, what is seen in each, and how all of it is marked.

A folder with `clips.csv` (as simulated flights and imports have), a table of another name, or episodes with their
manifest. What takes long (reading tracks, looking at videos) is done once and kept in `.looked` beside the table, or,
where nothing can be written there, in the user's cache. Of source files none is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wanact.actions import ActionError, read_track
from wanact.data import episodes, marks, seen, tables
from wanact.data.marks import Mark, Marks
from wanact.data.seen import Seen
from wanact.data.tables import DataError, RowError, find_file
from wanact.data.verdicts import Evidence, Verdict, judge
from wanact.errors import UserError, last_name
from wanact.files import replacing
from wanact.shapes import TEMPORAL_STRIDE

TABLES = ("clips.csv", "manifest.jsonl", "manifest.json", "metadata.csv", "metadata.jsonl")
LOOKED = ".looked"
VERSION = 2  # of what is kept; what another version has kept is made anew
MAX_CLIPS = 20_000
MAX_SHEETS_BYTES = 512 * 2**20
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]


@dataclass(frozen=True)
class Clip:
    """A row of a table, as it stands there.

    Attributes:
        number: its place, from 1.
        key: what it is called in the marks.
        video: where it lies.
        prompt: its words.
        axes: its actions as signed axes, [N, 4], from its beginning on; None if it has none that can be read.
        problem: why the row cannot be used; "" if it can.
        start, end: the part of the video that is meant, in seconds; an `end` of None is the video's.
        estimated: whether its actions were read from its own pictures.
    """

    number: int
    key: str
    video: Path
    prompt: str
    axes: np.ndarray | None
    problem: str = ""
    start: float = 0.0
    end: float | None = None
    estimated: bool = False

    @property
    def id(self) -> str:
        """What it is called where no file may be named."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """Its name for people who need not know where it lies."""
        path = Path(self.key)
        return last_name(self.key) if path.is_absolute() else "/".join(path.parts[-2:])

    def span(self, fps: float) -> tuple[int, int | None]:
        """First frame and number of frames of the part that is meant, in latent frames' steps."""
        first = TEMPORAL_STRIDE * round(self.start * fps / TEMPORAL_STRIDE)
        return first, None if self.end is None else max(0, round(self.end * fps) - first)


class DataSet:
    """A data set that is looked at. Safe to share between threads.

    Args:
        path: a folder, a table or a manifest.

    Attributes:
        table: the file that lists its clips.
        name: of its folder, and of the table where that is not clips.csv.
        fps: frames a second at which it is read.
        clips: in their order, `MAX_CLIPS` of them at most.
        total: how many there are.

    Raises:
        DataError, MarksError: if there is no data set, or its marks cannot be read.
    """

    def __init__(self, path: Path):
        self.table = find_table(path)
        is_manifest = episodes.is_manifest(self.table)
        usual = is_manifest or self.table.name == TABLES[0]
        folder = self.table.resolve().parent.name
        self.name = folder if usual else f"{folder}/{self.table.name}"
        self._lock = threading.RLock()
        self.kept = _kept_in(self.table)
        self.fps, self.total, self.clips = self._read(is_manifest)
        self.by_id = {clip.id: clip for clip in self.clips}
        self._seen: dict[str, Seen] = {}
        self._stamps = {clip.key: self._stamp(clip) for clip in self.clips}
        self._recall()
        self.marks: Marks = marks.of(self.table)

    # ---- the table -------------------------------------------------------------------------------------------

    def _read(self, is_manifest: bool) -> tuple[float, int, list[Clip]]:
        manifest = episodes.Manifest(self.table) if is_manifest else None
        stamp = self._table_stamp(manifest)
        with contextlib.suppress(OSError, ValueError, KeyError):
            return self._read_kept(stamp)
        fps, total, clips = self._read_manifest(manifest) if manifest is not None else self._read_table()
        self._keep_table(stamp, fps, total, clips)
        return fps, total, clips

    def _table_stamp(self, manifest: episodes.Manifest | None) -> str:
        """Changes when the table or the actions of an episode do."""
        digest = hashlib.sha256(repr((VERSION, _stat(self.table))).encode())
        for number in range(min(len(manifest), MAX_CLIPS) if manifest is not None else 0):
            with contextlib.suppress(RowError):
                folder = manifest.episode(number).folder  # pyright: ignore[reportOptionalMemberAccess]
                digest.update(repr((_stat(folder / episodes.ACTIONS), _stat(folder / episodes.INSTRUCTION))).encode())
        return digest.hexdigest()

    def _read_table(self) -> tuple[float, int, list[Clip]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the trainer says of columns is said where it is trained
            records = tables.read_records(self.table)
        base, keys = self.table.parent, marks.keys_of(records)
        clips = [
            _clip(number, key, record, base)
            for number, (key, record) in enumerate(zip(keys[:MAX_CLIPS], records, strict=False), start=1)
        ]
        return tables.FPS, len(records), clips

    def _read_manifest(self, manifest: episodes.Manifest) -> tuple[float, int, list[Clip]]:
        clips = []
        for number in range(min(len(manifest), MAX_CLIPS)):
            try:
                episode = manifest.episode(number)
            except RowError as error:
                clips.append(Clip(number + 1, f"line {number + 1}", self.table, "", None, str(error)))
                continue
            axes, problem, prompt = None, "", ""
            try:
                prompt = episode.instruction()
                axes = episode.actions().track(manifest.own_fps).axes.astype(np.float64)
            except (RowError, ActionError) as error:
                problem = str(error)
            clips.append(Clip(number + 1, episode.name, episode.video, prompt, axes, problem))
        return manifest.own_fps, len(manifest), clips

    def _keep_table(self, stamp: str, fps: float, total: int, clips: list[Clip]) -> None:
        listed = [
            [
                c.key,
                str(c.video),
                c.prompt,
                c.problem,
                c.start,
                c.end,
                c.estimated,
                -1 if c.axes is None else len(c.axes),
            ]
            for c in clips
        ]
        tracks = [c.axes for c in clips if c.axes is not None]
        axes = np.concatenate(tracks) if tracks else np.zeros((0, 4))
        with contextlib.suppress(OSError):
            self.kept.mkdir(parents=True, exist_ok=True)
            with replacing(self.kept / "axes.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, axes.astype(np.float64))
            with replacing(self.kept / "table.json") as temporary:
                content = {"stamp": stamp, "fps": fps, "total": total, "clips": listed}
                temporary.write_text(json.dumps(content), encoding="utf-8")

    def _read_kept(self, stamp: str) -> tuple[float, int, list[Clip]]:
        content = json.loads((self.kept / "table.json").read_text(encoding="utf-8"))
        if content["stamp"] != stamp:
            raise ValueError("the table has changed")
        axes = np.load(self.kept / "axes.npy", allow_pickle=False)
        place, clips = 0, []
        for number, (key, video, prompt, problem, start, end, estimated, count) in enumerate(content["clips"], 1):
            own = None if count < 0 else axes[place : place + count]
            place += max(0, count)
            clips.append(Clip(number, key, Path(video), prompt, own, problem, start, end, estimated))
        return float(content["fps"]), int(content["total"]), clips

    # ---- what is seen ----------------------------------------------------------------------------------------

    def seen(self, clip: Clip) -> Seen | None:
        """What is seen in a clip; None as long as nobody has looked."""
        with self._lock:
            return self._seen.get(clip.key)

    @property
    def num_seen(self) -> int:
        """Clips that were looked at."""
        with self._lock:
            return len(self._seen)

    def look(self, on_clip: Callable[[int, int], None] | None = None, stop: threading.Event | None = None) -> None:
        """Look at every clip that nobody has looked at, and keep what is seen.

        Args:
            on_clip: told after each how many were looked at, of how many.
            stop: set where it is to end.
        """
        with self._lock:
            missing = [clip for clip in self.clips if clip.key not in self._seen]
        for clip in missing:
            if stop is not None and stop.is_set():
                return
            self._look_at(clip)
            if on_clip is not None:
                on_clip(self.num_seen, len(self.clips))

    def _look_at(self, clip: Clip) -> None:
        if not clip.video.exists():
            found, thumb = Seen(problem="file is missing"), None
        else:
            found, thumb = seen.look(clip.video, self.fps, *clip.span(self.fps))
        with self._lock:
            self._seen[clip.key] = found
            with contextlib.suppress(OSError):  # a full disk: it is looked at again the next time
                (self.kept / "thumbs").mkdir(parents=True, exist_ok=True)
                if thumb is not None:
                    _write_jpeg(self.kept / "thumbs" / f"{clip.id}.jpg", thumb)
                with open(self.kept / "seen.jsonl", "a", encoding="utf-8") as file:
                    stamp = {"key": clip.key, "stamp": self._stamps[clip.key]}
                    file.write(json.dumps(stamp | found.to_dict()) + "\n")

    def _stamp(self, clip: Clip) -> str:
        return repr((VERSION, _stat(clip.video), clip.start, clip.end, self.fps))

    def fingerprint(self) -> str:
        """Changes when a clip, what is seen in one, or a mark does."""
        with self._lock:
            parts = (VERSION, self.total, self._stamps, len(self._seen), _stat(self.kept / "seen.jsonl"))
            marked = (self.marks.fix, sorted(self.marks.clips.items()))
            table = (_stat(self.kept / "table.json"), _stat(self.table))
            return hashlib.sha256(repr((parts, marked, table)).encode()).hexdigest()

    def _recall(self) -> None:
        """What was seen before in clips that are as they were."""
        with contextlib.suppress(OSError), open(self.kept / "seen.jsonl", encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):  # a line that was cut off
                    content = json.loads(line)
                    if self._stamps.get(content["key"]) == content["stamp"]:
                        self._seen[content["key"]] = Seen.from_dict(content)

    def thumb(self, clip: Clip) -> Path | None:
        """The small picture of a clip, if it was looked at."""
        path = self.kept / "thumbs" / f"{clip.id}.jpg"
        return path if path.is_file() else None

    def sheet(self, clip: Clip) -> tuple[Path, dict[str, int]]:
        """All frames of a clip in one picture, and where each is in it; made when it is first asked for.

        Raises:
            UserError: if the clip cannot be read, or nothing can be kept.
        """
        picture = self._sheet_of(clip)
        folder, notes = picture.parent, picture.with_suffix(".json")
        with contextlib.suppress(OSError, ValueError):
            layout = json.loads(notes.read_text())
            os.utime(picture)  # the oldest leave first
            return picture, layout
        whole, count, (height, width) = seen.sheet(clip.video, self.fps, *clip.span(self.fps))
        layout = {"count": count, "height": height, "width": width, "columns": seen.SHEET_COLUMNS}
        folder.mkdir(parents=True, exist_ok=True)
        _write_jpeg(picture, whole)
        with replacing(notes) as temporary:
            temporary.write_text(json.dumps(layout))
        _forget_old(folder, picture)
        return picture, layout

    def kept_sheet(self, clip: Clip) -> Path | None:
        """All frames of a clip in one picture, if it was made before."""
        path = self._sheet_of(clip)
        return path if path.is_file() else None

    def _sheet_of(self, clip: Clip) -> Path:
        """Where the frames of a clip that is as it is now are kept."""
        stamp = hashlib.sha256(self._stamps[clip.key].encode()).hexdigest()[:8]
        return self.kept / "sheets" / f"{clip.id}-{stamp}.jpg"

    def span(self, clip: Clip) -> tuple[int, int | None]:
        """First frame and number of frames of a clip in its video."""
        return clip.span(self.fps)

    # ---- marks -----------------------------------------------------------------------------------------------

    def mark(self, change: Callable[[Marks], Marks]) -> Marks:
        """Change the marks and write them; read anew before, so that another program's are kept."""
        with self._lock:
            changed = change(marks.of(self.table))
            changed.save()
            self.marks = changed
            return changed

    def reread_marks(self) -> Marks:
        """The marks as they lie on the disk now."""
        with self._lock:
            self.marks = marks.of(self.table)
            return self.marks

    def axes(self, clip: Clip) -> np.ndarray | None:
        """A clip's actions as they are marked, [N, 4], from its beginning on."""
        if clip.axes is None:
            return None
        fix = self.marks.fix_of(clip.key)
        return fix.of_axes(clip.axes) if fix else clip.axes

    def evidence(self) -> list[Evidence]:
        """Every clip that is not left out, as it is judged: its actions as they are marked, beside what is seen."""
        with self._lock:
            found = []
            for clip in self.clips:
                mark = self.marks.of_clip(clip.key)
                if mark.out:
                    continue
                looked = self._seen.get(clip.key)
                if looked is not None and mark.cuts:  # what is split is mended
                    looked = replace(looked, cuts=tuple(c for c in looked.cuts if not self._is_split(clip, mark, c)))
                found.append(Evidence(clip.key, self.axes(clip), looked, self.marks.fix_of(clip.key).lead))
            return found

    def _is_split(self, clip: Clip, mark: Mark, cut: int) -> bool:
        return any(abs(seconds * self.fps - clip.span(self.fps)[0] - cut) < 1 for seconds in mark.cuts)

    def verdicts(self) -> list[Verdict]:
        """What is wrong with it as it is marked now, as far as it was looked at."""
        return judge(self.evidence(), self.fps)

    def apply(self, verdict: Verdict) -> None:
        """Mark what mends a verdict.

        Raises:
            UserError: if nothing but a person's own look does.
        """
        if not verdict.does:
            raise UserError(f"nothing can be done for “{verdict.name}” but to look: {verdict.words}")
        self.mark(lambda marked: self._mended(marked, verdict))

    def _mended(self, marked: Marks, verdict: Verdict) -> Marks:
        if verdict.does == "fix" and verdict.fix is not None:
            return marked.with_fix(verdict.fix, verdict.keys)
        for key in verdict.keys or ():
            if verdict.does == "leave_out":
                marked = marked.with_clip(key, out=True)
            elif verdict.does == "split" and (looked := self._seen.get(key)) is not None:
                clip = next(clip for clip in self.clips if clip.key == key)
                first = clip.span(self.fps)[0]
                cuts = {*marked.of_clip(key).cuts, *(round((first + cut) / self.fps, 4) for cut in looked.cuts)}
                marked = marked.with_clip(key, cuts=tuple(sorted(cuts)))
        return marked

    def find(self, name: str) -> Clip:
        """The clip that somebody names: by its place, its key, or a part of it that no other has.

        Raises:
            UserError: if there is none, or more than one.
        """
        exact = [clip for clip in self.clips if name in (clip.key, str(clip.number), clip.id)]
        alike = exact or [clip for clip in self.clips if name in clip.key]
        if len(alike) != 1:
            what = f"{len(alike)} clips are called like “{name}”" if alike else f"no clip is called “{name}”"
            raise UserError(f"{what} in {self.name}; give its number or its video as the table has it")
        return alike[0]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __len__(self) -> int:
        return len(self.clips)


def find_table(path: Path) -> Path:
    """The table that is meant by a folder or a file.

    Raises:
        DataError: if there is none, or more than one could be meant.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path} does not exist; name a folder with clips.csv, a table, or a manifest of episodes")
    for name in TABLES:
        if (path / name).is_file():
            return path / name
    others = [
        file for file in sorted(path.iterdir()) if file.suffix in (".csv", ".jsonl") and file.name != "skipped.csv"
    ]
    if len(others) == 1:
        return others[0]
    what = f"{', '.join(file.name for file in others[:4])}; name one of them" if others else "no table"
    raise DataError(f"{path} has {what}; expected clips.csv, manifest.jsonl or manifest.json")


def _clip(number: int, key: str | None, record: dict[str, Any] | RowError, base: Path) -> Clip:
    if isinstance(record, RowError) or key is None:
        problem = str(record) if isinstance(record, RowError) else "column video is empty"
        return Clip(number, f"row {number}", base, "", None, problem)
    prompt = record.get("prompt")
    axes, problem, start, end = None, "", 0.0, None
    try:
        start, end = (tables.seconds_of(record, name) for name in ("start", "end"))
        if marks.has_actions(record):
            axes = read_track(record["action"])[0].axes.astype(np.float64)
    except (RowError, ActionError) as error:
        problem = str(error)
    video = find_file(base, str(record["video"]))
    clip = Clip(number, key, video, prompt if isinstance(prompt, str) else "", axes, problem, start or 0.0, end)
    if axes is not None and start:  # the track is that of the whole video
        first = clip.span(tables.FPS)[0] // TEMPORAL_STRIDE
        clip = Clip(number, key, video, clip.prompt, axes[first:], problem, clip.start, end)
    if record.get("estimated"):
        clip = Clip(number, key, video, clip.prompt, clip.axes, problem, clip.start, end, True)
    return clip


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _kept_in(table: Path) -> Path:
    """Where is kept what was looked at."""
    beside = table.parent / LOOKED
    if os.access(beside if beside.is_dir() else table.parent, os.W_OK):
        return beside / table.name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "wanact" / "looked" / hashlib.sha256(str(table.resolve()).encode()).hexdigest()[:24]


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _JPEG)
    if not done:
        raise UserError(f"a picture of {picture.shape[1]} x {picture.shape[0]} cannot be written as JPEG")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _forget_old(folder: Path, newest: Path) -> None:
    """Let the sheets that nobody has opened for longest leave, until the others are within bounds."""
    kept = sorted(((file.stat().st_mtime, file) for file in folder.glob("*.jpg")), reverse=True)
    total = 0
    for _, file in kept:
        total += file.stat().st_size
        if total > MAX_SHEETS_BYTES and file != newest:
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
