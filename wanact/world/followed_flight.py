"""A live flight flown a second time beside it, by the same actions: where a drone is after each latent frame."""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection
from typing import Any

import numpy as np

from wanact.actions import NUM_CHANNELS, ActionTrack
from wanact.shapes import TEMPORAL_STRIDE
from wanact.world.craft import Craft, Pose, ReckonedCraft, SimulatedCraft

_RESTING = np.full(NUM_CHANNELS, -1.0)  # no action is like it


class FollowedFlight:
    """Follows what is flown, and goes back with it. Safe to share between threads.

    Args:
        drone: where the flight begins: something with a `pose` and a `step`, as `craft.ReckonedDrone` has them.

    Attributes:
        pose: where it begins.
    """

    def __init__(self, drone: Any):
        self.pose: Pose = drone.pose
        self._actions: list[np.ndarray] = []
        self._drones = [drone]  # after each latent frame
        self._poses: list[Pose] = [drone.pose]  # of each frame
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
            return self._poses_of(len(actions))

    def craft(self, latent_frame: int) -> tuple[Craft, list[Pose]]:
        """What a task can be flown with after a latent frame that was followed, and where it was in its frames."""
        with self._lock:
            return self._craft_of(copy.copy(self._drones[latent_frame])), self._poses_of(latent_frame)[1:]

    def _craft_of(self, drone: Any) -> Craft:
        raise NotImplementedError

    def _poses_of(self, latent_frame: int) -> list[Pose]:
        last = TEMPORAL_STRIDE * latent_frame
        return self._poses[max(0, last - TEMPORAL_STRIDE) : last + 1]


class ReckonedFlight(FollowedFlight):
    """A flight over ground that nobody knows: its way is reckoned from its sticks, with the inertia of our drone."""

    def __init__(self):
        super().__init__(ReckonedCraft())

    def _craft_of(self, drone: Any) -> Craft:
        return drone


class FlightInAWorld(FollowedFlight):
    """A flight in a world of the simulator."""

    def _craft_of(self, drone: Any) -> Craft:
        return SimulatedCraft.of(drone)
