"""The plan's files and flags are read as they are written; what cannot be done is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.__main__ import main
from train.loop import words
from train.loop.config import ConfigError, parse, stage_said
from train.stages import stage_class

CONFIGS = Path(__file__).parents[3] / "train" / "configs" / "vidar"
OFF = ("--embodiment_aware", "false")  # the mask needs a network of its own


def settings(stage: str, *argv: str):
    kind = stage_class(stage)
    return parse(stage, list(argv), kind.options, usual=kind.usual)


def of_file(tmp_path: Path, stage: str, text: str, *argv: str):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return settings(stage, "--config", str(file), *argv)


def test_stage_1_of_the_plan_is_read_word_for_word():
    config = settings("vidar", "--config", str(CONFIGS / "vidar_finetune.yaml"))
    assert config.model.model_dir == "checkpoints/Wan2.2-TI2V-5B" and config.checkpoint.init_from is None
    optim = config.optim
    assert (optim.max_steps, optim.batch_size, optim.learning_rate, optim.lr_warmup_steps) == (14000, 128, 2e-5, 200)
    assert (optim.optimizer, optim.weight_decay, optim.adam_beta1, optim.adam_beta2) == ("adamw", 0.1, 0.9, 0.999)
    assert config.model.trainable_models == "transformer"
    assert config.checkpoint.save_path == "checkpoints/vidar/vidar.pt"


def test_stage_2_of_the_plan_is_read_word_for_word():
    config = settings("vidarc", "--config", str(CONFIGS / "vidarc_causal.yaml"), *OFF)
    assert config.checkpoint.init_from == "checkpoints/vidar/vidar.pt"
    assert (config.optim.max_steps, config.optim.lr_warmup_steps, config.optim.weight_decay) == (4000, 200, 0.1)
    assert (config.stage.chunk_size, config.stage.window) == (16, 63), "the first latent frame is in the cache as well"
    assert config.checkpoint.save_path == "checkpoints/vidar/vidarc.pt"


def test_its_file_for_two_gpus_is_read_alone_and_over_the_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = settings("vidarc", "--config", str(CONFIGS / "vidarc_2xh200.yaml"))
    assert (alone.optim.batch_size, alone.optim.gradient_accumulation_steps, alone.stage.chunk_size) == (8, 8, 8)
    assert alone.shard.fsdp and alone.model.use_gradient_checkpointing and alone.optim.mixed_precision == "bf16"
    both = settings("vidarc", *(a for n in ("vidarc_causal", "vidarc_2xh200") for a in ("--config",
                    str(CONFIGS / f"{n}.yaml"))), *OFF)  # fmt: skip
    assert both.stage.chunk_size == 8 and both.checkpoint.init_from and both.optim.batch_size == 8


@pytest.mark.parametrize(
    ("argv", "stage"),
    [
        (["--config", str(CONFIGS / "vidar_finetune.yaml")], "vidar"),
        (["--config", str(CONFIGS / "vidarc_causal.yaml")], "vidarc"),
        ([f"--config={CONFIGS / 'vidarc_2xh200.yaml'}"], "vidarc"),
        (["--config", str(CONFIGS / "vidar_data.yaml"), "--model_class", "WanModelCausal"], "vidarc"),
        (["--config", str(CONFIGS / "vidar_data.yaml"), "model.model_class=WanModel"], "vidar"),
    ],
)
def test_the_stage_is_taken_from_the_files(argv, stage):
    assert stage_said(argv) == stage


def test_files_that_name_no_stage_are_answered_with_how_to_name_one(capsys):
    assert main(["--config", str(CONFIGS / "vidar_data.yaml"), "--output_dir", "x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: nothing says what is trained; name the stage") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--ckpt_dir", "w", "--num_steps", "9"], {"model_dir": "w", "max_steps": 9}),
        (["--lr", "1e-4", "--warmup", "3"], {"learning_rate": 1e-4, "lr_warmup_steps": 3}),
        (["training.batch_size=6", "distributed.use_fsdp=true"], {"batch_size": 6, "fsdp": True}),
        (["--freeze", "t5", "vae"], {"trainable_models": "transformer"}),
        (["--freeze", "vae"], {"trainable_models": "transformer,text_encoder"}),
        (["--pt_dir", "v.pt", "--gradient_accumulation", "4"], {"init_from": "v.pt", "gradient_accumulation_steps": 4}),
        (["--use_fsdp", "--activation_checkpointing"], {"fsdp": True, "use_gradient_checkpointing": True}),
        (["--num_steps", "5", "--max_steps", "7"], {"max_steps": 7}),
        (["--batch_size", "5", "optim.seed=3"], {"batch_size": 5, "seed": 3}),
    ],
)
def test_the_plans_words_are_flags_as_well(argv, expected):
    config = settings("vidar", *argv)
    parts = [config.data, config.model, config.optim, config.checkpoint, config.shard]
    values = {name: value for part in parts for name, value in vars(part).items()}
    assert {name: values[name] for name in expected} == expected


def test_flags_win_over_the_plans_files_and_the_batch_is_split_over_the_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    text = "training: {batch_size: 128, num_steps: 14000, lr: 2.0e-5}\n"
    assert of_file(tmp_path, "vidar", text).optim.batch_size == 32
    config = of_file(tmp_path, "vidar", text, "--batch_size", "1", "--max_steps", "2")
    assert (config.optim.batch_size, config.optim.max_steps) == (1, 2)
    with pytest.raises(ConfigError, match="batch_size: 6 cannot be split over 4 processes; give a multiple of 4"):
        of_file(tmp_path, "vidar", "training: {batch_size: 6}\n")


def test_debug_takes_a_few_rows_and_checks_and_respects_the_flags(tmp_path):
    text = "training: {batch_size: 128, num_steps: 14000, gradient_accumulation: 8}\n"
    config = of_file(tmp_path, "vidar", text, "--debug", "--max_steps", "100")
    assert config.debug and config.optim.checks and config.data.max_rows == 8
    assert (config.optim.max_steps, config.optim.batch_size, config.optim.gradient_accumulation_steps) == (100, 1, 1)
    assert of_file(tmp_path, "vidar", text, "--debug", "--batch_size", "2").optim.batch_size == 2


@pytest.mark.parametrize(
    ("stage", "text", "says"),
    [
        ("vidar", "training: {steps: 3}", "section training has no steps; it has num_steps, batch_size"),
        ("vidar", "modl: {ckpt_dir: w}", "--modl is unknown; did you mean"),
        ("vidar", "model: {ckpt: w}", "section model has no ckpt"),
        ("vidar", "model: {model_class: WanModelCausal}", "WanModelCausal is for stage vidarc, and this is vidar"),
        ("vidarc", "loss: {type: flow_matching}", "type: flow_matching is for stage vidar, and this is vidarc"),
        ("vidarc", "self_forcing: {causal: false}", "causal: False is for stage vidar, and this is vidarc"),
        ("vidar", "model: {model_class: Wan}", "model_class: Wan is unknown; choose from WanModel, WanModelCausal"),
        ("vidar", "training: {batch_size: many}", "batch_size: many must be a whole number above 0"),
        ("vidarc", "self_forcing: {kv_cache_length: 1}", "kv_cache_length: 1 must be at least 2"),
        ("vidar", "training: {freeze: [vae, clip]}", "freeze: clip is no network; choose from t5, vae and dit"),
        ("vidar", "training: {freeze: [t5]}", "freeze: vae is missing"),
        ("vidar", "distributed: {mixed_precision: fp16}", "mixed_precision: fp16 must be bf16 or fp32"),
        ("vidar", "self_forcing: {chunk_size: 4}", "--chunk_size is unknown"),
        ("vidar", "output: {save_path: vidar.safetensors}", "--save_path vidar.safetensors must end in .pt"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, stage, text, says):
    with pytest.raises(ConfigError) as error:
        of_file(tmp_path, stage, text + "\n")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_is_not_there_may_be_given_as_what_is_done_without_it(monkeypatch, tmp_path):
    monkeypatch.setitem(words.LATER, "some_day", False)
    assert of_file(tmp_path, "vidar", "some_day: false\n").optim.weight_decay == 0.1
    with pytest.raises(ConfigError, match="some_day: True is not there in stage vidar; leave it out or give some_day"):
        of_file(tmp_path, "vidar", "some_day: true\n")
