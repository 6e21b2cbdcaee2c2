"""TartanAir, versions 1 and 2: a folder of pictures and a file of poses, `tx ty tz qx qy qz qw` a picture.

Poses are of the camera in the north-east-down frame: its x axis looks forward, y to the right and z down, in metres.
Pictures have no times.

Source: https://github.com/castacks/tartanair_tools/blob/master/data_type.md. Licence of the data: CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from train.data.csv import Skipped
from train.data.importers.axes import forward_camera
from train.data.importers.tables import numbers_of
from train.data.importers.trajectory import Trajectory, pictures_in

ASSUMED_FPS = 10.0  # the data set says none; --source_fps is another
CAMERAS = ("left", "lcam_front")


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each pose_CAMERA.txt with its folder image_CAMERA, of the left camera that looks forward."""
    files = sorted(file for name in CAMERAS for file in source.rglob(f"pose_{name}.txt"))
    for number, file in enumerate(files, start=1):
        folder = file.with_name(file.stem.replace("pose", "image", 1))
        pictures = pictures_in(folder)
        try:
            table = numbers_of(file, 7)
            if len(pictures) != len(table):
                raise ValueError(f"{len(table)} poses for {len(pictures)} pictures in {folder.name}")
            poses = forward_camera(Rotation.from_quat(table[:, 3:]), table[:, :3])
            times = np.arange(len(table)) / ASSUMED_FPS
            yield Trajectory(folder, times, poses, "", pictures, times, ASSUMED_FPS)
        except (OSError, ValueError) as error:
            yield Skipped(number, str(folder.relative_to(source)), f"{file.name} cannot be used: {error}")
