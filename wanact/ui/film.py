"""Animated pictures of a flight, with the keys that were held drawn in: what people send to each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wanact.actions import CHANNELS
from wanact.media.animation import write_animation

FILM_S = 8  # the newest seconds of a flight
WIDTH = 480  # pixels: what is smaller is enlarged by a whole number, so that the keys can be read
MAX_WIDTH = 640  # what is larger is made smaller: eight seconds would take hundreds of megabytes

_MOVE, _LOOK = (165, 180, 252), (94, 234, 212)  # as on the page
# Where a channel's key is in its cluster of three by two, and which way its arrow points.
_KEYS = {
    "forward": (1, 0, "up"),
    "left": (0, 1, "left"),
    "back": (1, 1, "down"),
    "right": (2, 1, "right"),
    "pitch_up": (1, 0, "up"),
    "yaw_left": (0, 1, "left"),
    "pitch_down": (1, 1, "down"),
    "yaw_right": (2, 1, "right"),
}
_ARROWS = {
    "up": ((0.5, 0.28), (0.74, 0.68), (0.26, 0.68)),
    "down": ((0.5, 0.72), (0.74, 0.32), (0.26, 0.32)),
    "left": ((0.28, 0.5), (0.68, 0.26), (0.68, 0.74)),
    "right": ((0.72, 0.5), (0.32, 0.26), (0.32, 0.74)),
}


def write_film(frames: Sequence[np.ndarray], held: np.ndarray, path: Path, fps: float) -> None:
    """Write frames, uint8 [H, W, 3] each, as .gif or .webp with the keys drawn in.

    Args:
        held: which channels each frame obeys, bool [F, 8].

    Raises:
        OSError: if it cannot be written.
    """
    size = _size(*frames[0].shape[:2])
    drawn = [
        with_keys(np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)), on)
        for frame, on in zip(frames, held, strict=True)
    ]
    write_animation(np.stack(drawn), path, fps)


def _size(height: int, width: int) -> tuple[int, int]:
    """Width and height that a film of such frames has."""
    if width > MAX_WIDTH:
        return MAX_WIDTH, round(height * MAX_WIDTH / width / 2) * 2
    scale = max(1, WIDTH // width)
    return width * scale, height * scale


def with_keys(frame: np.ndarray, held: np.ndarray) -> np.ndarray:
    """A frame, uint8 [H, W, 3], with the eight keys in its lower corners; those that are held, [8], are filled."""
    height, width = frame.shape[:2]
    keys = _keys(width, height, tuple(bool(on) for on in held))
    alpha = keys[..., 3:].astype(np.float32) / 255
    return np.rint(frame * (1 - alpha) + keys[..., :3] * alpha).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _keys(width: int, height: int, held: tuple[bool, ...]) -> np.ndarray:
    """The keys alone, uint8 RGBA [H, W, 4]."""
    picture = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(picture)
    size = max(10, round(0.085 * height))
    gap = max(1, size // 8)
    edge = max(4, round(0.035 * height))
    across = 3 * size + 2 * gap
    for channel, on in zip(CHANNELS, held, strict=True):
        column, row, way = _KEYS[channel]
        moves = channel in ("forward", "back", "left", "right")
        x = (edge if moves else width - edge - across) + column * (size + gap)
        y = height - edge - 2 * size - gap + row * (size + gap)
        colour = _MOVE if moves else _LOOK
        fill, outline = ((*colour, 255), (*colour, 255)) if on else ((5, 8, 18, 90), (255, 255, 255, 90))
        draw.rounded_rectangle((x, y, x + size - 1, y + size - 1), size // 5, fill, outline)
        arrow = [(x + size * u, y + size * v) for u, v in _ARROWS[way]]
        draw.polygon(arrow, (11, 16, 32, 255) if on else (255, 255, 255, 160))
    return np.asarray(picture)
