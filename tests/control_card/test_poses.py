"""Pose errors and the navigation score, on poses and flights that are known."""

from __future__ import annotations

import numpy as np
import pytest

from wanact.control_card.poses import navigation_score, pose_errors


def flight(*turns: tuple[tuple[float, float, float], float, float], frames: int = 21) -> tuple[np.ndarray, list]:
    """Poses of turns that each move (right, down, ahead) and turn (yaw, pitch in degrees) evenly, and their bounds."""
    pose, poses, bounds = np.eye(4), [np.eye(4)], []
    for move, yaw_deg, pitch_deg in turns:
        yaw, pitch = np.radians([yaw_deg, pitch_deg]) / (frames - 1)
        step = np.eye(4)
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        step[:3, :3], step[:3, 3] = about_y @ about_x, np.array(move) / (frames - 1)
        first = len(poses) - 1
        for _ in range(frames - 1):
            pose = pose @ step
            poses.append(pose)
        bounds.append((first, len(poses)))
    return np.array(poses), bounds


AHEAD, BACK, RIGHT = (0, 0, 2), (0, 0, -2), (2, 0, 0)


def test_doing_what_is_asked_scores_one():
    poses, bounds = flight((AHEAD, 0, 0), ((0, 0, 0), 40, 0), (BACK, 0, 0), ((0, 0, 0), -40, 0), ((0, 0, 0), 0, 35))
    score = navigation_score(poses, bounds, ["forward", "yaw_right", "back", "yaw_left", "pitch_up"])
    assert score["NavScore"] == pytest.approx(1, abs=1e-6) and score["pairs"] == 2


def test_the_size_of_an_answer_does_not_count_and_its_direction_does():
    small, bounds = flight(((0, 0, 1), 0, 0), ((0, 0, 1), 0, 0))
    assert navigation_score(small, bounds, ["forward", "forward"])["NavScore"] == pytest.approx(1)
    wrong = navigation_score(small, bounds, ["back", "back"])
    assert wrong["accuracy"] < 0.8 and wrong["consistency"] == pytest.approx(1)
    slanted, bounds = flight(((1, 0, 2), 0, 0))
    assert 0.7 < navigation_score(slanted, bounds, ["forward"])["accuracy"] < 0.99


def test_opposite_turns_that_differ_are_inconsistent():
    poses, bounds = flight((RIGHT, 0, 0), ((-0.5, 0, 1), 0, 0))
    score = navigation_score(poses, bounds, ["right", "left"])
    assert score["consistency"] < 0.9 and score["pairs"] == 1


def test_a_single_turn_has_no_consistency():
    poses, bounds = flight((AHEAD, 0, 0))
    score = navigation_score(poses, bounds, ["forward"])
    assert score["NavScore"] is None and score["consistency"] is None and score["accuracy"] == pytest.approx(1)


def test_mistakes_are_named():
    poses, bounds = flight((AHEAD, 0, 0))
    with pytest.raises(ValueError, match="'up' must be one of forward"):
        navigation_score(poses, bounds, ["up"])
    with pytest.raises(ValueError, match="one action for each turn"):
        navigation_score(poses, bounds, [])
    with pytest.raises(ValueError, match="at least 2"):
        navigation_score(poses, [(0, 99)], ["forward"])


@pytest.mark.slow
def test_the_simulators_poses_are_found_in_its_frames_and_its_flow_in_its_geometry():
    import cv2

    from wanact.actions import channel_track
    from wanact.control_card.truth import fly_exactly
    from wanact.data.camera import grey_for_flow, optical_flow
    from wanact.data.motion import texture
    from wanact.world.exact_flow import exact_flow
    from wanact.world.simulator import make_world

    world = 920_001
    for channel, has_direction in (("forward", True), ("left", True), ("pitch_up", False)):
        clip = fly_exactly(world, channel_track(channel, 1))
        errors = pose_errors(clip.frames, clip.poses)
        assert errors["found"] == 1 and errors["rotation_deg"] < 1.5
        assert not has_direction or errors["translation_deg"] < 25
        before, after = (grey_for_flow(clip.frames[i]) for i in (0, 4))
        exact = 4 * cv2.resize(exact_flow(make_world(world), clip.poses[0], clip.poses[4], 48, 80), before.shape[::-1])
        error = np.linalg.norm(optical_flow(before, after) - exact, axis=2)[texture(before) > 0.5]
        assert np.median(error) < 2, "of 320 pixels"
