"""AirSim's own recordings: airsim_rec.txt and a folder `images` beside it.

A row has the vehicle's time in milliseconds, its place in metres north, east, down, its attitude as a quaternion w, x,
y, z from body to that frame, and the pictures taken then. The camera is taken to look along the vehicle's nose, as
`front_center` does unless settings.json turns it.

Source: https://microsoft.github.io/AirSim/modify_recording_data/ and `RecordingFile` in
https://github.com/microsoft/AirSim (columns by name), https://microsoft.github.io/AirSim/apis/ (axes).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import forward_camera, scalar_last
from train.data.importers.tables import Table
from train.data.importers.trajectory import Trajectory

RECORDING = "airsim_rec.txt"
LONGEST_GAP_S = 1.0  # a recording that was stopped and begun again


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each vehicle of each recording below the source."""
    number = 0
    for file in sorted(source.rglob(RECORDING)):
        try:
            table = Table(file)
            vehicles = table.texts("VehicleName") if table.find("VehicleName") else [""] * len(table.rows)
        except OSError as error:
            yield Skipped(number := number + 1, file.parent.name, f"{RECORDING} cannot be read: {error.strerror}")
            continue
        for vehicle in dict.fromkeys(vehicles):
            number += 1
            rows = np.array([name == vehicle for name in vehicles])
            try:
                yield _vehicle(table, rows, file.parent)
            except ValueError as error:
                yield Skipped(number, f"{file.parent.name} {vehicle}".strip(), f"{RECORDING} cannot be used: {error}")


def _vehicle(table: Table, rows: np.ndarray, folder: Path) -> Trajectory:
    seconds = table.numbers("TimeStamp")[rows] / 1000
    places = np.stack([table.numbers(f"POS_{axis}")[rows] for axis in "XYZ"], axis=1)
    body = np.stack([table.numbers(f"Q_{axis}")[rows] for axis in "WXYZ"], axis=1)
    named = [name.split(";")[0] for name, wanted in zip(table.texts("ImageFile"), rows, strict=True) if wanted]
    pictures = tuple(folder / "images" / Path(name).name for name in named)
    if missing := next((picture for picture in pictures if not picture.is_file()), None):
        raise ValueError(f"images/{missing.name} is missing")
    times = seconds - seconds[0]
    poses = forward_camera(scalar_last(body), places)
    return Trajectory(folder, times, poses, "", pictures, times, longest_gap=LONGEST_GAP_S)
