"""Where measured flights begin: worlds that training never sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wanact import shapes
from wanact.actions import ActionTrack
from wanact.world import simulator

HELD_OUT_SEED = 900_000  # worlds from here on are for measuring


@dataclass(frozen=True)
class FirstFrame:
    """Where a measured flight begins: the picture, its caption and the seed of world and noise."""

    image: Image.Image
    prompt: str
    seed: int


def first_frames(count: int, height: int, width: int) -> Iterator[FirstFrame]:
    """First frames of held-out worlds, at a place and altitude as flights of the data have."""
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
        clip = held_out_flight(simulator.make_world(seed), seed, ActionTrack.zeros(1), height, width)
        yield FirstFrame(Image.fromarray(clip.frames[0]), clip.caption, seed - HELD_OUT_SEED)


def held_out_flight(world: simulator.World, seed: int, track: ActionTrack, height: int, width: int) -> simulator.Clip:
    """A flight from this seed's place along a track."""
    num_frames = shapes.num_pixel_frames(len(track) + 1)
    return simulator.fly(world, np.random.default_rng([seed, 0]), num_frames, height, width, track)
