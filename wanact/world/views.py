"""Views of a world whose distances are known, to learn them from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wanact.world.poses import PATH_UNITS
from wanact.world.simulator import FIELD_OF_VIEW_DEG, fly_poses, make_world, render_with_depth

VIEWS_APART = 5  # frames of a flight from one view to the next
FLIGHT = 81  # frames


class View(NamedTuple):
    """A picture, uint8 [H, W, 3], and what lies there, [H, W]: how far over the horizon, in degrees, and how near, in
    1 / clip path; 0 is the sky."""

    frame: np.ndarray
    elevation: np.ndarray
    nearness: np.ndarray


def draw(seed: int, count: int, height: int, width: int) -> list[View]:
    """Views along random flights in one world, the same every time."""
    world, found, flight = make_world(seed), [], 0
    while len(found) < count:
        rng = np.random.default_rng([seed, 77, flight])
        for pose in fly_poses(world, rng, FLIGHT)[::VIEWS_APART][: count - len(found)]:
            frame, depth = render_with_depth(world, pose, height, width)
            length, elevation = rays(pose[4], height, width)
            found.append(View(frame, elevation, (PATH_UNITS / (depth * length)).astype(np.float16)))
        flight += 1
    return found


def rays(pitch: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel's ray: its length where the depth is 1, and its elevation in degrees, [H, W]."""
    focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    row, column = np.mgrid[:height, :width]
    u, v = (column + 0.5 - width / 2) / focal, (row + 0.5 - height / 2) / focal
    length = np.sqrt(1 + u**2 + v**2)
    up = np.sin(pitch) - v * np.cos(pitch)
    return length, np.degrees(np.arcsin(up / length)).astype(np.float32)
