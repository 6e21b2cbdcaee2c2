"""Files are written whole, or not at all, and read without trust."""

import argparse
import io
import random
import threading
from pathlib import Path

import pytest
import torch

from wanact.files import CheckpointError, load_weights, place, replacing


def test_processes_with_the_same_number_do_not_take_each_others(tmp_path):
    # As in two containers that share a disk: nothing tells them apart but chance.
    with replacing(tmp_path / "note") as one, replacing(tmp_path / "note") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "note").read_text() == "one" and list(tmp_path.iterdir()) == [tmp_path / "note"]


def test_threads_that_write_the_same_file_do_not_take_each_others(tmp_path):
    file, both_wrote, failures = tmp_path / "note", threading.Barrier(2), []

    def write(text: str) -> None:
        try:
            with replacing(file) as temporary:
                temporary.write_text(text)
                both_wrote.wait(timeout=30)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and file.read_text() in ("one", "two")
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "note"
    file.write_text("old")
    with pytest.raises(RuntimeError), replacing(file) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_damaged_tensors_and_other_files_are_refused_in_one_sentence_whatever_they_are(tmp_path):
    file, chance = tmp_path / "weights.pt", random.Random(0)
    whole = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.ones(3)}, buffer, _use_new_zipfile_serialization=zipped)
        whole.append(buffer.getvalue())
    text = b"hello world, version https://git-lfs.github.com <html> {} ( ] 12\n"
    files = [b"", text, *(bytes(chance.choices(text, k=20)) for _ in range(50)), b"\x80", b"PK", b"\x80\x02."]
    for _ in range(300):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        files.append(bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data))
    refused = 0
    for content in files:
        file.write_bytes(content)
        try:
            load_weights(file)
        except CheckpointError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 200


def test_paths_of_command_lines_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", "/runs")
    assert place("~/a") == tmp_path / "a" and place("$RUNS/b") == Path("/runs/b") and place("c d") == Path("c d")
    with pytest.raises(argparse.ArgumentTypeError, match=r"\$NOWHERE/a: the variable \$NOWHERE is not set"):
        place("$NOWHERE/a")
