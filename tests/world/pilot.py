"""Somebody who finds the way through rings with the keys."""

from __future__ import annotations

import math

import numpy as np

from wanact.actions import FULL_DEFLECTION
from wanact.world.true_flight import WORLD_SIZE, Pose

LEAD = 60.0  # world units before a ring from which it is flown at straight


def pilot(pose: Pose, ring: tuple[float, float, float, float]) -> np.ndarray:
    """The action [8] that leads on to a ring (x, y, altitude, heading), and straight through it."""
    return steer(pose, ring) * np.array(FULL_DEFLECTION, np.float32)


def steer(pose: Pose, ring: tuple[float, float, float, float]) -> np.ndarray:
    """The same as shares of a held key, [8]."""
    x, y, _, heading = ring
    dx, dy = (_near(there - here) for there, here in zip((x, y), pose[:2], strict=True))
    if math.hypot(dx, dy) > LEAD:
        dx, dy = dx - 0.5 * LEAD * math.cos(heading), dy - 0.5 * LEAD * math.sin(heading)
    off = math.degrees((math.atan2(dy, dx) - pose[3] + math.pi) % (2 * math.pi) - math.pi)
    held = np.zeros(8, np.float32)
    held[0] = 1.0 if abs(off) < 50 else 0.0
    held[5 if off > 0 else 4] = min(1.0, abs(off) / 6) if abs(off) > 0.3 else 0.0
    return held


def _near(away: float) -> float:
    return (away + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
