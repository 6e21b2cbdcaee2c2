"""Weights in files, read one tensor at a time and written shard by shard, so that memory stays small."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wanact.files import CheckpointError, load_state, pointer_problem
from wanact.weights.names import ConvertError, listing

MAX_SHARD_BYTES = 5 * 10**9

# What trainers wrap a state_dict in; the first that is there is taken. Of a Self-Forcing checkpoint the averaged
# generator is the one that is flown.
WRAPPERS = ("generator_ema", "generator", "state_dict", "model_state_dict", "model_state", "ema", "model", "module")


class WeightFiles(Mapping[str, Tensor]):
    """Named tensors of one or several files, as one mapping. Tensors are read when they are asked for.

    Args:
        files: .safetensors, or .pt, .pth and .bin with tensors only; pickled objects are never built.
        key: which of several state_dicts in a .pt file; None for the first of `WRAPPERS`, or the file itself.

    Attributes:
        keys_taken: the state_dict that was taken inside each .pt file that wraps one.
        metadata: what the headers of .safetensors files say beside the tensors.

    Raises:
        ConvertError: if a file is missing, damaged, or holds anything but tensors, or two hold the same name.
    """

    def __init__(self, files: Sequence[Path], key: str | None = None):
        self.files = list(files)
        self.keys_taken: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._readers: dict[str, Callable[[], Tensor]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            if not file.is_file():
                raise ConvertError(f"{file} is missing")
            problem = pointer_problem(file)
            if problem:
                raise ConvertError(problem)
            if file.suffix == ".safetensors":
                self._add_safetensors(file)
            else:
                self._add_torch(file, key)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, without reading one."""
        return dict(self._shapes)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def num_bytes(self, dtype: torch.dtype | None = None) -> int:
        """Size of all tensors if the floating-point ones were of this dtype; None for as they are."""
        return sum(_num_bytes(tensor, dtype) for tensor in self.values())

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> WeightFiles:
        """Tensors in memory, where files are expected."""
        weights = cls([])
        for name, tensor in state.items():
            weights._add(Path(), name, tensor.shape, lambda tensor=tensor: tensor)
        return weights

    def renamed(self, names: Mapping[str, str]) -> WeightFiles:
        """Those of the tensors that have a new name, by it."""
        weights = WeightFiles([])
        for old, new in names.items():
            weights._add(Path(), new, self._shapes[old], self._readers[old])
        return weights

    def _add(self, file: Path, name: str, shape: Sequence[int], read: Callable[[], Tensor]) -> None:
        if name in self._readers:
            raise ConvertError(f"{file} holds {name}, which another file holds too")
        self._readers[name] = read
        self._shapes[name] = tuple(shape)

    def _add_safetensors(self, file: Path) -> None:
        try:
            handle = safe_open(file, framework="pt")
        except (SafetensorError, OSError, ValueError) as error:
            raise ConvertError(f"{file} cannot be read as safetensors: {error}") from error
        self.metadata |= handle.metadata() or {}
        for name in handle.keys():
            shape = handle.get_slice(name).get_shape()
            self._add(file, name, shape, lambda name=name: handle.get_tensor(name))

    def _add_torch(self, file: Path, key: str | None) -> None:
        content, taken = _unwrap(_load_torch(file), key, file)
        if taken:
            self.keys_taken[file.name] = taken
        for name, tensor in content.items():
            self._add(file, name, tensor.shape, lambda tensor=tensor: tensor)


def _load_torch(file: Path) -> Any:
    try:
        # Files of the layout before torch 1.6 cannot be mapped; they are read whole.
        return load_state(file, mmap=zipfile.is_zipfile(file))
    except CheckpointError as error:
        raise ConvertError(str(error)) from error


def _unwrap(content: Any, key: str | None, file: Path) -> tuple[dict[str, Tensor], str]:
    """The state_dict inside, and the path of keys that leads there."""
    taken: list[str] = []
    if key is not None:
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            inside = listing([str(k) for k in content]) if isinstance(content, dict) else "no names"
            raise ConvertError(f"{file} holds no state_dict {key!r}; it holds {inside}")
        content = content[key]
        taken.append(key)
    while isinstance(content, dict):
        wrapper = next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
        if wrapper is None:
            break
        content = content[wrapper]
        taken.append(wrapper)
    if not isinstance(content, dict) or not content:
        raise ConvertError(f"{file} does not hold named tensors; expected a state_dict")
    other = next((str(name) for name, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ConvertError(f"{file} does not hold named tensors only: {other} is none")
    return content, ".".join(taken)


def write_safetensors(
    weights: WeightFiles,
    names: Mapping[str, str],
    folder: Path,
    stem: str,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Write weights under new names, shard by shard; no more than a shard is in memory at once.

    Args:
        weights: where they come from.
        names: name there -> name written.
        folder: made if missing.
        stem: `STEM.safetensors`, or `STEM-00001-of-00003.safetensors` with an index when there are several.
        dtype: of floating-point tensors; None leaves them as they are.
        max_shard_bytes: size of a shard; a larger tensor has one of its own.

    Returns:
        The files, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _plan_shards(weights, names, dtype, max_shard_bytes)
    count = len(shards)
    files = [
        folder / (f"{stem}-{i:05}-of-{count:05}.safetensors" if count > 1 else f"{stem}.safetensors")
        for i in range(1, count + 1)
    ]
    for file, shard in zip(files, shards, strict=True):
        temporary = file.with_suffix(".part")
        save_file({names[old]: _cast(weights[old], dtype) for old in shard}, temporary, metadata={"format": "pt"})
        os.replace(temporary, file)
    if count > 1:
        where = {names[old]: file.name for file, shard in zip(files, shards, strict=True) for old in shard}
        index = {"metadata": {"total_size": sum(file.stat().st_size for file in files)}, "weight_map": where}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return files


def write_torch(
    weights: WeightFiles, names: Mapping[str, str], file: Path, *, dtype: torch.dtype | None = None
) -> Path:
    """Write weights under new names as one .pth file, as the original release has its VAE and text encoder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    torch.save({new: _cast(weights[old], dtype) for old, new in names.items()}, temporary)
    os.replace(temporary, file)
    return file


def _plan_shards(
    weights: WeightFiles, names: Mapping[str, str], dtype: torch.dtype | None, max_bytes: int
) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for old in names:
        size = _num_bytes(weights[old], dtype)
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(old)
        filled += size
    return shards


def _num_bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    return tensor.numel() * (dtype.itemsize if dtype and tensor.is_floating_point() else tensor.element_size())


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    return tensor.contiguous().clone() if tensor._base is not None else tensor.contiguous()
