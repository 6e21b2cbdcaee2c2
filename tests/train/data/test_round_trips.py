"""A simulated flight that is written as others write it comes back as the simulator's own actions, for every format."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from train.__main__ import main
from train.data import csv
from train.data.csv import DataError
from train.data.importers import IMPORTERS, Cut, axes, dji, import_footage, selftest, video
from wanact.actions import CHANNELS, ActionTrack
from wanact.models.idm import IDMConfig


@pytest.fixture(scope="module")
def world():
    return selftest.simulator.make_world(3)


@pytest.mark.parametrize("name", selftest.FORMATS)
def test_a_flight_comes_back_as_flown(world, name, tmp_path):
    errors = selftest.round_trip(name, world, tmp_path)
    assert selftest.is_within(name, errors), dict(zip(CHANNELS, errors.round(5), strict=True))


def test_every_kind_has_its_round_trip():
    assert {made.kind for made in selftest.FORMATS.values()} | {"video"} == set(IMPORTERS)


def test_the_flight_of_the_round_trips_moves_every_channel(world):
    flight = selftest.simulated(world)
    moved = selftest.actions_from_poses(flight.shown).magnitude.max(axis=0)
    assert (moved > 2 * selftest.DEAD_ZONE).all(), dict(zip(CHANNELS, moved, strict=True))


def test_a_missing_library_is_asked_for_by_name(world, tmp_path, monkeypatch):
    selftest.write_midair(selftest.simulated(world), tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="midair needs the package h5py.*pip install h5py"):
        import_footage("midair", tmp_path, tmp_path / "out")


def test_pictures_without_times_are_retimed(world, tmp_path):
    """The same pictures at half the rate are twice as long, and each latent frame has half the motion."""
    flight = selftest.simulated(world)
    selftest.write_tartanair(flight, tmp_path / "source")
    seconds = {}
    for rate in (8.0, 16.0):
        cut = Cut(21, 16.0, selftest.SIZE, source_fps=rate)
        seconds[rate] = import_footage("tartanair", tmp_path / "source", tmp_path / f"{rate}", cut).seconds
    assert seconds[8.0] == pytest.approx(2 * seconds[16.0], abs=1.4)


def test_pictures_that_colmap_could_not_place_leave_a_gap(world, tmp_path):
    flight = selftest.simulated(world)
    selftest.write_colmap_text(flight, tmp_path / "source")
    images = tmp_path / "source/sparse/0/images.txt"
    kept = [line for line in images.read_text().splitlines() if line and not 30 <= int(line.split()[0]) < 40]
    images.write_text("".join(f"{line}\n\n" for line in kept))
    report = import_footage("colmap", tmp_path / "source", tmp_path / "out", Cut(21, 16.0, selftest.SIZE))
    assert any("the log says nothing for 0.7 s" in item.reason for item in report.dropped)
    first = [json.loads(file.read_text())["first_s"] for file in sorted((tmp_path / "out/videos").glob("*.json"))]
    assert 21 / 16 not in first and first[0] == 0


def test_a_clip_that_hovers_is_not_scaled_to_a_flight(world, tmp_path):
    flight = selftest.simulated(world)
    poses = np.concatenate([flight.poses[:21], np.repeat(flight.poses[20:21], 21, 0)])
    poses[21:, :3, 3] += np.random.default_rng(0).normal(0, 1e-4, (21, 3))
    selftest.write_tum(selftest.Flight(poses), tmp_path / "source")
    report = import_footage("tum", tmp_path / "source", tmp_path / "out", Cut(21, 16.0, selftest.SIZE))
    moving, hovering = report.path_units.values()
    assert hovering == pytest.approx(moving / 10)


@pytest.mark.parametrize("name", ["ulog", "dji (csv)"])
def test_the_log_is_brought_under_the_videos_clock(world, name, tmp_path):
    made = selftest.FORMATS[name]
    made.write(selftest.simulated(world, before=made.before), tmp_path / "source")
    report = import_footage(made.kind, tmp_path / "source", tmp_path / "out", Cut(21, 16.0, selftest.SIZE))
    (found,) = report.offsets.values()
    assert found["correlation"] > 0.8
    notes = json.loads(next((tmp_path / "out/videos").glob("*.json")).read_text())
    expected = made.before if name == "ulog" else -0.4  # the CSV says that the recording began a little late
    assert found["seconds"] == pytest.approx(expected, abs=0.1) and notes["offset_s"] == found["seconds"]


def test_a_log_that_does_not_turn_asks_for_the_offset(world, tmp_path, capsys):
    flight = selftest.simulated(world)
    straight = np.repeat(flight.poses[:1], len(flight.poses), 0)
    straight[:, :3, 3] += np.arange(len(straight))[:, None] * straight[0, :3, 2]
    selftest.write_ulog(selftest.Flight(straight), tmp_path / "source")
    arguments = ["import", "ulog", str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--num_frames", "21"]
    arguments += ["--height", "32", "--width", "64"]
    assert main(arguments) == 1
    assert "--offset" in capsys.readouterr().err
    assert main([*arguments, "--offset", "0"]) == 0


def test_a_plan_and_a_log_without_a_gimbal_say_so(world, tmp_path, capsys):
    for kind, words in (("litchi", "a plan, not a log"), ("bin", "look along the nose")):
        made = selftest.FORMATS[kind]
        made.write(selftest.simulated(world, before=made.before, moving=made.moving), tmp_path / kind)
        out = tmp_path / f"{kind}-out"
        arguments = ["import", kind, str(tmp_path / kind), "--out", str(out), "--num_frames", "21"]
        assert main([*arguments, "--height", "32", "--width", "64"]) == 0
        assert words in capsys.readouterr().out
        assert words in next((out / "videos").glob("*.json")).read_text()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[latitude: 47.1] [longitude: 8.5] [rel_alt: 1.3 abs_alt: 9.0] [gb_yaw: 3.1 gb_pitch: -9.0 gb_roll: 0.0]",
         (47.1, 8.5, 1.3, 3.1, -9.0)),
        ("[latitude : -47.1] [longtitude : 8.5] [altitude: 440.2]", (-47.1, 8.5, 440.2, np.nan, np.nan)),
        ("F/2.8, SS 400, GPS (8.5, 47.1, 19), D 80.50m, H 45.00m, H.S 3.20m/s, G.PRY (-60.0, 0.0, 90.0)",
         (47.1, 8.5, 45.0, 90.0, -60.0)),
        ("HOME(149.0251,-20.2532) 2017.08.05 14:11:51 GPS(149.0251,-20.2533,16) BAROMETER:1.9",
         (-20.2533, 149.0251, 1.9, np.nan, np.nan)),
    ],
)  # fmt: skip
def test_dialects_of_djis_subtitles(text, expected):
    np.testing.assert_equal(dji._fields(text), expected)


def test_subtitles_without_a_gimbal_are_named_with_the_remedy(world, tmp_path):
    selftest.write_dji(selftest.simulated(world), tmp_path)
    subtitles = tmp_path / "DJI_0001.SRT"
    subtitles.write_text("\n".join(line.partition("[gb_yaw")[0] for line in subtitles.read_text().splitlines()))
    with pytest.raises(DataError, match="say nothing of the gimbal.*put the flight's CSV beside it"):
        import_footage("dji", tmp_path, tmp_path / "out", Cut(21, 16.0, selftest.SIZE))


def test_repeated_fixes_are_no_staircase():
    seconds = np.arange(31) / 30
    steps = np.repeat(np.arange(11.0), 3)[:31, None] * np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(np.diff(axes.without_repeats(seconds, steps)[:, 0])[:28], 1 / 3, atol=1e-9)
    still = np.zeros((91, 3))
    still[60:, 0] = 5.0
    np.testing.assert_array_equal(axes.without_repeats(np.arange(91) / 30, still), still)


class Reader(torch.nn.Module):
    """Reads what it is told, whatever it sees."""

    config = IDMConfig()

    def __init__(self, axes):
        super().__init__()
        self.axes = np.array(axes)

    def read(self, frames):
        return np.tile(self.axes, (len(frames) // 4, 1))


@pytest.fixture
def turning(tmp_path):
    """A video that turns to the right by two degrees a latent frame."""
    yaw = np.radians(np.arange(41) * 0.5)
    poses = [selftest.pose_matrix((0.0, 0.0, 0.0, float(angle), 0.0)) for angle in yaw]
    flight = selftest.Flight(np.stack(poses))
    flight.write_video(tmp_path / "source/flight.mp4")
    return flight


def test_actions_of_video_alone_are_marked_as_estimated_everywhere(turning, tmp_path, monkeypatch, capsys):
    error = {"mean": dict.fromkeys(video.AXES, 0.01), "says": "mean error 16%"}
    monkeypatch.setattr(video, "load_idm", lambda: Reader([0.0, 0.0, 1.0, 0.0]))
    monkeypatch.setattr(video, "measured", lambda model: error)
    out = tmp_path / "out"
    arguments = ["import", "video", str(tmp_path / "source"), "--out", str(out), "--num_frames", "21"]
    assert main([*arguments, "--height", "32", "--width", "64"]) == 0
    assert "every action is estimated from pictures; mean error 16%" in capsys.readouterr().out
    assert json.loads((out / "report.json").read_text())["estimated"] == error
    assert json.loads((out / "videos/flight-000.json").read_text())["estimated"] == error
    with pytest.warns(UserWarning, match="actions of 1 rows are estimated from their pictures"):
        (record,) = csv.read_records(out / "clips.csv")
    magnitude = ActionTrack.parse(record["action"]).magnitude
    np.testing.assert_allclose(magnitude[:, 5], 2.0, atol=0.5)  # the flow's own reading of a rotation alone
    assert not np.delete(magnitude, 5, axis=1).any()


def test_a_clip_whose_picture_moves_against_its_actions_is_left_out(turning, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "load_idm", lambda: Reader([0.05, 0.0, -2.0, 0.0]))
    monkeypatch.setattr(video, "measured", lambda model: {"mean": dict.fromkeys(video.AXES, 0.01), "says": ""})
    with pytest.raises(DataError, match="moves against the actions"):
        import_footage("video", tmp_path / "source", tmp_path / "out", Cut(21, 16.0, selftest.SIZE))


def test_footage_of_the_simulator_is_imported_as_its_own_table(tmp_path):
    """The same flights as DJI's drones would leave them: 30 frames a second, losses, subtitles of six decimals."""
    flights = ["--clips", "1", "--num_frames", "9", "--height", "32", "--width", "64", "--seed", "3"]
    main(["simulate", "--out", str(tmp_path / "own"), *flights])
    main(["simulate", "--format", "dji", "--out", str(tmp_path / "card"), *flights])
    assert not (tmp_path / "card" / "clips.csv").exists(), "footage has no table"
    import_footage("dji", tmp_path / "card", tmp_path / "flown", Cut(9, 16.0, (32, 64), path_units=selftest.PATH_UNITS))
    own, flown = (
        ActionTrack.parse(csv.read_records(tmp_path / name / "clips.csv")[0]["action"]).magnitude
        for name in ("own", "flown")
    )
    assert own.max() > 0.1
    np.testing.assert_allclose(flown[:, :4], own[:, :4], atol=0.006)
    np.testing.assert_allclose(flown[:, 4:], own[:, 4:], atol=0.25)
