"""How near everything is: a small network learns from a picture what the simulator knows.

Drafts of latent frames move the last picture by it (`wanact.flying.draft`). The views are drawn when training starts,
at half the size that pictures have, and are the same every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from train.loop.config import ConfigError, TrainConfig, flag, require
from train.loop.dist import Processes
from train.loop.seeding import Draw, derive_seed
from train.loop.stage import Stage, StepLoss
from train.stages.i2v import seeded
from wanact.models.nearness import CONFIG, WEIGHTS, NearnessConfig, NearnessNetwork
from wanact.world import views

FAR = 0.02  # 1 / clip path: what is farther, and the sky, does not move
BARELY = 0.1  # 1 / clip path: what is much farther moves so little that its error hardly counts


@dataclass
class NearnessOptions:
    """The views to learn from, and the network."""

    _argument_group_name = "nearness"

    nearness_channels: list[int] = flag(
        default_factory=lambda: [12, 24, 48, 96, 128], help="at half the picture's size, and after each halving"
    )
    worlds: int = flag(default=80, help="of the simulator, in which views are drawn")
    first_world: int = flag(default=1000, help="seed of the first one")
    views_per_world: int = flag(default=48, help="drawn along random flights")

    def __post_init__(self) -> None:
        for name in ("worlds", "views_per_world"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} must be at least 1")


class NearnessStage(Stage):
    """Train a network of nearness on views whose depth is known."""

    name = "nearness"
    options = NearnessOptions
    uses = ("height", "width")

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        require(config, "output_path", "height", "width")
        options: NearnessOptions = config.stage
        try:
            NearnessConfig(tuple(options.nearness_channels))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def setup(self, processes: Processes) -> None:
        self.processes = processes
        self.settings: NearnessOptions = self.config.stage
        with seeded(self.config.optim.seed, "nearness"):
            config = NearnessConfig(tuple(self.settings.nearness_channels))
            self.network = NearnessNetwork(config).to(self.device).train()
        self.modules["nearness"] = self.network
        first = self.settings.first_world
        height, width = self.config.data.height, self.config.data.width
        assert height is not None and width is not None, "checked before"
        self.views: list[views.View] = []
        worlds = range(first, first + self.settings.worlds)
        for world in tqdm(worlds, desc="views", unit="world", disable=not processes.is_main, mininterval=2.0):
            self.views += views.draw(world, self.settings.views_per_world, height // 2, width // 2)

    def __len__(self) -> int:
        return len(self.views)

    def load(self, draws: list[Draw]) -> dict[str, Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1], elevation and nearness [B, 1, H/2, W/2]."""
        pictures, elevations, nearnesses = zip(*(self._sample(draw) for draw in draws), strict=True)
        return {
            "picture": torch.from_numpy(np.stack(pictures)),
            "elevation": torch.from_numpy(np.stack(elevations)),
            "nearness": torch.from_numpy(np.stack(nearnesses)),
        }

    def _sample(self, draw: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One view, mirrored and softened by chance, as drawn pictures are soft."""
        rng = np.random.default_rng(derive_seed(draw.seed, draw.stage, draw.position, "view"))
        view = self.views[draw.index]
        picture = view.frame.astype(np.float32) / 127.5 - 1
        sigma = rng.uniform(0, 1.0)
        if sigma > 0.4:
            picture = cv2.GaussianBlur(picture, (0, 0), sigma)
        picture = picture + rng.normal(0, 0.02, (1, 1, 3)).astype(np.float32)
        elevation, nearness = view.elevation, np.maximum(view.nearness.astype(np.float32), FAR)
        if rng.random() < 0.5:
            picture, nearness = picture[:, ::-1], nearness[:, ::-1]
        twice = np.repeat(np.repeat(picture, 2, 0), 2, 1)  # the network halves what it is shown
        return np.ascontiguousarray(twice.transpose(2, 0, 1)), elevation[None], np.ascontiguousarray(nearness)[None]

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        """Error of the logarithm, where nearness moves anything."""
        nearness = self.network(batch["picture"], batch["elevation"])
        true = batch["nearness"]
        weight = true / (true + BARELY)
        error = (nearness.log() - true.log()).abs() * weight
        loss = error.mean(dim=(1, 2, 3)) / weight.mean(dim=(1, 2, 3))
        return StepLoss(loss)

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: {name.removeprefix("nearness."): value for name, value in weights.items()}}

    def export_config(self) -> tuple[str, dict[str, Any]]:
        return CONFIG, {"channels": list(self.network.config.channels), "stage": self.name}

    def export_model_dir(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write weights and configuration, as `wanact.models.nearness.load_nearness` reads them."""
        network = NearnessNetwork(self.network.config)
        network.load_state_dict(self.export(weights)[WEIGHTS])
        network.save(folder)
