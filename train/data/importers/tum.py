"""Trajectories as the TUM RGB-D benchmark writes them: `timestamp tx ty tz qx qy qz qw`, camera to world.

Axes are OpenCV's: right, down, forward. The first line is the video's first frame.

Source: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scipy.spatial.transform import Rotation

from train.data.csv import Skipped
from train.data.importers.axes import camera_poses
from train.data.importers.tables import numbers_of, prompt_of
from train.data.importers.trajectory import Trajectory, videos_in


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each NAME.mp4 with its NAME.txt; a prompt may stand in a comment `# prompt: ...`."""
    for number, video in enumerate(videos_in(source), start=1):
        file = video.with_suffix(".txt")
        try:
            table = numbers_of(file, 8)
            poses = camera_poses(Rotation.from_quat(table[:, 4:]).as_matrix(), table[:, 1:4])
            yield Trajectory(video, table[:, 0] - table[0, 0], poses, prompt_of(file))
        except OSError as error:
            yield Skipped(number, video.name, f"{file.name} cannot be read: {error.strerror}")
        except ValueError as error:
            yield Skipped(number, video.name, f"{file.name} is no trajectory: {error}")
