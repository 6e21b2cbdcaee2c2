"""A first guess of the next latent frame: the last picture, as it is seen from where the action leads.

Drawn from noise alone, what was seen a moment ago has to be drawn anew in every latent frame, and a small network
loses a little of it each time. A flight with drafts begins between the two instead: a little noise is added to the
draft, all of it where the draft knows nothing because it lay outside of the last picture, and the network moves that to
what is really there (a flow whose ends are coupled: Albergo et al. 2023, arXiv:2310.03725; pictures moved by a camera
and mended by a video model: ViewCrafter, Yu et al. 2024, arXiv:2409.02048).

Turns are exact: a pinhole camera turns every pixel alike. For what moves ahead or sideways the distance of what is seen
is taken from how far below the horizon it lies, which is right over open ground and wrong for what stands on it: that,
and what comes into view, is the network's part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact.actions import NEGATIVE, POSITIVE
from wanact.errors import UserError
from wanact.models import vae as vae_ops
from wanact.shapes import TEMPORAL_STRIDE

# How near what is seen is, in 1 / clip path, by its elevation over the horizon from LOWEST_DEG on: the mean over
# flights of the simulator's worlds. Far above there is the sky; below the lowest, what lies under the drone.
LOWEST_DEG, STEP_DEG = -50.0, 5.0
NODES = 40  # across a picture, at which it is reckoned where pixels come from
NEARNESS = (5.37, 3.95, 3.10, 2.04, 1.63, 1.35, 1.12, 0.85, 0.64, 0.38, 0.13, 0.06, 0.04, 0.03, 0.03)


@dataclass(frozen=True)
class DraftSettings:
    """How a flight's latent frames are drafted; `draft` in what a run says of its flights.

    Attributes:
        noise: deviation of the noise on a draft, in the units of latents; 1 where the draft knows nothing.
        field_of_view_deg: of the camera, across.
        pitch_deg: of the camera in the first frame, which nobody tells.
        pitch_limits_deg: at which the camera stops.

    Raises:
        ValueError: for settings that cannot be flown.
    """

    noise: float = 0.1
    field_of_view_deg: float = 75.0
    pitch_deg: float = -8.0
    pitch_limits_deg: tuple[float, float] = (-38.0, 16.0)

    def __post_init__(self) -> None:
        bounds = {"noise": (0.0, 1.0), "field_of_view_deg": (10.0, 150.0), "pitch_deg": (-80.0, 80.0)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= most:
                raise UserError(f"draft: {name} is {str(value)[:20]}, expected a number from {least:g} to {most:g}")
        limits = self.pitch_limits_deg
        is_pair = isinstance(limits, (list, tuple)) and len(limits) == 2
        if not (is_pair and all(type(x) in (int, float) for x in limits)):
            raise UserError(f"draft: pitch_limits_deg is {str(limits)[:20]}, expected two numbers of degrees")
        if not -80 <= limits[0] < limits[1] <= 80:
            raise UserError(f"draft: pitch_limits_deg is {str(limits)[:20]}, expected -80 to 80, the lower one first")
        object.__setattr__(self, "pitch_limits_deg", tuple(map(float, limits)))


class Draft(NamedTuple):
    """A guess of a latent frame [B, C, 1, h, w], and the deviation of the noise that belongs on it [B, 1, 1, h, w]."""

    latent: Tensor
    noise: Tensor

    def under(self, noise: Tensor) -> Tensor:
        """What the latent frame is drawn from: the guess under this standard noise."""
        return self.latent + self.noise * noise


class Drafter:
    """Drafts the latent frames of flights side by side.

    Args:
        vae: an autoencoder whose latent frames stand alone.
        settings: noise and camera.
        magnitude_scale: what the channels' magnitudes were multiplied by before they came here, [8].

    Raises:
        UserError: if a latent frame of this autoencoder depends on those before it.
    """

    def __init__(self, vae: Any, settings: DraftSettings, magnitude_scale: Sequence[float]):
        if not vae_ops.frames_stand_alone(vae):
            raise UserError(f"latent frames of {type(vae).__name__} depend on those before them: none can be drafted")
        self.vae, self.settings = vae, settings
        self._factor = torch.tensor([1 / scale if scale else 0.0 for scale in magnitude_scale])

    def level(self, count: int, device: torch.device | str) -> Tensor:
        """The camera's pitch before anything is flown, in degrees, [count]."""
        return torch.full((count,), float(self.settings.pitch_deg), device=device)

    def pitched(self, pitch: Tensor, magnitude: Tensor) -> Tensor:
        """The camera's pitch [B] after actions, one each, whose scaled magnitudes are [B or 1, 1, 8]."""
        return self._pitched(pitch, self._axes(magnitude)[:, 3])

    def _pitched(self, pitch: Tensor, turn: Tensor) -> Tensor:
        return (pitch + turn).clamp(*self.settings.pitch_limits_deg)

    def _axes(self, magnitude: Tensor) -> Tensor:
        """Ahead and right in clip paths, yaw to the right and pitch upwards in degrees, [B, 4]."""
        m = magnitude[:, 0].float() * self._factor.to(magnitude.device)
        return m[:, POSITIVE] - m[:, NEGATIVE]

    @torch.no_grad()
    def __call__(self, latent: Tensor, magnitude: Tensor, pitch: Tensor) -> Draft:
        """The latent frame that follows, as far as the camera tells.

        Args:
            latent: the one before, [B, C, 1, h, w].
            magnitude: of the action that leads on, scaled, [B or 1, 1, 8].
            pitch: of the camera in the last picture, in degrees, [B].

        Returns:
            Float32 and like `latent`, but that the noise is the same for all channels.
        """
        dtype = next(self.vae.parameters()).dtype
        picture = vae_ops.last_picture(self.vae, latent.to(dtype)).float()
        grid = self._places(self._axes(magnitude).expand(len(latent), -1), pitch, picture.shape[2:])
        seen = F.grid_sample(
            picture.repeat_interleave(TEMPORAL_STRIDE, dim=0), grid, "bicubic", "border", align_corners=False
        ).clamp(-1, 1)
        video = seen.unflatten(0, (len(latent), TEMPORAL_STRIDE)).transpose(1, 2)  # [B, 3, 4, H, W]
        outside = (grid.abs().amax(-1) > 1).float().unflatten(0, (len(latent), TEMPORAL_STRIDE)).mean(1, keepdim=True)
        unknown = F.adaptive_max_pool2d(F.avg_pool2d(outside, 8), latent.shape[3:])[:, :, None]
        noise = self.settings.noise + (1 - self.settings.noise) * unknown
        return Draft(vae_ops.encode_alone(self.vae, video.to(dtype)).float(), noise)

    def _places(self, axes: Tensor, pitch: Tensor, size: Sequence[int]) -> Tensor:
        """Where each pixel of the next four frames lies in the last one, as `grid_sample` takes it, [4B, H, W, 2]."""
        height, width = size
        device = axes.device
        share = torch.arange(1, TEMPORAL_STRIDE + 1, device=device) / TEMPORAL_STRIDE
        level = torch.cos(torch.deg2rad(pitch)).clamp_min(0.2)  # what was flown is told as the tilted camera saw it
        ahead, right = (axes[:, :1] / level[:, None]) * share, axes[:, 1:2] * share
        yaw = torch.deg2rad(axes[:, 2:3] / level[:, None]) * share
        before = torch.deg2rad(pitch)[:, None].expand_as(yaw)
        after = torch.deg2rad(self._pitched(pitch, axes[:, 3]))[:, None]
        after = before + (after - before) * share
        focal = width / 2 / math.tan(math.radians(self.settings.field_of_view_deg / 2))
        apart = max(1, width // NODES)  # places change slowly across a picture: a few are reckoned, the rest between
        u = (torch.arange(0, width + apart, apart, device=device) + 0.5 - width / 2) / focal
        v = (torch.arange(0, height + apart, apart, device=device) + 0.5 - height / 2) / focal
        right_of, down_of = u[None, None, None, :], v[None, None, :, None]

        def turned(pitch: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cos(pitch)[..., None, None], torch.sin(pitch)[..., None, None]

        # Along the ground and down from the horizon, ray by ray: first as the tilted camera looks, then turned.
        cos, sin = turned(after)
        away, down = cos + sin * down_of, cos * down_of - sin
        length = torch.sqrt(away**2 + down**2 + right_of**2)
        near = self._nearness(torch.rad2deg(torch.asin((-down / length).clamp(-1, 1)))) * length
        cos, sin = turned(yaw)
        along, across = away * cos - right_of * sin, away * sin + right_of * cos
        middle = yaw / 2  # the way is flown while it turns
        step_along = ahead * torch.cos(middle) - right * torch.sin(middle)
        step_across = ahead * torch.sin(middle) + right * torch.cos(middle)
        along, across = along + step_along[..., None, None] * near, across + step_across[..., None, None] * near
        cos, sin = turned(before)
        depth = (along * cos - down * sin).clamp_min(1e-3)
        x, y = across / depth, (along * sin + down * cos) / depth
        nodes = torch.stack([x * focal * 2 / width, y.expand_as(x) * focal * 2 / height], dim=2).flatten(0, 1)
        between = [apart * (count - 1) + 1 for count in nodes.shape[2:]]
        grid = F.interpolate(nodes, between, mode="bilinear", align_corners=True)
        return grid[..., :height, :width].permute(0, 2, 3, 1)

    def _nearness(self, elevation: Tensor) -> Tensor:
        """1 / distance, in clip paths, of what is seen at an elevation in degrees."""
        table = torch.tensor(NEARNESS, device=elevation.device)
        place = ((elevation - LOWEST_DEG) / STEP_DEG).clamp(0, len(NEARNESS) - 1.001)
        index = place.long()
        return torch.lerp(table[index], table[index + 1], place - index)
