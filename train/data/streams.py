"""Data that outgrows one disk: shards at any address, and what the library `datasets` streams.

A source gives sample number i of its data, and says in which order they are read well:

- shards (`train.data.shards`): any sample is one read, so that the order is that of any data;
- `datasets:NAME` or `datasets:NAME:SPLIT`, a folder or a data set of the Hub: files are read from the front. Several
  are open at once (`LANES`), each gives a few rows in turn (`BLOCK`), and these are shuffled among each other. What
  that makes of an epoch is a function of the seed and the number of rows in each file, so that it, too, can be entered
  anywhere: a run resumes at the sample where it was, in any number of processes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
import torch

from train.data.cache import key_of
from train.data.csv import DataError, RowError
from train.data.shards import Sample, TarShards, patiently
from wanact.files import read_json, write_json

LIBRARY = "datasets:"  # before the name of what the library `datasets` reads
LANES, BLOCK = 8, 16
FILES = ("latents.safetensors", "latents")  # names of a column that holds latents


class Source(Protocol):
    """Samples by number."""

    @property
    def address(self) -> str: ...

    @property
    def lanes(self) -> int:
        """Files that are best read from the front at once; 0 where any sample costs the same."""
        ...

    @property
    def made(self) -> Mapping[str, Any]:
        """What latents were made from, {} of clips."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the samples or their order change."""
        ...


def is_stream(address: str) -> bool:
    """Whether `--dataset_metadata_path` names shards or what is streamed, and no table or manifest.

    Those are a folder, a tar, whatever has a protocol in front, and `datasets:`.
    """
    if address.startswith(LIBRARY) or "://" in address or address.endswith(".tar"):
        return True
    return bool(address) and Path(address).is_dir()


def open_source(address: str, remembered: Path, say: Callable[[str], None] = lambda text: None) -> Source:
    """What an address holds.

    Args:
        remembered: folder where what has been found out about it is kept.
        say: how people are told what takes a while.

    Raises:
        DataError: if it cannot be used.
    """
    if address.startswith(LIBRARY):
        streamed: Any = StreamedDataset(address, remembered, say)  # cached properties are no properties to a checker
        return streamed
    if address.endswith((".csv", ".json", ".jsonl", ".parquet")):
        own = f"datasets:{address.rpartition('/')[0]}" if address.endswith(".parquet") else "a local folder"
        raise DataError(f"{address} is no shard (*.tar); tables are read from {own}")
    shards: Any = TarShards(address, remembered, say)
    return shards


def stream_order(counts: Sequence[int], lanes: int, block: int, generator: torch.Generator) -> torch.Tensor:
    """An order of all rows in which each file is read from the front: int64 [sum of counts].

    Files are shuffled and dealt out to the lanes. In each round every lane gives its next `block` rows, and the rows of
    a round are shuffled among each other. So a row stands close to where its file is, and no more than
    `lanes * block` rows are waited for at once.

    Args:
        counts: rows of each file.
    """
    begins = [0, *np.cumsum(counts).tolist()]
    files = torch.randperm(len(counts), generator=generator).tolist()
    hands = [
        np.concatenate([np.arange(begins[f], begins[f + 1]) for f in files[lane::lanes]] or [np.zeros(0, np.int64)])
        for lane in range(min(lanes, len(files)))
    ]
    order = []
    for first in range(0, max((len(hand) for hand in hands), default=0), block):
        rows = torch.from_numpy(np.concatenate([hand[first : first + block] for hand in hands]).astype(np.int64))
        order.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(order) if order else torch.zeros(0, dtype=torch.int64)


class StreamedDataset:
    """Rows that the library `datasets` streams, in blocks that are kept while they are waited for.

    Args:
        address: `datasets:NAME` or `datasets:NAME:SPLIT`; NAME is a folder or a data set of the Hub.
        remembered: folder where the numbers of rows are kept.
        say: how people are told what takes a while.

    Raises:
        DataError: if the library is missing, or does not find it.
    """

    lanes = LANES

    def __init__(self, address: str, remembered: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.address, self.made = address, {}
        name, _, split = address.removeprefix(LIBRARY).partition(":")
        self._name, self._split = os.path.expanduser(name), split or "train"
        self._rows, self._files = self._opened()
        self.counts = self._counted(remembered, say)
        self._begins = np.concatenate([[0], np.cumsum(self.counts)])
        if not len(self):
            raise DataError(f"{address} has no row")
        self._locks = [threading.Lock() for _ in self.counts]
        self._open: dict[int, tuple[int, Iterator[dict[str, Any]]]] = {}  # by file: the next row, and what gives it
        self._held: OrderedDict[tuple[int, int], list[dict[str, Any]]] = OrderedDict()
        self._held_lock = threading.Lock()

    def _opened(self) -> tuple[Any, list[str]]:
        """The stream, and the addresses of its files where the library says them."""
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                f"{self.address} needs the package datasets, which is not installed: pip install datasets, or "
                "wanact[shards]"
            ) from error
        datasets.disable_progress_bars()
        try:
            builder = datasets.load_dataset_builder(self._name)
            rows: Any = builder.as_streaming_dataset(split=self._split)
        except Exception as error:  # of the library, of the Hub and of each format
            words = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.address} cannot be streamed: {words}") from error
        for column, kind in (rows.features or {}).items():
            if isinstance(kind, datasets.Video | datasets.Image):
                rows = rows.cast_column(column, type(kind)(decode=False))
        files = (builder.config.data_files or {}).get(self._split, [])
        return rows, [str(file) for file in files]

    # How many rows each file has

    def _counted(self, remembered: Path, say: Callable[[str], None]) -> list[int]:
        """Rows of each file: from the footers of Parquet, else by reading everything once."""
        file = remembered / f"{key_of('rows', self._name, self._split, self._told())}.json"
        if file.is_file():
            with contextlib.suppress(ValueError, KeyError):
                counts = read_json(file)["rows"]
                if len(counts) == self._rows.num_shards:
                    return [int(count) for count in counts]
        counts = self._from_footers()
        if counts is None:
            say(f"counting the rows of {self.address}, which takes one pass over it")
            counts = [sum(1 for _ in self._file(number)) for number in range(self._rows.num_shards)]
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"rows": counts})
        return counts

    def _told(self) -> list[Any]:
        """What tells this state of the data from another: addresses, which on the Hub have a revision, and sizes."""
        return [(file, *_stat(file)) for file in self._files]

    def _from_footers(self) -> list[int] | None:
        if len(self._files) != self._rows.num_shards or not all(file.endswith(".parquet") for file in self._files):
            return None
        from pyarrow import parquet

        def rows(file: str) -> int:
            with fsspec.open(file, "rb") as opened:
                return parquet.read_metadata(opened).num_rows

        return [patiently(file, lambda file=file: rows(file)) for file in self._files]

    def _file(self, number: int) -> Any:
        return self._rows.shard(num_shards=self._rows.num_shards, index=number)

    def __len__(self) -> int:
        return int(self._begins[-1])

    @cached_property
    def fingerprint(self) -> str:
        return key_of("streamed", self._name, self._split, [[Path(f).name, size] for f, size, _ in self._told()])

    # Rows

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            RowError: if it cannot be read.
            StreamError: if it cannot be fetched.
        """
        number = int(np.searchsorted(self._begins, index, side="right")) - 1
        block, place = divmod(index - int(self._begins[number]), BLOCK)
        row = self._block(number, block)[place]
        return self._sample(f"row {index}", row)

    def _block(self, number: int, block: int) -> list[dict[str, Any]]:
        with self._locks[number]:
            with self._held_lock:
                if (number, block) in self._held:
                    return self._held[number, block]
            rows = patiently(self.address, lambda: self._fetch(number, block))
            with self._held_lock:
                self._held[number, block] = rows
                while len(self._held) > 3 * LANES:
                    self._held.popitem(last=False)
            return rows

    def _fetch(self, number: int, block: int) -> list[dict[str, Any]]:
        """Rows of a block; the file is read on from where it is, or opened anew."""
        first = block * BLOCK
        count = min(BLOCK, self.counts[number] - first)
        at, rows = self._open.pop(number, (0, None))
        if rows is None or at > first:
            at, rows = first, iter(self._file(number).skip(first) if first else self._file(number))
        for _ in range(first - at):
            next(rows, None)
        found = [row for _, row in zip(range(count), rows, strict=False)]
        if len(found) < count:
            raise DataError(
                f"file {number + 1} of {self.address} ends after {first + len(found)} rows, and it had "
                f"{self.counts[number]}; it has changed, so start again"
            )
        if first + count < self.counts[number]:
            self._open[number] = (first + count, rows)
        return found

    def _sample(self, key: str, row: Mapping[str, Any]) -> Sample:
        """Columns as the files and fields of a sample; what a column of files holds is fetched."""
        fields = dict(row)
        files: dict[str, bytes] = {}
        for column, value in row.items():
            content, name = _content(value)
            if column in FILES and content is not None:
                files["latents.safetensors"] = content
            elif column in ("video", "mp4") and (content is not None or name):
                ending = Path(name).suffix.lstrip(".").lower() or "mp4"
                files[ending] = self._fetched(key, name) if content is None else content
            elif column in ("json", "txt") and isinstance(value, dict | str):  # what the library makes of tars
                said = {"prompt": value} if isinstance(value, str) else value
                fields |= {name: thing for name, thing in said.items() if thing is not None}
            else:
                continue
            del fields[column]
        return Sample(key, fields, files)

    def _fetched(self, key: str, name: str) -> bytes:
        address = name
        if "://" not in name and not Path(name).is_absolute() and Path(self._name).is_dir():
            address = str(Path(self._name) / name)

        def read() -> bytes:
            opened: Any = fsspec.open(address, "rb")
            with opened as file:
                return file.read()

        try:
            return patiently(address, read)
        except FileNotFoundError as error:
            raise RowError(f"{key}: {name} is missing") from error


def _content(value: Any) -> tuple[bytes | None, str]:
    """Bytes and name of a column that holds a file: bytes, a path, or both."""
    if isinstance(value, bytes):
        return value, ""
    if isinstance(value, str):
        return None, value
    if isinstance(value, dict) and {"bytes", "path"} <= value.keys():
        return value["bytes"], str(value["path"] or "")
    return None, ""


def _stat(file: str) -> tuple[int, int]:
    """Size and time of change of a local file, zeros of others."""
    if "://" in file or not Path(file).exists():
        return 0, 0
    stat = Path(file).stat()
    return stat.st_size, stat.st_mtime_ns
