"""The inverse dynamics model: it learns to read motion, and what is exported is what the card loads."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch

from train.commands.evaluate.idm import errors, measure
from train.stages.idm import disturbed
from wanact.actions import CHANNELS, ActionTrack
from wanact.media.video import write_mp4
from wanact.models.idm import FULL, IDMConfig, IDMError, InverseDynamics, load_idm, signed_axes

SIZE, NUM_FRAMES = 32, 9


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Clips of blobs that slide as yaw and pitch would have them."""
    folder, rng, rows = tmp_path_factory.mktemp("slides"), np.random.default_rng(0), []
    for i in range(8):
        picture = cv2.GaussianBlur(rng.normal(0, 1, (96, 96, 3)), (0, 0), 2)
        picture = np.clip(128 + 400 * picture, 0, 255).astype(np.uint8)
        held = np.zeros((2, len(CHANNELS)))
        held[:, 4 + i % 4] = 1
        yaw, pitch = ((held[0, 5] - held[0, 4]), (held[0, 6] - held[0, 7]))
        frames = [
            picture[round(32 - 1.5 * pitch * t) :][:SIZE, round(32 + 1.5 * yaw * t) :][:, :SIZE]
            for t in range(NUM_FRAMES)
        ]
        write_mp4(np.stack(frames), folder / f"{i}.mp4", lossless=True)
        rows.append({"video": f"{i}.mp4", "prompt": "", "action": ActionTrack.from_keys(held).to_json()})
    with open(folder / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_it_learns_to_read_motion_and_exports_what_is_loaded(slides, tmp_path):
    from train.commands.run import train

    arguments = [
        *("--dataset_base_path", str(slides), "--dataset_metadata_path", str(slides / "clips.csv")),
        *("--output_path", str(tmp_path / "run"), "--export_model_dir", str(tmp_path / "idm")),
        *("--height", str(SIZE), "--width", str(SIZE), "--num_frames", str(NUM_FRAMES)),
        *("--idm_channels", "8,8,8,8", "--idm_hidden", "16", "--batch_size", "8", "--max_steps", "60"),
        *("--learning_rate", "1e-2", "--log_steps", "20", "--disturb", "0"),
    ]
    trained = train("idm", arguments).stage.network.eval()
    loaded = load_idm(tmp_path / "idm")
    grey = torch.rand(2, 5, SIZE, SIZE)
    assert loaded is not None and torch.equal(loaded(grey), trained(grey))
    figures = measure(loaded, slides, 8, NUM_FRAMES)
    assert figures["clips"] == 8
    assert min(figures[axis]["sign_accuracy"] for axis in ("yaw_right", "pitch_up")) == 1.0


def test_errors_of_a_perfect_and_of_a_blind_reader():
    true = np.random.default_rng(0).normal(size=(50, 4)) * FULL
    perfect, blind = errors(true, true), errors(np.zeros_like(true), true)
    for axis in perfect:
        figures = perfect[axis]
        assert (figures["mean_error"], figures["sign_accuracy"], figures["r2"]) == (0, 1, 1)
        assert figures["gain"] == pytest.approx(1)
        assert (blind[axis]["gain"], blind[axis]["sign_accuracy"]) == (0, 0)


def test_a_track_and_its_mirror_image_read_as_opposite_turns():
    track = ActionTrack(np.abs(np.random.default_rng(0).normal(size=(5, 8))) * ([1, 0] * 4))
    assert np.allclose(signed_axes(track.mirrored()), signed_axes(track) * [1, -1, -1, 1])
    assert signed_axes(ActionTrack.zeros(3)).shape == (3, 4)


def test_disturbing_keeps_shape_and_range():
    window = np.random.default_rng(0).random((5, SIZE, SIZE)).astype(np.float32)
    for seed in range(10):
        changed = disturbed(window, np.random.default_rng(seed))
        assert (
            changed.shape == window.shape and changed.dtype == np.float32 and 0 <= changed.min() <= changed.max() <= 1
        )


def test_a_missing_model_is_none_and_a_damaged_one_is_named(tmp_path):
    assert load_idm(tmp_path) is None
    InverseDynamics(IDMConfig(SIZE, SIZE, (8, 8, 8, 8), 8)).save(tmp_path, {"trained_on": "blobs"})
    assert load_idm(tmp_path) is not None
    (tmp_path / "idm.safetensors").write_bytes(b"nothing")
    with pytest.raises(IDMError, match="is damaged"):
        load_idm(tmp_path)
    with pytest.raises(ValueError, match="multiples of 16"):
        IDMConfig(30, 32)
