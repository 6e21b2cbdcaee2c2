"""MAVLink's telemetry logs, .tlog, and ArduPilot's DataFlash logs, .bin.

Of a .tlog are read ATTITUDE (radians), LOCAL_POSITION_NED (metres) or else GLOBAL_POSITION_INT (1e-7 degrees,
millimetres), and, with a gimbal, GIMBAL_DEVICE_ATTITUDE_STATUS or MOUNT_ORIENTATION; of a .bin ATT (degrees), POS or
else GPS, and MNT. Angles are yaw clockwise from north, pitch with the nose up, roll to the right.

Source: https://mavlink.io/en/messages/common.html, https://ardupilot.org/copter/docs/logmessages.html; read by
pymavlink.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.data.csv import Skipped
from train.data.importers.autopilot import Stream, camera_of, pairs
from train.data.importers.axes import attitude, local_ned
from train.data.importers.trajectory import Trajectory, library

YAW_LOCK, YAW_IN_EARTH_FRAME = 16, 64
_TELEMETRY = [
    "ATTITUDE",
    "LOCAL_POSITION_NED",
    "GLOBAL_POSITION_INT",
    "GIMBAL_DEVICE_ATTITUDE_STATUS",
    "MOUNT_ORIENTATION",
]
_DATAFLASH = ["ATT", "POS", "GPS", "MNT"]


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """NAME.mp4 beside NAME.tlog or NAME.bin, or beside the one log of its folder."""
    mavutil = library("pymavlink.mavutil", "mavlink")
    telemetry = {video: (number, log) for number, video, log in pairs(source, ".tlog")}
    dataflash = {video: log for _, video, log in pairs(source, ".bin")}
    for video, (number, log) in telemetry.items():
        log = log if isinstance(log, Path) else dataflash[video]
        if isinstance(log, Skipped):
            yield Skipped(number, video.name, f"{video.stem}.tlog or {video.stem}.bin is missing")
            continue
        try:
            rows = _messages(mavutil.mavlink_connection(str(log), robust_parsing=True), log)
            yield (_of_dataflash if log.suffix.lower() == ".bin" else _of_telemetry)(rows, video, log)
        except (OSError, ValueError, KeyError, AttributeError, IndexError) as error:
            yield Skipped(number, video.name, f"{log.name} cannot be used: {error}")


def _messages(connection: Any, log: Path) -> dict[str, list[Any]]:
    wanted = _DATAFLASH if log.suffix.lower() == ".bin" else _TELEMETRY
    rows: dict[str, list[Any]] = {name: [] for name in wanted}
    while (message := connection.recv_match(type=wanted)) is not None:
        rows[message.get_type()].append(message)
    connection.close()
    return rows


def _of_telemetry(rows: dict[str, list[Any]], video: Path, log: Path) -> Trajectory:
    body = _angles([(m.time_boot_ms / 1e3, *np.degrees((m.yaw, m.pitch, m.roll))) for m in rows["ATTITUDE"]])
    place = Stream.of([(m.time_boot_ms / 1e3, m.x, m.y, m.z) for m in rows["LOCAL_POSITION_NED"]])
    if place is None:
        fixes = [(m.time_boot_ms / 1e3, m.lat / 1e7, m.lon / 1e7, m.alt / 1e3) for m in rows["GLOBAL_POSITION_INT"]]
        place = _fixes(fixes)
    device = rows["GIMBAL_DEVICE_ATTITUDE_STATUS"]
    gimbal = Stream.of([(m.time_boot_ms / 1e3, *np.roll(m.q, -1)) for m in device])
    turns = bool(device) and not device[len(device) // 2].flags & (YAW_LOCK | YAW_IN_EARTH_FRAME)
    if gimbal is None:  # the older message: its yaw_absolute counts from north
        mount = [m for m in rows["MOUNT_ORIENTATION"] if math.isfinite(getattr(m, "yaw_absolute", math.nan))]
        gimbal, turns = _angles([(m.time_boot_ms / 1e3, m.yaw_absolute, m.pitch, m.roll) for m in mount]), False
    return camera_of(video, log, body, place, gimbal, turns)


def _of_dataflash(rows: dict[str, list[Any]], video: Path, log: Path) -> Trajectory:
    body = _angles([(m.TimeUS / 1e6, m.Yaw, m.Pitch, m.Roll) for m in rows["ATT"]])
    fixes = [(m.TimeUS / 1e6, m.Lat, m.Lng, m.Alt) for m in rows["POS"] or rows["GPS"]]
    mount, turns = rows["MNT"], False
    angles = [(m.TimeUS / 1e6, getattr(m, "YawE", math.nan), m.Pitch, m.Roll) for m in mount]
    gimbal = _angles(angles)
    if gimbal is None and mount:  # yaw from the nose alone
        gimbal, turns = _angles([(m.TimeUS / 1e6, getattr(m, "YawB", 0.0), m.Pitch, m.Roll) for m in mount]), True
    return camera_of(video, log, body, _fixes(fixes), gimbal, turns)


def _angles(rows: list[tuple[float, ...]]) -> Stream | None:
    """Quaternions of rows of seconds, yaw, pitch and roll in degrees."""
    found = Stream.of(rows)
    return found and Stream(found.seconds, attitude(*found.values.T).as_quat())


def _fixes(rows: list[tuple[float, ...]]) -> Stream | None:
    """Metres north, east, down of rows of seconds, latitude, longitude in degrees, altitude in metres."""
    found = Stream.of([row for row in rows if row[1] or row[2]])
    return found and Stream(found.seconds, local_ned(*found.values.T))
