"""Settings: flags, YAML and dotted overrides mean the same; mistakes are one sentence before anything loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from train.loop.config import SECTIONS, ConfigError, parse
from train.stages.action import ActionStage
from train.stages.i2v import I2VStage, lora_targets

PLAN_FLAGS = """
--data_file_keys --dataset_repeat --dataset_num_workers --height --width --max_pixels --num_frames --model_paths
--model_id_with_origin_paths --tokenizer_path --trainable_models --action_controller_config --action_injection_type
--action_initial_scale --action_controller_checkpoint --max_timestep_boundary --min_timestep_boundary
--initialize_model_on_cpu --learning_rate --lr_warmup_ratio --lr_min_lr --weight_decay --max_steps --num_epochs
--log_steps --save_steps --checkpoint_interval --use_wandb --wandb_project --wandb_run_name
--gradient_accumulation_steps --use_gradient_checkpointing --use_gradient_checkpointing_offload --lora_base_model
--lora_target_modules --lora_rank --lora_checkpoint --save_full_state --save_optimizer_state --max_checkpoints
--keep_last_n_checkpoints --resume_from --resume_from_ckpt --init_from --seed --batch_size --mixed_precision
--base_model_dir --output_dir --lr_warmup_steps --extra_inputs --task --fp8_models --offload_models
--find_unused_parameters --output_path --model_dir --dataset_base_path --dataset_metadata_path --cache_dir
--max_skipped --override --config
""".split()
NEEDED = ["--model_dir", "m", "--dataset_metadata_path", "d.csv", "--output_path", "o"]


@pytest.mark.parametrize("stage", ["i2v", "action"])
def test_help_lists_every_flag(stage, capsys):
    from train.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert ended.value.code == 0
    shown = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert set(PLAN_FLAGS) <= shown


def test_aliases_mean_the_same():
    config = parse("action", ["--checkpoint_interval", "7", "--keep_last_n_checkpoints", "3", "--save_optimizer_state",
                              "--resume_from_ckpt", "x", "--base_model_dir", "m", "--output_dir", "o",
                              "--trainable_models", "action_controller,dit"])  # fmt: skip
    assert config.model.model_dir == "m" and config.checkpoint.output_path == "o"
    assert config.model.trainable_models == "action_controller,transformer"
    assert config.checkpoint.save_steps == 7 and config.checkpoint.max_checkpoints == 3
    assert config.checkpoint.save_full_state and config.checkpoint.resume_from == "x"


@pytest.mark.parametrize(
    "flags, name",
    [
        (["--task", "sft"], "task"),
        (["--extra_inputs", "input_image"], "extra_inputs"),
        (["--fp8_models", "vae.pth"], "fp8_models"),
        (["--offload_models", "t5.pth"], "offload_models"),
        (["--find_unused_parameters"], "find_unused_parameters"),
    ],
)
def test_flags_of_the_plans_that_change_nothing_say_so(flags, name, monkeypatch, capsys):
    from train.commands import run

    monkeypatch.setattr(run, "run", lambda config: config)
    for stage, more in (("action", []), ("i2v", [])):
        run.train(stage, [*NEEDED, *flags, *more])
        assert f"--{name} has no effect here: " in capsys.readouterr().err
        run.train(stage, NEEDED)
        assert "no effect" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--learning_rate", "3e-4"],
        ["--learning_rate=3e-4"],
        ["optim.learning_rate=3e-4"],
        ["--optim.learning_rate", "3e-4"],
        ["--optim.learning_rate=3e-4"],
    ],
)
def test_every_spelling_of_a_setting_means_the_same(argv):
    assert parse("action", argv).optim.learning_rate == 3e-4


def test_files_give_way_to_later_files_and_those_to_flags(tmp_path):
    (tmp_path / "a.yaml").write_text("optim: {learning_rate: 1.0e-3, batch_size: 4}\nmax_steps: 10\n")
    (tmp_path / "b.yaml").write_text("batch_size: 8\ndata:\n  num_latent_frames_choices: [2, 3]\n")
    config = parse(
        "action", ["--config", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}", "--max_steps", "5"]
    )
    assert (config.optim.learning_rate, config.optim.batch_size, config.optim.max_steps) == (1e-3, 8, 5)
    assert config.data.num_latent_frames_choices == [2, 3]
    assert config.given == {"learning_rate", "batch_size", "max_steps", "num_latent_frames_choices", "config"}


def test_lists_take_commas_and_spaces():
    for argv in (["--num_latent_frames_choices", "2,3"], ["--num_latent_frames_choices", "2", "3"],
                 ["--num_latent_frames_choices=2,3"]):  # fmt: skip
        assert parse("action", argv).data.num_latent_frames_choices == [2, 3]


def test_every_field_has_its_own_name_and_a_help_text():
    import dataclasses

    fields = [field for cls in SECTIONS.values() for field in dataclasses.fields(cls)]
    assert len({field.name for field in fields}) == len(fields)
    assert all(field.metadata["help"] for field in fields)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--learnin_rate", "1"], "did you mean --learning_rate"),
        (["nonsense"], "nonsense is unknown"),
        (["data.learning_rate=1"], "section data has no learning_rate"),
        (["--learning_rate", "fast"], "invalid float value"),
        (["--learning_rate", "-1"], "must be above 0"),
        (["--lr_min_lr", "1"], "between 0 and --learning_rate"),
        (["--height", "96"], "both --height and --width"),
        (["--height", "100", "--width", "96"], "multiple of 32; nearest are 96 and 128"),
        (["--num_frames", "80"], "4k"),
        (["--model_dir", "a", "--model_paths", "b"], "keep one"),
        (["--max_steps", "1", "--num_epochs", "1"], "keep one"),
        (["--init_from", "a", "--resume_from", "b"], "keep one"),
        (["--use_wandb", "--tracker", "tensorboard"], "keep one"),
        (["--min_timestep_boundary", "0.5", "--max_timestep_boundary", "0.4"], "min < max"),
        (["--sigma_mean", "1"], "no effect without --sigma_sampling"),
        (["--sample_count", "1"], "no effect without --sample_steps"),
        (["--num_frames", "9", "--num_latent_frames_choices", "2,4"], "more than the 3 latent frames"),
        (["--data_file_keys", "prompt"], "must be video"),
        (["--max_steps", "0"], "must be above 0"),
        (["--action_magnitude_scale", "1,2"], "takes 8 numbers"),
        (["--config", "nowhere.yaml"], "cannot be read"),
        (["--mixed_precision", "fp8"], "invalid choice"),
        (["--lr_warmup_steps", "10", "--lr_warmup_ratio", "0.1"], "keep one"),
        (["--lr_warmup_steps", "-1"], "must not be negative"),
        (["--task", "sft:data_process"], "must be sft"),
        (["--extra_inputs", "input_image,vace_video"], "must be input_image"),
    ],
)
def test_a_mistake_is_one_sentence(argv, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        parse("i2v", argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("- 1", "names and values"),
        ("a: [", "valid YAML"),
        ("optim: {x: 1}", "no x"),
        ("learnin_rate: 1", "did you mean"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(text, message, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"settings.yaml.*{message}"):
        parse("i2v", ["--config", str(path)])


@pytest.mark.parametrize("flag", ["--lora_rank", "--lora_base_model", "--lora_checkpoint"])
def test_lora_in_action_training_is_an_error_that_says_why(flag):
    value = {"--lora_rank": "4", "--lora_base_model": "dit", "--lora_checkpoint": "x"}[flag]
    config = parse("action", [*NEEDED, flag, value])
    with pytest.raises(ConfigError, match=f"{flag}.*not for action training.*merge-lora"):
        ActionStage.check(config)


@pytest.mark.parametrize(
    "stage, argv, message",
    [
        (I2VStage, ["--lora_base_model", "dit", "--trainable_models", "transformer"], "nothing else"),
        (I2VStage, ["--action_injection_type", "adaln_tmod"], "no controller"),
        (I2VStage, ["--trainable_models", "vae"], "choose from transformer, text_encoder"),
        (ActionStage, ["--action_controller_config", "tiny"], "choose from wan_ti2v_5b"),
        (ActionStage, ["--action_controller_config", "{x"], "not valid JSON"),
        (ActionStage, ["--action_injection_type", "magic"], "choose from cross_attn_frame"),
        (ActionStage, ["--export_model_dir", "x"], "nothing of the model directory"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_before_loading(stage, argv, message):
    with pytest.raises(ConfigError, match=message):
        stage.check(parse(stage.name, [*NEEDED, *argv]))


def test_what_is_required_is_named():
    with pytest.raises(ConfigError, match="--output_path is required"):
        I2VStage.check(parse("i2v", ["--dataset_metadata_path", "x"]))


def test_lora_targets_take_either_spelling():
    assert lora_targets("q,k,v,o,ffn.0,ffn.2") == lora_targets("to_q,to_k,to_v,to_out.0,ffn.net.0.proj,ffn.net.2")


def test_a_mistake_on_the_command_line_is_printed_without_a_traceback(capsys):
    from train.__main__ import main

    assert main(["action", "--learnin_rate", "1"]) == 1
    assert capsys.readouterr().err == "error: --learnin_rate is unknown; did you mean --learning_rate?\n"
    assert main(["acton"]) == 2
    assert "'acton' is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[3].glob("train/configs/*/*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_valid(file):
    from train.stages import stage_class

    stage = file.stem.partition("_")[0]
    if stage not in ("i2v", "action"):
        pytest.skip("a stage of its own")
    assert yaml.safe_load(file.read_text())
    stage_class(stage).check(parse(stage, ["--config", str(file), *NEEDED]))
