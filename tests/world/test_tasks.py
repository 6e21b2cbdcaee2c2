"""Tasks as geometry: flown by a craft that is reckoned, so that nothing but the task decides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wanact.world import tasks
from wanact.world.craft import NUM_RAYS, RAY_DIRECTIONS_DEG, RAY_REACH, ReckonedCraft
from wanact.world.tasks import Aim, Gates


def fly(name: str, pilot, seed: int = 0) -> tuple[tasks.Verdict, float]:
    """The last verdict and the return of an episode."""
    craft = ReckonedCraft()
    task = tasks.set_up(name, craft, np.random.default_rng(seed))
    assert task is not None
    total, verdict = 0.0, tasks.Verdict(0.0)
    for step in range(task.num_steps):
        before = craft.pose
        craft.fly(pilot(tasks.observe(task, craft, step)))
        verdict = tasks.judge(task, before, craft, step + 1)
        total += verdict.reward
        if verdict.is_over:
            break
    return verdict, total


@pytest.mark.parametrize("name", tasks.NAMES)
def test_the_pilot_written_by_hand_does_every_task_and_chance_does_none(name):
    rng = np.random.default_rng(3)
    for seed in range(4):
        skilled, earned = fly(name, tasks.hand_written, seed)
        by_chance, won = fly(name, lambda _: rng.uniform(-1, 1, 4), seed)
        assert skilled.is_done and not by_chance.is_done
        assert earned > won + 1


def ahead(gates: list[Aim], sideways: float = 0.0, steps: int = 12) -> tuple[Gates, tasks.Verdict]:
    craft, task, verdict = ReckonedCraft((0.0, sideways, 30.0, 0.0, 0.0)), Gates(gates), tasks.Verdict(0.0)
    for step in range(steps):
        before = craft.pose
        craft.fly(np.array((1.0, 0, 0, 0)))
        verdict = tasks.judge(task, before, craft, step + 1)
        if verdict.is_over:
            break
    return task, verdict


def test_a_gate_is_passed_between_two_latent_frames_too():
    task, verdict = ahead([Aim(33.0, 0.0, 30.0, 0.0), Aim(67.0, 2.0, 30.0, 0.0)])
    assert verdict.is_done and task.next == 2


@pytest.mark.parametrize(
    ("sideways", "gate"),
    [(tasks.GATE_RADIUS + 1, Aim(33.0, 0.0, 30.0, 0.0)), (0.0, Aim(33.0, 0.0, 31.0 + tasks.GATE_HEIGHT, 0.0))],
)
def test_a_gate_that_is_flown_past_ends_the_episode(sideways, gate):
    task, verdict = ahead([gate], sideways)
    assert verdict.is_over and not verdict.is_done and task.next == 0


def test_a_gate_from_behind_counts_for_nothing():
    task, verdict = ahead([Aim(33.0, 0.0, 30.0, float(np.pi))])
    assert task.next == 0 and not verdict.is_done


def test_touching_something_is_the_end_even_in_the_last_gate():
    craft, task = ReckonedCraft(), Gates([Aim(5.0, 0.0, 30.0, 0.0)])
    before = craft.pose
    craft.fly(np.array((1.0, 0, 0, 0)))
    craft.touched = True
    verdict = tasks.judge(task, before, craft, 1)
    assert verdict.is_over and not verdict.is_done


def test_looking_away_from_the_landmark_sweeps_nothing():
    rng = np.random.default_rng(0)
    craft = ReckonedCraft()
    task = tasks.Circle.set_up(craft, rng)
    assert task is not None
    x, y, altitude, yaw, pitch = craft.pose
    craft.pose = (x, y, altitude, yaw + np.pi / 2, pitch)
    for step in range(20):
        before = craft.pose
        craft.fly(np.array((0.3 * task.clockwise, 0, 0, 0)))
        task.judge(before, craft, step + 1)
    assert task.swept == 0


class Walled(ReckonedCraft):
    """A craft before a wall across its way, 60 units ahead and as wide as is given, which its rays meet."""

    def __init__(self, wide: float):
        super().__init__()
        self.wide = wide

    def rays(self) -> np.ndarray:
        x, y, _, yaw, _ = self.pose
        azimuth = yaw + np.radians([ray[0] for ray in RAY_DIRECTIONS_DEG])
        with np.errstate(divide="ignore"):
            far = np.where(np.cos(azimuth) > 0, (60 - x) / np.cos(azimuth), RAY_REACH)
        met = (far > 0) & (np.abs(y + far * np.sin(azimuth)) < self.wide / 2)
        return np.where(met, np.minimum(far, RAY_REACH), RAY_REACH)


def test_the_pilot_written_by_hand_flies_round_what_its_rays_meet():
    for seed in range(3):
        craft = Walled(wide=50)
        task = tasks.Avoid(130.0, float(np.random.default_rng(seed).uniform(-15, 15)), 30.0, 0.0)
        verdict, aside_at_the_wall = tasks.Verdict(0.0), np.inf
        for step in range(task.num_steps):
            before = craft.pose
            craft.fly(tasks.hand_written(tasks.observe(task, craft, step)))
            if before[0] < 60 <= craft.pose[0]:
                aside_at_the_wall = abs(craft.pose[1])
            verdict = tasks.judge(task, before, craft, step + 1)
            if verdict.is_over:
                break
        assert verdict.is_done and 25 < aside_at_the_wall < np.inf


def test_hovering_until_the_time_is_over_is_as_dear_as_a_crash():
    verdict, total = fly("avoid", lambda _: np.zeros(4))
    assert verdict.is_over and not verdict.is_done and total < -tasks.CRASH_PENALTY


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_task_goes_on_from_json_to_the_last_bit(name):
    craft = ReckonedCraft()
    task = tasks.set_up(name, craft, np.random.default_rng(5))
    assert task is not None
    for step in range(8):
        before = craft.pose
        craft.fly(tasks.hand_written(tasks.observe(task, craft, step)))
        tasks.judge(task, before, craft, step + 1)
    again = tasks.from_json(json.loads(json.dumps(tasks.to_json(task))))
    assert again == task
    assert np.array_equal(tasks.observe(again, craft, 8), tasks.observe(task, craft, 8))


def test_what_is_seen_is_the_same_wherever_the_flight_is_and_however_it_is_turned():
    def seen(x: float, y: float, yaw: float) -> np.ndarray:
        craft = ReckonedCraft((x, y, 30.0, yaw, 0.0))
        task = tasks.set_up("gates", craft, np.random.default_rng(2))
        assert task is not None
        return tasks.observe(task, craft, 0)

    np.testing.assert_allclose(seen(0, 0, 0), seen(700, -80, 2.0), atol=1e-5)


def test_where_nothing_is_known_rays_meet_nothing():
    assert (ReckonedCraft().rays() == RAY_REACH).all() and len(ReckonedCraft().rays()) == NUM_RAYS


def test_an_unknown_task_is_named():
    with pytest.raises(tasks.TaskError, match="'looping' is not one of gates, course, circle, avoid"):
        tasks.set_up("looping", ReckonedCraft(), np.random.default_rng(0))
