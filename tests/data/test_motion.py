"""The measure is held to pictures and worlds whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wanact.actions import CHANNELS, OPPOSITE, channel_track
from wanact.control_card.control import Control, measure_control
from wanact.data.motion import CHANNEL_SIGNS, measure_motion, motion_track

HEIGHT, WIDTH = 96, 160


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Blobs of all sizes, larger than a frame."""
    rng = np.random.default_rng(3)
    sizes = [cv2.GaussianBlur(rng.normal(0, s, (288, 480, 3)), (0, 0), s) for s in (2, 4, 9)]
    return np.clip(128 + 90 * sum(sizes), 0, 255).astype(np.uint8)


def moving(picture, num_frames, right=0.0, down=0.0, growth=0.0) -> np.ndarray:
    """The middle of a picture under a moving camera; pixels and growth per frame."""
    frames = []
    for t in range(num_frames):
        scale = (1 + growth) ** t
        middle = np.array([WIDTH / 2, HEIGHT / 2])
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
        matrix[:, 2] = middle + np.array([right, down]) * t - scale * np.array([240, 144])
        frames.append(cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR))
    return np.stack(frames)


@pytest.mark.parametrize(
    "camera, expected",
    [
        ({"right": 1.5}, (4 * 1.5 / WIDTH, 0, 0)),
        ({"right": -3.0, "down": 0.8}, (-12 / WIDTH, 3.2 / WIDTH, 0)),
        ({"down": -1.2}, (0, -4.8 / WIDTH, 0)),
        ({"growth": 0.01}, (0, 0, 0.04)),
        ({"growth": -0.008, "right": 0.5}, (2 / WIDTH, 0, -0.032)),
        ({}, (0, 0, 0)),
    ],
)
def test_known_motion_of_a_picture_is_measured(picture, camera, expected):
    motion = measure_motion(moving(picture, 9, **camera))
    measured = (motion.horizontal, motion.vertical, motion.expansion)
    np.testing.assert_allclose(measured, expected, rtol=0.06, atol=0.0015)


def test_motion_is_told_for_each_latent_frame(picture):
    still, moved = moving(picture, 5), moving(picture, 5, right=2.0)
    track = motion_track(np.concatenate([still, moved[1:]]))
    assert track.shape == (2, 3)
    assert abs(track[0, 0]) < 1e-3
    assert track[1, 0] == pytest.approx(8 / WIDTH, rel=0.06)


def test_a_moving_thing_and_a_blank_sky_do_not_carry_the_picture_along(picture):
    frames = moving(picture, 5, right=1.0)
    frames[:, :40] = 200  # sky
    for t in range(5):
        frames[t, 60:80, 20 + 4 * t : 45 + 4 * t] = picture[:20, :25]  # a car
    assert measure_motion(frames).horizontal == pytest.approx(4 / WIDTH, rel=0.15)


def test_large_frames_give_the_same_fractions(picture):
    frames = moving(picture, 5, right=1.0, growth=0.005)
    large = np.stack([cv2.resize(frame, (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_CUBIC) for frame in frames])
    np.testing.assert_allclose(motion_track(large), motion_track(frames), atol=2e-3)


def test_what_is_no_clip_is_refused(picture):
    with pytest.raises(ValueError, match="uint8"):
        motion_track(np.zeros((5, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="shows no motion"):
        motion_track(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.slow
def test_the_simulators_own_flights_are_seen_the_right_way_for_every_channel():
    from wanact.world.simulator import fly, make_world

    world, motion = make_world(900004), []
    for channel in CHANNELS:
        clip = fly(world, np.random.default_rng(4), 5, track=channel_track(channel, 1))
        motion.append(motion_track(clip.frames).mean(axis=0))
    control = Control(np.array([motion]))
    assert control.sign_accuracy == dict.fromkeys(CHANNELS, 1.0)
    assert min(control.separation.values()) == 1.0


class Flown:
    """A pipeline whose world is one picture: it obeys, disobeys, or takes no actions."""

    def __init__(self, picture, obedience):
        self.picture, self.obedience, self.controller, self.calls = picture, obedience, object(), 0

    def __call__(self, prompt, image, track, seed, num_frames, **settings):
        self.calls += 1
        if track is None:
            return moving(self.picture, num_frames, right=0.3, down=0.3, growth=0.003)
        component, sign = CHANNEL_SIGNS[CHANNELS[int(track.magnitude[0].argmax())]]
        size = self.obedience * sign
        camera = {"horizontal": {"right": size}, "vertical": {"down": size}, "expansion": {"growth": size / 100}}
        return moving(self.picture, num_frames, **camera[component])


def measure(pipe):
    return measure_control(pipe, ["image"] * 2, ["prompt"] * 2, [0, 1], num_frames=5)


def test_an_obedient_model_scores_one_and_a_contrary_one_zero(picture):
    assert set(measure(Flown(picture, 1.0)).sign_accuracy.values()) == {1.0}
    contrary = measure(Flown(picture, -1.0)).summary()
    assert contrary["min_sign_accuracy"] == contrary["mean_sign_accuracy"] == 0.0
    assert max(contrary["separation"].values()) == 0.0


def test_a_model_without_controller_is_flown_once_a_frame_and_scores_chance(picture):
    base = Flown(picture, 1.0)
    base.controller = None
    control = measure(base)
    assert base.calls == 2
    assert control.summary()["mean_sign_accuracy"] == 0.5
    assert control.sign_accuracy["forward"] == 1.0  # it drifts forward whatever is asked
    assert set(control.separation.values()) == {0.0}


def test_shuffled_channels_read_chance():
    rng = np.random.default_rng(0)
    obeyed = np.zeros((4000, 8, 3))
    for i, channel in enumerate(CHANNELS):
        component, sign = CHANNEL_SIGNS[channel]
        obeyed[:, i, ("horizontal", "vertical", "expansion").index(component)] = sign
    obeyed += rng.normal(0, 0.1, obeyed.shape)
    assert Control(obeyed).summary()["min_sign_accuracy"] > 0.99
    shuffled = rng.permuted(obeyed, axis=1)
    assert Control(shuffled).summary()["mean_sign_accuracy"] == pytest.approx(0.5, abs=0.03)


def test_opposite_channels_move_the_same_component_the_other_way():
    for channel, opposite in zip(CHANNELS, OPPOSITE, strict=True):
        component, sign = CHANNEL_SIGNS[channel]
        assert CHANNEL_SIGNS[CHANNELS[opposite]] == (component, -sign)
