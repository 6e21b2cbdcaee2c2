"""A flight that was saved is flown again to the same frames, whatever happened on the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.flying.test_stream import LEFT, NO_KEY, RIGHT, write_causal_run
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.record import FlightRecord
from wanact.flying.replay import replay, resume
from wanact.flying.request import RequestError
from wanact.flying.stream import WanActStream


@pytest.fixture
def pipe(tiny_model_dir, tmp_path) -> WanActPipeline:
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    pipe.load_controller(write_causal_run(tmp_path / "run"))
    return pipe


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))


def saved(stream: WanActStream) -> FlightRecord:
    return FlightRecord.parse(FlightRecord.from_stream(stream).to_json())


def test_a_live_flight_replays_to_the_same_frames(pipe, image):
    stream = WanActStream(pipe, image, "hills", 5)
    stream.prompt = "a lake"
    frames = [stream.step(LEFT), stream.step(RIGHT)]
    stream.prompt = "snow"
    frames.append(stream.step(np.zeros(8)))
    record = saved(stream)
    assert (record.kind, record.prompt, record.prompt_changes) == ("live", "a lake", ((2, "snow"),))
    assert record.checkpoint == {"run": "run", "step": None} and record.model["name"] == "tiny"
    again = replay(pipe, record)
    assert again.shape == (13, 64, 96, 3) and np.array_equal(again[1:], np.concatenate(frames))


def test_a_flight_that_was_rewound_beyond_its_memory_replays_to_the_same_frames(pipe, image):
    stream = WanActStream(pipe, image, "hills", 5)  # a window of 3: what is remembered anew are 6 latent frames
    frames = [stream.step(LEFT) for _ in range(9)]
    stream.prompt = "snow"
    stream.step(RIGHT), stream.step(RIGHT)
    stream.roll_back(8)
    frames[8:] = [stream.step(RIGHT), stream.step(LEFT)]
    fork = stream.fork()
    other = [*frames, fork.step(LEFT)]
    frames.append(stream.step(RIGHT))
    assert saved(stream).prompt_changes == ((8, "snow"),) and saved(fork).taken_up == (8, 10)
    for flight, flown in ((stream, frames), (fork, other)):
        assert np.array_equal(replay(pipe, saved(flight))[1:], np.concatenate(flown))


def test_a_flight_is_taken_up_at_any_latent_frame(pipe, image):
    stream = WanActStream(pipe, image, "hills", 5)
    frames = [stream.step(action) for action in (LEFT, RIGHT, LEFT)]
    again = resume(pipe, saved(stream), 2)
    assert again.num_frames == 2 and np.array_equal(again.step(LEFT), frames[2])
    assert np.array_equal(replay(pipe, saved(stream).until(1))[1:], frames[0])


@pytest.mark.parametrize("rest", ["hold", "draw", "commit"])
def test_a_flight_that_rested_replays_to_the_same_frames(pipe, image, rest):
    stream = WanActStream(pipe, image, "hills", 5, rest=rest)
    frames = [stream.step(action) for action in (LEFT, *[NO_KEY] * 8, RIGHT, *[NO_KEY] * 6)]
    stream.roll_back(15)
    stream.prompt = "snow"
    frames[15:] = [stream.step(action) for action in (*[NO_KEY] * 5, LEFT, *[NO_KEY] * 5)]
    record = saved(stream)
    expected = () if rest == "commit" else (6, 7, 8, 9, 15, 20, 26)
    assert record.held == expected and record.sampler["rest"] == rest
    assert record.sampler["sigma_grid"] == pipe.defaults["sigma_grid"], "which noise levels it was drawn through"
    pipe.defaults["rest"], pipe.defaults["fps"] = "hold", 4  # what is usual later changes nothing
    assert np.array_equal(replay(pipe, record)[1:], np.concatenate(frames))
    for number in (8, 15, 23):
        again = resume(pipe, record, number)
        assert again.rest == rest and again.held == tuple(n for n in expected if n <= number)
        assert np.array_equal(again.step(record.track.magnitude[number], number + 1 in expected), frames[number])


def test_a_track_that_was_never_flown_rests_by_the_rule(pipe, image):
    stream = WanActStream(pipe, image, "hills", 5, rest="hold")
    stream.step(LEFT)
    record = saved(stream).continued([NO_KEY] * 6)
    frames = [stream.step(NO_KEY) for _ in range(6)]
    assert record.held is None and stream.held == (6, 7)
    assert np.array_equal(replay(pipe, record)[5:], np.concatenate(frames))


def test_a_flight_from_before_there_were_rests_is_flown_as_it_was(pipe, image):
    stream = WanActStream(pipe, image, "hills", 5, rest="commit")
    frames = [stream.step(action) for action in (LEFT, *[NO_KEY] * 8)]
    old = json.loads(FlightRecord.from_stream(stream).to_json()) | {"wanact_flight": 2}
    del old["held"], old["sampler"]["rest"]
    pipe.defaults["rest"] = "hold"
    assert np.array_equal(replay(pipe, FlightRecord.parse(json.dumps(old)))[1:], np.concatenate(frames))


def test_a_clip_replays_to_the_same_frames_and_opens_on_the_base(pipe, image):
    track = FlightRecord.from_stream(_flown(pipe, image)).track
    record = FlightRecord(image, "hills", 3, track, 9, 2, 1.0)
    frames = pipe("hills", image, track, num_frames=9, num_inference_steps=2, guidance_scale=1.0, seed=3)
    assert np.array_equal(replay(pipe, record), frames)
    with pytest.raises(RequestError, match="cannot be flown on"):
        resume(pipe, record)
    pipe.load_controller(None)
    assert replay(pipe, record).shape == frames.shape
    with pytest.raises(RequestError, match="needs a causal one"):
        replay(pipe, saved_live(record))


def _flown(pipe, image) -> WanActStream:
    stream = WanActStream(pipe, image)
    stream.step(LEFT), stream.step(RIGHT)
    return stream


def saved_live(record: FlightRecord) -> FlightRecord:
    import dataclasses

    return dataclasses.replace(record, kind="live")
