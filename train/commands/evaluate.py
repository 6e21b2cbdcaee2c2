"""`python -m train evaluate vae|control|live|grid`: what a model is worth, on worlds that training never sees.

Every measure prints a table and, with `--json FILE`, writes the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from train.commands import evaluate_idm
from train.data import csv
from wanact import shapes
from wanact.actions import CHANNELS, ActionTrack, channel_track
from wanact.control_card.control import Control, measure_control
from wanact.control_card.live import measure_live
from wanact.control_card.motion import motion_track
from wanact.files import write_json
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream
from wanact.media import video
from wanact.media.likeness import blockiness, gradient_length, psnr_db, ssim
from wanact.models import vae as wan_vae
from wanact.runs import store
from wanact.weights import model_dir
from wanact.world import simulator, stills

HELD_OUT_SEED = 900_000  # worlds from here on are for measuring
ENDS = 16  # frames at both ends of a clip that are compared, to see a VAE drift
PHOTOGRAPH_SIZE = 96
PHOTOGRAPH_MOVES = 3

# Rows of the grid: a channel and the fraction of full deflection at which it is held. The drone looks down by 26
# degrees at most, which full deflection reaches after 9 of 20 actions.
GRID_ROWS = {
    "no action": None,
    "forward": ("forward", 1.0),
    "yaw right": ("yaw_right", 1.0),
    "pitch down": ("pitch_down", 0.4),
}
GRID_COLUMNS = 5


def main(argv: list[str] | None = None) -> int:
    """Measure a model on held-out worlds."""
    parser = argparse.ArgumentParser(prog="python -m train evaluate", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_vae, _add_control, _add_live, _add_grid):
        add(commands)
    evaluate_idm.add(commands, _show_idm)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


def _common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser.add_argument("--model_dir", type=Path, required=True, help="model directory, or for vae the VAE's folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(run=run)
    return parser


# Held-out data


@dataclass(frozen=True)
class FirstFrame:
    """Where a measured flight begins: the picture, its caption and the seed of world and noise."""

    image: Image.Image
    prompt: str
    seed: int


def first_frames(count: int, height: int, width: int) -> Iterator[FirstFrame]:
    """First frames of held-out worlds, at a place and altitude as flights of the data have."""
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
        clip = _held_out_flight(simulator.make_world(seed), seed, ActionTrack.zeros(1), height, width)
        yield FirstFrame(Image.fromarray(clip.frames[0]), clip.caption, seed - HELD_OUT_SEED)


def _held_out_flight(world: simulator.World, seed: int, track: ActionTrack, height: int, width: int) -> simulator.Clip:
    """A flight from this seed's place along a track."""
    num_frames = shapes.num_pixel_frames(len(track) + 1)
    return simulator.fly(world, np.random.default_rng([seed, 0]), num_frames, height, width, track)


def random_flights(count: int, num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Flights over held-out worlds, one a world, uint8 [F, H, W, 3]: those that `train simulate` writes."""
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
        rng = np.random.default_rng([seed, 0, 7])
        yield simulator.fly(simulator.make_world(seed), rng, num_frames, height, width).frames


def dataset_clips(folder: Path, count: int, num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Clips of a folder that `train simulate` wrote, uint8 [F, H, W, 3]."""
    for number, record in enumerate(csv.read_records(folder / "clips.csv")[:count], start=1):
        row = csv.parse_row(record, number, folder, num_frames, needs_action=False)
        yield csv.clip_frames(row, num_frames, height, width, "crop")


def photographs_in_motion(num_frames: int) -> Iterator[np.ndarray]:
    """Photographs that no training saw, under a moving camera, uint8 [F, 96, 96, 3]."""
    for number, picture in enumerate(stills.photographs(stills.HELD_OUT_PHOTOGRAPHS)):
        for move in range(PHOTOGRAPH_MOVES):
            rng = np.random.default_rng([HELD_OUT_SEED, number, move])
            yield stills.moving_crop(picture, rng, num_frames, PHOTOGRAPH_SIZE)


# VAE


def _add_vae(commands: Any) -> None:
    parser = _common(commands.add_parser("vae", help="how well clips survive encoding and decoding"), _evaluate_vae)
    parser.add_argument("--worlds", type=int, default=24, help="held-out flights, one a world")
    parser.add_argument("--dataset", type=Path, help="folder written by `train simulate` instead of new worlds")
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--json", type=Path, help="file for the numbers")


def _evaluate_vae(args: argparse.Namespace) -> None:
    vae = load_vae(args.model_dir).to(args.device)
    size = (args.num_frames, args.height, args.width)
    source = partial(dataset_clips, args.dataset) if args.dataset else random_flights
    clips = [quality(vae, clip) for clip in tqdm(source(args.worlds, *size), total=args.worlds, desc="flights")]
    pictures = [quality(vae, clip) for clip in tqdm(photographs_in_motion(args.num_frames), desc="photographs")]
    result = vae_summary(clips, pictures) | {"worlds": len(clips), "num_frames": args.num_frames}
    rows = [
        ("held-out worlds, all frames", result["psnr_db"], result["ssim"]),
        (f"  first {ENDS} frames", result["psnr_first16_db"], ""),
        (f"  last {ENDS} frames", result["psnr_last16_db"], ""),
        ("  worst clip", result["psnr_worst_clip_db"], ""),
        ("held-out photographs, moving", result["psnr_photographs_db"], result["ssim_photographs"]),
    ]
    print_table(("", "PSNR dB", "SSIM"), rows)
    seen = [(f"first frame's detail (worst {result['detail_frame0_worst_clip']:.3f})", result["detail_frame0"])]
    print_table(("", "of the original's"), [*seen, ("blockiness", result["blockiness"])])
    write_numbers(args.json, result)


def load_vae(path: Path) -> Any:
    """The VAE of a model directory, or of a folder that holds a VAE alone."""
    if (path / "config.json").is_file():
        return model_dir.load_part("vae", path)
    return model_dir.load_components(path, parts=("vae",)).vae


@dataclass(frozen=True)
class Quality:
    """Likeness of a clip to its original.

    Attributes:
        psnr_db, ssim: frame by frame, [F].
        detail_frame0: mean gradient length of the first frame, coded alone, over the original's.
        blockiness: steps across the grid of latents over those inside it, over the same of the original.
    """

    psnr_db: np.ndarray
    ssim: np.ndarray
    detail_frame0: float = 1.0
    blockiness: float = 1.0


@torch.no_grad()
def quality(vae: Any, frames: np.ndarray) -> Quality:
    """Encode and decode uint8 [F, H, W, 3], and compare."""
    pixels = video.to_tensor(frames)[None].to(vae.device)
    again = video.to_uint8(wan_vae.decode(vae, wan_vae.encode(vae, pixels))[0])
    first = video.to_uint8(wan_vae.decode(vae, wan_vae.encode(vae, pixels[:, :, :1]))[0])
    detail = gradient_length(first) / np.maximum(gradient_length(frames[:1]), 1e-6)
    blocks = blockiness(again, shapes.SPATIAL_STRIDE) / max(blockiness(frames, shapes.SPATIAL_STRIDE), 1e-6)
    return Quality(psnr_db(frames, again), ssim(frames, again), float(detail[0]), blocks)


def vae_summary(clips: Sequence[Quality], pictures: Sequence[Quality]) -> dict[str, float]:
    """Means over frames and clips; decibels are averaged, not errors."""
    psnr = np.stack([clip.psnr_db for clip in clips])
    values = {
        "psnr_db": psnr.mean(),
        "psnr_first16_db": psnr[:, :ENDS].mean(),
        "psnr_last16_db": psnr[:, -ENDS:].mean(),
        "psnr_worst_clip_db": psnr.mean(axis=1).min(),
        "ssim": np.mean([clip.ssim.mean() for clip in clips]),
        "psnr_photographs_db": np.mean([clip.psnr_db.mean() for clip in pictures]),
        "ssim_photographs": np.mean([clip.ssim.mean() for clip in pictures]),
        "detail_frame0": np.mean([clip.detail_frame0 for clip in clips]),
        "detail_frame0_worst_clip": min(clip.detail_frame0 for clip in clips),
        "blockiness": np.mean([clip.blockiness for clip in clips]),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


# Control


def _add_control(commands: Any) -> None:
    parser = _common(
        commands.add_parser("control", help="whether the picture moves as the keys say"), _evaluate_control
    )
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="runs or checkpoints")
    parser.add_argument("--checkpoints", choices=("all", "best", "latest"), default="all", help="which of a run's")
    parser.add_argument("--first_frames", type=int, default=20)
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if not given")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if not given")
    parser.add_argument("--num_frames", type=int, default=41, help="of each clip")
    parser.add_argument("--simulator", action="store_true", help="measure the simulator's own flights as well")
    parser.add_argument("--json", type=Path, help="file for the numbers")


def _evaluate_control(args: argparse.Namespace) -> None:
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    height, width = pipe.defaults["height"], pipe.defaults["width"]
    found = [checkpoint for run in args.runs for checkpoint in chosen_checkpoints(run, args.checkpoints)]
    starts = list(first_frames(args.first_frames, height, width))
    settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}
    result: dict[str, Any] = {
        "num_frames": args.num_frames,
        "num_inference_steps": args.steps or pipe.defaults["num_inference_steps"],
        "guidance_scale": args.guidance or pipe.defaults["guidance_scale"],
        "checkpoints": [],
    }

    def measure(name: str, path: Path | None) -> dict[str, Any]:
        pipe.load_controller(path)
        with tqdm(desc=name, unit="clip") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(1)

            images, prompts, seeds = ([s.image for s in starts], [s.prompt for s in starts], [s.seed for s in starts])
            control = measure_control(pipe, images, prompts, seeds, args.num_frames, show, **settings)
        return {"checkpoint": name} | control.summary()

    if args.simulator:
        flown = simulator_control(args.first_frames, args.num_frames, height, width)
        result["simulator"] = {"checkpoint": "simulator"} | flown.summary()
    result["base"] = measure("base", None)
    write_numbers(args.json, result)
    for name, path in found:
        result["checkpoints"].append(measure(name, path))
        result["best"] = best_of(result["checkpoints"])
        write_numbers(args.json, result)  # after each, so that a stopped measurement keeps what it has
    print_control(result)


def chosen_checkpoints(run: Path, which: str) -> list[tuple[str, Path]]:
    """Names and folders of a run's sound checkpoints (all, best or latest), or of the one that is named itself."""
    infos = [info for info in store.list_checkpoints(run) if info.problem is None]
    wanted = [info for info in infos if which == "all" or info.is_named(which)]
    if wanted:
        return [(info.id, info.path) for info in sorted(wanted, key=lambda i: i.step)]
    ref = store.ref_of(folder := store.resolve(run))
    return [(ref.run if ref.step is None else ref.id, folder)]


def best_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint whose worst channel is best; among equals by the mean, then the latest."""
    return max(enumerate(results), key=lambda r: (r[1]["min_sign_accuracy"], r[1]["mean_sign_accuracy"], r[0]))[1]


def simulator_control(count: int, num_frames: int, height: int, width: int) -> Control:
    """The same measure on the simulator's own flights from the same first frames: what a perfect model would get."""
    motion = []
    for seed in tqdm(range(HELD_OUT_SEED, HELD_OUT_SEED + count), desc="simulator", unit="world"):
        world = simulator.make_world(seed)
        tracks = [channel_track(channel, shapes.num_actions(num_frames)) for channel in CHANNELS]
        clips = [_held_out_flight(world, seed, track, height, width) for track in tracks]
        motion.append([motion_track(clip.frames).mean(axis=0) for clip in clips])
    return Control(np.array(motion))


def print_control(result: dict[str, Any]) -> None:
    """Sign accuracies, and the motion behind them, of everything that was measured."""
    measured = [result[name] for name in ("simulator", "base") if name in result] + result["checkpoints"]
    summary = ("min_sign_accuracy", "mean_sign_accuracy")
    print("\nSign accuracy: share of first frames from which the picture moved the right way")
    rows = [(m["checkpoint"], *(m[s] for s in summary), *m["sign_accuracy"].values()) for m in measured]
    print_table(("", "min", "mean", *CHANNELS), rows)
    print("\nMotion the right way in percent per latent frame: of the width, or growth for forward and back")
    rows = [(m["checkpoint"], *(100 * value for value in m["response"].values())) for m in measured]
    print_table(("", *CHANNELS), rows)
    if "best" in result:
        print(f"\nbest: {result['best']['checkpoint']}")


# Live


def _add_live(commands: Any) -> None:
    parser = _common(commands.add_parser("live", help="whether long flights go as the keys say"), _evaluate_live)
    parser.add_argument("--run_dir", type=Path, required=True, help="causal run or checkpoint")
    parser.add_argument("--first_frames", type=int, default=20)
    parser.add_argument("--latent_frames", type=int, default=200, help="of each flight")
    parser.add_argument("--json", type=Path, help="file for the numbers")


def _evaluate_live(args: argparse.Namespace) -> None:
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    pipe.load_controller(args.run_dir)
    starts = list(first_frames(args.first_frames, pipe.defaults["height"], pipe.defaults["width"]))

    def begin(number: int) -> WanActStream:
        start = starts[number]
        return WanActStream(pipe, start.image, start.prompt, start.seed)

    with tqdm(desc="flights", unit=" latent frames") as bar:
        result = measure_live(begin, len(starts), args.latent_frames, lambda: bar.update(1)).summary()
    write_numbers(args.json, result | {"checkpoint": f"{args.run_dir}", "latent_frames": args.latent_frames})
    rows = [(name, *result[name].values()) for name in ("sign_accuracy", "sign_accuracy_late", "response")]
    print_table(("", *CHANNELS), rows)
    pairs = result["out_and_back_psnr_db"]
    print_table(
        ("out and back, dB", "mean", "least"), [(p, pairs[p], result["out_and_back_least_db"][p]) for p in pairs]
    )


# Inverse dynamics


def _show_idm(result: dict[str, Any], path: Path | None) -> None:
    axes = {name: values for name, values in result.items() if isinstance(values, dict)}
    columns = ("mean_error", "mean_error_of_full", "sign_accuracy", "gain", "r2")
    print_table(("", *columns), [(axis, *(values[name] for name in columns)) for axis, values in axes.items()])
    write_numbers(path, result)


# Grid


def _add_grid(commands: Any) -> None:
    parser = _common(commands.add_parser("grid", help="a picture of what four controls do"), _evaluate_grid)
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--run_dir", type=Path, help="run or checkpoint; the base if not given")
    parser.add_argument("--world", type=int, default=0, help="held-out world, from 0")
    parser.add_argument("--image", type=Path, help="first frame instead of a world's")
    parser.add_argument("--prompt", default="", help="its description")
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if not given")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if not given")
    parser.add_argument("--seed", type=int, default=0)


def _evaluate_grid(args: argparse.Namespace) -> None:
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    pipe.load_controller(args.run_dir)
    if args.image is not None:
        start = FirstFrame(video.open_image(args.image), args.prompt, args.seed)
    else:
        height, width = pipe.defaults["height"], pipe.defaults["width"]
        *_, start = first_frames(args.world + 1, height, width)
    count, clips = shapes.num_actions(args.num_frames), {}
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


def draw_grid(clips: dict[str, np.ndarray], columns: Iterable[int], gap: int = 4) -> Image.Image:
    """Frames of several clips as a labelled table.

    Args:
        clips: label -> uint8 [F, H, W, 3], a row each.
        columns: frame numbers; 0 is labelled as the first frame.
        gap: white pixels between pictures.
    """
    columns = list(columns)
    height, width = next(iter(clips.values())).shape[1:3]
    font_size = max(12, height // 7)
    font = ImageFont.load_default(size=font_size)
    side = gap + max(round(font.getlength(label)) for label in clips) + 2 * gap
    top = 2 * gap + round(1.3 * font_size)
    size = (side + len(columns) * (width + gap), top + len(clips) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for c, number in enumerate(columns):
        label = "first frame" if number == 0 else f"frame {number}"
        pen.text((side + c * (width + gap) + width / 2, top / 2), label, "black", font, anchor="mm")
    for r, (label, frames) in enumerate(clips.items()):
        y = top + r * (height + gap)
        pen.text((side - 2 * gap, y + height / 2), label, "black", font, anchor="rm")
        for c, number in enumerate(columns):
            sheet.paste(Image.fromarray(frames[number]), (side + c * (width + gap), y))
    return sheet


# Output


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print columns, the first to the left and numbers to the right."""
    texts = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def write_numbers(path: Path | None, result: dict[str, Any]) -> None:
    """Write the numbers, if a file was named."""
    if path is not None:
        write_json(path, result)
