"""What an inverse dynamics model with a mask reads, how much of the picture it needs, and where it looks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from train.commands.evaluate.tables import print_table, write_numbers
from train.data import csv
from train.stages.idm_mask import targets_of
from wanact.data import episodes
from wanact.files import place
from wanact.models.masked_idm import MaskedInverseDynamics, load_masked_idm, resized
from wanact.shapes import num_latent_frames

SHOWN = (6, 3)  # clips of the picture, and frames of each
DARK = 0.2  # of what lies outside of the mask


def add(commands: Any) -> None:
    parser = commands.add_parser("idm_mask", help="how well actions are read through a mask, and where it looks")
    parser.add_argument("--idm", type=place, required=True, help="idm.pt, or a folder that `train idm_mask` exported")
    parser.add_argument("--dataset", type=place, required=True, help="manifest.json(l) or clips.csv, held out")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=96, help="to which clips are fitted, as in training")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--fit", choices=("crop", "pad"), default="crop")
    parser.add_argument("--fps", type=float, help="frames a second; 10 of episodes and 16 of a table if not given")
    parser.add_argument("--picture", type=place, help="file for a picture of masks")
    parser.add_argument("--json", type=place, help="file for the numbers")

    def run(args: argparse.Namespace) -> None:
        result = measure(load_masked_idm(args.idm), args)
        rows = [(name, value) for name, value in result.items() if name != "clips"]
        print_table(("", "mean error in deviations, or share"), rows)
        write_numbers(args.json, result)

    parser.set_defaults(run=run)


@torch.no_grad()
def measure(model: MaskedInverseDynamics, args: argparse.Namespace) -> dict[str, Any]:
    """Errors over held-out clips, in standard deviations of the data that the model was trained on.

    Returns:
        `with_mask`, what the model reads; `whole_picture`, what its reader makes of pictures that nothing is taken
        from; `mean_alone`, if it answered the mean of its data; `mask_mean`, and `seen`, the share of pixels at which
        the mask is at least 0.5.
    """
    num_latent_frames(args.num_frames)
    sums: list[list[float]] = []
    rows: list[np.ndarray] = []
    for frames, row in _clips(model, args):
        starts = np.array(model.window_starts(len(frames)))
        small = resized(frames, model.config.height, model.config.width)
        targets = torch.from_numpy(targets_of(row, starts, model.config.action_dim))
        pictures = [small[start : start + model.config.frames] for start in starts]
        masks = []
        for i in range(0, len(starts), 8):
            seen = model.as_input(torch.from_numpy(np.stack(pictures[i : i + 8])).float() / 255)
            answer, mask = model(seen)
            whole = model.model.resnet_model(seen) * model.train_std + model.train_mean
            wanted = targets[i : i + 8]
            errors = [_error(guess, wanted, model) for guess in (answer, whole, model.train_mean.expand_as(wanted))]
            sums.append([len(wanted), *errors, float(mask.mean()), float((mask >= 0.5).float().mean())])
            masks.append(mask)
        if len(rows) < SHOWN[0]:
            chosen = np.linspace(0, len(starts) - 1, SHOWN[1]).astype(int)
            centre = model.config.frames // 2
            shown = [masked(frames[starts[i] + centre], torch.cat(masks)[i]) for i in chosen]
            rows.append(np.concatenate(shown, axis=1))
    if not sums:
        raise csv.DataError(f"{args.dataset} has no clip that can be used")
    counts = np.array(sums)
    means = (counts[:, 1:] * counts[:, :1]).sum(axis=0) / counts[:, 0].sum()
    if args.picture:
        Image.fromarray(np.concatenate(rows)).save(args.picture)
    names = ("with_mask", "whole_picture", "mean_alone", "mask_mean", "seen")
    return {"clips": args.clips, **dict(zip(names, map(float, means), strict=True))}


def _clips(model: MaskedInverseDynamics, args: argparse.Namespace) -> Iterator[tuple[np.ndarray, csv.Row]]:
    is_manifest = episodes.is_manifest(args.dataset)
    fps = args.fps or (episodes.FPS if is_manifest else csv.FPS)
    records = episodes.Manifest(args.dataset, fps) if is_manifest else csv.read_records(args.dataset)
    controls = model.config.frames > 1
    for number in range(min(args.clips, len(records))):
        try:
            row = csv.parse_row(records[number], number + 1, args.dataset.parent, args.num_frames, controls)
            yield csv.clip_frames(row, args.num_frames, args.height, args.width, args.fit, fps), row
        except (ValueError, OSError) as error:
            print(f"clip {number + 1} is left out: {error}")


def _error(guess: Tensor, wanted: Tensor, model: MaskedInverseDynamics) -> float:
    return float(((guess - wanted) / model.train_std).abs().mean())


def masked(frame: np.ndarray, mask: Tensor) -> np.ndarray:
    """A frame uint8 [H, W, 3] whose parts outside of a mask [1, h, w] are dark, as the reader sees it: uint8."""
    whole = F.interpolate(mask[None].float(), frame.shape[:2], mode="bilinear")[0, 0]
    light = np.where(whole.numpy() >= 0.5, 1.0, DARK)[..., None]
    return np.rint(frame * light).astype(np.uint8)
