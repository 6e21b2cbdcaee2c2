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

    from train.data.cache import Cache
    from train.loop import saving

    def full(*_args, **_kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError) as caught:
        saving._save_tensors({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert caught.value.errno == errno.ENOSPC
    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr("train.data.cache.save_file", full)
        Cache(tmp_path / "cache").put("key", {"x": torch.ones(1)})
    assert caught.value.errno == errno.ENOSPC and not list((tmp_path / "cache").rglob("*.*"))
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
    mounted = f'mount -t tmpfs -o size=1800k tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}/run'
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


BRIM = """
import os, sys
from pathlib import Path
from train.__main__ import _reporting
from train.loop.config import parse
from train.loop.dist import Processes
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
disk, full, room = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

class Stage(SyntheticStage):
    def load(self, draws):
        step = draws[0].step
        if step == full:
            with open(disk / "filler", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(2**20)) == 2**20:
                        pass
                    while file.write(b"x"):
                        pass
                except OSError:
                    pass
        if step == room:
            (disk / "filler").unlink()
        return super().load(draws)

    def sample(self, folder, step):
        (folder / "clip.txt").write_text("x" * 5000)

config = parse("synthetic", [f"--output_path={disk}/run", "--max_steps=30", "--save_steps=4", "--save_full_state",
                             "--max_checkpoints=2", "--log_steps=1"])
config.log.sample_steps = 5
processes = Processes("no")
sys.exit(_reporting(lambda: Trainer(config, Stage(config, processes.device), processes).run() * 0))
"""


def _on_small_disk(tmp_path, source, *arguments):
    """Run a program on a file system of 4 MB that takes its output too; its status, and what lay there at the end."""
    tried = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False) if _has_unshare() else None
    if tried is None or tried.returncode:
        pytest.skip("no user namespaces here, so that no small file system can be mounted")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = (
        f'mount -t tmpfs -o size=4m tmpfs {disk}; {sys.executable} -c "$0" {disk} {" ".join(arguments)} '
        f">{disk}/train.log 2>&1; status=$?; cp -a {disk} {kept}; exit $status"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command, source], capture_output=True, text=True, check=False)
    assert done.stderr == "", done.stderr
    return done.returncode, kept


def test_a_disk_filled_to_the_brim_costs_the_checkpoints_of_that_time_and_no_line_of_the_log(tmp_path):
    status, kept = _on_small_disk(tmp_path, BRIM, "9", "21")
    said = (kept / "train.log").read_text()
    assert status == 0, said
    assert [row["step"] for row in store.read_log(kept / "run")] == list(range(1, 31))
    assert max(steps(kept / "run")) == 30 and "Traceback" not in said
    for info in store.list_checkpoints(kept / "run"):
        store.verify(info.path)


def test_a_disk_that_stays_full_ends_with_a_sentence_and_keeps_what_was_saved(tmp_path):
    status, kept = _on_small_disk(tmp_path, BRIM, "9", "99")
    assert status == 1
    assert "Traceback" not in (kept / "train.log").read_text()
    assert steps(kept / "run")[-1] in (4, 8), "the save of step 8 may still have been at work"
    logged = [row["step"] for row in store.read_log(kept / "run")]
    assert logged == list(range(1, len(logged) + 1)) and len(logged) >= 9
    assert (kept / "run" / "log.jsonl").read_bytes().endswith(b"\n"), "no half line is left"


def test_a_log_that_lost_its_disk_is_whole_again_when_there_is_room(tmp_path, monkeypatch):
    from train.loop.log import RunLog

    log, write = RunLog(tmp_path), os.write
    log.add({"step": 1})

    def full(handle, data):
        if len(data) > 4:
            return write(handle, data[:4])  # a part still fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left.*lines are kept") as said:
        patch.setattr(os, "write", full)
        log.add({"step": 2})
        log.add({"step": 3})
    assert len(said) == 1, "once, and not a line"
    assert store.read_log(tmp_path) == [{"step": 1}]
    log.add({"step": 4})
    assert [row["step"] for row in store.read_log(tmp_path)] == [1, 2, 3, 4]


def test_going_back_cuts_the_log_without_room_and_takes_half_a_line_with_it(tmp_path, monkeypatch):
    from train.loop.log import RunLog

    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    monkeypatch.setattr("train.loop.log.replacing", lambda path: pytest.fail("this needs room"))
    log = RunLog(tmp_path)
    log.go_back_to(2)
    log.add({"step": 3})
    assert file.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize(
    "content",
    [b"garbage", b"garbage\n\x00\xff\n", b'{"step": "many"}\n', b"[" * 100_000 + b"\n", b'{"loss": 1}\n', None],
    ids=["text", "bytes", "no number", "nested", "no step", "folder"],
)
def test_a_log_that_is_none_is_said_before_anything_loads(run, tmp_path, monkeypatch, content):
    from train.stages.action import ActionStage
    from wanact.files import CheckpointError

    monkeypatch.setattr(ActionStage, "setup", lambda *_: pytest.fail("it loads"))
    if content is None:
        (tmp_path / "log.jsonl").mkdir()
    else:
        (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"log\.jsonl .*move it away"):
        run("action", tmp_path, "--max_steps", "1")
    assert content is None or (tmp_path / "log.jsonl").read_bytes() == content


def test_checkpoints_that_are_a_file_are_said_before_anything_loads(run, tmp_path, monkeypatch):
    from train.stages.action import ActionStage
    from wanact.files import CheckpointError

    monkeypatch.setattr(ActionStage, "setup", lambda *_: pytest.fail("it loads"))
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints is a file"):
        run("action", tmp_path, "--max_steps", "1")


def test_a_run_on_a_disk_that_cannot_be_written_is_one_sentence(arguments, tmp_path, monkeypatch, capsys):
    from train.__main__ import main
    from train.stages.action import ActionStage

    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(ActionStage, "setup", lambda *_: pytest.fail("it loads"))
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert main(["action", *arguments("action", tmp_path / "run", "--max_steps", "1")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    run = tmp_path / "run"
    assert last == f"error: --output_path {run} cannot be written: Read-only file system; choose another"


def _has_unshare() -> bool:
    import shutil

    return shutil.which("unshare") is not None
