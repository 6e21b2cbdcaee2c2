"""`python -m train simulate`: a data set of random flights in the format of real data."""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train.data.csv import FPS
from train.data.importers.selftest import DJI_FPS, dji_subtitles
from wanact.actions import ActionTrack
from wanact.data import episodes
from wanact.errors import UserError
from wanact.files import CheckpointError, place, read_json, replacing, write_text
from wanact.media.video import write_mp4
from wanact.shapes import num_actions
from wanact.world import simulator
from wanact.world.poses import pose_matrix

LARGEST_SIZE = 4096
FORMATS = ("table", "episodes", "dji")


def main(argv: list[str] | None = None) -> None:
    """Write random flights: lossless mp4, their actions and poses. What is there is kept, so that it can go on."""
    parser = argparse.ArgumentParser(prog="python -m train simulate", description=main.__doc__)
    parser.add_argument("--out", type=place, help="folder to write; existing clips are kept")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="clips.csv; manifest.jsonl and a folder an episode; or videos with subtitles as DJI's drones write them",
    )
    parser.add_argument("--sheet", type=place, help="write one picture of all biomes and hours instead")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--clips_per_world", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="first world seed; worlds are seed, seed + 1, ...")
    parser.add_argument("--returns", type=float, default=0.0, help="share of flights that come back, 0 to 1")
    parser.add_argument("--num_frames", type=int, default=81, help="of each clip; 1 for pictures that nobody flies")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    args = parser.parse_args(argv)
    if args.sheet:
        simulator.contact_sheet(args.seed).save(args.sheet)
        return
    if args.out is None:
        parser.error("give --out FOLDER, or --sheet PICTURE")
    for name in ("height", "width"):  # H.264 takes even sizes
        if not 2 <= getattr(args, name) <= LARGEST_SIZE or getattr(args, name) % 2:
            raise UserError(f"--{name} {getattr(args, name)} must be an even number of pixels from 2 to {LARGEST_SIZE}")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed} must be at least 0")
    num_actions(args.num_frames)  # raises unless whole latent frames
    if args.num_frames == 1 and args.format != "table":
        raise UserError(f"--num_frames 1 is a picture; --format {args.format} takes flights, of 5 frames and more")
    for name in ("clips", "clips_per_world", "workers"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be at least 1")
    if not 0 <= args.returns <= 1:
        raise UserError(f"--returns {args.returns} must be a share from 0 to 1")
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    with tqdm(total=args.clips, unit="clip", mininterval=1.0, smoothing=0) as bar:
        for written, num_kept in _all_worlds(args):
            rows += written
            bar.initial += num_kept  # they took no time, and the time left is reckoned without them
            bar.update(len(written))
    if args.format == "episodes":
        lengths = ((str(Path(row["video"]).parent), args.num_frames) for row in rows)
        episodes.write_manifest(args.out / "manifest.jsonl", lengths)
        return
    if args.format == "dji":  # footage has no table; `import` writes one
        return
    table = args.out / "clips.csv"
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["video", "prompt", "action"])
        writer.writeheader()
        writer.writerows(rows)


def _all_worlds(args: argparse.Namespace) -> Iterator[tuple[list[dict[str, str]], int]]:
    """The rows of each world in their order, and how many of its clips were there before."""
    fly = partial(_fly_world, args=args)
    count = -(-args.clips // args.clips_per_world)
    if args.workers <= 1:
        yield from map(fly, range(count))
        return
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(fly, range(count))


def _fly_world(number: int, args: argparse.Namespace) -> tuple[list[dict[str, str]], int]:
    """Fly the clips of one world that are not there yet; the rows of all, and how many were there."""
    seed, world = args.seed + number, None
    rows, num_kept = [], 0
    for take in range(min(args.clips_per_world, args.clips - number * args.clips_per_world)):
        name = f"videos/world{seed:06d}-{take}{'.MP4' if args.format == 'dji' else '.mp4'}"
        if args.format == "episodes":
            name = f"{episodes.folder_of(number * args.clips_per_world + take + 1)}/{episodes.VIDEO}"
        notes = (args.out / name).with_suffix(".json")
        notes.parent.mkdir(parents=True, exist_ok=True)
        record = _read_notes(notes)
        num_kept += record is not None
        if record is None:
            world = world or simulator.make_world(seed)
            clip = _write_clip(world, np.random.default_rng([seed, take, 7]), args.out / name, args)
            record = {"prompt": world.caption, "action": clip[0].to_list(), "poses": clip[1].round(6).tolist()}
            write_text(notes, json.dumps(record))
        rows.append({"video": name, "prompt": record["prompt"], "action": json.dumps(record["action"])})
    return rows, num_kept


def _write_clip(
    world: simulator.World, rng: np.random.Generator, video: Path, args: argparse.Namespace
) -> tuple[ActionTrack, np.ndarray]:
    """Fly a clip and write it in the format that is asked for; its track and its poses, 16 a second."""
    if args.format == "dji":
        return _write_as_dji(world, rng, video, args)
    clip = simulator.fly(world, rng, args.num_frames, args.height, args.width, returns=args.returns)
    write_mp4(clip.frames, video, fps=episodes.FPS if args.format == "episodes" else FPS, lossless=True)
    if args.format == "episodes":
        episodes.write_actions(video.parent, clip.track, clip.caption)
    return clip.track, clip.poses


def _write_as_dji(
    world: simulator.World, rng: np.random.Generator, video: Path, args: argparse.Namespace
) -> tuple[ActionTrack, np.ndarray]:
    """The flight of the other formats, filmed 30 times a second, compressed, with its place and gimbal as subtitles."""
    flown = np.array(simulator.fly_poses(world, rng, args.num_frames, returns=args.returns))
    known = np.arange(len(flown)) / FPS
    seconds = np.arange(math.ceil(known[-1] * DJI_FPS - 1e-6) + 1) / DJI_FPS
    x, y, altitude, yaw, pitch = ([float(v) for v in np.interp(seconds, known, column)] for column in flown.T)
    poses = list(zip(x, y, altitude, yaw, pitch, strict=True))
    write_mp4((simulator.render(world, pose, args.height, args.width) for pose in poses), video, DJI_FPS)
    write_text(video.with_suffix(".SRT"), dji_subtitles(seconds, np.stack([pose_matrix(pose) for pose in poses])))
    matrices = np.stack([pose_matrix(pose) for pose in flown])
    return simulator.actions_from_poses(matrices), matrices


def _read_notes(path: Path) -> dict[str, Any] | None:
    """Words and actions of a clip that is there; None if it is not, or was not written to its end."""
    try:
        record = read_json(path)
    except CheckpointError:
        return None
    return record if {"prompt", "action"} <= record.keys() else None
