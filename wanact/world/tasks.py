"""What a pilot is asked to fly, what it sees of it as numbers, and how well it did.

There are gates to fly through, a course to hold, a landmark to circle, and a place behind one to reach without a crash.

A task shows two *aims*, places with a heading, nearest first; so one pilot can fly all of them, and one written by hand
needs no more. Distances are world units, of which full forward flies ten a latent frame; angles are radians.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from wanact.errors import UserError
from wanact.world.craft import NUM_RAYS, RAY_DIRECTIONS_DEG, RAY_REACH, Craft, Pose

SCALE = 50.0  # world units that count as one in an observation
SPACING = 48.0  # world units between two gates
GATE_RADIUS = 8.0
GATE_HEIGHT = 16.0  # above and below the middle: no stick changes the height, hills do
CRASH_PENALTY = 1.0


class Aim(NamedTuple):
    """A place to fly to, and the heading there."""

    x: float
    y: float
    altitude: float
    yaw: float


class Verdict(NamedTuple):
    """What a latent frame was worth, whether it was the last, and whether the task is done."""

    reward: float
    is_over: bool = False
    is_done: bool = False


class TaskError(UserError):
    """A task that there is not, or that cannot be flown here."""


@dataclass
class Gates:
    """Fly through gates in their order, each through its front; the one that is missed is the last.

    The gates stand along a flight that a drone has flown, so that they can be reached.
    """

    name: ClassVar[str] = "gates"
    gates: list[Aim]
    next: int = 0
    num_steps: int = 64

    @classmethod
    def set_up(cls, craft: Craft, rng: np.random.Generator) -> Gates | None:
        """Gates along a random flight from here; None if it touches something."""
        return cls.along(craft, _winding(rng, 42))

    @classmethod
    def winding(cls, craft: Craft, rng: np.random.Generator) -> Gates | None:
        """Gates along a random flight from here, as far as nothing is touched; None if that is not far."""
        return cls.along(craft, _winding(rng, 42), cut=True)

    @classmethod
    def along(cls, craft: Craft, axes: np.ndarray, spacing: float = SPACING, cut: bool = False) -> Gates | None:
        """Gates along the flight of these sticks, [N, 4] in full deflections; None if there is no room for one.

        Args:
            cut: where the flight touches something, it ends there; without it there are no gates then.
        """
        ghost, gates, flown = craft.ghost(), [], 0.0
        for command in axes:
            before = ghost.pose
            ghost.fly(command)
            if ghost.touched:
                if cut:
                    break
                return None
            dx, dy = ghost.pose[0] - before[0], ghost.pose[1] - before[1]
            flown += float(np.hypot(dx, dy))
            if flown >= spacing:
                flown = 0.0
                gates.append(Aim(*ghost.pose[:3], float(np.arctan2(dy, dx))))
        return cls(gates, num_steps=int(1.5 * len(axes))) if gates else None

    @classmethod
    def through(cls, craft: Craft, rings: Sequence[Aim], spacing: float = SPACING) -> Gates | None:
        """Gates along a smooth way from here through rings that stand far apart; None without a ring.

        Each ring is a gate; those between hang on a curve that has the rings' headings, at their heights.
        """
        x, y, altitude, yaw, _ = craft.pose
        here, gates = Aim(x, y, altitude, yaw), []
        for ring in rings:
            far = float(np.hypot(ring.x - here.x, ring.y - here.y))
            count = max(1, round(far / spacing))
            gates += [_between(here, ring, number / count, far) for number in range(1, count)] + [ring]
            here = ring
        return cls(gates, num_steps=8 * len(gates)) if gates else None

    def aims(self, pose: Pose) -> tuple[Aim, Aim]:
        last = len(self.gates) - 1
        return self.gates[min(self.next, last)], self.gates[min(self.next + 1, last)]

    def judge(self, before: Pose, craft: Craft, step: int) -> Verdict:
        gate, pose = self.gates[self.next], craft.pose
        normal = np.array((np.cos(gate.yaw), np.sin(gate.yaw)))
        here, there = ((np.array(p[:2]) - gate[:2]) for p in (before, pose))
        reward = (np.linalg.norm(here) - np.linalg.norm(there)) / SCALE
        ahead = here @ normal, there @ normal
        if not ahead[0] < 0 <= ahead[1]:
            return Verdict(float(reward))
        share = ahead[0] / (ahead[0] - ahead[1])
        off = np.linalg.norm(here + share * (there - here))
        low = abs(before[2] + share * (pose[2] - before[2]) - gate.altitude)
        if off > GATE_RADIUS or low > GATE_HEIGHT:
            return Verdict(float(reward) - 1.0, is_over=True)
        self.next += 1
        is_last = self.next == len(self.gates)
        return Verdict(float(reward) + 1.0 + 2.0 * is_last, is_last, is_last)


@dataclass
class Course:
    """Hold an asked course and height for a while: along a line, where hills would lift the drone, round them."""

    name: ClassVar[str] = "course"
    x: float
    y: float
    altitude: float
    yaw: float
    lifted: float = 0.0  # summed over the flight
    num_steps: int = 48

    @classmethod
    def set_up(cls, craft: Craft, rng: np.random.Generator) -> Course | None:
        """A line from here, within 60 degrees of where it looks, over ground that lets it; None if there is none."""
        x, y, altitude, yaw, _ = craft.pose
        far = np.arange(20.0, 420.0, 20.0)
        for _ in range(8):
            asked = yaw + float(rng.uniform(-np.pi / 3, np.pi / 3))
            ground = craft.ground(x + far * np.cos(asked), y + far * np.sin(asked))
            if ground.max() + 9 < altitude + 6:
                return cls(x, y, altitude, asked)
        return None

    def _along(self, pose: Pose) -> tuple[float, float]:
        """How far along the line, and how far to the right of it."""
        dx, dy = pose[0] - self.x, pose[1] - self.y
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return float(dx * cos + dy * sin), float(dy * cos - dx * sin)

    def aims(self, pose: Pose) -> tuple[Aim, Aim]:
        along, _ = self._along(pose)
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return tuple(
            Aim(self.x + (along + far) * cos, self.y + (along + far) * sin, self.altitude, self.yaw)
            for far in (40.0, 90.0)
        )  # type: ignore[return-value]

    def judge(self, before: Pose, craft: Craft, step: int) -> Verdict:
        (was, _), (along, off) = self._along(before), self._along(craft.pose)
        lift = abs(craft.pose[2] - self.altitude)
        self.lifted += lift
        reward = (along - was) / SCALE - 0.1 * min(abs(off) / 20, 2) - 0.05 * min(lift / 10, 2)
        if step < self.num_steps:
            return Verdict(reward)
        is_done = along >= 6.0 * self.num_steps and abs(off) < 15 and self.lifted / self.num_steps < 10
        return Verdict(reward + 3.0 * is_done, True, is_done)


@dataclass
class Circle:
    """Look at a landmark and fly a quarter round it, at the asked distance; what is flown looking elsewhere is void."""

    name: ClassVar[str] = "circle"
    x: float
    y: float
    top: float
    radius: float
    clockwise: float  # 1 or -1
    swept: float = 0.0
    num_steps: int = 90

    ASKED: ClassVar[float] = np.pi / 2

    @classmethod
    def set_up(cls, craft: Craft, rng: np.random.Generator) -> Circle | None:
        """Round the nearest landmark in view, or a place ahead where landmarks are not known; None if there is none."""
        x, y, altitude, yaw, _ = craft.pose
        clockwise = 1.0 if rng.random() < 0.5 else -1.0
        places = craft.landmarks()
        if craft.height() == np.inf:
            far = float(rng.uniform(70, 110))
            return cls(x + far * np.cos(yaw), y + far * np.sin(yaw), altitude, far, clockwise)
        away = np.hypot(places[:, 0] - x, places[:, 1] - y)
        off = _angle(np.arctan2(places[:, 1] - y, places[:, 0] - x) - yaw)
        seen = np.flatnonzero((np.abs(off) < np.radians(45)) & (away < 200))
        if not len(seen):
            return None
        nearest = seen[away[seen].argmin()]
        radius = float(np.clip(away[nearest] * rng.uniform(0.75, 1.0), 60, 130))
        at_x, at_y, top = map(float, places[nearest])
        return cls(at_x, at_y, top, radius, clockwise)

    def aims(self, pose: Pose) -> tuple[Aim, Aim]:
        bearing = np.arctan2(pose[1] - self.y, pose[0] - self.x) + self.clockwise * np.radians(14)
        x, y = self.x + self.radius * np.cos(bearing), self.y + self.radius * np.sin(bearing)
        facing = float(np.arctan2(self.y - y, self.x - x))
        return Aim(self.x, self.y, self.top, facing), Aim(float(x), float(y), pose[2], facing)

    def judge(self, before: Pose, craft: Craft, step: int) -> Verdict:
        x, y, _, yaw, _ = craft.pose
        was, now = (np.arctan2(p[1] - self.y, p[0] - self.x) for p in (before, craft.pose))
        away = float(np.hypot(x - self.x, y - self.y))
        off = float(_angle(np.arctan2(self.y - y, self.x - x) - yaw))
        wrong = abs(away - self.radius) / self.radius
        turned = float(_angle(now - was)) * self.clockwise
        looks = abs(off) < np.radians(20)
        if looks and wrong < 0.35:
            self.swept += turned
        reward = 6 * turned * max(float(np.cos(1.5 * off)), 0.0) * float(np.exp(-((wrong / 0.3) ** 2)))
        reward -= 0.03 * min(wrong, 2.0) + 0.03 * min(abs(off), 1.0)
        is_done = self.swept >= self.ASKED
        return Verdict(reward + 3.0 * is_done, is_done, is_done)


@dataclass
class Avoid:
    """Do not crash: get to a place behind a landmark that stands in the way, by whichever way touches nothing."""

    name: ClassVar[str] = "avoid"
    x: float
    y: float
    altitude: float
    yaw: float
    num_steps: int = 80

    BEHIND: ClassVar[float] = 75.0  # world units from the landmark to the place
    NEAR: ClassVar[float] = 12.0  # that counts as there

    @classmethod
    def set_up(cls, craft: Craft, rng: np.random.Generator) -> Avoid | None:
        """Behind a landmark in view that is as high as the drone, or ahead where landmarks are not known."""
        x, y, altitude, yaw, _ = craft.pose
        if craft.height() == np.inf:
            far, bearing = float(rng.uniform(170, 260)), yaw + float(rng.uniform(-0.5, 0.5))
            return cls(x + far * np.cos(bearing), y + far * np.sin(bearing), altitude, bearing)
        places = craft.landmarks()
        away, bearing = _polar(places[:, :2], craft.pose)
        blocks = (np.abs(_angle(bearing - yaw)) < np.radians(45)) & (away > 60) & (away < 190)
        for index in rng.permutation(np.flatnonzero(blocks & (places[:, 2] > altitude))):
            far, heading = float(away[index]) + cls.BEHIND, float(bearing[index])
            there = x + far * np.cos(heading), y + far * np.sin(heading)
            ground = craft.ground(*np.array(there).reshape(2, 1))
            if craft.room(*there) > 2 * cls.NEAR and ground.max() + 9 < altitude:
                return cls(*there, altitude, heading)
        return None

    def aims(self, pose: Pose) -> tuple[Aim, Aim]:
        aim = Aim(self.x, self.y, self.altitude, self.yaw)
        return aim, aim

    def judge(self, before: Pose, craft: Craft, step: int) -> Verdict:
        was, away = (float(np.hypot(self.x - p[0], self.y - p[1])) for p in (before, craft.pose))
        is_done = away < self.NEAR
        reward = (was - away) / SCALE - 0.01 + 3.0 * is_done
        if not is_done and step >= self.num_steps:  # as dear as a crash, and the end: who hovers has nothing to come
            return Verdict(reward - CRASH_PENALTY, is_over=True)
        return Verdict(reward, is_done, is_done)


Task = Gates | Course | Circle | Avoid
TASKS: dict[str, type[Gates] | type[Course] | type[Circle] | type[Avoid]] = {
    task.name: task for task in (Gates, Course, Circle, Avoid)
}
NAMES = tuple(TASKS)

# Where in an observation what stands; all of it is about one in size.
_KIND = slice(0, len(NAMES))
_MOTION = slice(_KIND.stop, _KIND.stop + 4)
_BODY = slice(_MOTION.stop, _MOTION.stop + 3)  # pitch, height above the ground, share of the time that is left
_FIRST = slice(_BODY.stop, _BODY.stop + 6)  # ahead, right, up, cosine and sine of the heading there, nearness
_SECOND = slice(_FIRST.stop, _FIRST.stop + 6)
_RAYS = slice(_SECOND.stop, _SECOND.stop + NUM_RAYS)
SIZE = _RAYS.stop
LIMIT = 10.0
_LOOKS_AHEAD, _KEEPS_OFF = 90.0, 14.0  # world units, of the pilot written by hand
_WIDEST_WAY_DEG = 120  # off its aim that it goes round what is in the way


def set_up(name: str, craft: Craft, rng: np.random.Generator) -> Task | None:
    """A task of this name from where the craft is; None if it cannot be flown from there.

    Raises:
        TaskError: if there is no task of this name.
    """
    if name not in TASKS:
        raise TaskError(f"task={name!r} is not one of {', '.join(NAMES)}")
    return TASKS[name].set_up(craft, rng)


def judge(task: Task, before: Pose, craft: Craft, step: int) -> Verdict:
    """What a latent frame was worth; touching anything is a crash, and the end."""
    verdict = task.judge(before, craft, step)
    if craft.touched:
        return Verdict(verdict.reward - CRASH_PENALTY, is_over=True)
    return verdict


def to_json(task: Task) -> dict[str, Any]:
    """A task and how far it has been flown."""
    return {"name": task.name} | asdict(task)


def from_json(content: Mapping[str, Any]) -> Task:
    """The task that `to_json` wrote, to the last bit."""
    fields = {name: value for name, value in content.items() if name != "name"}
    if content["name"] == Gates.name:
        fields["gates"] = [Aim(*gate) for gate in fields["gates"]]
    return TASKS[content["name"]](**fields)


def observe(task: Task, craft: Craft, step: int) -> np.ndarray:
    """What a pilot is told, float32 [SIZE]: which task, how it moves, the two aims from where it is, and range rays."""
    seen = np.zeros(SIZE)
    seen[_KIND] = [task.name == name for name in NAMES]
    seen[_MOTION] = craft.velocity
    height = craft.height()
    seen[_BODY] = craft.pose[4], 1.0 if height == np.inf else height / SCALE, 1 - step / task.num_steps
    seen[_FIRST], seen[_SECOND] = (_as_seen(aim, craft.pose) for aim in task.aims(craft.pose))
    seen[_RAYS] = craft.rays() / RAY_REACH
    return np.clip(seen, -LIMIT, LIMIT).astype(np.float32)


def _as_seen(aim: Aim, pose: Pose) -> Sequence[float]:
    dx, dy, cos, sin = aim.x - pose[0], aim.y - pose[1], np.cos(pose[3]), np.sin(pose[3])
    turned = aim.yaw - pose[3]
    ahead, right = dx * cos + dy * sin, dy * cos - dx * sin
    nearness = np.exp(-np.hypot(dx, dy) / 20)
    up = (aim.altitude - pose[2]) / SCALE
    return ahead / SCALE, right / SCALE, up, np.cos(turned), np.sin(turned), nearness


def hand_written(observation: np.ndarray) -> np.ndarray:
    """Sticks [4] of a pilot that was written and not trained: it looks where it goes and slides onto the line.

    Args:
        observation: as `observe` gives it, [SIZE].
    """
    kind = NAMES[int(np.argmax(observation[_KIND]))]
    first, second = observation[_FIRST] * SCALE, observation[_SECOND] * SCALE
    if kind == Circle.name:  # looks at the first aim and goes to the second, no faster than it can turn
        bearing = np.arctan2(first[1], max(first[0], 1e-3))
        way = np.array(second[:2])
        way *= min(1.0, 0.36 * 10 / max(float(np.linalg.norm(way)), 1e-3)) / 10
        return np.clip(np.array((way[0], way[1], np.degrees(bearing) / 3, 0.0)), -1, 1)
    if kind == Avoid.name:
        return _round_what_is_in_the_way(first, observation[_RAYS] * RAY_REACH)
    ahead = max(float(first[0]), 8.0)
    turn = np.degrees(np.arctan2(first[1], ahead)) / 3
    return np.clip(np.array((0.9, 0.9 * 1.3 * first[1] / ahead, 0.5 * turn, 0.0)), -1, 1)


def _round_what_is_in_the_way(aim: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Sticks [4] along the way that leads nearest to the aim and past what the level rays meet.

    Args:
        aim: ahead and right of the drone, in world units, first of all.
        rays: how far each is free, [NUM_RAYS].
    """
    azimuth = np.radians([ray[0] for ray in RAY_DIRECTIONS_DEG if ray[1] == 0])
    free, bearing = rays[: len(azimuth)], float(np.arctan2(aim[1], aim[0]))
    away = np.radians(np.arange(-_WIDEST_WAY_DEG, _WIDEST_WAY_DEG + 1, 5))
    ways = bearing + away
    off = azimuth - ways[:, None]
    ahead, aside = free * np.cos(off), np.abs(free * np.sin(off))
    is_near = free < min(_LOOKS_AHEAD, float(np.hypot(aim[0], aim[1])))
    is_met = is_near & (ahead > 0) & (aside < _KEEPS_OFF + 0.15 * free)
    blocked = (is_met * (1.3 - free / _LOOKS_AHEAD)).sum(1)
    # It looks where it goes; so what is ahead is the side that it has chosen, and it does not waver before a wide wall.
    cost = np.abs(away) + np.abs(_angle(ways)) + 2.5 * blocked
    way = float(ways[cost.argmin()])
    speed = float(np.clip(free[np.abs(azimuth - way) < np.radians(35)].min(initial=45.0) / 50, 0.3, 0.9))
    return np.clip(np.array((speed * np.cos(way), speed * np.sin(way), np.degrees(_angle(way)) / 12, 0.0)), -1, 1)


def _polar(places: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """How far places [n, 2] are, and in which direction of the world, [n] each."""
    dx, dy = places[:, 0] - pose[0], places[:, 1] - pose[1]
    return np.hypot(dx, dy), np.arctan2(dy, dx)


def _between(here: Aim, there: Aim, share: float, far: float) -> Aim:
    """A place on the cubic curve between two that has their headings."""
    ends = np.array((here[:2], there[:2]))
    ways = far * np.array([(np.cos(aim.yaw), np.sin(aim.yaw)) for aim in (here, there)])
    t, rest = share, 1 - share
    place = rest**2 * (1 + 2 * t) * ends[0] + t**2 * (3 - 2 * t) * ends[1] + t * rest * (rest * ways[0] - t * ways[1])
    way = 6 * t * rest * (ends[1] - ends[0]) + rest * (1 - 3 * t) * ways[0] + t * (3 * t - 2) * ways[1]
    altitude = rest * here.altitude + t * there.altitude
    return Aim(float(place[0]), float(place[1]), altitude, float(np.arctan2(way[1], way[0])))


def _winding(rng: np.random.Generator, count: int) -> np.ndarray:
    """Sticks of a flight that goes ahead and winds, [count, 4]."""
    axes = np.zeros((count, 4))
    axes[:, 0] = rng.uniform(0.75, 1.0)
    step = 0
    while step < count:
        hold = int(rng.integers(4, 10))
        axes[step : step + hold, 2] = rng.uniform(-0.9, 0.9)
        axes[step : step + hold, 1] = rng.uniform(-0.35, 0.35) * (rng.random() < 0.5)
        step += hold
    return axes


def _angle(radians: np.ndarray | float) -> np.ndarray:
    return (np.asarray(radians) + np.pi) % (2 * np.pi) - np.pi
