"""Camera-motion metrics of the field that need no downloaded weights: pose errors, and WBench's navigation score.

Poses are camera-to-world with OpenCV axes (right, down, forward), [N, 4, 4].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import cv2
import numpy as np

from wanact.actions import CHANNELS, OPPOSITE
from wanact.data.camera import FIELD_OF_VIEW_DEG, grey_for_flow, optical_flow
from wanact.data.motion import texture
from wanact.shapes import TEMPORAL_STRIDE

POINT_STEP = 5  # every fifth pixel both ways is a correspondence, if it has texture
MIN_TEXTURE = 0.5
RANSAC_PX = 0.5
MIN_POINTS = 20


def relative_pose(
    before: np.ndarray, after: np.ndarray, field_of_view_deg: float = FIELD_OF_VIEW_DEG
) -> tuple[np.ndarray, np.ndarray] | None:
    """How the camera moved between two frames, from the essential matrix of their dense flow.

    Args:
        before, after: uint8 [H, W, 3].
        field_of_view_deg: horizontal angle of the camera.

    Returns:
        (rotation [3, 3], direction [3] of unit length): the second camera's pose in the axes of the first. None where
        too little can be seen. The direction of a camera that only turns means nothing.
    """
    a, b = grey_for_flow(before), grey_for_flow(after)
    flow, weight = optical_flow(a, b), texture(a)
    height, width = a.shape
    row, column = np.mgrid[POINT_STEP:height:POINT_STEP, POINT_STEP:width:POINT_STEP]
    seen = weight[row, column] > MIN_TEXTURE
    start = np.stack([column[seen] + 0.5, row[seen] + 0.5], axis=1).astype(np.float64)
    if len(start) < MIN_POINTS:
        return None
    end = start + flow[row[seen], column[seen]]
    focal = width / 2 / np.tan(np.radians(field_of_view_deg / 2))
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cv2.setRNGSeed(0)  # RANSAC draws from OpenCV's own generator: the same frames give the same pose
    essential, inliers = cv2.findEssentialMat(start, end, camera, cv2.RANSAC, 0.999, RANSAC_PX)
    if essential is None or essential.shape != (3, 3):
        return None
    # Of the two rotations the smaller one: where a camera only turns, depth would leave the choice to noise, and in a
    # latent frame none turns by more than a few degrees.
    one, other, shift = cv2.decomposeEssentialMat(essential)
    rotation = one if np.trace(one) > np.trace(other) else other
    agreed = inliers.ravel() > 0
    direction = (rotation.T @ shift)[:, 0]
    return rotation.T, -direction * _side(start[agreed], end[agreed], camera, rotation, direction)


def _side(start: np.ndarray, end: np.ndarray, camera: np.ndarray, rotation: np.ndarray, direction: np.ndarray) -> float:
    """1 if points move along `direction`, -1 if against it, once the rotation is taken out: depths are positive."""
    rays = [np.concatenate([p, np.ones((len(p), 1))], axis=1) @ np.linalg.inv(camera).T for p in (start, end)]
    turned = rays[1] @ rotation  # R^T applied to every ray
    seen = turned[:, :2] / turned[:, 2:] - rays[0][:, :2]
    place = rays[0][:, :2] + seen / 2
    expected = direction[:2] - place * direction[2]
    return 1.0 if (seen * expected).sum() >= 0 else -1.0


def pose_errors(
    frames: np.ndarray, poses: np.ndarray, field_of_view_deg: float = FIELD_OF_VIEW_DEG
) -> dict[str, float | None]:
    """How far the camera seen in a clip is from given poses, latent frame by latent frame.

    Args:
        frames: uint8 [F, H, W, 3] with F = 4k+1.
        poses: one a frame.

    Returns:
        rotation_deg: mean angle between the rotation that is seen and the true one;
        translation_deg: mean angle between the directions of flight, over latent frames in which the camera moves;
        found: share of latent frames in which a pose was found.
    """
    angles, directions, found, pairs = [], [], 0, list(range(0, len(frames) - TEMPORAL_STRIDE, TEMPORAL_STRIDE))
    moved = np.array([np.linalg.norm(poses[i + TEMPORAL_STRIDE, :3, 3] - poses[i, :3, 3]) for i in pairs])
    for i, distance in zip(pairs, moved, strict=True):
        seen = relative_pose(frames[i], frames[i + TEMPORAL_STRIDE], field_of_view_deg)
        if seen is None:
            continue
        found += 1
        true = np.linalg.inv(poses[i]) @ poses[i + TEMPORAL_STRIDE]
        angles.append(_angle_deg(seen[0].T @ true[:3, :3]))
        if distance > 0.2 * moved.max() > 0:
            cosine = seen[1] @ true[:3, 3] / np.linalg.norm(true[:3, 3])
            directions.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return {
        "rotation_deg": float(np.mean(angles)) if angles else None,
        "translation_deg": float(np.mean(directions)) if directions else None,
        "found": found / max(len(pairs), 1),
    }


# WBench

_MOTION = {  # channel -> direction of flight, axis of turning
    "forward": ((0, 0, 1), None),
    "back": ((0, 0, -1), None),
    "left": ((-1, 0, 0), None),
    "right": ((1, 0, 0), None),
    "yaw_left": (None, (0, -1, 0)),
    "yaw_right": (None, (0, 1, 0)),
    "pitch_up": (None, (1, 0, 0)),
    "pitch_down": (None, (-1, 0, 0)),
}
_MIRROR_AXIS = {"forward": 2, "left": 0, "yaw_left": 0, "pitch_up": 1}  # of a pair of channels, by its first
_LEAST_PATH, _LEAST_TURN_DEG = 0.5, 10.0
_STILL, _STRAIGHT = 0.1, 1.0  # a turn shorter than this is held against a path of this length
_LEAST_REFERENCE_DEG = 30.0
_SAMPLES = 20


def navigation_score(poses: np.ndarray, turns: Sequence[tuple[int, int]], actions: Sequence[str]) -> dict[str, Any]:
    """WBench's NavScore of a first-person flight along given poses.

        Accuracy    = 1 - (nATE_t + nATE_r) / 2
        Consistency = 1 - (cnATE_t + cnATE_r) / 2
        NavScore    = (Accuracy + Consistency) / 2

    Each turn's poses are held against a reference that does what was asked as far as the flight itself went: a straight
    line as long as its own way, a rotation as large as its own. Errors of position and angle, at 20 places evenly
    spaced along the way, are averaged and divided by the length of the whole way (0.5 at least) and by the whole
    rotation (10 degrees at least). Consistency compares turns of the same or of the opposite channel with each other,
    the latter mirrored.

    Args:
        poses: [N, 4, 4], in units in which half a unit is a short way.
        turns: (first, one past the last) pose of each turn.
        actions: what each turn asks for: a channel.

    Returns:
        NavScore, accuracy, consistency, nATE_t, nATE_r, cnATE_t, cnATE_r, pairs. Without two turns that can be compared
        consistency and NavScore are None.

    Raises:
        ValueError: for an action that is no channel, or turns that are no part of the poses.

    Source: WBench (arXiv:2605.25874), `evaluate_navigation` of its public evaluation code, first person, single
    actions.
    """
    _check(poses, turns, actions)
    reference_rotation, place = poses[turns[0][0], :3, :3], poses[turns[0][0], :3, 3]
    distances, angles = [], []
    for (start, end), action in zip(turns, actions, strict=True):
        flown = poses[start:end]
        reference = _reference(flown, action, reference_rotation)
        reference[:, :3, 3] += place - reference[0, :3, 3]
        place = reference[-1, :3, 3]
        if _MOTION[action][1] is not None:
            reference_rotation = reference[-1, :3, :3]
        wanted, seen = _along(reference), _along(flown)
        distances += list(np.linalg.norm(wanted[:, :3, 3] - seen[:, :3, 3], axis=1))
        angles += [_angle_deg(a.T @ b) for a, b in zip(wanted[:, :3, :3], seen[:, :3, :3], strict=True)]
    whole = poses[turns[0][0] : turns[-1][1]]
    far = min(float(np.mean(distances)) / max(_length(whole), _LEAST_PATH), 1.0)
    turned = min(float(np.mean(angles)) / max(_turned_deg(whole), _LEAST_TURN_DEG), 1.0)
    accuracy = 1 - (far + turned) / 2
    pairs = [
        _unlikeness(poses[slice(*turns[i])], poses[slice(*turns[j])], actions[i], actions[j])
        for i, j in combinations(range(len(turns)), 2)
        if actions[j] in (actions[i], CHANNELS[OPPOSITE[CHANNELS.index(actions[i])]])
    ]
    result: dict[str, Any] = {"NavScore": None, "accuracy": accuracy, "consistency": None}
    result |= {"nATE_t": far, "nATE_r": turned, "cnATE_t": None, "cnATE_r": None, "pairs": len(pairs)}
    if pairs:
        unlike_t, unlike_r = (float(value) for value in np.mean(pairs, axis=0))
        consistency = 1 - (unlike_t + unlike_r) / 2
        result |= {"cnATE_t": unlike_t, "cnATE_r": unlike_r, "consistency": consistency}
        result["NavScore"] = (accuracy + consistency) / 2
    return result


def _check(poses: np.ndarray, turns: Sequence[tuple[int, int]], actions: Sequence[str]) -> None:
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f"poses have shape {poses.shape}, expected (N, 4, 4)")
    if not turns or len(turns) != len(actions):
        raise ValueError(f"{len(turns)} turns and {len(actions)} actions; there must be one action for each turn")
    for (start, end), action in zip(turns, actions, strict=True):
        if action not in _MOTION:
            raise ValueError(f"action {action!r} must be one of {', '.join(_MOTION)}")
        if not 0 <= start < end - 1 < len(poses):
            raise ValueError(f"turn {start}..{end} must hold at least 2 of the {len(poses)} poses")


def _reference(flown: np.ndarray, action: str, rotation: np.ndarray) -> np.ndarray:
    """What one turn should have been, as long or as large as it was; it begins where the flight was."""
    direction, axis = _MOTION[action]
    share = np.linspace(0, 1, len(flown))
    reference = np.tile(np.eye(4), (len(flown), 1, 1))
    if direction is not None:
        way = np.linalg.norm(flown[-1, :3, 3] - flown[0, :3, 3])
        reference[:, :3, :3] = rotation
        reference[:, :3, 3] = share[:, None] * (way if way > _STILL else _STRAIGHT) * (rotation @ np.array(direction))
    else:
        angle = np.radians(max(_turned_deg(flown), _LEAST_REFERENCE_DEG))
        turn = [cv2.Rodrigues(np.array(axis, np.float64) * angle * s)[0] for s in share]
        reference[:, :3, :3] = flown[0, :3, :3] @ np.array(turn)
    return reference


def _unlikeness(one: np.ndarray, other: np.ndarray, action: str, second: str) -> tuple[float, float]:
    """Normalised errors of position and angle between two turns, each seen from its own beginning."""
    one, other = (np.linalg.inv(turn[0]) @ turn for turn in (one, other))
    if action != second:
        first = CHANNELS[min(CHANNELS.index(action), CHANNELS.index(second))]
        mirror = np.eye(4)
        mirror[_MIRROR_AXIS[first], _MIRROR_AXIS[first]] = -1
        other = mirror @ other @ mirror
    count = min(len(one), len(other))
    one, other = (turn[np.linspace(0, len(turn) - 1, count).astype(int)] for turn in (one, other))
    distance = float(np.linalg.norm(one[:, :3, 3] - other[:, :3, 3], axis=1).mean())
    angle = float(np.mean([_angle_deg(a.T @ b) for a, b in zip(one[:, :3, :3], other[:, :3, :3], strict=True)]))
    path, turned = (_length(one) + _length(other)) / 2, (_turned_deg(one) + _turned_deg(other)) / 2
    return min(distance / max(path, _LEAST_PATH), 1.0), min(angle / max(turned, _LEAST_TURN_DEG), 1.0)


def _along(poses: np.ndarray) -> np.ndarray:
    """Twenty poses evenly spaced along the way; along time, if it goes nowhere."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    if len(poses) <= 2 or way[-1] < 1e-8:
        return poses[np.linspace(0, len(poses) - 1, _SAMPLES if len(poses) > 2 else len(poses)).astype(int)]
    result = np.tile(np.eye(4), (_SAMPLES, 1, 1))
    for number, target in enumerate(np.linspace(0, way[-1], _SAMPLES)):
        after = int(np.clip(np.searchsorted(way, target), 1, len(poses) - 1))
        gap = way[after] - way[after - 1]
        share = (target - way[after - 1]) / gap if gap > 0 else 0.0
        a, b = poses[after - 1], poses[after]
        result[number, :3, 3] = a[:3, 3] + share * (b[:3, 3] - a[:3, 3])
        between = cv2.Rodrigues(a[:3, :3].T @ b[:3, :3])[0]
        result[number, :3, :3] = a[:3, :3] @ cv2.Rodrigues(between * share)[0]
    return result


def _angle_deg(rotation: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def _length(poses: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum())


def _turned_deg(poses: np.ndarray) -> float:
    return sum(_angle_deg(a.T @ b) for a, b in zip(poses[:-1, :3, :3], poses[1:, :3, :3], strict=True))
