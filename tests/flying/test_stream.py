"""A flight: it can be rewound and forked, and takes no more memory the longer it lasts."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.models.test_transformer import make_controller
from wanact.actions import ActionError, ActionTrack
from wanact.flying import stream
from wanact.flying.pipeline import OutOfMemory, WanActPipeline
from wanact.flying.request import RequestError
from wanact.flying.stream import WanActStream
from wanact.models.kv_cache import KVCache
from wanact.runs import store
from wanact.runs.ref import RUN_CONFIG

LEFT, RIGHT, NO_KEY = np.eye(8)[4] * 3, np.eye(8)[5] * 3, np.zeros(8)


def write_causal_run(run: Path) -> Path:
    """A run with a random controller that is flown as a causal checkpoint with a window of 3."""
    controller = make_controller("adaln_tmod")
    run.mkdir()
    save_file(controller.state_dict(), run / store.CONTROLLER)
    config = {name: value for name, value in controller.config.items() if not name.startswith("_")}
    settings = {
        "action_controller_config": config,
        "action_magnitude_scale": [100.0] * 4 + [1.0] * 4,
        "injection_type": "adaln_tmod",
        "causal": {"window": 3, "num_inference_steps": 2, "sampler": "consistency"},
    }
    (run / RUN_CONFIG).write_text(json.dumps(settings))
    return run


@pytest.fixture
def pipe(tiny_model_dir, tmp_path) -> WanActPipeline:
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    pipe.load_controller(write_causal_run(tmp_path / "run"))
    return pipe


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))


def test_frames_decoded_in_the_background_are_those_of_steps(pipe, image):
    one, other = (WanActStream(pipe, image, "hills", 1) for _ in range(2))
    with ThreadPoolExecutor(1) as decoder:
        drawn = [decoder.submit(list, other.draw(action)) for action in (LEFT, RIGHT, LEFT)]  # none of them waited for
        other.roll_back(2)
        for action, frames in zip((LEFT, RIGHT, LEFT), drawn, strict=True):
            assert np.array_equal(one.step(action), np.concatenate(frames.result()))
        one.roll_back(2)
        assert np.array_equal(one.step(RIGHT), other.step(RIGHT))
        fork = other.fork()
        pair = [decoder.submit(list, flight.draw(LEFT)) for flight in (fork, other)]
        assert np.array_equal(*(np.concatenate(frames.result()) for frames in pair))
    other.land()
    with pytest.raises(ActionError):
        fork.draw([1.0])


def test_pieces_are_the_frames_of_a_step_and_committing_early_changes_nothing(pipe, image):
    one, other = (WanActStream(pipe, image, "hills", 1) for _ in range(2))
    for action in (LEFT, RIGHT, LEFT):
        pieces = list(other.draw(action))
        assert [len(piece) for piece in pieces] == [1, 3]
        assert np.array_equal(np.concatenate(pieces), one.step(action))
        other.commit(), other.commit()
    for flight in (one, other):
        flight.prompt = "snow"
    assert np.array_equal(one.step(RIGHT), other.step(RIGHT))
    for flight in (one, other):
        flight.land()
        flight.commit()


@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_a_key_that_comes_while_a_frame_is_drawn_counts_for_it(pipe, image, steps_before):
    flight, same = (WanActStream(pipe, image, "hills", 1, num_inference_steps=3) for _ in range(2))
    answers = iter([None] * steps_before + [np.array(RIGHT)])
    frames = np.concatenate(list(flight.draw(LEFT, lambda: next(answers, None))))
    assert np.array_equal(frames, same.step(RIGHT)) and flight.track == same.track
    assert np.array_equal(flight.step(LEFT), same.step(LEFT)), "what was begun has left no trace"


def test_a_frame_that_was_taken_back_has_never_been(pipe, image):
    flight, same = (WanActStream(pipe, image, "hills", 1) for _ in range(2))
    assert not flight.roll_back(), "nothing has been drawn"
    for num_pieces, action in enumerate((LEFT, RIGHT, LEFT)):
        begun = flight.draw(RIGHT)
        _ = list(itertools.islice(begun, num_pieces))
        assert flight.roll_back() and not flight.roll_back()
        assert np.array_equal(flight.step(action), same.step(action))
    assert flight.track == same.track and flight.num_frames == 3
    flight.commit()
    assert not flight.roll_back(), "its keys and values are kept already"
    flight.roll_back(2), same.roll_back(2)
    assert not flight.roll_back() and np.array_equal(flight.step(RIGHT), same.step(RIGHT))


def test_a_frame_that_was_drawn_beside_the_pictures_of_the_one_before_can_be_taken_back(pipe, image):
    flight, same = (WanActStream(pipe, image, "hills", 1) for _ in range(2))
    shown = flight.draw(LEFT)
    frames = [next(shown)]
    begun = flight.draw(RIGHT)
    frames += [*shown]
    assert np.array_equal(np.concatenate(frames), same.step(LEFT))
    _ = list(begun)
    assert flight.roll_back(1) and flight.taken_up == [], "without a trace"
    assert np.array_equal(flight.step(LEFT), same.step(LEFT)) and flight.track == same.track


def test_keys_without_end_hold_no_frame_up(pipe, image):
    flight = WanActStream(pipe, image, "hills", 1, num_inference_steps=3)
    hasty = itertools.cycle([np.array(RIGHT), np.array(LEFT)])
    assert [len(piece) for piece in flight.draw(LEFT, lambda: next(hasty))] == [1, 3]


def test_the_same_seed_and_actions_are_the_same_flight(pipe, image):
    one, same, other = (WanActStream(pipe, image, "hills", seed) for seed in (1, 1, 2))
    for action in (LEFT, RIGHT):
        frames = one.step(action)
        assert frames.dtype == np.uint8 and np.array_equal(frames, same.step(action))
        assert not np.array_equal(frames, other.step(action))
    assert len(one.track) == one.num_frames == 2


def test_actions_and_words_steer(pipe, image):
    left, right = WanActStream(pipe, image), WanActStream(pipe, image)
    assert not np.array_equal(left.step(LEFT), right.step(RIGHT))
    asked, silent = WanActStream(pipe, image), WanActStream(pipe, image)
    asked.step(LEFT), silent.step(LEFT)
    asked.prompt = "snow"
    assert asked.prompt == "snow" and not np.array_equal(asked.step(LEFT), silent.step(LEFT))


def test_a_flight_taken_back_is_flown_as_if_it_had_not_been(pipe, image):
    flight = WanActStream(pipe, image)
    first = [flight.step(action) for action in (LEFT, LEFT, RIGHT)]
    flight.step(RIGHT)
    flight.roll_back(2)
    assert flight.num_frames == 2 and np.array_equal(flight.step(RIGHT), first[2])
    flight.roll_back(0)
    assert flight.earliest == flight.num_frames == 0 and np.array_equal(flight.step(LEFT), first[0])
    for beyond in (-1, 2):
        with pytest.raises(RequestError, match=f"back to latent frame {beyond}; what is kept goes from 0 to 1"):
            flight.roll_back(beyond)


def test_a_fork_shares_the_past_and_not_the_future(pipe, image):
    flight = WanActStream(pipe, image)
    flight.step(LEFT)
    fork = flight.fork()
    same = flight.step(LEFT)
    assert np.array_equal(fork.step(LEFT), same)
    fork.step(RIGHT)
    assert (flight.num_frames, fork.num_frames) == (2, 3)
    assert fork.track.magnitude[2].argmax() == 5


def test_a_long_flight_keeps_the_memory_of_a_short_one(pipe, image, monkeypatch):
    monkeypatch.setattr(stream, "MAX_HISTORY", 12)
    flight = WanActStream(pipe, image)
    held = flight._now.rollout.cache.keys.data_ptr()
    for _ in range(20):
        flight.step(LEFT)
    assert (
        len(flight._past) == 12
        and len(flight.track) == flight.num_frames == 20
        and flight._now.rollout.cache.keys.data_ptr() == held
    )
    assert flight.earliest == 14, "what the window saw is needed to go on"
    flight.roll_back(14)
    assert flight.step(LEFT).shape == (4, 64, 96, 3)


def test_a_landed_flight_is_taken_up_by_a_fork(pipe, image):
    flight, same = WanActStream(pipe, image), WanActStream(pipe, image)
    for one in (flight, same):
        one.step(LEFT)
    flight.land()
    assert np.array_equal(flight.fork().step(RIGHT), same.fork().step(RIGHT))


def test_who_lands_twice_has_landed_and_what_was_only_drawn_is_flown(pipe, image):
    flight = WanActStream(pipe, image)
    flight.step(LEFT), list(flight.draw(RIGHT))
    flight.land(), flight.land()
    assert flight.num_frames == len(flight.track) == 2 and flight.is_committed and not flight.roll_back()
    with pytest.raises(RequestError, match="has landed"):
        flight.step(LEFT)
    assert flight.fork().num_frames == 2


def test_flights_share_a_pipeline_and_keep_their_checkpoint(pipe, image):
    flight, alone = WanActStream(pipe, image), WanActStream(pipe, image)
    expected = alone.step(LEFT)
    pipe.load_controller(None)
    assert np.array_equal(flight.step(LEFT), expected)


def test_what_cannot_be_flown_is_said(pipe, image):
    flight = WanActStream(pipe, image)
    with pytest.raises(ActionError, match=r"an action has shape \(3,\), expected \(8,\)"):
        flight.step([1, 2, 3])
    with pytest.raises(ActionError, match="yaw_left and yaw_right are active at once"):
        flight.step(LEFT + RIGHT)
    with pytest.raises(RequestError, match="seed"):
        WanActStream(pipe, image, seed=-1)
    pipe.load_controller(None)
    with pytest.raises(RequestError, match="needs a causal one"):
        WanActStream(pipe, image)


def test_no_graph_is_kept(pipe, image):
    flight = WanActStream(pipe, image)
    flight.step(LEFT)
    assert not flight._past[0].latent.requires_grad and torch.is_grad_enabled()


def rested(pipe, image, seconds: float, rest: str = "hold", **settings) -> WanActStream:
    """A flight that has turned once and then been without a key."""
    flight = WanActStream(pipe, image, "hills", 1, rest=rest, **settings)
    for action in [LEFT, *[NO_KEY] * round(4 * seconds)]:
        flight.step(action)
    return flight


def test_after_a_second_without_a_key_the_view_is_held(pipe, image):
    flight, same = (WanActStream(pipe, image, rest=rest) for rest in ("hold", "commit"))
    for action in (LEFT, *[NO_KEY] * 4):
        frames = flight.step(action)
        assert np.array_equal(frames, same.step(action)), "the drone comes to rest in it"
    for _ in range(5):
        assert np.array_equal(flight.step(NO_KEY), np.repeat(frames[-1:], 4, axis=0))
    assert flight.held == (6, 7, 8, 9, 10) and flight.num_frames == len(flight.track) == 10
    assert flight._now.rollout.cache.num_frames == 6, "time stands still for the network"
    assert same.step(NO_KEY).shape == (4, 64, 96, 3) and same.held == ()


def test_who_takes_off_and_touches_nothing_sees_a_still_view_after_a_second(pipe, image):
    flight = WanActStream(pipe, image, rest="hold")
    frames = [flight.step(NO_KEY) for _ in range(6)]
    assert flight.held == (5, 6) and np.array_equal(frames[5], np.repeat(frames[3][-1:], 4, axis=0))


def test_however_long_a_flight_rests_it_goes_on_as_after_a_second(pipe, image):
    short, long, never = (rested(pipe, image, *rest) for rest in ((1,), (6,), (1, "commit")))
    for action in (RIGHT, LEFT):
        frames = short.step(action)
        assert np.array_equal(long.step(action), frames) and np.array_equal(never.step(action), frames)
    assert len(long.held) == 20 and short.held == never.held == ()


def test_a_model_may_go_on_drawing_at_rest_and_remembers_none_of_it(pipe, image):
    assert WanActStream(pipe, image).rest == pipe.defaults["rest"] == "draw"
    drawn, held = rested(pipe, image, 1, "draw"), rested(pipe, image, 3)
    views = [drawn.step(NO_KEY) for _ in range(3)]
    assert not np.array_equal(views[1], views[2]) and drawn.held == (6, 7, 8)
    drawn.step(RIGHT), held.step(RIGHT)
    assert torch.equal(drawn._past[-1].latent, held._past[-1].latent), "of the same memory"
    assert len(drawn._past) == 6
    with pytest.raises(RequestError, match="rest='sleep' must be one of hold, draw, commit"):
        WanActStream(pipe, image, rest="sleep")


@pytest.mark.parametrize("rest", ["hold", "draw"])
def test_a_key_is_answered_from_what_was_committed_last(pipe, image, rest):
    flight, same = (rested(pipe, image, 2, rest, num_inference_steps=3) for _ in range(2))
    _ = next(flight.draw(NO_KEY))
    assert flight.roll_back() and flight.num_frames == 9, "a view that was about to be shown is none"
    late = iter([np.array(RIGHT)])
    frames = np.concatenate(list(flight.draw(NO_KEY if rest == "draw" else LEFT, lambda: next(late, None))))
    assert np.array_equal(frames, same.step(RIGHT)) and flight.held == same.held == (6, 7, 8, 9)


def test_a_key_that_is_let_go_before_it_is_drawn_leaves_the_view_held(pipe, image):
    flight = rested(pipe, image, 2)
    view = flight.step(NO_KEY)
    late = iter([NO_KEY])
    assert np.array_equal(np.concatenate(list(flight.draw(LEFT, lambda: next(late, None)))), view)
    assert flight.held == (6, 7, 8, 9, 10, 11) and not flight.newest_action.any()


def test_words_that_change_at_rest_have_a_second_to_be_seen(pipe, image):
    flight = rested(pipe, image, 2)
    flight.prompt = "snow"
    views = [flight.step(NO_KEY) for _ in range(6)]
    assert flight.held == (6, 7, 8, 9, 14, 15)
    assert not np.array_equal(views[0], views[1]) and np.array_equal(views[4], views[5])


def test_a_rest_takes_no_place_in_the_history(pipe, image, monkeypatch):
    monkeypatch.setattr(stream, "MAX_HISTORY", 12)
    flight = rested(pipe, image, 8)
    assert flight.num_frames == 33 and flight.earliest == 0 and len(flight._past) == 5
    flight.roll_back(10)
    assert flight.held == (6, 7, 8, 9, 10) and flight.taken_up == [10]
    flight.step(NO_KEY)
    fork = flight.fork()
    assert fork.held == flight.held == (6, 7, 8, 9, 10, 11)
    assert np.array_equal(fork.step(LEFT), flight.step(LEFT)), "both from what was committed last"
    for _ in range(14):
        flight.step(LEFT)
    assert len(flight._past) == 12 and flight.earliest == 20, "6 latent frames are kept that the window saw"
    flight.roll_back(20)
    assert flight.num_frames == 20 and flight.earliest == 20 and flight.step(RIGHT).shape == (4, 64, 96, 3)
    flight.roll_back(20)
    assert flight._now.rollout.cache.num_frames == 1 + 20 - 6


def test_a_flight_without_a_picture_is_refused_and_a_clip_is_the_bases_first_frame_flown_on(pipe):
    with pytest.raises(RequestError, match="begins with a picture"):
        WanActStream(pipe, None, "hills")  # pyright: ignore[reportArgumentType]
    own, frames = pipe.checkpoint, pipe("hills", None, num_frames=9, seed=3)
    assert pipe.checkpoint == own and pipe.causal is not None
    with pipe.lock:
        pipe.load_controller(None)
        base = pipe("hills", None, num_frames=9, seed=3)
    np.testing.assert_array_equal(frames[0], base[0])
    assert not np.array_equal(frames[1:], base[1:])


def test_a_window_longer_than_a_clip_changes_nothing_and_takes_no_memory(pipe, image, tmp_path, monkeypatch):
    settings = json.loads((tmp_path / "run" / RUN_CONFIG).read_text())
    seen = []
    make = KVCache.__init__

    def counted(self, transformer, frame_size, window, **more):
        seen.append(window)
        make(self, transformer, frame_size, window, **more)

    monkeypatch.setattr(KVCache, "__init__", counted)
    clips = []
    for window in (4, 1000):
        settings["causal"]["window"] = window
        (tmp_path / "run" / RUN_CONFIG).write_text(json.dumps(settings))
        pipe.load_controller(tmp_path / "run")
        clips.append(pipe("hills", image, ActionTrack(np.array([LEFT] * 4, np.float32)), num_frames=17))
    assert np.array_equal(*clips) and seen == [4, 4]


def test_what_no_memory_holds_is_refused_before_it_is_taken(pipe, image, monkeypatch):
    monkeypatch.setattr("wanact.flying.pipeline.free_memory", lambda _: 1000)
    with pytest.raises(OutOfMemory, match="remembers 3 latent frames needs"):
        WanActStream(pipe, image, "hills", 1)
