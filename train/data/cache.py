"""Latents and text embeddings on disk, so that an epoch encodes nothing twice, and in memory where they fit.

An entry is named by what it was made from: content of the file, size, frames, and a fingerprint of the network. A
renamed or copied dataset finds its entries again, a changed video does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wanact.files import CheckpointError, check_safetensors, disk_errors, replacing, sha256, write_text
from wanact.media.footage import picture_files

AHEAD_BYTES = 200_000_000  # two clips of 81 frames of 480x832
VERSION = "1"  # change when the meaning of an entry changes

T = TypeVar("T")


def key_of(*parts: Any) -> str:
    """Name of a cache entry made from these parts."""
    return hashlib.sha256("\x1f".join([VERSION, *map(str, parts)]).encode()).hexdigest()


def module_fingerprint(module: nn.Module) -> str:
    """Hash of a network's weights and of its configuration."""
    digest = hashlib.sha256(str(sorted(_plain_config(module).items())).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain_config(module: nn.Module) -> dict[str, Any]:
    """Settings of a diffusers or transformers network that change what it computes."""
    config = getattr(module, "config", {})
    content = dict(config if isinstance(config, dict) else config.to_dict())
    unrelated = {"_name_or_path", "_diffusers_version", "transformers_version", "dtype", "torch_dtype"}
    return {str(key): str(value) for key, value in content.items() if key not in unrelated}


class Room:
    """Space on a disk that several caches share, so that data larger than the disk does not fill it.

    What came first stays. In an order that goes round, as epochs do, the entry that was used longest ago is the next
    one needed, and a cache that made room for new ones would never find anything.

    Args:
        folder: above the caches; what lies there already counts.
        size: bytes in all.
        share: processes that write there.
    """

    def __init__(self, folder: Path, size: float, share: int = 1) -> None:
        files = (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)
        used = sum(os.lstat(file).st_size for file in files)
        self._left = (size - used) / share
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes, which are taken then."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


class Cache:
    """A folder of named tensors.

    Args:
        folder: created if it is not there; may be shared by runs and by processes.
        room: what entries share with other caches; without room for one it is not kept. Without limit if not given.
    """

    def __init__(self, folder: Path, room: Room | None = None) -> None:
        self.folder, self.room = folder, room
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether a whole entry is there; a damaged one counts as none and is made anew."""
        path = self.path(key)
        if not path.is_file():
            return False
        try:
            check_safetensors(path)
        except CheckpointError:
            return False
        return True

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        path = self.path(key)
        if self.room is not None and not self.room.take(sum(tensor.nbytes for tensor in tensors.values())):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, disk_errors():
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)

    def get(self, key: str) -> dict[str, Tensor]:
        return load_file(self.path(key))

    def content_key(self, path: Path) -> str:
        """Checksum of a file's content, remembered by its path, size and time of change; of a folder, its pictures'."""
        if path.is_dir():
            return key_of("folder", *map(self.content_key, picture_files(path)))
        stat = path.stat()
        name = key_of("content", path.resolve(), stat.st_size, stat.st_mtime_ns)
        note = self.folder / "content" / name[:2] / name
        if note.is_file() and len(text := note.read_text()) == 64:
            return text
        checksum = sha256(path)
        # The note saves reading the file again, no more: if it cannot be written, nothing is wrong with the clip.
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, checksum)
        return checksum


class CachedEntries:
    """Entries of a cache as a sequence, in memory if they fit a budget and read one by one if not."""

    def __init__(self, cache: Cache, keys: list[str], memory_bytes: float) -> None:
        self.cache, self.keys = cache, keys
        distinct = sorted(set(keys))
        size = sum(os.stat(cache.path(key)).st_size for key in distinct)
        self._held = {key: cache.get(key) for key in distinct} if size <= memory_bytes else None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        key = self.keys[index]
        return self.cache.get(key) if self._held is None else self._held[key]


def ahead(
    function: Callable[[Any], T], items: Iterable[Any], workers: int, result_bytes: int = 0
) -> Iterator[tuple[Any, T | Exception]]:
    """Each item with `function(item)`, in order, computed by threads a little ahead; errors are handed over as values.

    With 0 workers everything happens in the caller's thread.

    Args:
        result_bytes: size of a result; no more results are there at once, the caller's among them, than `AHEAD_BYTES`.
    """
    if workers < 1:
        for item in items:
            yield item, _result(function, item)
        return
    at_once = min(workers + 2, max(2, AHEAD_BYTES // result_bytes)) if result_bytes else workers + 2
    with ThreadPoolExecutor(min(workers, at_once)) as pool:
        waiting = []
        for item in items:
            waiting.append((item, pool.submit(_result, function, item)))
            if len(waiting) >= at_once:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)


def _first(waiting: list[tuple[Any, Future[T | Exception]]]) -> tuple[Any, T | Exception]:
    item, future = waiting.pop(0)
    return item, future.result()


def _result(function: Callable[[Any], T], item: Any) -> T | Exception:
    try:
        return function(item)
    except (ValueError, OSError) as error:  # what a bad file raises; anything else is a mistake of ours
        return error
