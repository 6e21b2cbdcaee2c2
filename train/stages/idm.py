"""The inverse dynamics model: from the five frames of a latent frame to the action that lies between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from train.data import csv
from train.loop.config import ConfigError, TrainConfig, flag, require
from train.loop.dist import Processes
from train.loop.seeding import Draw, derive_seed
from train.loop.stage import Stage, StepLoss
from train.stages.i2v import seeded
from train.stages.rows import CLIP_SETTINGS, RowReader, files_fingerprint
from wanact.actions import ActionTrack
from wanact.models.idm import (
    CONFIG,
    WEIGHTS,
    IDMConfig,
    InverseDynamics,
    grey_frames,
    latent_windows,
    loss_of,
    signed_axes,
)


@dataclass
class IDMOptions:
    """The network, and how its pictures are disturbed."""

    _argument_group_name = "idm"

    idm_channels: list[int] = flag(
        default_factory=lambda: [24, 40, 64, 80], help="of the four convolutions that bring the picture to a sixteenth"
    )
    idm_hidden: int = flag(default=128, help="width of the layer before the answer")
    windows_per_clip: int = flag(default=4, help="latent frames that a sample takes from its clip")
    disturb: float = flag(
        default=0.7, help="share of windows that are blurred, shaded and grained, as generated clips are"
    )

    def __post_init__(self) -> None:
        if self.windows_per_clip < 1:
            raise ConfigError(f"--windows_per_clip {self.windows_per_clip} must be at least 1")
        if not 0 <= self.disturb <= 1:
            raise ConfigError(f"--disturb {self.disturb:g} must be at least 0 and at most 1")


class IDMStage(Stage):
    """Train an inverse dynamics model on clips whose actions are known."""

    name = "idm"
    options = IDMOptions
    uses = (*CLIP_SETTINGS, "max_skipped")

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        require(config, "dataset_metadata_path", "output_path", "height", "width", "num_frames")
        try:
            cls._network_config(config)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @staticmethod
    def _network_config(config: TrainConfig) -> IDMConfig:
        options: IDMOptions = config.stage
        _, height, width = config.data.clip_shape()
        return IDMConfig(height, width, tuple(options.idm_channels), options.idm_hidden)

    def setup(self, processes: Processes) -> None:
        self.processes = processes
        self.settings: IDMOptions = self.config.stage
        with seeded(self.config.optim.seed, "idm"):
            self.network = InverseDynamics(self._network_config(self.config)).to(self.device).train()
        self.modules["idm"] = self.network
        self.clips, self.targets, self.rows = read_clips(self.config, processes)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def data_fingerprint(self) -> str:
        return files_fingerprint(self.rows)

    def load(self, draws: list[Draw]) -> dict[str, Tensor]:
        """Windows [B, n, 5, H, W] in 0..1 and what lies between their frames, [B, n, 4]."""
        windows, targets = zip(*(self._sample(draw) for draw in draws), strict=True)
        return {"windows": torch.from_numpy(np.stack(windows)), "targets": torch.from_numpy(np.stack(targets))}

    def _sample(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(derive_seed(draw.seed, draw.stage, draw.position, "windows"))
        windows = latent_windows(self.clips[draw.index])
        chosen = rng.integers(0, len(windows), self.settings.windows_per_clip)
        pairs = [self._window(windows[i], self.targets[draw.index][i], rng) for i in chosen]
        return np.stack([window for window, _ in pairs]), np.stack([target for _, target in pairs])

    def _window(
        self, window: np.ndarray, target: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One window, mirrored and run backwards by chance; both are flights as good as the clip's own."""
        window = window.astype(np.float32) / 255
        if rng.random() < 0.5:
            window, target = window[:, :, ::-1], target * np.array([1, -1, -1, 1], np.float32)
        if rng.random() < 0.5:
            window, target = window[::-1], -target
        if rng.random() < self.settings.disturb:
            window = disturbed(window, rng)
        return np.ascontiguousarray(window), target.astype(np.float32)

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        """Error of each clip's windows, in full deflections."""
        windows, targets = batch["windows"], batch["targets"]
        answer = self.network(windows.flatten(0, 1)).float()
        loss = loss_of(answer, targets.flatten(0, 1)).view(targets.shape[:2]).mean(dim=1)
        return StepLoss(loss, {"mean_error": (answer.detach() - targets.flatten(0, 1)).abs().mean()})

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: {name.removeprefix("idm."): value for name, value in weights.items()}}

    def export_config(self) -> tuple[str, dict[str, Any]]:
        return CONFIG, {"idm": asdict(self.network.config), "stage": self.name}

    def export_model_dir(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write weights and configuration, as `wanact.models.idm.load_idm` reads them."""
        network = InverseDynamics(self.network.config)
        network.load_state_dict(self.export(weights)[WEIGHTS])
        network.save(folder)


def read_clips(config: TrainConfig, processes: Processes) -> tuple[list[np.ndarray], list[np.ndarray], list[csv.Row]]:
    """Grey frames uint8 [F, H, W] and axes [N, 4] of every row that can be used; the others go to skipped.csv."""
    num_frames, height, width = config.data.clip_shape()

    def load(row: csv.Row, mirrored: bool) -> np.ndarray:
        frames = csv.clip_frames(row, num_frames, height, width, config.data.fit, config.data.fps)
        return np.rint(255 * grey_frames(frames, height, width)).astype(np.uint8)

    kept = RowReader(config, processes, num_frames, needs_actions=True).read(load, lambda *both: both)
    rows, clips = [row for row, _ in kept], [clip for _, clip in kept]
    tracks: list[ActionTrack] = [row.track for row in rows if row.track is not None]
    return clips, [signed_axes(track) for track in tracks], rows


def disturbed(window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window as a generated clip might show it: softer, in other light that changes, and grained."""
    sigma = rng.uniform(0, 1.6)
    if sigma > 0.3:
        window = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in window])
    contrast, light = rng.uniform(0.6, 1.4), rng.uniform(-0.15, 0.15)
    change = np.linspace(-1, 1, len(window), dtype=np.float32)[:, None, None] * rng.normal(0, 0.02)
    window = (window - 0.5) * contrast + 0.5 + light + change
    grain = rng.normal(0, rng.uniform(0, 0.02), window.shape)
    return np.clip(window + grain, 0, 1).astype(np.float32)
