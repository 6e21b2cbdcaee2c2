import ast
import importlib
import pkgutil

import pytest

import app
import train
import wanact
from tests.flying.test_pipeline import write_run
from tests.test_floors import parsed, source_files
from train.__main__ import main as train_main
from wanact import errors
from wanact.__main__ import main as wanact_main
from wanact.errors import TakenError, UserError, in_words

# Caught by our own code, wherever they are raised.
INWARD = {"_Clause", "Cancelled", "_Superseded"}


def our_exceptions() -> list[type[Exception]]:
    """Every exception class that a module of ours defines; the doors and former names are run, not imported."""
    found = []
    for package in (wanact, train):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__") or module.name in ("wanact.push", "train.bench", "train.crash_test"):
                continue
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.name:
                    found.append(value)
    return found


def test_every_exception_of_ours_that_reaches_a_person_is_a_user_error():
    found = our_exceptions()
    assert {"UserError", "CheckpointError", "RequestError", "ConfigError"} <= {error.__name__ for error in found}
    assert {error.__name__ for error in found if not issubclass(error, UserError)} == INWARD


def test_what_the_file_system_says_is_said_with_the_file():
    assert in_words(FileNotFoundError(2, "No such file or directory", "a.csv")) == "a.csv: No such file or directory"
    assert in_words(OSError(28, "the clip was not written")) == "the clip was not written"
    assert in_words(TakenError("m exists; name a new folder")) == "m exists; name a new folder"
    assert in_words(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("evaluate grid --model_dir {model} --run_dir {run} --image {bad} --out {new}", "bad.png is not an image"),
        ("evaluate grid --model_dir {model} --out {new} --num_frames 6", "num_frames=6 must be 4k+1"),
        ("evaluate vae --model_dir {folder}", "is no model directory"),
        ("simulate --out {new} --height 97", "--height 97 must be an even number"),
        ("simulate --out {new} --num_frames 80", "num_frames=80 must be 4k+1"),
        ("simulate --out {bad}", "bad.png"),
        ("init --out {folder} --captions {bad}", "exists; name a new folder"),
        ("init --out {new} --captions {bad}", "bad.png is damaged"),
        ("init --out {new} --captions {words}", "expected a CSV with a column prompt"),
        ("init --out {new} --captions {folder}/none.csv", "none.csv: No such file"),
        ("init --out {new} --captions {captions} --width 100", "width=100 must be a multiple of 32"),
        ("init --out {new} --captions {captions} --vae {folder}", "the vae cannot be loaded"),
        ("publish {run} --out {folder}", "exists; name a new folder"),
        ("merge-lora --model_dir {model} --lora_path {bad} --output_dir {new}", "pickle can run code"),
        ("action --config {folder}/none.yaml", "none.yaml cannot be read"),
    ],
)
def test_the_trainer_ends_with_one_sentence(tiny_model_dir, tmp_path, capsys, command, says):
    assert train_main(_filled(command, tiny_model_dir, tmp_path)) == 1
    assert _is_a_sentence(capsys.readouterr().err, says)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("replay {folder}/none.json --table", "none.json cannot be read"),
        ("replay {folder} --table", "holds no flight records"),
        ("card {run} --model_dir {model} --images {bad}", "bad.png is not an image"),
        ("bench clip --model_dir {folder}", "is no model directory"),
        ("bench clip --model_dir {model} --size 32x33", "width=33 must be a multiple of 32"),
        ("convert {folder} {new} --to original", "is no model directory"),
        ("convert {bad} {new} --to original", "must end in .safetensors"),
        ("push {folder}/none me/orbit --dry_run {new}", "none is not a folder"),
        ("push {run} me/orbit --dry_run {folder}", "File exists"),
    ],
)
def test_what_is_done_with_a_model_ends_with_one_sentence(tiny_model_dir, tmp_path, capsys, command, says):
    assert wanact_main(_filled(command, tiny_model_dir, tmp_path)) == 1
    assert _is_a_sentence(capsys.readouterr().err, says)


def test_another_system_is_told_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(errors, "PLATFORM", "win32")
    for main, argument in ((app.main, "--runs"), (wanact_main, "replay"), (train_main, "action")):
        assert main([argument, "x"]) in (1, 2)
        said = capsys.readouterr().err
        assert "on Windows run it in WSL 2" in said and said.count("\n") == 1


def test_nothing_imports_at_once_what_windows_lacks():
    """A module can be imported there, if only to say so."""
    for file in source_files():
        tree = parsed(file)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
        lacking = names & {"fcntl", "resource", "pwd", "grp", "termios"}
        assert not lacking, f"{file} imports {lacking}"
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        called &= {"fchmod", "fchown", "getuid", "geteuid"}
        assert not called, f"{file} calls {called}"


def _filled(command: str, model, folder) -> list[str]:
    """The words of a command, about files of which each is wrong in one way."""
    (folder / "bad.png").write_bytes(b"\xff no picture and no text")
    (folder / "words.csv").write_text("video,action\na.mp4,[]\n")
    (folder / "captions.csv").write_text("video,prompt\na.mp4,a lake\n")
    names = {"bad": "bad.png", "words": "words.csv", "captions": "captions.csv", "new": "new", "folder": "."}
    places = {name: folder / file for name, file in names.items()}
    return command.format(model=model, run=write_run(folder / "run"), **places).split()


def _is_a_sentence(error: str, says: str) -> bool:
    *_, last = error.strip().splitlines()
    return last.startswith("error: ") and says in last and "Traceback" not in error
