"""The simulated world: exact motion, above ground, seeded, and in the units of real data."""

from __future__ import annotations

import csv
import dataclasses

import cv2
import numpy as np
import pytest

from train.commands import simulate
from wanact.actions import CHANNELS, FULL_DEFLECTION, ActionTrack, channel_track
from wanact.media.footage import read_video
from wanact.world import craft, landmarks, simulator
from wanact.world.exact_flow import inside, ray_depths
from wanact.world.palettes import BIOMES, TIMES, WEATHERS
from wanact.world.poses import pose_matrix
from wanact.world.terrain import sample


@pytest.fixture(scope="module")
def world() -> simulator.World:
    return simulator.make_world(3)


def fly(world: simulator.World, seed: int = 1, **kw) -> simulator.Clip:
    return simulator.fly(world, np.random.default_rng(seed), num_frames=13, height=32, width=64, **kw)


def test_the_same_seed_makes_the_same_world_and_flight(world):
    again = simulator.make_world(3)
    assert np.array_equal(world.height, again.height) and world.caption == again.caption
    assert np.array_equal(fly(world).frames, fly(again).frames)


def test_there_are_six_biomes_and_three_times_of_day():
    assert len(BIOMES) >= 6 and len(TIMES) >= 3


def test_a_biome_an_hour_and_a_weather_can_be_asked_for_and_are_named_in_the_caption():
    world = simulator.make_world(5, biome="farmland", time="at dusk", weather="fog")
    assert (world.biome, world.time, world.weather) == ("farmland", "at dusk", "fog")
    for words in ("farmland", "at dusk", "fog", world.landmark):
        assert words in world.caption.lower()
    assert simulator.make_world(5, "city", "night").caption.lower().count("a city") == 1
    with pytest.raises(ValueError, match="biome='the moon'"):
        simulator.make_world(5, biome="the moon")


def test_asking_for_what_a_seed_has_changes_nothing(world):
    asked = simulator.make_world(3, world.biome, world.time, world.weather)
    assert np.array_equal(asked.height, world.height) and asked.caption == world.caption
    assert {world.weather} <= {weather.name for weather in WEATHERS}


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
    x, y, down = clip.poses[:, :3, 3].T
    assert (-down > np.maximum(sample(world.height, x, y), 0)).all()


@pytest.mark.parametrize("biome", ["a city", "a red canyon", "an autumn forest"])
def test_a_flight_straight_at_a_landmark_never_enters_it(biome):
    world = simulator.make_world(8, biome)
    x, y, top = world.places[4]
    poses = [(x - 30.0, y - 26.0, top - 20)]
    for _ in range(60):
        px, py, altitude = poses[-1]
        px, py = simulator._slide_round(world, px, py, 1.9, 1.6, altitude)
        poses.append((px, py, altitude))
    flown = [simulator.fly_poses(world, np.random.default_rng(k), 81, channel_track("forward", 20)) for k in range(3)]
    for px, py, altitude in poses[1:] + [pose[:3] for flight in flown for pose in flight]:
        assert not any(inside(part, px, py, altitude) for part in world.parts)


def test_without_sticks_the_drone_hovers_and_its_picture_stands_still(world):
    clip = fly(world, track=ActionTrack.zeros(3))
    assert (clip.frames == clip.frames[0]).all() and (clip.poses == clip.poses[0]).all()
    assert not clip.track.magnitude.any()


def test_random_sticks_hover_now_and_then_and_go_back_as_often_as_ahead():
    commands = simulator.random_commands(np.random.default_rng(0), 20000)
    still = ~commands.any(1)
    runs = np.convolve(still, np.ones(10), "valid") == 10
    assert 0.04 < runs.mean() < 0.14
    assert (commands[:, 0] > 0).mean() == pytest.approx((commands[:, 0] < 0).mean(), rel=0.15)


def test_a_flight_that_turns_back_takes_the_same_way_in_reverse():
    for seed in range(20):
        commands = simulator.random_commands(np.random.default_rng(seed), 20)
        back = simulator.turn_back(commands, np.random.default_rng(seed))
        turn = next(n for n in range(4, 11) if (back[n : 2 * n] == -commands[n - 1 :: -1][: 20 - n]).all())
        assert (back[:turn] == commands[:turn]).all() and (back[2 * turn :] == commands[2 * turn :]).all()


def test_flights_that_turn_back_come_nearer_to_their_start(world):
    def end_distance(returns: float, seed: int) -> float:
        """Distance of the nearest pose after the farthest one, as a share of the farthest."""
        places = np.array(simulator.fly_poses(world, np.random.default_rng(seed), 81, returns=returns))[:, :2]
        away = np.hypot(*(places - places[0]).T)
        return float(away[away.argmax() :].min() / max(away.max(), 1e-9))

    means = [np.mean([end_distance(returns, seed) for seed in range(16)]) for returns in (0.0, 1.0)]
    assert means[1] < 0.6 * means[0], means


def test_tracks_of_random_flights_are_valid_and_varied():
    rng = np.random.default_rng(0)
    commands = simulator.random_commands(rng, 2000)
    used = np.concatenate([(commands > 0).mean(0), (commands < 0).mean(0)])
    assert used.min() > 0.05 and np.abs(commands).max() <= 1.1


def flat_world(world: simulator.World, parts: np.ndarray) -> simulator.World:
    """Flat ground in clear air with these parts on it."""
    return dataclasses.replace(world, height=np.full_like(world.height, 1), parts=parts, air=np.array((1e-9, 100.0)))


def test_a_pitched_pinhole_camera_projects_points_where_they_are(world):
    """A black post's top must appear where its 3-D position projects through the pose matrix."""
    target = (560.0, 530.0, 24.0)
    post = landmarks.part(landmarks.CONE, target[:2], 20, 28, (2.0, 2.0), colour=(0, 0, 0))
    pose = (500.0, 512.0, 30.0, 0.12, np.radians(-12))
    pictures = [
        simulator.render(flat_world(world, p), pose, 96, 160).astype(float) for p in (post[None], post[None, :][:0])
    ]
    rows, cols = np.nonzero(np.abs(pictures[0] - pictures[1]).max(-1) > 12)
    seen = np.array(((cols.min() + cols.max()) / 2, (rows.min() + rows.max()) / 2)) + 0.5
    point = np.linalg.inv(pose_matrix(pose)) @ np.array((*target[:2], -target[2], 1.0))
    focal = 80 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    expected = focal * point[:2] / point[2] + (80, 48)
    np.testing.assert_allclose(seen, expected, atol=1.0)


@pytest.mark.parametrize("seed", [3, 11, 25])
def test_the_renderers_depth_is_that_of_rays_followed_apart_from_it(seed):
    world = simulator.make_world(seed)
    pose = simulator.fly_poses(world, np.random.default_rng(seed), 1)[0]
    height, width = 48, 80
    depth = simulator.render_with_depth(world, pose, height, width)[1].ravel()
    focal = width / 2 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    row, column = np.mgrid[:height, :width]
    u, v = ((column + 0.5 - width / 2) / focal).ravel(), ((row + 0.5 - height / 2) / focal).ravel()
    followed = ray_depths(world, pose_matrix(pose), u, v)
    both = np.isfinite(depth) & np.isfinite(followed)
    assert (np.isfinite(depth) == np.isfinite(followed)).mean() > 0.985
    assert (np.abs(depth[both] / followed[both] - 1) < 0.02).mean() > 0.97


@pytest.mark.parametrize("name", sorted(landmarks.LANDMARKS))
def test_every_landmark_is_where_rays_followed_apart_from_the_renderer_meet_it(world, name):
    parts = landmarks.build(name, np.random.default_rng(0), 600.0, 512.0, 1.0)
    alone = flat_world(world, parts)
    pose = (470.0, 500.0, 40.0, 0.1, np.radians(-4))
    height, width = 48, 80
    depth = simulator.render_with_depth(alone, pose, height, width)[1].ravel()
    focal = width / 2 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    row, column = np.mgrid[:height, :width]
    u, v = ((column + 0.5 - width / 2) / focal).ravel(), ((row + 0.5 - height / 2) / focal).ravel()
    followed = ray_depths(alone, pose_matrix(pose), u, v)
    ground = ray_depths(flat_world(world, parts[:0]), pose_matrix(pose), u, v)
    covered = (followed < 0.98 * ground) | (np.isfinite(followed) & np.isinf(ground))
    assert covered.sum() > 60  # large enough to be seen
    assert (np.abs(depth[covered] / followed[covered] - 1) < 0.01).mean() > 0.97


@pytest.mark.parametrize("name", sorted(landmarks.LANDMARKS))
def test_a_level_ray_ends_where_the_drone_is_kept_off(world, name):
    """Of a roof that it would pass close above, too, and of what is thin."""
    parts = landmarks.build(name, np.random.default_rng(0), 600.0, 512.0, 1.0)
    alone, ahead, met = flat_world(world, parts), craft.RAY_DIRECTIONS_DEG.index((0.0, 0.0)), 0
    for altitude in (20.0, *(parts[:, landmarks.TOP] + simulator.BERTH - 0.5), *(parts[:, landmarks.TOP] - 4)):
        for y in (500.0, 512.0, 530.0):
            drone = craft.SimulatedCraft(alone, (455.0, y, float(altitude), 0.0, 0.0))
            if altitude < 15 or drone.room(455.0, y) < simulator.BERTH:
                continue
            free = drone.rays()[ahead]
            while not drone.touched and drone.pose[0] < 455 + craft.RAY_REACH:
                drone.fly(np.array((0.5, 0, 0, 0)))
            flown = drone.pose[0] - 455
            assert abs(min(flown, craft.RAY_REACH) - free) < 2 * craft.RAY_REACH / craft.RAY_SAMPLES
            met += free < craft.RAY_REACH
    assert met > 2


@pytest.mark.parametrize("seed", [1, 4])
def test_no_water_is_drawn_over_land(seed):
    """Where a ray ends at the water's level, the ground there lies below it: shores are lines, not rags."""
    world = simulator.make_world(seed, "a tropical coast")
    x, y, _, yaw, pitch = simulator.fly_poses(world, np.random.default_rng(seed), 1)[0]
    pose = (x, y, 30.0 + max(float(sample(world.height, x, y)), 0), yaw, pitch)
    height, width = 96, 160
    depth = simulator.render_with_depth(world, pose, height, width)[1]
    focal = width / 2 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    row, column = np.mgrid[:height, :width]
    rays = np.stack([(column + 0.5 - width / 2) / focal, (row + 0.5 - height / 2) / focal, np.ones(depth.shape)])
    matrix = pose_matrix(pose)
    seen = np.isfinite(depth)
    px, py, down = matrix[:3, :3] @ (rays * depth)[:, seen] + matrix[:3, 3:]
    at_level = np.abs(down) < 1e-6
    assert 500 < at_level.sum() < seen.sum()
    assert sample(world.height, px, py)[at_level].max() < 0.01


def test_an_edge_crosses_a_pixel_in_small_steps(world):
    """Where the view turns by a sixteenth of a pixel, no pixel at a black wall changes by more than a fifth."""
    wall = landmarks.part(landmarks.BOX, (560.0, 512.0), -20, 90, (2.0, 8.0), colour=(0, 0, 0))
    alone = flat_world(world, wall[None])
    step = np.arctan(16 / 80 * np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))) / 256
    poses = [(500.0, 512.0, 30.0, 0.03 + k * step, np.radians(-3)) for k in range(33)]
    row = np.stack([simulator.render(alone, pose, 96, 160)[40].astype(float) for pose in poses])
    row /= np.ptp(row, (0, 1))
    assert np.abs(row[-1] - row[0]).max() > 0.8  # the edge crossed pixels
    assert np.abs(np.diff(row, axis=0)).max() < 1 / 5


def test_a_picture_drawn_twice_as_large_shrinks_to_the_same(world):
    pose = simulator.fly_poses(world, np.random.default_rng(2), 1)[0]
    small = simulator.render(world, pose, 96, 160).astype(float)
    large = simulator.render(world, pose, 192, 320)
    shrunk = cv2.resize(large, (160, 96), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - shrunk).mean() < 1.5
    assert 10 * np.log10(255**2 / ((small - shrunk) ** 2).mean()) > 34


def test_the_dataset_has_the_format_of_real_data(tmp_path):
    args = ["--out", str(tmp_path), "--clips", "2", "--num_frames", "9", "--height", "32", "--width", "64"]
    simulate.main(args)
    with open(tmp_path / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [set(row) for row in rows] == [{"video", "prompt", "action"}] * 2
    assert len(ActionTrack.parse(rows[0]["action"])) == 2
    direct = simulator.fly(simulator.make_world(0), np.random.default_rng([0, 0, 7]), 9, 32, 64)
    assert np.array_equal(read_video(tmp_path / rows[0]["video"]), direct.frames)


def test_a_drone_that_is_stepped_flies_what_a_clip_flies(world):
    axes = np.random.default_rng(4).uniform(-1, 1, (12, 4)) * np.array(FULL_DEFLECTION)[1::2]
    track = ActionTrack.from_axes(axes)
    poses = simulator.fly_poses(world, np.random.default_rng(7), 49, track)
    drone = simulator.Drone(world, poses[0], track.axes[0].astype(float))
    stepped = [poses[0]]
    for number, command in enumerate(track.magnitude.astype(float)):
        ahead, back, left, right, yaw_left, yaw_right, up, down = command
        if number == 5:  # taken up from its state alone
            again = simulator.Drone(world, drone.pose)
            again.velocity, again.climb = drone.velocity, drone.climb
            drone = again
        stepped += drone.step(np.array((ahead - back, right - left, yaw_right - yaw_left, up - down)))
    assert stepped == poses


@pytest.mark.parametrize(("above", "touches"), [(-14.0, True), (60.0, False)])
def test_a_drone_says_when_something_kept_it_off(world, above, touches):
    x, y, top = world.places[0]
    drone = simulator.Drone(world, (x - 90, y, top + above, 0.0, 0.0))
    touched = []
    for _ in range(16):
        drone.step(np.array((0.05, 0, 0, 0)))
        touched.append(drone.touched)
    assert any(touched) == touches
