"""The end of a run names its best step, and commands that work as they stand."""

from __future__ import annotations

import shlex

import app
from train.commands.ending import ending
from wanact.commands import card
from wanact.runs import store
from wanact.runs.ref import split_name


def write_steps(run, losses, files=(store.CONTROLLER,)):
    def fill(folder):
        for name in files:
            (folder / name).write_bytes(b"x")

    for step, loss in losses.items():
        store.write_checkpoint(run, step, fill, {"loss": loss})


def test_the_end_names_the_best_step_and_how_to_open_it(tmp_path):
    run = tmp_path / "my runs" / "orbit"
    write_steps(run, {4: 0.5, 8: 0.25, 12: 0.75})
    first, fly, measure = ending(run, "some model")
    assert "step 8 (loss 0.2500)" in first and "last checkpoint is step 12" in first
    flown = app.parse_args(shlex.split(fly.partition("app.py ")[2]))
    assert flown.model_dir == "some model" and [info.name for info in store.list_runs(flown.runs[0])] == ["orbit"]
    measured = card._parser().parse_args(shlex.split(measure.partition("wanact card ")[2].partition("(")[0]))
    assert str(measured.model_dir) == "some model" and split_name(measured.runs[0]) == (run, "8")


def test_what_does_not_fly_is_not_said_to(tmp_path):
    write_steps(tmp_path / "vae", {4: None}, files=["vae.safetensors"])
    (only,) = ending(tmp_path / "vae", None)
    assert "step 4" in only and ending(tmp_path / "empty", None) == []


def test_a_run_says_it(run, tmp_path, capsys):
    run("action", tmp_path / "mine", "--max_steps", "2", "--save_steps", "1")
    said = capsys.readouterr().out
    assert "best by training loss is step" in said and f"--runs {tmp_path}" in said
