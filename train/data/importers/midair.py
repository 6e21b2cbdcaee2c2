"""Mid-Air: one sensor_records.hdf5 a climate, with a group for each flight, beside folders of pictures.

`groundtruth/position` is in metres north, east, down and `groundtruth/attitude` a quaternion w, x, y, z from body to
that frame, both 100 a second; pictures come 25 a second, so that picture j has record 4 j. The left camera looks along
the body's nose; its small distance from the body's origin is not known here.

Source: https://midair.ulg.ac.be/data_organization.html and tech_specs.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import forward_camera, scalar_last
from train.data.importers.trajectory import Trajectory, library

RECORDS_HZ, PICTURES_HZ = 100.0, 25.0
STREAM = "camera_data/color_left"


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each flight of each HDF5 file of the source."""
    h5py = library("h5py", "midair")
    number = 0
    for file in sorted(source.rglob("*.hdf5")) if source.is_dir() else [source]:
        try:
            with h5py.File(file, "r") as records:
                for name in sorted(records):
                    number += 1
                    yield _flight(records[name], file, name, number)
        except OSError as error:
            yield Skipped(number + 1, file.name, f"is no HDF5 file: {error}")


def _flight(group, file: Path, name: str, number: int) -> Trajectory | Skipped:
    try:
        places = np.asarray(group["groundtruth/position"], np.float64)
        body = scalar_last(np.asarray(group["groundtruth/attitude"], np.float64))
        named = [_text(entry) for entry in group[STREAM][:]]
        pictures = tuple(file.parent / entry for entry in named)
        if missing := next((entry for entry in pictures if not entry.is_file()), None):
            raise ValueError(f"{missing.relative_to(file.parent)} is missing; unpack frames.zip where it lies")
        poses = forward_camera(body, places)
        shown = np.arange(len(pictures)) / PICTURES_HZ
        folder = pictures[0].parent
        return Trajectory(folder, np.arange(len(poses)) / RECORDS_HZ, poses, "", pictures, shown)
    except (KeyError, ValueError, IndexError) as error:
        return Skipped(number, name, f"{file.name} cannot be used: {error}")


def _text(entry: bytes | str) -> str:
    return entry.decode() if isinstance(entry, bytes) else str(entry)
