"""A pilot's training from the first step or a checkpoint to the last: what `python -m train pilot` does."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize, VecTransposeImage

from train.loop.claim import claim
from train.pilot import checkpoint, envs
from train.pilot.choices import choose
from train.pilot.config import PilotConfig
from train.pilot.demonstrations import clone, gather
from train.pilot.ppo import PilotPPO
from wanact.errors import in_words
from wanact.files import CheckpointError, read_json, write_json
from wanact.runs import store

LOG, PROGRESS, EVENTS, ROWS = "ppo_training.log", "training_progress.json", "tensorboard", "log.jsonl"


class Journal:
    """`ppo_training.log` for people, `log.jsonl` for the pages, events for TensorBoard."""

    def __init__(self, run: Path, with_events: bool):
        self.run = run
        outputs: list[Any] = []
        if with_events:
            try:
                outputs.append(TensorBoardOutputFormat(str(run / EVENTS)))
            except (ImportError, AssertionError):
                warnings.warn("tensorboard is not installed, so no events are written for it", stacklevel=2)
        self.logger = Logger(str(run), outputs)

    def say(self, text: str) -> None:
        """A line for people, printed and kept."""
        print(text, flush=True)
        with open(self.run / LOG, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    def update(self, model: PilotPPO, seconds: float) -> None:
        """One update's figures: the newest row of the log, and TensorBoard at the step of all environments."""
        values = {name: float(value) for name, value in self.logger.name_to_value.items()}
        self.logger.dump(model.num_timesteps)
        row = {"step": model.steps, "timesteps": model.num_timesteps, "seconds": round(seconds, 2)}
        row |= {"loss": values.get("train/loss"), "learning_rate": values.get("train/learning_rate")}
        row |= {
            name.partition("/")[2]: values[name] for name in values if name.startswith(("rollout/", "temperature/"))
        }
        with open(self.run / ROWS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def forget_after(self, step: int) -> None:
        """Leave out rows of steps that are flown again, so that each stands once."""
        rows = [row for row in store.read_log(self.run) if isinstance(row.get("step"), int) and row["step"] <= step]
        if (self.run / ROWS).is_file():
            (self.run / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(config: PilotConfig, on_step: Callable[[PilotPPO], None] | None = None) -> PilotPPO:
    """Train, or go on with, the pilot of a run.

    Args:
        config: every setting.
        on_step: called after each step, for who watches.

    Raises:
        PilotError, CheckpointError: if a setting or a file cannot be used.
        OSError: if the last checkpoint cannot be written.
    """
    for warning in config.check():
        warnings.warn(warning, stacklevel=2)
    torch.set_num_threads(config.run.threads)
    lock = claim(config.folder)
    try:
        store.clean(config.folder)
        journal = Journal(config.folder, config.run.tensorboard)
        env = make_environments(config)
        try:
            model = _begin(config, journal, env)
            _fly(model, journal, on_step)
        finally:
            env.close()
            journal.logger.close()
        return model
    finally:
        lock.release()


def make_environments(config: PilotConfig) -> VecNormalize:
    """The environments side by side, with observations and rewards normalised."""
    settings = config.environment

    def make() -> gym.Env:
        options: dict[str, Any] = {"task": settings.task, "observation": settings.observation}
        if settings.env_id == envs.WORLD:
            return envs.WorldEnv(**options, pipe=pipe)  # all fly in one; gymnasium.make would copy it
        options |= {"num_worlds": settings.num_worlds, "first_world": settings.first_world}
        # Without the wrapper that asks for a reset: who goes on from a checkpoint makes none.
        return gym.make(envs.SIM, disable_env_checker=True, **options).unwrapped

    pipe: Any = None
    if settings.env_id == envs.WORLD:
        from wanact.flying.pipeline import WanActPipeline

        pipe = WanActPipeline.from_model_dir(settings.model_dir, settings.device)
        pipe.load_controller(settings.world_checkpoint)
    makers = [make] * settings.num_envs
    many: VecEnv = SubprocVecEnv(makers) if settings.env_processes else DummyVecEnv(makers)
    if settings.observation == "picture":
        return VecNormalize(VecTransposeImage(many), norm_obs=False, gamma=config.ppo.gamma)
    if settings.observation == "both":
        return VecNormalize(VecTransposeImage(many), norm_obs_keys=["state"], gamma=config.ppo.gamma)
    return VecNormalize(many, gamma=config.ppo.gamma)


# The first step


def _begin(config: PilotConfig, journal: Journal, env: VecNormalize) -> PilotPPO:
    """The pilot as it flies on: from a checkpoint, or fresh with or without a warm start."""
    model = PilotPPO(env, config)
    model.set_logger(journal.logger)
    found = _existing(config, journal)
    use = {"demonstrations", "external"}
    if found is not None:
        has_progress = config.chunks.chunk_mode and (config.folder / PROGRESS).is_file()
        choice = "resume"
        if config.checkpoints.load_checkpoint is None:
            choice = choose(config, found.step, str(found.path.parent), has_progress)
        if choice == "resume":
            if _resume(model, journal, found):
                return model
            model = PilotPPO(env, config)  # nothing of what did not fit stays
            model.set_logger(journal.logger)
        use = {"external"} if choice == "external" else use
    model.begin()
    _warm_start(model, journal, use)
    journal.forget_after(-1)
    with contextlib.suppress(FileNotFoundError):
        (config.folder / PROGRESS).unlink()
    journal.say(f"[PPO] training begins at step 0 in {config.folder}")
    return model


def _existing(config: PilotConfig, journal: Journal) -> store.CheckpointInfo | None:
    if config.checkpoints.load_checkpoint is not None:
        return checkpoint.at(Path(config.checkpoints.load_checkpoint))
    found = checkpoint.find(config.folder)
    for text in found.passed:
        journal.say(f"[PPO:checkpoint] {text}")
    return found.info


def _resume(model: PilotPPO, journal: Journal, found: store.CheckpointInfo) -> bool:
    try:
        checkpoint.load(model, found.path)
    except CheckpointError as error:
        journal.say(f"[PPO:checkpoint] {in_words(error)}")
        journal.say("[PPO:checkpoint] Continuing with fresh training state")
        return False
    journal.forget_after(model.steps)
    journal.say(f"[Resume] PPO training resumed from {found.path} at step {model.steps}")
    return True


def _warm_start(model: PilotPPO, journal: Journal, use: set[str]) -> None:
    warm = model.config.warmstart
    if warm.external_policy and "external" in use:
        checkpoint.load_policy(model, Path(warm.external_policy))
        journal.say(f"[Warmstart] policy of {warm.external_policy}")
        model.keep_as_reference()
    if warm.demonstrations and "demonstrations" in use:
        shown = gather(model.config)
        error = clone(model, shown)
        journal.say(f"[Warmstart] cloned {len(shown):,} samples of {', '.join(warm.demonstrations)}: error {error:.4f}")
        model.keep_as_reference()


# Every further step


def _fly(model: PilotPPO, journal: Journal, on_step: Callable[[PilotPPO], None] | None) -> None:
    config = model.config
    began, saved = time.perf_counter(), model.steps
    with _signals() as stopped:
        for end in _ends_of_slices(config):
            if model.steps >= end:
                continue
            while model.steps < end and not stopped:
                if model.step():
                    journal.update(model, time.perf_counter() - began)
                if model.steps % config.checkpoints.checkpoint_interval == 0 and model.steps < end:
                    saved = _save(model, journal, "interval", saved)
                if on_step is not None:
                    on_step(model)
            is_last = end == config.ppo.total_steps
            reason = str(stopped[0]) if stopped else "end" if is_last else "chunk"
            saved = _save(model, journal, reason, saved)
            if stopped:
                journal.say(f"[PPO] stopped at step {model.steps} ({stopped[0]}); the same command goes on")
                return
            if config.chunks.chunk_mode:
                _note_chunk(model, journal)
                if config.chunks.stop_after_chunk and not is_last:
                    return
    if config.chunks.chunk_mode:
        _note_chunk(model, journal)
    success = "no episode has ended" if model.success is None else f"{model.success:.0%} of the last episodes were done"
    journal.say(f"[PPO] {model.steps:,} of {config.ppo.total_steps:,} steps are flown; {success}")


def _ends_of_slices(config: PilotConfig) -> list[int]:
    """The steps at which slices end, the last of them the end of the training."""
    total, count = config.ppo.total_steps, config.chunks.num_chunks if config.chunks.chunk_mode else 1
    return sorted({total * number // count for number in range(1, count + 1)} - {0})


def _save(model: PilotPPO, journal: Journal, reason: str, saved: int) -> int:
    """The step that is on disk now. A full disk ends nothing but the training's end."""
    if not model.config.checkpoints.enable_checkpoints:
        return saved
    try:
        checkpoint.save(model, reason)
    except OSError as error:
        if reason != "interval":
            raise
        journal.say(f"[PPO:checkpoint] step {model.steps} was not saved: {in_words(error)}. Training goes on")
        return saved
    return model.steps


def _note_chunk(model: PilotPPO, journal: Journal) -> None:
    """Which slices are completed follows from the step, so that a kill between two files tells no lie."""
    ends = _ends_of_slices(model.config)
    completed = [number for number, end in enumerate(ends) if model.steps >= end]
    path = model.config.folder / PROGRESS
    before = read_json(path).get("completed_chunks") if path.is_file() else None
    if before == completed:
        return
    content = {
        "num_chunks": len(ends),
        "completed_chunks": completed,
        "global_step": model.steps,
        "timesteps": model.num_timesteps,
        "total_steps": model.config.ppo.total_steps,
        "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_json(path, content)
    journal.say(f"[Chunk] {len(completed)} of {len(ends)} chunks are completed at step {model.steps}")


@contextlib.contextmanager
def _signals() -> Iterator[list[str]]:
    """A list that a signal's name is put on: SIGTERM and the first Ctrl-C end after the step, with a checkpoint."""
    stopped: list[str] = []

    def note(number: int, _frame: Any) -> None:
        stopped.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"{stopped[0]}: saving after this step", file=sys.stderr, flush=True)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
