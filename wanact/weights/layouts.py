"""Where the parts of a model lie in a directory, whichever of the three layouts it has.

Told apart by what is inside:

- diffusers: `model_index.json` with `_class_name`, and one folder a component;
- a manifest: `model_index.json` or `diffsynth_model_index.json` with `model_name` and `components`, which names for
  each component a folder, a file, a glob or a list of them, relative to the directory;
- the original release: no `model_index.json`, but `diffusion_pytorch_model*.safetensors`, `Wan2.2_VAE.pth`,
  `models_t5_umt5-xxl-enc-bf16.pth` and the tokenizer in `google/umt5-xxl/`; a network that is not there may lie in a
  folder `dit`, `vae`, `text_encoder` or `t5`.

A name on the Hugging Face Hub stands for the directory of its files in the Hub's cache.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from wanact.errors import UserError
from wanact.files import pointer_problem, read_model, says, text, visible
from wanact.models.components import CONFIG_CLASSES, PARTS

INDEX, METADATA = "model_index.json", "metadata.json"
MANIFEST_INDEX = "diffsynth_model_index.json"  # a manifest beside files of another layout, as DiffSynth's forks call it
DIFFUSERS, MANIFEST, ORIGINAL = "diffusers", "manifest", "original"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# Manifests name components as DiffSynth does; our own names are as good.
COMPONENT_NAMES = {
    "wan_video_dit": "transformer",
    "wan_video_vae": "vae",
    "wan_video_text_encoder": "text_encoder",
    **{part: part for part in PARTS},
}

# The original release's files. The first pattern that matches counts.
ORIGINAL_FILES = {
    "transformer": ("diffusion_pytorch_model*.safetensors",),
    "vae": ("Wan2.2_VAE.pth", "Wan2.2_VAE.safetensors"),
    "text_encoder": ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors"),
}
# Where each network lies in a directory of folders without an index.
FOLDERS = {"transformer": ("dit", "transformer"), "vae": ("vae",), "text_encoder": ("text_encoder", "t5")}
TOKENIZER_FOLDERS = ("tokenizer", "google/umt5-xxl", "umt5-xxl")

HUB_PREFIX = "hf://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.pth", "*.model", "*.txt"]
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_PIPELINES = ("WanImageToVideoPipeline", "WanPipeline")


class ModelDirError(UserError):
    """A model directory that cannot be used; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Source:
    """A component on disk: the folder of its configuration, and its weights unless the folder's own names do."""

    folder: Path
    weights: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """A directory that has been looked through.

    Attributes:
        kind: diffusers, manifest or original.
        path: the directory.
        sources: where each component lies, by part.
    """

    kind: str
    path: Path
    sources: dict[str, Source]


def locate(path: Path) -> Layout:
    """Where each component of a directory lies; no weights are read.

    Raises:
        ModelDirError: if it has none of the layouts, or names what is not there.
    """
    require_directory(path)
    file = next((path / name for name in (INDEX, MANIFEST_INDEX) if (path / name).is_file()), None)
    if file is None:
        return Layout(ORIGINAL, path, _locate_original(path))
    index = read_json(file)
    if "components" in index:
        return Layout(MANIFEST, path, _locate_manifest(path, index["components"], file))
    if "_class_name" in index:
        return Layout(DIFFUSERS, path, _locate_diffusers(path, index))
    raise ModelDirError(f'{file} has neither "components" (a manifest) nor "_class_name" (diffusers)')


def resolve(name: str | os.PathLike, patterns: list[str] | None = None) -> Path:
    """The directory that a path or a Hub id stands for.

    A directory is taken as it is and nothing goes online. A text that reads `org/name`, unless there is a folder
    `org` here, is looked for in DiffSynth's place (`models/org/name`), in the Hub's cache and on the Hub.
    `hf://org/name` always means the Hub, a `Path` never.

    Args:
        name: directory, `org/name`, or DiffSynth's `org/name:pattern, org/name:pattern`.
        patterns: files that are fetched; None for everything a model directory can hold.

    Raises:
        ModelDirError: if a Hub id is neither here nor can be fetched.
    """
    path = Path(name)
    if path.exists() or not isinstance(name, str):
        return path
    text = name
    if ":" in text.removeprefix(HUB_PREFIX):
        return _resolve_origin_paths(text)
    hub_id = text.removeprefix(HUB_PREFIX)
    is_named = text.startswith(HUB_PREFIX)
    if not _HUB_ID.fullmatch(hub_id) or (not is_named and path.parent.is_dir()):
        if is_named:
            raise ModelDirError(f"{text} is no Hub id; expected {HUB_PREFIX}org/name")
        return path  # a directory was meant; whoever opens it says that it is missing
    local = Path("models", hub_id)
    return local if local.is_dir() else _fetch(hub_id, patterns or _HUB_FILES)


def hub_id(name: str | os.PathLike) -> str | None:
    """The `org/name` on the Hub that a text stands for, as `resolve` reads it; None for a directory."""
    text = str(name).split(",")[0].strip()
    bare = text.removeprefix(HUB_PREFIX).partition(":")[0]
    is_named = text.startswith(HUB_PREFIX) or ":" in text
    if Path(text).exists() or not _HUB_ID.fullmatch(bare) or (not is_named and Path(bare).parent.is_dir()):
        return None
    return bare


def resolve_runs(name: str | os.PathLike) -> Path:
    """The folder of runs that a path or `hf://org/name` stands for.

    Runs from the Hub are real files in a folder of their own, not links into the Hub's cache: links out of a run are
    not followed.

    Raises:
        ModelDirError: if they cannot be fetched and are not here from before.
    """
    text = str(name)
    if not text.startswith(HUB_PREFIX):
        return Path(text)
    hub_id = text.removeprefix(HUB_PREFIX)
    if not _HUB_ID.fullmatch(hub_id):
        raise ModelDirError(f"{text} is no Hub id; expected {HUB_PREFIX}org/name")
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "wanact" / "runs" / hub_id
    try:
        return _fetch(hub_id, ["*.json", "*.jsonl", "*.safetensors"], folder)
    except ModelDirError:
        if folder.is_dir() and visible(folder.iterdir()):
            return folder
        raise


def _resolve_origin_paths(text: str) -> Path:
    pairs = [part.strip().removeprefix(HUB_PREFIX).partition(":") for part in text.split(",") if part.strip()]
    names = {name for name, _, _ in pairs}
    if len(names) != 1 or not all(_HUB_ID.fullmatch(name) and pattern for name, _, pattern in pairs):
        raise ModelDirError(f"{text!r} must read org/name:pattern, org/name:pattern, of one repository")
    return resolve(HUB_PREFIX + names.pop(), [*(pattern for _, _, pattern in pairs), "google/umt5-xxl/*", "*.json"])


def _fetch(hub_id: str, patterns: list[str], folder: Path | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_dir=folder))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelDirError(
            f"{hub_id} is neither a directory nor in the Hub's cache, and cannot be fetched ({type(error).__name__}); "
            "download it and give its directory"
        ) from error


# The three layouts


def _as_list(entry: Any) -> Any:
    return [entry] if isinstance(entry, str) else entry


_Patterns = Annotated[
    list[Annotated[str, text(4096, shortest=1)]],
    Field(min_length=1),
    BeforeValidator(_as_list),
    says("component {name!r} must be a path, a glob or a list of them"),
]


class _Manifest(BaseModel):
    components: Annotated[dict[str, _Patterns], says('"components" must be an object of names and paths', inside=False)]


def _locate_diffusers(path: Path, index: dict[str, Any]) -> dict[str, Source]:
    pipeline = index["_class_name"]
    if pipeline not in _PIPELINES:
        raise ModelDirError(f"{path / INDEX} is for {pipeline}, expected {' or '.join(_PIPELINES)}")
    if isinstance(index.get("transformer_2"), list) and any(index["transformer_2"]):
        raise ModelDirError(
            f"{path / INDEX} names two transformers, of which each draws a part of the steps; "
            "only models with one, such as Wan2.2-TI2V-5B, are flown here"
        )
    named = [part for part in PARTS if isinstance(index.get(part), list) and any(index[part])]
    for part in named:
        if not (path / part).is_dir():
            raise ModelDirError(f"{path / INDEX} names a {part}, but {path / part} is missing")
    return {part: Source(path / part) for part in named}


def _locate_manifest(path: Path, components: Any, index: Path) -> dict[str, Source]:
    manifest = read_model(
        _Manifest, {"components": components}, lambda problem: ModelDirError(f"in {index}, {problem}")
    )
    sources: dict[str, Source] = {}
    for name, value in manifest.components.items():
        part = COMPONENT_NAMES.get(name)
        if part is None:
            raise ModelDirError(f"{index} names the unknown component {name!r}; known are {', '.join(COMPONENT_NAMES)}")
        if part in sources:
            raise ModelDirError(f"{index} names the {part} twice, under {name!r} and another name")
        sources[part] = _source(name, _expand(path, name, value, index))
    return sources if "tokenizer" in sources else sources | _tokenizer(path)


def _expand(path: Path, name: str, patterns: list[str], index: Path) -> list[Path]:
    """The files or the one folder that a manifest's entry stands for, in order."""
    found: list[Path] = []
    for pattern in patterns:
        relative = PurePosixPath(pattern)
        if relative.is_absolute() or ".." in relative.parts:
            raise ModelDirError(f"component {name!r} in {index} points outside the directory: {pattern}")
        matches = sorted(visible(path.glob(pattern))) if any(c in pattern for c in "*?[") else [path / relative]
        matches = [match for match in matches if match.exists()]
        if not matches:
            raise ModelDirError(f"component {name!r} in {index}: {pattern} matches no file in {path}")
        found += [match for match in matches if match not in found]
    return found


def _source(name: str, found: list[Path]) -> Source:
    if len(found) == 1 and found[0].is_dir():
        return Source(found[0])
    wrong = next((file for file in found if file.is_dir() or file.suffix not in WEIGHT_SUFFIXES), None)
    if wrong is not None:
        raise ModelDirError(
            f"component {name!r}: {wrong} cannot be read here; expected one folder, or files that end in "
            f"{', '.join(WEIGHT_SUFFIXES)}"
        )
    _require_all_shards(found)
    return Source(found[0].parent, tuple(found))


def _locate_original(path: Path) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for part, patterns in ORIGINAL_FILES.items():
        found = next((files for files in (sorted(visible(path.glob(pattern))) for pattern in patterns) if files), [])
        if found:
            _require_all_shards(found)
            sources[part] = Source(path, tuple(found))
        elif folder := next((path / name for name in FOLDERS[part] if (path / name).is_dir()), None):
            sources |= _in_folder(part, folder)
    if not sources:
        raise ModelDirError(
            f"{path} is no model directory: it has no {INDEX}, none of the files of the original release "
            f"({', '.join(patterns[0] for patterns in ORIGINAL_FILES.values())}), and no folders dit, vae, text_encoder"
        )
    older = sorted(visible(path.glob("Wan2.1_VAE.*")))
    if "vae" not in sources and older:
        raise ModelDirError(f"{older[0]} is the VAE of Wan 2.1; Wan2.2-TI2V-5B needs Wan2.2_VAE.pth")
    if (path / "scheduler").is_dir():  # the release has none; what `wanact.weights.convert` writes has
        sources["scheduler"] = Source(path / "scheduler")
    return sources | _tokenizer(path)


def _in_folder(part: str, folder: Path) -> dict[str, Source]:
    """A network in a folder of its own that no index names: in diffusers' names, or weight files in any."""
    if (folder / "config.json").is_file() and read_json(folder / "config.json").keys() & {"_class_name", "model_type"}:
        kind = read_json(folder / "config.json")
        if CONFIG_CLASSES[part] in (kind.get("_class_name"), kind.get("model_type")):
            return {part: Source(folder)}
    files = sorted(file for file in visible(folder.iterdir()) if file.suffix in WEIGHT_SUFFIXES)
    files = [file for file in files if file.suffix == ".safetensors"] or files
    if not files:
        return {}
    _require_all_shards(files)
    return {part: Source(folder, tuple(files))}


def _tokenizer(path: Path) -> dict[str, Source]:
    folder = next((path / name for name in TOKENIZER_FOLDERS if (path / name).is_dir()), None)
    return {} if folder is None else {"tokenizer": Source(folder)}


def _require_all_shards(files: list[Path]) -> None:
    """A shard that is missing would otherwise show as hundreds of missing weights."""
    series: dict[tuple[str, str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            series.setdefault((match[1], match[4], int(match[3])), set()).add(int(match[2]))
    for (stem, suffix, count), numbers in series.items():
        missing = sorted(set(range(1, count + 1)) - numbers)
        if missing:
            raise ModelDirError(f"{files[0].parent} lacks {stem}-{missing[0]:05}-of-{count:05}{suffix}")


# Reading


def require_directory(path: Path) -> None:
    """Raise ModelDirError unless this is a directory."""
    if not path.is_dir():
        raise ModelDirError(f"{path} is not a directory" if path.exists() else f"{path} does not exist")


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file; ModelDirError if it is none, or no object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        problem = pointer_problem(file)
        if problem:
            raise ModelDirError(problem) from error
        raise ModelDirError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelDirError(f"{file} must hold a JSON object, not {type(content).__name__}")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file for people and programs."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
