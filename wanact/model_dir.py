"""A model directory: where the networks of a world lie, and how it likes to be flown.

Two layouts, told apart by what is in `model_index.json`:

- diffusers: `_class_name`, and one folder a component;
- a manifest: `model_name` and `components`, which names for each component a folder, a file, a glob or a list of
  them, relative to the directory.

Beside either lies `metadata.json` with the `defaults` of a clip. Nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from wanact import shapes
from wanact.models.components import (
    PARTS,
    PIPELINE_CLASS,
    ComponentError,
    default_scheduler,
    library_class,
    load_component,
)

INDEX, METADATA = "model_index.json", "metadata.json"

# Manifests name components as DiffSynth does; our own names are as good.
COMPONENT_NAMES = {
    "wan_video_dit": "transformer",
    "wan_video_vae": "vae",
    "wan_video_text_encoder": "text_encoder",
    **{part: part for part in PARTS},
}

# What a directory without metadata gets: Wan2.2-TI2V-5B at the size the action controller is trained at.
DEFAULTS: dict[str, Any] = {
    "height": 480,
    "width": 832,
    "num_frames": 81,
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "fps": 24,
    "flow_shift": 5.0,
    "max_sequence_length": 512,
    "negative_prompt": "",
}


class ModelDirError(ValueError):
    """A model directory that cannot be used; the message is one sentence that names the file."""


@dataclass
class Components:
    """The parts of a model; those that were not asked for are None.

    Attributes:
        transformer: `WanActTransformer3DModel`.
        vae: `AutoencoderKLWan`, float32.
        text_encoder: `UMT5EncoderModel`.
        tokenizer: of the text encoder.
        scheduler: of diffusers; its state belongs to one clip, so copy it.
        metadata: content of metadata.json with every entry of `DEFAULTS` under "defaults".
        path: the directory.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    metadata: dict[str, Any]
    path: Path


def load_components(
    path: str | os.PathLike,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Iterable[str] | None = None,
) -> Components:
    """Load a model directory, ready for inference.

    Args:
        path: the directory, in any layout.
        device: where the networks go.
        dtype: of transformer and text encoder; the VAE stays float32.
        parts: which of transformer, vae, text_encoder, tokenizer and scheduler; None for all.

    Raises:
        ModelDirError: if the directory, a component or the metadata is missing or damaged.
    """
    path = Path(path)
    wanted = PARTS if parts is None else tuple(parts)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        raise ValueError(f"parts {sorted(unknown)} are unknown; a model has {', '.join(PARTS)}")
    metadata = read_metadata(path)
    sources = _locate(path)
    loaded: dict[str, Any] = dict.fromkeys(PARTS)
    for part in wanted:
        if part == "scheduler" and part not in sources:
            loaded[part] = default_scheduler(metadata["defaults"]["flow_shift"])
            continue
        if part not in sources:
            raise ModelDirError(f"{path / INDEX} names no {part}")
        component = _load(part, sources[part], dtype)
        loaded[part] = component.to(device) if isinstance(component, torch.nn.Module) else component
    return Components(**loaded, metadata=metadata, path=path)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Content of metadata.json, with `DEFAULTS` standing in for what is not said. Nothing else is read.

    Raises:
        ModelDirError: if it is damaged, or a default is of the wrong kind or size.
    """
    path = Path(path)
    _require_directory(path)
    file = path / METADATA
    metadata = _read_json(file) if file.exists() else {}
    defaults = metadata.get("defaults", {})
    if not isinstance(defaults, dict):
        raise ModelDirError(f'"defaults" in {file} must be an object')
    metadata["defaults"] = DEFAULTS | defaults
    _check_defaults(metadata["defaults"], file)
    _check_latent_rgb(metadata.get("latent_rgb"), file)
    return metadata


def fingerprint(path: str | os.PathLike) -> str:
    """What tells two worlds apart: a hash of the transformer's weight files, 64 hexadecimal digits.

    It is the same wherever the directory lies. Files are read at about 1 GB/s the first time and remembered until
    their size or time changes.

    Raises:
        ModelDirError: if there is no transformer.
    """
    path = Path(path)
    source = _locate(path).get("transformer")
    files = [] if source is None else source.weights or sorted(source.folder.glob("*.safetensors"))
    if not files:
        raise ModelDirError(f"{path} holds no transformer weights (.safetensors)")
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(_sha256(str(file.resolve()), stat.st_size, stat.st_mtime_ns).encode())
    return digest.hexdigest()


def save_components(components: Components, path: str | os.PathLike) -> Path:
    """Write a model directory in the diffusers layout, which stock diffusers loads too.

    Parts that are None are left out, and so are not flyable until another save adds them.

    Returns:
        The directory.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    index = _read_json(path / INDEX) if (path / INDEX).exists() else {}
    index |= {
        "_class_name": PIPELINE_CLASS,
        "_diffusers_version": diffusers.__version__,
        "boundary_ratio": None,
        "expand_timesteps": True,
        **{optional: [None, None] for optional in ("image_encoder", "image_processor", "transformer_2")},
    }
    for part in PARTS:
        component = getattr(components, part)
        if component is not None:
            component.save_pretrained(path / part)
            index[part] = library_class(component)
    _write_json(path / METADATA, components.metadata)
    _write_json(path / INDEX, index)
    return path


# Layouts


@dataclass(frozen=True)
class _Source:
    """A component on disk: the folder of its configuration, and its weights unless the folder's own names do."""

    folder: Path
    weights: list[Path] | None = None


def _locate(path: Path) -> dict[str, _Source]:
    """Where each component of a directory lies, whatever the layout."""
    _require_directory(path)
    if not (path / INDEX).is_file():
        raise ModelDirError(f"{path} is no model directory: it has no {INDEX}")
    index = _read_json(path / INDEX)
    if "components" in index:
        return _locate_manifest(path, index["components"])
    if "_class_name" in index:
        return _locate_diffusers(path, index)
    raise ModelDirError(f'{path / INDEX} has neither "components" (a manifest) nor "_class_name" (diffusers)')


def _locate_diffusers(path: Path, index: dict[str, Any]) -> dict[str, _Source]:
    named = [part for part in PARTS if isinstance(index.get(part), list) and any(index[part])]
    for part in named:
        if not (path / part).is_dir():
            raise ModelDirError(f"{path / INDEX} names a {part}, but {path / part} is missing")
    return {part: _Source(path / part) for part in named}


def _locate_manifest(path: Path, components: Any) -> dict[str, _Source]:
    if not isinstance(components, dict):
        raise ModelDirError(f'"components" in {path / INDEX} must be an object of names and paths')
    sources: dict[str, _Source] = {}
    for name, value in components.items():
        part = COMPONENT_NAMES.get(name)
        if part is None:
            raise ModelDirError(
                f"{path / INDEX} names the unknown component {name!r}; known are {', '.join(COMPONENT_NAMES)}"
            )
        sources[part] = _source(name, _expand(path, name, value))
    if "tokenizer" not in sources and (path / "tokenizer").is_dir():
        sources["tokenizer"] = _Source(path / "tokenizer")
    return sources


def _expand(path: Path, name: str, value: Any) -> list[Path]:
    """The files or the one folder that a manifest's entry stands for, in order."""
    patterns = value if isinstance(value, list) else [value]
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ModelDirError(f"component {name!r} in {path / INDEX} must be a path, a glob or a list of them")
    found: list[Path] = []
    for pattern in patterns:
        relative = PurePosixPath(pattern)
        if relative.is_absolute() or ".." in relative.parts:
            raise ModelDirError(f"component {name!r} in {path / INDEX} points outside the directory: {pattern}")
        matches = sorted(path.glob(pattern)) if any(c in pattern for c in "*?[") else [path / relative]
        matches = [match for match in matches if match.exists()]
        if not matches:
            raise ModelDirError(f"component {name!r} in {path / INDEX}: {pattern} matches no file in {path}")
        found += [match for match in matches if match not in found]
    return found


def _source(name: str, found: list[Path]) -> _Source:
    if len(found) == 1 and found[0].is_dir():
        return _Source(found[0])
    wrong = next((file for file in found if file.is_dir() or file.suffix != ".safetensors"), None)
    if wrong is not None:
        raise ModelDirError(
            f"component {name!r}: {wrong} cannot be read here; expected one folder or .safetensors files "
            "in diffusers format with their config.json beside them"
        )
    return _Source(found[0].parent, found)


def _load(part: str, source: _Source, dtype: torch.dtype) -> Any:
    where = source.weights[0].name if source.weights else source.folder.name
    try:
        return load_component(part, source.folder, source.weights, dtype)
    except ComponentError as error:
        raise ModelDirError(f"the {part} cannot be loaded: {error}") from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelDirError(
            f"the {part} cannot be loaded from {where} in {source.folder.parent}: {reason[:300]}"
        ) from error


# Reading and checking


def _require_directory(path: Path) -> None:
    if not path.is_dir():
        raise ModelDirError(f"{path} is not a directory" if path.exists() else f"{path} does not exist")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDirError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelDirError(f"{file} must hold a JSON object, not {type(content).__name__}")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_defaults(defaults: dict[str, Any], file: Path) -> None:
    for name, usual in DEFAULTS.items():
        value = defaults[name]
        kinds = str if isinstance(usual, str) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or (kinds is not str and not math.isfinite(value)):
            expected = "text" if kinds is str else "a number"
            raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected {expected}")
        if isinstance(usual, int) and name != "fps" and (value != int(value) or value < 1):
            raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected a whole number above 0")
    try:
        shapes.check_size(defaults["height"], defaults["width"])
        shapes.num_latent_frames(defaults["num_frames"])
    except ValueError as error:
        raise ModelDirError(f"the defaults in {file} cannot be flown: {error}") from error
    if defaults["fps"] <= 0 or defaults["flow_shift"] <= 0 or defaults["guidance_scale"] < 1:
        raise ModelDirError(f"the defaults in {file} need fps and flow_shift above 0 and guidance_scale of 1 or more")


def _check_latent_rgb(latent_rgb: Any, file: Path) -> None:
    if latent_rgb is None:
        return
    try:
        weight = torch.tensor(latent_rgb["weight"], dtype=torch.float32)
        bias = torch.tensor(latent_rgb["bias"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelDirError(f'"latent_rgb" in {file} needs "weight" [C][3] and "bias" [3]') from error
    if weight.ndim != 2 or weight.shape[1] != 3 or bias.shape != (3,):
        raise ModelDirError(f'"latent_rgb" in {file} needs "weight" [C][3] and "bias" [3]')


@lru_cache(maxsize=256)
def _sha256(file: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
