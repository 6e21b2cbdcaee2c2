"""The measuring commands on a model of a few thousand weights: their numbers, their keys, their pictures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import NUM_FRAMES, SIZE
from train.__main__ import main
from train.commands.evaluate import control, starts, vae
from train.commands.evaluate.control import best_of, chosen_checkpoints
from train.commands.evaluate.grid import draw_grid
from train.commands.evaluate.vae import Quality, vae_summary
from wanact.actions import CHANNELS
from wanact.files import CheckpointError
from wanact.media.likeness import blockiness, gradient_length, psnr_db, ssim
from wanact.runs.store import list_checkpoints


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A run of the controller with three checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "flown"
    run("action", folder, "--max_steps", "3", "--save_steps", "1")
    return folder


@pytest.fixture(scope="module")
def one_world():
    """Held-out worlds take seconds to make; all of these are one."""
    from wanact.world import simulator

    world = simulator.make_world(900_001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "make_world", lambda seed: world)
        yield


def noisy(frames, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def test_likeness_is_told_frame_by_frame():
    from skimage.metrics import peak_signal_noise_ratio

    frames = np.random.default_rng(1).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    others = noisy(frames, 9)
    others[1] = frames[1]
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(frames[::2], others[::2], strict=True)]
    np.testing.assert_allclose(psnr_db(frames, others)[::2], expected, rtol=1e-5)
    assert psnr_db(frames, others)[1] == pytest.approx(100)
    assert ssim(frames, others)[1] == pytest.approx(1)
    assert ssim(frames, others)[0] < 0.999


def test_blur_takes_detail_and_a_grid_shows():
    frames = np.random.default_rng(2).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    blurred = np.stack([cv2.blur(frame, (3, 3)) for frame in frames])
    assert np.all(gradient_length(blurred) < 0.6 * gradient_length(frames))
    flat = np.repeat(np.repeat(frames[:, ::16, ::16], 16, axis=1), 16, axis=2)
    assert blockiness(frames) == pytest.approx(1, abs=0.05)
    assert blockiness(flat) > 10


def test_a_clip_that_drifts_shows_at_its_end():
    steady, falling = Quality(np.full(81, 30.0), np.ones(81)), Quality(np.linspace(30, 22, 81), np.ones(81))
    summary = vae_summary([steady, falling], [steady])
    assert summary["psnr_first16_db"] - summary["psnr_last16_db"] == pytest.approx(3.25)
    assert summary["psnr_worst_clip_db"] == pytest.approx(26)
    assert summary["psnr_photographs_db"] == pytest.approx(30)


def test_vae_command_prints_a_table_and_writes_its_numbers(model, dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vae, "PHOTOGRAPH_MOVES", 1)
    size = ["--num_frames", str(NUM_FRAMES), "--height", str(SIZE), "--width", str(SIZE)]
    numbers = tmp_path / "vae.json"
    arguments = ["--model_dir", str(model), "--dataset", str(dataset), "--worlds", "2", *size, "--json", str(numbers)]
    assert main(["evaluate", "vae", *arguments]) == 0
    result = json.loads(numbers.read_text())
    assert {"psnr_db", "psnr_first16_db", "psnr_last16_db", "psnr_photographs_db", "ssim"} <= result.keys()
    assert {"detail_frame0", "detail_frame0_worst_clip", "blockiness"} <= result.keys()
    assert result["worlds"] == 2
    assert 0 < result["psnr_db"] < 40
    assert f"{result['psnr_db']:.3f}" in capsys.readouterr().out


def test_a_vae_alone_is_measured_as_the_model_directorys(model):
    alone, inside = vae.load_vae(model / "vae"), vae.load_vae(model)
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(vae.quality(alone, frames).psnr_db, vae.quality(inside, frames).psnr_db)


def test_control_command_measures_base_and_every_checkpoint(model, trained, one_world, tmp_path, capsys):
    numbers = tmp_path / "control.json"
    arguments = ["--model_dir", str(model), "--runs", str(trained), "--json", str(numbers)]
    few = ["--first_frames", "1", "--num_frames", "9", "--steps", "1", "--guidance", "1"]
    assert main(["evaluate", "control", *arguments, *few]) == 0
    result = json.loads(numbers.read_text())
    names = [f"flown/step-{step:09d}" for step in (1, 2, 3)]
    assert [entry["checkpoint"] for entry in result["checkpoints"]] == names
    assert result["best"] in result["checkpoints"]
    for entry in (result["base"], result["best"]):
        accuracy = entry["sign_accuracy"]
        assert list(accuracy) == list(CHANNELS)
        assert entry["min_sign_accuracy"] == min(accuracy.values())
        assert entry["mean_sign_accuracy"] == pytest.approx(np.mean(list(accuracy.values())))
    base = result["base"]["sign_accuracy"]
    assert base["left"] + base["right"] == 1  # the same clip
    out = capsys.readouterr().out
    assert f"best: {result['best']['checkpoint']}" in out
    assert all(channel in out for channel in CHANNELS)
    assert "Clips of 9 frames" in out and result["num_frames"] == 9
    summary = {name: result["best"][name] for name in ("mean_sign_accuracy", "min_sign_accuracy", "checkpoint")}
    assert result["runs"] == {"flown": summary}


def test_the_simulator_obeys_itself_from_the_same_first_frames(one_world, monkeypatch):
    from wanact.world import simulator

    flown = []
    fly = simulator.fly
    monkeypatch.setattr(simulator, "fly", lambda *args, **kwargs: flown.append(fly(*args, **kwargs)) or flown[-1])
    (start,) = starts.first_frames(1, 96, 160)
    assert control.simulator_control(1, 5, 96, 160).summary()["min_sign_accuracy"] == 1.0
    assert len(flown) == 1 + len(CHANNELS)
    for clip in flown:
        np.testing.assert_array_equal(np.asarray(start.image), clip.frames[0])


def test_checkpoints_are_chosen_by_name_and_damaged_ones_left_out(trained, tmp_path):
    import shutil

    run = tmp_path / "flown"
    shutil.copytree(trained, run, symlinks=True)
    assert [name for name, _ in chosen_checkpoints(run, "latest")] == ["flown/step-000000003"]
    (best,) = (info for info in list_checkpoints(run) if info.is_best)
    assert [path for _, path in chosen_checkpoints(run, "best")] == [best.path]
    assert [name for name, _ in chosen_checkpoints(best.path, "all")] == [f"flown/{best.path.name}"]
    (run / "checkpoints" / "step-000000002" / "checkpoint_metadata.json").unlink()
    assert [name for name, _ in chosen_checkpoints(run, "all")] == ["flown/step-000000001", "flown/step-000000003"]
    with pytest.raises(CheckpointError):
        chosen_checkpoints(tmp_path / "missing", "all")


def test_the_best_checkpoint_is_the_one_whose_worst_channel_is_best():
    results = [
        {"checkpoint": name, "min_sign_accuracy": low, "mean_sign_accuracy": mean}
        for name, low, mean in [("a", 0.5, 0.9), ("b", 0.7, 0.8), ("c", 0.7, 0.85), ("d", 0.7, 0.85)]
    ]
    assert best_of(results)["checkpoint"] == "d"


def test_a_run_is_as_good_as_its_best_checkpoint():
    results = [
        {"checkpoint": name, "min_sign_accuracy": low, "mean_sign_accuracy": mean}
        for name, low, mean in [("one/step-1", 0.5, 0.9), ("one/step-2", 0.7, 0.8), ("two", 0.1, 0.2)]
    ]
    runs = control.by_run(results)
    assert runs["one"] == {"mean_sign_accuracy": 0.8, "min_sign_accuracy": 0.7, "checkpoint": "one/step-2"}
    assert list(runs) == ["one", "two"]


def test_grid_command_draws_four_rows(model, trained, tmp_path):
    Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / "first.png")
    arguments = ["--model_dir", str(model), "--run_dir", str(trained), "--image", str(tmp_path / "first.png")]
    few = ["--num_frames", "9", "--steps", "1", "--guidance", "1", "--out", str(tmp_path / "grid.png")]
    assert main(["evaluate", "grid", *arguments, *few]) == 0
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 5 * SIZE
        assert sheet.height > 4 * SIZE


def test_a_grid_holds_the_frames_it_names():
    clips = {name: np.full((9, 20, 30, 3), value, np.uint8) for name, value in (("one", 10), ("two", 200))}
    clips["two"][8] = 77
    sheet = np.asarray(draw_grid(clips, [0, 8]))
    values = [(sheet == value).all(axis=-1).sum() >= 600 for value in (200, 77)]
    assert values == [True, True]
    assert (sheet == 10).all(axis=-1).sum() >= 1200
