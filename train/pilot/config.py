"""What a pilot is trained with: dataclasses, a JSON file of them, and flags of the same names."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from transformers.hf_argparser import HfArgumentParser

from wanact.errors import UserError
from wanact.files import read_json

EnvId = Literal["WanAct/Sim-v0", "WanAct/World-v0"]
TaskName = Literal["gates", "course", "circle", "avoid", "mixed"]
OnExisting = Literal["ask", "resume", "warmstart", "external"]


class PilotError(UserError):
    """A setting of the pilot's training that cannot be used."""


def _help(text: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text}, **more)


@dataclass
class Environment:
    """What is flown."""

    _argument_group_name: ClassVar[str] = "what is flown"
    env_id: EnvId = _help("the simulator, or the inside of a world model", "WanAct/Sim-v0")
    task: TaskName = _help(
        "gates: fly through them; course: hold it and the height; circle: round a landmark, looking at it; "
        "avoid: reach a place behind one and do not crash; mixed: another each episode",
        "mixed",
    )
    observation: Literal["state", "picture", "both"] = _help("what the pilot is shown", "state")
    num_envs: int = _help("environments side by side", 8)
    env_processes: bool = _help("each environment in a process of its own", False)
    num_worlds: int = _help("simulated worlds to train in", 12)
    first_world: int = _help("seed of the first of them", 0)
    model_dir: str = _help("model directory of the world model", "assets/nano")
    world_checkpoint: str = _help("causal run or checkpoint of the world model", "assets/runs/live")
    device: str = _help("where the world model runs", "cpu")


@dataclass
class Ppo:
    """The algorithm; a step is one latent frame in every environment."""

    _argument_group_name: ClassVar[str] = "PPO"
    total_steps: int = _help("latent frames that each environment flies", 120_000)
    rollout_len: int = _help("of them between two updates", 128)
    batch_size: int = _help("samples of a minibatch", 256)
    num_epochs: int = _help("passes over a rollout", 6)
    learning_rate: float = _help("of AdamW", 4e-4)
    final_learning_rate: float = _help("at the last step; falls evenly", 4e-5)
    weight_decay: float = _help("of AdamW", 1e-4)
    gamma: float = _help("discount", 0.98)
    gae_lambda: float = _help("of the advantage estimate", 0.95)
    clip_range: float = _help("of the probability ratio", 0.2)
    target_kl: float = _help("an update ends early beyond 1.5 times this change of the policy", 0.03)
    value_coef: float = _help("weight of the value's loss", 0.5)
    max_grad_norm: float = _help("gradients are cut to this norm", 0.5)
    hidden: list[int] = _help("widths of the hidden layers", [128, 128])
    initial_log_std: float = _help("logarithm of the sticks' deviation at the beginning", -0.5)


@dataclass
class Schedules:
    """What changes with the counters of steps and updates, which are saved."""

    _argument_group_name: ClassVar[str] = "what changes with the updates"
    entropy_coef: float = _help("weight of the entropy", 0.002)
    entropy_warmup_updates: int = _help("updates in which it rises to that", 10)
    kl_coef: float = _help("after a warm start: weight of staying near the policy that it gave", 0.5)
    kl_decay_updates: int = _help("updates in which that falls to 0", 100)


@dataclass
class TemperatureSettings:
    """The controller of exploration."""

    _argument_group_name: ClassVar[str] = "temperature, by which exploration is scaled"
    temperature_initial: float = _help("what deviations are multiplied by at first", 1.0)
    temperature_lowest: float = _help("and at the least", 0.6)
    temperature_decay: float = _help("factor of an update", 0.998)
    temperature_fast: float = _help("share of the newest success in the fast mean", 0.2)
    temperature_slow: float = _help("and in the slow one", 0.04)
    temperature_patience: int = _help("updates without gain before a pulse", 25)
    temperature_pulse: float = _help("factor of a pulse", 1.4)
    temperature_pulse_updates: int = _help("how long it lasts", 8)
    temperature_cooldown: int = _help("updates until the next may begin", 30)


@dataclass
class WarmStart:
    """What the pilot learns from before it flies itself."""

    _argument_group_name: ClassVar[str] = "warm start"
    demonstrations: list[str] = _help("flight records (files or folders), or hand_written for that pilot's flights", [])
    external_policy: str | None = _help("a policy's weights (.safetensors or .pt of tensors) to begin with", None)
    clone_epochs: int = _help("passes over the demonstrations", 30)
    clone_copies: int = _help("places from which each demonstration is flown", 6)
    clone_flights: int = _help("flights of hand_written, of which those are imitated that were done", 40)
    clone_learning_rate: float = _help("of cloning", 1e-3)
    on_existing: OnExisting = _help("where checkpoints exist beside these; ask: resume without a terminal", "ask")


@dataclass
class Checkpoints:
    """What is kept."""

    _argument_group_name: ClassVar[str] = "checkpoints"
    enable_checkpoints: bool = _help("write checkpoints", True)
    checkpoint_interval: int = _help("steps between two; a multiple of --rollout_len keeps whole updates", 128)
    save_optimizer_state: bool = _help("with AdamW's state; resuming repeats the run only with it", True)
    incremental_checkpoints: bool = _help("keep --max_checkpoints instead of the newest alone", True)
    max_checkpoints: int = _help("how many are kept beside the best", 5)
    load_checkpoint: str | None = _help("go on from this checkpoint (folder, or latest.pt)", None)


@dataclass
class Chunks:
    """Training in slices."""

    _argument_group_name: ClassVar[str] = "chunks"
    chunk_mode: bool = _help("slice the training; completed slices are found in training_progress.json", False)
    num_chunks: int = _help("how many", 4)
    stop_after_chunk: bool = _help("end after one", False)


@dataclass
class Run:
    """Where and how."""

    _argument_group_name: ClassVar[str] = "where and how"
    output_dir: str = _help("the run's folder", "outputs")
    seed: int = _help("of everything random", 0)
    threads: int = _help("of torch; small networks are fastest with one", 1)
    tensorboard: bool = _help("write events for TensorBoard", True)


SECTIONS: dict[str, type] = {
    "environment": Environment,
    "ppo": Ppo,
    "schedules": Schedules,
    "temperature": TemperatureSettings,
    "warmstart": WarmStart,
    "checkpoints": Checkpoints,
    "chunks": Chunks,
    "run": Run,
}
# What the file calls a setting whose flag would say too little without its section.
SHORT = {"checkpoints": {"interval": "checkpoint_interval"}} | {
    "temperature": {f.name.removeprefix("temperature_"): f.name for f in dataclasses.fields(TemperatureSettings)}
}


@dataclass
class PilotConfig:
    """Every setting, by section."""

    environment: Environment
    ppo: Ppo
    schedules: Schedules
    temperature: TemperatureSettings
    warmstart: WarmStart
    checkpoints: Checkpoints
    chunks: Chunks
    run: Run

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run.output_dir)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def check(self) -> list[str]:
        """Warnings about settings that are ignored or unwise.

        Raises:
            PilotError: if one cannot be used.
        """
        ppo, chunks = self.ppo, self.chunks
        least = {
            "num_envs": self.environment.num_envs, "num_worlds": self.environment.num_worlds,
            "total_steps": ppo.total_steps, "rollout_len": ppo.rollout_len, "num_epochs": ppo.num_epochs,
            "checkpoint_interval": self.checkpoints.checkpoint_interval, "num_chunks": chunks.num_chunks,
            "max_checkpoints": self.checkpoints.max_checkpoints, "threads": self.run.threads,
            "clone_flights": self.warmstart.clone_flights,
        }  # fmt: skip
        for name, value in least.items():
            if value < 1:
                raise PilotError(f"--{name} {value} must be at least 1")
        if ppo.batch_size < 2:
            raise PilotError(f"--batch_size {ppo.batch_size} must be at least 2: advantages are normalised in it")
        if ppo.rollout_len * self.environment.num_envs < ppo.batch_size:
            raise PilotError(
                f"--batch_size {ppo.batch_size} is more than a rollout has ({ppo.rollout_len} steps of "
                f"{self.environment.num_envs} environments); lower it"
            )
        if self.environment.env_id == "WanAct/World-v0" and self.environment.env_processes:
            raise PilotError("--env_processes would load a world model for each environment; leave it out")
        said = []
        if self.checkpoints.enable_checkpoints and self.checkpoints.checkpoint_interval % ppo.rollout_len:
            said.append(
                f"--checkpoint_interval {self.checkpoints.checkpoint_interval} is no multiple of --rollout_len "
                f"{ppo.rollout_len}: checkpoints hold parts of rollouts. They resume as exactly, but are larger"
            )
        return said


def parse(argv: list[str]) -> PilotConfig:
    """Settings from flags, over those of `--config FILE`, over the defaults.

    Raises:
        PilotError: for a flag, a name or a value that is unknown.
    """
    words: dict[str, Any] = {"usage": "%(prog)s [--config FILE] [--SETTING VALUE ...]", "formatter_class": _Help}
    kinds = cast(Any, tuple(SECTIONS.values()))
    parser = _Parser(kinds, prog="python -m train pilot", description=_DESCRIPTION, **words)
    parser.add_argument("--config", help="JSON file of settings, as train/configs/pilot/ppo_warmstart.json")
    files = [b for a, b in zip(argv, argv[1:], strict=False) if a == "--config"]
    files += [a.partition("=")[2] for a in argv if a.startswith("--config=")]
    if files:
        parser.set_defaults(**read_file(Path(files[-1])))
    *parts, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        raise PilotError(f"{' '.join(unknown)[:80]!r} is no setting of a pilot's training; --help lists them")
    return PilotConfig(*parts[: len(SECTIONS)])


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a JSON file by their flags' names.

    Raises:
        PilotError: if a section or a setting is unknown, or of another kind.
        CheckpointError: if it is no JSON.
    """
    flat: dict[str, Any] = {}
    for section, content in read_json(path).items():
        if section.startswith("_"):  # remarks
            continue
        if section not in SECTIONS or not isinstance(content, dict):
            raise PilotError(f"{path}: {section!r} is no section; there are {', '.join(SECTIONS)}")
        known = {f.name for f in dataclasses.fields(SECTIONS[section])}
        for given, value in content.items():
            name = SHORT.get(section, {}).get(given, given)
            if name not in known:
                raise PilotError(f"{path}: section {section} has no {given!r}")
            flat[name] = _checked(path, given, value, getattr(SECTIONS[section](), name))
    return flat


def _checked(path: Path, name: str, value: Any, default: Any) -> Any:
    """A value of the kind that its default is; what is none by default may be none, or words."""
    if value is None and default is None:
        return None
    kind = str if default is None else type(default)
    expected = (int, float) if kind is float else (kind,)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise PilotError(f"{path}: {name} is {value!r}, expected {kind.__name__}")
    return float(value) if isinstance(default, float) and value is not None else value


_DESCRIPTION = """Train a pilot with PPO: a small network that is told numbers about a task and moves four sticks.

  python -m train pilot --task gates --output_dir outputs         begin, or go on where it stopped
  python -m train pilot --config train/configs/pilot/ppo_warmstart.json
  python -m train pilot evaluate outputs@best                     success over held-out episodes (--help)

Ctrl-C saves and ends. outputs/ppo_training.log says what was done; docs/pilot.md explains it."""


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind each setting, and the description as it is written."""


class _Parser(HfArgumentParser):
    """Reports mistakes as PilotError instead of ending the process."""

    def error(self, message: str) -> Any:
        raise PilotError(message)


def from_dict(content: dict[str, Any]) -> PilotConfig:
    """The settings that `to_dict` gave."""
    return PilotConfig(**{name: cast(Any, kind)(**content[name]) for name, kind in SECTIONS.items()})
