"""Whether exported weights can be flown, found out before anything is built from them.

Files and configurations come from folders and visitors that nobody vouches for, so every number is held against a
limit before memory is taken for it: headers against the size of their file, a controller's configuration against what
could fit a transformer, shapes against the configuration, and then the values themselves for NaN and infinity.
"""

from __future__ import annotations

import functools
import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wanact.files import CheckpointError, check_safetensors
from wanact.models.controller import controller_of
from wanact.runs import store
from wanact.runs.ref import is_in_run
from wanact.runs.store import CONTROLLER, LORA, TRANSFORMER
from wanact.runs.trained import FILES, networks, split, trained_file
from wanact.weights.convert import convert
from wanact.weights.names import ConvertError

EXPORTED = (CONTROLLER, LORA, TRANSFORMER)
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# Far above any transformer there is; a configuration beyond them only takes memory.
_LARGEST = {
    "action_dim": 64,
    "hidden_size": 16_384,
    "num_heads": 1_024,
    "num_latent_frames": 100_000,
    "num_layers": 1_000,
}


def check_flight_files(folder: Path, config: Mapping[str, Any], values: bool = True) -> None:
    """Raise CheckpointError, in one sentence, if the exported weights of a folder cannot be flown.

    Args:
        folder: a checkpoint, or a run that holds exported weights.
        config: content of its action_train_config.json.
        values: read the tensors too, and look for NaN and infinity. Without it only headers are read.
    """
    files = flight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder} holds no exported weights ({', '.join(EXPORTED)}): it can be resumed, not flown"
        )
    for file in files:
        header = check_safetensors(file)
        _check_header(file, header)
        controller = header if file.name == CONTROLLER else split(header).get(CONTROLLER)
        if controller is not None and file.name in (CONTROLLER, *FILES):
            check_controller(file, controller, config)
        if values:
            check_values(file)


def flight_files(folder: Path) -> list[Path]:
    """What a folder is flown with: exported weights, or trained ones where another trainer has left nothing else."""
    files = [folder / name for name in EXPORTED if (folder / name).exists()]
    trained = trained_file(folder) if not files and is_in_run(folder) and store.is_legacy(folder) else None
    return files if trained is None or not networks(check_safetensors(trained)) else [trained]


def check_controller(file: Path, header: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a controller's header has the names and shapes that its configuration asks for."""
    settings = config.get("action_controller_config")
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} comes without a configuration: no action_controller_config is named")
    for name, largest in _LARGEST.items():
        value = settings.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise CheckpointError(
                f"{name} of {file} is {reprlib.repr(value)[:40]}, expected a whole number from 1 to {largest:,}"
            )
    try:
        expected, needed = _controller_shapes(json.dumps(settings, sort_keys=True))
        found = convert(
            "controller", {name: torch.empty(shape, device="meta") for name, shape in _shapes(header)}, partial=True
        )
    except (ConvertError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{file} is no action controller: {' '.join(str(error).split())[:200]}") from error
    missing = sorted(needed - set(found))
    unknown = sorted(set(found) - set(expected))
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which no action controller has"
        raise CheckpointError(f"{file} {what[:200]}")
    for name, value in found.items():
        if tuple(value.shape) != expected[name]:
            raise CheckpointError(
                f"{name} of {file} has shape {tuple(value.shape)}, its configuration asks for {expected[name]}"
            )


@functools.lru_cache(maxsize=32)
def _controller_shapes(settings: str) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """What a controller of these settings has, and those of it that must be there."""
    with torch.device("meta"):
        controller = controller_of(json.loads(settings))
    weights = controller.state_dict()
    return {name: tuple(value.shape) for name, value in weights.items()}, frozenset(controller.used(weights))


def _shapes(header: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    return [(name, entry["shape"]) for name, entry in header.items() if name != "__metadata__"]


def _check_header(file: Path, header: Mapping[str, Any]) -> None:
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    if not entries:
        raise CheckpointError(f"{file} holds no weights")
    for name, entry in entries:
        shape = entry.get("shape")
        if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise CheckpointError(f"{file} has a damaged safetensors header: {name[:80]} has no shape")
        if entry.get("dtype") not in _FLOATS:
            raise CheckpointError(f"{name[:80]} of {file} is {str(entry.get('dtype'))[:20]}, expected floating point")


def check_values(file: Path) -> None:
    """Raise CheckpointError unless a file of weights can be read and every value of it is finite."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(file), framework="pt") as tensors:
            for name in tensors.keys():
                if not bool(torch.isfinite(tensors.get_tensor(name).float()).all()):
                    raise CheckpointError(f"{name} of {file} holds NaN or infinity")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} cannot be read as safetensors: {str(error)[:200]}") from error
