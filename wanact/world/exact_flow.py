"""Optical flow as the simulator's geometry gives it, without looking at a picture.

Rays are followed over the height map step by step and against the landmarks as implicit solids, apart from the
renderer, which solves for both: so the one can be held against the other.
"""

from __future__ import annotations

import numpy as np

from wanact.world.landmarks import A0, A1, ARCH, B0, B1, BOTTOM, BOX, CONE, COS, KIND, REACH, SIN, TOP, X, Y
from wanact.world.simulator import FIELD_OF_VIEW_DEG, World
from wanact.world.terrain import WORLD_SIZE, sample

FAR = 900.0
RAY_STEPS = 700
NEAR = 0.5


def inside(part: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Which points lie in a part of a landmark, bool of their shape; the world wraps."""
    dx = (x - part[X] + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    dy = (y - part[Y] + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    along, across = dx * part[COS] + dy * part[SIN], dy * part[COS] - dx * part[SIN]
    middle = (part[TOP] + part[BOTTOM]) / 2
    if part[KIND] == ARCH:
        thick = part[B0] * (1.3 - 0.4 * np.clip((z - middle) / part[A0], -1, 1))
        return np.hypot(np.hypot(along, z - middle) - part[A0], across) < thick
    level = (z - part[BOTTOM]) / (part[TOP] - part[BOTTOM])
    between = (level >= 0) & (level <= 1)
    half_x, half_y = part[A0] + (part[A1] - part[A0]) * level, part[B0] + (part[B1] - part[B0]) * level
    if part[KIND] == BOX:
        return between & (np.abs(along) <= half_x) & (np.abs(across) <= half_y)
    if part[KIND] == CONE:
        return between & (np.hypot(along, across) <= half_x)
    return (along / part[A0]) ** 2 + (across / part[B0]) ** 2 + (2 * level - 1) ** 2 <= 1


def ray_depths(world: World, pose: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Depth along the view at which rays meet ground, water or a landmark, [n]; infinite for the sky.

    Args:
        world: its height map and its solids.
        pose: camera-to-world, OpenCV axes, [4, 4].
        u, v: directions of the rays in focal lengths to the right and down, [n].
    """
    direction = pose[:3, :3] @ np.stack([u, v, np.ones_like(u)])  # [3, n], depth 1
    depth = np.geomspace(NEAR, FAR, RAY_STEPS)
    x = pose[0, 3] + depth[:, None] * direction[0]
    y = pose[1, 3] + depth[:, None] * direction[1]
    z = -(pose[2, 3] + depth[:, None] * direction[2])
    above = z - np.maximum(sample(world.height, x, y), 0)  # [steps, n]
    hit = np.argmax(above <= 0, axis=0)
    column = np.arange(len(u))
    is_hit, before = above[hit, column] <= 0, np.maximum(hit - 1, 0)
    gap = above[before, column] - above[hit, column]
    share = np.clip(above[before, column] / np.where(np.abs(gap) > 1e-9, gap, 1), 0, 1)
    found = np.where(is_hit, depth[before] + share * (depth[hit] - depth[before]), np.inf)
    for part in world.parts:
        found = np.minimum(found, _part_depths(part, pose, direction))
    return np.where(found <= FAR / np.linalg.norm(direction, axis=0), np.maximum(found, NEAR), np.inf)


def _part_depths(part: np.ndarray, pose: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Depth at which rays enter a part, [n], by samples along their way through its bounding sphere; else infinite."""
    centre = np.array((part[X], part[Y], -(part[TOP] + part[BOTTOM]) / 2)) - pose[:3, 3]
    centre[:2] = (centre[:2] + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    size = np.linalg.norm(direction, axis=0)
    middle = centre @ direction / size
    apart = centre @ centre - middle**2
    near = np.flatnonzero((apart < part[REACH] ** 2) & (middle > -part[REACH]) & (middle < FAR + part[REACH]))
    found = np.full(direction.shape[1], np.inf)
    if not len(near):
        return found
    ray = direction[:, near] / size[near]
    half = np.sqrt(part[REACH] ** 2 - apart[near])
    low, high = np.maximum(middle[near] - half, NEAR), middle[near] + half

    def is_in(way: np.ndarray) -> np.ndarray:
        point = pose[:3, 3][:, None, None] + way * ray[:, None]
        return inside(part, point[0], point[1], -point[2])

    way = low + np.linspace(0, 1, 160)[:, None] * (high - low)  # [samples, rays]
    entered = is_in(way)
    first, any_ = entered.argmax(0), entered.any(0)
    column = np.arange(len(near))
    outer, inner = way[np.maximum(first - 1, 0), column], way[first, column]
    for _ in range(12):
        half_way = (outer + inner) / 2
        is_inner = is_in(half_way[None])[0]
        outer, inner = np.where(is_inner, outer, half_way), np.where(is_inner, half_way, inner)
    found[near] = np.where(any_, inner / size[near], np.inf)
    return found


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
