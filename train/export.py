"""`python -m train export`: files to fly with, or a whole model directory, from a run or a checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wanact import checkpoints, model_dir
from wanact.checkpoints import CONTROLLER, LORA, RUN_CONFIG, TRANSFORMER, CheckpointError, FlightWeights

ORIGIN = "exported_from.json"
DTYPES = ("float32", "float16", "bfloat16")


def main(argv: list[str] | None = None) -> int:
    """Write what a run or checkpoint adds to its base model, or the base model with it."""
    parser = argparse.ArgumentParser(prog="python -m train export", description=main.__doc__)
    parser.add_argument("path", type=Path, help="run (its newest checkpoint) or checkpoint")
    parser.add_argument("--output_dir", type=Path, help="for files to fly with; the run's folder if not given")
    parser.add_argument("--export_model_dir", type=Path, help="write a model directory instead, transformer included")
    parser.add_argument("--model_dir", type=Path, help="its base; the one that the run was trained on if not given")
    parser.add_argument("--export_dtype", choices=DTYPES, default="bfloat16", help="of the model directory's weights")
    args = parser.parse_args(argv)
    checkpoint = checkpoints.resolve(args.path)
    if (checkpoint / checkpoints.METADATA).exists():
        checkpoints.verify(checkpoint)
    if args.export_model_dir is None:
        run = checkpoint.parent.parent if checkpoint.parent.name == checkpoints.CHECKPOINTS else checkpoint
        written = write_flight_files(checkpoints.load_flight_weights(checkpoint), args.output_dir or run)
        print("\n".join(f"wrote {file}" for file in written))
        return 0
    weights = trained_networks(checkpoint)
    base = args.model_dir or _base_of(checkpoint)
    origin = {"run": str(args.path.resolve()), "step": checkpoints.checkpoint_info(checkpoint).step}
    with new_folder(args.export_model_dir, origin) as temporary:
        write_model_dir(base, temporary, weights, args.export_dtype)
    print(f"wrote the model directory {args.export_model_dir}")
    return 0


def write_flight_files(weights: FlightWeights, folder: Path) -> list[Path]:
    """Write the configuration and each kind of weights that there is; each file is whole or as before."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(folder / RUN_CONFIG, weights.config)
    written = [folder / RUN_CONFIG]
    for name, tensors in ((CONTROLLER, weights.controller), (LORA, weights.lora), (TRANSFORMER, weights.transformer)):
        if tensors is not None:
            with checkpoints.replacing(folder / name) as temporary:
                save_file(tensors, temporary)
                temporary.chmod(0o644)
            written.append(folder / name)
    return written


def trained_networks(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """Trained weights of transformer and text encoder in a checkpoint; averaged ones where there are.

    Raises:
        CheckpointError: if it trained neither, or a LoRA only.
    """
    averaged = checkpoint / "ema.safetensors"
    file = averaged if averaged.is_file() else checkpoint / "trainable_full.safetensors"
    modules = split_modules(checkpoints.load_weights(file))
    networks = {name: modules[name] for name in ("transformer", "text_encoder") if name in modules}
    if not networks:
        raise CheckpointError(f"{checkpoint} trained no transformer and no text encoder: there is nothing to put in")
    if any(".lora_" in name for name in networks.get("transformer", {})):
        raise CheckpointError(f"{checkpoint} holds a LoRA; `python -m train merge-lora` makes a model directory of it")
    return networks


def _base_of(checkpoint: Path) -> Path:
    config = checkpoints.read_json(checkpoint / "train_config.json")
    base = config.get("model", {}).get("model_dir")
    if not base:
        raise CheckpointError(f"{checkpoint} does not say what it was trained on; give --model_dir")
    return Path(base)


def exported_from(folder: Path) -> dict[str, Any] | None:
    """Run and step that a folder was exported from, None if it does not say."""
    return checkpoints.read_json(folder / ORIGIN) if (folder / ORIGIN).is_file() else None


def require_free(folder: Path, run: str) -> None:
    """Raise FileExistsError if something is there that this run did not export."""
    if folder.is_dir() and any(folder.iterdir()) and (exported_from(folder) or {}).get("run") != run:
        raise FileExistsError(f"{folder} holds a model already, or other files; choose another folder or remove it")


@contextlib.contextmanager
def new_folder(folder: Path, origin: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into that takes its place when the block ends without an error.

    Args:
        origin: `run` and `step`, written beside; an older export of the same run is replaced.

    Raises:
        FileExistsError: if something else is there.
    """
    require_free(folder, origin["run"])
    with replacing_folder(folder) as temporary:
        yield temporary
        checkpoints.write_json(temporary / ORIGIN, origin)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends without an error."""
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
