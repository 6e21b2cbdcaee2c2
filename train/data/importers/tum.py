"""Trajectories as the TUM RGB-D benchmark writes them: `timestamp tx ty tz qx qy qz qw`, camera to world.

Source: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from train.data.csv import Skipped
from train.data.importers import Trajectory


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each NAME.mp4 with its NAME.txt; a prompt may stand in a comment `# prompt: ...`."""
    for number, video in enumerate(sorted(source.glob("*.mp4")), start=1):
        file = video.with_suffix(".txt")
        try:
            text = file.read_text(encoding="utf-8-sig")
            lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
            table = np.array([[float(word) for word in line.split()] for line in lines], ndmin=2)
            if table.shape[1] != 8 or len(table) < 2:
                raise ValueError(f"{table.shape[0]} lines of {table.shape[1]} numbers, expected at least 2 of 8")
            if not np.isfinite(table).all() or (np.diff(table[:, 0]) <= 0).any():
                raise ValueError("times must rise and numbers be finite")
            poses = np.tile(np.eye(4), (len(table), 1, 1))
            poses[:, :3, :3] = Rotation.from_quat(table[:, 4:]).as_matrix()
            poses[:, :3, 3] = table[:, 1:4]
        except OSError as error:
            yield Skipped(number, video.name, f"{file.name} cannot be read: {error.strerror}")
            continue
        except ValueError as error:
            yield Skipped(number, video.name, f"{file.name} is no trajectory: {error}")
            continue
        prompts = (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("# prompt:"))
        yield Trajectory(video, table[:, 0] - table[0, 0], poses, next(prompts, ""))
