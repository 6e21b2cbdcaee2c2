"""The state of networks that are split over processes, by torch.distributed.checkpoint: each process writes and reads
its own part, and nobody holds the whole.

    step-000000552/shards/shard-00001-model-00001-of-00002.safetensors   what process 0 holds
                          shard-00002-model-00001-of-00002.safetensors   what process 1 holds

Files are safetensors, whose headers say which part of which tensor they hold: nothing is unpickled, and any number of
processes reads what any other has written. Names are `weights/NAME`, `ema/NAME` and `optimizer/PHASE/NAME/KEY`.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import _TYPES  # pyright: ignore[reportPrivateUsage]
from torch import Tensor
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from train.loop.dist import local
from wanact.files import CheckpointError

FOLDER = "shards"
WEIGHTS, EMA, OPTIMIZER = "weights", "ema", "optimizer"
_SCALAR = "()"
_FILE_BYTES = 2**28  # of each process: while a file is written it is in memory a second time


def save(tensors: Mapping[str, Tensor], folder: Path, group: Any) -> None:
    """Write the tensors, each process its part. Collective in `group`.

    Raises:
        OSError: in every process, if one of them cannot write.
    """
    size, files, share = 0, {}, _FILE_BYTES * dist.get_world_size(group)
    for name, tensor in map(_stored, tensors.items()):
        files[name] = 1 + size // share
        size += tensor.numel() * tensor.element_size()
    numbered = {file: place for place, file in enumerate(sorted(set(files.values())), start=1)}
    writer = HuggingFaceStorageWriter(
        str(folder), {name: numbered[file] for name, file in files.items()}, save_distributed=True
    )
    state = dict(map(_stored, tensors.items()))
    try:
        save_parts(state, storage_writer=writer, process_group=group)
    except CheckpointException as error:  # a BaseException, of which `except Exception` knows nothing
        process, first = next(iter(error.failures.items()))
        raise OSError(f"process {process} could not write its part: {first[0]}") from error


def load(tensors: Mapping[str, Tensor], checkpoint: Path, group: Any = None) -> None:
    """Fill tensors from a checkpoint: sharded ones each process its part, collective in `group`; whole ones alone.

    Raises:
        CheckpointError: if one is missing there or has another shape.
    """
    state = dict(_stored((name, tensor.detach())) for name, tensor in tensors.items())  # views of the same memory
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*", category=UserWarning)
        try:
            load_parts(
                state,
                storage_reader=HuggingFaceStorageReader(str(checkpoint / FOLDER)),
                process_group=group,
                no_dist=group is None,
            )
        except CheckpointException as error:
            first = next(iter(error.failures.values()))
            raise CheckpointError(f"{checkpoint / FOLDER} cannot be read: {first[0]}") from error


def _stored(item: tuple[str, Tensor]) -> tuple[str, Tensor]:
    """Name and tensor in the files, which slice no tensor without dimensions."""
    name, tensor = item
    return (name, tensor) if tensor.ndim else (name + _SCALAR, tensor.reshape(1))


class Parts:
    """What the files of a checkpoint hold, without any other process: what it is, and single tensors, whole.

    Raises:
        CheckpointError: if they cannot be read.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._parts: dict[str, list[tuple[Any, list[int]]]] = {}
        self._what: dict[str, tuple[list[int], torch.dtype]] = {}
        try:
            for path in sorted((checkpoint / FOLDER).glob("*.safetensors")):
                file = safe_open(path, framework="pt")
                told = json.loads((file.metadata() or {}).get(CUSTOM_METADATA_KEY, "{}"))
                for name in file.keys():
                    self._note(name, file, told[name][SAVED_OFFSETS_KEY])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{checkpoint / FOLDER} is damaged: {error}") from error

    def _note(self, name: str, file: Any, offsets: list[int]) -> None:
        part = file.get_slice(name)
        end = [offset + size for offset, size in zip(offsets, part.get_shape(), strict=True)]
        before = self._what.get(name, (end, None))[0]
        self._what[name] = ([max(pair) for pair in zip(before, end, strict=True)], _TYPES[part.get_dtype()])
        self._parts.setdefault(name, []).append((file, offsets))

    def described(self) -> dict[str, Tensor]:
        """All tensors by name, on the meta device: what they are, and nothing of what they hold."""
        return {
            name.removesuffix(_SCALAR): torch.empty([] if name.endswith(_SCALAR) else shape, dtype=dtype, device="meta")
            for name, (shape, dtype) in self._what.items()
        }

    def tensor(self, name: str) -> Tensor:
        """One of them, whole, in host memory."""
        stored = name if name in self._parts else name + _SCALAR
        shape, dtype = self._what[stored]
        whole = torch.empty(shape, dtype=dtype)
        for file, offsets in self._parts[stored]:
            part = file.get_tensor(stored)
            whole[tuple(slice(o, o + size) for o, size in zip(offsets, part.shape, strict=True))] = part
        return whole.reshape(()) if stored.endswith(_SCALAR) else whole

    def kind(self, kind: str) -> list[str]:
        """Names of all tensors of a kind, without it."""
        return [name.partition("/")[2] for name in self.described() if name.startswith(f"{kind}/")]


def is_sharded(checkpoint: Path) -> bool:
    return (checkpoint / FOLDER).is_dir()


def read(checkpoint: Path, kind: str) -> dict[str, Tensor]:
    """Whole tensors of one kind, by the name behind it, in host memory.

    Raises:
        CheckpointError: if its files cannot be read.
    """
    parts = Parts(checkpoint)
    return {name: parts.tensor(f"{kind}/{name}") for name in parts.kind(kind)}


def nested(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """States of optimizers as the trainer keeps them, by phase; None if there are none. Takes names of a checkpoint."""
    phases: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{OPTIMIZER}/"):
            _, phase, parameter, key = name.split("/")
            phases.setdefault(phase, {"state": {}})["state"].setdefault(parameter, {})[key] = tensor
    return phases or None


def flat(phases: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names in a checkpoint of what `nested` gives."""
    return {
        f"{OPTIMIZER}/{phase}/{parameter}/{key}": tensor
        for phase, content in phases.items()
        for parameter, state in content["state"].items()
        for key, tensor in state.items()
    }


def first_not_finite(tensors: Mapping[str, Tensor], group: Any) -> str | None:
    """The first tensor, in any process, with NaN or infinity in it. Collective in `group`."""
    own = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(local(tensor)).all())), None)
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, own, group=group)
    return next((name for name in found if name is not None), None)


# Files to fly with

Export = Callable[[dict[str, Tensor]], dict[str, dict[str, Tensor]]]


def write_exports(export: Export, checkpoint: Path, kind: str, whole: Iterable[str]) -> list[str]:
    """Write the files that networks are flown with from the shards, one tensor after the other; gives their names.

    Args:
        export: of the stage; what it makes of a weight of a sharded network depends on this weight alone.
        checkpoint: whose shards are written already.
        kind: of weights: as trained, or averaged.
        whole: weights of networks that are not split, which are exported together.
    """
    parts = Parts(checkpoint)
    described = parts.described()
    there = {name: described[f"{kind}/{name}"] for name in parts.kind(kind)}
    small = {name: parts.tensor(f"{kind}/{name}") for name in whole if name in there}
    plan: dict[str, dict[str, tuple[Tensor, str | None]]] = {
        file: {name: (tensor, None) for name, tensor in tensors.items()} for file, tensors in export(small).items()
    }
    for name, tensor in there.items():
        if name not in small:
            for file, tensors in export({name: tensor}).items():
                new = {key: (value, name) for key, value in tensors.items() if key not in plan.get(file, {})}
                plan.setdefault(file, {}).update(new)

    def made(file: str, key: str, source: str) -> Tensor:
        return export({source: parts.tensor(f"{kind}/{source}")})[file][key]

    for file, entries in plan.items():
        if entries:
            contents = {
                key: (value, None if source is None else (lambda f=file, k=key, s=source: made(f, k, s)))
                for key, (value, source) in entries.items()
            }
            _write_safetensors(checkpoint / file, contents)
    return [file for file, entries in plan.items() if entries]


def _write_safetensors(path: Path, contents: Mapping[str, tuple[Tensor, Callable[[], Tensor] | None]]) -> None:
    """A safetensors file of tensors that are there, or are made when it is their turn (of which a meta tensor tells).

    Source: https://huggingface.co/docs/safetensors, format: eight bytes with the size of the header, the header as
    JSON padded with blanks, and the tensors one behind the other.
    """
    names = {dtype: name for name, dtype in _TYPES.items()}
    header: dict[str, Any] = {}
    place = 0
    for name, (tensor, _) in contents.items():
        size = tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": names[tensor.dtype], "shape": shape, "data_offsets": [place, place + size]}
        place += size
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        for tensor, make in contents.values():
            value = tensor if make is None else make()
            file.write(value.detach().contiguous().flatten().view(torch.uint8).numpy().data)
