"""A mistake on the command line ends with one sentence that names it, a status that is not 0, and nothing half done."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from train.__main__ import main

INIT = ("init", "--out", "{tmp}/new")
SIMULATE = ("simulate", "--out", "{tmp}/new", "--clips", "1")
GRID = ("evaluate", "grid", "--model_dir", "{model}", "--out", "{tmp}/new")
MERGE = ("merge-lora", "--model_dir", "{model}", "--output_dir", "{tmp}/new", "--lora_path")


@pytest.fixture
def folder(tmp_path, model):
    """Files that are not what they are taken for."""
    (tmp_path / "text.txt").write_text("hello, this is a letter\n")
    (tmp_path / "text.safetensors").write_text("hello, this is a letter\n")
    (tmp_path / "bad.png").write_text("hello, this is a letter\n")
    (tmp_path / "binary.csv").write_bytes(b"video,prompt\n\0,\xff\xfe\n")
    (tmp_path / "good.csv").write_text("video,prompt\na.mp4,a forest\n")
    (tmp_path / "video.csv").write_text("video\na.mp4\n")
    save_file({"something": torch.ones(2)}, tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "end.pt").write_bytes(b"\x80\x02.")  # the unpickler's own IndexError
    return tmp_path


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ((*MERGE, "{tmp}/text.txt"), "text.txt cannot be read as tensors"),
        ((*MERGE, "{tmp}/text.safetensors"), "text.safetensors cannot be read as safetensors"),
        ((*MERGE, "{tmp}/other.safetensors"), "other.safetensors"),
        ((*MERGE, "{tmp}/list.pt"), "list.pt does not hold named tensors"),
        ((*MERGE, "{tmp}/end.pt"), "end.pt cannot be read: it is damaged"),
        ((*MERGE, "{tmp}/nothing"), "nothing is missing"),
        ((*INIT, "--captions", "{tmp}"), "Is a directory"),
        ((*INIT, "--captions", "{tmp}/binary.csv"), "binary.csv is damaged"),
        ((*INIT, "--captions", "{tmp}/bad.png"), "bad.png"),
        ((*INIT, "--captions", "{tmp}/video.csv"), "video.csv"),
        ((*INIT, "--captions", "{tmp}/good.csv", "--vocab_size", "-3"), "--vocab_size -3 must be at least 259"),
        ((*INIT, "--captions", "{tmp}/good.csv", "--num_frames", "6"), "nearest are 5 and 9"),
        ((*INIT, "--captions", "{tmp}/good.csv", "--height", "-32"), "height"),
        ((*SIMULATE, "--clips", "-1"), "--clips -1 must be at least 1"),
        ((*SIMULATE, "--num_frames", "6"), "nearest are 5 and 9"),
        ((*SIMULATE, "--num_frames", "-3"), "num_frames=-3"),
        ((*SIMULATE, "--num_frames", "1", "--format", "dji"), "is a picture"),
        ((*SIMULATE, "--height", "33"), "--height 33 must be an even number"),
        ((*SIMULATE, "--width", "-2"), "--width -2 must be an even number"),
        ((*SIMULATE, "--height", "30000000"), "--height 30000000 must be an even number of pixels from 2 to 4096"),
        ((*SIMULATE, "--seed", "-1"), "--seed -1 must be at least 0"),
        (("simulate", "--out", "{tmp}/text.txt", "--num_frames", "5"), "text.txt"),
        ((*GRID, "--steps", "0"), "--steps 0 must be at least 1"),
        ((*GRID, "--num_frames", "6"), "nearest are 5 and 9"),
        ((*GRID, "--image", "{tmp}/bad.png"), "bad.png is not an image that can be read"),
        ((*GRID, "--image", "{tmp}"), "cannot be opened: Is a directory"),
        ((*GRID, "--world", "-1"), "--world -1 must be at least 0"),
        (("publish", "{tmp}", "--out", "{tmp}/new"), "has no checkpoints"),
        (("export", "{tmp}/text.txt"), "is not a folder"),
        (("crash_test", "--kills", "0"), "--kills 0 must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence(command, says, folder, model, capsys):
    assert main([word.format(tmp=folder, model=model) for word in command]) == 1
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ") and says in last
    assert not any("Traceback" in line for line in before)
    assert not [path.name for path in folder.iterdir() if "new" in path.name], "nothing is left"


def test_a_simulation_that_was_killed_goes_on(tmp_path):
    flags = ["simulate", "--out", str(tmp_path), "--clips", "2", "--num_frames", "5", "--height", "32", "--width", "32"]
    assert main(flags) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    notes = tmp_path / "videos" / "world000000-1.json"
    notes.write_bytes(notes.read_bytes()[:30])  # as a killed process or a full disk left it
    assert main(flags) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()} == written
