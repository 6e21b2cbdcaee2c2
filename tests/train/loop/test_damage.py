"""Every file of a checkpoint, damaged in every way: `auto` falls back and names it, a named checkpoint is an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wanact.files import CheckpointError, load_weights
from wanact.runs import store

FLAGS = ("--max_steps", "2", "--save_steps", "1", "--ema_decay", "0.5")


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory) -> Path:
    """A run with checkpoints of step 1 and step 2."""
    path = tmp_path_factory.mktemp("damage") / "run"
    run("action", path, *FLAGS, "--trainable_models", "action_controller,transformer")
    return path


def find(arguments, run: Path, *more: str):
    from train.loop import resume
    from train.loop.config import parse

    config = parse("action", arguments("action", run, *FLAGS, *more))
    weights = load_weights(run / "checkpoints" / store.step_name(1) / "trainable_full.safetensors")
    return resume.find(config, "action", {name: value.shape for name, value in weights.items()})


def damage(file: Path, kind: str) -> None:
    data = file.read_bytes()
    if kind == "a bit flipped":
        place = len(data) * 2 // 3
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    elif kind == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "emptied":
        file.write_bytes(b"")
    else:
        file.unlink()


@pytest.mark.parametrize("kind", ["a bit flipped", "truncated", "emptied", "removed"])
def test_auto_falls_back_and_names_the_file_and_a_named_checkpoint_errors(kind, trained, arguments, tmp_path):
    newest = store.step_name(2)
    files = sorted(
        p.relative_to(trained / "checkpoints" / newest) for p in (trained / "checkpoints" / newest).rglob("*")
    )
    assert len(files) >= 11
    for file in files:
        run = tmp_path / file.name
        shutil.copytree(trained, run, symlinks=True)
        damage(run / "checkpoints" / newest / file, kind)
        loaded, remarks = find(arguments, run)
        assert loaded.step == 1, file
        assert any(newest in line and file.name in line for line in remarks), (file, remarks)
        with pytest.raises(CheckpointError, match=file.name):
            find(arguments, run, "--resume_from", str(run / "checkpoints" / newest))


def test_nothing_usable_is_an_error_and_fresh_only_on_request(trained, arguments, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run, symlinks=True)
    for step in (1, 2):
        damage(run / "checkpoints" / store.step_name(step) / "optimizer.pt", "emptied")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints.*on_resume_error fresh"):
        find(arguments, run)
    loaded, remarks = find(arguments, run, "--on_resume_error", "fresh")
    assert loaded.step == 2 and loaded.optimizer is None, "the weights are sound"
    assert len(remarks) == 3 and "weights are kept" in remarks[-1]
    for step in (1, 2):
        damage(run / "checkpoints" / store.step_name(step) / "trainable_full.safetensors", "a bit flipped")
    loaded, remarks = find(arguments, run, "--on_resume_error", "fresh")
    assert loaded is None and len(remarks) == 2


def test_a_named_checkpoint_that_fails_may_start_fresh_on_request(trained, arguments, tmp_path):
    missing = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        find(arguments, trained, "--resume_from", missing)
    loaded, remarks = find(arguments, trained, "--resume_from", missing, "--on_resume_error", "fresh")
    assert loaded is None and "starts fresh" in remarks[-1]


def test_training_goes_on_from_the_older_checkpoint_and_replaces_the_damaged_one(run, tmp_path, capsys):
    run("action", tmp_path / "whole", *FLAGS)
    run("action", tmp_path / "run", *FLAGS)
    newest = tmp_path / "run" / "checkpoints" / store.step_name(2)
    damage(newest / "trainable_full.safetensors", "a bit flipped")
    run("action", tmp_path / "run", *FLAGS)
    assert "passed over step-000000002" in capsys.readouterr().out
    store.verify(newest)
    sums = [
        store.read_metadata(folder)["files"]["trainable_full.safetensors"]["sha256"]
        for folder in (newest, tmp_path / "whole" / "checkpoints" / store.step_name(2))
    ]
    assert sums[0] == sums[1]


def test_verify_names_what_is_damaged_and_its_status_says_so(trained, tmp_path, capsys):
    from train.__main__ import main

    run = tmp_path / "run"
    shutil.copytree(trained, run, symlinks=True)
    assert main(["verify", str(run)]) == 0
    damage(run / "checkpoints" / store.step_name(1) / "ema.safetensors", "a bit flipped")
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out
    assert "DAMAGED step-000000001" in out and "ema.safetensors" in out and "ok      step-000000002" in out
