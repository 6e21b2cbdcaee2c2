"""A dataset of a few seconds, and runs of a few steps on a model of a few thousand weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_model import CAPTIONS, save_model_dir

CONTROLLER = json.dumps(
    {"hidden_size": 48, "num_heads": 2, "num_layers": 2, "num_latent_frames": 2, "injection_type": "adaln_tmod"}
)
NUM_FRAMES, SIZE = 9, 32


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Model directory for clips of 9 frames, 32x32."""
    return save_model_dir(tmp_path_factory.mktemp("train") / "model", height=SIZE, width=SIZE, num_frames=NUM_FRAMES)


@pytest.fixture
def lapped_model(model, tmp_path) -> Path:
    """The same with latent frames that stand alone and a network of nearness, so that flights can be drafted."""
    from wanact.models.lapped import AutoencoderLapped
    from wanact.models.nearness import NearnessConfig, NearnessNetwork
    from wanact.weights.model_dir import load_components, save_components

    components = load_components(model)
    components.vae, components.nearness = AutoencoderLapped(width=8, depth=1), NearnessNetwork(NearnessConfig((4, 8)))
    return save_components(components, tmp_path / "lapped")


def write_dataset(folder: Path, num_clips: int = 5, seed: int = 0) -> Path:
    """Clips of coloured noise with random actions, and their CSV."""
    from wanact.actions import ActionTrack
    from wanact.media.video import write_mp4

    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_clips):
        base = rng.integers(0, 255, (1, SIZE, SIZE, 3))
        frames = np.clip(base + 5 * np.arange(NUM_FRAMES)[:, None, None, None], 0, 255).astype(np.uint8)
        write_mp4(frames, folder / f"clip{i}.mp4", lossless=True)
        held = (rng.random((2, 8)) > 0.6).astype(float)
        action = ActionTrack.from_keys(held).to_json()
        rows.append({"video": f"clip{i}.mp4", "prompt": CAPTIONS[i % len(CAPTIONS)], "action": action})
    with open(folder / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["video", "prompt", "action"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Folder with clips.csv of five clips, which divide no batch used here."""
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def arguments(model, dataset, tmp_path_factory) -> Callable[..., list[str]]:
    """Command-line arguments of a small run: `arguments("action", output, "--max_steps", "4")`."""
    cache = tmp_path_factory.mktemp("cache")

    def build(stage: str, output: Path, *more: str) -> list[str]:
        own = ["--action_controller_config", CONTROLLER] if stage in ("action", "causal") else []
        return [
            *("--model_dir", str(model), "--dataset_base_path", str(dataset)),
            *("--dataset_metadata_path", str(dataset / "clips.csv"), "--output_path", str(output)),
            *("--cache_dir", str(cache), "--cache_dtype", "float32", "--save_full_state", "--log_steps", "1"),
            *own,
            *more,
        ]

    return build


@pytest.fixture(scope="session")
def run(arguments) -> Callable:
    """Train in this process: `run("action", output, "--max_steps", "4")` gives the Trainer."""
    from train.commands.run import train

    def start(stage: str, output: Path, *more: str):
        return train(stage, arguments(stage, output, *more))

    return start
