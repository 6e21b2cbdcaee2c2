"""A stage refuses settings that it does not use; a new stage takes a file, a line in the table and a preset."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

from train.__main__ import main
from train.loop.config import SECTIONS, ConfigError, parse
from train.loop.stage import LOOP_USES
from train.stages import STAGES, refuse_unused, stage_class
from wanact.files import load_weights, read_json
from wanact.runs import store

PRESETS = sorted((Path(__file__).parents[3] / "train" / "configs").glob("*/*.yaml"))
FIELDS = {field.name for kind in SECTIONS.values() for field in dataclasses.fields(kind)}


def parse_for(stage: str, argv: list[str]):
    kind = stage_class(stage)
    return parse(stage, argv, kind.options, partial(refuse_unused, kind))


@pytest.mark.parametrize(
    ("stage", "argv", "users"),
    [
        ("vae", ["--mirror", "true"], "i2v, action, causal"),
        ("vae", ["--mirror", "false"], "i2v, action, causal"),
        ("vae", ["data.mirror=true"], "i2v, action, causal"),
        ("vae", ["--cache_dir", "x"], "i2v, action, causal"),
        ("vae", ["--model_paths", "[]"], "i2v, action, causal"),
        ("vae", ["--prompt_dropout", "0.2"], "i2v, action, causal"),
        ("vae", ["--sample_steps", "1", "--sample_inference_steps", "2"], "i2v, action, causal"),
        ("vae", ["--action_injection_type", "adaln_tmod"], "action, causal"),
        ("idm", ["--lora_rank", "4"], "i2v"),
        ("idm", ["--lora_base_model", "transformer"], "i2v"),
        ("idm", ["--sigma_mean", "1"], "i2v, action, causal"),
        ("idm", ["--model_dir", "x"], "i2v, action, causal, vidar, vidarc, vae"),
        ("idm", ["--sample_steps", "1"], "i2v, action, causal, vidar, vidarc, vae"),
        ("idm", ["--cache_memory_gb", "1"], "i2v, action, causal, vidar, vidarc, vae"),
        ("idm", ["--export_dtype", "float32"], "i2v, action, causal"),
        ("i2v", ["--action_dropout", "0.1"], "action, causal"),
        ("i2v", ["--action_magnitude_scale", "1,1,1,1,1,1,1,1"], "action, causal"),
        ("action", ["--lora_target_modules", "q"], "i2v"),
        ("causal", ["--lora_checkpoint", "x"], "i2v"),
        ("causal", ["--loss_weighting", "bell"], "i2v, action"),
        ("causal", ["--first_frame_dropout", "0.1"], "i2v, action"),
    ],
)
def test_a_setting_without_effect_is_refused_in_a_sentence_that_says_where_it_has_one(stage, argv, users):
    name = next(n for n in reversed(argv) if "-" in n or "=" in n).removeprefix("--").partition("=")[0].split(".")[-1]
    with pytest.raises(ConfigError) as error:
        parse_for(stage, argv)
    assert str(error.value).startswith(f"--{name} has no effect in stage {stage}, only in {users}")
    assert "\n" not in str(error.value)


def test_it_is_refused_in_a_file_too_and_printed_without_a_traceback(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("data: {mirror: true}\n")
    assert main(["idm", "--config", str(tmp_path / "settings.yaml")]) == 1
    assert (
        capsys.readouterr().err
        == "error: --mirror has no effect in stage idm, only in i2v, action, causal, vidar, vidarc\n"
    )


def test_an_emptied_flag_of_a_script_is_let_through():
    assert parse_for("action", ["--lora_base_model", ""]).model.lora_base_model == ""


@pytest.mark.parametrize("flag", ["--lora_rank", "--lora_checkpoint", "--lora_target_modules"])
def test_lora_flags_need_a_lora(flag):
    needed = ["--model_dir", "m", "--dataset_metadata_path", "d.csv", "--output_path", "o"]
    with pytest.raises(ConfigError, match=f"{flag} has no effect without --lora_base_model"):
        stage_class("i2v").check(parse_for("i2v", [*needed, flag, "4"]))


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_names_are_settings(stage):
    kind = stage_class(stage)
    assert {*LOOP_USES, *kind.uses} <= FIELDS | SECTIONS.keys()
    assert kind.refuses.keys() <= FIELDS


def test_every_setting_has_an_effect_somewhere():
    assert FIELDS == {name for stage in STAGES for name in stage_class(stage).used_settings()}


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_preset_is_valid_in_its_stage(file):
    stage = max((name for name in STAGES if file.stem.startswith(name)), key=len)
    fresh = stage.startswith("idm") or stage == "nearness" or file.stem == "vae"  # from random weights
    base = [] if fresh else ["--model_dir", "m"]
    data = [] if stage == "nearness" else ["--dataset_metadata_path", "d.csv"]  # it draws its own
    needed = [*base, *data, "--output_path", "o"]
    if stage == "vidarc":
        needed += ["--embodiment_aware", "false"]  # its mask is a network of its own
    stage_class(stage).check(parse_for(stage, ["--config", str(file), *needed]))


NEW_STAGE = '''
"""Pull a few weights to the height of a hover."""

from dataclasses import dataclass

import torch
from transformers.hf_argparser import HfArg

from train.loop.stage import Stage, StepLoss
from train.stages.i2v import seeded


@dataclass
class HoverOptions:
    """Where to."""

    _argument_group_name = "hover"

    hover_height: float = HfArg(default=1.0, help="metres")


class HoverStage(Stage):
    """Train four weights."""

    name = "hover"
    options = HoverOptions
    uses = ("height",)

    def setup(self, processes):
        with seeded(self.config.optim.seed, "hover"):
            self.modules["hover"] = torch.nn.Linear(2, 2).to(self.device)

    def __len__(self):
        return 3

    def load(self, draws):
        return {"at": torch.stack([torch.randn(2, generator=draw.generator("at")) for draw in draws])}

    def loss(self, batch, phase):
        return StepLoss((self.modules["hover"](batch["at"]) - self.config.stage.hover_height).square().mean(dim=1))

    def export(self, weights):
        return {"hover.safetensors": {name.removeprefix("hover."): value for name, value in weights.items()}}

    def export_config(self):
        return "hover_config.json", {"stage": self.name, "height": self.config.stage.hover_height}
'''


@pytest.fixture
def hover(tmp_path, monkeypatch) -> Path:
    """The preset of a stage that is written here: a file, a line in the table, and this."""
    (tmp_path / "hover_stage.py").write_text(NEW_STAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(STAGES, "hover", ("hover_stage:HoverStage", "train a hover"))
    preset = tmp_path / "hover.yaml"
    preset.write_text("stage: {hover_height: 2.5}\noptim: {learning_rate: 0.1, lr_min_lr: 0.05, max_steps: 2}\n")
    return preset


def test_a_new_stage_trains_exports_and_resumes(hover, tmp_path):
    argv = ["hover", "--config", str(hover), "--output_path", str(tmp_path / "run"), "--save_full_state"]
    assert main(argv) == 0
    newest = store.resolve(tmp_path / "run")
    weights = load_weights(newest / "hover.safetensors")
    assert weights.keys() == {"weight", "bias"} and all(value.isfinite().all() for value in weights.values())
    assert read_json(tmp_path / "run" / "hover_config.json") == {"stage": "hover", "height": 2.5}
    assert main([*argv, "--max_steps", "3"]) == 0
    assert store.list_checkpoints(tmp_path / "run")[-1].step == 3
    again = load_weights(store.resolve(tmp_path / "run") / "hover.safetensors")
    assert not torch.equal(again["weight"], weights["weight"])


def test_a_new_stage_is_listed_and_refuses_what_it_does_not_use(hover, capsys):
    assert main(["--help"]) == 0
    assert "  hover        train a hover" in capsys.readouterr().out
    assert main(["hover", "--config", str(hover), "--mirror", "true"]) == 1
    assert "--mirror has no effect in stage hover, only in i2v" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--max_pixels has no effect in stage hover"):
        parse_for("hover", ["--max_pixels", "10000"])
    with pytest.raises(ConfigError, match="--height has no effect in stage idm2"):
        kind = type("Other", (stage_class("hover"),), {"name": "idm2", "uses": ()})
        refuse_unused(kind, parse("hover", ["--height", "32", "--width", "32"], kind.options))
