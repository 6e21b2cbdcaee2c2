"""Masked attention in blocks: torch's flex attention for masks between latent frames, which skips what nobody sees.

The dense mask of `FrameView.attention_mask` is the reference. It takes a byte for each pair of tokens: 0.4 GB for the
42 latent frames of 460 tokens that Wan2.2-TI2V-5B sees with teacher forcing at 736x640.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # tokens of a side; torch's own


def block_mask(visible: Tensor, frame_tokens: int, device: torch.device | str | None = None) -> BlockMask:
    """Which tokens see which, by blocks.

    A block is told by the frames that it touches, so that no mask of tokens is ever made.

    Args:
        visible: [n, n], True where the row's latent frame sees the column's.
        frame_tokens: tokens of a latent frame.
    """
    visible = visible.to(device)
    length = len(visible) * frame_tokens
    blocks = math.ceil(length / BLOCK)
    first = torch.arange(blocks, device=visible.device) * BLOCK
    last = (first + BLOCK - 1).clamp_max(length - 1)
    frame = torch.arange(len(visible), device=visible.device)
    touches = (frame >= (first // frame_tokens)[:, None]) & (frame <= (last // frame_tokens)[:, None])
    touches = touches.float()  # [blocks, n]
    some = touches @ visible.float() @ touches.T > 0
    all_ = touches @ (~visible).float() @ touches.T == 0
    whole = first + BLOCK <= length  # the last block may reach beyond the end
    full = some & all_ & whole[:, None] & whole[None, :]

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible[query // frame_tokens, key // frame_tokens]

    return BlockMask.from_kv_blocks(
        *_listed(some & ~full), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the number of its True entries, and their places first: [1, 1, rows] and [1, 1, rows, columns]."""
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return blocks.sum(dim=1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask) -> Tensor:
    """What [B, L, N, K] queries find among keys and values; compiled on a GPU, where alone it is fast."""
    # Flex attention asks for one type; norms leave float32 under autocast, and values come in the type of computation.
    query, key, value = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
    kernel = _compiled() if query.is_cuda else flex_attention
    return kernel(query, key, value, block_mask=mask).transpose(1, 2)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def works(device: torch.device, head_width: int) -> bool:
    """Whether flex attention can be had where it is fast: on a GPU whose kernels compile. Tried once."""
    if device.type != "cuda":
        return False
    try:
        x = torch.randn(1, 2 * BLOCK, 1, head_width, device=device, dtype=torch.bfloat16, requires_grad=True)
        attend(x, x, x, block_mask(torch.ones(2, 2, dtype=torch.bool), BLOCK, device)).sum().backward()
    except (RuntimeError, ImportError, OSError) as error:  # no compiler, no Triton, or a device that it does not know
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        warnings.warn(
            f"flex attention cannot be compiled here ({reason[0][:200]}); the dense mask is used", stacklevel=2
        )
        return False
    return True
