"""How often a pilot does what it is asked, over episodes that it was not trained in, beside two others.

The others fly the same episodes: one by chance, one that was written by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from PIL import Image

from train.loop.seeding import derive_seed
from train.pilot import checkpoint
from train.pilot.envs import HELD_OUT, MIXED, SIM, WORLD
from train.pilot.film import FPS, Camera
from wanact.errors import UserError
from wanact.files import place, write_json
from wanact.media.video import write_mp4
from wanact.models.pilot import load_pilot
from wanact.runs import store
from wanact.runs.evaluations import MODEL, SIMULATOR, evaluation_file, film_file
from wanact.runs.ref import run_of, split_name
from wanact.world import simulator, tasks

FIRST_FRAME = (384, 640)  # larger than nano's pictures, and of their shape; a model fits it to its own
Fly = Callable[[np.ndarray], np.ndarray]
PILOTS = ("trained", "hand_written", "random")


def main(argv: list[str] | None = None) -> int:
    """Measure a pilot and print its success for each task; 0 where it was measured."""
    parser = argparse.ArgumentParser(prog="python -m train pilot evaluate", description=__doc__)
    parser.add_argument("run", help="RUN, RUN@STEP, RUN@best, or a checkpoint's folder")
    parser.add_argument("--env_id", choices=(SIM, WORLD), default=SIM)
    parser.add_argument("--tasks", nargs="+", choices=tasks.NAMES, help="those it was trained in, if not given")
    parser.add_argument("--episodes", type=int, default=100, help="of each task")
    parser.add_argument(
        "--num_worlds",
        type=int,
        default=20,
        help="held-out worlds of the simulator; a world model draws from a view of each",
    )
    parser.add_argument("--pilots", nargs="+", choices=PILOTS, default=list(PILOTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model_dir", default="assets/nano", help="of the world model")
    parser.add_argument("--world_checkpoint", default="assets/runs/live", help="a causal run or checkpoint of it")
    parser.add_argument("--device", default="cpu", help="where the world model runs")
    parser.add_argument(
        "--film",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="film the pilot's best flight of the first task",
    )
    parser.add_argument("--json", type=place, help="write the figures here instead of beside the checkpoints")
    args = parser.parse_args(argv)
    if args.episodes < 1 or args.num_worlds < 1:
        raise UserError("--episodes and --num_worlds must be at least 1")
    info = chosen(args.run)
    where = SIMULATOR if args.env_id == SIM else MODEL
    own = [task for task in args.tasks or tasks.NAMES if args.tasks or info.metadata.get("task") in (task, MIXED, None)]
    figures: dict[str, Any] = {
        "checkpoint": info.id,
        "step": info.step,
        "env_id": args.env_id,
        "episodes": args.episodes,
    }
    figures |= {"seed": args.seed, "worlds": args.num_worlds, "tasks": {}}
    path = args.json or evaluation_file(run_of(info.path), where, info.step)
    film_path = film_file(path.parent, where, info.step)
    with _environment(args) as env:
        for task in own:
            for name in args.pilots:
                fly = _pilot(name, info.path, args.seed)
                films = args.film and name == "trained" and task == own[0]
                # Drawing is what a world model does anyway; in the simulator the best flight alone is drawn.
                camera = Camera if films and where == MODEL else None
                flown, frames = fly_all(env, task, fly, args.episodes, args.seed, camera)
                figures["tasks"].setdefault(task, {})[name] = row = figures_of(flown)
                low, high = row["interval"]
                print(
                    f"{task:8} {name:13} {row['success']:6.1%} done ({low:.0%} to {high:.0%}), "
                    f"return {row['return']:6.2f}, {row['length']:.0f} latent frames",
                    flush=True,
                )
                write_json(path, figures)  # what was measured stays, whatever stops the rest
                if films:
                    best = max(range(len(flown)), key=lambda number: flown[number][:2])
                    frames = frames or fly_episode(env, task, fly, best, args.seed, Camera)[1]
                    write_mp4(np.stack(frames), film_path, FPS)
                    print(f"wrote {film_path}, a film of the best of these flights", flush=True)
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


class Flown(NamedTuple):
    """How an episode ended: whether its task was done, its return, and its latent frames."""

    is_done: bool
    total: float
    length: int


def fly_episode(
    env: gym.Env, task: str, fly: Fly, number: int, seed: int = 0, camera: type[Camera] | None = None
) -> tuple[Flown, list[np.ndarray]]:
    """Fly one held-out episode; how it ended, and the frames that a camera took of it, none without one."""
    seen, _ = env.reset(seed=derive_seed(seed, "held out", task, number) % 2**31, options={"task": task})
    taken = camera(env.unwrapped) if camera else None  # type: ignore[arg-type]
    is_over = False
    while not is_over:
        seen, _, terminated, truncated, info = env.step(np.asarray(fly(seen), np.float32))
        is_over = terminated or truncated
        if taken:
            taken.take()
    flown = Flown(bool(info["is_success"]), float(info["episode"]["r"]), int(info["episode"]["l"]))
    return flown, taken.frames if taken else []


def fly_all(
    env: gym.Env, task: str, fly: Fly, episodes: int, seed: int = 0, camera: type[Camera] | None = None
) -> tuple[list[Flown], list[np.ndarray]]:
    """Fly the held-out episodes of a task, which every pilot is given alike; and what a camera took of the best.

    Args:
        env: flown in; its episodes follow from their seeds.
        task: a name of `tasks.NAMES`.
        fly: sticks [4] for an observation.
        episodes: how many.
        seed: of the episodes.
        camera: takes every episode; the first of the best is kept.
    """
    flown: list[Flown] = []
    kept: list[np.ndarray] = []
    for number in range(episodes):
        one, frames = fly_episode(env, task, fly, number, seed, camera)
        if not flown or one[:2] > max(before[:2] for before in flown):
            kept = frames
        flown.append(one)
    return flown, kept


def figures_of(flown: list[Flown]) -> dict[str, Any]:
    """Success (a share), its interval (Wilson's, 95%), mean return and length of episodes."""
    done, returns, lengths = (np.array(column, float) for column in zip(*flown, strict=True))
    return {
        "success": float(done.mean()),
        "interval": _wilson(float(done.sum()), len(done)),
        "return": float(returns.mean()),
        "length": float(lengths.mean()),
    }


def measure(env: gym.Env, task: str, fly: Fly, episodes: int, seed: int = 0) -> dict[str, Any]:
    """The figures of a pilot over the held-out episodes of a task; see `fly_all` and `figures_of`."""
    return figures_of(fly_all(env, task, fly, episodes, seed)[0])


@contextlib.contextmanager
def _environment(args: argparse.Namespace) -> Iterator[gym.Env]:
    """Where is flown: in the held-out worlds, or in a world model that begins with a view of each of them."""
    if args.env_id == SIM:
        yield gym.make(SIM, num_worlds=args.num_worlds, first_world=HELD_OUT)
        return
    options = {"model_dir": args.model_dir, "checkpoint": args.world_checkpoint, "device": args.device}
    with tempfile.TemporaryDirectory() as folder:
        pictures = [_first_frame(HELD_OUT + number, Path(folder)) for number in range(args.num_worlds)]
        yield gym.make(WORLD, disable_env_checker=True, images=pictures, **options)


def _first_frame(seed: int, folder: Path) -> str:
    world = simulator.make_world(seed)
    pose = simulator.fly_poses(world, np.random.default_rng([seed, 0]), 1)[0]
    path = folder / f"{seed}.png"
    Image.fromarray(simulator.render(world, pose, *FIRST_FRAME)).save(path)
    return str(path)


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
