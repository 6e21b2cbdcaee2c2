"""Sample clips of a flow stage: the same first frames, words, tracks and noise every time, so that steps compare."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wanact import flow

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def denoise(
    velocity: Velocity, first: Tensor, noise: Tensor, contexts: tuple[Tensor, Tensor], sigmas: Tensor, guidance: float
) -> Tensor:
    """Euler steps from noise to a clip whose first latent frame is given.

    Args:
        velocity: (latents, timestep [B, T], context) -> velocity [B, C, T, h, w].
        first: clean first latent frame, [B, C, 1, h, w].
        noise: [B, C, T, h, w].
        contexts: embeddings of the prompt and of no prompt, [B, S, D] each.
        sigmas: from 1 to 0, [steps + 1].
        guidance: classifier-free guidance; 1 is none.

    Returns:
        Latents [B, C, T, h, w].
    """
    latents = noise.clone()
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        latents[:, :, :1] = first
        timestep = torch.full((latents.shape[0], latents.shape[2]), 1000.0 * sigma, device=latents.device)
        timestep[:, 0] = 0.0
        predicted = velocity(latents, timestep, contexts[0]).float()
        if guidance != 1:
            unconditional = velocity(latents, timestep, contexts[1]).float()
            predicted = unconditional + guidance * (predicted - unconditional)
        latents = flow.euler_step(latents, predicted, sigma, following)
    latents[:, :, :1] = first
    return latents
