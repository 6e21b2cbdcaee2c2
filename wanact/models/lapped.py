"""A video autoencoder that is a lapped transform: computed by linear algebra, with a small network where lines ring.

Every latent frame is 48 numbers for 16x16 pixels and four frames, as in Wan 2.2. Kernels are 32 pixels wide and 16
apart, so that neighbours overlap and no block shows. The encoder is linear; the decoder adds what a linear map cannot
do (ringing at edges, crispness) by a few depthwise convolutions at a quarter of the pixels' resolution.

Groups of four frames do not see one another: the first frame is coded as four copies of itself, a drone that hovers
has latents that stay as they are, and a stream needs no memory.

Source of the overlap: Tran, Liang & Tu 2003, "Lapped transform via time-domain pre- and post-filtering": pixels on
both sides of a block's border are rotated into one another before the blocks are transformed one by one. It is
orthogonal, so that the principal components of rotated blocks are the best basis of its kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from wanact.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, num_latent_frames

BLOCK, OVERLAP = SPATIAL_STRIDE, SPATIAL_STRIDE // 2  # pixels; a kernel reaches OVERLAP beyond its block on each side
KERNEL = BLOCK + 2 * OVERLAP
FRAMES_STAND_ALONE = True
UNIT = 16.0  # kernels are kept this much larger than they act: Adam's steps are of one size for all weights
VALUES = 3 * TEMPORAL_STRIDE  # of one pixel of a group, frame by frame
LOG_VARIANCE = -30.0  # of a latent: it has none, and this is where diffusers clamps
CORRECTED = 4  # pixels a side of what the network at the decoder's end answers at once
SEAM = 0.25  # of a step between two of these goes to either side
GROUPS_AT_ONCE = 8  # decoded together where nothing is trained: bounds memory and stays in a processor's cache


# The transform


def border_filter() -> Tensor:
    """What gathers a block from its 32 pixels, [BLOCK, KERNEL]: orthogonal with its shifts by a block.

    At each border the sum of mirrored pixels stays and their difference is rotated, so that a ramp becomes steps.
    """
    n = torch.arange(OVERLAP, dtype=torch.float64)
    second = torch.cos(math.pi / OVERLAP * (n[None] + 0.5) * n[:, None]) * math.sqrt(2 / OVERLAP)
    second[0] /= math.sqrt(2)
    fourth = torch.cos(math.pi / OVERLAP * (n[None] + 0.5) * (n[:, None] + 0.5)) * math.sqrt(2 / OVERLAP)
    rotation = (second.T @ fourth).flip(0, 1)
    same = torch.eye(OVERLAP, dtype=torch.float64)
    inside, outside = (same + rotation) / 2, (same - rotation) / 2  # by distance from the border
    left = torch.cat([outside.flip(1), inside, torch.zeros_like(same), torch.zeros_like(same)], dim=1)
    return torch.cat([left, left.flip(0, 1)])


def cosine_basis(z_dim: int) -> tuple[Tensor, Tensor]:
    """The first cosines of a block in space, time and colour, and the deviations that natural pictures have along them.

    Returns:
        basis [z_dim, VALUES, BLOCK, BLOCK], orthonormal, and deviations [z_dim].
    """

    def cosines(size: int) -> Tensor:
        n = torch.arange(size, dtype=torch.float64)
        waves = torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None]) * math.sqrt(2 / size)
        waves[0] /= math.sqrt(2)
        return waves

    colours = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colours /= colours.norm(dim=1, keepdim=True)
    frequency = torch.arange(BLOCK, dtype=torch.float64)
    time = 3 * torch.arange(TEMPORAL_STRIDE, dtype=torch.float64)
    power = 1 / (0.2 + time[:, None, None] ** 2 + frequency[:, None] ** 2 + frequency**2)
    power = torch.tensor([1.0, 0.05, 0.05], dtype=torch.float64).view(3, 1, 1, 1) * power  # [3, 4, BLOCK, BLOCK]
    chosen = power.flatten().argsort(descending=True, stable=True)[:z_dim]
    c, t, y, x = torch.unravel_index(chosen, power.shape)
    pixels, frames = cosines(BLOCK), cosines(TEMPORAL_STRIDE)
    basis = torch.einsum("zt,zc,zy,zx->ztcyx", frames[t], colours[c], pixels[y], pixels[x]).flatten(1, 2)
    return basis, power.flatten()[chosen].sqrt()


def groups_of(video: Tensor) -> Tensor:
    """Video [B, 3, F, H, W] -> groups of four frames [B * T, VALUES, H, W], the first of four first frames."""
    num_latent_frames(video.shape[2])
    video = torch.cat([video[:, :, :1].expand(-1, -1, TEMPORAL_STRIDE - 1, -1, -1), video], dim=2)
    return rearrange(video, "b c (t f) h w -> (b t) (f c) h w", f=TEMPORAL_STRIDE)


def frames_of(groups: Tensor, batch: int) -> Tensor:
    """The inverse of `groups_of`."""
    video = rearrange(groups, "(b t) (f c) h w -> b c (t f) h w", b=batch, f=TEMPORAL_STRIDE)
    return video[:, :, TEMPORAL_STRIDE - 1 :]


def cells_of(groups: Tensor) -> Tensor:
    """Groups continued by their mirror images, in blocks whose corners are the blocks' centres.

    [N, VALUES, H, W] -> [N, VALUES * BLOCK**2, h + 1, w + 1]
    """
    top, bottom = groups[:, :, :OVERLAP].flip(2), groups[:, :, -OVERLAP:].flip(2)
    groups = torch.cat([top, groups, bottom], dim=2)
    left, right = groups[..., :OVERLAP].flip(3), groups[..., -OVERLAP:].flip(3)
    return F.pixel_unshuffle(torch.cat([left, groups, right], dim=3), BLOCK)


def _gathering(kernels: Tensor) -> Tensor:
    """Kernels [z, VALUES, KERNEL, KERNEL] as those of a 2x2 convolution over `cells_of`."""
    return _channels_last(rearrange(kernels, "z c (a i) (b j) -> z (c i j) a b", a=2, b=2))


def _scattering(kernels: Tensor, stride: int) -> Tensor:
    """Kernels [z, C, 2 * stride, 2 * stride] as those of a 2x2 convolution from latents to cells."""
    return _channels_last(rearrange(kernels, "z c (a i) (b j) -> (c i j) z a b", i=stride, j=stride).flip(2, 3))


def _seamless(x: Tensor) -> Tensor:
    """Values [N, C, H, W] that were answered square by square, with half of each step between two squares taken away.

    What learns through it answers without steps more easily than with them; kernels that overlap would cost ten times
    as much.
    """
    for dim in (2, 3):
        lines = x.movedim(dim, 0)
        before, after = lines[CORRECTED - 1 : -1 : CORRECTED], lines[CORRECTED::CORRECTED]
        step = SEAM * (after - before)
        before += step
        after -= step
    return x


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# The network


class MixingBlock(nn.Module):
    """Neighbours, then channels; a residual block."""

    def __init__(self, width: int):
        super().__init__()
        self.neighbours = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.wide = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.silu(self.wide(self.neighbours(x))))


class AutoencoderLapped(ModelMixin, ConfigMixin):
    """The autoencoder; diffusers' pipelines take it where they take an AutoencoderKLWan.

    Begins as windowed cosines, which decode smooth pictures well without any training; `set_basis` gives it better.

    Args:
        z_dim: latent channels.
        scale_factor_spatial, scale_factor_temporal: 16 and 4; other values are refused.
        width, depth: channels and blocks of the network at the decoder's end.
        smooth_seams: whether steps between the squares of 4x4 pixels that it answers are halved.
        latents_mean, latents_std: of raw latents. The deviation is one number for all channels: the transform scales
            each by the square root of its deviation, half way between pixels and white, and a flow that draws coarse
            things before fine ones needs that difference (measured in `docs/nano.md`).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        scale_factor_spatial: int = SPATIAL_STRIDE,
        scale_factor_temporal: int = TEMPORAL_STRIDE,
        width: int = 64,
        depth: int = 4,
        smooth_seams: bool = False,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ):
        super().__init__()
        if (scale_factor_spatial, scale_factor_temporal) != (SPATIAL_STRIDE, TEMPORAL_STRIDE):
            raise ValueError(
                f"scale factors {scale_factor_spatial} and {scale_factor_temporal} are not those of a lapped "
                f"autoencoder; expected {SPATIAL_STRIDE} and {TEMPORAL_STRIDE}"
            )
        self.register_to_config(
            latents_mean=list(latents_mean or [0.0] * z_dim), latents_std=list(latents_std or [1.0] * z_dim)
        )
        self.analysis = nn.Parameter(torch.empty(z_dim, VALUES, KERNEL, KERNEL))
        self.synthesis = nn.Parameter(torch.empty(z_dim, VALUES, KERNEL, KERNEL))
        self.offset = nn.Parameter(torch.zeros(VALUES))
        self.mirror = nn.Parameter(torch.empty(2, z_dim, z_dim))  # latents of what lies beyond the border, up and left
        self.features = nn.Parameter(torch.empty(z_dim, width, KERNEL // CORRECTED, KERNEL // CORRECTED))
        self.blocks = nn.ModuleList(MixingBlock(width) for _ in range(depth))
        self.correction = nn.Conv2d(width, VALUES * CORRECTED**2, 1)
        self.use_tiling = False
        self.smooth_seams = smooth_seams
        if self.analysis.device.type != "meta":
            self.set_basis(*cosine_basis(z_dim))
            nn.init.normal_(self.features, std=0.5 / math.sqrt(z_dim))
            for parameter in self.correction.parameters():
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def set_basis(self, basis: Tensor, deviations: Tensor, offset: Tensor | None = None) -> None:
        """Take the transform that a basis of blocks makes.

        Args:
            basis: orthonormal, of blocks after `border_filter`, [z_dim, VALUES, BLOCK, BLOCK].
            deviations: of the data along it, [z_dim]; latents are divided by their square roots.
            offset: mean of each value, [VALUES].
        """
        border = border_filter().to(basis)
        kernels = torch.einsum("zcij,iy,jx->zcyx", basis, border, border)
        scale = deviations.sqrt().view(-1, 1, 1, 1)
        self.analysis.copy_(UNIT * kernels / scale)
        self.synthesis.copy_(UNIT * kernels * scale)
        for mirror, dim in zip(self.mirror, (2, 3), strict=True):
            mirror.copy_(torch.einsum("ycij,zcij->yz", basis / scale, basis.flip(dim) * scale))
        if offset is not None:
            self.offset.copy_(offset)

    def _kernels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Analysis, synthesis and features as convolutions take them; copied once where nothing is trained."""
        sources = (self.analysis, self.synthesis, self.features)
        version = [(source.data_ptr(), source._version) for source in sources]
        known, kernels = getattr(self, "_laid_out", (None, None))
        if torch.is_grad_enabled() or kernels is None or known != version:
            kernels = (
                _gathering(self.analysis / UNIT),
                _scattering(self.synthesis / UNIT, BLOCK),
                _scattering(self.features, BLOCK // CORRECTED),
            )
            if not torch.is_grad_enabled():
                self._laid_out = version, kernels
        return kernels

    def analyse(self, groups: Tensor) -> Tensor:
        """Groups [N, VALUES, H, W] -> raw latents [N, z_dim, h, w]."""
        return F.conv2d(cells_of(groups - self.offset[:, None, None]), self._kernels()[0])

    def synthesise(self, latents: Tensor, refine: bool = True) -> Tensor:
        """Raw latents [N, z_dim, h, w] -> groups [N, VALUES, H, W], not clamped; `refine` for the network as well."""
        up, left = self.mirror
        first, last = (torch.einsum("yz,nzw->nyw", up, latents[:, :, k])[:, :, None] for k in (0, -1))
        latents = torch.cat([first, latents, last], dim=2)
        first, last = (torch.einsum("yz,nzh->nyh", left, latents[..., k])[..., None] for k in (0, -1))
        latents = _channels_last(torch.cat([first, latents, last], dim=3))
        _, synthesis, features = self._kernels()
        groups = F.pixel_shuffle(F.conv2d(latents, synthesis), BLOCK)
        groups = groups[:, :, OVERLAP:-OVERLAP, OVERLAP:-OVERLAP] + self.offset[:, None, None]
        if not refine:
            return groups
        reach = OVERLAP // CORRECTED
        x = F.pixel_shuffle(F.conv2d(latents, features), BLOCK // CORRECTED)
        x = _channels_last(x[:, :, reach:-reach, reach:-reach])
        for block in self.blocks:
            x = block(x)
        correction = F.pixel_shuffle(self.correction(x), CORRECTED)
        return groups + (_seamless(correction) if self.smooth_seams else correction)

    # As diffusers calls it

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Video [B, 3, F, H, W] in [-1, 1], F = 4k+1 -> the distribution of its raw latents [B, C, k+1, h, w]."""
        posterior = DiagonalGaussianDistribution(torch.cat(encode_moments(self, x), dim=1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Raw latents [B, C, T, h, w] -> video [B, 3, F, H, W] in [-1, 1]."""
        video = decode_raw(self, z).clamp(-1.0, 1.0)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Video in, what is left of it out."""
        encoded = self.encode(sample)
        assert isinstance(encoded, AutoencoderKLOutput), "the default of return_dict"
        return self.decode(encoded.latent_dist.mode(), return_dict)

    def enable_tiling(self, *_: Any, **__: Any) -> None:
        """Nothing to do: a few groups are decoded at a time, whatever their number."""


# What `wanact.models.vae` asks of every autoencoder


def use_fast_operations(vae: AutoencoderLapped) -> AutoencoderLapped:
    """Nothing to exchange: its operations are the fast ones."""
    return vae


def encoder_parameters(vae: AutoencoderLapped) -> Iterator[nn.Parameter]:
    """What latents depend on."""
    yield vae.analysis
    yield vae.offset


def latent_deviation(deviations: Tensor) -> Tensor:
    """What raw latents are divided by: one number for all channels, see `AutoencoderLapped`."""
    return deviations.square().mean().sqrt().expand_as(deviations)


def encode_moments(vae: AutoencoderLapped, video: Tensor) -> tuple[Tensor, Tensor]:
    """Raw latents of whole clips, and a log-variance that says they are certain."""
    mean = rearrange(vae.analyse(groups_of(video)), "(b t) c h w -> b c t h w", b=len(video))
    return mean, torch.full_like(mean, LOG_VARIANCE)


def decode_raw(vae: AutoencoderLapped, latents: Tensor) -> Tensor:
    """Raw latents [B, C, T, h, w] -> video [B, 3, F, H, W], not clamped."""
    each = rearrange(latents, "b c t h w -> (b t) c h w")
    parts = each.split(len(each) if torch.is_grad_enabled() else GROUPS_AT_ONCE)
    return frames_of(torch.cat([vae.synthesise(part) for part in parts]), len(latents))


def decode_alone(vae: AutoencoderLapped, latent_frame: Tensor) -> Tensor:
    """Raw latent frame [B, C, 1, h, w] -> its four frames [B, 3, 4, H, W], not clamped."""
    groups = vae.synthesise(latent_frame[:, :, 0])
    return rearrange(groups, "b (f c) h w -> b c f h w", f=TEMPORAL_STRIDE)


class Decoder:
    """Decodes latent frame by latent frame; only whether one is the first has to be remembered."""

    def __init__(self, vae: AutoencoderLapped):
        self.vae = vae
        self._started = False

    def fork(self) -> Decoder:
        other = Decoder(self.vae)
        other._started = self._started
        return other

    def pieces(self, latent_frame: Tensor) -> Iterator[Tensor]:
        """Raw latent frame [B, C, 1, h, w] -> its first frame and the other three, [B, 3, 1 or 3, H, W].

        All come of one product; who shows frames in their time wants the first one by itself, from any decoder.
        """
        video = decode_alone(self.vae, latent_frame)
        first, self._started = not self._started, True
        if first:
            yield video[:, :, TEMPORAL_STRIDE - 1 :]
            return
        yield video[:, :, :1]
        yield video[:, :, 1:]


class Encoder:
    """Encodes group by group, without memory."""

    def __init__(self, vae: AutoencoderLapped):
        self.vae = vae

    def step(self, video: Tensor) -> Tensor:
        """Video [B, 3, 1 or 4, H, W] -> raw latent frame [B, C, 1, h, w]."""
        if video.shape[2] == 1:
            video = repeat(video, "b c 1 h w -> b c f h w", f=TEMPORAL_STRIDE)
        return self.vae.analyse(rearrange(video, "b c f h w -> b (f c) h w"))[:, :, None]
