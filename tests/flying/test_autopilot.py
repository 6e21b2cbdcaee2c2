"""A pilot at the sticks: it does what it is asked from what was flown alone, whoever flew it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.pilots import write_pilot
from wanact.actions import NUM_CHANNELS
from wanact.files import CheckpointError
from wanact.flying import autopilot
from wanact.flying.autopilot import WRITTEN, Autopilot, AutopilotError, Pilot, tasks_of, trained
from wanact.world import courses, tasks
from wanact.world.craft import ReckonedCraft
from wanact.world.followed_flight import ReckonedFlight
from wanact.world.tasks import Aim, Gates
from wanact.world.true_flight import TrueFlight

NONE = np.zeros((0, NUM_CHANNELS), np.float32)
RIGHT = np.eye(NUM_CHANNELS, dtype=np.float32)[5] * 3


def flown(pilot: Autopilot, count: int, before: np.ndarray = NONE) -> np.ndarray:
    """What was flown before, and then by the pilot."""
    actions = before
    for _ in range(count):
        pilot.follow(actions)
        actions = np.concatenate([actions, pilot.action()[None]])
    return actions


@pytest.mark.parametrize("task", tasks.NAMES)
def test_every_task_is_flown_again_and_again(task):
    pilot = Autopilot(WRITTEN, task, ReckonedFlight(), seed=3)
    moment = pilot.follow(flown(pilot, 150))
    assert moment.done >= 3 and moment.missed == 0
    assert len(moment.marks) >= 1 and all(len(ring) == 5 for ring in moment.marks)


def test_it_leads_through_all_rings_of_a_course():
    course = courses.COURSES[0]
    race = courses.Race(course, TrueFlight(course.start), 16.0)
    pilot = Autopilot(WRITTEN, "gates", TrueFlight(course.start), rings=lambda: course.centres[race.next :])
    actions = NONE
    while race.finished_s is None and len(actions) < 300:
        pilot.follow(actions)
        actions = np.concatenate([actions, pilot.action()[None]])
        race.fly(actions, ())
    assert race.finished_s is not None and pilot.follow(actions).missed == 0
    assert tasks.GATE_RADIUS < courses.RADIUS, "who flies through the gates flies through the rings"


def test_what_it_does_depends_on_what_was_flown_and_not_on_how_it_came_to_be():
    straight, astray = (Autopilot(WRITTEN, "gates", ReckonedFlight(), seed=5) for _ in range(2))
    actions = flown(straight, 12)
    other = np.concatenate([actions, np.repeat(RIGHT[None], 6, 0)])  # somebody else took over
    for number in range(len(other) + 1):
        astray.follow(other[:number])
    for number in (9, 10):  # and went back
        astray.follow(actions[:number])
    mine, yours = straight.follow(actions[:10]), astray.follow(actions[:10])
    assert mine.poses == yours.poses and mine.task == yours.task and mine.done == yours.done
    np.testing.assert_array_equal(straight.action(), astray.action())


def test_in_a_rest_time_stands_still():
    pilot = Autopilot(WRITTEN, "course", ReckonedFlight())
    actions = flown(pilot, 5)
    before = pilot.follow(actions)
    rested = np.concatenate([actions, np.zeros((3, NUM_CHANNELS), np.float32)])
    after = pilot.follow(rested, {6, 7, 8})
    assert after.step == before.step and after.craft.pose == before.craft.pose


def test_who_passes_beside_a_gate_flies_on_to_the_next_and_who_flies_away_gets_new_ones():
    def nothing(_: np.ndarray) -> np.ndarray:
        return np.array((1.0, 0, 0, 0))

    rings = [(40.0, 20.0, 30.0, 0.0), (85.0, 0.0, 30.0, 0.0)]
    straight = Autopilot(Pilot("", "straight", tasks.NAMES, nothing), "gates", ReckonedFlight(), rings=lambda: rings)
    moment = straight.follow(flown(straight, 6))
    assert moment.missed >= 1 and moment.task is not None
    pilot = Autopilot(WRITTEN, "gates", ReckonedFlight(), seed=1)
    pilot.follow(NONE)
    away = np.repeat(np.eye(NUM_CHANNELS, dtype=np.float32)[1:2] * 0.05, 30, 0)  # backwards
    gates = pilot.follow(away).task
    assert isinstance(gates, Gates)
    x, y, *_ = pilot.follow(away).craft.pose
    assert math.hypot(gates.gates[gates.next].x - x, gates.gates[gates.next].y - y) < autopilot.LEFT_BEHIND


def test_gates_between_rings_lead_smoothly_from_one_to_the_next():
    craft = ReckonedCraft()
    rings = [Aim(260.0, 60.0, 30.0, 0.6), Aim(420.0, 300.0, 36.0, 1.4)]
    gates = Gates.through(craft, rings)
    assert gates is not None and all(ring in gates.gates for ring in rings)
    places = np.array([craft.pose[:3], *(gate[:3] for gate in gates.gates)])
    steps = np.diff(places[:, :2], axis=0)
    assert (np.hypot(*steps.T) < 1.5 * tasks.SPACING).all()
    turns = np.diff(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])))
    assert np.abs(turns).max() < 0.6, "a drone of full speed turns by 0.25 in 48 units"
    assert Gates.through(craft, []) is None


def test_a_reckoned_drone_is_as_inert_as_the_simulators():
    course = courses.COURSES[0]
    true, reckoned = TrueFlight(course.start), ReckonedFlight()
    actions = np.concatenate([np.repeat(np.array([[0.05, 0, 0, 0.02, 0, 2, 0, 0]], np.float32), 12, 0), NONE])
    poses = [flight.follow(actions) for flight in (true, reckoned)]
    turned, way = [], []
    for flight, of in ((true, poses[0]), (reckoned, poses[1])):
        turned.append(of[-1][3] - flight.pose[3])
        way.append(math.hypot(of[-1][0] - flight.pose[0], of[-1][1] - flight.pose[1]))
    assert turned[0] == pytest.approx(turned[1], abs=1e-6) and way[0] == pytest.approx(way[1], rel=0.01)


def test_a_task_that_was_not_learnt_is_refused_in_a_sentence(tmp_path):
    run = write_pilot(tmp_path / "pilot", (100,))
    folder = run / "checkpoints" / "step-000000100"
    pilot = trained(folder, "pilot/step-000000100", "pilot · step 100")
    assert pilot.tasks == tasks_of(folder) == ("gates",)
    with pytest.raises(AutopilotError, match="has not learnt the task 'circle'; it flies gates"):
        Autopilot(pilot, "circle", ReckonedFlight())
    actions = flown(Autopilot(pilot, "gates", ReckonedFlight()), 3)
    assert np.isfinite(actions).all() and actions.shape == (3, NUM_CHANNELS)


def test_a_pilot_that_flies_by_what_it_sees_is_offered_nothing(tmp_path):
    folder = write_pilot(tmp_path / "pilot", (100,), observation="picture") / "checkpoints" / "step-000000100"
    assert tasks_of(folder) == ()
    with pytest.raises(CheckpointError, match="only state pilots"):
        trained(folder, "pilot/step-000000100", "a pilot")
