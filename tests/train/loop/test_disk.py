"""A disk that fills up costs the checkpoint that did not fit, and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings

import pytest
from safetensors import SafetensorError

from wanact.runs import store


def steps(run):
    return [info.step for info in store.list_checkpoints(run) if info.problem is None]


def failing_at(step, error):
    """`Saver._fill` that writes a part of one checkpoint and then meets a full disk."""
    from train.loop.saving import Saver

    fill = Saver._fill

    def patched(self, folder, snapshot):
        if snapshot.step == step:
            (folder / "trainable_full.safetensors").write_bytes(b"half")
            raise error
        fill(self, folder, snapshot)

    return patched


def test_a_full_disk_in_the_middle_of_a_save_costs_only_that_checkpoint(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "train.loop.saving.Saver._fill", failing_at(2, OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.warns(UserWarning, match="step 2 was not saved: the disk is full"):
        assert run("action", tmp_path, "--max_steps", "3", "--save_steps", "1").step == 3
    assert steps(tmp_path) == [1, 3]
    for step in (1, 3):
        store.verify(tmp_path / "checkpoints" / store.step_name(step))
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".")]


def test_too_little_space_is_seen_before_anything_is_written(run, tmp_path, monkeypatch):
    free = iter([10**9, 1000, 10**9])
    monkeypatch.setattr(store, "free_bytes", lambda path: next(free))
    with pytest.warns(UserWarning, match="step 2 was not saved.* MB are free"):
        run("action", tmp_path, "--max_steps", "3", "--save_steps", "1")
    assert steps(tmp_path) == [1, 3]


def test_a_last_checkpoint_that_does_not_fit_is_an_error(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "train.loop.saving.Saver._fill", failing_at(2, OSError(errno.ENOSPC, "No space left on device"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OSError, match="last checkpoint was not written"):
            run("action", tmp_path, "--max_steps", "2", "--save_steps", "1")
    assert steps(tmp_path) == [1]


def test_what_the_libraries_raise_on_a_full_disk_is_understood(tmp_path, monkeypatch):
    import torch

    from train.loop import saving

    def full(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError) as caught:
        saving._save_tensors({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert caught.value.errno == errno.ENOSPC
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError):
            saving._save_state({"x": torch.ones(100_000)}, tmp_path.joinpath("/dev/full"))


FILL = """
import os, sys, warnings
from pathlib import Path
from train.loop.config import parse
from train.loop.dist import Processes
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
from wanact.runs import store
run = Path(sys.argv[1])
config = parse("synthetic", [f"--output_path={run}", "--max_steps=30", "--save_steps=1", "--save_full_state",
                             "--resume_from=auto"])
processes = Processes("no")
trainer = Trainer(config, SyntheticStage(config, processes.device), processes)
try:
    trainer.run()
except OSError as error:
    print("ended:", error)
saved = [info for info in store.list_checkpoints(run)]
for info in saved:
    store.verify(info.path)
print("steps", trainer.step, "saved", len(saved), "free", store.free_bytes(run))
"""


def test_a_small_file_system_fills_up_and_training_goes_on(tmp_path):
    mounted = f'mount -t tmpfs -o size=2500k tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}/run'
    tried = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False) if _has_unshare() else None
    if tried is None or tried.returncode:
        pytest.skip("no user namespaces here, so that no small file system can be mounted")
    # Without the check beforehand, the disk itself has to say no.
    source = FILL.replace("run = Path", "store.free_bytes = lambda path: 10**12\nrun = Path", 1)
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mounted, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stderr
    words = done.stdout.splitlines()[-1].split()
    assert words[:2] == ["steps", "30"] and 2 <= int(words[3]) < 30
    assert "the last checkpoint was not written" in done.stdout


def _has_unshare() -> bool:
    import shutil

    return shutil.which("unshare") is not None
