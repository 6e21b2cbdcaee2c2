"""A picture of what four controls do."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from train.commands.evaluate.starts import FirstFrame, first_frames
from train.commands.evaluate.tables import add_common
from wanact import shapes
from wanact.actions import ActionTrack, channel_track
from wanact.errors import UserError
from wanact.files import place
from wanact.flying.pipeline import WanActPipeline
from wanact.media import video

# Rows of the grid: a channel and the fraction of full deflection at which it is held. The drone looks down by 26
# degrees at most, which full deflection reaches after 9 of 20 actions.
GRID_ROWS = {
    "no action": None,
    "forward": ("forward", 1.0),
    "yaw right": ("yaw_right", 1.0),
    "pitch down": ("pitch_down", 0.4),
}
GRID_COLUMNS = 5


def add(commands: Any) -> None:
    parser = add_common(commands.add_parser("grid", help="a picture of what four controls do"), _evaluate_grid)
    parser.add_argument("--out", type=place, required=True, help="PNG to write")
    parser.add_argument("--run_dir", type=place, help="run or checkpoint; the base if not given")
    parser.add_argument("--world", type=int, default=0, help="held-out world, from 0")
    parser.add_argument("--image", type=place, help="first frame instead of a world's")
    parser.add_argument("--prompt", default="", help="its description")
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if not given")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if not given")
    parser.add_argument("--seed", type=int, default=0)


def _evaluate_grid(args: argparse.Namespace) -> None:
    count, clips = shapes.num_actions(args.num_frames), {}
    if args.world < 0:
        raise UserError(f"--world {args.world} must be at least 0")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps {args.steps} must be at least 1")
    image = None if args.image is None else video.open_image(args.image)
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    pipe.load_controller(args.run_dir)
    if image is not None:
        start = FirstFrame(image, args.prompt, args.seed)
    else:
        height, width = pipe.defaults["height"], pipe.defaults["width"]
        *_, start = first_frames(args.world + 1, height, width)
    for label, held in tqdm(GRID_ROWS.items(), desc="clips"):
        track = ActionTrack.zeros(count) if held is None else channel_track(held[0], count, held[1])
        clips[label] = pipe(
            start.prompt,
            start.image,
            track if pipe.controller is not None else None,
            num_frames=args.num_frames,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            seed=args.seed,
        )
    draw_grid(clips, np.linspace(0, args.num_frames - 1, GRID_COLUMNS).round().astype(int)).save(args.out)
    print(f"wrote {args.out}")


def draw_grid(
    clips: dict[str, np.ndarray], columns: Iterable[int], gap: int = 4, labels: Sequence[str] | None = None
) -> Image.Image:
    """Frames of several clips as a labelled table.

    Args:
        clips: label -> uint8 [F, H, W, 3], a row each.
        columns: frame numbers; 0 is labelled as the first frame.
        gap: white pixels between pictures.
        labels: of the columns, instead of their numbers.
    """
    columns = list(columns)
    labels = labels or ["first frame" if number == 0 else f"frame {number}" for number in columns]
    height, width = next(iter(clips.values())).shape[1:3]
    font_size = max(12, height // 7)
    font = ImageFont.load_default(size=font_size)
    side = gap + max(round(font.getlength(label)) for label in clips) + 2 * gap
    top = 2 * gap + round(1.3 * font_size)
    size = (side + len(columns) * (width + gap), top + len(clips) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for c, label in enumerate(labels):
        pen.text((side + c * (width + gap) + width / 2, top / 2), label, "black", font, anchor="mm")
    for r, (label, frames) in enumerate(clips.items()):
        y = top + r * (height + gap)
        pen.text((side - 2 * gap, y + height / 2), label, "black", font, anchor="rm")
        for c, number in enumerate(columns):
            sheet.paste(Image.fromarray(frames[number]), (side + c * (width + gap), y))
    return sheet
