"""Optical flow as the simulator's geometry gives it, without looking at a picture.

Rays are followed over the height map step by step, apart from the renderer, which works in columns: so the one can be
held against the other.
"""

from __future__ import annotations

import numpy as np

from wanact.world.simulator import FAR, FIELD_OF_VIEW_DEG, World, _bilinear

RAY_STEPS = 240
NEAR = 1.0


def ray_depths(world: World, pose: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Depth along the view at which rays meet the ground, [n]; infinite for the sky.

    Args:
        world: its height map.
        pose: camera-to-world, OpenCV axes, [4, 4].
        u, v: directions of the rays in focal lengths to the right and down, [n].
    """
    direction = pose[:3, :3] @ np.stack([u, v, np.ones_like(u)])  # [3, n], depth 1
    depth = np.geomspace(NEAR, FAR, RAY_STEPS)
    x = pose[0, 3] + depth[:, None] * direction[0]
    y = pose[1, 3] + depth[:, None] * direction[1]
    above = -(pose[2, 3] + depth[:, None] * direction[2]) - _bilinear(world.height, x, y)  # [steps, n]
    hit = np.argmax(above <= 0, axis=0)
    column = np.arange(len(u))
    is_hit, before = above[hit, column] <= 0, np.maximum(hit - 1, 0)
    gap = above[before, column] - above[hit, column]
    share = np.clip(above[before, column] / np.where(np.abs(gap) > 1e-9, gap, 1), 0, 1)
    found = depth[before] + share * (depth[hit] - depth[before])
    return np.where(is_hit, np.where(hit == 0, NEAR, found), np.inf)


def exact_flow(world: World, before: np.ndarray, after: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where every pixel of the view from one pose lies in the view from another, minus where it was, [H, W, 2] pixels.

    Args:
        world: what is seen.
        before, after: camera-to-world, OpenCV axes, [4, 4].
    """
    focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    row, column = np.mgrid[:height, :width]
    u, v = ((column + 0.5 - width / 2) / focal).ravel(), ((row + 0.5 - height / 2) / focal).ravel()
    depth = ray_depths(world, before, u, v)
    relative = np.linalg.inv(after) @ before
    ray = np.stack([u, v, np.ones_like(u)])
    with np.errstate(invalid="ignore", over="ignore"):
        moved = relative[:3, :3] @ ray + relative[:3, 3:] / depth  # the sky has depth infinity: it only turns
    place = moved[:2] / np.maximum(moved[2], 1e-3) * focal
    return (place - ray[:2] * focal).T.reshape(height, width, 2)
