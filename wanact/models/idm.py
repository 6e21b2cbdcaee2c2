"""Inverse dynamics: which actions lie between two latent frames, read from their pixels by a small network.

It was trained on the simulator alone, and so knows that world's scale: it reads translation in the units of a track,
which optical flow cannot. On other pictures it is a guess; it stands beside optical flow, never in its place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wanact.actions import FULL_DEFLECTION, ActionTrack
from wanact.errors import UserError
from wanact.shapes import TEMPORAL_STRIDE, num_actions

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "idm"
WEIGHTS, CONFIG = "idm.safetensors", "config.json"
FRAMES = TEMPORAL_STRIDE + 1  # of one latent frame, and the last of the one before
AXES = 4
# Ahead, right, yaw right, pitch up at full deflection: the network answers in these units.
FULL = tuple(FULL_DEFLECTION[i] for i in (0, 2, 4, 6))
MAX_BYTES = 16 * 2**20


class IDMError(UserError):
    """An inverse dynamics model that cannot be used; the message names the file."""


@dataclass(frozen=True)
class IDMConfig:
    """Size of the network.

    Attributes:
        height, width: to which frames are brought, in pixels, multiples of 16.
        channels: of the four convolutions that bring the picture to a sixteenth.
        hidden: width of the layer before the answer.
    """

    height: int = 96
    width: int = 160
    channels: tuple[int, ...] = (24, 40, 64, 80)
    hidden: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if len(self.channels) != 4 or min(*self.channels, self.hidden) < 1:
            raise UserError(f"channels={self.channels} and hidden={self.hidden} must be four numbers and one above 0")
        if self.height % 16 or self.width % 16 or min(self.height, self.width) < 16:
            raise UserError(f"{self.width} x {self.height} must be multiples of 16")


class InverseDynamics(nn.Module):
    """Five grey frames -> ahead, right, yaw right, pitch up, each as a share of its full deflection."""

    def __init__(self, config: IDMConfig | None = None):
        super().__init__()
        self.config = config = config or IDMConfig()
        layers: list[nn.Module] = []
        wide = FRAMES + 5 * (FRAMES - 1)  # frames, and five features of each pair of neighbours
        for i, channels in enumerate(config.channels):
            size, stride = ((7, 4), (5, 2), (3, 2), (3, 1))[i]
            layers += [nn.Conv2d(wide, channels, size, stride, size // 2), nn.GroupNorm(8, channels), nn.SiLU()]
            wide = channels
        # The place in the picture tells translation from rotation, so it is not averaged away.
        layers += [nn.Conv2d(wide, wide, 3, 1, 1), nn.GroupNorm(8, wide), nn.SiLU(), nn.Conv2d(wide, 24, 1), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        cells = (config.height // 16) * (config.width // 16)
        self.head = nn.Sequential(nn.Linear(24 * cells, config.hidden), nn.SiLU(), nn.Linear(config.hidden, AXES))

    def forward(self, grey: Tensor) -> Tensor:
        """Axes [B, 4] of grey frames [B, 5, height, width] in 0..1."""
        mean, deviation = grey.mean((1, 2, 3), keepdim=True), grey.std((1, 2, 3), keepdim=True)
        grey = (grey - mean) / (deviation + 0.02)
        features = self.features(torch.cat([grey, pair_features(grey)], dim=1))
        return self.head(features.flatten(1))

    @torch.no_grad()
    def read(self, frames: np.ndarray) -> np.ndarray:
        """The axes of each latent frame after the first, [N, 4]: ahead, right, yaw right, pitch up in units of a track.

        Args:
            frames: uint8 [F, H, W, 3] with F = 4k+1, k >= 1.
        """
        windows = latent_windows(grey_frames(frames, self.config.height, self.config.width))
        parameter = next(self.parameters())
        answer = self(torch.from_numpy(windows).to(parameter.device, parameter.dtype)).float().cpu().numpy()
        return answer.astype(np.float64) * np.array(FULL)

    def save(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        """Write weights and configuration; `notes` go into the configuration's file."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps({"idm": asdict(self.config)} | (notes or {}), indent=2) + "\n")


def pair_features(grey: Tensor) -> Tensor:
    """Change in time, its products with the slopes across and down, and their squares, [B, 5 (F - 1), H, W].

    Which way a texture moves is in the product of how it changes and how it slopes (Lucas & Kanade 1981). A network
    given the frames alone learned in five minutes what moves up and down, where sky above ground tells it, and nothing
    of what moves sideways.
    """
    change = grey.diff(dim=1)
    middle = (grey[:, 1:] + grey[:, :-1]) / 2
    across = F.pad(middle[..., 2:] - middle[..., :-2], (1, 1)) / 2
    down = F.pad(middle[..., 2:, :] - middle[..., :-2, :], (0, 0, 1, 1)) / 2
    return torch.cat([4 * change, 16 * change * across, 16 * change * down, 8 * across**2, 8 * down**2], dim=1)


def load_idm(folder: Path = FOLDER) -> InverseDynamics | None:
    """The inverse dynamics model of a folder; None if there is none.

    Raises:
        IDMError: if it is damaged.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        return None
    try:
        if (folder / WEIGHTS).stat().st_size > MAX_BYTES:
            raise IDMError(f"{folder / WEIGHTS} is larger than {MAX_BYTES >> 20} MB; it is no inverse dynamics model")
        model = InverseDynamics(IDMConfig(**json.loads((folder / CONFIG).read_text())["idm"]))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise IDMError(f"the inverse dynamics model in {folder} is damaged: {str(error).splitlines()[0]}") from error
    return model.eval()


def grey_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames as the network takes them, float32 [F, height, width] in 0..1."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    if grey[0].shape != (height, width):
        grey = [cv2.resize(g, (width, height), interpolation=cv2.INTER_AREA) for g in grey]
    return np.stack(grey).astype(np.float32) / 255


def latent_windows(grey: np.ndarray) -> np.ndarray:
    """The five frames of each latent frame after the first, [N, 5, H, W]."""
    return np.stack([grey[TEMPORAL_STRIDE * i :][:FRAMES] for i in range(num_actions(len(grey)))])


def signed_axes(track: ActionTrack) -> np.ndarray:
    """A track as the network answers, [N, 4]: signed, in full deflections."""
    return (track.axes / np.array(FULL)).astype(np.float32)


def loss_of(answer: Tensor, target: Tensor) -> Tensor:
    """Huber's error of each sample, [B]: outliers are flights into a hillside."""
    return F.smooth_l1_loss(answer, target, beta=0.3, reduction="none").mean(dim=1)
