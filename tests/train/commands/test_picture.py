"""What people see is told from what they do not: sharp from blurred and blocky, and keys that other tools read."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.flying.test_stream import write_causal_run
from train.__main__ import main
from train.commands.evaluate import picture
from train.commands.evaluate.picture import FRAMES, TRACKS, Look, Measured, Place, compare, fly_live, key_track
from wanact.actions import OPPOSITE
from wanact.media.likeness import colour_distance
from wanact.world import simulator

GRID = 32


@pytest.fixture(scope="module")
def place() -> Place:
    return Place(simulator.make_world(940_000), 940_000, 64, 96)


@pytest.fixture(scope="module")
def view(place) -> np.ndarray:
    return place.first_frame


@pytest.fixture
def one_world(place, monkeypatch):
    """Held-out worlds take seconds to make."""
    monkeypatch.setattr(simulator, "make_world", lambda seed: place.world)


def test_the_truth_beside_itself_is_perfect(view):
    seen = compare(view, view, GRID)
    assert seen["sharpness"] == pytest.approx(1)
    assert seen["blockiness"] == seen["blockiness_truth"]
    assert (seen["colour"], seen["psnr_db"]) == (0, 100)


def test_blur_lowers_sharpness_and_blocks_raise_blockiness(view):
    assert compare(cv2.blur(view, (9, 9)), view, GRID)["sharpness"] < 0.7
    blocks = view.copy()
    blocks[:, GRID : 2 * GRID] = np.clip(blocks[:, GRID : 2 * GRID].astype(int) + 40, 0, 255)
    seen = compare(blocks, view, GRID)
    assert seen["blockiness"] > 2 * seen["blockiness_truth"]


def test_colour_counts_what_is_there_and_not_where(view):
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(view.reshape(-1, 3)).reshape(view.shape)
    assert colour_distance(view, shuffled) == pytest.approx(0, abs=1e-6)
    redder = view.copy()
    redder[..., 0] = np.clip(redder[..., 0].astype(int) + 30, 0, 255)
    assert colour_distance(view, redder) > 5


def test_the_horizon_is_lost_in_fog_and_not_by_turning(view):
    seen = compare(view[:, ::-1], view, GRID)
    assert seen["horizon"] == pytest.approx(seen["horizon_truth"], rel=1e-3) and seen["horizon"] > 5
    fog = np.broadcast_to(view.mean(axis=(0, 1)), view.shape).astype(np.uint8)
    assert compare(fog, view, GRID)["horizon"] < 1


def test_all_flights_of_a_place_begin_alike_and_the_drone_moves(place, view):
    for name, make in TRACKS.items():
        first, later = place.see(make(4), [0, 9])
        np.testing.assert_array_equal(first, view)
        moved = np.abs(first.astype(int) - later).mean()
        assert moved < 0.1 if name == "hover" else moved > 1


def test_the_worst_world_is_kept(view):
    measured = Measured("forward", (0, 16))
    truth = np.stack([view, view])
    for seed, width in ((1, 3), (2, 9), (3, 5)):
        measured.add(seed, truth, np.stack([view, cv2.blur(view, (width, width))]), GRID)
    assert measured.pictures[measured.worst][0] == 2
    summary = measured.summary()
    assert summary["sharpness"]["0"] == 1 and summary["sharpness_least"]["16"] < summary["sharpness"]["16"] < 1


def test_a_live_flight_keeps_the_frames_that_are_asked_for(view):
    shown = iter(np.arange(1, 1 + 4 * 100, dtype=np.uint8))
    flight = SimpleNamespace(image=view, step=lambda action: [next(shown) * np.ones_like(view) for _ in range(4)])
    assert fly_live(flight, key_track(10), [4, 16, 40])[:, 0, 0, 0].tolist() == [4, 16, 40]


def test_the_fixed_keys_bring_the_camera_back_to_level():
    held = key_track(sum(length for _, length in picture.KEYS)).magnitude.sum(axis=0)
    assert held[6] == held[7] and OPPOSITE[6] == 7
    np.testing.assert_array_equal(key_track(300).magnitude[100:200], key_track(200).magnitude[100:])


def test_picture_command_writes_the_keys_that_are_read_elsewhere(tiny_model_dir, one_world, tmp_path, capsys):
    run = write_causal_run(tmp_path / "run")
    arguments = ["--model_dir", str(tiny_model_dir), "--run", str(run), "--json", str(tmp_path / "seen.json")]
    few = ["--worlds", "1", "--num_frames", "17", "--steps", "1", "--guidance", "1", "--seconds", "1", "2"]
    assert main(["evaluate", "picture", *arguments, *few, "--frames", str(tmp_path / "worst")]) == 0
    result = json.loads((tmp_path / "seen.json").read_text())
    assert list(result["tracks"]) == ["hover", "forward", "yaw", "pitch", "sideways", "fly_through", "out_and_back"]
    for track in result["tracks"].values():
        assert list(track["sharpness"]) == list(track["colour"]) == ["0", "16"]
        assert {"blockiness", "blockiness_truth", "psnr_db"} <= track.keys()
    assert list(result["live"]) == ["1", "2"]
    assert {"sharpness", "blockiness", "colour", "psnr_db"} <= result["live"]["2"].keys()
    assert 0.1 < result["live"]["2"]["sharpness_two_views"] < 10
    assert result["hover_2s_psnr_db"] == result["hover_psnr_db"]["draw"]["2"]
    assert set(result["hover_psnr_db"]) == {"draw", "commit"}
    assert len(result["out_and_back_psnr_db"]) == 4
    assert 0 < result["detail_frame0"]
    assert (result["worlds"], result["seeds"]) == (1, [940_000, 940_000])
    assert {"checkpoint", "height", "width", "num_inference_steps"} <= result.keys()
    assert len(list((tmp_path / "worst").glob("*.png"))) == len(TRACKS) + 4
    assert "out and back" in capsys.readouterr().out


def test_a_whole_clip_is_compared_at_four_frames_and_the_base_flies_no_live_flight(tiny_model_dir, place):
    from wanact.flying.pipeline import WanActPipeline

    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    settings = {"num_frames": 81, "num_inference_steps": 1, "guidance_scale": 1.0}
    look = Look(pipe, 81, (60,), settings)
    look.add(place)
    result = look.summary()
    assert list(result["tracks"]["yaw"]["sharpness"]) == [str(number) for number in FRAMES]
    assert "live" not in result and result["detail_frame0"] > 0
