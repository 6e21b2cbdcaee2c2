"""A model directory: where the networks of a world lie, and how it likes to be flown.

`layouts` tells the three layouts apart. Beside any of them lies `metadata.json` with the `defaults` of a clip.
Nothing goes online when a directory is given; a name on the Hugging Face Hub is fetched once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError

from wanact import shapes
from wanact.files import visible
from wanact.flow import SigmaGrid
from wanact.models.components import (
    CONFIG_CLASSES,
    NETWORKS,
    ORIGINAL_CLASS,
    PARTS,
    PIPELINE_INDEX,
    ComponentError,
    assemble,
    default_scheduler,
    empty,
    library_class,
    load_component,
    read_config,
    require_same_names,
    without_bars,
)
from wanact.models.nearness import FOLDER as NEARNESS
from wanact.models.nearness import NearnessError, NearnessNetwork, load_nearness
from wanact.weights import layouts
from wanact.weights.convert import key_map
from wanact.weights.files import WeightFiles
from wanact.weights.layouts import INDEX, METADATA, Layout, ModelDirError, read_json, require_directory, write_json
from wanact.weights.names import ConvertError

# What a directory without metadata gets: Wan2.2-TI2V-5B at the size the action controller is trained at.
DEFAULTS: dict[str, Any] = {
    "height": 480,
    "width": 832,
    "num_frames": 81,
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "fps": 24,
    "flow_shift": 5.0,
    "sigma_grid": "wan",
    "max_sequence_length": 512,
    "negative_prompt": "",
    "rest": "draw",
    "text_to_video": True,
    "perturbed_layers": [],  # of what guidance leads away from, see `WanActTransformer3DModel.forward`
}

# What metadata.json says of how single pictures are drawn from words, an object of some of `PLACES_DEFAULTS`; and a
# folder with a transformer of its own that draws them, for a base that has not learned to.
PLACES = "places"
PLACES_DEFAULTS = ("num_inference_steps", "guidance_scale", "perturbed_layers")

MAX_DRAWS = 400

# The name that `python -m train init` writes.
OUR_WORLD = "nano"

# What a live flight does after a second without a key. None of the first two is committed, so that nothing drifts:
# `hold` shows the last view still, `draw` goes on drawing what may come next. `commit` makes no difference of rest.
Rest = Literal["hold", "draw", "commit"]


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
        nearness: sees how near everything in a picture is, where the directory has a network for it.
        places: a transformer that draws single pictures, where the directory has one or says how its base draws them;
            loaded with the transformer.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    metadata: dict[str, Any]
    path: Path
    nearness: NearnessNetwork | None = None
    places: Any = None


def load_components(
    path: str | os.PathLike,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Iterable[str] | None = None,
) -> Components:
    """Load a model directory, ready for inference.

    Args:
        path: the directory, in any layout, or a name on the Hugging Face Hub.
        device: where the networks go.
        dtype: of transformer and text encoder; the VAE stays float32.
        parts: which of transformer, vae, text_encoder, tokenizer and scheduler; None for all.

    Raises:
        ModelDirError: if the directory, a component or the metadata is missing or damaged.
    """
    path = layouts.resolve(path)
    wanted = PARTS if parts is None else tuple(parts)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        raise ValueError(f"parts {sorted(unknown)} are unknown; a model has {', '.join(PARTS)}")
    metadata = read_metadata(path)
    layout = layouts.locate(path)
    missing = [part for part in wanted if part not in layout.sources and part != "scheduler"]
    if missing:
        expected = "; the original release has it in google/umt5-xxl" if missing == ["tokenizer"] else ""
        named = f"{path / INDEX} names" if layout.kind != layouts.ORIGINAL else f"{path} has"
        raise ModelDirError(f"{named} no {missing[0]}{expected}")
    reader = _Reader(layout, metadata, dtype)
    loaded: dict[str, Any] = dict.fromkeys(PARTS)
    for part in wanted:
        if part not in layout.sources:
            loaded[part] = default_scheduler(metadata["defaults"]["flow_shift"])
            continue
        component = reader.load(part)
        loaded[part] = component.to(device) if isinstance(component, torch.nn.Module) else component
    _check_together(loaded, path)
    if loaded["transformer"] is not None:
        _check_layers(loaded["transformer"], metadata["defaults"], path)
    places = None
    if loaded["transformer"] is not None and (path / PLACES).is_dir():
        places = load_part("transformer", path / PLACES, dtype).to(device)
        _check_together(loaded | {"transformer": places}, path / PLACES)
    elif loaded["transformer"] is not None and metadata.get(PLACES):
        places = reader.load("transformer").to(device)  # its own, since the base may wear the weights of a run
    if places is not None:
        _check_layers(places, metadata.get(PLACES, {}), path)
    try:
        nearness = load_nearness(path / NEARNESS)
    except NearnessError as error:
        raise ModelDirError(str(error)) from error
    nearness = nearness and nearness.to(device)
    return Components(**loaded, metadata=metadata, path=path, nearness=nearness, places=places)


def load_part(part: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """One part of a model from a folder that holds it alone, as diffusers or transformers write it.

    Raises:
        ModelDirError: if it is missing or damaged.
    """
    return _Reader(Layout(layouts.DIFFUSERS, folder, {part: layouts.Source(folder)}), {}, dtype).load(part)


class Unread(NamedTuple):
    """A network whose weights still lie in their files.

    Attributes:
        network: with its parameters on the meta device.
        weights: the tensors by the network's own names, each read (mapped, from .safetensors) when it is asked for.
    """

    network: Any
    weights: Mapping[str, torch.Tensor]


def open_network(path: str | os.PathLike, part: str) -> Unread:
    """A network of a model directory, transformer, vae or text_encoder, of whose weights nothing is read.

    Raises:
        ModelDirError: if it is missing or damaged, or weights of the transformer are missing or left over.
    """
    return _Reader(*_located(path, part)).open(part)


def _located(path: str | os.PathLike, part: str) -> tuple[Layout, dict[str, Any], torch.dtype]:
    path = layouts.resolve(path)
    layout = layouts.locate(path)
    if part not in layout.sources:
        raise ModelDirError(f"{path} has no {part}")
    return layout, read_metadata(path), torch.float32


def network_config(path: str | os.PathLike, part: str) -> dict[str, Any]:
    """diffusers' (transformers') configuration of a network, told from its weights' shapes where no file says it.

    Raises:
        ModelDirError: as `open_network`.
    """
    return _Reader(*_located(path, part)).named(part)[0]


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Content of metadata.json, with `DEFAULTS` standing in for what is not said. Nothing else is read.

    Raises:
        ModelDirError: if it is damaged, or a default is of the wrong kind or size.
    """
    path = layouts.resolve(path)
    require_directory(path)
    file = path / METADATA
    metadata = read_json(file) if file.exists() else {}
    defaults = metadata.get("defaults", {})
    if not isinstance(defaults, dict):
        raise ModelDirError(f'"defaults" in {file} must be an object')
    # A world of ours that says nothing was made before there was a choice, and trained on the schedulers' own grid.
    before = {"sigma_grid": "from_one"} if metadata.get("name") == OUR_WORLD else {}
    # Whoever says something says that a model draws its own first frame, too.
    silent = {"text_to_video": False} if file.exists() else {}
    metadata["defaults"] = DEFAULTS | before | silent | defaults
    check_defaults(metadata["defaults"], file)
    _check_places(metadata.get(PLACES, {}), metadata["defaults"], file)
    _check_latent_rgb(metadata.get("latent_rgb"), file)
    draws = metadata.get("draws", "")
    if not isinstance(draws, str) or len(draws) > MAX_DRAWS:
        raise ModelDirError(f'"draws" in {file} must be text of up to {MAX_DRAWS} characters: what the model can draw')
    if not isinstance(metadata.get("vae", {}), dict):
        raise ModelDirError(f'"vae" in {file} must be an object with latents_mean and latents_std')
    return metadata


def fingerprint(path: str | os.PathLike) -> str:
    """What tells two worlds apart: a hash of the weight files of transformer and VAE, and of the latents' statistics
    where the directory has its own; 64 hexadecimal digits.

    It is the same wherever the directory lies. Files are read at about 1 GB/s the first time and remembered until
    their size or time changes.

    Raises:
        ModelDirError: if there is no transformer.
    """
    path = layouts.resolve(path)
    digest = hashlib.sha256(_sums(path, "transformer").encode())
    digest.update(_sums(path, "vae").encode())
    return digest.hexdigest()


def former_fingerprint(path: str | os.PathLike) -> str:
    """The fingerprint as it was before it covered the VAE: runs, cards and flights of that time have recorded it."""
    return hashlib.sha256(_sums(layouts.resolve(path), "transformer").encode()).hexdigest()


def _sums(path: Path, part: str) -> str:
    """Checksums of a network's weight files, one behind the other, and what else its pictures depend on."""
    source = layouts.locate(path).sources.get(part)
    files = () if source is None else source.weights or sorted(visible(source.folder.glob("*.safetensors")))
    if not files and part == "transformer":
        raise ModelDirError(f"{path} holds no transformer weights (.safetensors)")
    sums = [_sha256(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if source is None or part == "transformer":
        return "".join(sums)
    said = read_config(source.folder) if (source.folder / "config.json").is_file() else {}
    if "latents_mean" not in said:  # of another kind, or the transformer's beside it
        said = read_metadata(path).get("vae", {})
    return "".join([*sums, json.dumps([said.get("latents_mean"), said.get("latents_std")])])


def save_components(components: Components, path: str | os.PathLike) -> Path:
    """Write a model directory in the diffusers layout, which stock diffusers loads too.

    Parts that are None are left out, and so are not flyable until another save adds them.

    Returns:
        The directory.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    index = read_json(path / INDEX) if (path / INDEX).exists() else {}
    index |= PIPELINE_INDEX
    for part in PARTS:
        component = getattr(components, part)
        if component is not None:
            with without_bars():
                component.save_pretrained(path / part)
            _forget_origin(path / part / "config.json")
            index[part] = library_class(component)
    if components.nearness is not None:
        components.nearness.save(path / NEARNESS)
    if components.places is not None and (components.path / PLACES).is_dir():
        components.places.save_pretrained(path / PLACES)
        _forget_origin(path / PLACES / "config.json")
    write_json(path / METADATA, components.metadata)
    write_json(path / INDEX, index)
    return path


def _forget_origin(config: Path) -> None:
    """Drop the folder that a component was loaded from: a path of this machine has no place in what is shared."""
    if config.exists():
        write_json(config, {name: value for name, value in read_json(config).items() if name != "_name_or_path"})


# Loading


@dataclass(frozen=True)
class _Reader:
    """Loads single components of one layout."""

    layout: Layout
    metadata: dict[str, Any]
    dtype: torch.dtype

    def load(self, part: str) -> Any:
        source = self.layout.sources[part]
        where = source.weights[0].name if source.weights else source.folder.name
        try:
            if source.weights:
                return self._assemble(part, source.folder, source.weights)
            return load_component(part, source.folder, self.dtype)
        except (ComponentError, ConvertError) as error:
            raise ModelDirError(f"the {part} cannot be loaded: {_one_line(error)}") from error
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ModelDirError(
                f"the {part} cannot be loaded from {where} in {source.folder.parent}: {_one_line(error)}"
            ) from error

    def open(self, part: str) -> Unread:
        try:
            config, weights = self.named(part)
            network = empty(part, config)
            if part == "transformer":
                require_same_names(part, network, weights)
        except (ComponentError, ConvertError) as error:
            raise ModelDirError(f"the {part} cannot be loaded: {_one_line(error)}") from error
        return Unread(network, weights)

    def named(self, part: str) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
        """Configuration and weights of a network, which are read when they are asked for."""
        source = self.layout.sources[part]
        if source.weights:
            return self._named(part, source.folder, source.weights)
        return read_config(source.folder), WeightFiles(sorted(visible(source.folder.glob("*.safetensors"))))

    def _named(self, part: str, folder: Path, files: tuple[Path, ...]) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Configuration and weights of a network from files in whatever convention their names are."""
        weights = WeightFiles(files)
        config, hints = read_configs(part, folder, self.metadata)
        plan = key_map(part, weights.shapes, config=config, hints=hints)
        return plan.config or {}, weights.renamed(plan.names)

    def _assemble(self, part: str, folder: Path, files: tuple[Path, ...]) -> Any:
        """A network from weight files in whatever convention their names are."""
        if part not in NETWORKS:
            raise ComponentError(f"{files[0]} is no folder; the {part} needs one")
        config, weights = self._named(part, folder, files)
        return assemble(part, config, weights, self.dtype)


def read_configs(part: str, folder: Path, metadata: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What lies beside weight files: a configuration of diffusers, or hints where there is none.

    Raises:
        ComponentError: if config.json is damaged or of a class that is unknown here.
    """
    vae_hints = metadata.get("vae", {}) if part == "vae" else {}
    file = folder / "config.json"
    if not file.is_file():
        return None, vae_hints
    config = read_config(folder)
    kind = config.get("_class_name", config.get("model_type"))
    if kind == CONFIG_CLASSES[part]:
        return config, {}
    if kind == ORIGINAL_CLASS:
        return None, config if part == "transformer" else vae_hints
    if kind not in CONFIG_CLASSES.values():
        raise ComponentError(f"{file} is for {kind}, expected {CONFIG_CLASSES[part]} or {ORIGINAL_CLASS}")
    return None, vae_hints


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _check_together(loaded: dict[str, Any], path: Path) -> None:
    """Networks that each are whole may still be of different models."""
    transformer, vae, text_encoder = (loaded[part] for part in NETWORKS)
    if transformer is not None and vae is not None and transformer.config.in_channels != vae.config.z_dim:
        raise ModelDirError(
            f"the transformer in {path} takes latents of {transformer.config.in_channels} channels, "
            f"but its VAE makes {vae.config.z_dim}: they are of different models"
        )
    if transformer is not None and text_encoder is not None:
        theirs = text_encoder.config.d_model
        if transformer.config.text_dim != theirs:
            raise ModelDirError(
                f"the transformer in {path} reads text of width {transformer.config.text_dim}, "
                f"but its text encoder writes {theirs}: they are of different models"
            )


def _check_layers(transformer: Any, defaults: Mapping[str, Any], path: Path) -> None:
    """Raise ModelDirError unless the transformer has the layers that the defaults of its pictures name."""
    last = transformer.config.num_layers - 1
    beyond = [layer for layer in defaults.get("perturbed_layers", ()) if layer > last]
    if beyond:
        raise ModelDirError(
            f"perturbed_layers in {path / METADATA} names layer {beyond[0]}, the transformer's last is {last}"
        )


# Checking


def check_defaults(defaults: dict[str, Any], file: Path) -> None:
    """Raise ModelDirError unless the defaults of a metadata.json are complete and can be flown."""
    for name, usual in DEFAULTS.items():
        value = defaults[name]
        if isinstance(usual, list):
            if not isinstance(value, list) or not all(type(number) is int and number >= 0 for number in value):
                raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected a list of layers, from 0")
            continue
        if isinstance(usual, bool):
            if not isinstance(value, bool):
                raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected true or false")
            continue
        if isinstance(usual, str):
            if not isinstance(value, str):
                raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected text")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected a number")
        if isinstance(usual, int) and name != "fps" and (value != int(value) or value < 1):
            raise ModelDirError(f"default {name!r} in {file} is {value!r}, expected a whole number above 0")
    try:
        shapes.check_size(defaults["height"], defaults["width"])
        shapes.num_latent_frames(defaults["num_frames"])
    except ValueError as error:
        raise ModelDirError(f"the defaults in {file} cannot be flown: {error}") from error
    for name, choices in (("rest", get_args(Rest)), ("sigma_grid", get_args(SigmaGrid))):
        if defaults[name] not in choices:
            raise ModelDirError(f"default {name!r} in {file} is {defaults[name]!r}, expected {', '.join(choices)}")
    if defaults["fps"] <= 0 or defaults["flow_shift"] <= 0 or defaults["guidance_scale"] < 1:
        raise ModelDirError(f"the defaults in {file} need fps and flow_shift above 0 and guidance_scale of 1 or more")


def _check_places(said: Any, defaults: dict[str, Any], file: Path) -> None:
    if not isinstance(said, dict) or said.keys() - set(PLACES_DEFAULTS):
        raise ModelDirError(f'"{PLACES}" in {file} must be an object of {", ".join(PLACES_DEFAULTS)}')
    check_defaults(defaults | said, file)


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
