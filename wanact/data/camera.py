"""How the camera moved, from optical flow: four axes a latent frame, translation and rotation told apart.

The picture alone cannot tell flying left from turning left: both slide it to the right. What differs is that turning
moves every pixel alike, however far, while flying moves near things more than far ones. So dense optical flow over one
latent frame is fitted by a camera's motion field (Longuet-Higgins & Prazdny 1980) over a ground plane that is seen
below a horizon, which is found with it:

    flow(x, y) = rho(y) [ ahead (x, y) + right (-1, 0) + up (0, 1) ]
               + yaw (-1 - x^2, -x y) + pitch (x y, 1 + y^2) + roll (y, -x)

in pixels divided by the focal length, with the inverse depth rho(y) = max(0, y - horizon), scaled to mean 1. Rotation
comes out in degrees; translation only as parallax, because no flow tells its scale: a near thing passing slowly and a
far one passing fast look the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wanact.actions import ActionTrack
from wanact.data.motion import fit_affine, texture
from wanact.errors import UserError
from wanact.shapes import TEMPORAL_STRIDE, num_actions

AXES = ("ahead", "right", "yaw_right", "pitch_up")
# Channel -> (axis, sign), in the order of the channels.
AXIS_OF = np.array([0, 0, 1, 1, 2, 2, 3, 3])
AXIS_SIGN = np.array([1, -1, -1, 1, -1, 1, 1, -1])
FULL = np.array([0.05, 0.05, 3.0, 3.0])  # full deflection of each axis

FIELD_OF_VIEW_DEG = 75.0  # horizontal, of the simulator's camera
WIDTH = 320  # frames are measured at this width: DIS works at half the size it is given
# Where the ground plane may end, in focal lengths below the centre: the camera looks down by 38 degrees at most (-0.8)
# and up by 16 (0.3). Nearly straight down, parallax looks like rotation.
HORIZONS = np.array([-0.6, -0.45, -0.35, -0.25, -0.15, -0.05, 0.1, 0.25])
STEP = 6  # every sixth pixel both ways takes part
ROUNDS = 5
HUBER = 1.5
# Residual, in focal lengths, at which a pixel stops voting for a horizon: this, or half as much again as the median of
# what the best horizon leaves, so that the unsteady flow of a generated clip still votes.
SCALE, SCALE_OF_MEDIAN = 0.004, 1.5
# Rotation alone is believed unless parallax leaves less than this of what it leaves unexplained. On the simulator's
# flights at a quarter of full deflection and at full deflection, parallax lowers it to 0.86 or more where the camera
# turns, and to 0.70 or less where it flies.
HARDLY = 0.78
_RIDGE = 1e-6


@dataclass(frozen=True)
class Seen:
    """What is seen in a clip, for each latent frame after the first.

    Attributes:
        picture: motion of the picture, [N, 3]: across and down as fractions of the width, and the logarithm of its
            growth.
        camera: motion of the camera, [N, 4], in the order of `AXES`: ahead and right as parallax (the mean shift of
            the scene in focal lengths), yaw to the right and pitch up in degrees.
        turn: yaw to the right and pitch up in degrees, [N, 2], of the rotation alone that explains most: for a camera
            that was asked to do nothing else.
    """

    picture: np.ndarray
    camera: np.ndarray
    turn: np.ndarray


def asked_axes(track: ActionTrack) -> np.ndarray:
    """A track as signed axes, [N, 4], in the order of `AXES` and the units of the track."""
    return track.axes.astype(np.float64)


def along_channels(axes: np.ndarray) -> np.ndarray:
    """Signed axes [..., 4] as motion in the direction of each channel, [..., 8]; opposite channels are negatives."""
    return axes[..., AXIS_OF] * AXIS_SIGN


def see(frames: np.ndarray, field_of_view_deg: float = FIELD_OF_VIEW_DEG, width: int = WIDTH, step: int = STEP) -> Seen:
    """Measure a clip.

    Args:
        frames: uint8 [F, H, W, 3] with F = 4k+1, k >= 1.
        field_of_view_deg: horizontal angle of the camera.
        width: pixels to which frames are brought; at half of it signs are told as well, and in half the time.
        step: pixels from one that takes part to the next.

    Raises:
        ValueError: if the frames are no such clip.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 [F, H, W, 3]")
    if num_actions(len(frames)) < 1:
        raise UserError(f"{len(frames)} frame shows no motion; measure 5 or more")
    # From latent frame to latent frame in one stride: a shift of several pixels is told better than four small ones.
    greys = [grey_for_flow(frame, width) for frame in frames[::TEMPORAL_STRIDE]]
    picture, camera, turn = [], [], []
    for a, b in zip(greys, greys[1:], strict=False):
        flow, weight = optical_flow(a, b), texture(a)
        across, down, growth = fit_affine(flow, weight)
        picture.append((across, down, np.log1p(max(growth, -0.9))))  # so that shrinking undoes growing
        axes, rotation = fit_camera(flow, weight, field_of_view_deg, step)
        camera.append(axes)
        turn.append(rotation)
    return Seen(np.array(picture), np.array(camera), np.array(turn))


def fit_camera(
    flow: np.ndarray, weight: np.ndarray, field_of_view_deg: float = FIELD_OF_VIEW_DEG, step: int = STEP
) -> tuple[np.ndarray, np.ndarray]:
    """The four axes of a flow field, [4], and yaw and pitch of the rotation alone that explains most, [2].

    By iteratively reweighted least squares (Huber), over all horizons at once.

    Args:
        flow: in pixels, [H, W, 2].
        weight: how much each pixel counts, [H, W].
    """
    height, width = weight.shape
    focal = width / 2 / np.tan(np.radians(field_of_view_deg / 2))
    row, column = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    target = flow[row, column].reshape(-1, 2).astype(np.float64) / focal
    votes = weight[row, column].ravel().astype(np.float64) + 1e-3
    x, y = ((column + 0.5 - width / 2) / focal).ravel(), ((row + 0.5 - height / 2) / focal).ravel()
    below = np.maximum(y - HORIZONS[:, None], 0).mean(axis=1, keepdims=True)  # brings the mean inverse depth to 1
    # Half way between both frames the linear field is right to second order.
    x, y = x + target[:, 0] / 2, y + target[:, 1] / 2
    depth = np.maximum(y - HORIZONS[:, None], 0) / below
    depth = np.concatenate([depth, np.zeros_like(depth[:1])])  # [horizons + 1, n]; the last is infinitely far away
    design = _motion_field(x, y, depth).reshape(len(depth), -1, 6)  # [horizons + 1, 2n, 6]
    current = np.broadcast_to(votes, depth.shape)
    for _ in range(ROUNDS):
        weighted = design * np.repeat(current, 2, axis=1)[..., None]
        normal = weighted.transpose(0, 2, 1) @ design + _RIDGE * votes.sum() * np.eye(6)
        motion = np.linalg.solve(normal, weighted.transpose(0, 2, 1) @ target.reshape(-1, 1))
        residual = target.reshape(-1, 1) - design @ motion
        error = np.linalg.norm(residual.reshape(*depth.shape, 2), axis=2)
        deviation = 1.48 * np.median(error, axis=1, keepdims=True) + 3e-4
        current = votes * np.minimum(1, HUBER * deviation / np.maximum(error, 1e-9))
    scale = max(SCALE, SCALE_OF_MEDIAN * float(np.median(error[:-1], axis=1).min()))
    cost = (votes * error**2 / (error**2 + scale**2)).sum(axis=1)
    best = int(cost[:-1].argmin())
    if cost[best] > HARDLY * cost[-1]:
        best = len(cost) - 1
    ahead, right, _, yaw, pitch, _ = motion[best, :, 0]
    turn = np.degrees(motion[-1, 3:5, 0])
    return np.array([ahead, right, np.degrees(yaw), np.degrees(pitch)]), turn


def _motion_field(x: np.ndarray, y: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Flow of a unit of each motion: ahead, right, up, yaw right, pitch up, roll; [horizons, n, 2, 6]."""
    one, zero = np.ones_like(x), np.zeros_like(x)
    translations = [np.stack(pair, -1) * depth[..., None] for pair in ((x, y), (-one, zero), (zero, one))]
    rotations = [np.stack(pair, -1) for pair in ((-1 - x * x, -x * y), (x * y, 1 + y * y), (y, -x))]
    shape = translations[0].shape
    return np.stack([*translations, *(np.broadcast_to(field, shape) for field in rotations)], axis=-1)


def optical_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Dense flow between two grey frames, [H, W, 2] pixels."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Its stub asks for an array to write to; None has a new one made.
    return flow.calc(before, after, None)  # pyright: ignore[reportCallIssue, reportArgumentType]


def grey_for_flow(frame: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """A frame in grey at the width at which motion is measured."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = width / grey.shape[1]
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
