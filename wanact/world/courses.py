"""Courses: rings in known worlds, and who flies through them in which time.

The ground of a course lies so low that the drone keeps its height wherever it goes round there, and every ring has that
height: what has to be found is the way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from wanact.shapes import TEMPORAL_STRIDE
from wanact.world.true_flight import WORLD_SIZE, Pose, Start, TrueFlight

RADIUS = 15.0  # of a ring; the drone flies ten units in a latent frame


@dataclass(frozen=True)
class Course:
    """Rings that are to be flown through in their order.

    Attributes:
        name: as visitors read it.
        start: where it begins; its height is that of the rings.
        rings: x, y and the heading that leads straight through, in degrees. Either way through counts.
    """

    id: str
    name: str
    start: Start
    rings: tuple[tuple[float, float, float], ...]

    @property
    def pose(self) -> Pose:
        """Of the drone where the course begins."""
        assert self.start.pose is not None, "a course says where it begins"
        return self.start.pose

    @property
    def centres(self) -> list[tuple[float, float, float, float]]:
        """x, y, altitude and heading in radians of every ring."""
        return [(x, y, self.pose[2], math.radians(heading)) for x, y, heading in self.rings]


COURSES: tuple[Course, ...] = (
    Course(
        "lighthouses",
        "Lighthouse coast",
        Start(
            960002,
            (349.1, 1357.6, 89.3, 3.4434, -0.1047),
            biome="a tropical coast",
            time="at noon",
            weather="clear air",
        ),
        (
            (236.1, 1322.4, 197.0),
            (-46.4, 1355.8, 163.0),
            (-241.2, 1506.4, 133.0),
            (-318.5, 1786.2, 89.0),
            (-193.3, 2040.0, 51.0),
            (-138.7, 2325.1, 95.0),
        ),
    ),
    Course(
        "obelisks",
        "Obelisks at dusk",
        Start(
            960006, (1855.0, 1210.7, 95.1, 3.5072, -0.1047), biome="a sandy desert", time="at dusk", weather="clear air"
        ),
        (
            (1744.5, 1168.4, 201.0),
            (1382.1, 1265.7, 145.0),
            (1048.0, 1279.4, 197.0),
            (825.8, 1061.2, 237.0),
            (510.7, 926.4, 183.0),
            (279.6, 1008.1, 149.0),
        ),
    ),
    Course(
        "bridges",
        "Bridges in the city",
        Start(
            960008, (1797.7, 1781.4, 49.6, 0.136, -0.1047), biome="a city", time="in the morning", weather="clear air"
        ),
        (
            (1915.0, 1797.4, 8.0),
            (2228.0, 1668.2, -36.0),
            (2604.3, 1677.2, 24.0),
            (2788.8, 1856.6, 60.0),
            (2831.9, 2099.5, 88.0),
            (2991.9, 2364.6, 44.0),
        ),
    ),
    Course(
        "windmills",
        "Round the windmills",
        Start(960010, (568.1, 897.7, 68.1, 1.8278, -0.1047), biome="farmland", time="at noon", weather="clear air"),
        (
            (538.0, 1012.1, 105.0),
            (658.7, 1341.7, 49.0),
            (990.3, 1441.0, 1.0),
            (1228.2, 1347.7, -31.0),
            (1470.4, 1309.9, 3.0),
            (1686.4, 1242.0, -27.0),
        ),
    ),
)


def find(course_id: object) -> Course | None:
    """The course of this id."""
    return next((course for course in COURSES if course.id == course_id), None)


def crossing(before: Pose, after: Pose, ring: tuple[float, float, float, float]) -> float | None:
    """When a drone on its way from one pose to the next flies through a ring, 0 to 1; None if it does not."""
    x, y, altitude, heading = ring
    normal = np.array((math.cos(heading), math.sin(heading), 0.0))
    one, other = (_away(pose, (x, y, altitude)) for pose in (before, after))
    depth = float(one @ normal), float(other @ normal)
    if (depth[0] < 0) == (depth[1] < 0):
        return None
    share = depth[0] / (depth[0] - depth[1])
    return share if np.linalg.norm(one + share * (other - one)) <= RADIUS else None


def _away(pose: Pose, place: tuple[float, float, float]) -> np.ndarray:
    """From a place to a pose, the shorter way round in a world that wraps, [3]."""
    away = np.subtract(pose[:3], place)
    away[:2] = (away[:2] + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    return away


@dataclass
class Race:
    """A flight through a course, and its time.

    The time is the flight's own: of all frames from the first that obeys a key, so that a slow server costs nobody
    anything; and what the flight has waited for its visitor, so that nobody gains by it.

    Args:
        course: that is flown.
        flight: at its beginning.
        fps: frames of a second.

    Attributes:
        next: number of the ring that is next.
        began: the first latent frame that obeys a key; 0 before.
        waited_s: for the visitor, since then.
        finished_s: the time, once all rings are behind.
        counts: whether nothing has been taken back.
    """

    course: Course
    flight: TrueFlight
    fps: float
    next: int = 0
    began: int = 0
    waited_s: float = 0.0
    finished_s: float | None = None
    counts: bool = True
    _flown: int = field(default=0, init=False)

    def fly(self, magnitude: np.ndarray, rests: Collection[int]) -> Sequence[Pose]:
        """Fly on by the newest latent frame, and look for rings in it.

        Args:
            magnitude: all actions from the beginning, [N, 8].
            rests: latent frames in which time stands still.

        Returns:
            Where the drone is in its four frames.
        """
        now, poses = len(magnitude), self.flight.follow(magnitude, rests)
        if not self.began and magnitude[-1].any():
            self.began = now
        if self.counts and now == self._flown + 1:
            self._pass(now, poses)
        self._flown = now
        return poses[1:]

    def _pass(self, latent_frame: int, poses: Sequence[Pose]) -> None:
        rings = self.course.centres
        for number in range(TEMPORAL_STRIDE):
            if self.next == len(rings):
                return
            share = crossing(poses[number], poses[number + 1], rings[self.next])
            if share is not None:
                self.next += 1
                if self.next == len(rings):
                    self.finished_s = round(self._seconds(latent_frame, number + share), 2)

    def _seconds(self, latent_frame: int, frames: float) -> float:
        return (TEMPORAL_STRIDE * (latent_frame - self.began) + frames) / self.fps + self.waited_s

    @property
    def seconds(self) -> float:
        """The time so far."""
        if self.finished_s is not None:
            return self.finished_s
        return self._seconds(self._flown, TEMPORAL_STRIDE) if self.began else 0.0

    def wait(self, seconds: float) -> None:
        """The flight has waited for its visitor."""
        if self.began and self.finished_s is None:
            self.waited_s += seconds

    def take_back(self) -> None:
        """Something was taken back: what is flown from then on does not count."""
        self.counts = self.counts and self.finished_s is not None
