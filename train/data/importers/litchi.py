"""Litchi's missions: NAME.csv of waypoints for NAME.mp4. A plan, not a log: it says what was asked, not what was flown.

A waypoint has latitude, longitude, altitude in metres, heading clockwise from north, the gimbal's pitch and the speed
towards the next one; actions may have the drone wait. Between waypoints the drone is taken to fly straight at that
speed, turning evenly. Braking, wind and rounded corners are missing, so actions are near what was flown at best.

Source: https://github.com/JoeKae/litchi_wp (columns and enumerations).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import attitude, forward_camera, local_ned
from train.data.importers.tables import Table, usable
from train.data.importers.trajectory import Trajectory, beside, videos_in

REMARK = "a plan, not a log: actions are what was asked of the drone, without braking, wind and rounded corners"
STAY_FOR, MOST_ACTIONS = 0, 15
FOCUS_POI, INTERPOLATE = 1, 2


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each video with the mission of its name, or the one mission of its folder."""
    for number, video in enumerate(videos_in(source), start=1):
        missions = [file for file in sorted(video.parent.iterdir()) if file.suffix.lower() == ".csv"]
        mission = beside(video, ".csv") or (missions[0] if len(missions) == 1 else None)
        try:
            if mission is None:
                raise ValueError(f"{video.stem}.csv with the mission is missing")
            yield _flown(Table(mission), video, mission)
        except (OSError, ValueError) as error:
            yield Skipped(number, video.name, str(error))


def _flown(table: Table, video: Path, mission: Path) -> Trajectory:
    names = ("latitude", "longitude", "altitude(m)", "heading(deg)", "speed(m/s)")
    latitude, longitude, altitude, heading, speed = columns = [table.numbers(name) for name in names]
    if len(latitude) < 2 or not usable(columns).all():
        raise ValueError(f"{mission.name} is no mission of 2 or more waypoints")
    modes = table.numbers("gimbalmode")
    if (modes == FOCUS_POI).any():
        raise ValueError(f"{mission.name} has the gimbal follow a point of interest, which is not computed")
    tilted = modes == INTERPOLATE
    where = np.arange(len(latitude))
    pitch = table.numbers("gimbalpitchangle")
    pitch = np.interp(where, where[tilted], pitch[tilted]) if tilted.any() else np.zeros(len(latitude))
    places = local_ned(latitude, longitude, altitude)
    seconds, waypoints = _times(places, speed, _stays(table), mission)
    yaw = np.degrees(np.unwrap(np.radians(heading)))
    poses = forward_camera(attitude(yaw[waypoints], pitch[waypoints]), places[waypoints])
    return Trajectory(video, seconds, poses, slack=math.inf, remark=REMARK, notes={"log": mission.name})


def _times(places: np.ndarray, speed: np.ndarray, stays: np.ndarray, mission: Path) -> tuple[np.ndarray, np.ndarray]:
    """When the drone is at which waypoint: when it comes there, and when it goes on, if it stays."""
    seconds, waypoints, now = [0.0], [0], 0.0
    for point in range(len(places)):
        if point:
            length = float(np.linalg.norm(places[point] - places[point - 1]))
            if speed[point - 1] <= 0:
                raise ValueError(
                    f"waypoint {point} of {mission.name} has speed 0, which stands for the app's cruising speed; "
                    "write that speed into its column speed(m/s)"
                )
            if length == 0:
                continue
            now += length / speed[point - 1]
            seconds.append(now)
            waypoints.append(point)
        if stays[point] > 0:
            now += stays[point]
            seconds.append(now)
            waypoints.append(point)
    return np.array(seconds), np.array(waypoints)


def _stays(table: Table) -> np.ndarray:
    """Seconds that the drone waits at each waypoint."""
    stays = np.zeros(len(table.rows))
    for number in range(1, MOST_ACTIONS + 1):
        if table.find(f"actiontype{number}"):
            waits = table.numbers(f"actiontype{number}") == STAY_FOR
            stays += np.where(waits, np.nan_to_num(table.numbers(f"actionparam{number}")) / 1000, 0)
    return stays
