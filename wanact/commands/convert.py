"""Convert a model directory, or a file of fine-tuned weights, from whatever it is in.

    python -m wanact convert SRC DST --to manifest|diffusers|original [--dtype bfloat16]

Weights stream shard by shard: memory holds one shard at a time, whatever the size of the model.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wanact.files import place, visible
from wanact.models.components import CONFIG_CLASSES, NETWORKS, PIPELINE_INDEX, library_class
from wanact.models.presets import LATENTS_MEAN, LATENTS_STD
from wanact.weights import layouts, model_dir
from wanact.weights.convert import KeyMap, convert, key_map
from wanact.weights.files import WeightFiles, write_safetensors, write_torch
from wanact.weights.layouts import DIFFUSERS, INDEX, MANIFEST, METADATA, ORIGINAL, Layout, ModelDirError, write_json
from wanact.weights.lora import convert_lora, is_adapter, lora_file, lora_settings
from wanact.weights.names import ConvertError
from wanact.weights.transformer import original_config

DTYPES = ("float32", "bfloat16", "float16")

# Files of each network, relative to the directory, and the folder names of a manifest as DiffSynth has them.
STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "Wan2.2_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
}
DIFFUSERS_STEMS = {"transformer": STEMS["transformer"], "vae": STEMS["transformer"], "text_encoder": "model"}
MANIFEST_FOLDERS = {"transformer": "dit", "vae": "vae", "text_encoder": "text_encoder"}
MANIFEST_NAMES = {"transformer": "wan_video_dit", "vae": "wan_video_vae", "text_encoder": "wan_video_text_encoder"}


@dataclass(frozen=True)
class _Network:
    """One network as it lies in SRC, and what becomes of its names."""

    part: str
    weights: WeightFiles
    plan: KeyMap


def convert_dir(
    source: Path,
    target: Path,
    to: str,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
    report: Callable[[str], None] = print,
) -> Path:
    """Write a model directory anew in another layout.

    Args:
        source: a directory in any layout, or a name on the Hub.
        target: must not exist, or be empty. It appears whole or not at all.
        to: manifest, diffusers or original.
        dtype: of the weights; None keeps each as it is.
        max_shard_bytes: size of a shard of the transformer, and of all networks in diffusers' layout.
        report: called with a line for each network.

    Returns:
        The target.

    Raises:
        ModelDirError, ConvertError: if the source cannot be used, or the target is not empty or has no room.
    """
    source = layouts.resolve(source)
    layout, metadata = layouts.locate(source), model_dir.read_metadata(source)
    if target.exists() and (not target.is_dir() or visible(target.iterdir())):
        raise ModelDirError(f"{target} exists already; give a new directory")
    networks = [_plan(part, layout, metadata, to) for part in NETWORKS if part in layout.sources]
    _require_room(networks, target, dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        for network in networks:
            files = _write(network, unfinished, to, dtype, max_shard_bytes)
            names = ", ".join(str(file.relative_to(unfinished)) for file in files)
            report(f"{network.part}: {len(network.plan.names)} weights, {network.plan.source} -> {names}")
        _write_rest(layout, metadata, networks, unfinished, to)
        if target.exists():
            for left in target.iterdir():  # by a file manager; anything else would make rmdir fail
                if not visible([left]):
                    left.unlink()
            target.rmdir()
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def convert_file(source: Path, target: Path, to: str, *, key: str | None = None) -> str:
    """Write fine-tuned weights of the transformer, or a LoRA, under other names.

    Args:
        source: weights in any convention, all or some; of a LoRA also a folder as peft and diffusers write it.
        target: a .safetensors file.
        to: original, diffusers or diffsynth (manifest means DiffSynth's names too).
        key: which state_dict inside a .pt file.

    Returns:
        A sentence that says what was written.

    Raises:
        ConvertError: if the names are those of neither.
    """
    if target.suffix != ".safetensors":
        raise ConvertError(f"{target} must end in .safetensors")
    source = lora_file(source)
    weights = WeightFiles([source], key)
    to = "diffsynth" if to == MANIFEST else to
    if is_adapter(weights):
        converted, kind = convert_lora(weights, to, settings=lora_settings(source, weights)), "LoRA"
    else:
        converted, kind = convert("transformer", weights, to, partial=True), "transformer"
    holder = WeightFiles.of(converted)
    write_safetensors(holder, {name: name for name in holder}, target.parent, target.stem, max_shard_bytes=10**15)
    return f"{target}: {len(converted)} weights of a {kind}"


def _plan(part: str, layout: Layout, metadata: dict[str, Any], to: str) -> _Network:
    source = layout.sources[part]
    files = source.weights or tuple(sorted(visible(source.folder.glob("*.safetensors"))))
    if not files:
        raise ModelDirError(f"{source.folder} holds no .safetensors files")
    weights = WeightFiles(files)
    config, hints = model_dir.read_configs(part, source.folder, metadata)
    names = DIFFUSERS if to == DIFFUSERS else ORIGINAL
    return _Network(part, weights, key_map(part, weights.shapes, names, config=config, hints=hints))


def _require_room(networks: list[_Network], target: Path, dtype: torch.dtype | None) -> None:
    existing = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    needed = sum(network.weights.num_bytes(dtype) for network in networks)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ModelDirError(f"{target} needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there")


def _write(network: _Network, target: Path, to: str, dtype: torch.dtype | None, max_shard_bytes: int) -> list[Path]:
    part, weights, names = network.part, network.weights, network.plan.names
    if to == DIFFUSERS:
        stem = DIFFUSERS_STEMS[part]
        return write_safetensors(weights, names, target / part, stem, dtype=dtype, max_shard_bytes=max_shard_bytes)
    folder = target / MANIFEST_FOLDERS[part] if to == MANIFEST else target
    if part == "transformer":
        return write_safetensors(weights, names, folder, STEMS[part], dtype=dtype, max_shard_bytes=max_shard_bytes)
    return [write_torch(weights, names, folder / STEMS[part], dtype=dtype)]


def _write_rest(layout: Layout, metadata: dict[str, Any], networks: list[_Network], target: Path, to: str) -> None:
    """Configurations, tokenizer, scheduler, index and metadata."""
    parts = [part for part in ("tokenizer", "scheduler") if part in layout.sources or part == "scheduler"]
    loaded = model_dir.load_components(layout.path, parts=parts)
    configs = {network.part: network.plan.config or {} for network in networks}
    folders = {"tokenizer": "google/umt5-xxl" if to == ORIGINAL else "tokenizer", "scheduler": "scheduler"}
    if loaded.tokenizer is not None:
        shutil.copytree(layout.sources["tokenizer"].folder, target / folders["tokenizer"])
    loaded.scheduler.save_pretrained(target / folders["scheduler"])
    metadata = {name: value for name, value in metadata.items() if name != "vae"}
    if to == DIFFUSERS:
        index = dict(PIPELINE_INDEX)
        for part, config in configs.items():
            kind = CONFIG_CLASSES[part]
            label = {"model_type": kind} if part == "text_encoder" else {"_class_name": kind}
            write_json(target / part / "config.json", {**label, **_plain(config)})
            index[part] = ["transformers", "UMT5EncoderModel"] if part == "text_encoder" else ["diffusers", kind]
        index["scheduler"] = library_class(loaded.scheduler)
        if loaded.tokenizer is not None:
            index["tokenizer"] = library_class(loaded.tokenizer)
        write_json(target / INDEX, index)
    else:
        if "transformer" in configs:
            folder = target / MANIFEST_FOLDERS["transformer"] if to == MANIFEST else target
            length = int(metadata["defaults"]["max_sequence_length"])
            write_json(folder / "config.json", original_config(configs["transformer"], length))
        metadata |= _vae_metadata(configs.get("vae"))
    if to == MANIFEST:
        write_json(target / INDEX, _manifest(layout, metadata, networks, target, loaded.tokenizer is not None))
    write_json(target / METADATA, metadata)


def _vae_metadata(config: dict[str, Any] | None) -> dict[str, Any]:
    """The latents' statistics, where they are not those that the original code has written into it."""
    if config is None:
        return {}
    mean, std = list(config["latents_mean"]), list(config["latents_std"])
    if (mean, std) == (list(LATENTS_MEAN), list(LATENTS_STD)):
        return {}
    return {"vae": {"latents_mean": mean, "latents_std": std}}


def _manifest(
    layout: Layout, metadata: dict[str, Any], networks: list[_Network], target: Path, has_tokenizer: bool
) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for network in networks:
        folder = target / MANIFEST_FOLDERS[network.part]
        files = sorted(str(file.relative_to(target)) for file in folder.iterdir() if file.suffix != ".json")
        components[MANIFEST_NAMES[network.part]] = files if len(files) > 1 else files[0]
    components |= {"tokenizer": "tokenizer"} if has_tokenizer else {}
    return {
        "model_name": str(metadata.get("name") or layout.path.resolve().name),
        "components": components | {"scheduler": "scheduler"},
    }


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what libraries note for themselves."""
    return {key: value for key, value in config.items() if key not in ("_use_default_values", "_name_or_path")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert as asked; returns the exit status."""
    args = _parser().parse_args(arguments)
    if args.target.suffix == ".safetensors" or Path(args.source).is_file():
        print(convert_file(Path(args.source), args.target, args.to, key=args.key))
        return 0
    dtype = getattr(torch, args.dtype) if args.dtype else None
    shard_bytes = int(args.max_shard_gb * 1e9)
    target = convert_dir(args.source, args.target, args.to, dtype=dtype, max_shard_bytes=shard_bytes)
    print(f"{target} is ready: give it as --model_dir")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wanact convert", description="Convert a model directory, or a file of fine-tuned weights."
    )
    parser.add_argument("source", help="model directory in any layout, a name on the Hub, or a file of weights")
    parser.add_argument("target", type=place, help="new directory, or a .safetensors file")
    parser.add_argument("--to", required=True, choices=(MANIFEST, DIFFUSERS, ORIGINAL), help="layout, and names")
    parser.add_argument("--dtype", choices=DTYPES, help="cast the weights; default: as they are")
    parser.add_argument("--max_shard_gb", type=float, default=5.0, help="size of a shard, and of the memory in use")
    parser.add_argument("--key", help="which state_dict inside a .pt file, for example generator")
    return parser
