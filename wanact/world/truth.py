"""The simulator's own view of a flight that begins with one of the sample frames: what a model would have to draw."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from wanact.actions import ActionTrack
from wanact.media.video import fit_image
from wanact.shapes import num_pixel_frames
from wanact.world import simulator

SIZE = (384, 640)  # height and width of the sample frames, which a clip's size is made from


def fly_sample(sample: Any, track: ActionTrack, height: int, width: int) -> np.ndarray:
    """Fly a track from where a sample frame was taken, drawn and shrunk as the sample was.

    Args:
        sample: with `world`, a seed, and `take`, the place in it.
        track: of any length; the simulator has inertia and keeps its height, as in training.
        height, width: of the clip.

    Returns:
        Frames, uint8 [F, H, W, 3]; the first is the sample frame but for its JPEG.
    """
    num_frames = num_pixel_frames(len(track) + 1)
    rng = np.random.default_rng([sample.world, sample.take])
    clip = simulator.fly(_world(sample.world), rng, num_frames, *SIZE, track)
    return np.stack([np.asarray(fit_image(Image.fromarray(frame), height, width)) for frame in clip.frames])


@functools.lru_cache(maxsize=2)
def _world(seed: int) -> simulator.World:
    return simulator.make_world(seed)
