"""Flow matching: which noise level a sample gets, how its error is weighted, and the error itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wanact.errors import UserError
from wanact.flow import shift_sigmas, velocity_target


def flow_matching_loss(
    velocity: Tensor,
    latents: Tensor,
    noise: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    emphasis: Tensor | None = None,
) -> Tensor:
    """Squared error between predicted and true velocity, one value a sample.

    Args:
        velocity: the transformer's prediction, [B, C, T, h, w].
        latents: normalised clean latents, [B, C, T, h, w].
        noise: standard normal, [B, C, T, h, w].
        mask: 1 where the loss counts, 0 on conditioning frames, [B, 1, T, 1, 1].
        weight: of each frame's error, [B, T]; None for 1.
        emphasis: factor of the error before it is squared, [B, 1, T, h, w]; None for 1.

    Returns:
        Loss [B], float32, unreduced, so that callers can bin it by sigma.

    Raises:
        ValueError: if a sample has no unmasked frame.

    Source: Lipman et al. 2023 (arXiv:2210.02747); target = noise - latents.
    """
    error = velocity.float() - velocity_target(latents, noise).float()
    if emphasis is not None:
        error = error * emphasis
    error = error.square()
    per_frame = error.mean(dim=(1, 3, 4))  # [B, T]
    counted = mask.float().flatten(1).expand_as(per_frame)
    count = counted.sum(1)
    if not bool((count > 0).all()):
        raise UserError("a sample has no latent frame that counts; clips need at least 5 frames")
    if weight is not None:
        per_frame = per_frame * weight
    return (per_frame * counted).sum(1) / count


@dataclass(frozen=True)
class SigmaSampler:
    """Noise levels of training samples.

    The schedule is run from noise (0) to data (1); a sample takes a place in [min_boundary, max_boundary], whose
    unshifted sigma is 1 - place, and shifts it. This is DiffSynth's `min/max_timestep_boundary`, without its rounding
    to 1000 steps.

    Attributes:
        sampling: density of the unshifted sigma: uniform, or the normal distribution through a sigmoid.
        mean, std: of that normal distribution.
        shift: towards noise, as in inference.
        min_boundary, max_boundary: the part of the schedule that is trained.
        weighting: "none", or "bell", which lowers both ends of the schedule.

    Source: logit-normal, Esser et al. 2024 (arXiv:2403.03206), section 3.1; the bell, DiffSynth-Studio's
    `FlowMatchScheduler.set_training_weight`.
    """

    sampling: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    min_boundary: float = 0.0
    max_boundary: float = 1.0
    weighting: Literal["none", "bell"] = "none"

    def sigma(self, uniform: Tensor) -> Tensor:
        """Shifted sigmas in [0, 1] from numbers drawn uniformly from [0, 1), same shape."""
        low, high = 1 - self.max_boundary, 1 - self.min_boundary
        if self.sampling == "uniform":
            base = low + (high - low) * uniform
        else:  # the inverse distribution function, cut at both ends, keeps the density inside the boundaries
            ends = torch.logit(torch.tensor([low, high], dtype=torch.float64))
            ends = torch.special.ndtr((ends - self.mean) / self.std)
            quantile = ends[0] + (ends[1] - ends[0]) * uniform.double()
            base = torch.sigmoid(self.mean + self.std * torch.special.ndtri(quantile)).float()
        return shift_sigmas(base.clamp(low, high), self.shift)

    def weight(self, sigma: Tensor) -> Tensor:
        """Factor of each sample's loss, with a mean of about 1 over the schedule."""
        if self.weighting == "none":
            return torch.ones_like(sigma)
        bell = torch.exp(-2 * (sigma - 0.5).square())
        floor, mean = 0.6065306597126334, 0.8556243918921488  # exp(-1/2) at both ends; its integral over [0, 1]
        return (bell - floor) / (mean - floor)
