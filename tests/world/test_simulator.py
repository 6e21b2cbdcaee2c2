"""The simulated world: exact motion, above ground, seeded, and in the units of real data."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from train.commands import simulate
from wanact.actions import CHANNELS, FULL_DEFLECTION, ActionTrack, channel_track
from wanact.media.footage import read_video
from wanact.world import simulator
from wanact.world.palettes import BIOMES, TIMES
from wanact.world.poses import pose_matrix


@pytest.fixture(scope="module")
def world() -> simulator.World:
    return simulator.make_world(3)


def fly(world: simulator.World, seed: int = 1, **kw) -> simulator.Clip:
    return simulator.fly(world, np.random.default_rng(seed), num_frames=13, height=32, width=64, **kw)


def test_the_same_seed_makes_the_same_world_and_flight(world):
    again = simulator.make_world(3)
    assert np.array_equal(world.height, again.height) and world.caption == again.caption
    assert np.array_equal(fly(world).frames, fly(again).frames)


def test_the_poses_alone_are_those_of_the_flight(world):
    poses = simulator.fly_poses(world, np.random.default_rng(1), 13)
    assert np.array_equal(simulator.render(world, poses[-1], 32, 64), fly(world).frames[-1])


def test_there_are_six_biomes_and_three_times_of_day():
    assert len(BIOMES) >= 6 and len(TIMES) >= 3


@pytest.mark.parametrize("channel", range(8))
def test_a_held_channel_is_what_the_poses_say(world, channel):
    track = fly(world, track=channel_track(CHANNELS[channel], 3)).track
    settled = track.magnitude[-1]  # inertia is over
    assert settled.argmax() == channel or settled[channel] > 0
    assert settled[channel] == pytest.approx(FULL_DEFLECTION[channel], rel=0.12)
    others = np.delete(settled / np.array(FULL_DEFLECTION), channel)
    assert others.max() < 0.25


def test_full_yaw_turns_three_degrees_a_latent_frame(world):
    clip = fly(world, track=channel_track("yaw_right", 3))
    heading = np.degrees(np.arctan2(clip.poses[:, 1, 2], clip.poses[:, 0, 2]))
    assert heading[-1] - heading[-5] == pytest.approx(3.0, abs=0.2)


def test_poses_are_rigid_and_above_ground(world):
    clip = fly(world, track=channel_track("forward", 3))
    rotation = clip.poses[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (13, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-9)
    for x, y, down in clip.poses[:, :3, 3]:
        assert -down > world.height[int(y) % simulator.WORLD_SIZE, int(x) % simulator.WORLD_SIZE]


def test_tracks_of_random_flights_are_valid_and_varied():
    rng = np.random.default_rng(0)
    commands = simulator.random_commands(rng, 2000)
    used = np.concatenate([(commands > 0).mean(0), (commands < 0).mean(0)])
    assert used.min() > 0.05 and np.abs(commands).max() <= 1.1


def test_a_pitched_pinhole_camera_projects_points_where_they_are(world):
    """A far tower's top must appear where its 3-D position projects through the pose matrix."""
    flat = simulator.World(
        height=np.zeros_like(world.height),
        top=np.zeros_like(world.top),
        colour=[np.zeros_like(c) for c in world.colour],
        cloud=np.zeros_like(world.cloud),
        time=world.time,
        sun_azimuth=0.0,
        visibility=1e6,
        caption="",
    )
    target = (560, 530)  # x, y of a white mark on black, flat ground
    for k, colour in enumerate(flat.colour):
        size = max(1, 8 // 2**k)
        x, y = target[0] // 2**k, target[1] // 2**k
        colour[y - size : y + size, x - size : x + size] = 255
    pose = (500.0, 512.0, 30.0, 0.12, np.radians(-25))
    image = simulator.render(flat, pose, 96, 160).astype(float).mean(-1)
    image[:20] = 0  # the sky
    rows, cols = np.nonzero(image > 128)
    seen = np.array((cols.mean(), rows.mean()))
    point = np.linalg.inv(pose_matrix(pose)) @ np.array((*target, 0.0, 1.0))
    focal = 80 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    expected = focal * point[:2] / point[2] + (80, 48)
    np.testing.assert_allclose(seen, expected, atol=2.5)


def test_the_dataset_has_the_format_of_real_data(tmp_path, capsys):
    args = ["--out", str(tmp_path), "--clips", "2", "--num_frames", "9", "--height", "32", "--width", "64"]
    simulate.main(args)
    assert "2/2 [" in capsys.readouterr().err, "how far it is, and the time that is left"
    with open(tmp_path / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [set(row) for row in rows] == [{"video", "prompt", "action"}] * 2
    assert len(ActionTrack.parse(rows[0]["action"])) == 2
    direct = simulator.fly(simulator.make_world(0), np.random.default_rng([0, 0, 7]), 9, 32, 64)
    assert np.array_equal(read_video(tmp_path / rows[0]["video"]), direct.frames)
