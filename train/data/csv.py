"""Rows of a dataset: which clip, which words, which actions. What cannot be used is named, not fatal."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from train.data import observation
from wanact import shapes
from wanact.actions import ActionError, ActionTrack, Mended, read_track
from wanact.errors import UserError
from wanact.files import replacing
from wanact.media.footage import num_frames_of, read_video
from wanact.media.video import fit_image

FPS = 16.0  # frames a second of a clip, unless a run says otherwise


class DataError(UserError):
    """A dataset that cannot be used at all; the message says why."""


class RowError(UserError):
    """A row that cannot be used; the message says why."""


@dataclass(frozen=True)
class Row:
    """One usable row.

    Attributes:
        number: its place in the metadata file, from 1.
        video: the clip.
        prompt: its description, "" if there is none.
        track: its actions, or None.
        input_image: a first frame to use instead of the clip's own, or None.
        mended: flags of its actions that did not say what the magnitudes say.
        start: the clip's first frame, in frames of the video at the rate of training.
        views: two further cameras that are seen below the video, or none.
        states: of an episode, what its actions.npy says at some frames of the clip's video: [len] -> [len, n].
    """

    number: int
    video: Path
    prompt: str
    track: ActionTrack | None
    input_image: Path | None
    mended: Mended = Mended()
    start: int = 0
    views: tuple[Path, ...] = ()
    states: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Skipped:
    """A row that is left out, and why; a line of skipped.csv."""

    row: int
    video: str
    reason: str


def read_records(path: Path, needs_actions: bool = False) -> list[dict[str, Any] | RowError]:
    """The raw rows of a CSV, JSON or JSONL file; a line that cannot be parsed is a RowError in its place.

    Separators are commas, semicolons, tabs or bars, whichever the header has. `caption` and `text` are read as `prompt`
    where there is none, with a warning, and so are columns named that are not read.

    Args:
        needs_actions: whether a file without a column `action` cannot be used.

    Raises:
        DataError: if the file cannot be read at all, or lacks a column.
    """
    try:
        text = _text(path, path.read_bytes())
        records = list(_READERS.get(path.suffix.lower(), _read_csv)(path, text))
    except OSError as error:
        raise DataError(f"--dataset_metadata_path {path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"--dataset_metadata_path {path} is damaged: not valid JSON ({error})") from error
    if not records:
        raise DataError(f"{path} has no rows")
    return _with_known_columns(path, records, needs_actions)


# What a file begins with that is no table, and what to do about it.
_NO_TABLES = {
    b"PK\x03\x04": "is an Excel or OpenDocument workbook; save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save it as CSV (UTF-8)",
    b"PAR1": "is a Parquet file; write it as CSV or JSONL",
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer; fetch the file with git lfs pull",
}


def _text(path: Path, data: bytes) -> str:
    """Content of a table, which is UTF-8; a byte order mark says otherwise."""
    for beginning, words in _NO_TABLES.items():
        if data.startswith(beginning):
            raise DataError(f"{path} {words}")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: line {line} has the byte 0x{data[error.start]:02x}; save it as UTF-8 "
            "(in Excel: CSV UTF-8)"
        ) from error


def _read_csv(path: Path, text: str) -> Iterator[dict[str, Any] | RowError]:
    csv.field_size_limit(sys.maxsize)  # a track of 20 actions has 2,000 characters, a long one more than the default
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"sep=.\s*", first):  # Excel's own way to name the separator
        text = rest
    options = {"delimiter": _separator(text), "skipinitialspace": True, "strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), **options)
    header, number = None, 0
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [name.strip() for name in fields]
                continue
            number += 1
            if len(fields) == len(header):
                yield dict(zip(header, fields, strict=True))
            else:
                yield RowError(
                    f"row {number} has {len(fields)} fields, the header {len(header)}; "
                    f"put text that holds a {_SEPARATORS[options['delimiter']]} into quotes"
                )
    except csv.Error as error:
        raise DataError(
            f"{path}: the quotes of row {number + 1} (line {reader.line_num}) do not match: {error}"
        ) from error


_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def _separator(text: str) -> str:
    """What stands between the names of the header: what parts it into most of the names that are known."""
    header = text.lstrip().partition("\n")[0]

    def score(separator: str) -> tuple[int, int]:
        names = [name.strip().strip('"').strip().lower() for name in header.split(separator)]
        return len(KNOWN.intersection(names)), len(names)

    return max(_SEPARATORS, key=score)


def _read_json(path: Path, text: str) -> Iterator[dict[str, Any] | RowError]:
    content = json.loads(text)
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of rows, not {type(content).__name__}")
    for record in content:
        yield record if isinstance(record, dict) else RowError("is not an object with names and values")


def _read_jsonl(path: Path, text: str) -> Iterator[dict[str, Any] | RowError]:
    for line in text.split("\n"):  # not splitlines, which also parts at U+2028 and its like inside a text
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield RowError(f"is not valid JSON: {error}")
            continue
        yield record if isinstance(record, dict) else RowError("is not an object with names and values")


_READERS = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}

KNOWN = {"video", "prompt", "action", "input_image", "start", "end", "caption", "text", "estimated"}
PROMPTS = ("caption", "text")  # what others call the prompt
VIDEOS = ("video_name", "video_path", "file_name", "file", "path", "clip")


def _with_known_columns(
    path: Path, records: list[dict[str, Any] | RowError], needs_actions: bool
) -> list[dict[str, Any] | RowError]:
    """Rows with the names that are read: no blanks around them, small letters, the prompt by its name."""
    records = [
        {_known_name(name): value for name, value in record.items()} if isinstance(record, dict) else record
        for record in records
    ]
    columns = list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))
    if not columns:
        raise records[0] if isinstance(records[0], RowError) else DataError(f"{path} has no columns")
    for needed in ("video", *["action"] * needs_actions):
        if needed not in columns:
            other = next((n for n in columns if needed == "video" and n in VIDEOS), None)
            other = other or next(iter(difflib.get_close_matches(needed, columns, 1)), None)
            hint = f"; rename {other} to {needed}" if other else ""
            raise DataError(f"{path} has no column {needed}, only {', '.join(columns)}{hint}")
    if "prompt" not in columns:
        close = difflib.get_close_matches("prompt", columns, 1)
        other = next((name for name in PROMPTS if name in columns), None)
        if other is None and close:
            raise DataError(f"{path} has no column prompt, but {close[0]}; rename {close[0]} to prompt")
        if other is not None:
            warnings.warn(f"{path} has no column prompt; {other} is read as prompt", stacklevel=4)
            columns.remove(other)
            records = [
                {("prompt" if name == other else name): value for name, value in record.items()}
                if isinstance(record, dict)
                else record
                for record in records
            ]
    if "estimated" in columns:
        guessed = sum(isinstance(record, dict) and bool(record.get("estimated")) for record in records)
        warnings.warn(f"{path}: the actions of {guessed} rows are estimated from their pictures", stacklevel=4)
    unread = [name for name in columns if name not in KNOWN - set(PROMPTS)]
    if unread:
        warnings.warn(f"{path}: not read: column {', '.join(unread)}", stacklevel=4)
    return records


def _known_name(name: Any) -> str:
    stripped = str(name).strip()
    return stripped.lower() if stripped.lower() in KNOWN else stripped


def windows(
    record: dict[str, Any] | RowError, base: Path, num_frames: int, fps: float, stride: int | None
) -> list[int]:
    """First frames of a row's clips: one, or, with a stride, one after the other over the video or its part.

    All are multiples of four, counted in frames of the video at `fps`: an action steers a latent frame.

    Args:
        record: a raw row, whose columns `start` and `end` say in seconds which part of the video is meant.
        num_frames: frames of a training clip.
        stride: frames between the beginnings of clips; None for a single clip.

    Raises:
        RowError, VideoError: if the part is no part of the video.
    """
    if isinstance(record, RowError) or not isinstance(record.get("video"), str):
        return [0]
    begin, end = (_seconds(record, name) for name in ("start", "end"))
    first = shapes.TEMPORAL_STRIDE * round((begin or 0.0) * fps / shapes.TEMPORAL_STRIDE)
    if end is not None and end <= (begin or 0.0):
        raise RowError(f"end {end:g} s must be after start {begin or 0:g} s")
    last = math.inf if end is None else round(end * fps)
    if last - first < num_frames:
        raise RowError(
            f"start {begin or 0:g} s to end {end:g} s are {last - first} frames at {fps:g} a second, "
            f"but a clip has {num_frames}"
        )
    if stride is None:
        return [first]
    path = find_file(base, record["video"])
    if not path.exists():
        return [first]  # what is wrong is said where the row is checked
    last = min(last, num_frames_of(path, fps))
    return list(range(first, int(last) - num_frames + 1, stride)) or [first]


def _seconds(record: dict[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise RowError(f"{name} is {value!r}, expected seconds from the beginning of the video")
    return seconds


def find_file(base: Path, name: str) -> Path:
    """A file that a table names, in whatever way: with `~`, variables, Windows' backslashes, another form of Unicode.

    What is not found is given as it is written.
    """
    name = name.strip()
    plain = os.path.expandvars(os.path.expanduser(name))
    for spelled in (name, plain, plain.replace("\\", "/")):
        if (base / spelled).exists():
            return base / spelled
    spelled = Path(plain.replace("\\", "/"))
    found = Path(spelled.anchor) if spelled.is_absolute() else base
    for part in spelled.relative_to(spelled.anchor).parts:
        same = (entry for entry in _entries(found) if _composed(entry) == _composed(part))
        found = found / next(same, part)  # macOS writes é as two characters, others as one
    return found if found.exists() else base / name


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def parse_row(
    record: dict[str, Any] | RowError,
    number: int,
    base: Path,
    num_frames: int,
    needs_action: bool,
    file_keys: Collection[str] = ("video",),
    start: int = 0,
) -> Row:
    """Check one raw row; files are looked for, not opened.

    Args:
        num_frames: frames of a training clip; a longer track is cut to it, as a longer video is.
        needs_action: whether a row without actions is an error.
        file_keys: columns of files that are used; `input_image` is left alone if it is none of them.
        start: the clip's first frame in its video; the track is that of the whole video, and cut with it.

    Raises:
        RowError, ActionError: saying what is wrong.
    """
    if isinstance(record, RowError):
        raise record
    name = record.get("video")
    if not isinstance(name, str) or not name.strip():
        raise RowError("column video is empty")
    path = find_file(base, name)
    if not path.exists():
        raise RowError("file is missing")
    prompt, track, mended = words_and_actions(record, num_frames, needs_action, start)
    image = (record.get("input_image") or None) if "input_image" in file_keys else None
    if image is not None and not find_file(base, str(image)).is_file():
        raise RowError(f"input_image {image} is missing")
    views = record.get("views", ())
    missing = next((view for view in views if not view.exists()), None)
    if missing is not None:
        raise RowError(f"{missing.name} is missing")
    image = find_file(base, str(image)) if image is not None else None
    return Row(number, path, prompt, track, image, mended, start, views, record.get("states"))


def words_and_actions(
    record: dict[str, Any], num_frames: int, needs_action: bool, start: int = 0
) -> tuple[str, ActionTrack | None, Mended]:
    """What a raw row says of its clip: prompt, actions, and what had to be mended in them; arguments as `parse_row`'s.

    Raises:
        RowError, ActionError: saying what is wrong.
    """
    prompt = record.get("prompt") or ""
    prompt = prompt() if callable(prompt) else prompt
    if not isinstance(prompt, str):
        raise RowError(f"prompt is {type(prompt).__name__}, expected text")
    return prompt, *_track(record.get("action"), num_frames, needs_action, start)


def with_known_names(record: dict[str, Any]) -> dict[str, Any]:
    """A single record with the names that are read, as `read_records` gives those of a table."""
    known = {_known_name(name): value for name, value in record.items()}
    other = next((name for name in PROMPTS if known.get(name)), None)
    return known | ({"prompt": known[other]} if other and not known.get("prompt") else {})


def _track(action: Any, num_frames: int, needed: bool, start: int) -> tuple[ActionTrack | None, Mended]:
    if not needed:
        return None, Mended()
    if action is None or (isinstance(action, str) and not action.strip()):
        raise RowError("column action is empty")
    track, mended = (cast(Any, action)(), Mended()) if callable(action) else read_track(action)
    first, count = start // shapes.TEMPORAL_STRIDE, shapes.num_actions(num_frames)
    if len(track) < first + count:
        behind = f" from frame {start} on need actions {first + 1} to {first + count}" if start else f" need {count}"
        raise ActionError(f"the track has {len(track)} actions, but {num_frames} frames{behind}")
    return ActionTrack(track.magnitude[first : first + count]), mended


def clip_frames(
    row: Row, num_frames: int, height: int, width: int, fit: Literal["crop", "pad"], fps: float = FPS
) -> np.ndarray:
    """A row's clip at the rate and size of training: uint8 [F, H, W, 3].

    Raises:
        wanact.media.video.VideoError: if the clip is damaged or too short.
    """
    if not row.views:
        return read_video(row.video, num_frames, row.start, fps, (height, width), fit)
    sizes = (observation.FRONT, observation.SIDE, observation.SIDE)
    cameras = [
        read_video(path, num_frames, row.start, fps, size, "pad")
        for path, size in zip((row.video, *row.views), sizes, strict=True)
    ]
    fitted = (fit_image(Image.fromarray(frame), height, width, fit) for frame in observation.unified(*cameras))
    return np.stack([np.asarray(frame) for frame in fitted])


def write_skipped(path: Path, skipped: list[Skipped]) -> None:
    """Write skipped.csv; an empty one says that nothing was skipped. The file is whole or as before."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "video", "reason"])
        writer.writerows([item.row, item.video, item.reason] for item in skipped)
