"""Encode and decode with any of the autoencoders that fly: a whole clip in one pass, or latent frame by latent frame.

What differs between them lies in a module beside each class, with the functions that `Implementation` names; which
one is looked up by class, here and nowhere else. Everyone else sees normalised latents and video in [-1, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from wanact.models import kl_wan, lapped
from wanact.models.lapped import AutoencoderLapped
from wanact.shapes import TEMPORAL_STRIDE


class DecoderSession(Protocol):
    """One flight's decoder: raw latent frames in order, each to a piece of one frame and, but for the first, one of
    three, not clamped."""

    def pieces(self, latent_frame: Tensor) -> Iterator[Tensor]: ...

    def fork(self) -> DecoderSession: ...


class EncoderSession(Protocol):
    """One clip's encoder: one frame, then four at a time, each to a raw latent frame."""

    def step(self, video: Tensor) -> Tensor: ...


class Implementation(Protocol):
    """What the module of an autoencoder has."""

    FRAMES_STAND_ALONE: bool  # whether a latent frame holds its own frames and nothing of those before

    def use_fast_operations(self, vae: Any) -> Any: ...

    def encoder_parameters(self, vae: Any) -> Iterator[nn.Parameter]: ...

    def latent_deviation(self, deviations: Tensor) -> Tensor: ...

    def encode_moments(self, vae: Any, video: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode_raw(self, vae: Any, latents: Tensor) -> Tensor: ...

    def decode_alone(self, vae: Any, latent_frame: Tensor) -> Tensor: ...  # where frames stand alone

    def Decoder(self, vae: Any) -> DecoderSession: ...

    def Encoder(self, vae: Any) -> EncoderSession: ...


IMPLEMENTATIONS = {AutoencoderKLWan: kl_wan, AutoencoderLapped: lapped}
CLASSES: dict[str, type[AutoencoderKLWan] | type[AutoencoderLapped]] = {
    cls.__name__: cls for cls in IMPLEMENTATIONS
}  # by the name in a configuration


def _of(vae: Any) -> Implementation:
    for cls in type(vae).__mro__:
        if cls in IMPLEMENTATIONS:
            return cast(Implementation, IMPLEMENTATIONS[cls])
    raise TypeError(f"{type(vae).__name__} is no autoencoder that is known here; known are {', '.join(CLASSES)}")


def frames_stand_alone(vae: Any) -> bool:
    """Whether a latent frame says nothing about frames before its own, so that a clip can be cut before any of them."""
    return _of(vae).FRAMES_STAND_ALONE


def use_fast_operations(vae: Any) -> Any:
    """Let this VAE take the fast CPU path; returned for chaining."""
    return _of(vae).use_fast_operations(vae)


def encoder_parameters(vae: Any) -> Iterator[nn.Parameter]:
    """The parameters that latents depend on: those that stay where the decoder alone is trained."""
    return _of(vae).encoder_parameters(vae)


def latent_deviation(vae: Any, deviations: Tensor) -> Tensor:
    """What this VAE divides raw latents by, from the deviation of each channel over much data, [C] -> [C]."""
    return _of(vae).latent_deviation(deviations)


def _moments_like(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, device=like.device, dtype=like.dtype).view(shape)
    std = torch.tensor(vae.config.latents_std, device=like.device, dtype=like.dtype).view(shape)
    return mean, std


def normalise(vae: Any, latents: Tensor) -> Tensor:
    """Raw latents -> zero mean and unit deviation per channel, [B, C, T, h, w]."""
    mean, std = _moments_like(vae, latents)
    return (latents - mean) / std


def denormalise(vae: Any, latents: Tensor) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = _moments_like(vae, latents)
    return latents * std + mean


def encode_moments(vae: Any, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the raw latents of whole clips, in one pass.

    Args:
        video: [B, 3, F, H, W] in [-1, 1], F = 4k+1.

    Returns:
        Two tensors [B, C, k+1, h, w], equal to `vae.encode(video).latent_dist`.
    """
    return _of(vae).encode_moments(vae, video)


def decode_raw(vae: Any, latents: Tensor) -> Tensor:
    """Raw latents [B, C, T, h, w] -> video [B, 3, F, H, W], not clamped (for losses), in one pass."""
    return _of(vae).decode_raw(vae, latents)


@torch.no_grad()
def encode(vae: Any, video: Tensor) -> Tensor:
    """Video [B, 3, F, H, W] in [-1, 1] -> normalised latents [B, C, T, h, w] (the distribution's mode)."""
    if vae.use_tiling:  # large frames: diffusers cuts them into tiles
        return normalise(vae, vae.encode(video).latent_dist.mode())
    return normalise(vae, encode_moments(vae, video)[0])


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Normalised latents [B, C, T, h, w] -> video [B, 3, F, H, W] in [-1, 1]."""
    if vae.use_tiling:
        return vae.decode(denormalise(vae, latents)).sample
    return decode_raw(vae, denormalise(vae, latents)).clamp(-1.0, 1.0)


class StreamingDecoder:
    """Decodes one flight, latent frame by latent frame; the frames equal those of decoding the whole clip."""

    def __init__(self, vae: Any):
        self.vae = vae
        self._session = _of(vae).Decoder(vae)

    def fork(self) -> StreamingDecoder:
        """A decoder that goes its own way from here."""
        other = copy.copy(self)
        other._session = self._session.fork()
        return other

    def step(self, latent_frame: Tensor) -> Tensor:
        """Normalised latent frame [B, C, 1, h, w] -> video [B, 3, 1 or 4, H, W] in [-1, 1]."""
        return torch.cat(list(self.pieces(latent_frame)), dim=2)

    def pieces(self, latent_frame: Tensor) -> Iterator[Tensor]:
        """As `step`, but the first of the four frames comes as soon as it can be shown, where that saves time.

        All pieces have to be taken before the next latent frame.
        """
        pieces = self._session.pieces(denormalise(self.vae, latent_frame))
        while True:
            with torch.no_grad():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece.clamp(-1.0, 1.0)


class StreamingEncoder:
    """Encodes one clip as it arrives: one frame first, then four at a time."""

    def __init__(self, vae: Any):
        self.vae = vae
        self._session = _of(vae).Encoder(vae)
        self._started = False

    @torch.no_grad()
    def step(self, video: Tensor) -> Tensor:
        """Video [B, 3, 1 (first) or 4, H, W] in [-1, 1] -> normalised latent frame [B, C, 1, h, w]."""
        expected = TEMPORAL_STRIDE if self._started else 1
        if video.shape[2] != expected:
            raise ValueError(f"got {video.shape[2]} frames; this step of a streaming encode takes {expected}")
        self._started = True
        return normalise(self.vae, self._session.step(video))


@torch.no_grad()
def encode_alone(vae: Any, video: Tensor) -> Tensor:
    """Four frames of a clip's middle [B, 3, 4, H, W] -> their normalised latent frame, where frames stand alone."""
    return normalise(vae, _of(vae).Encoder(vae).step(video))


@torch.no_grad()
def decode_alone(vae: Any, latent_frame: Tensor) -> Tensor:
    """Normalised latent frame of a clip's middle [B, C, 1, h, w] -> its four frames [B, 3, 4, H, W] in [-1, 1], where
    frames stand alone."""
    return _of(vae).decode_alone(vae, denormalise(vae, latent_frame)).clamp(-1.0, 1.0)


def iter_decode(vae: Any, latents: Tensor, latent_frames: int = 1) -> Iterator[Tensor]:
    """Decode in order, so that the first frames show early.

    Args:
        latents: normalised, [B, C, T, h, w].
        latent_frames: how many latent frames each piece holds.

    Yields:
        Video [B, 3, frames, H, W] in [-1, 1].
    """
    session = StreamingDecoder(vae)
    for chunk in latents.split(latent_frames, dim=2):
        yield torch.cat([session.step(frame) for frame in chunk.split(1, dim=2)], dim=2)
