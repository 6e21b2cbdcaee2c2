"""A disk that fills up costs the checkpoint that did not fit, and nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.train.processes import start, wait
from train.__main__ import _reporting
from train.loop.config import parse
from train.loop.dist import Processes
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
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


_CLONE_NEWNS, _CLONE_NEWUSER, _MS_PRIVATE_ALL = 0x20000, 0x10000000, 0x44000
_NO_NAMESPACE = 77


def _mount_small(disk: Path, size: str) -> None:
    """Put an empty file system of this size there, which this process alone sees."""
    libc, owner = ctypes.CDLL(None, use_errno=True), (os.getuid(), os.getgid())
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        os._exit(_NO_NAMESPACE)
    Path("/proc/self/setgroups").write_text("deny")
    for kind, number in zip(("uid", "gid"), owner, strict=True):
        Path(f"/proc/self/{kind}_map").write_text(f"0 {number} 1")
    for arguments in (
        (b"none", b"/", None, _MS_PRIVATE_ALL, None),
        (b"tmpfs", os.fsencode(disk), b"tmpfs", 0, f"size={size}".encode()),
    ):
        if libc.mount(*arguments):
            raise OSError(ctypes.get_errno(), f"mount {arguments}")


def _on_small_disk(function: Callable[[], None], output: Path) -> tuple[int, str]:
    """Call a function that mounts a small disk in a process of its own; its status, and what it printed elsewhere."""
    status = wait(start(function, output))
    if status == _NO_NAMESPACE:
        pytest.skip("no user namespaces here, so that no small file system can be mounted")
    return status, output.read_text()


def _trainer(stage: type[SyntheticStage], run: Path, *flags: str) -> Trainer:
    config, processes = parse("synthetic", [f"--output_path={run}", "--max_steps=30", *flags]), Processes("no")
    return Trainer(config, stage(config, processes.device), processes)


def _warn_aloud() -> None:
    """Print warnings, which pytest has been collecting in this process."""
    warnings.showwarning = lambda message, *_, **__: print(f"warned: {message}", file=sys.stderr, flush=True)


def test_a_small_file_system_fills_up_and_training_goes_on(tmp_path):
    def fill() -> None:
        _mount_small(tmp_path / "disk", "1800k")
        store.free_bytes = lambda path: 10**12  # without the check beforehand, the disk itself has to say no
        _warn_aloud()
        run = tmp_path / "disk" / "run"
        trainer = _trainer(SyntheticStage, run, "--save_steps=1", "--save_full_state", "--resume_from=auto")
        try:
            trainer.run()
        except OSError as error:
            print("ended:", error)
        saved = store.list_checkpoints(run)
        for info in saved:
            store.verify(info.path)
        print("steps", trainer.step, "saved", len(saved))

    (tmp_path / "disk").mkdir()
    status, said = _on_small_disk(fill, tmp_path / "log")
    assert status == 0, said
    assert re.search("warned: .*the disk is full", said)
    ended = re.search(r"^steps (\d+) saved (\d+)$", said, re.MULTILINE)
    assert ended and ended[1] == "30" and 2 <= int(ended[2]) < 30, said
    assert re.search("ended: .*the last checkpoint was not written", said)


class Filling(SyntheticStage):
    """Fills the disk to the last byte at one step, and makes room at another."""

    disk: Path
    full: int
    room: int

    def load(self, draws):
        step = draws[0].step
        if step == self.full:
            with open(self.disk / "filler", "wb", buffering=0) as file:
                for size in (2**20, 1):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass
        if step == self.room:
            (self.disk / "filler").unlink()
        return super().load(draws)

    def sample(self, folder, step):
        (folder / "clip.txt").write_text("x" * 5000)


def _fill_to_the_brim(tmp_path: Path, full: int, room: int) -> tuple[int, Path]:
    """Train on a disk of 4 MB that takes the output too; the status, and what lay there at the end."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()

    def train() -> None:
        _mount_small(disk, "4m")
        log = os.open(disk / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        own = os.dup(2)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _warn_aloud()
        Filling.disk, Filling.full, Filling.room = disk, full, room
        flags = ("--save_full_state", "--save_steps=4", "--max_checkpoints=2", "--log_steps=1", "--sample_steps=5")
        status = _reporting(lambda: _trainer(Filling, disk / "run", *flags).run() * 0)
        with contextlib.suppress(OSError):  # nor is there room for the last words
            sys.stdout.flush()
        os.dup2(own, 2)
        shutil.copytree(disk, kept, symlinks=True)
        os._exit(status)

    status, said = _on_small_disk(train, tmp_path / "log")
    assert said == "", said
    return status, kept


def test_a_disk_filled_to_the_brim_costs_the_checkpoints_of_that_time_and_no_line_of_the_log(tmp_path):
    status, kept = _fill_to_the_brim(tmp_path, full=9, room=21)
    said = (kept / "train.log").read_text()
    assert status == 0, said
    assert [row["step"] for row in store.read_log(kept / "run")] == list(range(1, 31))
    assert max(steps(kept / "run")) == 30 and "Traceback" not in said
    for info in store.list_checkpoints(kept / "run"):
        store.verify(info.path)


def test_a_disk_that_stays_full_ends_with_a_sentence_and_keeps_what_was_saved(tmp_path):
    status, kept = _fill_to_the_brim(tmp_path, full=9, room=99)
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
