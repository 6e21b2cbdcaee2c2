"""A speed card as a picture: one bar of stages, and one for each pipeline it was compared with. SVG, no library."""

from __future__ import annotations

import statistics
from html import escape
from typing import Any

STAGES = {"text": "#8d99ae", "encode": "#f2b134", "denoise": "#3f88c5", "decode": "#44bba4", "write": "#9b5de5"}
RIVALS = {"diffusers": "diffusers, same type", "diffusers_default": "diffusers, float32"}
WIDTH, BAR, GAP, LEFT = 760, 30, 18, 170


def speed_plot(result: dict[str, Any]) -> str:
    """The SVG of a result of `python -m wanact bench clip`."""
    bars = [("WanAct", [(name, result[f"seconds_{name}"]) for name in STAGES])]
    for key, label in RIVALS.items():
        if runs := result.get(f"seconds_{key}_runs"):
            bars.append((label, [("", statistics.median(runs))]))
    longest = max(sum(seconds for _, seconds in parts) for _, parts in bars)
    scale = (WIDTH - LEFT - 90) / longest
    body, y = [], 64
    for label, parts in bars:
        body.append(_text(LEFT - 10, y + 20, label, anchor="end"))
        x = float(LEFT)
        for name, seconds in parts:
            width = seconds * scale
            title = escape(f"{name or label}: {seconds:.3f} s")
            fill = STAGES.get(name, "#c0c6cf")
            place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"'
            body.append(f'<rect {place} fill="{fill}"><title>{title}</title></rect>')
            x += width
        body.append(_text(x + 8, y + 20, f"{sum(seconds for _, seconds in parts):.2f} s"))
        y += BAR + GAP
    x = float(LEFT)
    for name, fill in STAGES.items():
        body.append(f'<rect x="{x:.1f}" y="{y}" width="12" height="12" fill="{fill}"/>')
        body.append(_text(x + 17, y + 11, name))
        x += 30 + 9 * len(name)
    title = (
        f"{result['num_frames']} frames of {result['width']}x{result['height']}, "
        f"{result['num_inference_steps']} steps, {result['dtype']}, {result['device']}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 32}" '
        f'font-family="system-ui, sans-serif" font-size="14"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, _text(20, 34, title, size=16), *body, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 14) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
