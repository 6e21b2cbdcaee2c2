"""Flow matching: one copy of the formulas for training and for flying.

A noisy sample is (1 - sigma) * data + sigma * noise, with sigma from 0 (data) to 1 (noise). What is followed and
compared is the velocity d sample / d sigma = noise - data. Vidar writes the same with t = 1 - sigma. A network predicts
it, as Wan does, or the data itself, which a narrow network does better: its output need not carry the noise. The
scheduler's configuration says which (`prediction_type`), in diffusers' words.

Source: Lipman et al. 2023 (arXiv:2210.02747); the shift is Esser et al. 2024 (arXiv:2403.03206), eq. 23.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wanact.errors import UserError

Prediction = Literal["flow_prediction", "sample"]
SigmaGrid = Literal["wan", "from_one"]

_LARGEST_SIGMA: dict[str, float] = {"wan": 1 - 1 / 1000, "from_one": 1.0}

_LEAST_WEIGHED_SIGMA = 0.1
_SMALLEST_SIGMA = 1e-3  # a clean frame has sigma 0, and nobody asks for its velocity


def prediction_of(scheduler: Any) -> Prediction:
    """What networks that fly with this scheduler of diffusers predict: the velocity, or clean latents.

    Raises:
        UserError: for any other kind of prediction.
    """
    kind = getattr(scheduler.config, "prediction_type", None) or "flow_prediction"
    if kind not in get_args(Prediction):
        known = " or ".join(get_args(Prediction))
        raise UserError(f"the scheduler's prediction_type {kind!r} cannot be flown; expected {known}")
    return kind


def velocity_of(output: Tensor, noisy: Tensor, sigma: Tensor | float, prediction: Prediction) -> Tensor:
    """The velocity that a network's output stands for; `sigma` broadcasts against the latents."""
    if prediction == "flow_prediction":
        return output
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=output.device)
    return (noisy.float() - output.float()) / sigma.clamp_min(_SMALLEST_SIGMA)


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Move sigmas in [0, 1] towards noise (shift > 1) or data (shift < 1); 0 and 1 stay where they are."""
    if shift <= 0:
        raise ValueError(f"shift={shift} must be above 0; Wan2.2-TI2V-5B uses 5.0")
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def interpolate(latents: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The noisy sample at `sigma`, which broadcasts against the latents: one a batch, [B,1,1,1,1], or one a
    latent frame, [B,1,T,1,1]."""
    return (1 - sigma) * latents + sigma * noise


def loss_weight(sigma: Tensor, prediction: Prediction) -> Tensor:
    """Weight of the squared error of a velocity, of the shape of `sigma`.

    A network that predicts clean latents has its error divided by sigma, and near the data a network that knows nothing
    yet would learn from nothing else: below a sigma of 0.1 the error of the clean latents counts as at 0.1.
    """
    if prediction == "flow_prediction":
        return torch.ones_like(sigma)
    return (sigma / _LEAST_WEIGHED_SIGMA).clamp_max(1.0).square()


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """The velocity itself, at every sigma alike."""
    return noise - latents


def euler_step(sample: Tensor, velocity: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """Follow the velocity from `sigma` to `sigma_next`; to 0 it gives the model's estimate of the data."""
    return sample + (sigma_next - sigma) * velocity


def inference_sigmas(
    num_steps: int, shift: float, grid: SigmaGrid = "wan", device: torch.device | str | None = None
) -> Tensor:
    """The sigmas of `num_steps` denoising steps, down to 0: [num_steps + 1], float32.

    Args:
        grid: `wan` begins at 1 - 1/1000 before the shift, as the solver that Wan2.2 is released with; `from_one` begins
            at 1, as nano was trained and measured.

    Source: `set_timesteps` of wan/utils/fm_solvers_unipc.py in Wan2.2. The grids that diffusers' own
    schedulers make end elsewhere: at 0.0968 instead of 0.0925, with 50 steps and a shift of 5.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    first = _LARGEST_SIGMA[grid]
    return shift_sigmas(torch.linspace(first, 0, num_steps + 1, dtype=torch.float32, device=device), shift)


def set_steps(scheduler: Any, num_steps: int, grid: SigmaGrid, device: torch.device | str | None = None) -> None:
    """Give a scheduler of diffusers its denoising steps.

    Args:
        scheduler: its shift is its own.
        grid: `from_one` leaves a scheduler its own grid, but for FlowMatchEuler's, whose end depends on the shift.
    """
    is_euler = type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    takes_sigmas = is_euler or bool(scheduler.config.get("use_flow_sigmas"))
    takes_sigmas = takes_sigmas and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    if is_euler or (grid == "wan" and takes_sigmas):
        scheduler.set_timesteps(sigmas=np.linspace(_LARGEST_SIGMA[grid], 0, num_steps + 1)[:-1], device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)
