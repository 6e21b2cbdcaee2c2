"""Runs of the plan's trainer, whose step folders hold trained weights only, are listed and flown as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny_model import build_transformer
from wanact.actions import channel_track
from wanact.files import CheckpointError
from wanact.flying.pipeline import WanActPipeline
from wanact.models.controller import WanActionController
from wanact.runs import store
from wanact.runs.index import RunIndex

SETTINGS = {
    "action_dim": 8,
    "hidden_size": 48,
    "num_heads": 2,
    "num_latent_frames": 20,
    "num_layers": 2,
    "inject_layers": None,
    "qk_norm": True,
    "initial_scale": 1.0,
    "injection_type": "adaln_tmod",
}


def controller(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return WanActionController(**SETTINGS).state_dict()


def write_plan_run(path: Path, files: dict[str, dict[str, torch.Tensor]], **settings) -> Path:
    """As the plan's train_action.py leaves it: what is flown in the root was written before the first step."""
    path.mkdir(parents=True)
    config = {
        "base_model_id": "Wan-AI/Wan2.2-TI2V-5B",
        "action_controller_config": SETTINGS | settings,
        "action_magnitude_scale": [100, 100, 100, 100, 1, 1, 1, 1],
        "lora": {"lora_base_model": None, "lora_target_modules": "", "lora_rank": 32},
    }
    (path / "action_train_config.json").write_text(json.dumps(config, indent=2))
    save_file(controller(seed=0), path / "action_controller.safetensors")
    folder = path / "checkpoints" / "step-000010000"
    folder.mkdir(parents=True)
    for name, weights in files.items():
        save_file(weights, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 10000, "epoch": 3}))
    return path


def full(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"pipe.action_controller.{name}": value for name, value in weights.items()}


@pytest.fixture(scope="module")
def pipe(tiny_model_dir) -> WanActPipeline:
    return WanActPipeline.from_model_dir(tiny_model_dir)


def fly(pipe: WanActPipeline, path: Path) -> np.ndarray:
    pipe.load_controller(path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    return pipe("a lake", image, channel_track("forward", 4), num_inference_steps=2)


@pytest.mark.parametrize(
    "files",
    [
        {"trainable_full.safetensors": full(controller(7)), "trainable.safetensors": controller(7)},
        {"trainable.safetensors": controller(7)},
        {"trainable_full.safetensors": {f"module.{name}": value for name, value in full(controller(7)).items()}},
    ],
    ids=["both", "short names", "full names"],
)
def test_a_step_folder_of_the_plans_trainer_flies_like_exported_weights(pipe, tmp_path, files):
    run = write_plan_run(tmp_path / "plan", files)
    index = RunIndex([tmp_path])
    (entry,) = index.entries()
    assert (entry.step, entry.state, entry.problem) == (10000, "unsummed", None)
    assert index.verify(entry).problem is None
    exported = tmp_path / "expected"
    exported.mkdir()
    save_file(controller(7), exported / "action_controller.safetensors")
    (exported / "action_train_config.json").write_text((run / "action_train_config.json").read_text())
    assert np.array_equal(fly(pipe, run), fly(pipe, exported))
    assert not np.array_equal(fly(pipe, run), fly(pipe, None)), "it steers"
    assert pipe.load_controller(index.find(entry.id).path) is None and pipe.checkpoint.step == 10000


def test_a_lora_and_the_transformer_in_the_same_file_go_where_they_belong(tmp_path):
    transformer = build_transformer(seed=3).state_dict()
    lora = {f"pipe.dit.blocks.0.self_attn.q.lora_{side}.default.weight": torch.ones(2, 2) for side in "AB"}
    bias = {"pipe.dit.blocks.1.ffn.0.bias": transformer["blocks.1.ffn.net.0.proj.bias"]}
    run = write_plan_run(tmp_path / "run", {"trainable_full.safetensors": full(controller(7)) | lora | bias})
    weights = store.load_flight_weights(run)
    assert weights.step == 10000
    assert weights.controller.keys() == controller(7).keys()
    assert weights.lora.keys() == lora.keys() and weights.transformer.keys() == bias.keys()


def test_where_step_folders_hold_nothing_to_fly_the_root_does(tmp_path):
    write_plan_run(tmp_path / "run", {"model.safetensors": {"other": torch.ones(1)}})
    step, root = RunIndex([tmp_path]).entries()
    assert (step.state, root.state, root.step) == ("weightless", "unsummed", None)


@pytest.mark.parametrize("kind", ["layer_add", "patch_add", "cross_attn"])
def test_an_injection_type_that_is_not_there_is_refused_by_its_name(pipe, tmp_path, kind):
    weights = {f"pipe.action_controller.{kind}.0.weight": torch.ones(2, 2)} | full(controller(7))
    files = {"trainable_full.safetensors": weights}
    run = write_plan_run(tmp_path / "run", files, injection_type=kind, fusion_width=12)
    says = f"injection_type='{kind}' is unknown; choose one of cross_attn_frame"
    index = RunIndex([tmp_path])
    verified = index.verify(index.entries()[0])
    assert verified.state == "damaged" and says in verified.problem
    with pytest.raises(CheckpointError) as caught:
        pipe.load_controller(run)
    assert says in str(caught.value) and "__init__" not in str(caught.value)


def test_a_setting_and_a_weight_that_no_controller_has_are_named(pipe, tmp_path):
    files = {"trainable.safetensors": controller(7)}
    run = write_plan_run(tmp_path / "setting", files, fusion_width=12)
    with pytest.raises(CheckpointError, match="action_controller_config says fusion_width, which no action controller"):
        pipe.load_controller(run)
    files = {"trainable_full.safetensors": full(controller(7) | {"gate.weight": torch.ones(1)})}
    write_plan_run(tmp_path / "weight", files)
    index = RunIndex([tmp_path])
    (weight,) = (entry for entry in index.entries() if entry.run == "weight")
    assert "gate.weight" in index.verify(weight).problem
