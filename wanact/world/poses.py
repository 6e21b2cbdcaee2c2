"""Camera poses and the actions that they are: the plan's rule, for simulated and for real flights.

A camera-to-world pose has the OpenCV camera axes right, down, forward.
"""

from __future__ import annotations

import numpy as np

from wanact.actions import ActionTrack
from wanact.shapes import TEMPORAL_STRIDE

PATH_UNITS = 200.0  # simulated units in "one clip's path": full forward (0.05) moves 10 units a latent frame
DEAD_ZONE = np.array([0.002] * 4 + [0.25] * 4, np.float32)  # in the units of the action channels


def pose_matrix(pose: tuple[float, float, float, float, float]) -> np.ndarray:
    """Camera-to-world [4, 4] with OpenCV axes; the world is x, y, down."""
    x, y, altitude, yaw, pitch = pose
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    right, down, forward = (-sy, cy, 0.0), (cy * sp, sy * sp, cp), (cy * cp, sy * cp, -sp)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, down, forward], 1)
    matrix[:3, 3] = (x, y, -altitude)
    return matrix


def actions_from_poses(poses: np.ndarray, path_units: float = PATH_UNITS) -> ActionTrack:
    """What was flown: camera motion over each latent frame, split by sign, with a dead zone.

    Args:
        poses: camera-to-world, OpenCV axes, [F, 4, 4] with F = 4k+1.
        path_units: world units that count as one clip's path.

    Returns:
        A track of k actions: translation in clip paths, rotation in degrees, per latent frame.
    """
    keyed = poses[::TEMPORAL_STRIDE]
    relative = np.linalg.inv(keyed[:-1]) @ keyed[1:]
    right, ahead = relative[:, 0, 3] / path_units, relative[:, 2, 3] / path_units
    yaw = np.degrees(np.arctan2(relative[:, 0, 2], relative[:, 2, 2]))
    pitch = np.degrees(np.arcsin(np.clip(-relative[:, 1, 2], -1, 1)))
    signed = np.stack([ahead, -ahead, -right, right, -yaw, yaw, pitch, -pitch], 1).astype(np.float32)
    magnitude = np.where(signed > DEAD_ZONE, signed, 0)
    return ActionTrack(magnitude)
