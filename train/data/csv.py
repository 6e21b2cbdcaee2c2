"""Rows of a dataset: which clip, which words, which actions. What cannot be used is named, not fatal."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from train.data import observation
from wanact import shapes
from wanact.actions import ActionError, ActionTrack, Mended, read_track
from wanact.data import marks, tables
from wanact.data.marks import LeftOut
from wanact.data.tables import FPS, DataError, RowError, find_file
from wanact.files import replacing
from wanact.media.footage import num_frames_of, read_video
from wanact.media.video import fit_image

__all__ = [
    "FPS",
    "DataError",
    "LeftOut",
    "Row",
    "RowError",
    "Skipped",
    "clip_frames",
    "find_file",
    "parse_row",
    "read_records",
    "windows",
    "write_skipped",
]


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
    """The rows of a table as they are marked: what is left out by hand is a `LeftOut` in its place.

    Arguments and errors are those of `wanact.data.tables.read_records`.
    """
    return marks.of(path).applied(tables.read_records(path, needs_actions))


def windows(
    record: dict[str, Any] | RowError, base: Path, num_frames: int, fps: float, stride: int | None
) -> list[int]:
    """First frames of a row's clips: one, or, with a stride, one after the other over the video or its part.

    All are multiples of four, counted in frames of the video at `fps`: an action steers a latent frame.

    Args:
        record: a raw row, whose columns `start` and `end` say in seconds which part of the video is meant, and whose
            marks at which `cuts` another scene begins and how many latent frames `lead` without an action.
        num_frames: frames of a training clip.
        stride: frames between the beginnings of clips; None for a single clip.

    Raises:
        RowError, VideoError: if the part is no part of the video.
    """
    if isinstance(record, RowError) or not isinstance(record.get("video"), str):
        return [0]
    begin, end = (tables.seconds_of(record, name) for name in ("start", "end"))
    first = shapes.TEMPORAL_STRIDE * round((begin or 0.0) * fps / shapes.TEMPORAL_STRIDE)
    if end is not None and end <= (begin or 0.0):
        raise RowError(f"end {end:g} s must be after start {begin or 0:g} s")
    last = math.inf if end is None else round(end * fps)
    if last - first < num_frames:
        raise RowError(
            f"start {begin or 0:g} s to end {end:g} s are {last - first} frames at {fps:g} a second, "
            f"but a clip has {num_frames}"
        )
    cuts, lead = record.get("cuts", ()), shapes.TEMPORAL_STRIDE * record.get("lead", 0)
    if stride is None and not cuts:
        return [max(first, lead)]
    path = find_file(base, record["video"])
    if not path.exists():
        return [first]  # what is wrong is said where the row is checked
    last = min(last, num_frames_of(path, fps))
    if cuts:
        return _between_cuts(cuts, max(first, lead), int(last), num_frames, fps, stride)
    return list(range(max(first, lead), int(last) - num_frames + 1, stride or 1)) or [first]


def _between_cuts(
    cuts: Sequence[float], first: int, last: int, num_frames: int, fps: float, stride: int | None
) -> list[int]:
    """First frames of the clips of a row that is split: none of them reaches over a cut."""
    stops = [round(cut * fps) for cut in cuts if first < round(cut * fps) < last]
    begins = [first, *(shapes.TEMPORAL_STRIDE * -(-stop // shapes.TEMPORAL_STRIDE) for stop in stops)]
    starts: list[int] = []
    for begin, end in zip(begins, [*stops, last], strict=True):
        count = end - begin - num_frames + 1
        starts += range(begin, begin + count, stride) if stride else [begin] * (count > 0)
    if not starts:
        raise RowError(f"is split at {len(stops)} cuts, and no part of it has the {num_frames} frames of a clip")
    return starts


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
