"""A pilot at the sticks of a flight that others watch: it is told where the drone is, and what to fly to.

It is driven from the actions that were flown and sees no picture: over the simulator's own worlds the simulator's drone
follows them (`TrueFlight`), elsewhere the way is reckoned from the sticks (`ReckonedFlight`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wanact.actions import NUM_CHANNELS, ActionTrack
from wanact.errors import UserError
from wanact.files import CheckpointError, read_json
from wanact.models import pilot as networks
from wanact.world import tasks
from wanact.world.craft import FULL, Craft, Pose
from wanact.world.followed_flight import FollowedFlight

HAND_WRITTEN = "hand_written"  # id of the pilot that was written and not trained
LEFT_BEHIND = 110.0  # world units from the next gate, beyond which gates are put up anew
SEARCHING = np.array((0.5, 0.0, 0.35, 0.0))  # sticks where no task suits the place: on, in a wide circle
DECK_DEG = 8.0  # from where the gaze is brought back, of a pilot that was asked for none
MOST_MOMENTS = 1_500  # that are kept, for going back
MARKED = 3  # gates that are shown ahead
AIM_RADIUS = 5.0  # of the ring that marks an aim which is no gate

Fly = Callable[[np.ndarray], np.ndarray]


class AutopilotError(UserError):
    """A pilot or a task that cannot be flown; the message is one sentence for the visitor."""


@dataclass(frozen=True)
class Pilot:
    """Somebody who flies.

    Attributes:
        id: of a checkpoint, or `hand_written`.
        name: for people.
        tasks: what was learnt, of `tasks.NAMES`.
        fly: sticks [4] in [-1, 1] for an observation.
    """

    id: str
    name: str
    tasks: tuple[str, ...]
    fly: Fly


WRITTEN = Pilot(HAND_WRITTEN, "a pilot written by hand", tasks.NAMES, tasks.hand_written)


def tasks_of(checkpoint: Path) -> tuple[str, ...]:
    """What the pilot of a checkpoint's folder has learnt; nothing if it cannot be flown here.

    Raises:
        CheckpointError: if its configuration cannot be read.
    """
    config: dict[str, Any] = read_json(checkpoint / networks.CONFIG)
    if config.get("observation") != "state":
        return ()
    task = config.get("task")
    return tasks.NAMES if task == "mixed" else (task,) if task in tasks.NAMES else ()


def trained(checkpoint: Path, pilot_id: str, name: str) -> Pilot:
    """The pilot of a checkpoint's folder, whose sums somebody has verified.

    Raises:
        CheckpointError: if it cannot be read, or flies by what it sees.
    """
    network = networks.load_pilot(checkpoint)
    if network.size != tasks.SIZE:
        raise CheckpointError(f"{checkpoint.name} was trained on {network.size} numbers; tasks show {tasks.SIZE} here")
    return Pilot(pilot_id, name, tasks_of(checkpoint), network.act)


@dataclass(frozen=True)
class Moment:
    """Where an autopilot stands after a latent frame.

    Attributes:
        poses: of the drone in its four frames.
        craft: as a task sees it.
        task: None while none suits the place.
        step: of the task.
        done: gates flown through, or tasks done, since it was asked.
        missed: gates that were passed beside.
    """

    poses: Sequence[Pose]
    craft: Craft
    task: tasks.Task | None
    step: int = 0
    done: int = 0
    missed: int = 0

    @property
    def marks(self) -> list[list[float]]:
        """What it flies to, as rings: x, y, altitude, heading and radius; the next first."""
        if isinstance(self.task, tasks.Gates):
            ahead = self.task.gates[self.task.next : self.task.next + MARKED]
            return [[*gate, tasks.GATE_RADIUS] for gate in ahead]
        if self.task is None:
            return []
        first, second = self.task.aims(self.craft.pose)
        return [[*(first if isinstance(self.task, tasks.Circle) else second), AIM_RADIUS]]


class Autopilot:
    """A pilot with a task over one flight. Whoever flies tells it what was flown, and asks it for the next action.

    Args:
        pilot: who flies.
        task: a name of `pilot.tasks`.
        flight: follows the actions.
        seed: of what it is asked: the same flight is asked the same.
        rings: of a course, those that are still ahead (x, y, altitude, heading); `gates` leads through them.

    Raises:
        AutopilotError: if the pilot has not learnt the task.
    """

    def __init__(
        self,
        pilot: Pilot,
        task: str,
        flight: FollowedFlight,
        seed: int = 0,
        rings: Callable[[], Sequence[Sequence[float]]] = tuple,
    ):
        if task not in pilot.tasks:
            raise AutopilotError(
                f"the pilot “{pilot.name}” has not learnt the task {task[:20]!r}; it flies {', '.join(pilot.tasks)}"
            )
        self.pilot, self.task = pilot, task
        self._flight, self._rings = flight, rings
        self._seed = seed
        self._begin = 0  # the latent frame of the first moment
        self._moments: list[Moment] = []
        self._actions: list[np.ndarray] = []  # that led from each moment to the next

    def follow(self, magnitude: np.ndarray, rests: Collection[int] = frozenset()) -> Moment:
        """Where it stands after all actions from the beginning, [N, 8].

        Args:
            magnitude: what was flown, by whomever.
            rests: latent frames, from 1, in which time stands still.
        """
        now = len(magnitude)
        self._flight.follow(magnitude, rests)
        while self._moments and not self._still_holds(magnitude):
            self._moments.pop()
            if self._actions:
                self._actions.pop()
        if not self._moments:
            self._begin = now
            craft, poses = self._flight.craft(now)
            self._moments.append(self._ask(Moment(poses, craft, None), now))
        for number in range(self._begin + len(self._moments), now + 1):
            craft, poses = self._flight.craft(number)
            moment = replace(self._moments[-1], craft=craft, poses=poses)
            self._moments.append(moment if number in rests else self._judge(self._moments[-1], moment, number))
            self._actions.append(magnitude[number - 1].copy())
        if (many := len(self._moments) - MOST_MOMENTS) > 0:
            del self._moments[:many], self._actions[:many]
            self._begin += many
        return self._moments[-1]

    def _still_holds(self, magnitude: np.ndarray) -> bool:
        """Whether the newest moment is one of this flight; of those before it that follows."""
        last = self._begin + len(self._moments) - 1
        if last > len(magnitude):
            return False
        return not self._actions or np.array_equal(self._actions[-1], magnitude[last - 1])

    def action(self) -> np.ndarray:
        """Magnitudes [8] of the next action, from the newest moment."""
        moment = self._moments[-1]
        sticks = SEARCHING
        if moment.task is not None:
            step = min(moment.step, moment.task.num_steps - 1)
            sticks = np.clip(self.pilot.fly(tasks.observe(moment.task, moment.craft, step)), -1, 1)
            sticks = self._with_level_gaze(sticks, moment)
        return ActionTrack.from_axes(sticks[None] * FULL).magnitude[0]

    def fly(self, count: int) -> ActionTrack:
        """The track of so many actions that it flies from the beginning, with nobody else at the sticks."""
        actions = np.zeros((0, NUM_CHANNELS), np.float32)
        for _ in range(count):
            self.follow(actions)
            actions = np.concatenate([actions, self.action()[None]])
        return ActionTrack(actions)

    def _with_level_gaze(self, sticks: np.ndarray, moment: Moment) -> np.ndarray:
        """No task asks for looking up or down, so what a pilot does with that stick is chance: look ahead for it."""
        away = np.degrees(moment.craft.pose[4]) + DECK_DEG
        return np.array((*sticks[:3], np.clip(-away / FULL[3], -0.5, 0.5) if abs(away) > 1 else 0.0))

    # ---- what it is asked ------------------------------------------------------------------------------------

    def _judge(self, before: Moment, moment: Moment, number: int) -> Moment:
        """The moment after one more latent frame was flown: gates passed or missed, and the next task where one ended.

        Touching something ends no flight here: the drone slides round it, and goes on.
        """
        if before.task is None:
            return self._ask(moment, number)
        task, step = copy.copy(before.task), before.step + 1
        was = task.next if isinstance(task, tasks.Gates) else 0
        verdict = task.judge(before.craft.pose, moment.craft, step)
        passed = task.next - was if isinstance(task, tasks.Gates) else int(verdict.is_done)
        moment = replace(moment, task=task, step=step, done=before.done + passed)
        is_over = verdict.is_over
        if isinstance(task, tasks.Gates) and is_over and not verdict.is_done:
            task.next, moment = task.next + 1, replace(moment, missed=before.missed + 1)
            is_over = task.next >= len(task.gates)
        if is_over or step >= task.num_steps or _left_behind(task, moment.craft.pose):
            return self._ask(moment, number)
        return moment

    def _ask(self, moment: Moment, number: int) -> Moment:
        """The moment with a new task from where the drone is; without one if none suits the place."""
        return replace(moment, task=self._set_up(moment.craft, number), step=0)

    def _set_up(self, craft: Craft, number: int) -> tasks.Task | None:
        rng = np.random.default_rng([self._seed, number])
        if self.task != tasks.Gates.name:
            return tasks.set_up(self.task, craft, rng)
        rings = [tasks.Aim(*map(float, ring[:4])) for ring in self._rings()]
        if rings:
            return tasks.Gates.through(craft, rings)
        return tasks.Gates.winding(craft, rng)


def _left_behind(task: tasks.Task, pose: Pose) -> bool:
    """Whether somebody has flown away from the gates."""
    if not isinstance(task, tasks.Gates):
        return False
    gate = task.gates[task.next]
    return float(np.hypot(gate.x - pose[0], gate.y - pose[1])) > LEFT_BEHIND
