"""Encode and decode with diffusers' AutoencoderKLWan: a whole clip in one pass, or latent frame by latent frame.

diffusers runs the residual VAE of Wan 2.2 in chunks of one latent frame. Every operation is causal, so a whole clip
can pass through each layer at once with the same result; that is several times faster for small models and is what
training uses. Streaming keeps its own cache per session, because any `vae.encode` or `vae.decode` resets the VAE's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    AutoencoderKLWan,
    WanCausalConv3d,
    WanResidualDownBlock,
    WanResidualUpBlock,
    WanRMS_norm,
    patchify,
    unpatchify,
)
from torch import Tensor, nn

from wanact.shapes import num_latent_frames

FRAMES_STAND_ALONE = False


class FastCausalConv3d(WanCausalConv3d):
    """A causal convolution that takes oneDNN's path on a CPU also for a batch of one, channels last.

    `conv3d` sends fp32 batch-1 inputs to `slow_conv3d`; the direct call is 2 to 4.6 times faster and differs by at
    most 3e-6. Weights whose channels come last make the activations so, which takes a tenth off again. No parameters
    of its own: instances are made by `use_fast_operations`.
    """

    _copy: tuple[tuple[int, int], Tensor] | None = None  # of the weights of this place and version

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
            return super().forward(x, cache_x)
        width, _, height, _, before, _ = cast(tuple[int, ...], self._padding)  # nn.Conv3d's may be a word
        if cache_x is not None and before > 0:
            x = torch.cat([cache_x, x], dim=2)
            before -= cache_x.shape[2]
        if before:
            x = F.pad(x, (0, 0, 0, 0, before, 0))
        around = [0, height, width]
        return torch.mkldnn_convolution(x, self._laid_out(), self.bias, around, self.stride, self.dilation, self.groups)

    def _laid_out(self) -> Tensor:
        """The weights, channels last: a copy, because files are written from weights as they were read."""
        version = (self.weight.data_ptr(), self.weight._version)
        if self._copy is None or self._copy[0] != version:
            self._copy = version, self.weight.detach().contiguous(memory_format=torch.channels_last_3d)
        return self._copy[1]


class FastRMSNorm(WanRMS_norm):
    """The same normalisation without a division and a copy of its own, an eighth of a decoder's time on a CPU.

    No parameters of its own: instances are made by `use_fast_operations`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return super().forward(x)
        inverse = torch.rsqrt(x.square().sum(1 if self.channel_first else -1, keepdim=True).clamp_min(1e-24))
        return x * inverse * self.scale * self.gamma + self.bias


def use_fast_operations(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Let this VAE's causal convolutions and normalisations take the fast CPU path; returned for chaining."""
    faster: dict[type, type] = {WanRMS_norm: FastRMSNorm}
    if torch.backends.mkldnn.is_available():
        faster[WanCausalConv3d] = FastCausalConv3d
    for module in vae.modules():
        module.__class__ = faster.get(type(module), type(module))
    return vae


def encoder_parameters(vae: AutoencoderKLWan) -> Iterator[nn.Parameter]:
    """What latents depend on."""
    yield from vae.encoder.parameters()
    yield from vae.quant_conv.parameters()


def latent_deviation(deviations: Tensor) -> Tensor:
    """What raw latents are divided by: every channel's own deviation."""
    return deviations


def encode_moments(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the raw latents of whole clips, in one pass.

    Args:
        video: [B, 3, F, H, W] in [-1, 1], F = 4k+1.

    Returns:
        Two tensors [B, C, k+1, h, w], equal to `vae.encode(video).latent_dist`.
    """
    num_latent_frames(video.shape[2])
    encoder = vae.encoder
    x = encoder.conv_in(patchify(video, patch_size=vae.config["patch_size"]))
    for block in cast(Iterable[WanResidualDownBlock], encoder.down_blocks):
        shortcut = block.avg_shortcut(x)
        for resnet in block.resnets:
            x = resnet(x)
        if block.downsampler is not None:
            x = block.downsampler(x)
            if block.downsampler.mode == "downsample3d" and x.shape[2] > 1:
                x = torch.cat([x[:, :, :1], block.downsampler.time_conv(x)], dim=2)
        x = x + shortcut
    x = encoder.mid_block(x)
    x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(x)))
    mean, log_variance = vae.quant_conv(x).chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode_raw(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Raw latents [B, C, T, h, w] -> video [B, 3, F, H, W], not clamped (for losses), in one pass."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in cast(Iterable[WanResidualUpBlock], decoder.up_blocks):
        shortcut = None if block.avg_shortcut is None else block.avg_shortcut(x, first_chunk=True)
        for resnet in block.resnets:
            x = resnet(x)
        if block.upsampler is not None:
            if block.upsampler.mode == "upsample3d" and x.shape[2] > 1:
                pairs = block.upsampler.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))  # [B, 2, C, T-1, h, w]
                pairs = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
                x = torch.cat([x[:, :, :1], pairs], dim=2)
            x = block.upsampler(x)
        if shortcut is not None:
            x = x + shortcut
    x = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))
    return unpatchify(x, patch_size=vae.config["patch_size"])


class Decoder:
    """Decodes latent frame by latent frame; what its convolutions remember belongs to one flight."""

    def __init__(self, vae: AutoencoderKLWan):
        self.vae = vae
        self._cache: list = [None] * vae._cached_conv_counts["decoder"]
        self._started = False

    def fork(self) -> Decoder:
        """A decoder that goes its own way from here; what is remembered is shared, for nothing writes into it."""
        other = copy.copy(self)
        other._cache = list(self._cache)
        return other

    def pieces(self, latent_frame: Tensor) -> Iterator[Tensor]:
        """Raw latent frame [B, C, 1, h, w] -> videos [B, 3, frames, H, W], not clamped, the first as soon as it can be.

        The last block is most of the work and grows nothing in time, so that its frames need not wait for one another.
        """
        decoder, place = self.vae.decoder, [0]
        x = self.vae.post_quant_conv(latent_frame)
        x = self._causal(decoder.conv_in, x, place)
        x = decoder.mid_block(x, feat_cache=self._cache, feat_idx=place)
        for block in decoder.up_blocks[:-1]:
            x = block(x, feat_cache=self._cache, feat_idx=place, first_chunk=not self._started)
        self._started = True
        for frames in (x[:, :, :1], x[:, :, 1:]):
            if frames.shape[2]:
                yield self._last_block(frames, list(place))

    def _last_block(self, x: Tensor, place: list[int]) -> Tensor:
        decoder = self.vae.decoder
        x = decoder.up_blocks[-1](x, feat_cache=self._cache, feat_idx=place)
        x = self._causal(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(x)), place)
        return unpatchify(x, patch_size=self.vae.config["patch_size"])

    def _causal(self, conv: WanCausalConv3d, x: Tensor, place: list[int]) -> Tensor:
        """A convolution that remembers two frames, at the next place of the cache, as diffusers' blocks do it."""
        before = self._cache[place[0]]
        self._cache[place[0]] = (x if before is None else torch.cat([before, x], dim=2))[:, :, -CACHE_T:]
        place[0] += 1
        return conv(x, before)


class Encoder:
    """Encodes one clip as it arrives: one frame first, then four at a time."""

    def __init__(self, vae: AutoencoderKLWan):
        self.vae = vae
        self._cache: list = [None] * vae._cached_conv_counts["encoder"]

    def step(self, video: Tensor) -> Tensor:
        """Video [B, 3, 1 (first) or 4, H, W] -> the mean of a raw latent frame [B, C, 1, h, w]."""
        x = patchify(video, patch_size=self.vae.config["patch_size"])
        x = self.vae.encoder(x, feat_cache=self._cache, feat_idx=[0])
        return self.vae.quant_conv(x).chunk(2, dim=1)[0]
