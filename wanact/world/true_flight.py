"""The simulator's drone under the keys of a live flight: where it truly is, and what it truly sees.

Nothing of a simulator but what is imported here is known to the page.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanact.actions import NUM_CHANNELS, ActionTrack
from wanact.shapes import TEMPORAL_STRIDE
from wanact.world import simulator

Pose = simulator.Pose  # x, y, altitude, yaw, pitch in world units and radians
WORLD_SIZE = float(simulator.WORLD_SIZE)
MAX_PIXELS = 384 * 640  # of a picture: what is larger is drawn smaller, and shown larger
KEPT_WORLDS = 4  # of 31 MB

_RESTING = np.full(NUM_CHANNELS, -1.0)  # no action is like it
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


class TrueFlight:
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
        self.pose = pose
        self._actions: list[np.ndarray] = []
        self._drones = [simulator.Drone(self.world, pose)]  # after each latent frame
        self._poses: list[Pose] = [pose]  # of each frame
        self._lock = threading.Lock()

    def follow(self, magnitude: np.ndarray, rests: Collection[int] = frozenset()) -> list[Pose]:
        """Fly what was flown, from the first action in which it differs from what was flown here.

        Args:
            magnitude: all actions from the beginning, [N, 8].
            rests: latent frames, from 1, in which time stands still.

        Returns:
            Where the drone is in the four frames of latent frame N, and in the frame before them.
        """
        actions = [_RESTING if n in rests else action for n, action in enumerate(magnitude, 1)]
        with self._lock:
            same = 0
            for flown, action in zip(self._actions, actions, strict=False):
                if not np.array_equal(flown, action):
                    break
                same += 1
            if same < len(actions):
                del self._actions[same:], self._drones[same + 1 :], self._poses[1 + TEMPORAL_STRIDE * same :]
            for action in actions[same:]:
                drone = copy.copy(self._drones[-1])
                if action is _RESTING:
                    self._poses += [drone.pose] * TEMPORAL_STRIDE
                else:
                    self._poses += drone.step(ActionTrack(action[None]).axes[0].astype(float))
                self._drones.append(drone)
                self._actions.append(action)
            last = TEMPORAL_STRIDE * len(actions)
            return self._poses[max(0, last - TEMPORAL_STRIDE) : last + 1]

    def draw(self, pose: Pose, height: int, width: int) -> np.ndarray:
        """What the drone sees there, uint8 [h, w, 3], of the shape that is asked for, and smaller if that is large."""
        scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
        return simulator.render(self.world, pose, round(height * scale), round(width * scale))
