"""What the logs of PX4 and ArduPilot have in common: a body's attitude, its place, and perhaps a gimbal's attitude."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from train.data.csv import Skipped
from train.data.importers.axes import forward_camera
from train.data.importers.trajectory import Trajectory, beside, videos_in

LONGEST_GAP_S = 2.0
NO_GIMBAL = "the log has no gimbal: the camera is taken to look along the nose"


@dataclass(frozen=True)
class Stream:
    """Something a log says again and again.

    Attributes:
        seconds: of the log's clock, rising, [N].
        values: [N, n].
    """

    seconds: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, rows: list[tuple[float, ...]]) -> Stream | None:
        """Of rows that begin with their seconds, without those that are late or not finite; None if fewer than two."""
        table = np.array([row for row in rows if all(map(math.isfinite, row))], np.float64)
        if len(table) < 2:
            return None
        newer = np.concatenate([[True], np.diff(np.maximum.accumulate(table[:, 0])) > 0])
        table = table[newer]
        return cls(table[:, 0], table[:, 1:]) if len(table) > 1 else None

    def rotations(self, seconds: np.ndarray) -> Rotation:
        """Of quaternions x, y, z, w at other times."""
        return Slerp(self.seconds, Rotation.from_quat(self.values))(np.clip(seconds, *self.seconds[[0, -1]]))


def camera_of(
    video: Path, log: Path, body: Stream | None, place: Stream | None, gimbal: Stream | None, gimbal_turns: bool
) -> Trajectory:
    """The camera of a log.

    Args:
        body: quaternions x, y, z, w from the body's forward, right, down to north, east, down.
        place: north, east, down in metres.
        gimbal: quaternions of the gimbal, or None if the camera looks along the nose.
        gimbal_turns: whether the gimbal's yaw counts from the nose, while its pitch and roll are against the horizon.

    Raises:
        ValueError: if attitude or place are missing.
    """
    if place is None:
        raise ValueError(f"{log.name} has no place (no GPS, no estimate), so nobody knows how far it flew")
    if body is None and (gimbal is None or gimbal_turns):
        raise ValueError(f"{log.name} has no attitude")
    looks = gimbal or body
    assert looks is not None, "one of both is there"
    first, last = max(looks.seconds[0], place.seconds[0]), min(looks.seconds[-1], place.seconds[-1])
    seconds = looks.seconds[(looks.seconds >= first) & (looks.seconds <= last)]
    if len(seconds) < 2:
        raise ValueError(f"attitude and place of {log.name} have no time in common")
    rotations = looks.rotations(seconds)
    if gimbal is not None and gimbal_turns and body is not None:
        yaw = body.rotations(seconds).as_euler("ZYX")[:, 0]
        rotations = Rotation.from_euler("Z", yaw[:, None]) * rotations
    places = np.stack([np.interp(seconds, place.seconds, place.values[:, axis]) for axis in range(3)], axis=1)
    remark = "" if gimbal is not None else NO_GIMBAL
    poses = forward_camera(rotations, places)
    notes = {"log": log.name}
    return Trajectory(
        video, seconds - seconds[0], poses, slack=math.inf, longest_gap=LONGEST_GAP_S, remark=remark, notes=notes
    )


def pairs(source: Path, suffix: str) -> Iterator[tuple[int, Path, Path | Skipped]]:
    """Each video with the log of its name, or with the one log of its folder."""
    for number, video in enumerate(videos_in(source), start=1):
        logs = [file for file in sorted(video.parent.iterdir()) if file.suffix.lower() == suffix]
        log = beside(video, suffix) or (logs[0] if len(logs) == 1 else None)
        yield number, video, log or Skipped(number, video.name, f"{video.stem}{suffix} is missing")
