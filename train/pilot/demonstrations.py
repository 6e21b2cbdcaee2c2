"""Learning from flights before flying: people's records, and the pilot that was written by hand, are imitated.

A record holds sticks and no aims. So it is flown again in the simulator, from several places, and gates are put where
it went (hindsight): what its pilot did is then what passes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from train.loop.seeding import derive_seed
from train.pilot.config import PilotConfig, PilotError
from train.pilot.envs import SIM
from train.pilot.ppo import PilotPPO
from wanact.actions import ActionTrack
from wanact.errors import UserError
from wanact.files import visible
from wanact.world import tasks
from wanact.world.craft import FULL, Craft, Worlds, start

HAND_WRITTEN = "hand_written"
MOST_SAMPLES = 200_000


@dataclass
class Demonstrations:
    """What was seen and what was done, [n, SIZE] and [n, 4]."""

    observations: np.ndarray
    sticks: np.ndarray

    def __len__(self) -> int:
        return len(self.sticks)


def gather(config: PilotConfig) -> Demonstrations:
    """Every demonstration that the settings name.

    Raises:
        PilotError: if there is none that passes a gate, or the pilot flies by what it sees.
        FlightError: if a record cannot be read.
    """
    if config.environment.observation != "state":
        raise PilotError("--demonstrations teach pilots that fly by numbers; use --observation state")
    from wanact.flying.record import FlightRecord  # brings text encoders, for which nobody waits who only resumes

    samples: list[tuple[np.ndarray, np.ndarray]] = []
    rng = np.random.default_rng(derive_seed(config.run.seed, "pilot", "demonstrations"))
    for name in config.warmstart.demonstrations:
        if name == HAND_WRITTEN:
            samples += _hand_written_flights(config)
        else:
            worlds = Worlds(config.environment.num_worlds)
            for path in _files(Path(name)):
                samples += _flown_again(FlightRecord.load(path).track, config, worlds, rng)
        if len(samples) > MOST_SAMPLES:
            break
    if not samples:
        raise PilotError(
            f"--demonstrations {' '.join(config.warmstart.demonstrations)} hold no flight that goes somewhere: "
            "record some that fly ahead for half a minute"
        )
    seen, done = zip(*samples[:MOST_SAMPLES], strict=True)
    return Demonstrations(np.stack(seen).astype(np.float32), np.stack(done).astype(np.float32))


def _files(path: Path) -> list[Path]:
    files = sorted(visible(path.glob("*.json"))) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise PilotError(f"--demonstrations {path} holds no flight records (*.json)")
    return files


def _flown_again(
    track: ActionTrack, config: PilotConfig, worlds: Worlds, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What its pilot saw of gates along its own way, and did, from several places."""
    axes = np.clip(track.axes.astype(np.float64) / FULL, -1, 1)
    first = config.environment.first_world
    for _ in range(config.warmstart.clone_copies):
        world = worlds(first + int(rng.integers(config.environment.num_worlds)))
        craft = start(world, rng)
        task = tasks.Gates.along(craft, axes)
        if task is not None:
            yield from _watch(task, craft, axes)


def _watch(task: tasks.Task, craft: Craft, axes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for step, sticks in enumerate(axes):
        yield tasks.observe(task, craft, step), sticks
        before = craft.pose
        craft.fly(sticks)
        if tasks.judge(task, before, craft, step + 1).is_over:
            return


def _hand_written_flights(config: PilotConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    settings = config.environment
    env = gym.make(SIM, task=settings.task, num_worlds=settings.num_worlds, first_world=settings.first_world)
    for episode in range(config.warmstart.clone_flights):
        seed = derive_seed(config.run.seed, "pilot", HAND_WRITTEN, episode) % 2**31
        seen, info = env.reset(seed=seed)
        flown, is_over = [], False
        while not is_over:
            sticks = tasks.hand_written(seen).astype(np.float32)
            flown.append((seen, sticks))
            seen, _, terminated, truncated, info = env.step(sticks)
            is_over = terminated or truncated
        if info["is_success"]:  # how to fail is nothing to imitate
            yield from flown


def clone(model: PilotPPO, demonstrations: Demonstrations) -> float:
    """Imitate: the policy's mean comes near what was done; the error that is left, a mean square.

    The normaliser takes the demonstrations' means and variances, which flying then moves on.

    Raises:
        UserError: if the error is not finite.
    """
    config, seed = model.config.warmstart, model.config.run.seed
    statistics = model.normalizer.obs_rms
    statistics.update(demonstrations.observations.astype(np.float64))  # type: ignore[union-attr]
    seen = torch.from_numpy(np.asarray(model.normalizer.normalize_obs(demonstrations.observations), np.float32)).clone()
    done = torch.from_numpy(demonstrations.sticks).clone()
    actor = [p for name, p in model.policy.named_parameters() if "value_net" not in name and name != "log_std"]
    optimizer = torch.optim.AdamW(actor, lr=config.clone_learning_rate, weight_decay=model.config.ppo.weight_decay)
    error = float("nan")
    for epoch in range(config.clone_epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, "pilot", "clone", epoch))
        for rows in torch.randperm(len(done), generator=generator).split(256):
            mean = model.policy.get_distribution(seen[rows]).distribution.mean  # type: ignore[union-attr]
            loss = torch.nn.functional.mse_loss(mean, done[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            error = loss.item()
    if not np.isfinite(error):
        raise UserError(f"cloning ended with the error {error}; lower --clone_learning_rate")
    return error
