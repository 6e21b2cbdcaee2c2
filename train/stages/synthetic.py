"""A stage without data or meaning, for measuring and breaking the machinery around real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from train.loop.config import TrainConfig
from train.loop.dist import Processes
from train.loop.seeding import Draw, derive_seed
from train.loop.stage import Stage, StepLoss


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32))


class SyntheticStage(Stage):
    """Pull the means of a network's weights towards random numbers that belong to the samples.

    Args:
        network: builds what is trained, every parameter of it.
        num_rows: rows of an epoch.
    """

    name = "synthetic"

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        network: Callable[[], nn.Module] = small_network,
        num_rows: int = 7,
    ) -> None:
        super().__init__(config, device)
        self._build, self._num_rows = network, num_rows

    def setup(self, processes: Processes) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.optim.seed, self.name))
            network = self._build().to(self.device)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        self.modules["network"] = network

    def __len__(self) -> int:
        return self._num_rows

    def load(self, draws: list[Draw]) -> dict[str, Any]:
        target = torch.stack([torch.randn((), generator=draw.generator("target")) for draw in draws])
        return {"target": target + torch.tensor([float(draw.index) for draw in draws])}

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        mean = torch.stack([parameter.mean() for parameter in self.modules["network"].parameters()]).sum()
        return StepLoss((mean - batch["target"]).square())
