"""What a checkpoint does with the controls: the motion that is seen in its frames, against the motion asked for.

A clip is reduced to three numbers a latent frame: how far the picture slides sideways and down, and how fast it grows
from its centre. Each of the eight channels moves one of them in one direction, so that a clip flown with one channel
alone shows whether that channel is obeyed. `python -m train evaluate control` prints the table, and measures the
simulator's own flights in the same way, which says how far the measure itself can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wanact.actions import CHANNELS, NUM_CHANNELS, OPPOSITE, channel_track
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
_COMPONENT = np.array([COMPONENTS.index(CHANNEL_SIGNS[channel][0]) for channel in CHANNELS])
_SIGN = np.array([CHANNEL_SIGNS[channel][1] for channel in CHANNELS])

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
        raise ValueError(f"{len(frames)} frame shows no motion; measure 5 or more")
    greys = [_grey(frame) for frame in frames]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pairs = [_fit(flow.calc(a, b, None), _texture(a)) for a, b in zip(greys, greys[1:], strict=False)]
    return np.array(pairs).reshape(count, TEMPORAL_STRIDE, 3).sum(axis=1)


def _grey(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = MAX_WIDTH / grey.shape[1]
    return grey if scale >= 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _texture(grey: np.ndarray) -> np.ndarray:
    """How well each pixel's motion can be seen, 0 to 1, [H, W]: both directions need structure (Shi & Tomasi 1994)."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32) / 255, (0, 0), 1)
    eigenvalue = np.maximum(cv2.cornerMinEigenVal(smooth, 7), 0)
    return eigenvalue / (eigenvalue + TEXTURE)


def _fit(flow: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
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


@dataclass(frozen=True)
class Control:
    """How the eight channels were obeyed, from clips that each hold one channel at full deflection.

    Attributes:
        motion: mean motion per latent frame, [first frames, 8 channels, 3 components].
    """

    motion: np.ndarray

    def __post_init__(self) -> None:
        if self.motion.ndim != 3 or self.motion.shape[1:] != (NUM_CHANNELS, len(COMPONENTS)):
            raise ValueError(f"motion has shape {self.motion.shape}, expected (first frames, 8, 3)")

    @property
    def signed(self) -> np.ndarray:
        """Motion in the direction that each channel asks for, [first frames, 8]; negative is the wrong way."""
        return self.motion[:, np.arange(NUM_CHANNELS), _COMPONENT] * _SIGN

    @property
    def sign_accuracy(self) -> dict[str, float]:
        """Share of first frames from which the picture moved the right way; no motion at all counts as wrong."""
        return _by_channel((self.signed > 0).mean(axis=0))

    @property
    def response(self) -> dict[str, float]:
        """Mean motion the right way, in the units of `Motion`."""
        return _by_channel(self.signed.mean(axis=0))

    @property
    def separation(self) -> dict[str, float]:
        """Share of first frames where the channel moved the picture further its way than the opposite channel did.

        The clips share first frame and seed, so what the model does on its own cancels.
        """
        return _by_channel((self.signed + self.signed[:, OPPOSITE] > 0).mean(axis=0))

    def summary(self) -> dict[str, Any]:
        """All numbers as plain values."""
        accuracy = self.sign_accuracy
        return {
            "min_sign_accuracy": min(accuracy.values()),
            "mean_sign_accuracy": float(np.mean(list(accuracy.values()))),
            "sign_accuracy": accuracy,
            "response": self.response,
            "separation": self.separation,
            "first_frames": len(self.motion),
        }


def _by_channel(values: np.ndarray) -> dict[str, float]:
    return dict(zip(CHANNELS, map(float, values), strict=True))


def measure_control(
    pipe: Callable[..., np.ndarray],
    images: Sequence[Any],
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_frames: int,
    on_clip: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Control:
    """Fly every channel alone at full deflection from every first frame, and measure what is seen.

    Args:
        pipe: a `WanActPipeline` with the checkpoint loaded. Without one it takes no actions, every channel gives the
            same clip, and it is drawn once; the accuracies of opposite channels then add up to 1.
        images, prompts, seeds: one of each for every first frame; all channels share them.
        num_frames: of each clip. Pitch leaves the range that was trained on after about 40 frames.
        on_clip: called with (clips done, clips in all).
        settings: further arguments of the pipeline (num_inference_steps, guidance_scale, ...).
    """
    takes_actions = getattr(pipe, "controller", None) is not None
    tracks = [channel_track(channel, num_actions(num_frames)) for channel in CHANNELS] if takes_actions else [None]
    total, motion = len(images) * len(tracks), []
    for image, prompt, seed in zip(images, prompts, seeds, strict=True):
        seen = []
        for track in tracks:
            frames = pipe(prompt, image, track, seed=seed, num_frames=num_frames, **settings)
            seen.append(motion_track(frames).mean(axis=0))
            if on_clip is not None:
                on_clip(len(motion) * len(tracks) + len(seen), total)
        motion.append(seen * (NUM_CHANNELS // len(tracks)))
    return Control(np.array(motion))
