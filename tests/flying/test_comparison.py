import base64
import json

import numpy as np
import pytest
from PIL import Image

from wanact.actions import PRESETS, ActionTrack
from wanact.flying.comparison import MAX_LINK_CHARACTERS, Comparison, ComparisonError, Lane, Link, is_comparison
from wanact.flying.record import FlightError, FlightRecord


@pytest.fixture
def flight() -> FlightRecord:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    return FlightRecord(image, "a lake", 3, PRESETS["Look around"](20), 81, 8, 1.5, checkpoint={"id": "full/step-9"})


@pytest.fixture
def comparison(flight) -> Comparison:
    lanes = Lane("full/step-9"), Lane("base", seed=7, guidance=2.5), Lane("full/step-1", scale=0.5, prompt="at dusk")
    return Comparison(flight, lanes)


def test_a_comparison_survives_its_file(comparison):
    again = Comparison.parse(comparison.to_json())
    assert again.lanes == comparison.lanes and again.flight.track == comparison.flight.track
    assert again.to_json() == comparison.to_json() and is_comparison(comparison.to_json())


def test_a_lane_changes_what_it_names_and_nothing_else(comparison, flight):
    flown = [lane.flight(flight) for lane in comparison.lanes]
    assert [(f.seed, f.guidance_scale, f.prompt) for f in flown] == [
        (3, 1.5, "a lake"),
        (7, 2.5, "a lake"),
        (3, 1.5, "at dusk"),
    ]
    np.testing.assert_allclose(flown[2].track.magnitude, flight.track.magnitude / 2)
    assert flown[0].track == flown[1].track == flight.track and flown[1].image is flight.image


def test_a_list_of_flights_that_share_frame_and_track_is_a_comparison(flight):
    other = FlightRecord.parse(flight.to_json().replace("full/step-9", "full/step-1").replace('"seed":3', '"seed":4'))
    text = f"[{flight.to_json()},{other.to_json()}]"
    assert is_comparison(text) and not is_comparison(flight.to_json())
    lanes = Comparison.parse(text).lanes
    assert [(lane.checkpoint, lane.seed) for lane in lanes] == [("full/step-9", 3), ("full/step-1", 4)]
    elsewhere = other.with_track(ActionTrack.zeros(20))
    with pytest.raises(ComparisonError, match="differ in first frame or track"):
        Comparison.parse(f"[{flight.to_json()},{elsewhere.to_json()}]")


def test_a_link_brings_everything_back_but_the_picture(comparison):
    link = Link.decode(Link.of(comparison, "coast").encode())
    assert (link.sample, link.prompt, link.seed, link.lanes) == ("coast", "a lake", 3, comparison.lanes)
    assert link.track == comparison.flight.track and len(Link.of(comparison, "coast").encode()) < 2_000


def test_what_a_link_cannot_carry_is_said(comparison, flight):
    with pytest.raises(ComparisonError, match="yours alone"):
        Link.of(Comparison(flight, (Lane("upload/x"), Lane("base"))), "coast")
    live = FlightRecord(flight.image, "x", 1, ActionTrack.zeros(3), 13, 4, 1.0, kind="live")
    with pytest.raises(ComparisonError, match="JSON"):
        Link.of(Comparison(live, (Lane("a"), Lane("b"))), "coast")
    noise = np.random.default_rng(0).random((400, 8)).astype(np.float32)
    noise[:, 1::2] = 0
    with pytest.raises(ComparisonError, match="too long"):
        Link.of(Comparison(flight.with_track(ActionTrack(noise)), comparison.lanes), "coast").encode()


def packed(**changes):
    content = {"v": 1, "f": "coast", "p": "", "n": "", "s": 0, "d": 8, "g": 1.5, "a": [], "c": 20}
    content |= {"l": [{"checkpoint": "base"}, {"checkpoint": "full/step-9"}]} | changes
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_the_hand_made_link_is_a_good_one():
    assert Link.decode(packed()).track == ActionTrack.zeros(20)


@pytest.mark.parametrize(
    "link",
    [
        "",
        "!!!",
        "x" * (MAX_LINK_CHARACTERS + 1),
        None,
        packed(v=2),
        packed(f=3),
        packed(p="x" * 3_000),
        packed(s=-1),
        packed(s=1.5),
        packed(d=1e9),
        packed(g="NaN"),
        packed(c=10**9),
        packed(c=True),
        packed(a=[[0, 0, 10**9, 1]]),
        packed(a=[[9, 0, 1, 1]]),
        packed(a=[[0, 0, 1, -1]]),
        packed(a=[[0, 0, 1, 1], [1, 0, 1, 1]]),
        packed(a=[[0, 0, 1, float("inf")]]),
        packed(l=[]),
        packed(l=[{"checkpoint": "base"}] * 5),
        packed(l=[{"checkpoint": "truth"}, {"checkpoint": "truth"}]),
        packed(l=[{"checkpoint": "base"}, {"checkpoint": "x" * 300}]),
        packed(l=[{"checkpoint": "base"}, {"checkpoint": "base", "scale": 1e9}]),
        packed(l=[{"checkpoint": "base"}, {"checkpoint": "base", "guidance": True}]),
        packed(l="base"),
    ],
)
def test_a_link_that_was_changed_is_one_sentence(link):
    with pytest.raises(ComparisonError) as caught:
        Link.decode(link)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "[1, 2]", '{"wanact_comparison": 2}', '{"wanact_comparison": 1, "lanes": 3}', "[" * 100_000]
    + ['{"wanact_comparison": 1, "lanes": [{"checkpoint": "a"}, {"checkpoint": "b"}], "flight": {"x": 1}}'],
)
def test_a_file_that_is_no_comparison_is_one_sentence(text):
    with pytest.raises((ComparisonError, FlightError)) as caught:
        Comparison.parse(text)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_lanes_words_are_cleaned_as_a_prompt_is():
    assert Lane.parse({"checkpoint": "base", "prompt": "a\nlake\x00 "}).prompt == "a lake"


def test_lanes_come_as_objects_or_ids():
    assert Lane.parse("base") == Lane("base") == Lane.parse({"checkpoint": "base", "seed": None, "prompt": ""})
    assert Lane.parse({"checkpoint": "base", "seed": 4.0}).seed == 4
    for bad in (None, 3, [], {}, {"checkpoint": 3}, {"checkpoint": ""}, {"checkpoint": "a", "seed": 0.5}):
        with pytest.raises(ComparisonError):
            Lane.parse(bad)
