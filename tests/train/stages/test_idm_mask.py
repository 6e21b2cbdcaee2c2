"""Training the mask: an arm that moves over a lively background is found, from episodes; resumed bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.data.test_episodes import write_episode
from train.__main__ import main
from train.commands.evaluate.idm_mask import masked
from train.commands.run import train
from train.data.csv import DataError
from train.loop.config import ConfigError
from train.loop.seeding import Draw
from wanact.files import load_weights, read_json
from wanact.models.masked_idm import MaskedInverseDynamics, load_masked_idm, preset
from wanact.runs import store

SIZE, FRAMES = 32, 9


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """Episodes of a bright bar whose place is their only joint, in front of noise."""
    folder, rng = tmp_path_factory.mktemp("arms"), np.random.default_rng(0)
    for i in range(4):
        places = rng.integers(2, SIZE - 6, FRAMES)
        frames = rng.integers(0, 60, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
        for frame, place in zip(frames, places, strict=True):
            frame[:, place : place + 4] = (250, 220, 40)
        write_episode(folder, f"ep_{i:04d}", np.stack([places / 10, np.full(FRAMES, 7.0)], 1), frames)
    names = [f"ep_{i:04d}" for i in range(4)]
    (folder / "manifest.json").write_text(json.dumps({"fps": 10, "actions": "states", "episodes": names}))
    return folder


@pytest.fixture
def start(arms, tmp_path):
    def start(output, *more, folder=arms, table="manifest.json", action_dim=2):
        return train("idm_mask", [
            *("--dataset_metadata_path", str(folder / table), "--dataset_base_path", str(folder)),
            *("--fps", "16" if "csv" in table else "10", "--num_frames", str(FRAMES)),
            *("--output_path", str(tmp_path / output)),
            *("--height", str(SIZE), "--width", str(SIZE), "--idm_height", str(SIZE), "--idm_width", str(SIZE)),
            *("--action_dim", str(action_dim), "--batch_size", "4", "--log_steps", "1", "--save_full_state"),
            *("--learning_rate", "2e-3", *more),
        ])  # fmt: skip

    return start


def test_it_learns_where_the_arm_is_and_looks_there(start, arms, tmp_path):
    target = tmp_path / "idm"
    flags = ["--max_steps", "120", "--disturb", "0", "--mask_weight", "0.3", "--export_model_dir", str(target)]
    trainer = start("run", *flags, "--windows_per_clip", "8", "--learning_rate", "4e-3")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert np.mean([line["mean_error"] for line in lines[-10:]]) < 0.6 * lines[0]["mean_error"]
    assert lines[-1]["mask_mean"] < min(0.5, lines[0]["mask_mean"])
    model = load_masked_idm(target)
    assert all(
        torch.equal(value, trainer.stage.network.state_dict()[name]) for name, value in model.state_dict().items()
    )
    places = np.concatenate([np.load(file)[:, 0] for file in sorted(arms.glob("episodes/*/actions.npy"))])
    assert model.train_mean.tolist() == pytest.approx([places.mean(), 7.0], rel=1e-5)
    assert model.train_std.tolist() == pytest.approx([places.std(), 1.0], rel=1e-5)
    assert load_masked_idm(store.resolve(tmp_path / "run")).config == model.config


def test_evaluation_tells_what_the_mask_costs_and_shows_it(arms, tmp_path, capsys):
    torch.manual_seed(0)
    config = replace(preset("small", 2), height=SIZE, width=SIZE)
    model = MaskedInverseDynamics(config).eval()
    with torch.no_grad():
        model.model.mask_model.out.weight.zero_()
        model.model.mask_model.out.bias.fill_(3.0)
    model.save(tmp_path / "idm")
    numbers, picture = tmp_path / "numbers.json", tmp_path / "masks.png"
    flags = ["--idm", str(tmp_path / "idm"), "--dataset", str(arms / "manifest.json"), "--num_frames", str(FRAMES)]
    flags += ["--height", str(SIZE), "--width", str(SIZE), "--json", str(numbers), "--picture", str(picture)]
    assert main(["evaluate", "idm_mask", *flags]) == 0
    found = read_json(numbers)
    assert found["with_mask"] == found["whole_picture"] and found["seen"] == 1 and found["mask_mean"] > 0.99
    assert Image.open(picture).size == (3 * SIZE, 4 * SIZE)
    frame = np.full((4, 4, 3), 100, np.uint8)
    half = torch.tensor([[[1.0, 1.0, 0.0, 0.0]] * 4])
    assert masked(frame, half)[0, :, 0].tolist() == [100, 100, 20, 20]
    assert "with_mask" in capsys.readouterr().out


def test_a_resumed_run_is_the_same_to_the_last_statistic(start, tmp_path):
    flags = ["--max_steps", "4", "--ema_decay", "0.5"]
    start("whole", *flags)
    start("parts", *flags, "--save_steps", "2")
    newest = tmp_path / "parts" / "checkpoints"
    shutil.rmtree(newest / "step-000000004")
    for link in newest.glob("*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    start("parts", *flags, "--save_steps", "2")
    one, other = (store.resolve(tmp_path / name) for name in ("whole", "parts"))
    for file in ("idm.safetensors", "trainable_full.safetensors"):
        before, after = load_weights(one / file), load_weights(other / file)
        assert before.keys() == after.keys() and any("running_var" in name for name in before)
        assert all(torch.equal(before[name], after[name]) for name in before), file


def test_clips_that_memory_does_not_hold_are_read_when_drawn(start):
    held, read = (start(gb, "--max_steps", "1", "--cache_memory_gb", gb).stage for gb in "10")
    assert len(held._held) == 4 and not read._held
    one, other = (stage.load([Draw(2, 5, 0, 0, "idm_mask")]) for stage in (held, read))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("action_dim", [4, 8])
def test_a_drones_controls_are_read_from_any_table(start, dataset, action_dim):
    trainer = start("run", "--max_steps", "1", folder=dataset, table="clips.csv", action_dim=action_dim)
    batch = trainer.stage.load([Draw(0, 0, 0, 0, "idm_mask")])
    assert batch["pictures"].shape == (1, 4, 5, SIZE, SIZE, 3) and batch["targets"].shape == (1, 4, action_dim)
    assert trainer.stage.network.config.frames == 5


def test_what_does_not_fit_is_said(start, dataset):
    with pytest.raises(DataError, match="a table holds the controls of a drone; --action_dim 14 needs a manifest"):
        start("run", folder=dataset, table="clips.csv", action_dim=14)
    with pytest.raises(DataError, match="it has 2 numbers a frame, not --action_dim 14"):
        start("run", action_dim=14)
    with pytest.raises(ConfigError, match="--idm_network 'large' is unknown; choose from vidar, small"):
        start("run", "--idm_network", "large")
    with pytest.raises(ConfigError, match="--idm_height, --idm_width: 8 x 32 is too small"):
        start("run", "--idm_width", "8")
