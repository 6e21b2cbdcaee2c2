"""Footage of others comes back as what was flown; a new format is its file and a line of the table."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from train.__main__ import main
from train.data import csv, importers
from train.data.csv import DataError
from wanact.actions import ActionTrack
from wanact.media.footage import read_video
from wanact.media.video import write_mp4
from wanact.world import simulator
from wanact.world.poses import PATH_UNITS, actions_from_poses

NUM_FRAMES, SIZE = 21, (32, 48)


@pytest.fixture(scope="module")
def flown():
    world = simulator.make_world(3)
    return simulator.fly(world, np.random.default_rng(1), NUM_FRAMES, *SIZE)


def write_tum(folder, clip, fps: float = 16.0, begin: float = 1305031102.0):
    folder.mkdir()
    write_mp4(clip.frames, folder / "flight.mp4", fps, lossless=True)
    times = begin + np.arange(len(clip.poses)) / fps
    quaternions = Rotation.from_matrix(clip.poses[:, :3, :3]).as_quat()
    rows = np.column_stack([times, clip.poses[:, :3, 3], quaternions])
    np.savetxt(folder / "flight.txt", rows, fmt="%.9f", header="prompt: a drone over hills")
    return folder


def test_a_tum_trajectory_comes_back_as_the_simulators_own_actions(flown, tmp_path):
    source, out = write_tum(tmp_path / "tum", flown), tmp_path / "out"
    units = ["--path_units", str(PATH_UNITS), "--num_frames", str(NUM_FRAMES)]
    assert main(["import", "tum", str(source), "--out", str(out), *units, "--height", "32", "--width", "48"]) == 0
    (record,) = csv.read_records(out / "clips.csv")
    assert isinstance(record, dict) and record["prompt"] == "a drone over hills"
    np.testing.assert_allclose(ActionTrack.parse(record["action"]).magnitude, flown.track.magnitude, atol=1e-4)
    assert np.array_equal(read_video(out / record["video"]), flown.frames)
    assert json.loads((out / "report.json").read_text())["clips"] == 1


def test_a_clips_own_path_is_one_without_a_scale(flown, tmp_path):
    source = write_tum(tmp_path / "tum", flown)
    importers.import_footage("tum", source, tmp_path / "out", num_frames=NUM_FRAMES, size=SIZE)
    poses = np.array(json.loads((tmp_path / "out/videos/flight-000.json").read_text())["poses"])
    (record,) = csv.read_records(tmp_path / "out" / "clips.csv")
    length = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum()
    expected = actions_from_poses(poses, length).magnitude
    np.testing.assert_allclose(ActionTrack.parse(record["action"]).magnitude, expected, atol=1e-4)


def test_another_frame_rate_gives_the_same_actions(flown, tmp_path):
    """Twice as many frames a second, each shown twice: the clip of 16 is the one that was flown."""
    twice = simulator.Clip(flown.frames.repeat(2, 0)[:-1], flown.track, None, flown.caption)
    steady = np.repeat(flown.poses, 2, 0)[:-1]
    twice.poses = steady
    source = write_tum(tmp_path / "tum", twice, fps=32.0)
    importers.import_footage("tum", source, tmp_path / "out", num_frames=NUM_FRAMES, size=SIZE, path_units=PATH_UNITS)
    (record,) = csv.read_records(tmp_path / "out" / "clips.csv")
    np.testing.assert_allclose(ActionTrack.parse(record["action"]).magnitude, flown.track.magnitude, atol=1e-4)


@pytest.mark.parametrize("text", ["", "1 2 3\n4 5 6\n", "a trajectory", "2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n"])
def test_what_is_no_trajectory_is_named(flown, tmp_path, text, capsys):
    source = write_tum(tmp_path / "tum", flown)
    (source / "flight.txt").write_text(text)
    assert main(["import", "tum", str(source), "--out", str(tmp_path / "out")]) == 1
    assert "flight.txt is no trajectory" in capsys.readouterr().err


def test_a_video_that_is_too_short_gives_no_clip(flown, tmp_path):
    with pytest.raises(DataError, match="no clip of 81 frames"):
        importers.import_footage("tum", write_tum(tmp_path / "tum", flown), tmp_path / "out", size=SIZE)


def test_a_new_format_is_a_file_and_a_line(flown, tmp_path, monkeypatch):
    (tmp_path / "hovering_format.py").write_text(
        "import numpy as np\n"
        "from train.data.importers import Trajectory\n"
        "def read(source):\n"
        "    for video in sorted(source.glob('*.mp4')):\n"
        "        yield Trajectory(video, np.array([0.0, 60.0]), np.stack([np.eye(4)] * 2), 'hovering')\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(importers.IMPORTERS, "hovering", ("hovering_format", "a camera that stands still"))
    source, out = write_tum(tmp_path / "tum", flown), tmp_path / "out"
    sizes = ["--num_frames", str(NUM_FRAMES), "--height", "32", "--width", "48"]
    assert main(["import", "hovering", str(source), "--out", str(out), *sizes]) == 0
    (record,) = csv.read_records(out / "clips.csv")
    assert not ActionTrack.parse(record["action"]).magnitude.any()
