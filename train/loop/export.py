"""What training writes to be used: trained networks of a checkpoint, and whole model directories."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.loop import saving
from wanact.errors import TakenError
from wanact.files import CheckpointError, read_json, replacing, replacing_folder, visible, write_json
from wanact.weights import model_dir
from wanact.weights.convert import ORIGINAL, convert
from wanact.weights.finetuned import side_file

ORIGIN = "exported_from.json"


def trained_networks(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """Trained weights of transformer and text encoder in a checkpoint; averaged ones where there are.

    Raises:
        CheckpointError: if it trained neither, or a LoRA only.
    """
    modules = split_modules(saving.read_ema(checkpoint) or saving.read_weights(checkpoint))
    networks = {name: modules[name] for name in ("transformer", "text_encoder") if name in modules}
    if not networks:
        raise CheckpointError(f"{checkpoint} trained no transformer and no text encoder: there is nothing to put in")
    if any(".lora_" in name for name in networks.get("transformer", {})):
        raise CheckpointError(f"{checkpoint} holds a LoRA; `python -m train merge-lora` makes a model directory of it")
    return networks


def exported_from(folder: Path) -> dict[str, Any] | None:
    """Run and step that a folder was exported from, None if it does not say."""
    return read_json(folder / ORIGIN) if (folder / ORIGIN).is_file() else None


def require_free(folder: Path, run: str) -> None:
    """Raise TakenError if something is there that this run did not export."""
    if not folder.exists() or (folder.is_dir() and not visible(folder.iterdir())):
        return
    if (exported_from(folder) or {}).get("run") != run:
        raise TakenError(f"{folder} holds a model already, or other files; choose another folder or remove it")


def file_exported_from(file: Path) -> dict[str, Any]:
    """Run and step that a file of weights was exported from, as is said beside it; {} if it is not, or not there."""
    try:
        said = read_json(side_file(file)) if file.is_file() else {}
    except CheckpointError:
        return {}
    return {name: said.get(name) for name in ("run", "step")} if said.get("run") else {}


def require_free_file(file: Path, run: str) -> None:
    """Raise TakenError if a file of weights is there that this run did not export, such as a released one."""
    if file.exists() and file_exported_from(file).get("run") != run:
        raise TakenError(f"{file} is there and was not written by this run; name another --save_path, or move it away")


def write_original(
    file: Path, weights: dict[str, Tensor], transformer: dict[str, Any], said: dict[str, Any], origin: dict[str, Any]
) -> None:
    """Write a whole transformer as Wan's own code reads it: `load_state_dict(torch.load(file, weights_only=True))`.

    Args:
        file: .pt; what is said of it lies beside it, in a .json of the same name.
        weights: all of the transformer's, in diffusers' names.
        transformer: its configuration, against which names and shapes are held.
        said: how it is flown.
        origin: `run` and `step`; a file of another run is never replaced.

    Raises:
        ConvertError: if a weight is missing.
        TakenError: if another run's file, or anyone's, is there.
    """
    require_free_file(file, origin["run"])
    renamed = convert("transformer", weights, ORIGINAL, config=transformer)
    file.parent.mkdir(parents=True, exist_ok=True)
    # The file beside says first that the weights are this run's, of no step yet: a kill in between can be repeated.
    write_json(side_file(file), said | origin | {"step": None})
    with replacing(file) as temporary:
        torch.save({name: value.contiguous() for name, value in renamed.items()}, temporary)
    write_json(side_file(file), said | origin)


@contextlib.contextmanager
def new_folder(folder: Path, origin: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into that takes its place when the block ends without an error.

    Args:
        origin: `run` and `step`, written beside; an older export of the same run is replaced.

    Raises:
        TakenError: if something else is there.
    """
    with replacing_folder(folder) as temporary:
        require_free(folder, origin["run"])  # now, as what a killed export had put aside is back in its place
        yield temporary
        write_json(temporary / ORIGIN, origin)


def write_model_dir(base: Path, folder: Path, trained: dict[str, dict[str, Tensor]], dtype: str) -> None:
    """Write the base model with trained weights in their place.

    Args:
        base: the model directory that training began with.
        folder: the new one.
        trained: weights by component; a component may be there in part.
        dtype: of transformer and text encoder.

    Raises:
        CheckpointError: if the weights do not belong to the base.
    """
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
