"""Optimizers and rates of a run: AdamW for everything, or Muon for matrices and AdamW for the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from train.loop import foreach
from train.loop.config import OptimConfig

# An odd polynomial a x + b x^3 + c x^5 for each round, tuned so that five of them bring singular values from (0, 1]
# near 1. Source: You Jiacheng 2025, as used in KellerJordan/modded-nanogpt.
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)

# Brings the size of a Muon update (RMS of its entries) to that of AdamW, so that one rate serves both.
# Source: Liu et al. 2025, "Muon is scalable for LLM training" (arXiv:2502.16982), section 2.2.
UPDATE_RMS = 0.2

# Tables that are looked up by index: their rows are no directions of a linear map.
LOOKED_UP = ("shared.weight", "embed_tokens.weight", "relative_attention_bias.weight")


def learning_rate(step: float, num_steps: int, config: OptimConfig) -> float:
    """Rate of update number `step`, from 0: linear warm-up, then a cosine or a line down to `lr_min_lr`.

    Where batches have changed a step lies between two numbers.
    """
    warmup = config.lr_warmup_steps
    if warmup is None:
        warmup = round(num_steps * config.lr_warmup_ratio)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - 1 - warmup))
    left = 1 - progress if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr_min_lr + (config.learning_rate - config.lr_min_lr) * left


def build_optimizer(
    parameters: dict[str, nn.Parameter],
    config: OptimConfig,
    sharded: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """The optimizer of one phase; vectors (norms, biases, scales) are not decayed.

    Args:
        parameters: trained parameters by name.
        config: names the optimizer and its settings.
        sharded: whether parameters are split over processes.
        dtype: what Muon computes its directions in.
    """
    by_muon = {name for name, p in parameters.items() if config.optimizer == "muon" and is_matrix(name, p)}
    rest = [p for name, p in parameters.items() if name not in by_muon]
    groups: list[dict[str, Any]] = [
        # Sharded and whole parameters apart: one kernel does not take both.
        {
            "params": [p for p in rest if decayed == (p.ndim > 1) and split == isinstance(p, DTensor)],
            "weight_decay": decay,
        }
        for decayed, decay in ((True, config.weight_decay), (False, 0.0))
        for split in (False, True)
    ]
    matrices = [p for name, p in parameters.items() if name in by_muon]
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
    }
    if config.optimizer == "muon":
        groups.append({"params": matrices, "weight_decay": config.weight_decay, "muon": True})
        return Muon(
            [group for group in groups if group["params"]], momentum=config.muon_momentum, dtype=dtype, **settings
        )
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=not sharded, **settings)


def kept_names(optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, tuple[str, ...]]:
    """What an optimizer of `build_optimizer` keeps of each parameter, by name."""
    return {
        parameter: ("momentum",) if group.get("muon") else ("exp_avg", "exp_avg_sq", "step")
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a linear map from more than one input to more than one output, as Muon needs it.

    A convolution's kernel [out, in, ...] is the map from all its inputs. Gains, biases and look-up tables are none.
    """
    return parameter.ndim >= 2 and min(_matrix_shape(parameter)) > 1 and not name.endswith(LOOKED_UP)


def _matrix_shape(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter.numel() // parameter.shape[0]


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]  # `step` leaves out those without


class Muon(torch.optim.Optimizer):
    """Momentum whose update is brought near the closest orthogonal matrix, and AdamW for what is no matrix.

    `torch.optim.Muon` takes matrices only (no convolutions) and always computes in bfloat16, which is slow on many
    CPUs; this one flattens kernels, computes in the type it is told, and treats matrices of one shape in one batch.

    Args:
        groups: parameter groups; those with `"muon": True` hold matrices (see `is_matrix`).
        lr: rate of all groups.
        momentum: of Muon, Nesterov's.
        betas, eps: of AdamW.
        dtype: of orthogonalisation. bfloat16 moves directions by 0.6% and takes a quarter of the time where it is fast.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0, "muon": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure; call backward before step")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["muon"] else self._adamw)(parameters, group)

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = _gradients(parameters)
        buffers = [self._state(p, "momentum")["momentum"] for p in parameters]
        foreach.lerp_(buffers, gradients, 1 - group["momentum"])
        updates = foreach.lerp(gradients, buffers, group["momentum"])
        if group["weight_decay"]:
            foreach.mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape = defaultdict(list)
        for index, parameter in enumerate(parameters):
            by_shape[_matrix_shape(parameter)].append(index)
        for shape, indices in by_shape.items():
            directions = orthogonalise(torch.stack([updates[i].reshape(shape) for i in indices]).to(self.dtype))
            size = group["lr"] * UPDATE_RMS * math.sqrt(max(shape))
            for index, direction in zip(indices, directions, strict=True):
                parameters[index].add_(direction.view_as(parameters[index]), alpha=-size)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state(p, "exp_avg", "exp_avg_sq") for p in parameters]
        for state in states:
            state.setdefault("step", torch.zeros(()))
        adamw(
            parameters,
            _gradients(parameters),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, parameter: Tensor, *names: str) -> dict[str, Tensor]:
        state = self.state[parameter]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state


def orthogonalise(matrices: Tensor, rounds: Sequence[tuple[float, float, float]] = NEWTON_SCHULZ) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1 (0.7 to 1.2), [n, rows, columns].

    Newton-Schulz iteration: only products of matrices, in the type of the input.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for a, b, c in rounds:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
