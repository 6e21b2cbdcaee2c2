"""What a flight remembers: keys and values of the first latent frame, for ever, and of the newest ones, in a window.

Latent frame f stands at temporal position f, however long the flight: its rotation is computed in float64, not looked
up. The first frame (the sink) keeps at most the distance `window + 1`, so that a long flight shows the network no
distance that a short one does not. Attention sees differences of positions only, hence nothing else has to move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from wanact.models import flex
from wanact.models.rotary import Rotation, rotate, time_rotation, time_width

Kernel = Literal["auto", "flex", "dense"]


@dataclass(frozen=True)
class FrameView:
    """Which latent frames of one pass see which.

    Attributes:
        positions: temporal position of each of the n frames.
        visible: [n, n], True where the row's frame sees the column's.
        kernel: `dense` masks token by token, the reference; `flex` by blocks; `auto` takes flex where it is fast.
    """

    positions: tuple[int, ...]
    visible: Tensor
    kernel: Kernel = "auto"

    @classmethod
    def causal(cls, num_frames: int, window: int | None = None) -> FrameView:
        """Each frame sees itself, the first frame and the `window` frames before it (all of them without a window)."""
        return cls(tuple(range(num_frames)), _causal(num_frames, window))

    @classmethod
    def teacher_forcing(
        cls, num_frames: int, window: int | None = None, predicted: range | None = None, kernel: Kernel = "auto"
    ) -> FrameView:
        """Clean frames, then noisy ones: a noisy frame sees itself and what is clean before it.

        Training sees every frame of a clip at once as the flight will see it, one after the other.

        Args:
            num_frames: clean frames.
            predicted: places of the noisy ones, a chunk of the clip; None for all, 2n frames together.
        """
        places = range(num_frames) if predicted is None else predicted
        seen, rows = _causal(num_frames, window), torch.tensor(list(places))
        before = seen & ~torch.eye(num_frames, dtype=torch.bool)
        clean = torch.cat([seen, torch.zeros(num_frames, len(rows), dtype=torch.bool)], dim=1)
        noisy = torch.cat([before[rows], torch.eye(len(rows), dtype=torch.bool)], dim=1)
        return cls((*range(num_frames), *places), torch.cat([clean, noisy]), kernel)

    def mask(self, frame_tokens: int, device: torch.device, head_width: int) -> Tensor | BlockMask:
        """Which tokens see which, for the kernel that attends."""
        if self.kernel == "flex" or (self.kernel == "auto" and flex.works(device, head_width)):
            return flex.block_mask(self.visible, frame_tokens, device)
        return self.attention_mask(frame_tokens, device)

    def attention_mask(self, frame_tokens: int, device: torch.device | str | None = None) -> Tensor:
        """The same for tokens, [n * frame_tokens, n * frame_tokens]."""
        mask = self.visible.to(device)
        return mask.repeat_interleave(frame_tokens, dim=0).repeat_interleave(frame_tokens, dim=1)


def _causal(num_frames: int, window: int | None) -> Tensor:
    frame = torch.arange(num_frames)
    distance = frame[:, None] - frame[None, :]
    seen = distance >= 0
    if window is not None:
        seen &= (distance <= window) | (frame == 0)
    return seen


class LayerMemory:
    """One layer's share of a cache, during one pass over the newest frame."""

    def with_newest(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values to attend to, where the newest frame's [B, frame_tokens, N, K] have taken their place."""
        raise NotImplementedError


@dataclass(frozen=True)
class RoomMemory(LayerMemory):
    """Of a flight, whose memory was taken at the beginning.

    Attributes:
        keys, values: the frames that are seen and room for the newest at the end, [B, n * frame_tokens, N, K].
    """

    keys: Tensor
    values: Tensor

    def with_newest(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        size = key.shape[1]
        self.keys[:, -size:] = key.detach()
        self.values[:, -size:] = value.detach()
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):  # the newest has a gradient alone
            past_keys, past_values = self.keys[:, :-size].to(key.dtype), self.values[:, :-size].to(value.dtype)
            return torch.cat([past_keys, key], dim=1), torch.cat([past_values, value], dim=1)
        return self.keys, self.values


Pair = tuple[Tensor, Tensor]  # a frame's keys and values, [B, frame_tokens, N, K]


@dataclass(frozen=True)
class PairsMemory(LayerMemory):
    """Of a rollout that is learned from.

    Attributes:
        past: the frames that are seen.
        newest: where each layer leaves the frame of its last pass.
        layer: which of them this is.
    """

    past: tuple[Pair, ...]
    newest: list[Pair | None]
    layer: int

    def with_newest(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.newest[self.layer] = key.detach(), value.detach()
        keys, values = ([pair[side].to(new.dtype) for pair in self.past] for side, new in enumerate((key, value)))
        return torch.cat([*keys, key], dim=1), torch.cat([*values, value], dim=1)


class TransformerConfig(Protocol):
    """What a transformer keeps of its arguments, in a dict whose keys are attributes too."""

    patch_size: tuple[int, int, int]
    in_channels: int
    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    text_dim: int
    rope_max_seq_len: int


class Transformer(Protocol):
    """What a cache asks of the transformer that it is for."""

    @property
    def config(self) -> TransformerConfig: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def rope(self) -> Callable[[Tensor], Rotation]: ...


class KVCache:
    """Keys and values of one flight, all memory taken at the beginning.

    A frame is denoised by passes that leave no trace, and remembered by `commit` after a pass over its clean latents.

    Args:
        transformer: a WanActTransformer3DModel.
        frame_size: height and width of a latent frame, in latents.
        window: frames that are remembered besides the first.
        batch_size: flights side by side.

    Attributes:
        num_frames: frames that have been committed; also the position of the newest.
        context: what `prefill` read of the prompt, for who goes on from it; None where every pass is told.
    """

    context: Any = None

    def __init__(self, transformer: Transformer, frame_size: tuple[int, int], window: int, batch_size: int = 1):
        if window < 1:
            raise ValueError(f"window={window} must be at least 1")
        config = transformer.config
        self.window = window
        self.num_frames = 0
        first = torch.empty(1, config.in_channels, 1, *frame_size, device=transformer.device)
        self._rotation = transformer.rope(first)  # at position 0, where time does not turn anything
        self.frame_tokens = self._rotation[0].shape[1]
        self._head_width = config.attention_head_dim
        self._take_memory(transformer, batch_size)
        self.rotation = self._rotation

    def _take_memory(self, transformer: Transformer, batch_size: int) -> None:
        config = transformer.config
        # Slot 0 is the first frame's, a ring of `window` follows; the newest comes last until its slot is free.
        tokens, heads = (self.window + 2) * self.frame_tokens, config.num_attention_heads
        shape = (config.num_layers, batch_size, tokens, heads, config.attention_head_dim)
        self.keys = torch.zeros(shape, dtype=transformer.dtype, device=transformer.device)
        self.values = torch.zeros_like(self.keys)
        self._first_keys = torch.zeros_like(self._frame(self.keys, 0))

    @staticmethod
    def num_bytes(transformer: Transformer, frame_tokens: int, window: int, batch_size: int = 1) -> int:
        """Memory that a cache takes; the transformer may be on the meta device."""
        config = transformer.config
        frame = config.num_layers * batch_size * frame_tokens * config.num_attention_heads * config.attention_head_dim
        return frame * (2 * (window + 2) + 1) * transformer.dtype.itemsize

    def layer(self, index: int) -> LayerMemory:
        """What this layer reads, and where it leaves the newest frame."""
        end = (min(self.num_frames, self.window + 1) + 1) * self.frame_tokens
        return RoomMemory(self.keys[index, :, :end], self.values[index, :, :end])

    def commit(self) -> None:
        """Remember the frame of the last pass; the oldest but the first makes room."""
        self._remember()
        self.num_frames += 1
        self._place()

    def _remember(self) -> None:
        newest = min(self.num_frames, self.window + 1)
        slot = 0 if self.num_frames == 0 else 1 + (self.num_frames - 1) % self.window
        if slot != newest:
            for memory in (self.keys, self.values):
                self._frame(memory, slot).copy_(self._frame(memory, newest))
        if self.num_frames == 0:
            self._first_keys.copy_(self._frame(self.keys, 0))

    def _place(self) -> None:
        """Turn the next frame, and the first, to where they stand now."""
        self.rotation = self._with_time(self._rotation, self.num_frames)
        behind = self.num_frames - (self.window + 1)
        if behind > 0:  # the first frame follows at a distance
            none = (torch.ones_like(self._rotation[0][:, :1]), torch.zeros_like(self._rotation[1][:, :1]))
            self._turn_first(self._with_time(none, behind))

    def _turn_first(self, rotation: Rotation) -> None:
        turned = rotate(self._first_keys.flatten(0, 1), rotation)
        self._frame(self.keys, 0).copy_(turned.view_as(self._first_keys))

    def skip(self, num_frames: int) -> None:
        """Go on as if so many frames had passed since the first; what is in the window is of no flight until it fills.

        For a flight that is taken up again far from its beginning: its last frames are committed after this.
        """
        self.num_frames += num_frames
        self._place()

    def _frame(self, memory: Tensor, slot: int) -> Tensor:
        return memory[:, :, slot * self.frame_tokens : (slot + 1) * self.frame_tokens]

    def _with_time(self, rotation: Rotation, position: int) -> Rotation:
        """A rotation that turns nothing in time yet, at this position."""
        turned = [part.clone() for part in rotation]
        for part, values in zip(turned, time_rotation(position, self._head_width), strict=True):
            part[..., : time_width(self._head_width)] = values.to(part)
        return turned[0], turned[1]


class RolloutCache(KVCache):
    """A cache for rollouts that are learned from: what is remembered of a frame is never changed.

    A pass with gradients may be computed again on the way back (gradient checkpointing), when the rollout has gone on:
    it then still sees what it saw. A frame's keys and values live as long as such a pass, or the window, needs them.
    """

    def _take_memory(self, transformer: Transformer, batch_size: int) -> None:
        layers = transformer.config.num_layers
        self._past: list[list[Pair]] = [[] for _ in range(layers)]  # the first frame, then the newest, oldest first
        self._newest: list[Pair | None] = [None] * layers
        self._first: list[Tensor] = []

    def layer(self, index: int) -> LayerMemory:
        return PairsMemory(tuple(self._past[index]), self._newest, index)

    def _remember(self) -> None:
        for past, newest in zip(self._past, self._newest, strict=True):
            assert newest is not None, "a pass over the frame comes first"
            past.append(newest)
            if len(past) > self.window + 1:
                del past[1]
        if self.num_frames == 0:
            self._first = [past[0][0] for past in self._past]

    def _turn_first(self, rotation: Rotation) -> None:
        for past, keys in zip(self._past, self._first, strict=True):
            past[0] = rotate(keys, rotation), past[0][1]
