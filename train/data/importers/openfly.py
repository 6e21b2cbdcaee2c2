"""OpenFly: a JSON list of flights, each with `image_path`, `index_list`, `pos` and `yaw`, one a step.

x is forward at yaw 0, y to the left and z up, in metres; yaw is in radians, counter-clockwise seen from above. A step
is a decision of an agent (3, 6 or 9 m ahead, 30 degrees round), with one picture: no footage between them. One step is
taken as one latent frame, its picture standing still for four frames, unless `--source_fps` says otherwise.

Source: `getPoseAfterMakeAction` in train/eval.py of https://github.com/SHAILAB-IPEC/OpenFly-Platform (turning left adds
to yaw, and moving left is -sin, cos).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import attitude, forward_camera
from train.data.importers.trajectory import Trajectory, pictures_in

ASSUMED_FPS = 4.0  # steps a second: at 16 frames a second each is a latent frame
REMARK = "steps of an agent, not footage: a picture stands still until the next"


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each flight of each JSON file of the source; pictures lie below `image_path` there."""
    number = 0
    for file in sorted(source.rglob("*.json")):
        try:
            flights = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield Skipped(number := number + 1, file.name, f"is no JSON: {error}")
            continue
        for flight in flights if isinstance(flights, list) else [flights]:
            number += 1
            try:
                yield _flight(flight, source)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                name = flight.get("image_path", file.name) if isinstance(flight, dict) else file.name
                yield Skipped(number, str(name), f"{file.name} cannot be used: {error}")


def _flight(flight: dict[str, Any], source: Path) -> Trajectory:
    folder = source / str(flight["image_path"])
    if not folder.resolve().is_relative_to(source.resolve()):
        raise ValueError("image_path leaves the source")
    by_name = {picture.stem: picture for picture in pictures_in(folder)}
    missing = next((index for index in flight["index_list"] if Path(str(index)).stem not in by_name), None)
    if missing is not None:
        raise ValueError(f"{folder.name} has no picture {missing}")
    pictures = tuple(by_name[Path(str(index)).stem] for index in flight["index_list"])
    places, yaw = np.array(flight["pos"], np.float64), np.array(flight["yaw"], np.float64)
    if places.shape != (len(pictures), 3) or yaw.shape != (len(pictures),):
        raise ValueError(f"pos {places.shape} and yaw {yaw.shape} for {len(pictures)} pictures")
    poses = forward_camera(attitude(-np.degrees(yaw)), places * np.array([1.0, -1.0, -1.0]))
    times = np.arange(len(pictures)) / ASSUMED_FPS
    prompt = str(flight.get("gpt_instruction") or "")
    return Trajectory(folder, times, poses, prompt, pictures, times, ASSUMED_FPS, remark=REMARK)
