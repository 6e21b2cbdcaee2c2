"""How well clips survive encoding and decoding."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from train.commands.evaluate.starts import HELD_OUT_SEED
from train.commands.evaluate.tables import add_common, print_table, write_numbers
from train.data import csv
from wanact import shapes
from wanact.files import place
from wanact.media import video
from wanact.media.likeness import blockiness, gradient_length, psnr_db, ssim
from wanact.models import vae as wan_vae
from wanact.weights import model_dir
from wanact.world import simulator, stills

ENDS = 16  # frames at both ends of a clip that are compared, to see a VAE drift
PHOTOGRAPH_SIZE = 96
PHOTOGRAPH_MOVES = 3


def add(commands: Any) -> None:
    parser = add_common(commands.add_parser("vae", help="how well clips survive encoding and decoding"), _evaluate_vae)
    parser.add_argument("--worlds", type=int, default=24, help="held-out flights, one a world")
    parser.add_argument("--dataset", type=place, help="folder written by `train simulate` instead of new worlds")
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--json", type=place, help="file for the numbers")


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
