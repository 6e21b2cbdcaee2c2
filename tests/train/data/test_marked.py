"""What somebody marked who looked at a data set is what a training reads, of a table and of episodes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.train.conftest import NUM_FRAMES, SIZE, write_dataset
from tests.train.data.test_episodes import write_episode
from train.data import csv
from train.data.csv import LeftOut, RowError, parse_row, read_records, windows
from train.loop.config import parse
from train.loop.dist import Processes
from train.stages.rows import RowReader
from wanact.data import episodes, marks
from wanact.data.marks import Fix
from wanact.media.video import write_mp4

MIRRORED_YAW = Fix(times=(1.0, 1.0, -1.0, 1.0))


@pytest.fixture
def table(tmp_path):
    (tmp_path / "run").mkdir()
    return write_dataset(tmp_path) / "clips.csv"


def reader(table, *more):
    flags = {"dataset_metadata_path": table, "dataset_base_path": table.parent, "output_path": table.parent / "run"}
    config = parse("synthetic", [*(f"--{k}={v}" for k, v in flags.items()), *more])
    return RowReader(config, Processes("no"), NUM_FRAMES, needs_actions=True)


def read(table, *more):
    return reader(table, *more).read(lambda row, mirrored: row, lambda row, _: row)


def test_without_marks_a_table_is_read_as_it_stands(table):
    assert [row.number for row in read(table)] == [1, 2, 3, 4, 5]


def test_clips_that_are_left_out_are_no_mistakes_of_the_table(table, capsys):
    marked = marks.of(table)
    for name in ("clip0.mp4", "clip2.mp4", "clip3.mp4"):
        marked = marked.with_clip(name, out=True)
    marked.save()
    assert [row.number for row in read(table, "--max_skipped", "0")] == [2, 5]
    assert isinstance(read_records(table)[0], LeftOut)
    assert (table.parent / "run" / "skipped.csv").read_text().splitlines() == ["row,video,reason"]
    assert "clips.csv.marks.json has it: 3 left out" in capsys.readouterr().out


def test_words_and_actions_are_learnt_as_they_are_marked(table):
    before = {row.number: row for row in read(table)}
    marks.of(table).with_clip("clip1.mp4", prompt="a bridge in fog").with_fix(MIRRORED_YAW).save()
    for row in read(table):
        np.testing.assert_allclose(row.track.axes, MIRRORED_YAW.of_axes(before[row.number].track.axes), atol=1e-6)
        assert row.prompt == ("a bridge in fog" if row.number == 2 else before[row.number].prompt)


def test_no_clip_reaches_over_a_cut(tmp_path):
    frames = np.zeros((60, SIZE, SIZE, 3), np.uint8)
    write_mp4(frames, tmp_path / "a.mp4", fps=16, lossless=True)
    record = {"video": "a.mp4", "cuts": (22 / 16, 30 / 16)}
    assert windows(record, tmp_path, 9, 16, None) == [0, 32], "between 22 and 30 there is no room"
    assert windows(record, tmp_path, 9, 16, 4) == [0, 4, 8, 12, 32, 36, 40, 44, 48]
    with pytest.raises(RowError, match="split at 2 cuts"):
        windows(record, tmp_path, 33, 16, None)


def test_actions_that_nobody_knows_are_not_learnt(tmp_path):
    write_mp4(np.zeros((41, SIZE, SIZE, 3), np.uint8), tmp_path / "a.mp4", fps=16, lossless=True)
    track = np.zeros((10, 8))
    track[:, 0] = np.arange(1, 11) / 100
    (tmp_path / "t.csv").write_text(f'video,action\na.mp4,"{track.tolist()}"\n')
    marks.of(tmp_path / "t.csv").with_fix(Fix(later=-2.0)).save()
    (record,) = read_records(tmp_path / "t.csv")
    (start,) = windows(record, tmp_path, 9, 16, None)
    assert start == 8
    row = parse_row(record, 1, tmp_path, 9, needs_action=True, start=start)
    np.testing.assert_allclose(row.track.magnitude[:, 0], [0.01, 0.02], atol=1e-6)


def test_episodes_are_read_as_they_are_marked_at_any_rate(tmp_path):
    values = np.zeros((41, 4))
    values[1:, 0] = np.repeat(np.arange(1, 11) / 100, 4)
    for name in ("ep_0001", "ep_0002"):
        write_episode(tmp_path, name, values)
    path = tmp_path / "manifest.jsonl"
    episodes.write_manifest(path, [("ep_0001", 41), ("ep_0002", 41)])
    marks.of(path).with_clip("ep_0001", out=True).with_clip("ep_0002", prompt="anew").with_fix(Fix(later=1.0)).save()
    out, row = episodes.Manifest(path)
    assert isinstance(out, LeftOut) and row["prompt"] == "anew"
    np.testing.assert_allclose(row["action"]().axes[:, 0], np.arange(2, 11) / 100, atol=1e-6)
    (_, half) = episodes.Manifest(path, 5)  # two of its own latent frames are one; one of its own is half of one
    np.testing.assert_allclose(half["action"]().axes[:, 0], [0.05, 0.09, 0.13, 0.17], atol=1e-6)


def test_marks_that_cannot_be_read_stop_a_training(table):
    marks.of(table).path.write_text("{")
    with pytest.raises(marks.MarksError, match="clips.csv.marks.json"):
        csv.read_records(table)
