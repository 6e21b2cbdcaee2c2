"""Runs that were copied, cloned, or lie where there are no links: nothing of them is lost, and nothing is called so."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wanact.files import CheckpointError, write_json
from wanact.runs import store
from wanact.runs.index import RunIndex

ROOT = Path(__file__).parents[2]


def save(run, step, loss=1.0):
    def write(folder):
        save_file({"weight": torch.full((4,), float(step))}, folder / store.CONTROLLER)
        write_json(folder / "trainer_state.json", {"format": 1, "step": step, "lines": ["of", "some", "length"]})

    return store.write_checkpoint(run, step, write, {"loss": loss})


def marks(run):
    """Steps, and which of them is the best and the latest, by both ways of listing."""
    infos = store.list_checkpoints(run)
    entries = [entry for entry in RunIndex([run.parent]).entries() if entry.run == run.name]
    listed = [(i.step, i.is_best, i.is_latest) for i in infos]
    assert [(e.step, e.is_best, e.is_latest) for e in entries] == listed
    assert not any(i.problem for i in infos) and not any(
        e.problem and "can be resumed" not in e.problem for e in entries
    )
    return [i.step for i in infos], [i.step for i in infos if i.is_best], [i.step for i in infos if i.is_latest]


@pytest.fixture
def run(tmp_path):
    """Three checkpoints, the second the best."""
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        save(tmp_path / "run", step, loss)
    return tmp_path / "run"


# Copies


def following_links(run, copy):
    shutil.copytree(run, copy, symlinks=False)


def without_links(run, copy):
    shutil.copytree(run, copy, ignore=lambda folder, names: [n for n in names if os.path.islink(Path(folder, n))])


def zipped(run, copy):
    archive = copy.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for folder, _, names in os.walk(run, followlinks=True):
            for name in names:
                file.write(Path(folder, name), Path(folder, name).relative_to(run))
    zipfile.ZipFile(archive).extractall(copy)


def links_as_text(run, copy):
    """As git writes them where core.symlinks is false."""
    without_links(run, copy)
    for link in (p for p in (run / "checkpoints").iterdir() if p.is_symlink()):
        (copy / "checkpoints" / link.name).write_text(os.readlink(link))


COPIES = [following_links, without_links, zipped, links_as_text]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copied_run_is_listed_as_it_was_and_mended_by_the_next_save(run, copy, tmp_path):
    copied = tmp_path / "copied"
    copy(run, copied)
    assert marks(copied) == marks(run) == ([1, 2, 3], [2], [3])
    save(copied, 4, loss=0.5)
    assert marks(copied) == ([1, 2, 3, 4], [4], [4])
    folder = copied / "checkpoints"
    assert {os.readlink(folder / name) for name in ("latest", "checkpoint-best")} == {store.step_name(4)}
    assert all(p.is_symlink() or p.name.startswith("step-") for p in folder.iterdir()), "nothing stands for a link"
    save(copied, 5, loss=4.0)
    store.prune(copied, keep=1)
    assert marks(copied) == ([4, 5], [4], [5])
    assert {p.name for p in folder.iterdir() if not p.is_symlink()} == {store.step_name(4), store.step_name(5)}


def test_a_copy_that_is_the_only_good_one_is_not_removed(run, tmp_path):
    copied = tmp_path / "copied"
    following_links(run, copied)
    damaged = copied / "checkpoints" / store.step_name(2) / store.CONTROLLER
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    save(copied, 4)
    store.verify(copied / "checkpoints" / "checkpoint-best")


def test_folders_of_other_trainers_under_a_links_name_stay(run):
    other = run / "checkpoints" / "checkpoint-step552-loss0.0385-20251130_014518"
    other.mkdir()
    (other / "trainable.safetensors").write_bytes(b"theirs")
    save(run, 4)
    store.prune(run, keep=1)
    assert (other / "trainable.safetensors").read_bytes() == b"theirs"
    assert other.name in [info.path.name for info in store.list_checkpoints(run)]


# Ends of lines


def with_windows_lines(run):
    for file in run.rglob("*.json"):
        if not file.is_symlink():
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


def test_other_ends_of_lines_in_json_are_no_damage(run):
    with_windows_lines(run)
    assert marks(run) == ([1, 2, 3], [2], [3])
    for info in store.list_checkpoints(run):
        store.verify(info.path)
    state = run / "checkpoints" / store.step_name(3) / "trainer_state.json"
    state.write_bytes(state.read_bytes().replace(b"length", b"lengfh"))
    with pytest.raises(CheckpointError, match=r"trainer_state\.json is damaged"):
        store.verify(state.parent)
    state.write_bytes(state.read_bytes().replace(b"lengfh", b""))
    assert store.list_checkpoints(run)[-1].problem


def test_ends_of_lines_count_in_weights(run):
    file = run / "checkpoints" / store.step_name(3) / store.CONTROLLER
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(CheckpointError):
        store.verify(file.parent)


def git(*arguments, cwd):
    settings = ("user.name=x", "user.email=x@example.org", "init.defaultBranch=main", "core.safecrlf=false")
    own = [word for setting in settings for word in ("-c", setting)]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *own, *arguments], cwd=cwd, env=environment, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("symlinks", ["true", "false"])
@pytest.mark.parametrize("attributes", [True, False], ids=["with our attributes", "in a repository of others"])
def test_a_clone_with_autocrlf_holds_sound_checkpoints(run, tmp_path, attributes, symlinks):
    repository, clone = tmp_path / "repository", tmp_path / "clone"
    shutil.copytree(run, repository / "run", symlinks=True)
    if attributes:
        shutil.copy(ROOT / ".gitattributes", repository)
    git("init", cwd=repository)
    git("add", ".", cwd=repository)
    git("commit", "-m", "a run", cwd=repository)
    git(
        "clone",
        "-c",
        "core.autocrlf=true",
        "-c",
        f"core.symlinks={symlinks}",
        str(repository),
        str(clone),
        cwd=tmp_path,
    )
    assert marks(clone / "run") == ([1, 2, 3], [2], [3])
    for info in store.list_checkpoints(clone / "run"):
        store.verify(info.path)
        changed = [
            f for f in info.path.iterdir() if f.read_bytes() != (run / f.relative_to(clone / "run")).read_bytes()
        ]
        assert not (attributes and changed), "not a byte of what carries a sum changes"


# No links


REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EIO)


@pytest.fixture(params=REFUSALS, ids=errno.errorcode.get)
def no_links(request, monkeypatch):
    def refuse(*_, **__):
        raise OSError(request.param, os.strerror(request.param))

    for name in ("symlink", "link"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(Path, "chmod", refuse)


def test_where_links_are_refused_the_best_is_known_and_kept(no_links, tmp_path):
    run = tmp_path / "run"
    for step in range(1, 8):
        save(run, step, loss=abs(step - 2))
        store.prune(run, keep=2)
    assert marks(run) == ([2, 6, 7], [2], [7])
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [store.step_name(s) for s in (2, 6, 7)]


def test_links_that_cannot_be_moved_any_more_do_not_point_to_older_ones(run, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    save(run, 4, loss=0.5)
    assert marks(run) == ([1, 2, 3, 4], [4], [4])
    assert not any((run / "checkpoints" / name).is_symlink() for name in ("latest", "checkpoint-best"))


def test_training_without_links_says_nothing_and_keeps_the_best(no_links, tmp_path, recwarn):
    from train.loop.config import parse
    from train.loop.dist import Processes
    from train.loop.trainer import Trainer
    from train.stages.synthetic import SyntheticStage

    flags = ["--max_steps=12", "--save_steps=1", "--max_checkpoints=2", "--learning_rate=0.01", "--save_full_state"]
    config, processes = parse("synthetic", [f"--output_path={tmp_path / 'run'}", *flags]), Processes("no")
    Trainer(config, SyntheticStage(config, processes.device), processes).run()
    infos = store.list_checkpoints(tmp_path / "run")
    assert [info.step for info in infos][-2:] == [11, 12] and sum(info.is_best for info in infos) == 1
    losses = {row["step"]: row for row in (info.metadata for info in infos)}
    assert min(losses.values(), key=lambda m: m["loss"])["step"] == next(i.step for i in infos if i.is_best)
    assert not [warning for warning in recwarn if "saved" in str(warning.message)]


# Listing while a run is pruned


SYSTEM_CALLS = {"stat", "lstat", "scandir", "readlink", "open", "listdir"}


def vanishing(look, checkpoint, number):
    """Call `look`, and let a checkpoint be pruned before its system call of this number; whether it came so far."""
    calls = 0

    def watch(_frame, event, called):
        nonlocal calls
        if event == "c_call" and called.__name__ in SYSTEM_CALLS:
            calls += 1
            if calls == number:
                sys.setprofile(None)
                os.rename(checkpoint, checkpoint.with_name(".deleting-x"))
                shutil.rmtree(checkpoint.with_name(".deleting-x"))
                sys.setprofile(watch)

    sys.setprofile(watch)
    try:
        found = look()
    finally:
        sys.setprofile(None)
    assert {1, 3} <= set(found) <= {1, 2, 3}
    return calls >= number


@pytest.mark.parametrize("index", [False, True], ids=["store", "index"])
def test_listing_bears_that_a_checkpoint_is_pruned_at_any_moment(run, tmp_path, index):
    number, reached = 0, True
    while reached:
        number += 1
        copy = tmp_path / f"copy{number}" / "run"
        shutil.copytree(run, copy, symlinks=True)
        if index:
            known = RunIndex([copy.parent])
            look = lambda known=known: [e.step for e in known.entries()]  # noqa: E731
        else:
            look = lambda copy=copy: [i.step for i in store.list_checkpoints(copy)]  # noqa: E731
        reached = vanishing(look, copy / "checkpoints" / store.step_name(2), number)
    assert number > 20, "every call was tried"


def test_listing_beside_a_run_that_saves_and_prunes(tmp_path):
    run, failed, done = tmp_path / "run", [], threading.Event()

    def look():
        index = RunIndex([tmp_path])
        try:
            while not done.is_set():
                index.entries()
                assert not [info.problem for info in store.list_checkpoints(run) if info.problem]
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(1, 80):
        save(run, step, loss=-step)
        store.prune(run, keep=1, verified={store.step_name(s) for s in range(step + 1)})
    done.set()
    for thread in threads:
        thread.join()
    assert failed == []
