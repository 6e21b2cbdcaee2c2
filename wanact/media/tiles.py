"""Several clips in one, side by side: one file to keep, and one clock for all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4
_BACKGROUND = (11, 16, 32)
_INK = (248, 250, 252)


@dataclass(frozen=True)
class TileLayout:
    """Where each clip stands.

    Attributes:
        count: how many clips.
        height, width: of one of them.
        columns: side by side; two, or three for three.
        label: height of the bar under each.
    """

    count: int
    height: int
    width: int
    columns: int
    label: int

    @classmethod
    def of(cls, count: int, height: int, width: int) -> TileLayout:
        columns = count if count <= 3 else math.ceil(count / 2)
        return cls(count, height, width, columns, 2 * max(8, min(18, width // 20)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole, both even."""
        rows = math.ceil(self.count / self.columns)
        height = rows * (self.height + self.label) + (rows - 1) * GAP
        width = self.columns * self.width + (self.columns - 1) * GAP
        return height + height % 2, width + width % 2

    def place(self, index: int) -> tuple[int, int]:
        """Top and left of a clip."""
        row, column = divmod(index, self.columns)
        return row * (self.height + self.label + GAP), column * (self.width + GAP)

    def to_dict(self) -> dict[str, Any]:
        """The same for the page: each clip's left, top, width and height in the whole."""
        places = [self.place(index) for index in range(self.count)]
        return {"width": self.width, "height": self.height, "places": [[left, top] for top, left in places]}


def tile_clips(clips: Sequence[np.ndarray | None], labels: Sequence[str]) -> tuple[np.ndarray, TileLayout]:
    """One clip of several, each with its label under it.

    Args:
        clips: uint8 [F, H, W, 3] of one size; None leaves its place empty, shorter ones stand still at their end.
        labels: one for each.

    Returns:
        uint8 [F, H', W', 3] with even height and width, and where each clip stands in it.

    Raises:
        ValueError: if there is no clip, or they differ in size.
    """
    sizes = {clip.shape[1:3] for clip in clips if clip is not None}
    if len(sizes) != 1:
        raise ValueError(f"clips have the sizes {sorted(sizes)}, expected one")
    layout = TileLayout.of(len(clips), *sizes.pop())
    num_frames = max(len(clip) for clip in clips if clip is not None)
    tiled = np.empty((num_frames, *layout.size, 3), np.uint8)
    tiled[:] = _background(layout, labels)
    for index, clip in enumerate(clips):
        if clip is None:
            continue
        top, left = layout.place(index)
        area = tiled[:, top : top + layout.height, left : left + layout.width]
        area[: len(clip)] = clip
        area[len(clip) :] = clip[-1]
    return tiled, layout


def _background(layout: TileLayout, labels: Sequence[str]) -> np.ndarray:
    height, width = layout.size
    picture = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(9, round(0.62 * layout.label)))
    for index, label in enumerate(labels):
        top, left = layout.place(index)
        text = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", label).split())  # one line of what a font has
        while len(text) > 1 and draw.textlength(text, font=font) > layout.width - 8:
            text = text[:-2].rstrip() + "…" if len(text) > 2 else text[:1]
        middle = top + layout.height + layout.label / 2
        draw.text((left + 4, middle), text, font=font, fill=_INK, anchor="lm")
    return np.asarray(picture)
