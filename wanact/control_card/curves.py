"""The measures of a run's cards over its steps, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from wanact.control_card.canvas import DARK, GAP, LIGHT, MARGIN, WIDTH, Canvas, Plot
from wanact.control_card.card import CURVES, ControlCard
from wanact.control_card.picture import CHANCE, figure
from wanact.errors import UserError


def draw_curves(cards: Sequence[ControlCard], dark: bool = False) -> Image.Image:
    """Each measure over the steps of a run, 2320 pixels wide; a card without a step (the base) stands at step 0.

    Args:
        cards: of one run, and the base's if there is one; at least one.
        dark: for dark pages.

    Raises:
        ValueError: without cards.
    """
    if not cards:
        raise UserError("there are no control cards to draw; measure one first")
    ordered = sorted(cards, key=lambda card: card.checkpoint.get("step") or 0)
    steps = [card.checkpoint.get("step") or 0 for card in ordered]
    columns, wide, tall = 5, (WIDTH - 2 * MARGIN - 4 * GAP) / 5, 190
    rows = -(-len(CURVES) // columns)
    canvas = Canvas(WIDTH, round(86 + rows * (tall + GAP) + MARGIN), DARK if dark else LIGHT)
    theme = canvas.theme
    runs = [run for run in dict.fromkeys(str(card.checkpoint.get("run")) for card in ordered) if run != "base"]
    canvas.text(MARGIN, 32, "Control over the steps of a run", 11, theme.faint)
    canvas.text(MARGIN, 56, ", ".join(runs) or "base", 20)
    canvas.text(WIDTH - MARGIN, 56, "dashed: what a faithful model has; steps across", 11, theme.faint, "rm")
    for i, (name, (_, words, best)) in enumerate(CURVES.items()):
        x, y = MARGIN + (i % columns) * (wide + GAP), 86 + (i // columns) * (tall + GAP)
        values = [card.number(name) for card in ordered]
        canvas.box(x, y, wide, tall, theme.panel, 8)
        canvas.text(x + 12, y + 18, words, 11.5)
        last = next((value for value in reversed(values) if value is not None), None)
        canvas.text(x + wide - 12, y + 18, figure(last), 11.5, theme.flow, "rm")
        known = [value for value in values if value is not None]
        highs: list[float] = [1.0 if best == 1 else 0.2, *known, *([best] if best else [])]
        low, high = min([0.0, *known]), max(highs)
        plot = Plot(
            canvas, x + 34, y + 36, wide - 34 - 14, tall - 36 - 30, (min(steps), low), (max(max(steps), 1), high * 1.05)
        )
        canvas.box(plot.x, plot.y, plot.width, plot.height, theme.ground, 3)
        if best is not None:
            plot.level(best)
        if name in ("sign_accuracy", "worst_channel"):
            plot.level(CHANCE, theme.line)
            canvas.text(plot.x + plot.width - 4, plot.at(0, CHANCE)[1] + 8, "chance", 9, theme.faint, "rm")
        plot.curve(list(zip(steps, values, strict=True)), theme.flow, 2.6)
        for value in (low, high):
            canvas.text(plot.x - 5, plot.at(0, value)[1], f"{round(value, 2) + 0.0:.2g}", 9, theme.faint, "rm")
        for step, anchor in ((steps[0], "lm"), (steps[-1], "rm")):
            canvas.text(plot.at(step, 0)[0], plot.y + plot.height + 12, f"{step:,}", 9, theme.faint, anchor)
    return canvas.image
