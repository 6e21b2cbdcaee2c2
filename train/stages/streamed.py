"""Clips of a stream: those whose latents are in it already, and those that are encoded when they are drawn.

The second load the VAE and the text encoder for as long as the run lasts; `train encode --shards ADDRESS` makes the
first of them, so that a run loads neither and reads 3 MB a clip.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from train.data import csv
from train.data.cache import ahead, key_of
from train.data.shards import LATENTS, Sample, ShardWriter, StreamError
from train.data.streams import BLOCK, Source, open_source, stream_order
from train.loop.config import ConfigError, TrainConfig
from train.loop.seeding import derive_seed
from train.stages.clips import ClipEncoder, DrawnClips, Place, PromptEncoder, Share, Work, mirrored
from wanact.actions import read_track
from wanact.data import tables
from wanact.media.footage import ANIMATIONS

MOVIES = {"mp4", "mov", "mkv", "webm", "avi", "m4v", "mpg", "mpeg", "ts", *(end.lstrip(".") for end in ANIMATIONS)}
Clip = tuple[csv.Row, dict[str, Tensor]]


@dataclass
class Making:
    """What clips without latents are encoded by, where some are met."""

    encoder: ClipEncoder
    prompts: PromptEncoder | None


class StreamedClips(DrawnClips[Clip]):
    """The clips of a source, each fetched when it is drawn.

    Args:
        config: how they are read.
        source: gives them.
        made: what latents are made from in this run.
        making: encodes clips, or None where latents are in the source.
        needs_actions: whether a clip without actions cannot be used.
        say: how people are told what is left out.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        made: Mapping[str, Any],
        making: Making | None,
        needs_actions: bool,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(config, source.address, say)
        self.source, self._made, self._digest, self._making = source, made, digest(made), making
        self._needs_actions = needs_actions
        self._encoding = threading.Lock()
        self._ways = 2 if config.data.mirror else 1

    @property
    def _samples(self) -> int:
        return min(len(self.source), self._config.data.max_rows or len(self.source))

    def __len__(self) -> int:
        return self._samples * self._ways

    @property
    def fingerprint(self) -> str:
        """Changes when the clips or their order change."""
        return key_of(self.source.fingerprint, self._digest, len(self), self._ways)

    def order(self, seed: int, epoch: int, repeat: int) -> Tensor | None:
        """The order of an epoch where files are best read from the front; None where any order is as good."""
        if not self.source.lanes:
            return None
        left, counts = self._samples, []
        for count in self.source.counts:
            counts.append(min(count, left) * self._ways)
            left -= counts[-1] // self._ways
        passes = [
            torch.Generator().manual_seed(derive_seed(seed, "order", epoch, *([number] if number else [])))
            for number in range(repeat)
        ]
        block = BLOCK * self._ways
        return torch.cat([stream_order(counts, self.source.lanes, block, generator) for generator in passes])

    def row(self, index: int) -> csv.Row:
        """The row of a clip, or of the one that takes its place."""
        return self.usable(index)[0]

    def entry(self, index: int) -> dict[str, Tensor]:
        """The tensors of a clip: latents, and what else there is."""
        return self.usable(index)[1]

    def embedding(self, index: int) -> dict[str, Tensor]:
        """The embedding of a clip's words."""
        entry = self.entry(index)
        if "embedding" in entry:
            return entry
        assert self._making is not None and self._making.prompts is not None, "words are encoded where they are needed"
        return self._making.prompts[self.row(index).prompt]

    def is_full(self, held: OrderedDict[int, Clip]) -> bool:
        size = sum(tensor.nbytes for _, entry in held.values() for tensor in entry.values())
        return size > self._config.data.cache_memory_gb * 2**30

    def make(self, place: int) -> Clip:
        number, is_mirrored = divmod(place, self._ways)
        sample = self.source[number]
        if LATENTS in sample.files:
            return self._stored(number, sample)
        if self._making is None:
            raise csv.RowError(f"{sample.key} has no latents, and the first sample has")
        return self._encoded(number, sample, bool(is_mirrored), self._making.encoder)

    def _stored(self, number: int, sample: Sample) -> Clip:
        fields = tables.with_known_names(sample.fields)
        if fields.get("made") != self._digest:
            raise csv.DataError(other_latents(self.source.address, self.source.made, self._made))
        try:
            entry = safetensors.torch.load(sample.files[LATENTS])
        except (SafetensorError, ValueError) as error:
            raise csv.RowError(f"{sample.key}: its latents are damaged: {error}") from error
        prompt, track, mended = csv.words_and_actions(fields, self._made["num_frames"], self._needs_actions)
        return csv.Row(number + 1, Path(sample.key), prompt, track, None, mended), entry

    def _encoded(self, number: int, sample: Sample, is_mirrored: bool, encoder: ClipEncoder) -> Clip:
        with row_of(sample, number + 1, encoder.shape, self._config.data.fps, self._needs_actions) as (row, content):
            row = mirrored(row) if is_mirrored else row
            keys = encoder.keys(row, is_mirrored, lambda _: content)
            if all(cache.has(key) for cache, key in zip(encoder.caches, keys, strict=True)):
                found = [cache.get(key) for cache, key in zip(encoder.caches, keys, strict=True)]
            else:
                frames = encoder.frames(row, is_mirrored)
                with self._encoding:  # one clip at a time is what fits beside the training
                    found = encoder.entries(frames)
                for cache, key, entry in zip(encoder.caches, keys, found, strict=True):
                    cache.put(key, entry)
        return row, {name: tensor for entry in found for name, tensor in entry.items()}


@contextlib.contextmanager
def row_of(
    sample: Sample, number: int, shape: tuple[int, int, int], fps: float, needs_actions: bool
) -> Iterator[tuple[csv.Row, str]]:
    """A streamed clip as a row of a table, whose file is there inside of the block; and the checksum of the file.

    Raises:
        RowError: if it cannot be used.
    """
    ending = next((end for end in sample.files if end.rpartition(".")[2] in MOVIES), None)
    if ending is None:
        raise csv.RowError(f"{sample.key} has no clip, only {', '.join(sample.files) or 'words'}")
    content = sample.files[ending]
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        file = Path(folder) / f"{Path(sample.key).name}.{ending}"
        file.write_bytes(content)
        record = tables.with_known_names(sample.fields) | {"video": str(file)}
        start = csv.windows(record, Path(), shape[0], fps, None)[0]
        row = csv.parse_row(record, number, Path(), shape[0], needs_actions, start=start)
        yield row, hashlib.sha256(content).hexdigest()


def digest(made: Mapping[str, Any]) -> str:
    """A short name for what latents were made from, which each of them carries."""
    return key_of("made", json.dumps(made, sort_keys=True))[:16]


def other_latents(address: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """A sentence for latents that another run can use."""
    names = {"vae": "another VAE", "text": "another text encoder", "mask": "another --idm"}
    for name, value in ours.items():
        found = theirs.get(name)
        if theirs and found != value:
            what = names.get(name) or f"--{name} {found}, and this run has {value}"
            return f"the latents of {address} were made with {what}; encode it again, or give what they were made with"
    return f"the latents of {address} do not say that they were made as this run makes them; encode it again"


def refuse_unfit(config: TrainConfig) -> None:
    """Raise ConfigError for settings of tables that mean nothing in a stream."""
    data = config.data
    if "encoding" in config.given and data.encoding == "ahead":
        raise ConfigError(
            "--encoding ahead encodes a table or manifest before the first step; of a stream, `python -m train encode "
            "--shards ADDRESS` does that"
        )
    for name, given, reason in (
        ("window_stride", data.window_stride, "a sample of a stream is one clip; give it to `train encode --shards`"),
        ("dataset_base_path", data.dataset_base_path, "the samples of a stream bring their files"),
        ("data_file_keys", "input_image" in data.file_keys(), "first frames are read from tables only"),
    ):
        if given:
            raise ConfigError(f"--{name} has no effect: {reason}")


# Encoding into shards


class StreamWork(Work):
    """The clips of a stream that are to be encoded, one of each sample."""

    def _opened(self, config: TrainConfig) -> Source:  # its samples are asked for by `read`
        refuse_unfit(config)
        return open_source(config.data.dataset_metadata_path, remembered(config), lambda text: print(text, flush=True))

    def places(self, rows: Iterable[int]) -> Iterator[Place]:
        ways = (False, True) if self.data.mirror else (False,)
        return (Place(number + 1, 0, is_mirrored, None) for number in rows for is_mirrored in ways)

    def read(self, place: Place, encoder: ClipEncoder) -> tuple[csv.Row, np.ndarray]:
        sample = self._records[place.number - 1]
        with row_of(sample, place.number, self._shape, self.data.fps, self._needs_actions) as (row, _):
            frames = encoder.frames(row, place.mirrored)
        return mirrored(row) if place.mirrored else row, frames


def remembered(config: TrainConfig) -> Path:
    """Where what has been found out about a stream is kept."""
    return Path(config.data.cache_dir or Path(config.checkpoint.output_path) / "cache") / "streams"


def encode_shards(
    work: Work, encoder: ClipEncoder, prompts: PromptEncoder | None, writer: ShardWriter, part: int, parts: int
) -> Share:
    """Write the latents and words of every `parts`-th shard from the one numbered `part`, 0 and up, on.

    A shard that is there is passed over, so that a share that was cut off goes on where it was, in any other number of
    shares too.
    """
    share = Share()
    told = digest(writer.made)
    for number, rows in writer.shards_of(len(work), part, parts):
        share.rows += len(rows)
        found = writer.samples_in(number, rows)
        if found is not None:
            share.found += found
            continue
        share.made += writer.write(number, rows, _samples(work, encoder, prompts, rows, told, share))
    return share


def _samples(
    work: Work, encoder: ClipEncoder, prompts: PromptEncoder | None, rows: range, told: str, share: Share
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for place, result in ahead(
        lambda place: work.read(place, encoder), work.places(rows), work.workers, work.clip_bytes
    ):
        if isinstance(result, StreamError):
            raise result
        if isinstance(result, Exception):
            work.leave_out(place, result, share)
            continue
        row, frames = result
        entry = {name: tensor for part in encoder.entries(frames) for name, tensor in part.items()}
        if prompts is not None:
            entry |= prompts.entry(row.prompt)
        said: dict[str, Any] = {"prompt": row.prompt, "made": told, "row": place.number, "video": row.video.name}
        if row.track is not None:
            said["action"] = row.track.to_list()
        said |= {"start_frame": place.start} if place.start else {}
        said |= {"mirrored": True} if place.mirrored else {}
        key = f"{place.number - 1:09d}-{place.start:06d}{'m' * place.mirrored}"
        tensors = {name: tensor.contiguous() for name, tensor in entry.items()}
        yield key, {LATENTS: safetensors.torch.save(tensors), "json": json.dumps(said).encode()}


def raw_samples(
    records: Iterable[tuple[int, Any]], base: Path, say: Callable[[int, str, Exception], None]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Rows of a table as samples: the clip's file as it is, and what the row says of it.

    Args:
        records: number of each row in its file, and what stands there.
        say: told of rows that cannot be used.
    """
    for number, record in records:
        try:
            row = csv.parse_row(record, number, base, 1, needs_action=False)
            if row.views or row.video.is_dir():
                raise csv.RowError("is several files; `train encode --shards` writes its latents")
            ending = row.video.suffix.lstrip(".").lower()
            if ending not in MOVIES:
                raise csv.RowError(f"ends in .{ending}, which nobody takes for a clip")
            said = {name: record[name] for name in ("start", "end") if record.get(name) not in (None, "")}
            said |= {"prompt": row.prompt, "video": row.video.name, "row": number}
            action = record.get("action")
            if action is not None and not (isinstance(action, str) and not action.strip()):
                track = cast(Any, action)() if callable(action) else read_track(action)[0]
                said["action"] = track.to_list()
            yield f"{number - 1:09d}", {ending: row.video.read_bytes(), "json": json.dumps(said).encode()}
        except (csv.RowError, OSError, ValueError) as error:
            say(number, str(record.get("video")) if isinstance(record, dict) else "", error)
