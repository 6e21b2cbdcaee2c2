"""The autopilot as the server sees it: it flies until a key is held, and the record says who flew."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.pilots import write_pilot
from tests.ui.live_desks import FORWARD, NONE, Visitor, make_desk
from tests.ui.test_courses import ahead
from wanact.flying.record import FlightRecord
from wanact.flying.replay import replay
from wanact.media.video import encode_jpeg
from wanact.ui.best import BestError
from wanact.ui.pages.live import sticks
from wanact.ui.pages.live.desk import LiveDesk
from wanact.world import courses
from wanact.world.truth import fly_sample

GATES = "hand_written:gates"


@pytest.fixture(scope="module")
def desk(tiny_model_dir, tmp_path_factory) -> Iterator[LiveDesk]:
    course = ahead(courses.COURSES[0], 25, 45)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courses, "COURSES", (course,))
        patch.setattr(sticks, "HANDS_OFF_S", 0.3)
        runs = tmp_path_factory.mktemp("autopilot") / "runs"
        write_pilot(runs / "pilot")
        desk = make_desk(tiny_model_dir, runs, silence_s=120, lost_s=240)
        desk.engine.truth = fly_sample
        yield desk


@pytest.fixture
def fly(desk, picture):
    visitors = []

    def take_off(order: dict | None = None) -> Visitor:
        visitors.append(Visitor(desk, picture, order))
        visitors[-1].until("start")
        return visitors[-1]

    yield take_off
    for visitor in visitors:
        visitor.messages.close()


def called(visitor: Visitor, who: str = GATES) -> dict:
    """Ask for a pilot; the first pictures that it has flown."""
    visitor.tell(pilot=who)
    answer = visitor.until("pilot")
    assert answer["pilot"] == who and not answer["problem"]
    return visitor.until("frames", by=True)


def test_who_can_be_asked_is_listed_with_what_they_have_learnt(desk):
    listed = desk.engine.list_pilots()
    assert [(pilot["id"], pilot["tasks"]) for pilot in listed] == [
        ("pilot/step-000000200", ["gates"]),
        ("pilot/step-000000100", ["gates"]),
        ("hand_written", ["gates", "course", "circle", "avoid"]),
    ]


@pytest.mark.parametrize("who", [GATES, "hand_written:circle", "pilot/step-000000200:gates"])
def test_a_pilot_flies_and_says_what_it_flies_to(fly, who):
    message = called(fly(), who)
    assert any(message["a"]) and len(message["task"]["poses"]) == 4
    assert message["task"]["rings"] and all(len(ring) == 5 for ring in message["task"]["rings"])


def test_a_key_takes_over_at_once_and_letting_go_gives_back_after_a_while(fly):
    visitor = fly()
    called(visitor)
    visitor.tell(held=FORWARD)
    mine = visitor.until("frames", by=False)
    assert mine["a"][0] == pytest.approx(0.05) and not any(mine["a"][1:])
    visitor.tell(held=NONE)
    released = time.monotonic()
    assert not any(visitor.until("frames", a=[0.0] * 8)["a"]), "meanwhile nobody holds the sticks"
    visitor.until("frames", by=True)
    assert time.monotonic() - released >= 0.3


def test_the_record_says_who_flew_and_flies_again_to_the_same_frames(fly, desk, tmp_path):
    visitor = fly()
    called(visitor)
    visitor.tell(held=FORWARD)
    visitor.until("frames", by=False)
    visitor.tell(stop=True)
    visitor.until("end")
    visitor.messages.close()
    path, caption = desk.save(visitor.flight, "record", tmp_path)
    record = FlightRecord.load(path)
    whose = {message["t"]: message["by"] for message in visitor.heard if message.get("by") is not None}
    assert set(record.pilots) == {number for number, by in whose.items() if by and number <= len(record.track)}
    assert record.piloted[0][2:] == ("hand_written", "gates") and "of them a pilot's" in caption
    pipe = desk.engine.pipe
    with pipe.lock:
        pipe.load_controller(desk.find((record.checkpoint or {})["id"]).path)
        frames = replay(pipe, record)
    flight = desk.hangar.get(visitor.flight)
    kept = flight.pictures
    assert len(kept) == len(frames) - 1
    for picture, frame in zip(kept, frames[1:], strict=True):
        assert picture == encode_jpeg(frame)


def test_who_goes_back_takes_back_what_the_pilot_flew(fly, desk):
    visitor = fly()
    called(visitor)
    visitor.fly(4)
    visitor.tell(rewind=1)
    visitor.until("rewound", t=1)
    flight = desk.hangar.get(visitor.flight)
    assert set(flight.pilots) <= {1}
    visitor.until("frames", by=True, t=3)
    assert {2, 3} <= set(flight.pilots)


def test_nobody_is_asked_to_leave_the_sticks(fly):
    visitor = fly()
    called(visitor)
    visitor.tell(pilot="")
    assert visitor.until("pilot")["pilot"] == ""
    message = visitor.until("frames", k=0)
    assert "by" not in visitor.until("frames", t=message["t"] + 1)


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("hand_written:looping", "has not learnt the task 'looping'"),
        ("pilot/step-000000200:circle", "has not learnt"),
        ("nobody/step-000000001:gates", "is not there any more"),
        ("live/step-000000005:gates", "no pilot|not there any more"),
        ("../../etc:gates", "not there any more"),
        ("gates", "not there any more"),
    ],
)
def test_a_pilot_that_cannot_fly_is_refused_and_the_flight_goes_on(fly, who, says):
    visitor = fly()
    visitor.tell(pilot=who)
    answer = visitor.until("pilot")
    assert answer["pilot"] == ""
    assert [part for part in says.split("|") if part in answer["problem"]], answer["problem"]
    visitor.until("frames")


def test_a_pilots_time_is_entered_in_no_table(fly, desk):
    visitor = fly({"course": "ahead"})
    called(visitor)
    done = visitor.until("finished")
    assert done["by"] and done["place"] == 0
    with pytest.raises(BestError):
        desk.enter(visitor.flight, "Robot")
