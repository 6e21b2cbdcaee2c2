"""Checkpoints of other trainers and of earlier layouts, and earlier ways to name the base model.

Read, never written: step directories without a manifest, `checkpoint-epoch0-step100` and `checkpoint-best` with
`trainer_state.pt`, state folders of accelerate, DiffSynth's `step-N.safetensors` and `epoch-N.safetensors`, and a bare
`action_controller.safetensors`. They have no sums, so that damage shows only where a file cannot be read.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.loop.config import ConfigError, ModelConfig
from wanact.errors import UserError
from wanact.files import CheckpointError, load_state, load_weights, read_json
from wanact.models.controller import require_injection
from wanact.runs import store
from wanact.runs.ref import read_config
from wanact.weights import layouts, transformer
from wanact.weights.lora import is_adapter, read_lora
from wanact.weights.names import ConvertError, bare_name, listing

# Where weights lie in a folder, the fullest names first.
WEIGHT_FILES = (
    "trainable_full.safetensors",
    "trainable.safetensors",
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    store.CONTROLLER,
    store.LORA,
)
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")
_NUMBER = re.compile(r"(?:step|epoch|checkpoint)[-_]?(\d+)")

# What peft calls an adapter that nobody named.
ADAPTER = "default"


def load(
    path: Path, shapes: dict[str, torch.Size], with_optimizer: bool = True
) -> tuple[int, dict[str, Tensor], dict[str, Any] | None, list[str]]:
    """A checkpoint of another layout.

    Args:
        path: its folder or file.
        shapes: shapes of the trained weights by full name.
        with_optimizer: whether its optimizer is read too.

    Returns:
        Step, weights by full name, optimizer states by phase (None if there are none that fit), and remarks.

    Raises:
        CheckpointError: if there are no weights, or a file is damaged or a pickle.
    """
    file = path if path.is_file() else _weight_file(path)
    content = load_weights(file)
    weights = from_lora(file) if is_adapter(content) else full_names(content, shapes)
    step = _step_of(path)
    if not with_optimizer:
        return step, weights, None, []
    if path.is_file():
        return step, weights, None, [f"{path.name} holds weights only"]
    optimizer, remarks = _optimizer(path, shapes)
    return step, weights, optimizer, remarks


def refuse_unknown_injection(path: Path) -> None:
    """Raise CheckpointError if the configuration that weights come with is of an injection type that is unknown here.

    Args:
        path: a run, a checkpoint or a file in one.
    """
    settings = read_config(path if path.is_dir() else path.parent).get("action_controller_config")
    if isinstance(settings, dict) and "injection_type" in settings:
        try:
            require_injection(settings["injection_type"])
        except UserError as error:
            raise CheckpointError(f"{path} cannot be used here: {error}") from error


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds no weights that are known here ({', '.join(WEIGHT_FILES)})")


def full_names(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Weights under the names of this run: what other trainers put before them taken off, ours put on.

    Weights of a network that is trained here only in part are left out where they are not trained.
    """
    modules = sorted({name.partition(".")[0] for name in shapes})

    def translate(name: str) -> str | None:
        names = [
            name,
            *(f"{module}.{name}" for module in modules),
            f"transformer.{transformer.NAMES.to_diffusers(name)}",
        ]
        return next((candidate for candidate in names if candidate in shapes), None)

    renamed = {bare_name(name, translate) or _guess(name, modules): value for name, value in weights.items()}
    found = {name.partition(".")[0] for name in renamed if name in shapes}
    return {n: v for n, v in renamed.items() if n in shapes or n.partition(".")[0] not in found}


def _guess(name: str, modules: list[str]) -> str:
    """A name that fits nothing, as it reads in a list of what does not fit."""
    return name if name.partition(".")[0] in modules or len(modules) != 1 else f"{modules[0]}.{name}"


def from_lora(path: Path) -> dict[str, Tensor]:
    """A LoRA in any format, as strong as its file or folder says, under the full names of an adapter that is trained.

    Raises:
        CheckpointError: if it is none of this transformer, or changes biases.
    """
    try:
        named = read_lora(path)
    except ConvertError as error:
        raise CheckpointError(f"this is no LoRA of the transformer: {error}") from error
    biases = [name for name in named if name.endswith(".bias")]
    if biases:
        raise CheckpointError(f"{path} changes biases ({listing(biases)}), which no LoRA does that is trained here")
    return {f"{name.removesuffix('.weight')}.{ADAPTER}.weight": value for name, value in named.items()}


def _step_of(path: Path) -> int:
    for name in ("trainer_state.json", store.METADATA):
        if path.is_dir() and (path / name).is_file():
            state = read_json(path / name)
            for key in ("global_step", "step"):
                if isinstance(state.get(key), int):
                    return state[key]
    if path.is_dir() and (path / "trainer_state.pt").is_file():
        state = load_state(path / "trainer_state.pt")
        for key in ("global_step", "step"):
            if isinstance(state, dict) and isinstance(state.get(key), int):
                return state[key]
    steps = re.findall(r"step-?(\d+)", path.name) or _NUMBER.findall(path.name)
    # An epoch's number says nothing about the steps in it.
    return int(steps[-1]) if steps and not path.name.startswith("epoch") else 0


def _optimizer(folder: Path, shapes: dict[str, torch.Size]) -> tuple[dict[str, Any] | None, list[str]]:
    """The optimizer's state by parameter name, if it is there and its parameters are ours in number and shape."""
    file = next((folder / name for name in OPTIMIZER_FILES if (folder / name).is_file()), None)
    state = load_state(file) if file else None
    if state is None and (folder / "trainer_state.pt").is_file():
        content = load_state(folder / "trainer_state.pt")
        keys = ("optimizer_state_dict", "optimizer")
        state = next((content[key] for key in keys if isinstance(content, dict) and content.get(key)), None)
    if state is None:
        return None, [f"{folder.name} has no optimizer state: optimizer and scheduler start fresh"]
    named = _by_name(state, shapes)
    if named is None:
        return None, [f"the optimizer state of {folder.name} is for other parameters: optimizer starts fresh"]
    return {"main": {"state": named}}, []


def _by_name(state: Any, shapes: dict[str, torch.Size]) -> dict[str, Any] | None:
    """torch numbers parameters in the order they were given in, which is the order of the network."""
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict) or "param_groups" not in state:
        return None
    order = [index for group in state["param_groups"] for index in group["params"]]
    if len(order) != len(shapes):
        return None
    named = {}
    for index, (name, shape) in zip(order, shapes.items(), strict=True):
        entry = state["state"].get(index)
        if entry is None:
            continue
        if not {"exp_avg", "exp_avg_sq", "step"} <= entry.keys() or entry["exp_avg"].shape != shape:
            return None  # of other parameters, or not AdamW's
        step = entry["step"]
        named[name] = {**entry, "step": step if isinstance(step, Tensor) else torch.tensor(float(step))}
    return named


def base_model_dir(model: ModelConfig) -> Path:
    """The model directory that `--model_dir`, `--model_paths` or `--model_id_with_origin_paths` means.

    Raises:
        ConfigError: if the files of `--model_paths` are not there.
        ModelDirError: if a Hub id is neither on this machine nor can be fetched.
    """
    if model.model_paths:
        return _common_folder(model.model_paths)
    return layouts.resolve(model.model_id_with_origin_paths or model.model_dir or "")


def _common_folder(text: str) -> Path:
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
    except ValueError as error:
        raise ConfigError(f"--model_paths is not a JSON list: {error}") from error
    files = [Path(str(f).strip()) for entry in listed for f in (entry if isinstance(entry, list) else [entry])]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise ConfigError(f"--model_paths: {missing[0]} is missing")
    return Path(os.path.commonpath([file.resolve().parent for file in files]))
