"""How the picture moves: a clip reduced to three numbers a latent frame.

How far the picture slides sideways and down, and how fast it grows from its centre. Each of the eight channels moves
one of them in one direction, so that a clip flown with one channel alone shows whether that channel is obeyed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wanact.actions import CHANNELS
from wanact.errors import UserError
from wanact.shapes import TEMPORAL_STRIDE, num_actions

COMPONENTS = ("horizontal", "vertical", "expansion")

# Channel -> (component it moves, sign). The scene moves against the camera: flying left, it passes to the right.
CHANNEL_SIGNS: dict[str, tuple[str, int]] = {
    "forward": ("expansion", 1),
    "back": ("expansion", -1),
    "left": ("horizontal", 1),
    "right": ("horizontal", -1),
    "yaw_left": ("horizontal", 1),
    "yaw_right": ("horizontal", -1),
    "pitch_up": ("vertical", 1),
    "pitch_down": ("vertical", -1),
}
COMPONENT_OF = np.array([COMPONENTS.index(CHANNEL_SIGNS[channel][0]) for channel in CHANNELS])
SIGN_OF = np.array([CHANNEL_SIGNS[channel][1] for channel in CHANNELS])

MAX_WIDTH = 320  # larger frames are shrunk: motion of the whole picture needs no more
GRID_STEP = 3  # every third pixel both ways takes part in the fit
TEXTURE = 1e-4  # smaller eigenvalue of the structure tensor at which a pixel has half its weight
FIT_ROUNDS = 5
HUBER = 1.5  # residuals beyond this many deviations count linearly


@dataclass(frozen=True)
class Motion:
    """Mean motion of the picture in one latent frame.

    Attributes:
        horizontal: to the right, as a fraction of the frame's width.
        vertical: down, as a fraction of the frame's width.
        expansion: growth about the centre; 0.1 is 10% larger after one latent frame.
    """

    horizontal: float
    vertical: float
    expansion: float


def own_picture(motion: np.ndarray, channel: int) -> float:
    """The component that a channel moves, positive the right way, of a motion [3] in the order of `Motion`."""
    return float(motion[COMPONENT_OF[channel]] * SIGN_OF[channel])


def measure_motion(frames: np.ndarray) -> Motion:
    """Mean motion of a clip per latent frame.

    Args:
        frames: uint8 [F, H, W, 3] with F = 4k+1, k >= 1.
    """
    return Motion(*(float(value) for value in motion_track(frames).mean(axis=0)))


def motion_track(frames: np.ndarray) -> np.ndarray:
    """Motion of each latent frame after the first, [T-1, 3], in the order and units of `Motion`.

    Dense optical flow between neighbouring frames is fitted by an affine map about the centre: its shift is
    `horizontal` and `vertical`, its mean diagonal is `expansion`. Pixels count by their texture, because flow in a
    clear sky is guessed, and outliers count less (Huber). A latent frame's motion is the sum over its four pairs.

    Raises:
        ValueError: if the frames are no uint8 clip of 4k+1 frames, k >= 1.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 [F, H, W, 3]")
    count = num_actions(len(frames))
    if count < 1:
        raise UserError(f"{len(frames)} frame shows no motion; measure 5 or more")
    greys = [_grey(frame) for frame in frames]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pairs = []
    for a, b in zip(greys, greys[1:], strict=False):
        # Its stub asks for an array to write to; None has a new one made.
        moved = flow.calc(a, b, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        pairs.append(fit_affine(moved, texture(a)))
    return np.array(pairs).reshape(count, TEMPORAL_STRIDE, 3).sum(axis=1)


def _grey(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = MAX_WIDTH / grey.shape[1]
    return grey if scale >= 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def texture(grey: np.ndarray) -> np.ndarray:
    """How well each pixel's motion can be seen, 0 to 1, [H, W]: both directions need structure (Shi & Tomasi 1994)."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32) / 255, (0, 0), 1)
    eigenvalue = np.maximum(cv2.cornerMinEigenVal(smooth, 7), 0)
    return eigenvalue / (eigenvalue + TEXTURE)


def fit_affine(flow: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    """Shift (right, down) and expansion of a flow field [H, W, 2] by iteratively reweighted least squares."""
    height, width = weight.shape
    y, x = np.mgrid[:height:GRID_STEP, :width:GRID_STEP]
    x, y = (x + 0.5 - width / 2).ravel() / width, (y + 0.5 - height / 2).ravel() / width
    design = np.stack([np.ones_like(x), x, y], axis=1)  # [n, 3]
    target = flow[::GRID_STEP, ::GRID_STEP].reshape(-1, 2).astype(np.float64) / width
    texture = weight[::GRID_STEP, ::GRID_STEP].ravel().astype(np.float64)
    current, affine = texture, np.zeros((3, 2))
    for _ in range(FIT_ROUNDS):
        normal = design.T @ (current[:, None] * design) + 1e-9 * np.eye(3)
        affine = np.linalg.solve(normal, design.T @ (current[:, None] * target))
        residual = np.linalg.norm(target - design @ affine, axis=1)
        deviation = 1.48 * np.median(residual) + 1e-4
        current = texture * np.minimum(1, HUBER * deviation / np.maximum(residual, 1e-9))
    return affine[0, 0], affine[0, 1], (affine[1, 0] + affine[2, 1]) / 2
