"""A film of a flight that was measured: what the drone saw, and the rings that its pilot flew to."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from train.pilot.envs import SimEnv, TaskEnv, WorldEnv
from wanact.flying.autopilot import Moment
from wanact.world import simulator
from wanact.world.craft import Pose
from wanact.world.poses import pose_matrix

SIZE = (192, 320)
FPS = 8  # twice as fast as flown: one frame a latent frame
NEXT, LATER = (255, 221, 64), (236, 240, 246)
_POINTS = 48
_NEAR = 0.5  # world units; what is nearer is not drawn


class Camera:
    """Takes one picture a latent frame of the episode that an environment flies.

    Args:
        env: whose episode has just begun. Of the simulator's worlds, training keeps too little to draw them; so its
            world is made again.
    """

    def __init__(self, env: TaskEnv):
        self.env = env
        self.world = simulator.make_world(env.world) if isinstance(env, SimEnv) else None
        self.frames = [self._frame()]

    def take(self) -> None:
        """Keep what is seen now."""
        self.frames.append(self._frame())

    def _frame(self) -> np.ndarray:
        env = self.env
        if self.world is not None:
            picture = simulator.render(self.world, env.craft.pose, *SIZE)
        else:
            assert isinstance(env, WorldEnv), "a drone flies in the simulator or in a world model"
            picture = cv2.resize(env.newest[0], SIZE[::-1], interpolation=cv2.INTER_AREA)
        marks = Moment((), env.craft, env.task).marks if _has_aim(env.task) else []
        return draw_rings(picture, env.craft.pose, marks)


def draw_rings(picture: np.ndarray, pose: Pose, marks: list[list[float]]) -> np.ndarray:
    """The picture, uint8 [H, W, 3], with rings (x, y, altitude, heading, radius) as they are seen from there.

    The first is drawn last and brightest.
    """
    drawn = np.ascontiguousarray(picture).copy()
    height, width = drawn.shape[:2]
    focal = width / 2 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    to_camera = np.linalg.inv(pose_matrix(pose))
    angle = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
    for number in range(len(marks) - 1, -1, -1):
        x, y, altitude, heading, radius = marks[number]
        aside = radius * np.cos(angle)
        ring = np.stack([x - aside * np.sin(heading), y + aside * np.cos(heading),
                         -(altitude + radius * np.sin(angle)), np.ones(_POINTS)])  # fmt: skip
        right, down, ahead, _ = to_camera @ ring
        safe = np.maximum(ahead, _NEAR)
        points = np.stack([width / 2 + focal * right / safe, height / 2 + focal * down / safe], 1)
        points = np.clip(points, -4 * width, 4 * width).round().astype(np.int32)
        colour, thickness = (NEXT, 2) if number == 0 else (LATER, 1)
        for here in range(_POINTS):
            there = (here + 1) % _POINTS
            if min(ahead[here], ahead[there]) > _NEAR:
                ends = tuple(map(int, points[here])), tuple(map(int, points[there]))
                cv2.line(drawn, *ends, colour, thickness, cv2.LINE_AA)
    return drawn


def _has_aim(task: Any) -> bool:
    """Whether there is still something to fly to: after the last gate there is not."""
    return getattr(task, "next", 0) < len(getattr(task, "gates", (None,)))
