"""How often a pilot does what it is asked, over episodes that it was not trained in, beside two others.

The others fly the same episodes: one by chance, one that was written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from train.loop.seeding import derive_seed
from train.pilot import checkpoint
from train.pilot.envs import HELD_OUT, SIM, WORLD
from wanact.errors import UserError
from wanact.files import place, write_json
from wanact.models.pilot import load_pilot
from wanact.runs import store
from wanact.runs.evaluations import MODEL, SIMULATOR, evaluation_file
from wanact.runs.ref import run_of, split_name
from wanact.world import tasks

Fly = Callable[[np.ndarray], np.ndarray]
PILOTS = ("trained", "hand_written", "random")


def main(argv: list[str] | None = None) -> int:
    """Measure a pilot and print its success for each task; 0 where it was measured."""
    parser = argparse.ArgumentParser(prog="python -m train pilot evaluate", description=__doc__)
    parser.add_argument("run", help="RUN, RUN@STEP, RUN@best, or a checkpoint's folder")
    parser.add_argument("--env_id", choices=(SIM, WORLD), default=SIM)
    parser.add_argument("--tasks", nargs="+", choices=tasks.NAMES, default=list(tasks.NAMES))
    parser.add_argument("--episodes", type=int, default=100, help="of each task")
    parser.add_argument("--num_worlds", type=int, default=20, help="held-out worlds of the simulator")
    parser.add_argument("--pilots", nargs="+", choices=PILOTS, default=list(PILOTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model_dir", default="assets/nano", help="of the world model")
    parser.add_argument("--world_checkpoint", default="assets/runs/live", help="a causal run or checkpoint of it")
    parser.add_argument("--device", default="cpu", help="where the world model runs")
    parser.add_argument("--json", type=place, help="write the figures here instead of beside the checkpoints")
    args = parser.parse_args(argv)
    if args.episodes < 1 or args.num_worlds < 1:
        raise UserError("--episodes and --num_worlds must be at least 1")
    info = chosen(args.run)
    env = _environment(args)
    figures: dict[str, Any] = {
        "checkpoint": info.id,
        "step": info.step,
        "env_id": args.env_id,
        "episodes": args.episodes,
    }
    figures |= {"seed": args.seed, "worlds": args.num_worlds, "tasks": {}}
    for task in args.tasks:
        for name in args.pilots:
            figures["tasks"].setdefault(task, {})[name] = row = measure(
                env, task, _pilot(name, info.path, args.seed), args.episodes, args.seed
            )
            low, high = row["interval"]
            print(
                f"{task:8} {name:13} {row['success']:6.1%} done ({low:.0%} to {high:.0%}), "
                f"return {row['return']:6.2f}, {row['length']:.0f} latent frames",
                flush=True,
            )
    path = args.json or evaluation_file(run_of(info.path), SIMULATOR if args.env_id == SIM else MODEL, info.step)
    write_json(path, figures)
    print(f"wrote {path}")
    return 0


def chosen(text: str) -> store.CheckpointInfo:
    """The checkpoint that a command line names, verified.

    Raises:
        CheckpointError: if there is none of that name, or it is damaged.
    """
    run, which = split_name(text)
    if which is None:
        return checkpoint.at(run)
    for info in store.list_checkpoints(run):
        if info.is_named(which):
            return checkpoint.at(info.path)
    raise UserError(
        f"{text} names no checkpoint; {run} has {', '.join(str(i.step) for i in store.list_checkpoints(run))}"
    )


def measure(env: gym.Env, task: str, fly: Fly, episodes: int, seed: int = 0) -> dict[str, Any]:
    """A pilot's success over episodes that every pilot is given alike.

    Args:
        env: flown in; its episodes follow from their seeds.
        task: a name of `tasks.NAMES`.
        fly: sticks [4] for an observation.
        episodes: how many.
        seed: of the episodes.

    Returns:
        success (a share), its interval (Wilson's, 95%), mean return and length.
    """
    ended = []
    for episode in range(episodes):
        seen, _ = env.reset(seed=derive_seed(seed, "held out", task, episode) % 2**31, options={"task": task})
        is_over = False
        while not is_over:
            seen, _, terminated, truncated, info = env.step(np.asarray(fly(seen), np.float32))
            is_over = terminated or truncated
        ended.append((info["is_success"], info["episode"]["r"], info["episode"]["l"]))
    done, returns, lengths = (np.array(column, float) for column in zip(*ended, strict=True))
    return {
        "success": float(done.mean()),
        "interval": _wilson(float(done.sum()), len(done)),
        "return": float(returns.mean()),
        "length": float(lengths.mean()),
    }


def _environment(args: argparse.Namespace) -> gym.Env:
    if args.env_id == SIM:
        return gym.make(SIM, num_worlds=args.num_worlds, first_world=HELD_OUT)
    options = {"model_dir": args.model_dir, "checkpoint": args.world_checkpoint, "device": args.device}
    return gym.make(WORLD, disable_env_checker=True, **options)


def _pilot(name: str, path: Path, seed: int) -> Fly:
    if name == "trained":
        return load_pilot(path).act
    if name == "hand_written":
        return tasks.hand_written
    rng = np.random.default_rng([seed, 7])
    return lambda _: rng.uniform(-1, 1, 4)


def _wilson(done: float, count: int, z: float = 1.96) -> list[float]:
    """Between which shares the true one lies, nineteen times of twenty."""
    share, wide = done / count, z * z / count
    middle = (share + wide / 2) / (1 + wide)
    half = z * ((share * (1 - share) + wide / 4) / count) ** 0.5 / (1 + wide)
    return [max(0.0, middle - half), min(1.0, middle + half)]
