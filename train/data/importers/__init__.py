"""Footage with camera poses becomes a dataset: one file a format, and one core for what is the same for all.

A format's module has `read(source)`, which yields a `Trajectory` for each video it finds. From there on poses are
camera-to-world in OpenCV axes, cut into clips whose actions the plan's rule reads from the poses at latent frames.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from train.data.csv import DataError, Skipped, write_skipped
from wanact.actions import CHANNELS, ActionTrack
from wanact.media.footage import frames_of
from wanact.media.video import VideoError, write_mp4
from wanact.shapes import num_latent_frames
from wanact.world.poses import actions_from_poses

# What stands after `python -m train import` -> its module and what it reads; the next format is one more line.
IMPORTERS = {
    "tum": ("train.data.importers.tum", "NAME.mp4 beside NAME.txt with lines `seconds tx ty tz qx qy qz qw`"),
}


@dataclass(frozen=True)
class Trajectory:
    """A video and where its camera was.

    Attributes:
        video: the file.
        seconds: time of each pose after the first frame, rising, [P].
        poses: camera-to-world, OpenCV axes (right, down, forward), any unit of length, [P, 4, 4].
        prompt: what is seen, "" if nobody says.
    """

    video: Path
    seconds: np.ndarray
    poses: np.ndarray
    prompt: str = ""

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """Poses at other times, places on straight lines and turns on great circles between the known ones."""
        poses = np.tile(np.eye(4), (len(seconds), 1, 1))
        poses[:, :3, :3] = Slerp(self.seconds, Rotation.from_matrix(self.poses[:, :3, :3]))(seconds).as_matrix()
        for axis in range(3):
            poses[:, axis, 3] = np.interp(seconds, self.seconds, self.poses[:, axis, 3])
        return poses


@dataclass
class Report:
    """What was imported: clips, their seconds, how often each channel stands, and what was left out."""

    clips: int = 0
    seconds: float = 0.0
    share: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHANNELS, 0.0))
    path_units: dict[str, float] = field(default_factory=dict)
    dropped: list[Skipped] = field(default_factory=list)

    def add(self, track: ActionTrack, seconds: float) -> None:
        on = (track.magnitude > 0).mean(0)
        for name, share in zip(CHANNELS, on, strict=True):
            self.share[name] += (float(share) - self.share[name]) / (self.clips + 1)
        self.clips += 1
        self.seconds += seconds


def import_footage(
    kind: str,
    source: Path,
    out: Path,
    *,
    num_frames: int = 81,
    fps: float = 16.0,
    size: tuple[int, int] = (480, 832),
    path_units: float | None = None,
) -> Report:
    """Write clips.csv, the clips, their poses and report.json.

    Args:
        kind: one of `IMPORTERS`.
        source: folder to read.
        out: folder to write; clips that are there are written anew.
        num_frames: pixel frames of a clip, 4k+1; a video gives as many clips as it holds
        fps: frames a second of the clips; frames are taken by their time stamps.
        size: height and width of the clips, cut to fit.
        path_units: length that counts as one clip's path; None takes each clip's own, so that its path is 1.

    Raises:
        DataError: if the source holds nothing of the kind.
    """
    num_latent_frames(num_frames)
    report, rows = Report(), []
    (out / "videos").mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(import_module(IMPORTERS[kind][0]).read(source), start=1):
        if isinstance(found, Skipped):
            report.dropped.append(found)
            continue
        try:
            for part, (frames, poses) in enumerate(_clips(found, num_frames, fps, size)):
                units = path_units or float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum()) or 1.0
                track = actions_from_poses(poses, units)
                name = f"videos/{found.video.stem}-{part:03d}.mp4"
                write_mp4(frames, out / name, fps, lossless=True)
                notes = {"poses": poses.round(6).tolist(), "path_units": units, "source": found.video.name}
                (out / name).with_suffix(".json").write_text(json.dumps(notes))
                rows.append({"video": name, "prompt": found.prompt, "action": track.to_json()})
                report.path_units[name] = units
                report.add(track, num_frames / fps)
        except VideoError as error:
            report.dropped.append(Skipped(number, found.video.name, str(error)))
    if not rows:
        reasons = "; ".join(f"{item.video}: {item.reason}" for item in report.dropped[:3]) or "no video was found"
        raise DataError(f"{source} gave no clip of {num_frames} frames ({reasons})")
    with open(out / "clips.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["video", "prompt", "action"])
        writer.writeheader()
        writer.writerows(rows)
    write_skipped(out / "skipped.csv", report.dropped)
    (out / "report.json").write_text(json.dumps(asdict(report), indent=2))
    return report


def _clips(
    found: Trajectory, num_frames: int, fps: float, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and poses of each clip that video and poses both cover."""
    frames: list[np.ndarray] = []
    first = 0
    covered = int(float(found.seconds[-1]) * fps + 1e-6) + 1
    for frame in itertools.islice(frames_of(found.video, 0, fps, size), covered):
        frames.append(frame)
        if len(frames) == num_frames:
            yield np.stack(frames), found.at((first + np.arange(num_frames)) / fps)
            frames, first = [], first + num_frames
