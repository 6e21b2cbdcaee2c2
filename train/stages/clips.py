"""Clips as latents and words as embeddings: what an entry of the cache is named by, and how it is made.

They are made ahead, before the first step, by a run or in shares (`train encode --shard 1/8`), or lazily, when a clip
is first drawn. An entry has the same name however it is made, so that what one way has made the others find.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from train.data import csv, text
from train.data.cache import Cache, Room, ahead, key_of, module_fingerprint
from train.loop.config import TrainConfig
from train.stages.embodiment import MaskReader
from train.stages.rows import read_records
from wanact import shapes
from wanact.data import episodes
from wanact.media import footage, video
from wanact.models import vae as wan_vae

# A whole clip of larger frames takes tens of gigabytes inside the 5B model's VAE.
MAX_WHOLE_ENCODE_PIXELS = 256 * 256
HELD_ROWS = 256  # rows of a manifest that are kept read: a sample asks several times for its own
MOST_SUBSTITUTES = 100  # clips after one that cannot be used, of which one can

Made = TypeVar("Made")
Keys = tuple[str, ...]  # of the entry of latents, and of that of the mask where there is one


class ClipEncoder:
    """Makes entries of clips.

    Args:
        config: how clips are read.
        autoencoder: what encodes them.
        folder: where entries are kept, or None for what is written elsewhere.
        shape: frames, height and width of a clip.
        masks: what reads where the body of a robot is, or None.
        room: what entries may take of the disk, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        autoencoder: nn.Module,
        folder: Path | None,
        shape: tuple[int, int, int],
        masks: MaskReader | None = None,
        room: Room | None = None,
    ) -> None:
        self.config, self.autoencoder, self.shape, self.masks = config.data, autoencoder, shape, masks
        names = ["latents", *["masks"] * (masks is not None)]
        self.caches = [Cache(folder / name, room) for name in names] if folder else []
        self.network = module_fingerprint(autoencoder)
        self._device = next(autoencoder.parameters()).device

    def load(self, row: csv.Row, mirrored: bool) -> tuple[Keys, np.ndarray | None]:
        """Names of a clip's entries, and its frames if one of them is not there; may run in a thread.

        Frames are uint8 [F, H, W, 3], with the row's input image in front if it has one.
        """
        keys = self.keys(row, mirrored)
        if all(cache.has(key) for cache, key in zip(self.caches, keys, strict=True)):
            return keys, None
        return keys, self.frames(row, mirrored)

    def frames(self, row: csv.Row, mirrored: bool) -> np.ndarray:
        """Frames of a clip as `load` gives them; may run in a thread."""
        frames = self._frames(row)
        return np.ascontiguousarray(frames[:, :, ::-1]) if mirrored else frames

    def entries(self, frames: np.ndarray) -> list[dict[str, Tensor]]:
        """What is kept of these frames: the entry of latents, and that of the mask where there is one."""
        return [self._encode(frames), *([self._mask(frames)] if self.masks else [])]

    def made_from(self) -> dict[str, Any]:
        """What latents depend on beside their clip."""
        config, (num_frames, height, width) = self.config, self.shape
        return {
            "vae": self.network,
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "fps": config.fps,
            "fit": config.fit,
            "cache_dtype": config.cache_dtype,
            "random_start": config.random_start,
            "mask": self.masks.fingerprint if self.masks else None,
        }

    def keep(self, keys: Keys, frames: np.ndarray | None) -> None:
        """Make the entries that `load` found missing."""
        if frames is None:
            return
        makers = (self._encode, self._mask)
        for cache, key, make in zip(self.caches, keys, makers, strict=False):
            if not cache.has(key):
                cache.put(key, make(frames))

    def keys(self, row: csv.Row, mirrored: bool, content: Callable[[Path], str] | None = None) -> Keys:
        """Names of a clip's entries: what they are made from, and how.

        Args:
            content: gives the checksum of a file, if that is known already.
        """
        config, (num_frames, height, width) = self.config, self.shape
        content = content or self.caches[0].content_key
        image = content(row.input_image) if row.input_image else ""
        made_from = (content(row.video), image, height, width, num_frames, config.fit)
        way = [*self._reading(row), *map(content, row.views), *["mirrored"] * mirrored]
        starts = ["starts"] * config.random_start
        keys = [key_of("latents", self.network, config.cache_dtype, *made_from, *way, *starts)]
        if self.masks:
            keys.append(key_of("mask", self.masks.fingerprint, *made_from, *way))
        return tuple(keys)

    def _reading(self, row: csv.Row) -> list[Any]:
        """What an entry of the cache depends on beside the file: nothing where every frame is taken as it is.

        So the entries of simulated flights stay what they were when footage was read frame by frame.
        """
        fps = self.config.fps
        return [] if row.start == 0 and footage.is_as_written(row.video, fps) else ["footage", fps, row.start]

    def _frames(self, row: csv.Row) -> np.ndarray:
        num_frames, height, width = self.shape
        frames = csv.clip_frames(row, num_frames, height, width, self.config.fit, self.config.fps)
        if row.input_image is None:
            return frames
        image = video.fit_image(video.open_image(row.input_image), height, width, self.config.fit)
        return np.concatenate([np.asarray(image)[None], frames])

    @torch.no_grad()
    def _encode(self, frames: np.ndarray) -> dict[str, Tensor]:
        """`latents` [C, T, h, w] of one clip; an extra frame in front replaces the first latent frame.

        With `--random_start` also `starts`, the same shape: each latent frame's last frame alone, as a first one.
        """
        pixels = video.to_tensor(frames)[None].to(self._device)  # [1, 3, F, H, W]
        extra = pixels.shape[2] - self.shape[0]
        latents = _encode_clip(self.autoencoder, pixels[:, :, extra:])
        if extra:
            latents[:, :, :1] = wan_vae.encode(self.autoencoder, pixels[:, :, :1])
        entry = {"latents": latents}
        if self.config.random_start:
            stills = pixels[0, :, extra :: shapes.TEMPORAL_STRIDE].unbind(1)
            starts = [wan_vae.encode(self.autoencoder, still[None, :, None]) for still in stills]
            entry["starts"] = torch.cat([latents[:, :, :1], *starts[1:]], dim=2)
        return {name: value[0].to("cpu", getattr(torch, self.config.cache_dtype)) for name, value in entry.items()}

    def _mask(self, frames: np.ndarray) -> dict[str, Tensor]:
        assert self.masks is not None, "a mask has a name only where there is a reader"
        return {"mask": self.masks.read(frames[-self.shape[0] :])}


def _encode_clip(autoencoder: nn.Module, pixels: Tensor) -> Tensor:
    """Latents of a clip [1, 3, F, H, W]: in one pass where frames are small, else four frames at a time."""
    if pixels.shape[3] * pixels.shape[4] <= MAX_WHOLE_ENCODE_PIXELS:
        return wan_vae.encode(autoencoder, pixels)
    session = wan_vae.StreamingEncoder(autoencoder)
    chunks = [pixels[:, :, :1], *pixels[:, :, 1:].split(shapes.TEMPORAL_STRIDE, dim=2)]
    return torch.cat([session.step(chunk) for chunk in chunks], dim=2)


class PromptEncoder:
    """Makes entries of prompts.

    Args:
        encoder: the text encoder.
        tokenizer: its tokenizer.
        folder: where entries are kept, or None for what is written elsewhere.
        length: tokens that are read.
        dtype: of entries.
        room: what entries may take of the disk, or None.
    """

    def __init__(
        self, encoder: nn.Module, tokenizer: Any, folder: Path | None, length: int, dtype: str, room: Room | None = None
    ) -> None:
        if folder is not None:
            self.cache = Cache(folder / "text", room)
        self._encoder, self._tokenizer, self._length, self._dtype = encoder, tokenizer, length, dtype
        self.network = module_fingerprint(encoder)
        self._lock = threading.Lock()

    def key(self, ids: Tensor) -> str:
        """Name of the entry of these token ids."""
        return key_of("text", self.network, self._dtype, ids.tolist())

    def keep(self, ids: Tensor) -> str:
        """Make the entry of these token ids unless it is there; gives its name."""
        key = self.key(ids)
        if not self.cache.has(key):
            self.cache.put(key, self._entry(ids))
        return key

    def __getitem__(self, prompt: str) -> dict[str, Tensor]:
        """The entry of a prompt, made if it is not there."""
        ids = self._ids(prompt)
        key = self.key(ids)
        if self.cache.has(key):
            return self.cache.get(key)
        entry = self._entry(ids)
        self.cache.put(key, entry)
        return entry

    def entry(self, prompt: str) -> dict[str, Tensor]:
        """The entry of a prompt, made anew and not kept."""
        return self._entry(self._ids(prompt))

    def _ids(self, prompt: str) -> Tensor:
        return text.tokenise(self._tokenizer, [prompt], self._length)[0]

    @torch.no_grad()
    def _entry(self, ids: Tensor) -> dict[str, Tensor]:
        padded, mask = text.pad_ids([ids])
        device = next(self._encoder.parameters()).device
        with self._lock:
            embedding = text.embed(self._encoder, padded.to(device), mask.to(device), padded.shape[1])[0]
        return {"embedding": embedding.to("cpu", getattr(torch, self._dtype))}


class View(Sequence[Any]):
    """What a function says of each number below `length`."""

    def __init__(self, length: int, function: Callable[[int], Any]) -> None:
        self._length, self._function = length, function

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._function(index)


class ByPrompt:
    """What a function says of each prompt."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __getitem__(self, prompt: Any) -> Any:
        return self._function(prompt)


class DrawnClips(Generic[Made]):
    """Clips none of which is looked at before it is drawn.

    One that cannot be used gives its place to the next that can, which is a function of the files alone, so that every
    process and every resume sees the same.

    Args:
        config: how many may be left out.
        name: of the data, for messages.
        say: how people are told what is left out.

    Raises:
        DataError: if more clips than `--max_skipped` of those that were drawn cannot be used.
    """

    def __init__(self, config: TrainConfig, name: str, say: Callable[[str], None]) -> None:
        self._config, self._name, self._say = config, name, say
        self._lock = threading.RLock()
        self._held: OrderedDict[int, Made] = OrderedDict()
        self._unusable: set[int] = set()
        self._drawn = 0

    def __len__(self) -> int:
        raise NotImplementedError

    def make(self, place: int) -> Made:
        """What the clip of a place is; a RowError, OSError or ValueError says that it cannot be used."""
        raise NotImplementedError

    def is_full(self, held: OrderedDict[int, Made]) -> bool:
        """Whether what was drawn longest ago is to be forgotten."""
        return len(held) > HELD_ROWS

    def usable(self, index: int) -> Made:
        """What was made of a clip, or of the one that takes its place."""
        for candidate in range(index, index + MOST_SUBSTITUTES):
            place = candidate % len(self)
            with self._lock:
                if place in self._held:
                    self._held.move_to_end(place)
                    return self._held[place]
                if place in self._unusable:
                    continue
                self._drawn += 1
            try:
                made = self.make(place)
            except csv.DataError:
                raise
            except (csv.RowError, OSError, ValueError) as error:
                self._leave_out(place, error)
                continue
            with self._lock:
                self._held[place] = made
                while len(self._held) > 1 and self.is_full(self._held):
                    self._held.popitem(last=False)
            return made
        raise csv.DataError(f"{MOST_SUBSTITUTES} clips in a row of {self._name} cannot be used")

    def _leave_out(self, place: int, error: Exception) -> None:
        with self._lock:
            self._unusable.add(place)
        self._say(f"clip {place} of {self._name} is left out: {error}")
        if len(self._unusable) > self._config.data.max_skipped * max(self._drawn, MOST_SUBSTITUTES):
            raise csv.DataError(
                f"{len(self._unusable)} of {self._drawn} clips that were drawn cannot be used, more than "
                f"--max_skipped {self._config.data.max_skipped:g}; the last is: {error}"
            )


class LazyClips(DrawnClips[tuple[csv.Row, Keys]]):
    """The clips of a manifest, each encoded when it is first drawn.

    Args:
        config: where the manifest is and how its clips are read.
        encoder: makes their entries.
        needs_actions: whether an episode without the drone's controls cannot be used.
        say: how people are told what is left out.
    """

    def __init__(
        self, config: TrainConfig, encoder: ClipEncoder, needs_actions: bool, say: Callable[[str], None]
    ) -> None:
        data = config.data
        self.manifest = episodes.Manifest(Path(data.dataset_metadata_path), data.fps)
        super().__init__(config, self.manifest.path.name, say)
        self._encoder, self._needs_actions = encoder, needs_actions
        self._starts: dict[int, list[int]] = {}  # first frames of the clips of an episode, where its marks say them
        self._ends = np.cumsum(self._counts())  # clips up to the end of each episode
        self._making = threading.Lock()

    def _counts(self) -> np.ndarray:
        """Clips of each episode; without a stride no line is read for it."""
        data = self._config.data
        counts = np.ones(min(len(self.manifest), data.max_rows or len(self.manifest)), np.int64)
        for i in range(len(counts) if data.window_stride else 0):
            try:
                spare = self.manifest.episode(i).length(data.fps) - self._encoder.shape[0]
            except csv.RowError:
                continue  # what is wrong is said where it is drawn
            counts[i] = max(0, spare) // (data.window_stride or 1) + 1
        for i in range(len(counts) if self.manifest.marks else 0):
            counts[i] = self._marked_count(i, int(counts[i]))
        return counts

    def _marked_count(self, number: int, unmarked: int) -> int:
        """Clips of an episode as it is marked: none of one that is left out."""
        record, data = self.manifest[number], self._config.data
        if isinstance(record, csv.LeftOut):
            return 0
        if isinstance(record, csv.RowError) or not (record.get("cuts") or record.get("lead")):
            return unmarked
        try:
            self._starts[number] = csv.windows(record, Path(), self._encoder.shape[0], data.fps, data.window_stride)
        except (csv.RowError, OSError, ValueError) as error:
            self._say(f"episode {number + 1} of {self.manifest.path.name} is left out: {error}")
            return 0
        return len(self._starts[number])

    def __len__(self) -> int:
        return int(self._ends[-1]) * (2 if self._config.data.mirror else 1)

    @property
    def fingerprint(self) -> str:
        """Changes when the clips or their order change."""
        data, encoder = self._config.data, self._encoder
        content = encoder.caches[0].content_key(self.manifest.path)
        how = (data.fps, data.window_stride, data.mirror, data.fit, len(self._ends))
        return key_of(content, encoder.network, encoder.shape, *how)

    def row(self, index: int) -> csv.Row:
        """The row of a clip, or of the one that takes its place."""
        return self.usable(index)[0]

    def entry(self, index: int, cache: int = 0) -> dict[str, Tensor]:
        """The latents of a clip, or, with `cache` 1, its mask."""
        keys = self.usable(index)[1]
        return self._encoder.caches[cache].get(keys[cache])

    def make(self, place: int) -> tuple[csv.Row, Keys]:
        data = self._config.data
        clip, is_mirrored = divmod(place, 2) if data.mirror else (place, 0)
        number = int(np.searchsorted(self._ends, clip, side="right"))
        part = clip - (int(self._ends[number - 1]) if number else 0)
        start = self._starts[number][part] if number in self._starts else part * (data.window_stride or 0)
        row = csv.parse_row(
            self.manifest[number], number + 1, Path(), self._encoder.shape[0], self._needs_actions, start=start
        )
        row = mirrored(row) if is_mirrored else row
        with self._making:
            keys, frames = self._encoder.load(row, bool(is_mirrored))
            self._encoder.keep(keys, frames)
        return row, keys


@dataclass
class Share:
    """What one share of the work has encoded.

    Attributes:
        rows: of the table or manifest that were its own.
        made: clips that were encoded now.
        found: clips whose entries were there.
        skipped: rows or clips that cannot be used, and why.
    """

    rows: int = 0
    made: int = 0
    found: int = 0
    skipped: list[csv.Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A clip that is to be encoded: of which row, from which frame on, mirrored or not."""

    number: int
    start: int
    mirrored: bool
    record: Any


class Work:
    """The clips of a table or manifest that are to be encoded. Rows are gone through one by one and none is held.

    Args:
        config: where the rows are, and what of them is read.
        shape: frames, height and width of a clip.
        needs_actions: whether a row without actions cannot be used.
    """

    def __init__(self, config: TrainConfig, shape: tuple[int, int, int], needs_actions: bool) -> None:
        self.data, self._shape, self._needs_actions = config.data, shape, needs_actions
        self._records = self._opened(config)
        self.workers = self.data.dataset_num_workers
        self.clip_bytes = 3 * shape[0] * shape[1] * shape[2]

    def _opened(self, config: TrainConfig) -> Sequence[Any]:
        return read_records(config, self._needs_actions)

    def __len__(self) -> int:
        """Rows."""
        return min(len(self._records), self.data.max_rows or len(self._records))

    def places(self, rows: Iterable[int]) -> Iterator[Place]:
        """The clips of these rows, counted from 0; of a row that cannot be used one whose record says why."""
        base = Path(self.data.dataset_base_path)
        for number in rows:
            record = self._records[number]
            if isinstance(record, csv.LeftOut):
                continue
            try:
                starts = csv.windows(record, base, self._shape[0], self.data.fps, self.data.window_stride)
            except ValueError as error:
                yield Place(number + 1, 0, False, csv.RowError(str(error)))
                continue
            for start in starts:
                later = record if start == starts[0] else record | {"input_image": None}
                for mirrored in (False, True) if self.data.mirror else (False,):
                    yield Place(number + 1, start, mirrored, later)

    def row(self, place: Place) -> csv.Row:
        """The row of a clip, with its actions as they are, not mirrored."""
        base, keys = Path(self.data.dataset_base_path), self.data.file_keys()
        return csv.parse_row(place.record, place.number, base, self._shape[0], self._needs_actions, keys, place.start)

    def read(self, place: Place, encoder: ClipEncoder) -> tuple[csv.Row, np.ndarray]:
        """The row of a clip, mirrored where it is meant to be, and its frames; may run in a thread."""
        row = self.row(place)
        frames = encoder.frames(row, place.mirrored)
        return mirrored(row) if place.mirrored else row, frames

    def leave_out(self, place: Place, error: Exception, share: Share) -> None:
        """Note and say that a clip cannot be used."""
        record = place.record
        name = str(record.get("video")) if isinstance(record, dict) else ""
        reason = (f"clip from {place.start / self.data.fps:.2f} s: " if place.start else "") + str(error)
        share.skipped.append(csv.Skipped(place.number, name, reason))
        print(f"skipped row {place.number} ({name}): {reason}", flush=True)


def mirrored(row: csv.Row) -> csv.Row:
    """A row whose actions are mirrored."""
    return row if row.track is None else replace(row, track=row.track.mirrored())


def encode_share(work: Work, encoder: ClipEncoder, prompts: PromptEncoder | None, part: int, parts: int) -> Share:
    """Encode the clips and words of every `parts`-th row from the one numbered `part`, 0 and up, on.

    What is there is passed over: a share that was cut off goes on where it was when it is run again.
    """
    share, rows, newest = Share(), range(part, len(work), parts), 0

    def load(place: Place) -> tuple[csv.Row, Keys, np.ndarray | None]:
        row = work.row(place)
        return row, *encoder.load(row, place.mirrored)

    for place, result in ahead(load, work.places(rows), work.workers, work.clip_bytes):
        if place.number != newest:  # what is left out by hand is no row of the share
            share.rows, newest = share.rows + 1, place.number
        if isinstance(result, Exception):
            work.leave_out(place, result, share)
            continue
        row, names, frames = result
        encoder.keep(names, frames)
        if prompts is not None:
            prompts[row.prompt]
        if frames is None:
            share.found += 1
        else:
            share.made += 1
    return share
