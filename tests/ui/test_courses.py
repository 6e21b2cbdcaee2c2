"""Courses and the truth beside a flight, as the server sees them: it believes nothing that it has not flown itself."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.ui.live_desks import FORWARD, NONE, Visitor, make_desk
from wanact.media.likeness import apart
from wanact.media.video import decode_jpeg, fit_image
from wanact.ui.best import BestError
from wanact.ui.pages.live import beside
from wanact.ui.pages.live.desk import LiveDesk
from wanact.ui.samples import load_samples
from wanact.world import courses
from wanact.world.true_flight import Start, first_frame
from wanact.world.truth import fly_sample

SIZE = 64, 96


def ahead(course: courses.Course, *distances: float) -> courses.Course:
    """The same course with rings straight ahead of where it begins."""
    x, y, _, yaw, _ = course.pose
    rings = tuple((x + d * math.cos(yaw), y + d * math.sin(yaw), math.degrees(yaw)) for d in distances)
    return replace(course, id="ahead", name="Straight ahead", rings=rings)


@pytest.fixture(scope="module")
def course() -> courses.Course:
    return ahead(courses.COURSES[0], 25, 45)


@pytest.fixture(scope="module")
def desk(tiny_model_dir, tmp_path_factory, course) -> Iterator[LiveDesk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courses, "COURSES", (course,))
        desk = make_desk(tiny_model_dir, tmp_path_factory.mktemp("courses") / "runs", silence_s=120, lost_s=240)
        desk.engine.truth = fly_sample
        yield desk


@pytest.fixture
def fly(desk, picture):
    """Takes off for something, as new visitors."""
    visitors = []

    def take_off(order: dict | None = None, frame=picture) -> Visitor:
        visitors.append(Visitor(desk, frame, order))
        return visitors[-1]

    yield take_off
    for visitor in visitors:
        visitor.messages.close()


@pytest.fixture
def known(tmp_path, monkeypatch, course):
    """The path of a sample from the simulator, the only one that there is."""
    pixels, words = first_frame(Start(course.start.world, course.pose), 384, 640)
    Image.fromarray(pixels).save(tmp_path / "coast.png")
    sample = {"file": "coast.png", "name": "Coast", "prompt": words, "world": course.start.world, "pose": course.pose}
    (tmp_path / "samples.json").write_text(json.dumps({"samples": [sample]}))
    monkeypatch.setattr(load_samples, "__defaults__", (tmp_path,))
    beside._fingerprints.cache_clear()
    yield tmp_path / "coast.png"
    beside._fingerprints.cache_clear()


def finish(visitor: Visitor) -> dict:
    visitor.until("start")
    visitor.tell(held=FORWARD)
    return visitor.until("finished")


def test_a_course_begins_with_the_simulators_picture_and_tells_where_the_drone_is(fly, course):
    visitor = fly({"course": "ahead"})
    start = visitor.until("start")
    pixels, words = first_frame(course.start, *SIZE)
    assert start["prompt"] == words and start["known"]
    assert apart(decode_jpeg(base64.b64decode(start["first"])), pixels) < 10
    assert start["course"]["pose"] == pytest.approx(course.pose, abs=1e-3) and len(start["course"]["rings"]) == 2
    visitor.tell(held=FORWARD)
    moment = visitor.until("course")
    frames = visitor.hear()
    assert (frames["kind"], frames["t"], frames["k"]) == ("frames", moment["t"], 0), "it comes before the pictures"
    assert len(moment["poses"]) == 4 and moment["next"] == 0
    gone = visitor.until("course", next=1)["poses"][-1]
    assert 25 < np.hypot(gone[0] - course.pose[0], gone[1] - course.pose[1]) < 45


def test_the_time_is_counted_from_the_first_key_by_what_was_flown(fly, desk):
    visitor = fly({"course": "ahead"})
    visitor.until("start")
    visitor.until("course", t=3)
    visitor.tell(held=FORWARD, seconds=0.01, finished=True, next=2, course="ahead", time=0)
    done = visitor.until("finished")
    flight = desk.hangar.get(visitor.flight)
    held = flight.stream.track.magnitude[:, 0] > 0
    fps = desk.engine.defaults["fps"]
    assert held.argmax() >= 3
    assert 0 < done["seconds"] <= 4 * held.sum() / fps + 1 and done["course"] == "ahead" and done["place"] == 1


def test_what_a_flight_waits_for_its_visitor_counts(fly):
    visitor = fly({"course": "ahead"})
    visitor.until("start")
    visitor.tell(held=FORWARD)
    visitor.until("course", next=1)
    visitor.tell(held=NONE, paused=True)
    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        visitor.until("state", state="paused")
    visitor.tell(held=FORWARD, paused=False)
    assert visitor.until("finished")["seconds"] > 1


def test_a_finish_enters_the_table_once_under_a_name(fly, desk):
    visitor = fly({"course": "ahead"})
    done = finish(visitor)
    with pytest.raises(BestError, match="characters"):
        desk.enter(visitor.flight, "x")
    course, place = desk.enter(visitor.flight, "Ada")
    assert course == "ahead" and place >= 1
    assert desk.best_times()["ahead"][place - 1]["seconds"] == pytest.approx(done["seconds"])
    with pytest.raises(BestError, match="was entered"):
        desk.enter(visitor.flight, "Bo")
    assert (desk.engine.shares.folder / "best-times.json").is_file()


def test_who_has_not_finished_enters_nothing(fly, desk):
    visitor = fly({"course": "ahead"})
    visitor.until("start")
    visitor.fly(1)
    for flight in (visitor.flight, "x" * 24, None, {"a": 1}, "../best-times"):
        with pytest.raises(BestError):
            desk.enter(flight, "Ada")


def test_a_flight_that_is_taken_back_gone_on_with_or_forked_races_no_more(fly):
    visitor = fly({"course": "ahead"})
    visitor.until("start")
    visitor.tell(held=FORWARD)
    visitor.until("course", next=1)
    visitor.tell(rewind=1, held=NONE, paused=True)
    visitor.until("rewound")
    visitor.tell(held=FORWARD, paused=False)
    moments = [visitor.until("course") for _ in range(12)]
    assert not any(moment["counts"] for moment in moments)
    assert not [one for one in visitor.heard if one["kind"] == "finished"]
    visitor.messages.close()
    again = fly({"course": "ahead", "from": visitor.flight, "at": 1})
    assert again.until("start")["course"] is None
    again.tell(held=FORWARD)
    again.fly(12)
    assert not [one for one in again.heard if one["kind"] in ("course", "finished")]


@pytest.mark.parametrize("name", ["moon", 5, {}, ["ahead"], "../ahead"])
def test_an_unknown_course_is_one_sentence(fly, name):
    assert "no such course" in fly({"course": name}).until("failed")["message"]


def test_the_truth_comes_where_it_is_wanted_and_known(fly, known, desk, course):
    visitor = fly(frame=known)
    assert visitor.until("start")["known"]
    visitor.fly(3)
    assert not [one for one in visitor.heard if one["kind"] == "truth"], "nobody has asked for it"
    visitor.tell(held=FORWARD, truth=True)
    truth = visitor.until("truth")
    pixels, _ = first_frame(Start(course.start.world, course.pose), *SIZE)
    drawn = decode_jpeg(base64.b64decode(truth["f"]))
    assert drawn.shape == (*SIZE, 3) and 0 <= truth["apart"] <= 100
    assert apart(drawn, pixels) < 60, "the same place, a little later"
    frame = desk.hangar.get(visitor.flight).pictures[4 * truth["t"] - 1]
    assert truth["apart"] == pytest.approx(apart(decode_jpeg(frame), drawn), abs=1.5)
    visitor.tell(held=NONE, truth=False)
    visitor.fly(4)
    count = sum(one["kind"] == "truth" for one in visitor.heard)
    visitor.fly(4)
    assert sum(one["kind"] == "truth" for one in visitor.heard) == count


def test_a_photograph_has_no_truth_however_it_is_asked_for(fly, known, picture):
    visitor = fly(frame=picture)
    assert not visitor.until("start")["known"]
    visitor.tell(held=FORWARD, truth=True)
    visitor.fly(6)
    assert not [one for one in visitor.heard if one["kind"] == "truth"]


def test_a_fork_of_a_known_flight_has_its_truth(fly, known):
    visitor = fly(frame=known)
    visitor.until("start")
    visitor.tell(held=FORWARD)
    visitor.fly(3)
    visitor.messages.close()
    again = fly({"from": visitor.flight, "at": 2})
    assert again.until("start")["known"]
    again.tell(held=FORWARD, truth=True)
    assert again.until("truth")["t"] > 2


def test_without_a_simulator_nothing_of_it_is_offered(fly, desk, known, monkeypatch):
    monkeypatch.setattr(desk.engine, "truth", None)
    assert desk.courses() == [] and not fly(frame=known).until("start")["known"]
    assert "no such course" in fly({"course": "ahead"}).until("failed")["message"]


def test_a_sample_that_is_cut_elsewhere_is_another_picture(known):
    with Image.open(known) as picture:
        assert beside.start_of(fit_image(picture, *SIZE)) is not None
        assert beside.start_of(fit_image(picture.crop((9, 0, 640, 384)), *SIZE)) is None
