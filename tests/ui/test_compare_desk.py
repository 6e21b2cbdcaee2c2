import json
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from tests.ui.conftest import add_step, write_card, write_run
from wanact.actions import PRESETS, ActionTrack, channel_track
from wanact.flying.comparison import Comparison, Lane, Link
from wanact.flying.record import FlightRecord
from wanact.media.footage import read_video
from wanact.media.video import fit_image, open_image
from wanact.ui.engine import Engine
from wanact.ui.pages.compare.desk import CompareDesk, CompareForm
from wanact.ui.pages.fly.desk import FlyForm
from wanact.ui.samples import load_samples


@pytest.fixture
def compare(engine) -> CompareDesk:
    return CompareDesk(engine)


@pytest.fixture
def asked(picture, engine) -> dict:
    """What the page sends when everything is in order."""
    return {
        "first_frame": str(picture),
        "prompt": "a lake at noon",
        "plan": channel_track("forward", engine.num_actions).to_list(),
        "lanes": [{"checkpoint": "drone/step-000000200"}, {"checkpoint": "drone/step-000000400"}],
        "seed": 3,
        "size": "64 × 32",
    }


def fly(compare, asked):
    """The last state with its files read while they are there."""
    seen = []
    for state in compare.compare(**asked):
        seen.append([lane.status for lane in state.lanes])
        clips = {lane.letter: read_video(lane.video.path) for lane in state.lanes if lane.video}
        files = {"tiled": state.tiled and read_video(state.tiled.path), "record": None}
        if state.record:
            files["record"] = Comparison.parse(open(state.record.path, "rb").read())
    return state, clips, files, seen


def test_lanes_appear_one_after_the_other_and_the_tiled_clip_holds_them_all(compare, asked):
    state, clips, files, seen = fly(compare, asked)
    assert state.status == "done" and [lane.status for lane in state.lanes] == ["done", "done"]
    assert ["done", "drawing"] in seen, "the first lane shows while the second is flown"
    assert len(files["tiled"]) == state.num_frames == 17
    for lane, (left, top) in zip(state.lanes, state.layout["places"], strict=True):
        cut = files["tiled"][:, top : top + 32, left : left + 64].astype(int)
        assert np.abs(cut - clips[lane.letter]).mean() < 8, "what the tile shows is the lane's own clip"
        assert len(lane.curves["sharpness"]) == len(lane.curves["colour"]) == 17
        assert lane.numbers["sharpness at the end"] > 0
    assert np.abs(clips["A"].astype(int) - clips["B"]).mean() > 0.5, "two checkpoints draw two clips"


def test_control_under_a_lane_tells_how_many_runs_it_is_of_and_how_long(compare, asked):
    """The control card's measure: four actions are a run of 17 frames; an orbit has none, nor has the base."""
    lanes = [{"checkpoint": "drone/step-000000400"}, {"checkpoint": "base"}]
    state, *_ = fly(compare, asked | {"lanes": lanes})
    assert state.lanes[0].control_of == "1 run of 17 frames" and state.lanes[0].numbers["control"] in (0, 1)
    assert state.lanes[1].control_of == "" and state.lanes[1].numbers["control"] is None
    orbit = PRESETS["Orbit left"](compare.engine.num_actions).to_list()
    state, *_ = fly(compare, asked | {"lanes": lanes, "plan": orbit})
    assert state.lanes[0].numbers["control"] is None and state.lanes[0].control_of == "no run that can be told"


def test_lanes_that_wait_show_the_first_frame(compare, asked):
    states = [state.model_copy() for state in compare.compare(**asked)]
    assert all(state.first_frame.startswith("data:image/jpeg") for state in states if state.status == "working")
    assert states[-1].status == "done" and states[-1].first_frame == ""


def test_the_lanes_at_first_are_the_best_the_best_before_it_and_the_truth(pipe, tmp_path):
    def lanes(**more):
        listing = CompareDesk(Engine(pipe, tmp_path, **more)).list_lanes()
        return [lane["checkpoint"] for lane in listing["lanes"]]

    assert lanes() == ["base", "base"]
    run = write_run(tmp_path / "drone", steps=(100,))
    assert lanes() == ["drone/step-000000100", "base"]
    for step in (200, 300):
        add_step(run, step)
    assert lanes() == ["drone/step-000000300", "drone/step-000000200"], "by loss, which falls"
    for step, control in ((100, 0.9), (200, 0.8), (300, 1.0)):
        write_card(run, step, control)
    assert lanes(truth=lambda *_: None) == ["drone/step-000000300", "drone/step-000000100", "truth"]
    write_run(tmp_path / "late", steps=(5,), timestamp="2099-01-01T00:00:00+00:00")
    assert lanes()[:2] == ["late/step-000000005", "drone/step-000000300"], "before a run's first, another's best"


def test_a_lane_draws_the_clip_that_fly_draws(compare, asked, desk, engine):
    comparison = compare.read(CompareForm(**asked))
    record, choice = comparison.lanes[1].flight(comparison.flight), engine.find("drone/step-000000400")
    *_, drawn = engine.replay(record, choice)
    fields = {key: asked[key] for key in ("first_frame", "prompt", "plan", "seed", "size")}
    flight = desk.read_flight(FlyForm(**fields, checkpoint="drone/step-000000400"))
    *_, frames = engine.fly(flight)
    assert np.array_equal(drawn, frames)


def test_one_failing_lane_says_why_and_the_others_stand(compare, asked, tmp_path, pipe):
    run = write_run(tmp_path / "drone", steps=(200, 400))
    weights = run / "checkpoints" / "step-000000200" / "action_controller.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")  # NaN, and a sum that does not hold
    broken = CompareDesk(Engine(pipe, tmp_path))
    lanes = [*asked["lanes"], {"checkpoint": "gone/step-000000001"}, {"checkpoint": "truth"}]
    state, clips, _, _ = fly(broken, asked | {"lanes": lanes})
    assert [lane.status for lane in state.lanes] == ["failed", "done", "failed", "failed"] and list(clips) == ["B"]
    assert state.status == "done" and state.layout["shown"] == [False, True, False, False]
    for lane, says in zip((state.lanes[0], *state.lanes[2:]), ("checksum", "not there", "simulator"), strict=True):
        assert says in lane.message and str(tmp_path) not in lane.message and lane.message.endswith(".")


def test_settings_of_a_lane_are_flown_and_named(compare, asked):
    one = "drone/step-000000400"
    lanes = [{"checkpoint": one}, {"checkpoint": one, "seed": 9}, {"checkpoint": one, "scale": 0}]
    state, clips, files, _ = fly(compare, asked | {"lanes": lanes})
    assert [lane.label for lane in state.lanes] == [
        "drone · step 400",
        "drone · step 400 · seed 9",
        "drone · step 400 · 0 × the controls",
    ]
    assert all(np.abs(clips["A"].astype(int) - clips[other]).mean() > 0.2 for other in "BC")
    assert files["record"].lanes[1] == Lane(one, seed=9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lanes": []}, "0 lanes"),
        ({"lanes": [{"checkpoint": "base"}]}, "1 lanes"),
        ({"lanes": ["base"] * 5}, "5 lanes"),
        ({"lanes": "base"}, "no list"),
        ({"lanes": [{"checkpoint": "base", "seed": -1}, "base"]}, "seed"),
        ({"plan": [[1]]}, "expected"),
        ({"plan": {"wanact_flight": 2}}, "damaged"),
        ({"plan": {"flight": {"wanact_flight": 9}}}, "version"),
        ({"first_frame": None}, "first frame"),
        ({"seed": 2**31}, "Seed"),
        ({"guidance": 99}, "Guidance"),
        ({"steps": 1_000}, "Steps"),
        ({"size": "9000 × 9000"}, "size|multiples"),
        ({"prompt": "x" * 3_000}, "3,000 characters"),
    ],
)
def test_a_bad_request_is_one_sentence_and_flies_nothing(compare, asked, change, says, monkeypatch):
    monkeypatch.setattr(compare.engine, "replay", lambda *_: pytest.fail("it was flown"))
    with pytest.raises(gr.Error, match=says) as caught:
        list(compare.compare(**asked | change))
    assert "\n" not in caught.value.message and caught.value.message.endswith(".")


def test_an_opened_flight_brings_its_picture_and_another_picture_may_take_its_place(compare, asked, picture):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8))
    record = FlightRecord(image, "hills", 5, channel_track("left", 4), 17, 2, 1.0, checkpoint={"id": "drone/x"})
    plan = {"flight": json.loads(record.to_json()), "own_picture": True}
    read = compare.read(CompareForm(None, "hills", plan, 5, "", 2, 1.0, lanes=asked["lanes"])).flight
    assert read.image.tobytes() == image.tobytes() and read.track == record.track
    other = compare.read(
        CompareForm(str(picture), "hills", plan | {"own_picture": False}, 5, "", 2, 1.0, lanes=asked["lanes"])
    ).flight
    assert other.image.size == image.size and other.image.tobytes() != image.tobytes()


def test_files_and_links_lay_everything_out_again(compare, asked, engine):
    sample = load_samples()[0][0]
    height, width = engine.defaults["height"], engine.defaults["width"]
    image = fit_image(open_image(sample.path), height, width)
    flight = FlightRecord(image, "a coast", 8, channel_track("yaw_left", 4), 17, 2, 1.5)
    comparison = Comparison(flight, (Lane("base"), Lane("drone/step-000000400", scale=2)))
    for message in ({"text": comparison.to_json()}, {"link": Link.of(comparison, sample.id).encode()}):
        opened = compare.open(message)
        assert (opened["sample"], opened["prompt"], opened["seed"]) == (sample.id, "a coast", 8)
        assert opened["lanes"] == [{"checkpoint": "base"}, {"checkpoint": "drone/step-000000400", "scale": 2}]
        again = compare.read(
            CompareForm(str(sample.path), "a coast", opened["plan"], 8, "", 2, 1.5, lanes=opened["lanes"])
        )
        assert again.flight.image.tobytes() == image.tobytes() and again.flight.track == flight.track
    assert compare.open({"text": flight.to_json()})["lanes"] is None, "a flight leaves the lanes as they are"


@pytest.mark.parametrize(
    "message",
    [None, {}, {"text": "{"}, {"text": "[]"}, {"link": "x"}, {"link": "e30"}, {"text": 3}, {"link": "🛸" * 99}],
)
def test_what_cannot_be_opened_is_one_sentence(compare, message):
    with pytest.raises(gr.Error) as caught:
        compare.open(message)
    assert "\n" not in caught.value.message and caught.value.message.endswith(".")


def test_lanes_are_measured_against_the_truth_where_it_is_known(pipe, runs_root, asked):
    def truth(sample, track, height, width):
        assert sample.world is not None and isinstance(track, ActionTrack)
        frames = np.random.default_rng(0).integers(0, 256, (17, height, width, 3), np.uint8)
        return frames

    sample = next(sample for sample in load_samples()[0] if sample.world is not None)
    desk = CompareDesk(Engine(pipe, runs_root, truth=truth))
    lanes = [*asked["lanes"], {"checkpoint": "truth"}]
    state, clips, _, _ = fly(desk, asked | {"lanes": lanes, "first_frame": str(sample.path)})
    assert [lane.status for lane in state.lanes] == ["done"] * 3 and set(clips) == set("ABC")
    assert all("PSNR to the truth" in lane.numbers for lane in state.lanes[:2])
    assert "PSNR to the truth" not in state.lanes[2].numbers
    assert state.lanes[2].control_of == "1 run of 17 frames", "the simulator obeys, too"
    assert state.link and not state.link_problem
    assert Link.decode(state.link).lanes == tuple(map(Lane.parse, lanes))


def test_a_live_flight_comes_again_frame_by_frame(engine, tmp_path):
    """A causal lane flies the record of a live flight as the replay from Python does."""
    from tests.flying.test_stream import write_causal_run
    from wanact.flying.replay import replay

    run = write_causal_run(tmp_path / "live")
    live = CompareDesk(Engine(engine.pipe, tmp_path))
    (first, *_), _ = live.engine.checkpoints()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8))
    record = FlightRecord(image, "hills", 5, channel_track("left", 3), 13, 2, 1.0, kind="live")
    plan = {"flight": json.loads(record.to_json()), "own_picture": True}
    lanes = [{"checkpoint": first.id}, {"checkpoint": first.id, "seed": 6}]
    comparison = live.read(CompareForm(None, "hills", plan, 5, "", 2, 1.0, lanes=lanes))
    events = live.engine.replay(replace(comparison.lanes[0].flight(comparison.flight)), live.engine.find(first.id))
    *_, frames = events
    with engine.pipe.lock:
        engine.pipe.load_controller(run)
        expected = replay(engine.pipe, record)
    assert np.array_equal(frames, expected)
