"""Sign accuracy alone: every channel at full deflection, as `python -m train evaluate control` measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanact.actions import CHANNELS, NUM_CHANNELS, OPPOSITE, channel_track
from wanact.data.motion import COMPONENT_OF, COMPONENTS, SIGN_OF, motion_track
from wanact.shapes import num_actions


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
        return self.motion[:, np.arange(NUM_CHANNELS), COMPONENT_OF] * SIGN_OF

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
    takes_actions = pipe.controller is not None
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
