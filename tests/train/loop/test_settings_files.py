"""Settings mean what was written, in whatever file; a mistake is one sentence before anything loads."""

from __future__ import annotations

import dataclasses

import pytest

from train.__main__ import main
from train.loop.config import ConfigError, parse, require_writable
from train.stages.causal import CausalOptions


def settings(tmp_path, text, *flags, encoding="utf-8", options=None):
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode(encoding))
    return parse("action", ["--config", str(path), *flags], options)


@pytest.mark.parametrize("word", ["no", "auto", "bf16"])
@pytest.mark.parametrize("section", ["", "optim:\n  "])
def test_no_is_a_word(tmp_path, word, section):
    assert settings(tmp_path, f"{section}mixed_precision: {word}\n").optim.mixed_precision == word


@pytest.mark.parametrize("word", ["on", "On", "yes", "true", "True"])
def test_switches_are_switched_by_any_word(tmp_path, word):
    assert settings(tmp_path, f"mirror: {word}\n").data.mirror is True
    opposite = {"on": "off", "yes": "no", "true": "false"}[word.lower()]
    assert settings(tmp_path, f"mirror: {opposite}\n").data.mirror is False


@pytest.mark.parametrize("name", ["2026-11-28", "007", "12:30", "off", "1_000", "0x10", "no"])
def test_names_that_look_like_something_else_stay_what_was_written(tmp_path, name):
    assert settings(tmp_path, f"wandb_run_name: {name}\ntracker: wandb\n").log.wandb_run_name == name


def test_numbers_lists_objects_and_nothing_are_read(tmp_path):
    config = settings(
        tmp_path,
        "learning_rate: 1e-4\nnum_latent_frames_choices: [2, 3]\nnum_frames: 9\nmax_steps: ~\n"
        "action_controller_config: {num_heads: 2, injection_type: adaln_tmod}\n",
    )
    assert config.optim.learning_rate == 1e-4 and config.data.num_latent_frames_choices == [2, 3]
    assert config.optim.max_steps is None
    assert config.model.action_controller_config == '{"num_heads": 2, "injection_type": "adaln_tmod"}'


def test_comments_in_any_script_are_read_and_other_encodings_named(tmp_path):
    text = "# réglages de l’équipe\nlearning_rate: 1e-3\n"
    for encoding in ("utf-8", "utf-8-sig"):
        assert settings(tmp_path, text, encoding=encoding).optim.learning_rate == 1e-3
    with pytest.raises(ConfigError, match="settings.yaml is not UTF-8: line 1 has the byte 0xe9; save it as UTF-8"):
        settings(tmp_path, text, encoding="cp1252")


def test_every_path_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", f"{tmp_path}/data")
    config = settings(
        tmp_path,
        'output_path: ~/runs/a\ndataset_base_path: $DATA/clips\nmodel_paths: \'["~/a.pt", ["${DATA}/b.pt"]]\'\n',
        *("--cache_dir", "$DATA/cache", "--init_from", "~/runs/b", "--teacher_run", "~/t", "--student_steps", "2"),
        options=CausalOptions,
    )
    home = str(tmp_path)
    assert config.checkpoint.output_path == f"{home}/runs/a" and config.checkpoint.init_from == f"{home}/runs/b"
    assert config.data.dataset_base_path == f"{home}/data/clips" and config.data.cache_dir == f"{home}/data/cache"
    assert config.model.model_paths == f'["{home}/a.pt", ["{home}/data/b.pt"]]'
    assert config.stage.teacher_run == f"{home}/t"
    with pytest.raises(ConfigError, match=r"--output_path \$NOWHERE/a: the variable \$NOWHERE is not set"):
        settings(tmp_path, "output_path: $NOWHERE/a\n")


def test_no_setting_that_is_a_path_is_forgotten():
    from train.loop.config import PATHS, SECTIONS

    names = {f.name for section in (*SECTIONS.values(), CausalOptions) for f in dataclasses.fields(section)}
    places = {n for n in names if n.endswith(("_path", "_paths", "_dir", "_checkpoint", "_from", "_run"))}
    assert places - {"model_id_with_origin_paths"} <= set(PATHS) <= names


def test_a_place_that_cannot_be_written_is_one_sentence_before_anything_loads(run, tmp_path, monkeypatch):
    from train.loop.trainer import Trainer

    (tmp_path / "file").touch()
    monkeypatch.setattr(Trainer, "setup", lambda self: pytest.fail("it has begun to load"))
    for name in ("output_path", "cache_dir"):
        with pytest.raises(ConfigError, match=f"--{name} .*file/run cannot be written: Not a directory"):
            run("action", tmp_path / "run", f"--{name}", str(tmp_path / "file" / "run"))
    require_writable("output_path", tmp_path / "new" / "run")
    assert not list((tmp_path / "new" / "run").iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    "text", ["a:\n\t- b", "- 1", "&a [*a]", "data: 5", "1: 2", "learning_rate: {a: 1}", "{", "\x00"]
)
def test_a_file_of_settings_that_is_none_is_a_sentence(tmp_path, text, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["action", "--config", str(tmp_path / "bad.yaml"), "--output_path", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
