"""Clips as latents and words as embeddings: what an entry of the cache is named by, and how it is made.

They are made ahead, before the first step, by a run or in shares (`train encode --shard 1/8`), or lazily, when a clip
is first drawn. An entry has the same name however it is made, so that what one way has made the others find.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train.data import csv, episodes, text
from train.data.cache import Cache, ahead, key_of, module_fingerprint
from train.loop.config import TrainConfig
from train.stages.embodiment import MaskReader
from train.stages.rows import read_records
from wanact import shapes
from wanact.media import footage, video
from wanact.models import vae as wan_vae

# A whole clip of larger frames takes tens of gigabytes inside the 5B model's VAE.
MAX_WHOLE_ENCODE_PIXELS = 256 * 256
HELD_ROWS = 256  # rows of a manifest that are kept read: a sample asks several times for its own
MOST_SUBSTITUTES = 100  # clips after one that cannot be used, of which one can

Keys = tuple[str, ...]  # of the entry of latents, and of that of the mask where there is one


class ClipEncoder:
    """Makes entries of clips.

    Args:
        config: how clips are read.
        autoencoder: what encodes them.
        folder: where entries are kept.
        shape: frames, height and width of a clip.
        masks: what reads where the body of a robot is, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        autoencoder: nn.Module,
        folder: Path,
        shape: tuple[int, int, int],
        masks: MaskReader | None = None,
    ) -> None:
        self.config, self.autoencoder, self.shape, self.masks = config.data, autoencoder, shape, masks
        self.caches = [Cache(folder / "latents"), *([Cache(folder / "masks")] if masks else [])]
        self.network = module_fingerprint(autoencoder)
        self._device = next(autoencoder.parameters()).device

    def load(self, row: csv.Row, mirrored: bool) -> tuple[Keys, np.ndarray | None]:
        """Names of a clip's entries, and its frames if one of them is not there; may run in a thread.

        Frames are uint8 [F, H, W, 3], with the row's input image in front if it has one.
        """
        keys = self.keys(row, mirrored)
        if all(cache.has(key) for cache, key in zip(self.caches, keys, strict=True)):
            return keys, None
        frames = self._frames(row)
        return keys, np.ascontiguousarray(frames[:, :, ::-1]) if mirrored else frames

    def keep(self, keys: Keys, frames: np.ndarray | None) -> None:
        """Make the entries that `load` found missing."""
        if frames is None:
            return
        makers = (self._encode, self._mask)
        for cache, key, make in zip(self.caches, keys, makers, strict=False):
            if not cache.has(key):
                cache.put(key, make(frames))

    def keys(self, row: csv.Row, mirrored: bool) -> Keys:
        """Names of a clip's entries: what they are made from, and how."""
        config, (num_frames, height, width) = self.config, self.shape
        content = self.caches[0].content_key
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
        folder: where entries are kept.
        length: tokens that are read.
        dtype: of entries.
    """

    def __init__(self, encoder: nn.Module, tokenizer: Any, folder: Path, length: int, dtype: str) -> None:
        self.cache = Cache(folder / "text")
        self._encoder, self._tokenizer, self._length, self._dtype = encoder, tokenizer, length, dtype
        self._network = module_fingerprint(encoder)

    def key(self, ids: Tensor) -> str:
        """Name of the entry of these token ids."""
        return key_of("text", self._network, self._dtype, ids.tolist())

    @torch.no_grad()
    def keep(self, ids: Tensor) -> str:
        """Make the entry of these token ids unless it is there; gives its name."""
        key = self.key(ids)
        if not self.cache.has(key):
            padded, mask = text.pad_ids([ids])
            device = next(self._encoder.parameters()).device
            embedding = text.embed(self._encoder, padded.to(device), mask.to(device), padded.shape[1])[0]
            self.cache.put(key, {"embedding": embedding.to("cpu", getattr(torch, self._dtype))})
        return key

    def __getitem__(self, prompt: str) -> dict[str, Tensor]:
        """The entry of a prompt, made if it is not there."""
        return self.cache.get(self.keep(text.tokenise(self._tokenizer, [prompt], self._length)[0]))


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

    def __init__(self, function: Callable[[str], Any]) -> None:
        self._function = function

    def __getitem__(self, prompt: str) -> Any:
        return self._function(prompt)


class LazyClips:
    """The clips of a manifest, none of which is looked at before it is drawn.

    A clip that cannot be used gives its place to the next that can, which is a function of the files alone, so that
    every process and every resume sees the same.

    Args:
        config: where the manifest is and how its clips are read.
        encoder: makes their entries.
        needs_actions: whether an episode without the drone's controls cannot be used.
        say: how people are told what is left out.

    Raises:
        DataError: if more clips than `--max_skipped` of those that were drawn cannot be used.
    """

    def __init__(
        self, config: TrainConfig, encoder: ClipEncoder, needs_actions: bool, say: Callable[[str], None]
    ) -> None:
        self._config, self._encoder, self._needs_actions, self._say = config, encoder, needs_actions, say
        data = config.data
        self.manifest = episodes.Manifest(Path(data.dataset_metadata_path), data.fps)
        self._ends = np.cumsum(self._counts())  # clips up to the end of each episode
        self._lock = threading.RLock()
        self._made: OrderedDict[int, tuple[csv.Row, Keys]] = OrderedDict()
        self._unusable: set[int] = set()
        self._drawn = 0

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
        return counts

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
        return self._usable(index)[0]

    def entry(self, index: int, cache: int = 0) -> dict[str, Tensor]:
        """The latents of a clip, or, with `cache` 1, its mask."""
        keys = self._usable(index)[1]
        return self._encoder.caches[cache].get(keys[cache])

    def _usable(self, index: int) -> tuple[csv.Row, Keys]:
        with self._lock:
            for candidate in range(index, index + MOST_SUBSTITUTES):
                place = candidate % len(self)
                if place in self._made:
                    return self._made[place]
                if place in self._unusable:
                    continue
                self._drawn += 1
                try:
                    made = self._make(place)
                except (csv.RowError, OSError, ValueError) as error:
                    self._leave_out(place, error)
                    continue
                self._made[place] = made
                while len(self._made) > HELD_ROWS:
                    self._made.popitem(last=False)
                return made
        raise csv.DataError(f"{MOST_SUBSTITUTES} clips in a row of {self.manifest.path} cannot be used")

    def _make(self, place: int) -> tuple[csv.Row, Keys]:
        data = self._config.data
        clip, mirrored = divmod(place, 2) if data.mirror else (place, 0)
        number = int(np.searchsorted(self._ends, clip, side="right"))
        part = clip - (int(self._ends[number - 1]) if number else 0)
        start = part * (data.window_stride or 0)
        row = csv.parse_row(
            self.manifest[number], number + 1, Path(), self._encoder.shape[0], self._needs_actions, start=start
        )
        if mirrored and row.track is not None:
            row = replace(row, track=row.track.mirrored())
        keys, frames = self._encoder.load(row, bool(mirrored))
        self._encoder.keep(keys, frames)
        return row, keys

    def _leave_out(self, place: int, error: Exception) -> None:
        self._unusable.add(place)
        self._say(f"clip {place} of {self.manifest.path.name} is left out: {error}")
        if len(self._unusable) > self._config.data.max_skipped * max(self._drawn, MOST_SUBSTITUTES):
            raise csv.DataError(
                f"{len(self._unusable)} of {self._drawn} clips that were drawn cannot be used, more than "
                f"--max_skipped {self._config.data.max_skipped:g}; the last is: {error}"
            )


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


def encode_share(
    config: TrainConfig,
    encoder: ClipEncoder,
    prompts: PromptEncoder | None,
    needs_actions: bool,
    part: int,
    parts: int,
) -> Share:
    """Encode the clips and words of every `parts`-th row from the one numbered `part`, 0 and up, on.

    Rows are gone through one by one and none is held, and what is there is passed over: a share that was cut off goes
    on where it was when it is run again.
    """
    data, share = config.data, Share()
    records = read_records(config, needs_actions)
    used = min(len(records), data.max_rows or len(records))
    base, keys = Path(data.dataset_base_path), data.file_keys()

    def load(place: tuple[int, int, bool, Any]) -> tuple[csv.Row, Keys, np.ndarray | None]:
        number, start, mirrored, record = place
        row = csv.parse_row(record, number, base, encoder.shape[0], needs_actions, keys, start)
        return row, *encoder.load(row, mirrored)

    def clips() -> Iterator[tuple[int, int, bool, Any]]:
        numbered = ((number + 1, records[number]) for number in range(part, used, parts))
        for number, record in numbered:
            share.rows += 1
            try:
                starts = csv.windows(record, base, encoder.shape[0], data.fps, data.window_stride)
            except ValueError as error:
                yield number, 0, False, csv.RowError(str(error))
                continue
            for start, mirrored in ((s, m) for s in starts for m in ((False, True) if data.mirror else (False,))):
                later = record if start == starts[0] else record | {"input_image": None}
                yield number, start, mirrored, later

    workers = data.dataset_num_workers
    bytes_each = 3 * encoder.shape[0] * encoder.shape[1] * encoder.shape[2]
    for (number, start, _, record), result in ahead(load, clips(), workers, bytes_each):
        if isinstance(result, Exception):
            name = str(record.get("video")) if isinstance(record, dict) else ""
            place = f"clip from {start / data.fps:.2f} s: " if start else ""
            share.skipped.append(csv.Skipped(number, name, f"{place}{result}"))
            print(f"skipped row {number} ({name}): {place}{result}", flush=True)
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
