"""Trained networks as a model directory that this project and stock diffusers load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wanact import model_dir
from wanact.checkpoints import CheckpointError


def write_model_dir(base: Path, folder: Path, trained: dict[str, dict[str, Tensor]], dtype: str) -> None:
    """Write the base model with trained weights in their place.

    Args:
        base: the model directory that training began with.
        folder: the new one.
        trained: weights by component; a component may be there in part.
        dtype: of transformer and text encoder.

    Raises:
        CheckpointError: if the weights do not belong to the base.
        FileExistsError: if the folder holds a model already.
    """
    if (folder / model_dir.INDEX).exists():
        raise FileExistsError(f"{folder} holds a model already; choose another folder or remove it")
    components = model_dir.load_components(base, dtype=getattr(torch, dtype))
    for name, weights in trained.items():
        network: nn.Module = getattr(components, name)
        unexpected = network.load_state_dict(weights, strict=False).unexpected_keys
        if unexpected:
            raise CheckpointError(f"the {name} of {base} has no weight {unexpected[0]}: it is another model")
    model_dir.save_components(components, folder)


def split_modules(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Full-named weights by module: {"transformer": {"blocks.0...": ...}}."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        module, _, rest = name.partition(".")
        modules.setdefault(module, {})[rest] = value
    return modules
