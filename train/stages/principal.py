"""The transform of a lapped autoencoder from clips: principal components of groups of frames, by linear algebra."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from wanact.media import video
from wanact.models.lapped import BLOCK, KERNEL, VALUES, border_filter, cells_of, groups_of
from wanact.shapes import TEMPORAL_STRIDE

STRIDE = 3  # every third group of a clip: neighbours are alike
STILL_EVERY = 4  # of the groups that are looked at, one stands still, as first frames and hovering drones do

SPARE, ITERATIONS = 24, 20  # directions beside those that are wanted, and rounds: the last one is right to a percent


@dataclass(frozen=True)
class Basis:
    """What `AutoencoderLapped.set_basis` takes."""

    basis: Tensor
    deviations: Tensor
    offset: Tensor

    def __iter__(self) -> Any:
        return iter(astuple(self))

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        save_file({name: value.contiguous() for name, value in vars(self).items()}, file)

    @classmethod
    def load(cls, file: Path) -> Basis:
        """Read what `save` wrote."""
        return cls(**load_file(file))


@torch.no_grad()
def principal_components(clips: Iterable[np.ndarray], z_dim: int) -> Basis:
    """The `z_dim` orthonormal blocks that keep most of the clips' variance once borders are filtered.

    Args:
        clips: uint8 [F, H, W, 3]; read once.
        z_dim: how many.
    """
    border = border_filter().float()
    size = VALUES * BLOCK**2
    covariance, total, count = torch.zeros(size, size), torch.zeros(size), 0
    for clip in clips:
        groups = groups_of(video.to_tensor(clip)[None])[::STRIDE]
        still = rearrange(groups[::STILL_EVERY], "n (f c) h w -> n f c h w", f=TEMPORAL_STRIDE)[:, :1]
        still = still.expand(-1, TEMPORAL_STRIDE, -1, -1, -1).flatten(1, 2)
        blocks = _filtered_blocks(torch.cat([groups, still]), border)
        covariance.addmm_(blocks.T, blocks)
        total += blocks.sum(dim=0)
        count += len(blocks)
    mean = total / count
    offset = rearrange(mean, "(c p) -> c p", c=VALUES).mean(dim=1)
    centre = offset.repeat_interleave(BLOCK**2)  # the filter leaves what is flat as it is
    covariance = covariance.double() / count - torch.outer(centre, mean) - torch.outer(mean - centre, centre)
    values, vectors = _largest(covariance, z_dim)
    basis = vectors.T.reshape(z_dim, VALUES, BLOCK, BLOCK)
    return Basis(basis.float(), values.clamp_min(1e-8).sqrt().float(), offset.float())


def _largest(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, falling, and their vectors in columns, by subspace iteration: seconds for all of it."""
    start = torch.randn(len(covariance), count + SPARE, generator=torch.Generator().manual_seed(0))
    vectors = torch.linalg.qr(start.to(covariance))[0]
    for _ in range(ITERATIONS):
        vectors = torch.linalg.qr(covariance @ vectors)[0]
    values, rotation = torch.linalg.eigh(vectors.T @ covariance @ vectors)
    return values.flip(0)[:count], (vectors @ rotation).flip(1)[:, :count]


def _filtered_blocks(groups: Tensor, border: Tensor) -> Tensor:
    """Groups [N, VALUES, H, W] -> their blocks [N * h * w, VALUES * BLOCK**2]."""
    windows = F.pixel_shuffle(cells_of(groups), BLOCK).unfold(2, KERNEL, BLOCK).unfold(3, KERNEL, BLOCK)
    return torch.einsum("nchwyx,iy,jx->nhwcij", windows, border, border).reshape(-1, VALUES * BLOCK**2)
