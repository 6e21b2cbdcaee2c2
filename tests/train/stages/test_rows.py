"""All stages read rows in one way: what cannot be read is named and left out, and too much of it stops the run."""

from __future__ import annotations

import pytest

from tests.train.conftest import NUM_FRAMES, SIZE, write_dataset
from train.commands.run import train
from train.data.cache import Cache
from train.data.csv import DataError
from train.loop.config import parse
from train.loop.dist import Processes
from train.stages.rows import RowReader

SHAPE = ("--height", str(SIZE), "--width", str(SIZE), "--num_frames", str(NUM_FRAMES))
OWN = {
    "i2v": (),
    "vae": (*SHAPE, "--vae_crops", "5x32x32:1"),
    "idm": (*SHAPE, "--idm_channels", "8,8,8,8", "--idm_hidden", "16"),
}


@pytest.fixture
def start(model, tmp_path):
    """Train one step on five clips, of which one is missing and one is no video."""
    (tmp_path / "data").mkdir()
    folder = write_dataset(tmp_path / "data")
    (folder / "clip1.mp4").unlink()
    (folder / "clip3.mp4").write_text("this is no video")

    def start(stage, *more):
        base = () if stage == "idm" else ("--model_dir", str(model))
        return train(stage, [
            *base, *OWN[stage], *more, *("--max_steps", "1", "--output_path", str(tmp_path / "run")),
            *("--dataset_base_path", str(folder), "--dataset_metadata_path", str(folder / "clips.csv")),
        ]).stage  # fmt: skip

    return start


@pytest.mark.parametrize("stage", OWN)
def test_rows_that_cannot_be_read_are_named_and_left_out(stage, start, tmp_path, capsys):
    trained = start(stage, "--max_skipped", "0.5", "--dataset_num_workers", "2")
    assert [row.number for row in trained.rows] == [1, 3, 5] and len(trained) == 3
    lines = (tmp_path / "run" / "skipped.csv").read_text().splitlines()
    assert lines[:2] == ["row,video,reason", "2,clip1.mp4,file is missing"] and lines[2].startswith("4,clip3.mp4,")
    shown = capsys.readouterr().out
    assert "skipped row 2 (clip1.mp4): file is missing" in shown and "2 of 5 rows are left out" in shown


@pytest.mark.parametrize("stage", OWN)
def test_more_of_them_than_allowed_stop_every_stage(stage, start):
    with pytest.raises(DataError, match=r"2 of 5 rows cannot be used.*skipped.csv lists them.*file is missing"):
        start(stage)


@pytest.fixture
def reader(tmp_path):
    """Reads 24 rows both ways with eight threads."""
    table = tmp_path / "clips.csv"
    table.write_text("video\n" + "".join(f"clip{i}.mp4\n" for i in range(24)))
    for i in range(24):
        (tmp_path / f"clip{i}.mp4").write_bytes(bytes([i]) * 1000)
    flags = {"dataset_metadata_path": table, "dataset_base_path": tmp_path, "output_path": tmp_path}
    config = parse("synthetic", [f"--{k}={v}" for k, v in (flags | {"dataset_num_workers": 8}).items()])
    return RowReader(config, Processes("no"), NUM_FRAMES, mirror=True)


def test_a_mirrored_row_is_not_lost_to_the_thread_beside(reader, tmp_path):
    cache = Cache(tmp_path / "cache")
    kept = reader.read(lambda row, mirrored: cache.content_key(row.video), lambda row, key: (row.number, key))
    assert [number for number, _ in kept] == [n for n in range(1, 25) for _ in range(2)]
    assert len({key for _, key in kept}) == 24


def test_a_note_that_the_disk_does_not_take_costs_no_row(reader, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.data.cache.write_text", full)
    cache = Cache(tmp_path / "cache")
    assert len(reader.read(lambda row, mirrored: cache.content_key(row.video), lambda row, key: key)) == 48


def test_a_row_whose_mirror_image_fails_is_said_and_left_out_both_ways(reader, tmp_path, capsys):
    def load(row, mirrored):
        if row.number == 5 and mirrored:
            raise ValueError("the mirror is broken")
        return mirrored

    kept = reader.read(load, lambda row, mirrored: (row.number, mirrored))
    assert len(kept) == 46 and 5 not in {number for number, _ in kept}
    assert "skipped row 5 (clip4.mp4): the mirror is broken" in capsys.readouterr().out
    assert "5,clip4.mp4,the mirror is broken" in (tmp_path / "skipped.csv").read_text()
