"""PX4's logs, .ulg: topics vehicle_attitude, vehicle_local_position and, with a gimbal, gimbal_device_attitude_status.

Quaternions are w, x, y, z from the body's forward, right, down to north, east, down; places are in metres in that
frame, time in microseconds since the autopilot started. A gimbal's yaw counts from north with the flag YAW_LOCK or
YAW_IN_EARTH_FRAME, else from the nose.

Source: https://docs.px4.io/main/en/dev_log/ulog_file_format, and the messages of these names in
https://github.com/PX4/PX4-Autopilot/tree/main/msg; read by pyulog.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.data.csv import Skipped
from train.data.importers.autopilot import Stream, camera_of, pairs
from train.data.importers.trajectory import Trajectory, library

TOPICS = ["vehicle_attitude", "vehicle_local_position", "gimbal_device_attitude_status"]
YAW_LOCK, YAW_IN_EARTH_FRAME = 16, 64


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """NAME.mp4 beside NAME.ulg, or beside the one log of its folder."""
    pyulog = library("pyulog", "ulog")
    for number, video, log in pairs(source, ".ulg"):
        if isinstance(log, Skipped):
            yield log
            continue
        try:
            yield _camera(pyulog.ULog(str(log), TOPICS), video, log)
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            yield Skipped(number, video.name, f"{log.name} cannot be used: {error}")


def _camera(log: Any, video: Path, file: Path) -> Trajectory:
    topics = {topic.name: topic.data for topic in reversed(log.data_list)}
    gimbal = topics.get("gimbal_device_attitude_status")
    flags = 0 if gimbal is None else int(np.median(gimbal.get("device_flags", np.zeros(1))))
    turns = not flags & (YAW_LOCK | YAW_IN_EARTH_FRAME)
    body, place = (topics.get(name) for name in TOPICS[:2])
    return camera_of(video, file, _attitude(body), _columns(place, "x", "y", "z"), _attitude(gimbal), turns)


def _attitude(topic: dict[str, np.ndarray] | None) -> Stream | None:
    return _columns(topic, "q[1]", "q[2]", "q[3]", "q[0]")


def _columns(topic: dict[str, np.ndarray] | None, *names: str) -> Stream | None:
    if topic is None:
        return None
    columns = [topic["timestamp"] / 1e6, *(topic[name] for name in names)]
    return Stream.of(list(zip(*(column.astype(np.float64).tolist() for column in columns), strict=True)))
