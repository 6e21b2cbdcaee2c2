"""A live flight in a known world: where its drone truly is, what it truly sees, and which rings it flies through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.world.pilot import pilot
from wanact.actions import ActionTrack, channel_track
from wanact.ui.samples import Sample
from wanact.world import courses
from wanact.world.courses import COURSES, RADIUS, Race, crossing
from wanact.world.true_flight import WORLD_SIZE, Start, TrueFlight, first_frame, simulator

FORWARD, RIGHT = (channel_track(name, 1).magnitude[0] for name in ("forward", "yaw_right"))
REST = np.zeros(8, np.float32)


@pytest.fixture(scope="module")
def course() -> courses.Course:
    return COURSES[0]


def flown(*actions: np.ndarray) -> np.ndarray:
    return np.stack(actions)


def test_a_flight_that_is_followed_step_by_step_is_that_of_a_whole_clip(course):
    """One drone for training clips and for live flights."""
    track = ActionTrack(flown(REST, FORWARD, FORWARD, RIGHT, RIGHT, FORWARD, REST))
    start = Start(course.start.world, take=5)
    flight = TrueFlight(start)
    poses = [flight.pose]
    for number in range(1, len(track) + 1):
        poses += flight.follow(track.magnitude[:number])[1:]
    rng = np.random.default_rng([start.world, 5])
    assert poses == simulator.fly_poses(flight.world, rng, 29, track)


def test_what_was_taken_back_has_never_been(course):
    one, other = TrueFlight(course.start), TrueFlight(course.start)
    one.follow(flown(FORWARD, RIGHT, RIGHT, FORWARD))
    again = one.follow(flown(FORWARD, FORWARD, FORWARD))
    assert again == other.follow(flown(FORWARD, FORWARD, FORWARD)) and len(again) == 5
    assert one.follow(flown(FORWARD)) == other.follow(flown(FORWARD)), "an earlier moment is looked up"
    assert one.follow(flown(FORWARD, FORWARD, FORWARD)) == again


def test_time_stands_still_in_a_rest(course):
    flight = TrueFlight(course.start)
    before = flight.follow(flown(FORWARD, REST))[-1]
    assert set(flight.follow(flown(FORWARD, REST, REST), {3})) == {before}


def test_the_first_frame_is_what_the_drone_sees_before_it_flies(course):
    pixels, words = first_frame(course.start, 48, 80)
    flight = TrueFlight(course.start)
    assert np.array_equal(pixels, flight.draw(flight.pose, 48, 80)) and "lighthouse" in words
    assert flight.draw(flight.pose, 960, 1600).shape == (384, 640, 3), "large ones are drawn smaller"


def test_a_sample_is_known_by_its_world_and_pose_and_a_photograph_is_not():
    place, words = Path("coast.jpg"), "a coast"
    photograph, known = Sample("a", place, "A", words), Sample("b", place, "B", words, world=7, pose=(1, 2, 30, 0.5, 0))
    assert Start.of_sample(photograph) is None
    assert Start.of_sample(known) == Start(7, (1, 2, 30, 0.5, 0))


RING = (100.0, 50.0, 40.0, 0.0)  # flown through along x


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ((99, 50, 40), (101, 50, 40), 0.5),
        ((101, 50, 40), (99, 50, 40), 0.5),
        ((99, 50 + RADIUS - 1, 40), (101, 50 + RADIUS - 1, 40), 0.5),
        ((99, 50 + RADIUS + 1, 40), (101, 50 + RADIUS + 1, 40), None),
        ((99, 50, 40 + RADIUS + 1), (101, 50, 40 + RADIUS + 1), None),
        ((97, 50, 40), (99, 50, 40), None),
        ((99 + WORLD_SIZE, 50 - WORLD_SIZE, 40), (103 + WORLD_SIZE, 50 - WORLD_SIZE, 40), 0.25),
    ],
)
def test_a_ring_is_flown_through_within_its_radius_either_way_and_round_the_world(before, after, share):
    found = crossing((*before, 0, 0), (*after, 0, 0), RING)
    assert found == (share if share is None else pytest.approx(share))


def race_of(course: courses.Course) -> Race:
    return Race(course, TrueFlight(course.start), fps=16.0)


@pytest.mark.parametrize("course", COURSES, ids=[course.id for course in COURSES])
def test_every_course_can_be_flown_with_the_keys_at_one_height(course):
    race, actions = race_of(course), [REST, REST]
    pose = race.flight.pose
    while race.finished_s is None:
        actions.append(pilot(pose, course.centres[race.next]))
        pose = race.fly(flown(*actions), set())[-1]
        assert len(actions) < 400, f"ring {race.next + 1} was not found"
        assert abs(pose[2] - course.pose[2]) < RADIUS / 2, "no ground lifts the drone over the rings"
    flying = len(actions) - 2
    assert (4 * flying - 4) / 16 < race.finished_s <= 4 * flying / 16, "counted from the first key"


def test_rings_count_in_their_order(course):
    race = race_of(course)
    race.next = 1
    actions, pose = [], race.flight.pose
    for _ in range(60):  # through the first one, again
        actions.append(pilot(pose, course.centres[0]))
        pose = race.fly(flown(*actions), set())[-1]
    assert race.next == 1 and race.finished_s is None


def test_waiting_for_the_visitor_takes_time_and_taking_back_ends_the_race(course):
    race = race_of(course)
    race.wait(9)
    assert race.seconds == 0, "nothing was pressed yet"
    race.fly(flown(REST), set())
    race.fly(flown(REST, FORWARD), set())
    assert race.seconds == pytest.approx(0.25)
    race.wait(2)
    assert race.seconds == pytest.approx(2.25)
    race.take_back()
    actions, pose = [REST, FORWARD], race.flight.pose
    for _ in range(60):
        actions.append(pilot(pose, course.centres[0]))
        pose = race.fly(flown(*actions), set())[-1]
    assert not race.counts and race.next == 0
