"""Rows of a dataset: which clip, which words, which actions. What cannot be used is named, not fatal."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wanact import shapes
from wanact.actions import ActionError, ActionTrack, Mended, read_track
from wanact.errors import UserError
from wanact.files import replacing
from wanact.media.footage import read_video

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
    """

    number: int
    video: Path
    prompt: str
    track: ActionTrack | None
    input_image: Path | None
    mended: Mended = Mended()
    start: int = 0


@dataclass(frozen=True)
class Skipped:
    """A row that is left out, and why; a line of skipped.csv."""

    row: int
    video: str
    reason: str


def read_records(path: Path) -> list[dict[str, Any] | RowError]:
    """The raw rows of a CSV, JSON or JSONL file; a line that cannot be parsed is a RowError in its place.

    Raises:
        DataError: if the file cannot be read at all, or has no column `video`.
    """
    try:
        records = list(_READERS.get(path.suffix.lower(), _read_csv)(path))
    except OSError as error:
        raise DataError(f"--dataset_metadata_path {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"--dataset_metadata_path {path} is damaged: {error}") from error
    columns = {name for record in records if isinstance(record, dict) for name in record}
    if records and "video" not in columns:
        hint = "; rename video_name to video" if "video_name" in columns else ""
        raise DataError(f"{path} has no column video, only {', '.join(map(str, sorted(columns, key=str)))}{hint}")
    if not records:
        raise DataError(f"{path} has no rows")
    return records


def _read_csv(path: Path) -> Iterator[dict[str, Any] | RowError]:
    csv.field_size_limit(sys.maxsize)  # a track of 20 actions has 2,000 characters, a long one more than the default
    with open(path, newline="", encoding="utf-8-sig") as file:
        for record in csv.DictReader(file):
            yield RowError("more fields than columns") if None in record else record


def _read_json(path: Path) -> Iterator[dict[str, Any] | RowError]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of rows, not {type(content).__name__}")
    for record in content:
        yield record if isinstance(record, dict) else RowError("is not an object with names and values")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any] | RowError]:
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield RowError(f"is not valid JSON: {error}")
            continue
        yield record if isinstance(record, dict) else RowError("is not an object with names and values")


_READERS = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}


def parse_row(
    record: dict[str, Any] | RowError,
    number: int,
    base: Path,
    num_frames: int,
    needs_action: bool,
    file_keys: Collection[str] = ("video",),
) -> Row:
    """Check one raw row; files are looked for, not opened.

    Args:
        num_frames: frames of a training clip; a longer track is cut to it, as a longer video is.
        needs_action: whether a row without actions is an error.
        file_keys: columns of files that are used; `input_image` is left alone if it is none of them.

    Raises:
        RowError, ActionError: saying what is wrong.
    """
    if isinstance(record, RowError):
        raise record
    name = record.get("video")
    if not isinstance(name, str) or not name.strip():
        raise RowError("column video is empty")
    path = base / name.strip()
    if not path.exists():
        raise RowError("file is missing")
    prompt = record.get("prompt") or ""
    if not isinstance(prompt, str):
        raise RowError(f"prompt is {type(prompt).__name__}, expected text")
    track, mended = _track(record.get("action"), num_frames, needs_action)
    image = (record.get("input_image") or None) if "input_image" in file_keys else None
    if image is not None and not (base / str(image)).is_file():
        raise RowError(f"input_image {image} is missing")
    return Row(number, path, prompt, track, base / str(image) if image is not None else None, mended)


def _track(action: Any, num_frames: int, needed: bool) -> tuple[ActionTrack | None, Mended]:
    if not needed:
        return None, Mended()
    if action is None or (isinstance(action, str) and not action.strip()):
        raise RowError("column action is empty")
    track, mended = read_track(action)
    count = shapes.num_actions(num_frames)
    if len(track) < count:
        raise ActionError(f"the track has {len(track)} actions, but {num_frames} frames need {count}")
    return track.with_length(count), mended


def clip_frames(
    row: Row, num_frames: int, height: int, width: int, fit: Literal["crop", "pad"], fps: float = FPS
) -> np.ndarray:
    """A row's clip at the rate and size of training: uint8 [F, H, W, 3].

    Raises:
        wanact.media.video.VideoError: if the clip is damaged or too short.
    """
    return read_video(row.video, num_frames, row.start, fps, (height, width), fit)


def write_skipped(path: Path, skipped: list[Skipped]) -> None:
    """Write skipped.csv; an empty one says that nothing was skipped. The file is whole or as before."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "video", "reason"])
        writer.writerows([item.row, item.video, item.reason] for item in skipped)
