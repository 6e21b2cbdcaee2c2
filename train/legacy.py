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

from train.config import ConfigError, ModelConfig
from wanact import checkpoints
from wanact.checkpoints import CheckpointError, load_state, load_weights

# Where weights lie in a folder, the fullest names first.
WEIGHT_FILES = (
    "trainable_full.safetensors",
    "trainable.safetensors",
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    checkpoints.CONTROLLER,
    checkpoints.LORA,
)
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")
_NUMBER = re.compile(r"(?:step|epoch|checkpoint)[-_]?(\d+)")

# Names of layers in Wan's own code, as DiffSynth uses them, and in diffusers.
WAN_LAYERS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
_WAN_LAYER = re.compile(rf"^(.*blocks\.\d+\.)({'|'.join(map(re.escape, WAN_LAYERS))})(?=\.)")


def load(path: Path, shapes: dict[str, torch.Size]) -> tuple[int, dict[str, Tensor], dict[str, Any] | None, list[str]]:
    """A checkpoint of another layout.

    Args:
        path: its folder or file.
        shapes: shapes of the trained weights by full name.

    Returns:
        Step, weights by full name, optimizer states by phase (None if there are none that fit), and remarks.

    Raises:
        CheckpointError: if there are no weights, or a file is damaged or a pickle.
    """
    file = path if path.is_file() else _weight_file(path)
    weights = full_names(load_weights(file), shapes)
    step = _step_of(path)
    if path.is_file():
        return step, weights, None, [f"{path.name} holds weights only"]
    optimizer, remarks = _optimizer(path, shapes)
    return step, weights, optimizer, remarks


def _weight_file(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds no weights that are known here ({', '.join(WEIGHT_FILES)})")


def full_names(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Weights under the names of this run: prefixes of other trainers taken off, ours put on.

    Weights of a network that is trained here only in part are left out where they are not trained.
    """
    modules = sorted({name.partition(".")[0] for name in shapes})
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        short = _without_prefixes(name)
        candidates = [short, *(f"{module}.{short}" for module in modules)]
        renamed[next((c for c in candidates if c in shapes), _guess(short, modules))] = value
    found = {name.partition(".")[0] for name in renamed if name in shapes}
    return {n: v for n, v in renamed.items() if n in shapes or n.partition(".")[0] not in found}


def _guess(name: str, modules: list[str]) -> str:
    return name if name.partition(".")[0] in modules or len(modules) != 1 else f"{modules[0]}.{name}"


def _without_prefixes(name: str) -> str:
    for prefix in ("module.", "pipe.", "diffusion_model.", "base_model.model."):
        name = name.removeprefix(prefix)
    if name.startswith("dit."):
        name = "transformer." + name.removeprefix("dit.")
    name = _WAN_LAYER.sub(lambda match: match[1] + WAN_LAYERS[match[2]], name)
    for side in ("lora_A", "lora_B"):
        name = re.sub(rf"\.{side}\.weight$", f".{side}.default.weight", name)
    return name


def lora_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA of any trainer under diffusers' names: transformer.blocks.0.attn1.to_q.lora_A.weight."""
    renamed = {}
    for name, value in weights.items():
        name = _without_prefixes(name).removeprefix("transformer.")
        name = name.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.")
        name = name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
        renamed[f"transformer.{name}"] = value
    return renamed


def _step_of(path: Path) -> int:
    for name in ("trainer_state.json", checkpoints.METADATA):
        if path.is_dir() and (path / name).is_file():
            state = checkpoints.read_json(path / name)
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
        if entry["exp_avg"].shape != shape:
            return None
        step = entry["step"]
        named[name] = {**entry, "step": step if isinstance(step, Tensor) else torch.tensor(float(step))}
    return named


def base_model_dir(model: ModelConfig) -> str | None:
    """The model directory that `--model_dir`, `--model_paths` or `--model_id_with_origin_paths` means.

    Raises:
        ConfigError: if the files do not lie in one directory, or are not there and cannot be fetched.
    """
    if model.model_paths:
        return _common_folder(model.model_paths)
    if model.model_id_with_origin_paths:
        return _from_hub(model.model_id_with_origin_paths)
    return model.model_dir


def _common_folder(text: str) -> str:
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
    except ValueError as error:
        raise ConfigError(f"--model_paths is not a JSON list: {error}") from error
    files = [Path(str(f).strip()) for entry in listed for f in (entry if isinstance(entry, list) else [entry])]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise ConfigError(f"--model_paths: {missing[0]} is missing")
    folder = Path(os.path.commonpath([file.resolve().parent for file in files]))
    if not any((folder / name).exists() for name in ("model_index.json", "Wan2.2_VAE.pth")):
        raise ConfigError(
            f"--model_paths: {folder} is no model directory; put the files into one, with model_index.json, and give "
            "--model_dir"
        )
    return str(folder)


def _from_hub(text: str) -> str:
    """Local copy of a Hub repository: DiffSynth's own place, or the Hub's cache."""
    pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    repositories = {name for name, _, _ in pairs}
    if len(repositories) != 1 or not all(pattern for _, _, pattern in pairs):
        raise ConfigError('--model_id_with_origin_paths takes "org/name:pattern, org/name:pattern" of one repository')
    (repository,) = repositories
    if Path("models", repository).is_dir():
        return str(Path("models", repository))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [pattern for _, _, pattern in pairs]
    try:
        return snapshot_download(repository, allow_patterns=[*patterns, "google/umt5-xxl/*", "*.json"])
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"--model_id_with_origin_paths: {repository} is not on this machine and cannot be fetched "
            f"({type(error).__name__}); download it and give --model_dir"
        ) from error
