"""The simulator's drone under the keys of a live flight: where it truly is, and what it truly sees.

Nothing of a simulator but what is imported here is known to the page.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanact.actions import ActionTrack
from wanact.world import simulator
from wanact.world.followed_flight import FlightInAWorld

Pose = simulator.Pose  # x, y, altitude, yaw, pitch in world units and radians
WORLD_SIZE = float(simulator.WORLD_SIZE)
MAX_PIXELS = 384 * 640  # of a picture: what is larger is drawn smaller, and shown larger
KEPT_WORLDS = 4  # of 31 MB

_making = threading.Lock()  # two that want a world make it once


@dataclass(frozen=True)
class Start:
    """A place in a known world, where a flight begins.

    Attributes:
        world: its seed.
        pose: of the drone; None for where the simulator puts it by `take`.
        biome, time, weather: as the simulator calls them, instead of the seed's own.
    """

    world: int
    pose: Pose | None = None
    take: int = 0
    biome: str | None = None
    time: str | None = None
    weather: str | None = None

    @classmethod
    def of_sample(cls, sample: Any) -> Start | None:
        """Where a sample frame was taken; None for a photograph."""
        if sample.world is None:
            return None
        return cls(sample.world, sample.pose, sample.take)


def world_of(start: Start) -> simulator.World:
    """The world of a flight; it takes seconds to make, and is kept for the next."""
    with _making:
        return _world(start.world, start.biome, start.time, start.weather)


@functools.lru_cache(maxsize=KEPT_WORLDS)
def _world(seed: int, biome: str | None, time: str | None, weather: str | None) -> simulator.World:
    return simulator.make_world(seed, biome, time, weather)


def first_frame(start: Start, height: int, width: int) -> tuple[np.ndarray, str]:
    """What the drone sees before it flies, uint8 [H, W, 3], and the words for it."""
    flight = TrueFlight(start)
    return simulator.render(flight.world, flight.pose, height, width), flight.world.caption


class TrueFlight(FlightInAWorld):
    """A flight as the simulator flies it, with inertia, height and berth as in training. Safe to share between threads.

    Args:
        start: where it begins; its world is made if it is not kept.

    Attributes:
        world: that is flown in.
        pose: where it begins.
    """

    def __init__(self, start: Start):
        self.world = world_of(start)
        pose = start.pose
        if pose is None:
            rng = np.random.default_rng([start.world, start.take])
            pose = simulator.fly_poses(self.world, rng, 1, ActionTrack.zeros(0))[0]
        super().__init__(simulator.Drone(self.world, pose))

    def draw(self, pose: Pose, height: int, width: int) -> np.ndarray:
        """What the drone sees there, uint8 [h, w, 3], of the shape that is asked for, and smaller if that is large."""
        scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
        return simulator.render(self.world, pose, round(height * scale), round(width * scale))
