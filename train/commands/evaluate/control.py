"""Whether the picture moves as the keys say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train.commands.evaluate.starts import HELD_OUT_SEED, first_frames, held_out_flight
from train.commands.evaluate.tables import add_common, print_table, write_numbers
from wanact import shapes
from wanact.actions import CHANNELS, channel_track
from wanact.control_card.control import Control, measure_control
from wanact.data.motion import motion_track
from wanact.files import place
from wanact.flying.pipeline import WanActPipeline
from wanact.runs import store
from wanact.runs.check import flight_files
from wanact.world import simulator


def add(commands: Any) -> None:
    parser = add_common(
        commands.add_parser("control", help="whether the picture moves as the keys say"), _evaluate_control
    )
    parser.add_argument("--runs", type=place, nargs="+", default=[], help="runs or checkpoints")
    parser.add_argument("--checkpoints", choices=("all", "best", "latest"), default="all", help="which of a run's")
    parser.add_argument("--first_frames", type=int, default=20)
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if not given")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if not given")
    parser.add_argument("--num_frames", type=int, default=41, help="of each clip")
    parser.add_argument("--simulator", action="store_true", help="measure the simulator's own flights as well")
    parser.add_argument("--json", type=place, help="file for the numbers")


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
        "runs": {},
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
        result["runs"] = by_run(result["checkpoints"])
        write_numbers(args.json, result)  # after each, so that a stopped measurement keeps what it has
    print_control(result)


def chosen_checkpoints(run: Path, which: str) -> list[tuple[str, Path]]:
    """Names and folders of a run's sound checkpoints (all, best or latest), or of the one that is named itself."""
    infos = [info for info in store.list_checkpoints(run) if info.problem is None]
    wanted = [info for info in infos if which == "all" or info.is_named(which)]
    if wanted:
        return [(info.id, info.path) for info in sorted(wanted, key=lambda i: i.step)]
    ref = store.ref_of(folder := store.resolve(run))
    if not flight_files(folder):
        store.load_flight_weights(folder)  # which says what is missing, before minutes of measuring
    return [(ref.run if ref.step is None else ref.id, folder)]


def best_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint whose worst channel is best; among equals by the mean, then the latest."""
    return max(enumerate(results), key=lambda r: (r[1]["min_sign_accuracy"], r[1]["mean_sign_accuracy"], r[0]))[1]


def by_run(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each run's figures: those of the best of its checkpoints that were measured."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for entry in results:
        runs.setdefault(entry["checkpoint"].split("/")[0], []).append(entry)
    names = ("mean_sign_accuracy", "min_sign_accuracy", "checkpoint")
    return {run: {name: best_of(entries)[name] for name in names} for run, entries in runs.items()}


def simulator_control(count: int, num_frames: int, height: int, width: int) -> Control:
    """The same measure on the simulator's own flights from the same first frames: what a perfect model would get."""
    motion = []
    for seed in tqdm(range(HELD_OUT_SEED, HELD_OUT_SEED + count), desc="simulator", unit="world"):
        world = simulator.make_world(seed)
        tracks = [channel_track(channel, shapes.num_actions(num_frames)) for channel in CHANNELS]
        clips = [held_out_flight(world, seed, track, height, width) for track in tracks]
        motion.append([motion_track(clip.frames).mean(axis=0) for clip in clips])
    return Control(np.array(motion))


def print_control(result: dict[str, Any]) -> None:
    """Sign accuracies, and the motion behind them, of everything that was measured."""
    measured = [result[name] for name in ("simulator", "base") if name in result] + result["checkpoints"]
    summary = ("min_sign_accuracy", "mean_sign_accuracy")
    print(f"\nClips of {result['num_frames']} frames, {measured[0]['first_frames']} first frames")
    print("\nSign accuracy: share of first frames from which the picture moved the right way")
    rows = [(m["checkpoint"], *(m[s] for s in summary), *m["sign_accuracy"].values()) for m in measured]
    print_table(("", "min", "mean", *CHANNELS), rows)
    print("\nMotion the right way in percent per latent frame: of the width, or growth for forward and back")
    rows = [(m["checkpoint"], *(100 * value for value in m["response"].values())) for m in measured]
    print_table(("", *CHANNELS), rows)
    if "best" in result:
        print(f"\nbest: {result['best']['checkpoint']}")
