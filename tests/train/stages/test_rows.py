"""All stages read rows in one way: what cannot be read is named and left out, and too much of it stops the run."""

from __future__ import annotations

import pytest

from tests.train.conftest import NUM_FRAMES, SIZE, write_dataset
from train.commands.run import train
from train.data.csv import DataError

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
