"""What importers give: footage and where its camera was, or footage alone and what reads its actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import av.error
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from train.data.csv import DataError
from wanact.actions import ActionTrack
from wanact.media.footage import Fit, frames_of, picture_files
from wanact.media.video import ImageError, VideoError, fit_image, open_image

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True)
class Trajectory:
    """Footage and where its camera was.

    Attributes:
        video: the file, or the folder of its pictures.
        seconds: time of each pose after the first frame, rising, [P].
        poses: camera-to-world, OpenCV axes (right, down, forward), any unit of length, [P, 4, 4].
        prompt: what is seen, "" if nobody says.
        pictures: the frames, where they are pictures and no video.
        picture_seconds: when each picture is shown, rising, [len(pictures)].
        assumed_fps: frames a second of a format without times, which `--source_fps` corrects; None if times are known.
        slack: seconds by which the clock of the poses may differ from the video's; infinite if nothing is known.
        longest_gap: seconds between two poses above which nothing is said about the time between them.
        remark: what everybody must know of these poses, as that they are a plan.
        notes: more of it, kept beside each clip.
    """

    video: Path
    seconds: np.ndarray
    poses: np.ndarray
    prompt: str = ""
    pictures: tuple[Path, ...] = ()
    picture_seconds: np.ndarray | None = None
    assumed_fps: float | None = None
    slack: float = 0.0
    longest_gap: float = math.inf
    remark: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.poses.shape != (len(self.seconds), 4, 4) or len(self.seconds) < 2:
            raise ValueError(f"{len(self.seconds)} times and {len(self.poses)} poses, expected at least 2 of each")
        if not np.isfinite(self.seconds).all() or not np.isfinite(self.poses).all():
            raise ValueError("times and poses must be finite")
        if (np.diff(self.seconds) <= 0).any():
            raise ValueError("times must rise")

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """Poses at other times, places on straight lines and turns on great circles between the known ones."""
        seconds = np.clip(seconds, self.seconds[0], self.seconds[-1])
        poses = np.tile(np.eye(4), (len(seconds), 1, 1))
        poses[:, :3, :3] = Slerp(self.seconds, Rotation.from_matrix(self.poses[:, :3, :3]))(seconds).as_matrix()
        for axis in range(3):
            poses[:, axis, 3] = np.interp(seconds, self.seconds, self.poses[:, axis, 3])
        return poses

    def gap_in(self, begin: float, end: float) -> float:
        """The longest time without a pose between two times, in seconds."""
        first = max(0, int(np.searchsorted(self.seconds, begin, "right")) - 1)
        return float(np.diff(self.seconds[first : int(np.searchsorted(self.seconds, end)) + 1]).max(initial=0.0))

    def later(self, offset: float) -> Trajectory:
        """The trajectory under the video's clock, of which its own is `offset` seconds ahead."""
        return replace(self, seconds=self.seconds - offset, slack=0.0)

    def at_rate(self, fps: float) -> Trajectory:
        """The trajectory of a format without times whose frames are `fps` a second."""
        if self.assumed_fps is None:
            return self
        stretch = self.assumed_fps / fps
        shown = None if self.picture_seconds is None else self.picture_seconds * stretch
        gap = self.longest_gap * stretch
        return replace(self, seconds=self.seconds * stretch, picture_seconds=shown, assumed_fps=fps, longest_gap=gap)

    def smoothed(self, deviation_s: float) -> Trajectory:
        """The trajectory with its places averaged over time by a Gaussian: fixes of a few decimals jump."""
        step = float(np.median(np.diff(self.seconds)))
        even = np.arange(self.seconds[0], self.seconds[-1] + step, step)
        poses = self.at(even)
        poses[:, :3, 3] = gaussian_filter1d(poses[:, :3, 3], deviation_s / step, axis=0, mode="nearest")
        return replace(self, seconds=even, poses=poses)

    def frames(self, start: int, fps: float, size: tuple[int, int], fit: Fit = "crop") -> Iterator[np.ndarray]:
        """Frames at times start/fps, (start + 1)/fps, ..., as far as they go."""
        if not self.pictures:
            yield from frames_of(self.video, start, fps, size, fit)
            return
        shown = np.asarray(self.picture_seconds)
        last, number = None, -1
        for step in range(start, int(math.floor(shown[-1] * fps + 1e-6)) + 1):
            wanted = max(0, int(np.searchsorted(shown, step / fps + 1e-6, "right")) - 1)
            if wanted != number or last is None:
                last, number = _picture(self.pictures[wanted], size, fit), wanted
            yield last


@dataclass(frozen=True)
class Unposed:
    """Footage of which nobody says where its camera was, and what reads its actions from the pictures.

    Attributes:
        video: the file.
        read: frames uint8 [F, H, W, 3] -> their track, and notes that are kept beside the clip.
        error: mean absolute error of each axis of `read`, as measured; kept wherever the actions are.
    """

    video: Path
    read: Callable[[np.ndarray], tuple[ActionTrack, dict[str, Any]]]
    error: dict[str, Any]
    prompt: str = ""

    def frames(self, start: int, fps: float, size: tuple[int, int], fit: Fit = "crop") -> Iterator[np.ndarray]:
        """As of a Trajectory."""
        return frames_of(self.video, start, fps, size, fit)


def _picture(file: Path, size: tuple[int, int], fit: Fit) -> np.ndarray:
    try:
        return np.asarray(fit_image(open_image(file), *size, fit))
    except ImageError as error:
        raise VideoError(str(error)) from error


def videos_in(source: Path) -> list[Path]:
    """The source if it is a video, or the videos of a folder and of folders in it, in the order of their names."""
    if source.is_file():
        return [source]
    return sorted(file for file in source.rglob("*") if file.suffix.lower() in VIDEOS and not file.name.startswith("."))


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """Pictures of a folder in the order of their names; none if there are none."""
    try:
        return tuple(picture_files(folder))
    except (VideoError, OSError):
        return ()


def beside(file: Path, *suffixes: str) -> Path | None:
    """The file of the same name with one of these endings, in small or capital letters."""
    tried = (file.with_suffix(spelled) for suffix in suffixes for spelled in (suffix, suffix.upper()))
    return next((path for path in tried if path.is_file()), None)


def library(name: str, kind: str) -> ModuleType:
    """A library that only one format needs.

    Raises:
        DataError: if it is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise DataError(
            f"{kind} needs the package {package}, which is not installed: pip install {package}, or wanact[footage] "
            "for all formats"
        ) from error


def frame_rate(video: Path) -> float:
    """Frames a second that a video file says it has.

    Raises:
        VideoError: if it cannot be read or has no steady rate.
    """
    try:
        with av.open(str(video)) as container:
            rate = float(container.streams.video[0].average_rate or 0)
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise VideoError(f"{video} cannot be read: {error}") from error
    if rate <= 0:
        raise VideoError(f"{video} says no frame rate")
    return rate
