"""A decoder of a few million parameters that sees what the latents show: for previews while a clip is being drawn.

The weights are those of TAEHV (github.com/madebyollin/taehv, MIT; `taew2_2` for the VAE of Wan 2.2). They take the
normalised latents as they are. Only names under `decoder.` are read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanact.errors import UserError

WIDTHS = (256, 128, 64, 64)
GROWTH = (1, 2, 2)  # in time, stage by stage: a latent frame becomes four


def _conv(n_in: int, n_out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Latents within -3 and 3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """A residual block on each frame that also sees the frame before."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[T, C, h, w] -> [T, C, h, w]"""
        before = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:-1]
        return F.relu(self.conv(torch.cat([x, before], dim=1)) + x)


class Grow(nn.Module):
    """Each frame becomes `stride` frames."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, *x.shape[1:])


class SmallDecoder(nn.Module):
    """Normalised latents to frames, fast and roughly.

    Args:
        latent_channels: of the VAE it stands in for.
        patch_size: pixels that the last layer makes of one place, in each direction.
    """

    def __init__(self, latent_channels: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        layers: list[nn.Module] = [SoftClamp(), _conv(latent_channels, WIDTHS[0]), nn.ReLU()]
        for width, wider, stride in zip(WIDTHS, WIDTHS[1:], GROWTH, strict=False):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), Grow(width, stride), _conv(width, wider, bias=False)]
        layers += [nn.ReLU(), _conv(WIDTHS[-1], 3 * patch_size**2)]
        self.decoder = nn.Sequential(*layers)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> SmallDecoder:
        """The decoder that these weights are of.

        Raises:
            ValueError: if they are of none.
        """
        weights = {name: tensor for name, tensor in state.items() if name.startswith("decoder.")}
        try:
            latent_channels = weights["decoder.1.weight"].shape[1]
            patch_size = round((weights["decoder.22.bias"].shape[0] / 3) ** 0.5)
            decoder = cls(latent_channels, patch_size)
            decoder.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"these are no weights of a small decoder: {' '.join(str(error).split())[:200]}") from error
        return decoder.eval().requires_grad_(False)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [1, C, T, h, w] -> video [1, 3, 4T-3, H, W] in [-1, 1]."""
        x = latents[0].transpose(0, 1).to(next(self.parameters()))  # [T, C, h, w]
        frames = F.pixel_shuffle(self.decoder(x), self.patch_size).clamp(0, 1)
        frames = frames[3:]  # the first latent frame is one frame
        return frames.transpose(0, 1)[None] * 2 - 1
