"""The inverse dynamics model with a mask: what acts is found by reading the action from as little as possible.

Of a drone (`--action_dim` 4 or 8) a sample is the five frames of a latent frame and its action, from any dataset with
actions. Of anything else, two arms with their 14 joints, it is one frame and where the joints stand in it, from
episodes whose actions are states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data import csv
from train.loop.config import ConfigError, TrainConfig, flag, require
from train.loop.dist import Processes
from train.loop.seeding import Draw, derive_seed
from train.loop.stage import Stage, StepLoss
from train.stages.i2v import seeded
from train.stages.idm import disturbed
from train.stages.rows import CLIP_SETTINGS, RowReader, files_fingerprint
from wanact.actions import FULL_DEFLECTION, NUM_CHANNELS, ActionTrack
from wanact.data import episodes
from wanact.models.idm import AXES, CONFIG, WEIGHTS
from wanact.models.masked_idm import (
    PRESETS,
    SECTION,
    MaskedIDMConfig,
    MaskedInverseDynamics,
    huber_and_mask,
    preset,
    resized,
)
from wanact.shapes import TEMPORAL_STRIDE

LEAST_STD = 1e-6  # of a number that never changes: it counts as it is
_FORWARD = [0, 2, 4, 6]  # a channel of each axis


@dataclass
class IDMMaskOptions:
    """The network, and what its mask costs."""

    _argument_group_name = "idm_mask"

    idm_network: str = flag(default="small", help=f"size: {', '.join(PRESETS)}; vidar is that of the released idm.pt")
    action_dim: int = flag(default=14, help="14 joints of two arms, or any others; 8 channels or 4 axes of a drone")
    idm_height: int | None = flag(default=None, help="pixels that the network sees; the size's own if not given")
    idm_width: int | None = flag(default=None, help="pixels that the network sees; the size's own if not given")
    mask_weight: float = flag(default=3e-3, help="of the mask's mean in the loss")
    windows_per_clip: int = flag(default=4, help="pictures or latent frames that a sample takes from its clip")
    disturb: float = flag(default=0.7, help="share of them that are blurred, shaded and grained")

    def __post_init__(self) -> None:
        if self.idm_network not in PRESETS:
            raise ConfigError(f"--idm_network {self.idm_network!r} is unknown; choose from {', '.join(PRESETS)}")
        for name in ("action_dim", "windows_per_clip"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} must be at least 1")
        if self.mask_weight < 0:
            raise ConfigError(f"--mask_weight {self.mask_weight:g} must not be negative")
        if not 0 <= self.disturb <= 1:
            raise ConfigError(f"--disturb {self.disturb:g} must be at least 0 and at most 1")
        try:
            self.network()
        except ValueError as error:
            raise ConfigError(f"--idm_height, --idm_width: {error}") from error

    def network(self) -> MaskedIDMConfig:
        """The network that these options mean."""
        named = preset(self.idm_network, self.action_dim)
        return replace(named, height=self.idm_height or named.height, width=self.idm_width or named.width)

    @property
    def of_a_drone(self) -> bool:
        return self.action_dim in (AXES, NUM_CHANNELS)


class IDMMaskStage(Stage):
    """Train an inverse dynamics model with a mask."""

    name = "idm_mask"
    options = IDMMaskOptions
    uses = (*CLIP_SETTINGS, "max_skipped", "cache_memory_gb")

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        require(config, "dataset_metadata_path", "output_path", "height", "width", "num_frames")

    def setup(self, processes: Processes) -> None:
        self.processes = processes
        self.settings: IDMMaskOptions = self.config.stage
        with seeded(self.config.optim.seed, "idm_mask"):
            self.network = MaskedInverseDynamics(self.settings.network()).to(self.device).train()
        self.modules["idm"] = self.network
        self._read_clips(processes)
        mean, std = self._statistics()
        self.network.train_mean.copy_(torch.as_tensor(mean))
        self.network.train_std.copy_(torch.as_tensor(np.where(std < LEAST_STD, 1, std)))

    def _read_clips(self, processes: Processes) -> None:
        """Every clip is read once, so that what cannot be used is named now; as many are kept as memory may hold."""
        drone = self.settings.of_a_drone
        room = self.config.data.cache_memory_gb * 2**30
        self._held: dict[int, np.ndarray] = {}
        self.rows: list[csv.Row] = []

        def load(row: csv.Row, mirrored: bool) -> np.ndarray:
            if not drone:
                states_of(row, np.arange(self.config.data.clip_shape()[0]), self.settings.action_dim)
            return self._pictures(row)

        def keep(row: csv.Row, clip: np.ndarray) -> csv.Row:
            nonlocal room
            if (room := room - clip.nbytes) >= 0:
                self._held[len(self.rows)] = clip
            self.rows.append(row)
            return row

        RowReader(self.config, processes, self.config.data.clip_shape()[0], needs_actions=drone).read(load, keep)

    def _pictures(self, row: csv.Row) -> np.ndarray:
        """A clip as the network sees it: fitted as clips are for training, and then squeezed, uint8 [F, H, W, 3]."""
        data, network = self.config.data, self.network.config
        num_frames, height, width = data.clip_shape()
        return resized(
            csv.clip_frames(row, num_frames, height, width, data.fit, data.fps), network.height, network.width
        )

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of what is read; of a drone's controls nothing and full deflection, whatever the data."""
        if self.settings.action_dim == NUM_CHANNELS:
            return np.zeros(NUM_CHANNELS), np.array(FULL_DEFLECTION)
        if self.settings.action_dim == AXES:
            return np.zeros(AXES), np.array(FULL_DEFLECTION)[_FORWARD]
        measured = episodes.statistics(episodes.Manifest(Path(self.config.data.dataset_metadata_path)))
        return np.array(measured.mean), np.array(measured.std)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def data_fingerprint(self) -> str:
        return files_fingerprint(self.rows)

    def buffers(self) -> dict[str, Tensor]:
        return {f"idm.{name}": value for name, value in self.network.named_buffers()}

    # Steps

    def load(self, draws: list[Draw]) -> dict[str, Tensor]:
        """Pictures [B, n, k, H, W, 3] in 0..1 and what is to be read from them, [B, n, action_dim]."""
        pictures, targets = zip(*(self._sample(draw) for draw in draws), strict=True)
        return {"pictures": torch.from_numpy(np.stack(pictures)), "targets": torch.from_numpy(np.stack(targets))}

    def _sample(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(derive_seed(draw.seed, draw.stage, draw.position, "windows"))
        row, clip = self.rows[draw.index], self._held.get(draw.index)
        clip = self._pictures(row) if clip is None else clip
        starts = np.array(self.network.window_starts(len(clip)))
        chosen = rng.integers(0, len(starts), self.settings.windows_per_clip)
        frames = self.network.config.frames
        windows = [clip[start : start + frames].astype(np.float32) / 255 for start in starts[chosen]]
        if self.settings.of_a_drone:
            assert row.track is not None, "rows were asked for actions"
            pairs = [self._flown(w, row.track.axes[i], rng) for w, i in zip(windows, chosen, strict=True)]
        else:
            states = states_of(row, starts[chosen], self.settings.action_dim)
            pairs = [(self._disturbed(w, rng), state) for w, state in zip(windows, states, strict=True)]
        return np.stack([window for window, _ in pairs]), np.stack([target for _, target in pairs])

    def _flown(self, window: np.ndarray, axes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One window, mirrored and run backwards by chance; both are flights as good as the clip's own."""
        if rng.random() < 0.5:
            window, axes = window[:, :, ::-1], axes * np.array([1, -1, -1, 1], np.float32)
        if rng.random() < 0.5:
            window, axes = window[::-1], -axes
        return self._disturbed(np.ascontiguousarray(window), rng), _controls(axes[None], self.settings.action_dim)[0]

    def _disturbed(self, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.settings.disturb:
            return window
        flat = window.transpose(0, 3, 1, 2).reshape(-1, *window.shape[1:3])  # every colour of every frame as a picture
        return disturbed(flat, rng).reshape(len(window), 3, *window.shape[1:3]).transpose(0, 2, 3, 1)

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        """Equation 4 for each clip: the error of its windows in deviations of the data, and the mean of their masks."""
        pictures, targets = batch["pictures"].flatten(0, 1), batch["targets"].flatten(0, 1)
        answer, mask = self.network(self.network.as_input(pictures))
        std = self.network.train_std
        loss = huber_and_mask(answer.float(), targets, mask, std, self.settings.mask_weight)
        error = ((answer.detach().float() - targets) / std).abs().mean()
        return StepLoss(
            loss.view(batch["targets"].shape[:2]).mean(dim=1),
            {"mean_error": error, "mask_mean": mask.detach().float().mean()},
        )

    # Results

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: {name.removeprefix("idm."): value for name, value in weights.items()}}

    def export_config(self) -> tuple[str, dict[str, Any]]:
        return CONFIG, {SECTION: self.network.config.to_dict(), "stage": self.name}

    def export_model_dir(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write configuration and weights, and `idm.pt` as Vidar's code reads it."""
        network = MaskedInverseDynamics(self.network.config)
        network.load_state_dict(self.export(self.buffers() | weights)[WEIGHTS])
        network.save(folder)


def states_of(row: csv.Row, frames: np.ndarray, action_dim: int) -> np.ndarray:
    """Where the joints stand at frames of a clip, float32 [len, action_dim].

    Raises:
        RowError: if the row has none, or another number of them.
    """
    if row.states is None:
        raise csv.RowError(
            f"a table holds the controls of a drone; --action_dim {action_dim} needs a manifest of episodes, or choose "
            "8 or 4"
        )
    states = row.states(row.start + frames)
    if states.shape[1] != action_dim:
        raise csv.RowError(f"it has {states.shape[1]} numbers a frame, not --action_dim {action_dim}")
    return states


def targets_of(row: csv.Row, starts: np.ndarray, action_dim: int) -> np.ndarray:
    """What is to be read from a clip where it is seen from these frames on, float32 [len, action_dim]."""
    if action_dim not in (AXES, NUM_CHANNELS):
        return states_of(row, starts, action_dim)
    assert row.track is not None, "rows of a drone are asked for actions"
    return _controls(row.track.axes[starts // TEMPORAL_STRIDE], action_dim)


def _controls(axes: np.ndarray, action_dim: int) -> np.ndarray:
    return (axes if action_dim == AXES else ActionTrack.from_axes(axes).magnitude).astype(np.float32)
