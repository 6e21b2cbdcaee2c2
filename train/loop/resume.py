"""Where a run begins: at its newest sound checkpoint, at one that is named, at other weights, or at nothing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.loop import legacy, saving, sharded
from train.loop.config import TrainConfig
from wanact.files import CheckpointError, load_weights, read_json, sha256
from wanact.runs import store


@dataclass
class Loaded:
    """What was found to continue from.

    Attributes:
        path: where it lay.
        step: optimizer updates done.
        weights: by full name.
        optimizer: states by phase, None if the checkpoint has none.
        ema: {} if the checkpoint has none.
        state: content of trainer_state.json, {} if there is none.
        config: content of train_config.json, {} if there is none.
        kept: whether these are only the weights that fit, of a checkpoint that cannot be continued.
        in_parts: whether tensors only say what they are (they are on the meta device), for each process to read its
            own part of them.
    """

    path: Path
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    ema: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    kept: bool = False
    in_parts: bool = False


def find(
    config: TrainConfig, stage_name: str, shapes: dict[str, torch.Size], in_parts: bool = False
) -> tuple[Loaded | None, list[str]]:
    """The checkpoint that this run continues from, read and checked, or None to start.

    Args:
        shapes: shapes of the trained weights by full name, which the checkpoint must have.
        in_parts: whether processes read their own parts of a checkpoint that was written so.

    Returns:
        What was loaded, and a line for each newer checkpoint that was passed over and for what else should be said.

    Raises:
        CheckpointError: if a checkpoint that was named cannot be used, or none of the run's can.
    """
    run, wanted = Path(config.checkpoint.output_path), config.checkpoint.resume_from
    if wanted == "none":
        if store.list_checkpoints(run):
            raise CheckpointError(
                f"{run} holds checkpoints already, and --resume_from none would mix two runs; "
                "choose another --output_path"
            )
        return None, []
    if wanted != "auto":
        try:
            return load(Path(wanted), stage_name, shapes, config, in_parts=in_parts), []
        except CheckpointError as error:
            if config.checkpoint.on_resume_error == "stop":
                raise
            return keep_what_fits(Path(wanted), shapes, [str(error)])
    return _newest(run, stage_name, shapes, config, in_parts)


def _newest(
    run: Path, stage_name: str, shapes: dict[str, torch.Size], config: TrainConfig, in_parts: bool
) -> tuple[Loaded | None, list[str]]:
    passed: list[str] = []
    found = store.list_checkpoints(run)
    for info in _newest_first(found):
        try:
            problem = info.problem or _diverged(info)
            if problem:
                raise CheckpointError(problem)
            return load(info.path, stage_name, shapes, config, in_parts=in_parts), passed
        except CheckpointError as error:
            passed.append(f"passed over {info.path.name}: {error}")
    if found and config.checkpoint.on_resume_error == "stop":
        raise CheckpointError(
            f"none of the {len(found)} checkpoints in {run} can be used; --on_resume_error fresh starts anew\n"
            + "\n".join(passed)
        )
    for info in _newest_first(found):
        loaded, remarks = keep_what_fits(info.path, shapes, passed)
        if loaded is not None:
            return loaded, remarks
    return None, passed


def _diverged(info: store.CheckpointInfo) -> str | None:
    if "diverged" in info.metadata or not info.metadata:
        return str(info.diverged) if info.diverged else None
    # Before that was written down, a loss that was not finite was written as none.
    return "losses before it were not finite" if info.metadata.get("loss", 0.0) is None else None


def keep_what_fits(path: Path, shapes: dict[str, torch.Size], passed: list[str]) -> tuple[Loaded | None, list[str]]:
    """What `--on_resume_error fresh` keeps of a checkpoint that cannot be continued: those of its weights that fit.

    Where all of them fit, training goes on at its step with a fresh optimizer; else it starts at step 0.
    """
    try:
        path = store.resolve(path) if path.is_dir() else path
        step, weights = _sound_weights(path, shapes)
    except CheckpointError as error:
        return None, [*passed, f"no weight of {path} can be kept, so that training starts fresh: {error}"]
    kept = {
        name: value
        for name, value in weights.items()
        if name in shapes and value.shape == shapes[name] and bool(torch.isfinite(value).all())
    }
    if not kept:
        return None, [*passed, f"no weight of {path} fits, so that training starts fresh: {mismatch(weights, shapes)}"]
    whole = len(kept) == len(shapes)
    remark = f"{path.name}: {len(kept)} of {len(shapes)} weights are kept, as --on_resume_error fresh says; " + (
        "the optimizer starts fresh"
        if whole
        else f"the others and the optimizer start fresh, at step 0; {mismatch(weights, shapes)}"
    )
    return Loaded(path=path, step=step if whole else 0, weights=kept, kept=True), [*passed, remark]


def _sound_weights(path: Path, shapes: dict[str, torch.Size]) -> tuple[int, dict[str, Tensor]]:
    """Step and weights of a checkpoint whose other files may be damaged; the sum of the weights, if any, must hold."""
    if store.is_legacy(path):
        return legacy.load(path, shapes, with_optimizer=False)[:2]
    metadata = store.read_metadata(path)
    of_weights = [n for n in metadata["files"] if n == saving.FULL_WEIGHTS or n.startswith(f"{sharded.FOLDER}/")]
    for file in of_weights or [saving.FULL_WEIGHTS]:
        if not (path / file).is_file() or sha256(path / file) != metadata["files"].get(file, {}).get("sha256"):
            raise CheckpointError(f"{path / file} is missing or damaged")
    return int(metadata["step"]), saving.read_weights(path)


def _newest_first(found: list[store.CheckpointInfo]) -> list[store.CheckpointInfo]:
    """By order of saving; one whose metadata is damaged stands where its step would put it."""
    known = [info for info in found if info.sequence >= 0][::-1]
    for info in sorted((i for i in found if i.sequence < 0), key=lambda i: i.step):
        place = next((k for k, other in enumerate(known) if other.step < info.step), len(known))
        known.insert(place, info)
    return known


def load(
    path: Path,
    stage_name: str,
    shapes: dict[str, torch.Size],
    config: TrainConfig,
    verified: bool = False,
    in_parts: bool = False,
) -> Loaded:
    """Read a checkpoint whole and check that it fits.

    Args:
        verified: its sums have been checked already.
        in_parts: whether processes read their own parts of a checkpoint that was written so.

    Raises:
        CheckpointError: if it is damaged, of another stage, or its weights have other names or shapes, or are not
            finite.
    """
    path = store.resolve(path) if path.is_dir() else path
    loaded = _load_legacy(path, shapes) if store.is_legacy(path) else _load_ours(path, verified, in_parts)
    found = loaded.state.get("stage", stage_name)
    if found != stage_name and not _overridden(config, "stage"):
        raise CheckpointError(
            f"{path} is of stage {found}, this run is {stage_name}; --init_from takes its weights only"
        )
    problem = mismatch(loaded.weights, shapes)
    if problem and not _overridden(config, "weights"):
        raise CheckpointError(f"{path} does not fit the trained networks: {problem}")
    # Of what is in parts nobody has seen a number yet; what was written says itself whether it had diverged.
    not_finite = None if verified or loaded.in_parts else saving.find_not_finite(loaded.weights | loaded.ema)
    if not_finite:
        raise CheckpointError(f"{path} has diverged: {not_finite}")
    if problem:
        loaded.weights = {k: v for k, v in loaded.weights.items() if k in shapes and v.shape == shapes[k]}
        loaded.optimizer = None
    return loaded


def _load_legacy(path: Path, shapes: dict[str, torch.Size]) -> Loaded:
    step, weights, optimizer, remarks = legacy.load(path, shapes)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return Loaded(path=path, step=step, weights=weights, optimizer=optimizer)


def _load_ours(path: Path, verified: bool = False, in_parts: bool = False) -> Loaded:
    if not verified:
        store.verify(path)
    metadata = store.read_metadata(path)
    loaded = Loaded(path, int(metadata["step"]), {})
    loaded.state, loaded.config = read_json(path / saving.STATE), read_json(path / saving.CONFIG)
    if in_parts and sharded.is_sharded(path):
        described = sharded.Parts(path).described()
        loaded.in_parts, loaded.optimizer = True, sharded.nested(described)
        if metadata.get("diverged"):
            raise CheckpointError(f"{path} has diverged: {metadata['diverged']}")
        loaded.weights, loaded.ema = (
            {name.partition("/")[2]: tensor for name, tensor in described.items() if name.startswith(f"{kind}/")}
            for kind in (sharded.WEIGHTS, sharded.EMA)
        )
        return loaded
    loaded.weights, loaded.ema = saving.read_weights(path), saving.read_ema(path)
    loaded.optimizer = saving.read_optimizer(path)
    return loaded


def mismatch(weights: dict[str, Tensor], shapes: dict[str, torch.Size], limit: int = 3) -> str | None:
    """The first names or shapes that differ, or None."""
    lines = [f"{name} is missing" for name in shapes if name not in weights]
    lines += [f"{name} is not trained here" for name in weights if name not in shapes]
    lines += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(shape)}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    if not lines:
        return None
    more = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + more


def changes(config: TrainConfig, loaded: Loaded) -> list[str]:
    """Settings that differ from those of the checkpoint, one line each, without those in --override."""
    now, then = config.to_dict(), loaded.config
    unrelated = {"output_path", "resume_from", "on_resume_error", "override", "init_from", "export_model_dir"}
    lines = []
    for section, values in now.items():
        before = then.get(section)
        if not isinstance(values, dict) or not isinstance(before, dict):
            continue
        for name, value in values.items():
            if name in unrelated or name not in before or before[name] == value or _overridden(config, name):
                continue
            lines.append(f"{name} was {before[name]}, is {value}")
    return lines


def _overridden(config: TrainConfig, name: str) -> bool:
    overrides = config.checkpoint.override or []
    return name in overrides or "all" in overrides


def init_weights(path: Path, shapes: dict[str, torch.Size], flag: str = "--init_from") -> dict[str, Tensor]:
    """Weights for a new run from any run, checkpoint or weight file: those that fit by name and shape.

    Args:
        flag: that named it, for messages.

    Raises:
        CheckpointError: if none fits.
    """
    path = store.resolve(path) if path.is_dir() else path
    legacy.refuse_unknown_injection(path)
    if store.is_legacy(path):
        weights = legacy.load(path, shapes)[1]
    else:
        weights = _exported_weights(path) or _load_ours(path).weights
    fitting = {name: value for name, value in weights.items() if name in shapes and value.shape == shapes[name]}
    if not fitting:
        raise CheckpointError(f"{flag} {path}: no weight fits; {mismatch(weights, shapes)}")
    not_finite = saving.find_not_finite(fitting)
    if not_finite:
        raise CheckpointError(f"{flag} {path} has diverged: {not_finite}")
    left = mismatch(weights, shapes)
    if left:
        warnings.warn(f"{flag} {path}: {len(fitting)} of {len(shapes)} weights taken; {left}", stacklevel=2)
    return fitting


def _exported_weights(path: Path) -> dict[str, Tensor]:
    """Weights by full name of a checkpoint that was published: only what it is flown with was kept. {} of others."""
    store.verify(path)
    if saving.FULL_WEIGHTS in store.read_metadata(path)["files"] or sharded.is_sharded(path):
        return {}
    networks = {"transformer": store.TRANSFORMER, "action_controller": store.CONTROLLER}
    return {
        f"{network}.{name}": value.float()
        for network, file in networks.items()
        if (path / file).is_file()
        for name, value in load_weights(path / file).items()
    }
