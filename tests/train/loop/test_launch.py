"""What a run says from its launch on, and that it keeps nothing twice."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from wanact.files import CheckpointError
from wanact.models.controller import WanActionController
from wanact.runs.ref import RUN_CONFIG


class Launched(Exception):
    """Raised where the first step would begin."""


@pytest.fixture
def launch(run, monkeypatch):
    """`run` that ends where the first step would begin."""

    def stop(self):
        raise Launched

    def start(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr("train.loop.trainer.Trainer._train_step", stop)
            with pytest.raises(Launched):
                run(*arguments)

    return start


def config_of(path):
    return json.loads((path / RUN_CONFIG).read_text())


@pytest.mark.parametrize("stage, extra", [("action", ()), ("i2v", ("--lora_base_model", "dit", "--lora_rank", "4"))])
def test_the_plans_inference_reads_the_configuration_before_the_first_save(launch, model, tmp_path, stage, extra):
    """As its inference code does: base model, controller, and `lora` by its three keys."""
    launch(stage, tmp_path, *extra, "--max_steps", "1")
    assert not (tmp_path / "checkpoints").exists()
    config = config_of(tmp_path)
    assert config["base_model_dir"] == str(model)
    lora = config.get("lora", {})
    if lora.get("lora_base_model"):
        assert lora["lora_target_modules"].split(",") == ["q", "k", "v", "o", "ffn.0", "ffn.2"]
        assert lora["lora_rank"] == 4
    else:
        assert lora.keys() == {"lora_base_model", "lora_target_modules", "lora_rank"}
        controller = WanActionController(**config["action_controller_config"])
        assert controller.injection_type == "adaln_tmod" and len(config["action_magnitude_scale"]) == 8


def test_weights_that_are_there_keep_their_configuration_until_they_are_replaced(run, launch, tmp_path):
    run("action", tmp_path, "--max_steps", "1")
    before = config_of(tmp_path)
    scale = [50.0] * 4 + [1.0] * 4
    more = ["--max_steps", "2", "--action_magnitude_scale", *map(str, scale)]
    launch("action", tmp_path, *more)
    assert config_of(tmp_path) == before
    run("action", tmp_path, *more)
    assert config_of(tmp_path)["action_magnitude_scale"] == scale


@pytest.mark.parametrize(
    "stage, extra",
    [
        ("i2v", ()),
        ("i2v", ("--trainable_models", "transformer,text_encoder")),
        ("i2v", ("--lora_base_model", "transformer", "--lora_rank", "2")),
        ("action", ()),
    ],
)
def test_no_two_files_of_a_checkpoint_hold_the_same_trained_weights_twice(run, tmp_path, stage, extra):
    run(stage, tmp_path, *extra, "--max_steps", "1")
    folder = tmp_path / "checkpoints" / "step-000000001"
    full, short = (folder / f"{name}.safetensors" for name in ("trainable_full", "trainable"))
    assert full.is_file()
    if short.exists():
        others = [file for file in folder.glob("*.safetensors") if file != short]
        assert any(short.samefile(file) for file in others), "a second name of a file that is there"


def test_a_controller_of_an_unknown_kind_is_refused_by_its_name_where_training_begins(run, tmp_path):
    config = {"action_controller_config": {"injection_type": "patch_add"}}
    (tmp_path / RUN_CONFIG).write_text(json.dumps(config))
    file = tmp_path / "action_controller.safetensors"
    save_file({"action_embed.0.weight": torch.ones(48, 16)}, file)
    for flag in ("--action_controller_checkpoint", "--init_from"):
        with pytest.raises(CheckpointError, match="injection_type='patch_add' is unknown"):
            run("action", tmp_path / "run", flag, str(file))
    (tmp_path / RUN_CONFIG).unlink()
    save_file({"patch_add.proj.weight": torch.ones(2, 2)}, file)
    with pytest.raises(CheckpointError, match="no action controller that is known here: patch_add.proj.weight"):
        run("action", tmp_path / "run", "--action_controller_checkpoint", str(file))
