"""A simulated flight that is written as others write it comes back as the simulator's own actions, for every format."""

from __future__ import annotations

import json

import numpy as np
import pytest

from train.data.csv import DataError
from train.data.importers import IMPORTERS, Cut, import_footage, selftest
from wanact.actions import CHANNELS


@pytest.fixture(scope="module")
def world():
    return selftest.simulator.make_world(3)


@pytest.mark.parametrize("name", selftest.FORMATS)
def test_a_flight_comes_back_as_flown(world, name, tmp_path):
    errors = selftest.round_trip(name, world, tmp_path)
    assert selftest.is_within(name, errors), dict(zip(CHANNELS, errors.round(5), strict=True))


def test_every_kind_has_its_round_trip():
    assert {made.kind for made in selftest.FORMATS.values()} | {"video"} == set(IMPORTERS) | {"video"}


def test_the_flight_of_the_round_trips_moves_every_channel(world):
    flight = selftest.simulated(world)
    moved = selftest.actions_from_poses(flight.shown).magnitude.max(axis=0)
    assert (moved > 2 * selftest.DEAD_ZONE).all(), dict(zip(CHANNELS, moved, strict=True))


def test_a_missing_library_is_asked_for_by_name(world, tmp_path, monkeypatch):
    selftest.write_midair(selftest.simulated(world), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
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
