"""Trajectories as KITTI's odometry benchmark writes them: 12 numbers a frame, a 3 x 4 camera-to-world matrix by rows.

Axes are OpenCV's: x right, y down, z forward, in metres, of the left camera.

Source: readme.txt of the development kit, https://www.cvlibs.net/datasets/kitti/eval_odometry.php. Licence of the data:
CC BY-NC-SA 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import camera_poses
from train.data.importers.tables import numbers_of, prompt_of
from train.data.importers.trajectory import VIDEOS, Trajectory, beside, frame_rate, pictures_in
from wanact.media.video import VideoError

ASSUMED_FPS = 10.0  # of KITTI, where times.txt is missing
CAMERAS = ("image_2", "image_0")  # left, in colour and grey


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """NAME.mp4 beside NAME.txt, or poses/NN.txt with sequences/NN/image_2 and times.txt."""
    files = [file for file in sorted(source.rglob("*.txt")) if _footage(file, source) is not None]
    for number, file in enumerate(files, start=1):
        try:
            yield _trajectory(file, source)
        except (OSError, ValueError, VideoError) as error:
            yield Skipped(number, file.stem, f"{file.name} is no trajectory: {error}")


def _footage(file: Path, source: Path) -> Path | None:
    """The video of a file of poses, or the folder of its pictures."""
    sequence = source / "sequences" / file.stem
    folders = (sequence / camera for camera in CAMERAS)
    return beside(file, *VIDEOS) or next((folder for folder in folders if folder.is_dir()), None)


def _trajectory(file: Path, source: Path) -> Trajectory:
    rows = numbers_of(file, 12).reshape(-1, 3, 4)
    poses = camera_poses(rows[:, :, :3], rows[:, :, 3])
    footage = _footage(file, source)
    assert footage is not None, "only files with footage are read"
    if footage.is_file():
        return Trajectory(footage, np.arange(len(poses)) / frame_rate(footage), poses, prompt_of(file))
    pictures, stamps = pictures_in(footage), footage.parent / "times.txt"
    if len(pictures) != len(poses):
        raise ValueError(f"{len(poses)} poses for {len(pictures)} pictures")
    known = numbers_of(stamps, 1)[:, 0] if stamps.is_file() else None
    times = np.arange(len(poses)) / ASSUMED_FPS if known is None else known - known[0]
    return Trajectory(footage, times, poses, "", pictures, times, ASSUMED_FPS if known is None else None)
