"""UAV-Flow and UAV-Flow-Sim: a folder for each flight, with log.json and its pictures.

A row of `raw_logs` is x, y, z, roll, yaw, pitch: x forward, y to the right and z up as in Unreal, yaw in degrees
clockwise seen from above. As in the data set's own loader only places and yaw are used: roll and pitch are the body's,
and its camera hangs level. The camera's own tilt stands nowhere, so there is no pitch.

Source: `_process_episode` in https://github.com/buaa-colalab/UAV-Flow/blob/main/OpenVLA-UAV/prismatic/vla/datasets/
uav_dataset.py (columns, degrees), UAV-Flow-Eval/batch_run_act_all.py (axes).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import attitude, forward_camera
from train.data.importers.trajectory import Trajectory, pictures_in

ASSUMED_FPS = 5.0  # the logs hold no times; --source_fps is another
X, Y, Z, YAW = 0, 1, 2, 4


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each folder of the source with a log.json."""
    for number, file in enumerate(sorted(source.rglob("log.json")), start=1):
        folder = file.parent
        try:
            log = json.loads(file.read_text(encoding="utf-8"))
            rows = np.array(log["raw_logs"], np.float64)
            pictures = pictures_in(folder)
            if rows.ndim != 2 or rows.shape[1] != 6:
                raise ValueError(f"raw_logs has shape {rows.shape}, expected (T, 6)")
            if len(rows) != len(pictures):
                raise ValueError(f"{len(rows)} rows for {len(pictures)} pictures")
            places = rows[:, [X, Y, Z]] * np.array([1.0, 1.0, -1.0])
            times = np.arange(len(rows)) / ASSUMED_FPS
            poses = forward_camera(attitude(rows[:, YAW]), places)
            prompt = str(log.get("instruction_unified") or log.get("instruction") or "")
            yield Trajectory(folder, times, poses, prompt, pictures, times, ASSUMED_FPS)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield Skipped(number, folder.name, f"log.json cannot be used: {error}")
