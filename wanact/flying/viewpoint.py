"""A pinhole camera over the ground: where it stands, and where in its picture things lie.

A place is x, y in clip paths, yaw to the right and pitch upwards in degrees, [..., 4], on from where a flight began.
How high the camera is nobody tells: it is taken to stay the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Ray(NamedTuple):
    """Directions in the level frame of a camera's heading: along it, across to the right, and down, [B, n, h, w]."""

    along: Tensor
    across: Tensor
    down: Tensor

    def moved(self, way: Tensor, near: Tensor) -> Ray:
        """To the same things from a place that lies `way` [B, n, 2] along and across from here.

        Args:
            near: 1 / how far they are, in clip paths.
        """
        along, across = way[..., :1, None], way[..., 1:, None]
        return Ray(self.along - along * near, self.across - across * near, self.down)

    def turned(self, yaw: Tensor) -> Ray:
        """The same directions in the frame of a camera that has turned right by `yaw` [B, n] degrees."""
        yaw = torch.deg2rad(yaw)[..., None, None]
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        return Ray(self.along * cos + self.across * sin, self.across * cos - self.along * sin, self.down)

    def folded(self, yaw: Tensor, side: float) -> Ray:
        """The same directions in the frame of a camera that has turned left by `yaw` [B, n] degrees, all turns counted,
        where those beyond `side` degrees to the right or left are mirrored there, as often as it takes."""
        level = torch.sqrt(self.along**2 + self.across**2)
        azimuth = torch.rad2deg(torch.atan2(self.across, self.along)) + yaw[..., None, None] + side
        azimuth = torch.remainder(azimuth, 4 * side)
        azimuth = torch.deg2rad(torch.where(azimuth > 2 * side, 4 * side - azimuth, azimuth) - side)
        return Ray(level * torch.cos(azimuth), level * torch.sin(azimuth), self.down.expand_as(level))

    def parted(self, side: float) -> tuple[Ray, Tensor]:
        """The same directions in the frames of cameras that stand side by side, each of which sees `side` degrees to
        the right and left: of the one that sees them; and how many of them it stands to the right, [B, n, h, w]."""
        level, azimuth = torch.sqrt(self.along**2 + self.across**2), torch.atan2(self.across, self.along)
        part = (torch.rad2deg(azimuth) / (2 * side)).round()
        azimuth = azimuth - torch.deg2rad(part * 2 * side)
        return Ray(level * torch.cos(azimuth), level * torch.sin(azimuth), self.down), part

    def at(self, places: Tensor) -> Ray:
        """Some of them [P], counted row by row, [B, n, 1, P]."""
        along, across, down = (x.flatten(2)[:, :, None, places] for x in torch.broadcast_tensors(*self))
        return Ray(along, across, down)

    def length(self) -> Tensor:
        return torch.sqrt(self.along**2 + self.across**2 + self.down**2)

    def elevation(self) -> Tensor:
        """Over the horizon, in degrees, of directions of length 1."""
        return torch.rad2deg(torch.asin((-self.down).clamp(-1, 1)))


class View:
    """A picture of a pinhole camera."""

    def __init__(self, width: int, height: int, field_of_view_deg: float):
        self.width, self.height = width, height
        self.focal = width / 2 / math.tan(math.radians(field_of_view_deg / 2))

    def rays(self, x: Tensor, y: Tensor, pitch: Tensor) -> Ray:
        """Of length 1, through pixels x [w] and y [h] of a camera that looks up by `pitch` [B, n] degrees."""
        right = ((x - self.width / 2) / self.focal)[None, None, None, :]
        below = ((y - self.height / 2) / self.focal)[None, None, :, None]
        cos, sin = _cos_sin(pitch)
        along, down = cos + sin * below, cos * below - sin
        length = torch.sqrt(along**2 + down**2 + right**2)
        return Ray(along / length, right / length, down / length)

    def places(self, ray: Ray, pitch: Tensor) -> Tensor:
        """Where rays pass through the picture, from -1 to 1 across and down, [B, n, 2, h, w]."""
        cos, sin = _cos_sin(pitch)
        depth = (ray.along * cos - ray.down * sin).clamp_min(1e-3)
        x, y = ray.across / depth, (ray.along * sin + ray.down * cos) / depth
        return torch.stack([x * self.focal * 2 / self.width, y.expand_as(x) * self.focal * 2 / self.height], dim=2)


def _cos_sin(degrees: Tensor) -> tuple[Tensor, Tensor]:
    angle = torch.deg2rad(degrees)[..., None, None]
    return torch.cos(angle), torch.sin(angle)


def flown(place: Tensor, axes: Tensor, shares: Tensor, pitch_limits_deg: tuple[float, float]) -> Tensor:
    """Places on the way of one action, [B, n, 4].

    Args:
        place: where it begins, [B, 4].
        axes: ahead and right in clip paths, yaw and pitch in degrees, as the tilted camera saw them, [B, 4].
        shares: of the action, [n].
        pitch_limits_deg: at which the camera stops.
    """
    x, y, heading, pitch = place.unbind(-1)
    level = torch.cos(torch.deg2rad(pitch)).clamp_min(0.2)
    ahead, right, yaw = axes[:, 0] / level, axes[:, 1], axes[:, 2] / level
    shares = shares[None]
    middle = torch.deg2rad(heading[:, None] + shares * yaw[:, None] / 2)  # the way is flown while it turns
    cos, sin = torch.cos(middle), torch.sin(middle)
    ahead, right = shares * ahead[:, None], shares * right[:, None]
    tilted = (pitch + axes[:, 3]).clamp(*pitch_limits_deg)
    return torch.stack(
        [
            x[:, None] + ahead * cos - right * sin,
            y[:, None] + ahead * sin + right * cos,
            heading[:, None] + shares * yaw[:, None],
            pitch[:, None] + shares * (tilted - pitch)[:, None],
        ],
        dim=-1,
    )


def way_to(place: Tensor, others: Tensor) -> Tensor:
    """How far other places [B, n, 4] lie along and across the heading of a place [B, 4], [B, n, 2] in clip paths."""
    x, y = (others[..., k] - place[:, None, k] for k in (0, 1))
    heading = torch.deg2rad(place[:, None, 2])
    cos, sin = torch.cos(heading), torch.sin(heading)
    return torch.stack([x * cos + y * sin, y * cos - x * sin], dim=-1)
