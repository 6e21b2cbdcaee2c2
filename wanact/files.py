"""JSON and weights from files that nobody vouches for, and files that are whole or as they were before.

Nothing is unpickled, headers are held against the size of their file, and JSON is read up to a sensible size.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from wanact.errors import UserError

_MAX_JSON_BYTES = 32 * 2**20
_MAX_HEADER_BYTES = 100 * 10**6  # safetensors' own limit


class CheckpointError(UserError):
    """A run or checkpoint that cannot be used; the message names the file."""


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sensible size.

    Raises:
        CheckpointError: if it is missing, too large or no JSON object.
    """
    return parse_json(path, read_bytes(path))


def read_bytes(path: Path, max_bytes: int = _MAX_JSON_BYTES) -> bytes:
    """Content of a file of sensible size.

    Raises:
        CheckpointError: if it is missing or too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise CheckpointError(f"{path} is larger than {max_bytes >> 20} MB; it is not read")
    return data


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """A JSON object from bytes that were read from `path`.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected a JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object so that the file is whole or as before."""
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(content))


def json_bytes(content: dict[str, Any]) -> bytes:
    """The bytes that `write_json` writes."""
    return (json.dumps(content, indent=2) + "\n").encode()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, where the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(handle)


def load_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Named tensors from a .safetensors or .pt file; pickled objects are never built.

    Raises:
        CheckpointError: if it is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _tensors_only(load_state(path), path)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def check_safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, checked against the size of the file.

    Raises:
        CheckpointError: if the header is too large, no JSON, or names bytes that the file has not.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{path} is truncated or no safetensors file: its header does not fit")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} has a damaged safetensors header") from error
    if 8 + length + end != size:
        raise CheckpointError(f"{path} has {size} bytes, its header speaks of {8 + length + end}: it is truncated")
    return header


def load_state(path: Path, mmap: bool = False) -> Any:
    """Content of a .pt file: tensors, numbers, strings and containers of them.

    Args:
        mmap: leave tensors on the disk until they are used, so that the processes of a machine share their memory.

    Raises:
        CheckpointError: if it is damaged, or a pickle of other objects, which could run code.
    """
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects and not only tensors, so it is not loaded: a pickle can run code. "
            "Save its state_dict as .safetensors instead"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else 'empty'}"
        ) from error


def _tensors_only(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} does not hold named tensors; expected a state_dict")
    return content
