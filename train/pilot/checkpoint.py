"""The pilot's checkpoints, in the store that keeps all others: everything that training goes on from, and no pickle.

step-000000128/
  pilot.safetensors       actor-critic; pilot.json says what it flies by
  pilot.pt                the same weights and the normaliser, tensors alone, for the plan's readers
  normalizer.safetensors  means and variances of observations and rewards, and the running returns
  rollout.safetensors     the part of the rollout that has been flown, and the newest observations
  reference.safetensors   the policy that a warm start gave, while the pilot is held near it
  optimizer.pt            AdamW
  trainer_state.json      counters, temperature, and every environment with its generator
  train_config.json       the settings
  checkpoint_metadata.json
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from train.pilot.ppo import PilotPPO
from train.pilot.temperature import TemperatureController
from wanact.files import CheckpointError, disk_errors, load_state, load_weights, read_json, write_json
from wanact.models import pilot
from wanact.runs import store
from wanact.runs.ref import CHECKPOINTS

ROLLOUT, REFERENCE, OPTIMIZER = "rollout.safetensors", "reference.safetensors", "optimizer.pt"
STATE, CONFIG, PLAIN, LATEST_PLAIN = "trainer_state.json", "train_config.json", "pilot.pt", "latest.pt"
FORMAT = 1
_FLOWN = ("actions", "rewards", "episode_starts", "values", "log_probs")


class DoesNotFit(CheckpointError):
    """A sound checkpoint of another network or other environments."""


@dataclass
class Found:
    """The checkpoint that training goes on from, and why newer ones were passed over."""

    info: store.CheckpointInfo | None
    passed: list[str]


def find(run: Path) -> Found:
    """The newest checkpoint of a run whose sums hold."""
    passed = []
    for info in store.list_checkpoints(run)[::-1]:
        try:
            store.verify(info.path)
        except CheckpointError as error:
            passed.append(f"step {info.step} is passed over: {error}")
            continue
        if info.diverged:
            passed.append(f"step {info.step} is passed over: {info.diverged}")
            continue
        return Found(info, passed)
    return Found(None, passed)


def at(path: Path) -> store.CheckpointInfo:
    """The checkpoint that `latest.pt`, a checkpoint's folder or a run stands for, verified.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    folder = path.resolve().parent if path.is_file() else store.resolve(path)
    info = store.checkpoint_info(folder)
    store.verify(info.path)
    return info


# Writing


def save(model: PilotPPO, reason: str) -> Path:
    """Write one checkpoint, move `latest.pt`, and remove the oldest.

    Raises:
        OSError: if the disk is full; older ones are untouched.
    """
    config, run = model.config, model.config.folder
    weights = _host(model.policy.state_dict())
    broken = next((name for name, value in weights.items() if not bool(torch.isfinite(value).all())), None)
    success = model.success
    metadata: dict[str, Any] = {
        "kind": store.PILOT,
        "stage": "pilot",
        "reason": reason,
        # What is lowest is the best: the share of the last episodes that failed.
        "loss": None if success is None or broken else 1.0 - success,
        "success": success,
        "return": float(np.mean([r for _, r, _ in model.recent])) if model.recent else None,
        "timesteps": model.num_timesteps,
        "updates": model.updates,
        "task": config.environment.task,
        "env_id": config.environment.env_id,
    }
    if broken:
        metadata["diverged"] = f"{broken} holds NaN or infinity"
    path = store.write_checkpoint(run, model.steps, lambda folder: _fill(folder, model, weights), metadata)
    with contextlib.suppress(OSError):  # the checkpoint is there; the rest is comfort
        _link_latest(run, path)
        settings = config.checkpoints
        store.prune(run, settings.max_checkpoints if settings.incremental_checkpoints else 1, {path.name})
    return path


def _fill(folder: Path, model: PilotPPO, weights: dict[str, Tensor]) -> None:
    normalizer = _normalizer(model)
    _write(weights, folder / pilot.WEIGHTS)
    _write(normalizer, folder / pilot.NORMALIZER)
    _write(_rollout(model), folder / ROLLOUT)
    if model.reference is not None:
        _write(_host(model.reference.state_dict()), folder / REFERENCE)
    torch.save(weights | {f"normalizer.{name}": value for name, value in normalizer.items()}, folder / PLAIN)
    if model.config.checkpoints.save_optimizer_state:
        torch.save(model.policy.optimizer.state_dict(), folder / OPTIMIZER)
    environment = model.config.environment
    write_json(
        folder / pilot.CONFIG,
        {"observation": environment.observation, "task": environment.task, "hidden": list(model.config.ppo.hidden)},
    )
    write_json(folder / STATE, _state(model))
    write_json(folder / CONFIG, model.config.to_dict())


def _state(model: PilotPPO) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "global_step": model.steps,
        "num_timesteps": model.num_timesteps,
        "updates": model.updates,
        "optimizer_updates": model._n_updates,
        "rollout_position": model.rollout_buffer.pos,
        "temperature": model.temperature.to_json(),
        "recent": [list(episode) for episode in model.recent],
        "since_update": list(model.since_update),
        "environments": model.normalizer.env_method("get_state"),
    }


def _normalizer(model: PilotPPO) -> dict[str, Tensor]:
    env = model.normalizer
    found: dict[str, Any] = {"returns": env.returns}
    for name, statistics in _statistics(model).items():
        found |= {
            f"{name}.mean": statistics.mean,
            f"{name}.variance": statistics.var,
            f"{name}.count": statistics.count,
        }
    return {name: torch.from_numpy(np.array(value, np.float64)) for name, value in found.items()}


def _statistics(model: PilotPPO) -> dict[str, Any]:
    """The running statistics by name; a picture is not normalised and has none."""
    env = model.normalizer
    found: dict[str, Any] = {"reward": env.ret_rms}
    if not env.norm_obs:
        return found
    return found | {"observation": env.obs_rms["state"] if isinstance(env.obs_rms, dict) else env.obs_rms}


def _rollout(model: PilotPPO) -> dict[str, Tensor]:
    buffer, position = model.rollout_buffer, model.rollout_buffer.pos
    flown = {name: getattr(buffer, name)[:position] for name in _FLOWN}
    flown |= _named("observations", buffer.observations, position)
    flown |= _named("newest", model._last_obs) | {"newest_starts": model._last_episode_starts}
    return {name: torch.from_numpy(np.array(value)) for name, value in flown.items()}


def _named(name: str, value: Any, count: int | None = None) -> dict[str, np.ndarray]:
    """An observation's arrays by name, the first `count` of each."""
    parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return {key: part[:count] for key, part in parts.items()}


def _host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    with disk_errors():
        save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes for its own user only


def _link_latest(run: Path, path: Path) -> None:
    """`checkpoints/latest.pt`, as the plan's readers look for it."""
    temporary = run / CHECKPOINTS / f".link-{LATEST_PLAIN}"
    temporary.unlink(missing_ok=True)
    os.symlink(f"{path.name}/{PLAIN}", temporary)
    os.replace(temporary, run / CHECKPOINTS / LATEST_PLAIN)


# Reading


def load(model: PilotPPO, path: Path) -> None:
    """Go on from a checkpoint, to the last bit.

    Args:
        model: fresh; its environments need not have been reset.
        path: a checkpoint's folder that has been verified.

    Raises:
        DoesNotFit: if it is of another network, or of other environments; the model is as it was.
        CheckpointError: if it holds something else than a pilot.
    """
    weights, state = load_weights(path / pilot.WEIGHTS), read_json(path / STATE)
    before = {name: tuple(value.shape) for name, value in model.policy.state_dict().items()}
    _require_fit(before, {name: tuple(value.shape) for name, value in weights.items()}, path)
    _require_same_flights(model, state, read_json(path / CONFIG), path)
    model.policy.load_state_dict(weights)
    if (path / OPTIMIZER).is_file():
        model.policy.optimizer.load_state_dict(load_state(path / OPTIMIZER))
    _restore_normalizer(model, load_weights(path / pilot.NORMALIZER))
    _restore_rollout(model, load_weights(path / ROLLOUT), int(state["rollout_position"]))
    if (path / REFERENCE).is_file():
        model.keep_as_reference()
        assert model.reference is not None
        model.reference.load_state_dict(load_weights(path / REFERENCE))
    model.steps, model.num_timesteps = int(state["global_step"]), int(state["num_timesteps"])
    model.updates, model._n_updates = int(state["updates"]), int(state["optimizer_updates"])
    model.temperature = TemperatureController(**state["temperature"])
    model.recent.clear()
    model.recent.extend((bool(done), float(total), int(length)) for done, total, length in state["recent"])
    model.since_update = [bool(done) for done in state["since_update"]]
    for index, environment in enumerate(state["environments"]):
        model.normalizer.env_method("set_state", environment, indices=index)


def load_policy(model: PilotPPO, path: Path) -> None:
    """Begin with another policy's weights: a checkpoint's folder, or a file of tensors as `pilot.pt` is.

    Its normaliser comes along where it is there. Where it has no value's network, that starts as it is; so does AdamW.

    Raises:
        DoesNotFit: if its network is another.
        CheckpointError: if it cannot be read without unpickling, or is damaged.
    """
    if path.is_dir():
        path = store.resolve(path) / PLAIN
    found = load_weights(path)
    normalizer = {k.removeprefix("normalizer."): v for k, v in found.items() if k.startswith("normalizer.")}
    weights = {name: value for name, value in found.items() if not name.startswith("normalizer.")}
    own = model.policy.state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if any(name.startswith("mlp_extractor.value_net") or name.startswith("value_net") for name in own.keys() - shapes):
        weights = {k: v for k, v in own.items() if k not in weights and "value_net" in k} | weights
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
    _require_fit({name: tuple(value.shape) for name, value in own.items()}, shapes, path)
    model.policy.load_state_dict(weights)
    if normalizer:
        _restore_statistics(model, normalizer)


def _require_fit(ours: dict[str, tuple], theirs: dict[str, tuple], path: Path) -> None:
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise DoesNotFit(f"{path} does not fit: {name} has shape {theirs.get(name)}, expected {ours.get(name)}")


def _require_same_flights(model: PilotPPO, state: dict[str, Any], saved: dict[str, Any], path: Path) -> None:
    now = model.config.to_dict()
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path / STATE} is of format {state.get('format')}, expected {FORMAT}")
    same = [("ppo", "rollout_len")] + [("environment", n) for n in ("env_id", "observation", "num_envs")]
    for section, name in same:
        if saved.get(section, {}).get(name) != now[section][name]:
            before = saved.get(section, {}).get(name)
            raise DoesNotFit(f"{path} does not fit: its {name} is {before!r}, expected {now[section][name]!r}")


def _restore_normalizer(model: PilotPPO, saved: dict[str, Tensor]) -> None:
    _restore_statistics(model, saved)
    model.normalizer.returns = saved["returns"].numpy().copy()


def _restore_statistics(model: PilotPPO, saved: dict[str, Tensor]) -> None:
    for name, statistics in _statistics(model).items():
        mean, variance = saved[f"{name}.mean"].numpy().copy(), saved[f"{name}.variance"].numpy().copy()
        if mean.shape != np.shape(statistics.mean):
            raise DoesNotFit(f"the normaliser's {name} has {mean.size} numbers, expected {np.size(statistics.mean)}")
        statistics.mean, statistics.var = mean, variance
        statistics.count = float(saved[f"{name}.count"])


def _restore_rollout(model: PilotPPO, saved: dict[str, Tensor], position: int) -> None:
    buffer = model.rollout_buffer
    buffer.reset()
    arrays = {name: value.numpy() for name, value in saved.items()}
    for name in _FLOWN:
        getattr(buffer, name)[:position] = arrays[name]
    for name, target in _named("observations", buffer.observations).items():
        target[:position] = arrays[name]
    buffer.pos = position
    newest = {name.removeprefix("newest."): arrays[name] for name in arrays if name.startswith("newest.")}
    model._last_obs = newest or arrays["newest"]  # type: ignore[assignment]
    model._last_episode_starts = arrays["newest_starts"]
