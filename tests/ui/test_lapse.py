"""The time-lapse: one flight through every kept step of a run."""

import numpy as np
import pytest

from tests.ui.conftest import add_step, write_run
from wanact.flying.request import RequestError
from wanact.media.footage import read_video
from wanact.ui.engine import Engine
from wanact.ui.pages.checkpoints.lapse import MAX_STEPS, LapseDesk


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "drone", steps=(100, 200, 300))


@pytest.fixture
def desk(pipe, run) -> LapseDesk:
    return LapseDesk(Engine(pipe, run.parent))


def film(desk, name="drone"):
    """All states, and the film read while it is there."""
    states, frames = [], None
    for state in desk.film(name):
        states.append(state)
        if state.video is not None:
            frames = read_video(state.video.path)
    return states, frames


def test_every_step_flies_the_same_flight_and_the_film_shows_them_in_order(desk):
    states, frames = film(desk)
    last = states[-1]
    assert last.status == "done" and [part["step"] for part in last.parts] == [100, 200, 300]
    firsts = [part["first"] for part in last.parts]
    length = firsts[1]
    assert firsts == [0, length, 2 * length] and len(frames) == 3 * length
    assert {len(state.parts) for state in states if state.status == "working"} >= {0, 1, 2}, "steps appear as they come"
    height = desk.engine.defaults["height"]
    starts = frames[firsts, :height].astype(int)
    ends = frames[[first + length - 1 for first in firsts], :height].astype(int)
    assert np.abs(starts - starts[0]).mean() < 6, "all begin with the same first frame"
    assert np.abs(ends[0] - ends[2]).mean() > 0.5, "and steps draw different clips"
    assert all(part["picture"].startswith("data:image/jpeg") for part in last.parts)


def test_a_film_is_drawn_once_until_a_step_is_new(desk, run, monkeypatch):
    assert desk.recall(desk.engine.runs()[0]) is None
    first, _ = film(desk)
    assert desk.recall(desk.engine.runs()[0])["parts"] == first[-1].parts, "the next visitor has its frames at once"
    monkeypatch.setattr(desk.engine, "replay", lambda *_: pytest.fail("it was drawn again"))
    again, frames = film(desk)
    assert again[-1].parts == first[-1].parts and frames is not None
    monkeypatch.undo()
    add_step(run, 400)
    assert desk.recall(desk.engine.runs()[0]) is None, "a step is new"
    newer, _ = film(desk)
    assert [part["step"] for part in newer[-1].parts] == [100, 200, 300, 400]


def test_of_many_steps_some_are_left_out_and_a_large_model_flies_fewer(pipe, tmp_path):
    steps = tuple(range(10, 10 * (MAX_STEPS + 9), 10))
    engine = Engine(pipe, write_run(tmp_path / "long", steps=steps).parent)
    desk = LapseDesk(engine)
    run, flight = engine.runs()[0], desk._flight()
    chosen, left_out = desk._choose(run, flight)
    assert len(chosen) == MAX_STEPS and left_out == len(steps) - MAX_STEPS
    assert chosen[0].step == steps[0] and chosen[-1].step == steps[-1]

    class Narrow:
        def check_lanes(self, _flight, count):
            if count > 3:
                raise RequestError("too many")

    desk.budget = Narrow()
    assert len(desk._choose(run, flight)[0]) == 3


@pytest.mark.parametrize("name", [None, "", "gone", "../../etc", "x" * 9_999])
def test_a_run_that_is_not_there_is_one_sentence(desk, name):
    states, _ = film(desk, name)
    assert states[-1].status == "failed" and states[-1].message.endswith(".") and "not there" in states[-1].message


def test_a_run_of_one_step_has_no_time_lapse(pipe, tmp_path):
    states, _ = film(LapseDesk(Engine(pipe, write_run(tmp_path / "drone", steps=(5,)).parent)))
    assert states[-1].status == "failed" and "two steps" in states[-1].message


def test_who_leaves_stops_it(desk, monkeypatch):
    closed = []

    def replay(*_):
        try:
            while True:
                yield None
        finally:
            closed.append(True)

    monkeypatch.setattr(desk.engine, "replay", replay)
    states = desk.film("drone")
    for _ in range(4):
        next(states)
    states.close()
    assert closed == [True]
