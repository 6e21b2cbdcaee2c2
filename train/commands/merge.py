"""`python -m train merge-lora`: fuse a LoRA into its base model, as the base of the next stage."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from wanact.errors import TakenError
from wanact.files import CheckpointError, check_safetensors, place, replacing_folder, sha256, visible
from wanact.models.overlay import Overlay, OverlayError
from wanact.runs import store
from wanact.runs.ref import CHECKPOINTS
from wanact.weights import model_dir
from wanact.weights.lora import lora_file, read_lora
from wanact.weights.names import ConvertError

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def main(argv: list[str] | None = None) -> int:
    """Fuse a LoRA into the transformer of a model directory and write a new one."""
    parser = argparse.ArgumentParser(prog="python -m train merge-lora", description=main.__doc__)
    parser.add_argument("--model_dir", type=place, required=True, help="the base model")
    parser.add_argument(
        "--lora_path", type=place, required=True, help="file of a LoRA, folder as peft writes it, run or checkpoint"
    )
    parser.add_argument("--alpha", type=float, default=1.0, help="strength of the LoRA, times its own")
    parser.add_argument("--output_dir", type=place, help="models/merged/<base>_merged if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--dtype", choices=list(DTYPES.values()), help="of the new weights; the base's if not given")
    args = parser.parse_args(argv)
    output = args.output_dir or Path("models", "merged", f"{args.model_dir.resolve().name}_merged")
    merge(args.model_dir, args.lora_path, output, args.alpha, args.overwrite, args.dtype)
    print(f"wrote the model directory {output}")
    return 0


def merge(
    base: Path, lora_path: Path, output: Path, alpha: float = 1.0, overwrite: bool = False, dtype: str | None = None
) -> None:
    """Write `output`: the base model with alpha times the LoRA in it.

    Raises:
        TakenError: if the output is there and `overwrite` is not set.
        CheckpointError: if the LoRA does not fit the base.
        ModelDirError: if the base cannot be read.
    """
    if output.exists() and not overwrite:
        raise TakenError(f"{output} exists; --overwrite replaces it")
    if output.exists() and output.resolve() == base.resolve():
        raise TakenError(f"{output} is the base model itself; choose another --output_dir")
    file = _lora_file(lora_path)
    lora = scaled(file, alpha)
    exact = model_dir.load_components(base, parts=("transformer",)).transformer  # float32: the sum is rounded once
    try:
        Overlay(exact).apply(lora=lora)
    except OverlayError as error:
        raise CheckpointError(f"{file} does not fit {base}: {error}") from error
    # What diffusers keeps in float32 (norms, tables) is so in components loaded in the lower type, and stays so.
    components = model_dir.load_components(base, dtype=getattr(torch, dtype or stored_dtype(base)))
    components.transformer.load_state_dict(exact.state_dict())
    components.metadata["merged_from"] = {
        "base_model": str(base),
        "base_fingerprint": model_dir.fingerprint(base),
        "lora": str(file),
        "lora_sha256": sha256(file),
        "alpha": alpha,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with replacing_folder(output, overwrite) as temporary:
        model_dir.save_components(components, temporary)


def _lora_file(path: Path) -> Path:
    """The LoRA of a file, of a folder as peft and diffusers write it, or of a run or checkpoint."""
    is_run = (path / CHECKPOINTS).is_dir() and not (path / store.LORA).is_file()
    try:
        return lora_file(store.resolve(path) if is_run else path)
    except ConvertError as error:
        raise CheckpointError(str(error)) from error


def scaled(file: Path, alpha: float) -> dict[str, Tensor]:
    """A LoRA in any format under diffusers' names, float32, `alpha` times as strong as its file says.

    Raises:
        CheckpointError: if it is none of this transformer.
    """
    try:
        named = read_lora(file)
    except ConvertError as error:
        raise CheckpointError(f"{file} holds no LoRA that is known here: {error}") from error
    return {name: value.float() * (1.0 if ".lora_A." in name else alpha) for name, value in named.items()}


def stored_dtype(directory: Path) -> str:
    """Type of most weights in the largest .safetensors file of the transformer, float32 if that is unknown."""
    folder = directory / "transformer"
    files = visible((folder if folder.is_dir() else directory).rglob("diffusion_pytorch_model*.safetensors"))
    if not files:
        return "float32"
    header = check_safetensors(max(files, key=lambda p: p.stat().st_size))
    sizes: dict[str, int] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    return DTYPES.get(max(sizes, key=lambda name: sizes[name], default="F32"), "float32")
