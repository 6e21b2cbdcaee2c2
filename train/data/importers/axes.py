"""Axes of others as poses of ours: camera-to-world with OpenCV's camera axes right, down, forward.

Most flight logs say how the body lies in north, east, down (NED), with the body's own axes forward, right, down. The
world of a pose may be any right-handed frame, since actions are read from motion between two poses alone.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

# Columns are the camera's right, down and forward in a body's forward, right, down.
CAMERA_IN_BODY = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

# WGS 84.
_SEMI_MAJOR_M, _FIRST_ECCENTRICITY_SQUARED = 6378137.0, 6.69437999014e-3


def camera_poses(rotations: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Poses [P, 4, 4] of cameras whose axes are the columns of `rotations` [P, 3, 3], at `places` [P, 3]."""
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = places
    return poses


def forward_camera(body: Rotation, places_ned: np.ndarray, tilt_deg: float = 0.0) -> np.ndarray:
    """Poses of a camera that looks along a body's nose.

    Args:
        body: from forward, right, down to north, east, down, P of them.
        places_ned: north, east, down, any unit, [P, 3].
        tilt_deg: how far the camera is mounted above the nose; negative looks down.
    """
    mount = Rotation.from_euler("y", tilt_deg, degrees=True).as_matrix()
    return camera_poses(body.as_matrix() @ mount @ CAMERA_IN_BODY, places_ned)


def attitude(yaw_deg: np.ndarray, pitch_deg: np.ndarray | float = 0.0, roll_deg: np.ndarray | float = 0.0) -> Rotation:
    """Body to NED from aviation's angles: yaw clockwise from north, then pitch, nose up, then roll to the right."""
    angles = np.broadcast_arrays(np.asarray(yaw_deg, float), pitch_deg, roll_deg)
    return Rotation.from_euler("ZYX", np.stack(angles, axis=-1), degrees=True)


def scalar_last(quaternions_wxyz: np.ndarray) -> Rotation:
    """Rotations of quaternions that are written w, x, y, z."""
    return Rotation.from_quat(np.roll(np.asarray(quaternions_wxyz, float), -1, axis=-1))


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Metres north of a degree of latitude and metres east of a degree of longitude, on WGS 84 at sea level."""
    sine = np.sin(np.radians(latitude_deg))
    curved = 1 - _FIRST_ECCENTRICITY_SQUARED * sine**2
    meridian = _SEMI_MAJOR_M * (1 - _FIRST_ECCENTRICITY_SQUARED) / curved**1.5
    parallel = _SEMI_MAJOR_M / np.sqrt(curved) * np.cos(np.radians(latitude_deg))
    return float(np.radians(meridian)), float(np.radians(parallel))


def local_ned(latitude_deg: np.ndarray, longitude_deg: np.ndarray, altitude_m: np.ndarray) -> np.ndarray:
    """North, east, down in metres from the first fix, [P, 3]; flat, which is right within some kilometres."""
    north, east = metres_per_degree(float(latitude_deg[0]))
    around = (np.asarray(longitude_deg) - longitude_deg[0] + 180) % 360 - 180
    return np.stack(
        [(latitude_deg - latitude_deg[0]) * north, around * east, -(np.asarray(altitude_m) - altitude_m[0])], axis=1
    )


def without_repeats(seconds: np.ndarray, places: np.ndarray, longest_s: float = 1.5) -> np.ndarray:
    """Places between fixes, where a log repeats each fix until the next: straight lines instead of a staircase.

    What stands still for longer than `longest_s` is taken to hover there.

    Args:
        seconds: of each row, rising, [P].
        places: [P, 3].
    """
    new = np.ones(len(places), bool)
    new[1:] = (np.diff(places, axis=0) != 0).any(axis=1)
    starts = np.flatnonzero(new)
    kept = new.copy()
    for start, following in zip(starts, [*starts[1:], len(places)], strict=True):
        if following == len(places) or seconds[following - 1] - seconds[start] > longest_s:
            kept[following - 1] = True
    return np.stack([np.interp(seconds, seconds[kept], places[kept, axis]) for axis in range(3)], axis=1)
