"""A control card as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from wanact.actions import CHANNELS
from wanact.control_card.canvas import DARK, GAP, LIGHT, MARGIN, WIDTH, Canvas, Plot
from wanact.control_card.card import ControlCard

WORDS = [channel.replace("_", " ") for channel in CHANNELS]
HEIGHT = 792
CHANCE = 0.5


def draw_card(card: ControlCard, dark: bool = False) -> Image.Image:
    """The card as a picture of 2320 x 1584 pixels: what to look at first stands on top.

    Args:
        card: what was measured.
        dark: for dark pages.
    """
    canvas = Canvas(WIDTH, HEIGHT, DARK if dark else LIGHT)
    _headline(canvas, card)
    top = 118
    _channels(canvas, card.measures, MARGIN, top, 560, 290)
    _cross_talk(canvas, card.measures, MARGIN + 560 + GAP, top, WIDTH - 2 * MARGIN - 560 - GAP, 290)
    _doses(canvas, card.measures, MARGIN, top + 290 + GAP, 760, 348)
    side, x = WIDTH - 2 * MARGIN - 760 - GAP, MARGIN + 760 + GAP
    _over_time(canvas, card.measures, x, top + 290 + GAP, side, 216)
    _rest(canvas, card, x, top + 290 + GAP + 216 + GAP, side, 118)
    return canvas.image


@dataclass(frozen=True)
class Figure:
    """One figure of a card's headline, as people read it; `judgement` is good, fair, poor, or "" if it is unknown."""

    text: str
    label: str
    judgement: str


def headline(card: ControlCard) -> list[Figure]:
    """What to look at first."""
    by_channel = card.measures["sign_accuracy"]["by_channel"]
    worst = min(by_channel, key=lambda channel: by_channel[channel] or 0).replace("_", " ")
    accuracy, least, gain = (card.number(name) for name in ("sign_accuracy", "worst_channel", "gain"))
    late, talk, drift = card.measures["lag"]["mean"], card.number("cross_talk"), card.number("null_drift")
    return [
        Figure(percent(accuracy), "control", judge_share(accuracy)),
        Figure(percent(least), f"worst: {worst}", _judge(least, 0.9, 0.6)),
        Figure(figure(gain), "gain, 1 is exact", _judge_near(gain, 1, 0.2, 0.5)),
        Figure(figure(late, 1), "latent frames late", _judge_low(late, 0.5, 1.5)),
        Figure(percent(talk), "cross-talk", _judge_low(talk, 0.08, 0.2)),
        Figure(percent(drift), "drift at rest", _judge_low(drift, 0.1, 0.35)),
    ]


def how_measured(card: ControlCard) -> list[str]:
    """On which model, from how much, and with which sampler."""
    settings = card.settings
    words = [
        f"{card.model.get('name', '')}",
        f"{'quick card, ' if card.is_quick else ''}{card.of_what} from {settings.get('first_frames')} first frames",
        f"{steps} step{'s' if steps > 1 else ''}" if (steps := settings.get("num_inference_steps")) else "",
        f"guidance {settings.get('guidance_scale'):g}" if settings.get("guidance_scale") else "",
    ]
    return [word for word in words if word]


def at_rest(card: ControlCard) -> list[tuple[str, str]]:
    """What the picture does without keys, on the way back, and where controls are mixed up: (name, words)."""
    drift, back, worst = (card.measures[name] for name in ("null_drift", "out_and_back", "cross_talk"))
    # Adding zero takes the sign off a rounded nothing.
    across, down, growth = (
        f"{round(drift['percent'][name], 1) + 0.0:+.1f}%" for name in ("horizontal", "vertical", "expansion")
    )
    mixed = worst["worst"]
    return [
        ("drift per latent frame", f"{across} across, {down} down, {growth} growth"),
        ("out-and-back error", f"{figure(back['mean'])}  (0 returns, 1 never turns)"),
        ("strongest mix-up", f"{mixed['asked']} as {mixed['seen']}  {figure(mixed['share'])}".replace("_", " ")),
    ]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _headline(canvas: Canvas, card: ControlCard) -> None:
    theme, figures = canvas.theme, headline(card)
    canvas.text(MARGIN, 34, "Control card", 11, theme.faint)
    canvas.text(MARGIN, 58, card.title or "checkpoint", 22)
    canvas.text(MARGIN, 86, "  ·  ".join(how_measured(card)), 11, theme.faint)
    width = 112
    x = WIDTH - MARGIN - width * len(figures)
    for one in figures:
        colour = {"good": theme.good, "fair": theme.fair, "poor": theme.poor}.get(one.judgement, theme.faint)
        canvas.text(x + width / 2, 52, one.text, 25, colour, "mm")
        canvas.text(x + width / 2, 78, one.label, 10.5, theme.faint, "mm")
        x += width


def _judge(value: float | None, good: float, fair: float) -> str:
    return "" if value is None else "good" if value >= good else "fair" if value >= fair else "poor"


def judge_share(share: float | None) -> str:
    """What to think of the control of one channel: good, fair or poor, "" if it is unknown."""
    return _judge(share, 0.95, 0.7)


def _judge_low(value: float | None, good: float, fair: float) -> str:
    return "" if value is None else _judge(-value, -good, -fair)


def _judge_near(value: float | None, best: float, good: float, fair: float) -> str:
    return "" if value is None else _judge_low(abs(value - best), good, fair)


def _channels(canvas: Canvas, measures: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
    """A row for each channel: how often it is right, and how it answers."""
    theme = canvas.theme
    canvas.panel(
        x, y, width, height, "Each channel alone", "share of first frames from which the picture goes the right way"
    )
    bar, left = 190, x + 96
    columns = [left + bar + 82 + i * 54 for i in range(4)]
    head = y + 46
    for place, words in zip([*columns], ("gain", "R2", "lag", "sep."), strict=True):
        canvas.text(place, head, words, 10, theme.faint, "mm")
    canvas.text(left + bar / 2, head, "chance", 9.5, theme.faint, "mm")
    doses, lags, apart = measures["dose_response"]["by_channel"], measures["lag"]["by_channel"], measures["separation"]
    for i, channel in enumerate(CHANNELS):
        row = y + 68 + i * 27.5
        share = measures["sign_accuracy"]["by_channel"][channel]
        judgement = judge_share(share)
        canvas.text(left - 10, row, WORDS[i], 11.5, anchor="rm")
        canvas.box(left, row - 7, bar, 14, theme.line, 3)
        canvas.box(
            left,
            row - 7,
            bar * (share or 0),
            14,
            {"good": theme.good, "fair": theme.fair}.get(judgement, theme.poor),
            3,
        )
        canvas.line([(left + bar * CHANCE, row - 10), (left + bar * CHANCE, row + 10)], theme.ink, 0.75)
        canvas.text(left + bar + 12, row, percent(share), 11.5)
        texts = (
            figure(doses[channel]["gain"]),
            figure(doses[channel]["linearity_r2"]),
            figure(lags[channel], 0),
            percent(apart["by_channel"][channel]),
        )
        for place, words in zip(columns, texts, strict=True):
            canvas.text(place, row, words, 11.5, anchor="mm")


def _cross_talk(canvas: Canvas, measures: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
    """Asked down, seen across: a faithful model has the diagonal alone."""
    theme = canvas.theme
    canvas.panel(x, y, width, height, "Cross-talk", "asked in rows, seen in columns, 1 = its own full deflection")
    left, top, cell_width, cell = x + 92, y + 66, (width - 92 - 16) / 8, 26
    for i, words in enumerate(WORDS):
        short = {"forward": "fwd"}.get(words, words)
        canvas.text(left + (i + 0.5) * cell_width, top - 14, short, 9, theme.faint, "mm")
        canvas.text(left - 8, top + (i + 0.5) * cell, words, 11, anchor="rm")
        for j, value in enumerate(measures["cross_talk"]["matrix"][i]):
            place = (left + j * cell_width + 1, top + i * cell + 1, cell_width - 2, cell - 2)
            canvas.box(*place, _heat(canvas, value or 0), 3)
            if value is None:
                canvas.text(place[0] + place[2] / 2, place[1] + place[3] / 2, "-", 10, theme.faint, "mm")
            elif value >= 0.05 or i == j:
                ink = theme.ground if value > 0.55 else theme.ink
                canvas.text(place[0] + place[2] / 2, place[1] + place[3] / 2, f"{value:.2f}", 10, ink, "mm")


def _heat(canvas: Canvas, value: float) -> str:
    share = min(max(value, 0), 1) ** 0.8
    low, high = canvas.theme.heat
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _doses(canvas: Canvas, measures: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
    """Asked across, answered up: the grey line is exact."""
    theme = canvas.theme
    flown = any(entry["linearity_r2"] is not None for entry in measures["dose_response"]["by_channel"].values())
    note = "five magnitudes asked, in full deflections" if flown else "full deflection alone was flown"
    canvas.panel(x, y, width, height, "Dose response", f"{note}; dashed is exact")
    inverse = (measures.get("idm") or {}).get("dose_response")
    canvas.text(x + width - 14, y + 19, "optical flow", 10, theme.flow, "rm")
    if inverse:
        canvas.text(x + width - 84, y + 19, "inverse dynamics model", 10, theme.inverse, "rm")
    doses = measures["dose_response"]["doses"]
    wide, tall = (width - 28 - 3 * 18) / 4, 124
    for i, channel in enumerate(CHANNELS):
        left, top = x + 14 + (i // 2) * (wide + 18), y + 56 + (i % 2) * (tall + 34)
        entry = measures["dose_response"]["by_channel"][channel]
        canvas.text(left, top - 10, WORDS[i], 11)
        gain = entry["gain"]
        canvas.text(left + wide, top - 10, "no scale" if gain is None else f"gain {gain:.2f}", 10, theme.faint, "rm")
        plot = Plot(canvas, left, top, wide, tall, (0, -0.5), (doses[-1], 1.6))
        canvas.box(left, top, wide, tall, theme.ground, 3)
        plot.level(0, theme.line)
        canvas.dashes(*plot.at(0, 0), *plot.at(doses[-1], doses[-1]), theme.faint)
        if inverse:
            plot.curve(list(zip(doses, inverse["by_channel"][channel]["response"], strict=True)), theme.inverse, 1.8)
        plot.curve(list(zip(doses, entry["response"], strict=True)), theme.flow, 2.4)


def _over_time(canvas: Canvas, measures: dict[str, Any], x: float, y: float, width: float, height: float) -> None:
    theme = canvas.theme
    canvas.panel(x, y, width, height, "The picture over time", "latent frames")
    for i, (name, words, high) in enumerate(
        (("sharpness", "sharpness, 1 is as sharp", 1.4), ("colour", "colour shift, CIELAB", 12))
    ):
        entry, top = measures[name], y + 54 + i * 82
        canvas.text(x + 14, top - 10, words, 10.5, theme.faint)
        canvas.text(x + width - 14, top - 10, f"ends at {figure(entry['end'], 2 if not i else 1)}", 10.5, anchor="rm")
        plot = Plot(canvas, x + 14, top, width - 28, 54, (0, 0), (max(len(entry["held"]) - 1, 1), high))
        canvas.box(plot.x, plot.y, plot.width, plot.height, theme.ground, 3)
        plot.level(1.0 if not i else 2.3, theme.line)
        plot.curve(list(enumerate(entry["rest"])), theme.faint)
        plot.curve(list(enumerate(entry["held"])), theme.flow)
    canvas.text(x + 14, y + height - 10, "flown", 10, theme.flow)
    canvas.text(x + 50, y + height - 10, "at rest", 10, theme.faint)


def _rest(canvas: Canvas, card: ControlCard, x: float, y: float, width: float, height: float) -> None:
    theme = canvas.theme
    canvas.panel(x, y, width, height, "At rest, and back again")
    for i, (words, value) in enumerate(at_rest(card)):
        canvas.text(x + 14, y + 46 + 25 * i, words, 10.5, theme.faint)
        canvas.text(x + width - 14, y + 46 + 25 * i, value, 10.5, anchor="rm")
