"""What a pilot flies: the simulator's drone, which knows the ground, or one whose way is reckoned from its motion.

The simulator is imported here alone among what serves pilots.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from wanact.actions import FULL_DEFLECTION
from wanact.shapes import TEMPORAL_STRIDE
from wanact.world import landmarks, simulator
from wanact.world.poses import PATH_UNITS
from wanact.world.terrain import WORLD_SIZE, sample

FULL = np.array(FULL_DEFLECTION)[1::2]  # of the four axes: ahead, right, yaw right, pitch up
RAY_REACH = 160.0  # world units; what is farther counts as this far
RAY_DIRECTIONS_DEG = tuple((azimuth, 0.0) for azimuth in range(-80, 81, 20)) + tuple(
    (azimuth, -14.0) for azimuth in range(-50, 51, 25)
)
NUM_RAYS = len(RAY_DIRECTIONS_DEG)
RAY_SAMPLES = 24

Pose = simulator.Pose


class Craft(Protocol):
    """What a task is flown with.

    Attributes:
        pose: x, y, altitude, yaw, pitch in world units and radians; x and y do not wrap.
        velocity: ahead, right, yaw right, pitch up in the latent frame before, [4], in full deflections.
        touched: whether something kept it from where the sticks led.
    """

    @property
    def pose(self) -> Pose: ...

    @property
    def velocity(self) -> np.ndarray: ...

    @property
    def touched(self) -> bool: ...

    def fly(self, axes: np.ndarray) -> None:
        """One latent frame: sticks [4] in full deflections."""
        ...

    def height(self) -> float:
        """World units above the ground or the water, `inf` where nobody knows."""
        ...

    def rays(self) -> np.ndarray:
        """How far it is to what stands in the way, [NUM_RAYS] world units, RAY_REACH where nothing is known."""
        ...

    def ground(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height of the ground or the water at these places, `-inf` where nobody knows."""
        ...

    def landmarks(self) -> np.ndarray:
        """Where landmarks stand: x, y, height of the top, [n, 3], the copy of each that is nearest."""
        ...

    def room(self, x: float, y: float) -> float:
        """World units from there to the nearest landmark as high as the craft; `inf` where none is known."""
        ...

    def ghost(self) -> Craft:
        """Another craft that is where this one is, and as fast."""
        ...


class SimulatedCraft:
    """The simulator's drone in one of its worlds."""

    def __init__(self, world: simulator.World, pose: Pose):
        self.drone = simulator.Drone(world, pose)

    @classmethod
    def of(cls, drone: simulator.Drone) -> SimulatedCraft:
        """The craft that this drone is."""
        craft = cls.__new__(cls)
        craft.drone = drone
        return craft

    @property
    def world(self) -> simulator.World:
        return self.drone.world

    @property
    def pose(self) -> Pose:
        return self.drone.pose

    @property
    def velocity(self) -> np.ndarray:
        return self.drone.velocity * TEMPORAL_STRIDE / FULL

    @property
    def touched(self) -> bool:
        return self.drone.touched

    def fly(self, axes: np.ndarray) -> None:
        self.drone.step(np.asarray(axes, np.float64) * FULL)

    def height(self) -> float:
        x, y, altitude, _, _ = self.pose
        return altitude - float(self.ground(np.array(x), np.array(y)))

    def ground(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum(sample(self.world.height, x, y), 0)

    def rays(self) -> np.ndarray:
        x, y, altitude, yaw, _ = self.pose
        azimuth, elevation = np.radians(RAY_DIRECTIONS_DEG).T
        way = np.linspace(0, RAY_REACH, RAY_SAMPLES + 1)[1:, None]
        px = x + way * np.cos(yaw + azimuth) * np.cos(elevation)
        py = y + way * np.sin(yaw + azimuth) * np.cos(elevation)
        pz = altitude + way * np.sin(elevation)
        met = (self.ground(px, py) >= pz) | self._kept_off(px, py, pz)
        return np.where(met.any(0), way[met.argmax(0), 0], RAY_REACH)

    def _kept_off(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """At which points the drone would be kept off a landmark's part, bool of their shape.

        With the berth that it keeps, or else a roof just below it would be touched unseen, and a sail from its edge.
        """
        berth, parts = simulator.BERTH, self.world.parts
        near = np.hypot(*_wrapped(parts[:, [landmarks.X, landmarks.Y]] - self.pose[:2]).T)
        parts = parts[near < RAY_REACH + berth + 2 * parts[:, landmarks.REACH]]
        kept = np.zeros(x.shape, bool)
        for part, half, is_round in zip(parts, *landmarks.outlines(parts), strict=True):
            dx, dy = _wrapped(x - part[landmarks.X]), _wrapped(y - part[landmarks.Y])
            cos, sin = part[landmarks.COS], part[landmarks.SIN]
            if is_round:
                away = np.hypot(dx, dy) - half.max()
            else:
                along, across = np.abs(dx * cos + dy * sin) - half[0], np.abs(dy * cos - dx * sin) - half[1]
                away = np.hypot(np.maximum(along, 0), np.maximum(across, 0))
            kept |= (part[landmarks.BOTTOM] - berth < z) & (z < part[landmarks.TOP] + berth) & (away < berth)
        return kept

    def landmarks(self) -> np.ndarray:
        places = np.array(self.world.places, float).reshape(-1, 3)
        places[:, :2] = np.array(self.pose[:2]) + _wrapped(places[:, :2] - self.pose[:2])
        return places

    def room(self, x: float, y: float) -> float:
        parts = self.world.parts
        tall = parts[parts[:, landmarks.TOP] + simulator.BERTH > self.pose[2]]
        distance, _ = landmarks.clearance(tall, x, y, WORLD_SIZE)
        return float(distance.min(initial=np.inf))

    def ghost(self) -> SimulatedCraft:
        ghost = SimulatedCraft(self.world, self.pose)
        ghost.drone.velocity, ghost.drone.climb = self.drone.velocity.copy(), self.drone.climb
        return ghost

    def picture(self, height: int, width: int) -> np.ndarray:
        """What it sees, uint8 [H, W, 3]."""
        return simulator.render(self.world, self.pose, height, width)

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from, as JSON; numbers come back to the last bit."""
        drone = self.drone
        return {
            "pose": list(drone.pose),
            "velocity": drone.velocity.tolist(),
            "climb": float(drone.climb),
            "touched": bool(drone.touched),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        x, y, altitude, yaw, pitch = map(float, state["pose"])
        self.drone.pose = (x, y, altitude, yaw, pitch)
        self.drone.velocity = np.array(state["velocity"], np.float64)
        self.drone.climb, self.drone.touched = float(state["climb"]), bool(state["touched"])


class ReckonedCraft:
    """A craft whose way is reckoned from how it moved: from its sticks, or from what a model reads off its frames.

    There is no ground and nothing in the way that anybody knew of, and its height stays.
    """

    touched = False

    def __init__(self, pose: Pose = (0.0, 0.0, 30.0, 0.0, -0.14)):
        self.pose, self.velocity = pose, np.zeros(4)

    def step(self, command: np.ndarray) -> list[Pose]:
        """Fly one latent frame by its sticks, with the simulator's inertia; the poses of its pixel frames.

        Args:
            command: ahead, right, yaw right and pitch up, [4], in the units of a track.
        """
        poses, wanted = [], np.asarray(command, np.float64) / FULL
        for _ in range(TEMPORAL_STRIDE):
            speed = self.velocity + simulator.RESPONSE * (wanted - self.velocity)
            self._move(speed / TEMPORAL_STRIDE)
            self.velocity = speed
            poses.append(self.pose)
        return poses

    def fly(self, axes: np.ndarray) -> None:
        """One latent frame of which is known how it was moved, in full deflections."""
        self.velocity = np.asarray(axes, np.float64)
        self._move(self.velocity)

    def _move(self, axes: np.ndarray) -> None:
        x, y, altitude, yaw, pitch = self.pose
        ahead, right, turn, tilt = axes * FULL
        low, high = np.radians(simulator.PITCH_LIMITS_DEG)
        middle = yaw + np.radians(turn) / 2
        x += PATH_UNITS * (ahead * np.cos(middle) - right * np.sin(middle))
        y += PATH_UNITS * (ahead * np.sin(middle) + right * np.cos(middle))
        pitch = float(np.clip(pitch + np.radians(tilt), low, high))
        self.pose = (float(x), float(y), altitude, float(yaw + np.radians(turn)), pitch)

    def height(self) -> float:
        return float("inf")

    def rays(self) -> np.ndarray:
        return np.full(NUM_RAYS, RAY_REACH)

    def ground(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.full(np.broadcast(x, y).shape, -np.inf)

    def landmarks(self) -> np.ndarray:
        return np.zeros((0, 3))

    def room(self, x: float, y: float) -> float:
        return float("inf")

    def ghost(self) -> ReckonedCraft:
        ghost = ReckonedCraft(self.pose)
        ghost.velocity = self.velocity.copy()
        return ghost


class Worlds:
    """Simulated worlds by their seeds, the newest few kept: making one takes about a second.

    Args:
        keep: how many.
        with_pictures: keep what drawing needs, which is most of a world's memory.
    """

    def __init__(self, keep: int = 16, with_pictures: bool = False):
        self.keep, self.with_pictures = keep, with_pictures
        self._made: OrderedDict[int, simulator.World] = OrderedDict()

    def __call__(self, seed: int) -> simulator.World:
        """The world of this seed."""
        if seed not in self._made:
            world = simulator.make_world(seed)
            if not self.with_pictures:
                world.colour = world.sky = world.haze = np.zeros(0, np.float32)
            self._made[seed] = world
        self._made.move_to_end(seed)
        while len(self._made) > self.keep:
            self._made.popitem(last=False)
        return self._made[seed]


def start(world: simulator.World, rng: np.random.Generator) -> SimulatedCraft:
    """A craft at rest where a clip would begin."""
    return SimulatedCraft(world, simulator.fly_poses(world, rng, 1)[0])


def _wrapped(distance: np.ndarray) -> np.ndarray:
    return (distance + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
