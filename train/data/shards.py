"""Shards: samples in tar files as WebDataset has them, in a folder or at any address that fsspec knows.

    DIR/shard-000000.tar          000000000-0.mp4  000000000-0.json  000000001-0.mp4  ...
    DIR/shard-000000.index.json   where in the tar each file lies, and its checksum

Files of a sample share their name up to the first dot. A tar holds its files as they are, so that with an index any
sample is one read of a known part: the order of training stays a function of seed and epoch, and a run resumes exactly,
which a stream with a shuffle buffer does not. Shards of others have no index; it is made once, from their headers, and
remembered.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np

from train.data.cache import key_of
from train.data.csv import DataError, RowError, Skipped, write_skipped
from wanact.files import parse_foreign, replacing

FORMAT = 1
INDEX = ".index.json"
LATENTS = "latents.safetensors"
HELD_INDICES = 64  # shards whose members are kept read; of all others only how many samples they have
THREADS = 16  # that look at shards when a run begins
PAUSES = (0.5, 2.0, 8.0)  # seconds before a read from afar is tried again
_PADDED = tarfile.BLOCKSIZE

T = TypeVar("T")
Files = dict[str, tuple[int, int, int | None]]  # by ending: where it begins, bytes, and crc32 where one is known


class StreamError(DataError):
    """An address that cannot be read now; what it holds may be sound."""


@dataclass(frozen=True)
class Sample:
    """One sample as it was stored.

    Attributes:
        key: its name, for messages.
        fields: what is said of it: prompt, action, start, ...
        files: content of its files by ending, such as `mp4` or `latents.safetensors`.
    """

    key: str
    fields: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Shard:
    """One tar.

    Attributes:
        address: where it lies.
        size: its bytes.
        changed: what its file system says of its last change, "" if nothing.
        count: samples in it.
        made: what its latents were made from, {} of clips.
        rows: of the table that it was written from, the first and the one after the last; None of others' shards.
    """

    address: str
    size: int
    changed: str
    count: int = 0
    made: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[int, int] | None = None


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises:
        DataError: if no such file system is known, or its package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError(f"{address} cannot be opened: {str(error).rstrip('.')}") from error


def is_local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, list | tuple) else (system.protocol,))


def patiently(what: str, read: Callable[[], T], pauses: Iterable[float] = PAUSES) -> T:
    """What `read` gives; tried again where a line was cut, and not where nothing is there.

    Raises:
        StreamError: if it never works. It is no RowError: a clip that could not be fetched is not a bad clip, and to
            leave it out would make the order of the data a matter of the weather.
    """
    for pause in (*pauses, None):
        try:
            return read()
        except (FileNotFoundError, PermissionError, DataError, RowError):
            raise
        except Exception as error:  # each file system has errors of its own
            if pause is None:
                raise StreamError(f"{what} cannot be read: {error or type(error).__name__}") from error
            time.sleep(pause)
    raise AssertionError("the last round returns or raises")


class TarShards:
    """Samples of all tars at an address, each read when it is asked for.

    Args:
        address: a folder, a tar, or several by `*` or `{000..099}`; with a protocol (s3://, hf://, ...) or without.
        remembered: folder for the indices of shards that have none beside them.
        say: how people are told what takes a while.

    Raises:
        DataError: if nothing is there, or one of the tars is no shard.
    """

    lanes = 0  # any sample costs the same: the order is that of any data

    def __init__(self, address: str, remembered: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.address, self._remembered = address, remembered
        self._system, path = file_system(address)
        self._local = is_local(self._system)
        found = self._find(path)
        if (without := sum(not self._index_file(shard).is_file() for shard in found)) > 1:
            say(f"looking into {without} shards of {address}")
        with ThreadPoolExecutor(THREADS) as pool:
            self.shards = [shard for shard in pool.map(self._looked_into, found) if shard.count]
        if not self.shards:
            raise DataError(f"the shards of {address} hold no sample")
        self._ends = np.cumsum([shard.count for shard in self.shards])
        self._members = lru_cache(HELD_INDICES)(self._read_members)
        kinds = {json.dumps(shard.made, sort_keys=True): shard.address for shard in self.shards}
        if len(kinds) > 1:
            one, other, *_ = kinds.values()
            raise DataError(f"{one} and {other} were not made alike; give each kind a folder of its own")
        self.made: Mapping[str, Any] = self.shards[0].made

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.count for shard in self.shards]

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the samples or their order change; told by names, sizes and numbers."""
        told = [(shard.address.rpartition("/")[2], shard.size, shard.count) for shard in self.shards]
        return key_of("shards", told)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            RowError: if it is damaged.
            StreamError: if it cannot be fetched.
        """
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        key, files = self._members(number)[index - (int(self._ends[number - 1]) if number else 0)]
        begin = min(place for place, _, _ in files.values())
        end = max(place + size for place, size, _ in files.values())
        data = self._read(shard.address, begin, end)
        content = {}
        for ending, (place, size, checksum) in files.items():
            part = data[place - begin : place - begin + size]
            if len(part) < size or (checksum is not None and zlib.crc32(part) != checksum):
                raise RowError(f"{key}.{ending} of {shard.address} is damaged: it is not what its index says")
            content[ending] = part
        return sample_of(key, content)

    def _read(self, address: str, begin: int, end: int) -> bytes:
        pauses = () if self._local else PAUSES
        try:
            return patiently(address, lambda: self._system.cat_file(address, start=begin, end=end), pauses)
        except OSError as error:
            raise StreamError(f"{address} cannot be read any more: {error.strerror or error}") from error

    # Finding

    def _find(self, path: str) -> list[Shard]:
        """All tars in the order of their names."""
        if path.endswith((".tar.gz", ".tgz", ".tar.zst")):
            raise DataError(f"{self.address}: no sample can be found alone in a packed tar; unpack it to .tar")
        found: dict[str, dict[str, Any]] = {}
        for part in braces(path):
            found |= patiently(self.address, lambda part=part: self._listed(part), () if self._local else PAUSES)
        if not found:
            raise DataError(f"{self.address} holds no shard (*.tar)")
        return [Shard(name, int(info["size"]), _changed(info)) for name, info in sorted(found.items())]

    def _listed(self, path: str) -> dict[str, dict[str, Any]]:
        system = self._system
        try:
            if "*" in path or "?" in path:
                return system.glob(path, detail=True)
            if path.endswith(".tar"):
                return {path: system.info(path)}
            entries = {info["name"]: info for info in system.ls(path, detail=True)}
        except FileNotFoundError as error:
            raise DataError(f"{self.address}: nothing is there (no {path})") from error
        return {name: info for name, info in entries.items() if name.endswith(".tar")}

    # Indices

    def _index_file(self, shard: Shard) -> Path:
        return self._remembered / f"{key_of('index', FORMAT, shard.address, shard.size, shard.changed)}.json"

    def _looked_into(self, shard: Shard) -> Shard:
        content = self._index(shard)
        rows = content.get("rows")
        return Shard(
            shard.address,
            shard.size,
            shard.changed,
            len(content["samples"]),
            content.get("made") or {},
            None if rows is None else (int(rows[0]), int(rows[1])),
        )

    def _read_members(self, number: int) -> list[tuple[str, Files]]:
        return [(key, files) for key, files in self._index(self.shards[number])["samples"]]

    def _index(self, shard: Shard) -> dict[str, Any]:
        """Where everything lies in a shard: as written beside it, as remembered, or from its headers."""
        file = self._index_file(shard)
        if file.is_file():
            with contextlib.suppress(ValueError, DataError):  # a damaged one is made anew
                return self._checked(parse_foreign(file.read_bytes()), shard)
        beside = shard.address.removesuffix(".tar") + INDEX
        try:
            data = patiently(beside, lambda: self._system.cat_file(beside), () if self._local else PAUSES)
        except FileNotFoundError:
            content = {"format": FORMAT, "bytes": shard.size, "samples": self._walk(shard)}
        else:
            try:
                content = self._checked(parse_foreign(data), shard)
            except ValueError as error:
                raise DataError(f"{beside} is damaged: {error}") from error
        # It saves looking again, no more: if it cannot be written, nothing is wrong with the shard.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(content), encoding="utf-8")
        return content

    @staticmethod
    def _checked(content: Any, shard: Shard) -> dict[str, Any]:
        try:
            size, samples = content["bytes"], content["samples"]
            fits = all(
                0 <= place <= place + length <= shard.size
                for _, files in samples
                for place, length, _ in files.values()
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise DataError(f"the index of {shard.address} is damaged") from error
        if size != shard.size or not fits:
            raise DataError(f"{shard.address} has {shard.size} bytes, its index says {size}: one of them was cut off")
        return content

    def _walk(self, shard: Shard) -> list[tuple[str, Files]]:
        """The files of a tar that has no index, by sample, from its headers alone."""
        samples: dict[str, Files] = {}
        try:
            # A header lies between two files, so that a small block is enough and most of the tar is never fetched.
            with (
                self._system.open(shard.address, "rb", block_size=2**16) as file,
                tarfile.open(fileobj=file, mode="r:") as tar,
            ):
                for member in tar:
                    folder, slash, name = member.name.rpartition("/")
                    stem, dot, ending = name.partition(".")
                    if member.isfile() and stem and dot:
                        files = samples.setdefault(f"{folder}{slash}{stem}", {})
                        files[ending.lower()] = (member.offset_data, member.size, None)
        except tarfile.TarError as error:
            raise DataError(f"{shard.address} is no tar that can be read: {error}") from error
        cut = next((k for k, files in samples.items() for p, s, _ in files.values() if p + s > shard.size), None)
        if cut is not None:
            raise DataError(f"{shard.address} is cut off in {cut}")
        return list(samples.items())


def braces(path: str) -> list[str]:
    """`x-{000..002}.tar` as the three paths that it means."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if match is None:
        return [path]
    first, last = int(match[1]), int(match[2])
    if not first <= last <= first + 10**6:
        raise DataError(f"{path}: {match[0]} must rise, and by a million at most")
    width = len(match[1])
    before, behind = path[: match.start()], path[match.end() :]
    return [whole for n in range(first, last + 1) for whole in braces(f"{before}{n:0{width}d}{behind}")]


def _changed(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in ("ETag", "etag", "mtime", "LastModified", "updated") if name in info), "")


def sample_of(key: str, files: dict[str, bytes]) -> Sample:
    """A sample from its files: JSON, text and arrays say something of it, the others are handed on.

    Raises:
        RowError: if one of them cannot be read.
    """
    fields: dict[str, Any] = {}
    others: dict[str, bytes] = {}
    for ending, content in files.items():
        try:
            if ending == "json":
                found = parse_foreign(content)
                if not isinstance(found, dict):
                    raise ValueError(f"it holds {type(found).__name__}, expected an object")
                fields |= found
            elif ending == "txt":
                fields.setdefault("prompt", content.decode("utf-8-sig").strip())
            elif ending == "action.json":
                fields["action"] = content.decode()
            elif ending in ("action.npy", "actions.npy"):
                fields["action"] = np.load(io.BytesIO(content), allow_pickle=False)
            else:
                others[ending] = content
        except (ValueError, EOFError) as error:
            raise RowError(f"{key}.{ending} cannot be read: {error}") from error
    return Sample(key, fields, others)


# Writing


class ShardWriter:
    """Writes shards that can be gone on with: a shard is there when its index is, which is written last.

    Args:
        address: folder that they go into.
        rows: of the table, in each shard.
        made: what latents are made from, {} of clips.
    """

    def __init__(self, address: str, rows: int, made: Mapping[str, Any] | None = None) -> None:
        self.address, self.rows, self.made = address.rstrip("/"), rows, dict(made or {})
        self._system, self._path = file_system(self.address)
        self._local = is_local(self._system)
        try:
            self._system.makedirs(self._path, exist_ok=True)
        except OSError as error:
            raise DataError(f"{address} cannot be written: {error.strerror or error}") from error

    def shards_of(self, total: int, part: int, parts: int) -> Iterator[tuple[int, range]]:
        """Number and rows of each shard of one of `parts` shares, from 0; the same shards in any number of shares."""
        for number in range(part, -(-total // self.rows), parts):
            yield number, range(number * self.rows, min(total, (number + 1) * self.rows))

    def samples_in(self, number: int, rows: range) -> int | None:
        """Samples of a shard that is there already, or None.

        Raises:
            DataError: if it is another one.
        """
        beside = self._name(number, INDEX)
        try:
            content = parse_foreign(patiently(beside, lambda: self._system.cat_file(beside)))
            size, tar = content["bytes"], self._system.info(self._name(number, ".tar"))["size"]
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            return None  # it was cut off
        first, end = content.get("rows") or (None, 0)
        if first == rows.start and end < rows.stop and content.get("made", {}) == self.made:
            return None  # the table has grown since
        if (first, end) != (rows.start, rows.stop) or content.get("made", {}) != self.made:
            raise DataError(
                f"{self._name(number, '.tar')} was written with other settings or of other rows; "
                "write into another folder, or remove it"
            )
        return len(content["samples"]) if size == tar else None

    def write(self, number: int, rows: range, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
        """Write one shard of these samples; gives how many there were."""
        index: list[Any] = []
        with tempfile.TemporaryDirectory(prefix="shard-") as folder:
            # In the folder itself where it is a local one, so that the last step is one rename.
            target = Path(self._name(number, ".tar"))
            holder = replacing(target) if self._local else contextlib.nullcontext(Path(folder) / target.name)
            with holder as file:
                with open(file, "wb") as out:
                    for key, files in samples:
                        index.append([key, {end: _append(out, f"{key}.{end}", data) for end, data in files.items()}])
                    out.write(bytes(2 * _PADDED))  # how a tar ends
                    size = out.tell()
                if not self._local:
                    patiently(self._name(number, ".tar"), lambda: self._system.put_file(str(file), str(target)))
        content = {"format": FORMAT, "bytes": size, "rows": [rows.start, rows.stop], "samples": index}
        data = json.dumps(content | ({"made": self.made} if self.made else {})).encode()
        beside = self._name(number, INDEX)
        if self._local:
            with replacing(Path(beside)) as temporary:
                temporary.write_bytes(data)
        else:
            patiently(beside, lambda: self._system.pipe_file(beside, data))
        return len(index)

    def _name(self, number: int, ending: str) -> str:
        return f"{self._path}/shard-{number:06d}{ending}"


def write_skipped_beside(address: str, name: str, skipped: list[Skipped]) -> None:
    """Write a skipped.csv where shards lie."""
    system, path = file_system(address.rstrip("/"))
    with tempfile.TemporaryDirectory(prefix="shard-") as folder:
        file = Path(folder) / name
        write_skipped(file, skipped)
        data = file.read_bytes()
    patiently(name, lambda: system.pipe_file(f"{path}/{name}", data))


def _append(out: Any, name: str, data: bytes) -> tuple[int, int, int]:
    """Write one member; where its content begins, its size and its checksum."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.write(info.tobuf(tarfile.PAX_FORMAT))
    place = out.tell()
    out.write(data)
    out.write(bytes(-len(data) % _PADDED))
    return place, len(data), zlib.crc32(data)
