"""An export that is killed at any moment leaves a whole one, older or newer, and the next one writes over it."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.train.processes import wait
from train.loop import export
from wanact.errors import TakenError
from wanact.files import BusyError, replacing_folder

FILE_CALLS = {
    "mkdir",
    "rename",
    "replace",
    "rmdir",
    "unlink",
    "open",
    "close",
    "fsync",
    "write",
    "truncate",
    "ftruncate",
}


def write(folder, version, run="run"):
    with export.new_folder(folder, {"run": run, "step": version}) as temporary:
        for part in ("transformer", "vae"):
            (temporary / part).mkdir()
            for name in ("config.json", "weights.safetensors"):
                (temporary / part / name).write_text(str(version))


def whole(folder):
    """Which version a folder holds; fails if it is not all of one."""
    versions = {(folder / part / name).read_text() for part in ("transformer", "vae")
                for name in ("config.json", "weights.safetensors")}  # fmt: skip
    assert versions == {str(export.exported_from(folder)["step"])}
    return int(versions.pop())


def killed_at(number, action):
    """Run something in a process that ends before its system call of this number; whether it came to its end."""
    child = os.fork()
    if child:
        return wait(child) == 0
    calls = 0

    def watch(_frame, event, called):
        nonlocal calls
        if event == "c_call" and getattr(called, "__name__", "") in FILE_CALLS:
            calls += 1
            if calls == number:
                os._exit(9)  # nothing is cleared up, as after a kill

    try:
        sys.setprofile(watch)
        action()
        os._exit(0)
    finally:
        os._exit(1)


def test_an_export_killed_at_any_moment_loses_nothing(tmp_path):
    number, finished, seen = 0, False, set()
    while not finished:
        number += 1
        folder = tmp_path / str(number) / "model"
        write(folder, 1)
        finished = killed_at(number, lambda folder=folder: write(folder, 2))
        aside = folder.with_name(".model.replaced")
        seen.add(whole(folder if folder.exists() else aside))
        write(folder, 3)
        assert whole(folder) == 3
        assert [p.name for p in folder.parent.iterdir()] == ["model"], "nothing is left beside it"
        shutil.rmtree(folder.parent)
    assert number > 30 and seen == {1, 2}


def test_what_was_put_aside_is_not_replaced_by_another_run(tmp_path):
    folder = tmp_path / "model"
    write(folder, 1)
    folder.rename(tmp_path / ".model.replaced")  # killed between the two renames
    with pytest.raises(TakenError):
        write(folder, 2, run="another")
    assert whole(folder) == 1, "and it is back"


def test_two_at_once_do_not_take_each_others(tmp_path):
    with replacing_folder(tmp_path / "model") as first:
        (first / "file").write_text("first")
        with pytest.raises(BusyError, match=f"model is being written by process {os.getpid()}"):
            with replacing_folder(tmp_path / "model"):
                pytest.fail("it was let in")
    assert (tmp_path / "model" / "file").read_text() == "first"


def test_an_export_that_fails_leaves_the_older_one(tmp_path):
    write(tmp_path / "model", 1)
    with pytest.raises(OSError, match="full"), export.new_folder(tmp_path / "model", {"run": "run", "step": 2}):
        raise OSError(28, "the disk is full")
    assert whole(tmp_path / "model") == 1 and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_file_where_the_folder_is_to_lie_is_not_replaced(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(TakenError):
        write(tmp_path / "model", 1)
    assert (tmp_path / "model").read_text() == "mine"


def test_a_link_to_a_folder_elsewhere_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").symlink_to("elsewhere")
    write(tmp_path / "model", 1)
    assert (tmp_path / "model").is_symlink() and whole(tmp_path / "elsewhere") == 1
