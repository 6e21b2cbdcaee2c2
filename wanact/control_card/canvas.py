"""A sheet to draw measures on, in points; twice as many pixels, so that it is crisp on any screen."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SCALE = 2
WIDTH, MARGIN, GAP = 1160, 20, 14  # of the sheets drawn here, in points


@dataclass(frozen=True)
class Theme:
    """Colours of a sheet."""

    ground: str
    panel: str
    ink: str
    faint: str
    line: str
    flow: str
    inverse: str
    good: str
    fair: str
    poor: str
    heat: tuple[tuple[int, int, int], tuple[int, int, int]]


LIGHT = Theme(
    "#ffffff", "#f6f7f9", "#1a1d21", "#6a7280", "#d9dde3", "#2563c9", "#c2610c", "#1a8754", "#b7791f", "#c53a3a",
    ((246, 247, 249), (37, 99, 201)),
)  # fmt: skip
DARK = Theme(
    "#14171c", "#1d2128", "#eceff4", "#98a2b3", "#353b46", "#6ea2ff", "#f2a65a", "#57c08d", "#e0b04c", "#f07a7a",
    ((29, 33, 40), (110, 162, 255)),
)  # fmt: skip


@functools.lru_cache(maxsize=32)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


class Canvas:
    """Lines, boxes and text in points from the top left.

    Args:
        width, height: of the sheet.
        theme: its colours.
    """

    def __init__(self, width: int, height: int, theme: Theme):
        self.theme = theme
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), theme.ground)
        self._pen = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, words: str, size: float = 11, colour: str | None = None, anchor: str = "lm"
    ) -> float:
        """Write a line; returns its width."""
        font = _font(size)
        self._pen.text((x * SCALE, y * SCALE), words, colour or self.theme.ink, font, anchor=anchor)
        return font.getlength(words) / SCALE

    def box(self, x: float, y: float, width: float, height: float, colour: str, radius: float = 0) -> None:
        """A filled box; nothing where it has no extent."""
        if width <= 0 or height <= 0:
            return
        place = tuple(round(v * SCALE) for v in (x, y, x + width, y + height))
        place = (place[0], place[1], max(place[0], place[2] - 1), max(place[1], place[3] - 1))
        self._pen.rounded_rectangle(place, radius * SCALE, colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        """A line through points."""
        if len(points) > 1:
            self._pen.line([(x * SCALE, y * SCALE) for x, y in points], colour, round(width * SCALE), joint="curve")

    def dashes(self, x0: float, y0: float, x1: float, y1: float, colour: str, dash: float = 3) -> None:
        """A thin dashed line."""
        length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-6)
        steps = int(length / (2 * dash)) + 1
        for i in range(steps):
            a, b = (2 * i * dash / length), min((2 * i + 1) * dash / length, 1)
            if a < 1:
                self.line(
                    [(x0 + (x1 - x0) * a, y0 + (y1 - y0) * a), (x0 + (x1 - x0) * b, y0 + (y1 - y0) * b)], colour, 0.75
                )

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """A filled circle."""
        self._pen.ellipse([(v * SCALE) for v in (x - radius, y - radius, x + radius, y + radius)], colour)

    def panel(self, x: float, y: float, width: float, height: float, title: str, note: str = "") -> None:
        """A panel with a title, and a quieter line beside it."""
        self.box(x, y, width, height, self.theme.panel, 8)
        used = self.text(x + 14, y + 19, title, 12.5)
        self.text(x + 14 + used + 10, y + 19.5, note, 10, self.theme.faint)


@dataclass(frozen=True)
class Plot:
    """A plot's place on a sheet and its ranges."""

    canvas: Canvas
    x: float
    y: float
    width: float
    height: float
    low: tuple[float, float]
    high: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies on the sheet; what is out of range lies on the edge."""
        share = [
            min(max((value - low) / ((high - low) or 1), 0), 1)
            for value, low, high in zip((x, y), self.low, self.high, strict=True)
        ]
        return self.x + share[0] * self.width, self.y + (1 - share[1]) * self.height

    def curve(self, points: Sequence[tuple[float, float | None]], colour: str, dots: float = 0) -> None:
        """A curve through what is there."""
        found = [self.at(x, y) for x, y in points if y is not None]
        self.canvas.line(found, colour, 1.75)
        for x, y in found:
            if dots:
                self.canvas.dot(x, y, dots, colour)

    def level(self, y: float, colour: str | None = None) -> None:
        """A dashed line across at a value."""
        (x0, place), (x1, _) = self.at(self.low[0], y), self.at(self.high[0], y)
        self.canvas.dashes(x0, place, x1, place, colour or self.canvas.theme.faint)
