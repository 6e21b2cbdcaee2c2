"""Pilots on the pages Checkpoints and Compare: told apart from models, with their own curve and card, and at a lane."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.pilots import write_evaluation, write_pilot
from tests.ui.conftest import write_run
from wanact.actions import channel_track
from wanact.files import CheckpointError
from wanact.flying.comparison import Comparison, ComparisonError, Lane
from wanact.flying.rollout import CausalSettings
from wanact.ui.engine import Engine
from wanact.ui.pages.checkpoints.cards import CardDesk
from wanact.ui.pages.checkpoints.desk import Shelf, ShelfMessage
from wanact.ui.pages.compare.desk import CompareDesk, CompareForm

PILOT = "pilot/step-000000200"


@pytest.fixture
def own(pipe, tmp_path) -> Engine:
    write_run(tmp_path / "drone")
    write_evaluation(write_pilot(tmp_path / "pilot"), 200)
    return Engine(pipe, tmp_path)


def test_pilots_stand_beside_the_runs_and_have_a_curve_of_their_own(own):
    shelf = Shelf(own)
    listing = shelf.list_shelf(ShelfMessage())
    assert [(run["name"], run["pilot"], run["stage"]) for run in listing["runs"]] == [
        ("drone", False, ""),
        ("pilot", True, "pilot"),
    ]
    columns = listing["columns"]
    explored = {"share": 0.25, "of": "the last episodes of its training, which explore"}
    assert columns["success"] == {"2": explored, "3": {"share": 0.9, "of": "50 held-out episodes"}}
    assert columns["loss"][2:] == [None, None]
    curves = shelf.read_curves(ShelfMessage(runs=["drone", "pilot"]))
    assert set(curves["curves"]) == {"drone"} and curves["pilots"]["pilot"]["success"][-1] == 0.5
    shown = shelf.show_checkpoint(ShelfMessage(id=PILOT))
    assert shown["stage"] == "pilot" and shown["config"]["task"] == "gates" and not shown["live"]
    json.dumps([listing, curves, shown], allow_nan=False)


def test_a_pilot_is_no_causal_checkpoint_beside_a_causal_base(own, monkeypatch):
    monkeypatch.setattr(own.pipe, "base_causal", CausalSettings(2, 1))
    live = {name: Shelf(own).show_checkpoint(ShelfMessage(id=name))["live"] for name in (PILOT, "drone/step-000000200")}
    assert live == {PILOT: False, "drone/step-000000200": True}


def test_nothing_is_drawn_with_a_pilot_and_the_reason_is_said(own):
    assert [choice.id for choice in own.checkpoints()[0]] == [
        "drone/step-000000400",
        "drone/step-000000200",
        "base",
    ]
    assert own.default_checkpoint() == "drone/step-000000400"
    with pytest.raises(CheckpointError, match="is a pilot, which flies inside a model"):
        own.find(PILOT)
    with pytest.raises(CheckpointError, match="is no pilot"):
        own.pilot("drone/step-000000200")


def test_a_pilots_card_has_its_success_beside_others(own, tmp_path):
    desk = CardDesk(own)
    shown = desk.show(PILOT)
    (measured,) = shown["pilot"]
    assert shown["is_pilot"] and not shown["can_measure"] and measured["where"] == "sim" and measured["worlds"] == 20
    assert measured["tasks"]["gates"]["trained"] == {
        "success": 0.9,
        "interval": [0.8, 1.0],
        "return": 9.5,
        "length": 41.0,
    }
    write_evaluation(tmp_path / "pilot", 200, "world", trained=0.4)
    assert [one["where"] for one in desk.show(PILOT)["pilot"]] == ["sim", "world"]
    assert measured["film"] is None
    write_evaluation(tmp_path / "pilot", 200, film=True)
    film, none = [one["film"] for one in desk.show(PILOT)["pilot"]]
    assert film.startswith("data:video/mp4;base64,") and none is None
    assert "python -m train pilot evaluate pilot@100" in desk.show("pilot/step-000000100")["note"]
    (tmp_path / "pilot" / "evaluation-sim-200.json").write_text('{"step": 200}')
    assert "evaluation-sim-200.json is damaged" in desk.show(PILOT)["note"]
    *_, refused = desk.measure(PILOT)
    assert "is a pilot" in refused["note"]


def test_a_lane_is_flown_by_a_pilot_and_by_the_same_track_each_time(own, picture):
    compare = CompareDesk(own)
    assert [pilot["id"] for pilot in compare.list_lanes()["pilots"]] == [
        PILOT,
        "pilot/step-000000100",
        "hand_written",
    ]
    drone = {"checkpoint": "drone/step-000000400"}
    asked = {
        "first_frame": str(picture),
        "prompt": "a lake at noon",
        "plan": channel_track("back", own.num_actions).to_list(),
        "lanes": [drone, drone | {"pilot": "hand_written:gates"}, drone | {"pilot": f"{PILOT}:circle"}],
        "seed": 3,
        "size": "64 × 32",
    }
    *_, state = compare.compare(**asked)
    assert [lane.status for lane in state.lanes] == ["done", "done", "failed"]
    assert state.lanes[1].label.endswith("flown by a pilot written by hand: gates")
    assert state.lanes[2].label.endswith("flown by pilot · step 200: circle")
    assert "has not learnt the task 'circle'" in state.lanes[2].message
    flight = compare.read(CompareForm(**asked)).flight
    tracks = [compare._flown_by_a_pilot("hand_written:gates", flight).track for _ in range(2)]
    assert tracks[0] == tracks[1] != flight.track and len(tracks[0]) == len(flight.track)
    assert tracks[0].magnitude[:, 0].min() > 0, "it flies ahead, and not back as the plan"


def test_a_comparison_with_a_pilots_lane_is_kept_whole(own, picture):
    rest = np.zeros((own.num_actions, 2, 8)).tolist()
    form = CompareForm(str(picture), "a lake", rest, 0, "", None, None, "64 × 32", 0.5, lanes=["base", "base"])
    flight = CompareDesk(own).read(form).flight
    lanes = (Lane("base"), Lane("truth"), Lane("truth", pilot="hand_written:gates"))
    again = Comparison.parse(Comparison(flight, lanes).to_json())
    assert again.lanes == lanes
    with pytest.raises(ComparisonError, match="one of them is enough"):
        Comparison(flight, (Lane("truth"), Lane("truth")))
