"""Pictures that a flight has seen, and where: what was seen before is not made up anew.

What comes into view from the side, or after turning back, may have been seen a while ago. The last picture does not
show it, an earlier one may: the one that shows most of it, from not too far away, is moved to where the camera is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanact.flying.viewpoint import View, way_to
from wanact.models.nearness import usual_nearness

EVERY = 3  # latent frames between two pictures
MOST = 64  # pictures of a flight that are kept: its first, and the newest
WORTH = 0.25  # of what is missing: a picture that shows less does not help
TOO_FAR = 0.6  # clip paths: from so far away, things look different


class Album:
    """Pictures of flights side by side."""

    def __init__(self):
        self._pictures: list[Tensor] = []  # uint8 [B, 3, H, W]
        self._places: list[Tensor] = []  # [B, 4]

    def __len__(self) -> int:
        return len(self._places)

    def keep(self, picture: Tensor, place: Tensor) -> None:
        """Take a picture [B, 3, H, W] in [-1, 1] from a place [B, 4]; a full one drops its oldest but the first."""
        if len(self) == MOST:
            del self._pictures[1], self._places[1]
        self._pictures.append(((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
        self._places.append(place)

    def find(self, place: Tensor, missing: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor] | None:
        """The picture that shows most of what is missing.

        Args:
            place: of the camera, [B, 4].
            missing: share of each cell of its picture that is, [B, h, w].
            view: its picture.

        Returns:
            Pictures [B, 3, H, W] and their places [B, 4], and for which flights they are worth it, bool [B]; None where
            they are for none.
        """
        if not self._places:
            return None
        places = torch.stack(self._places, dim=1)  # [B, M, 4]
        height, width = missing.shape[1:]
        x = (torch.arange(width, device=missing.device) + 0.5) * view.width / width
        y = (torch.arange(height, device=missing.device) + 0.5) * view.height / height
        ray = view.rays(x, y, place[:, 3:])  # of the camera, [B, 1, h, w]
        way = -way_to(place, places)  # from each picture's place to the camera, in the camera's frame
        ray = ray.moved(-way, usual_nearness(ray.elevation())).turned(places[..., 2] - place[:, None, 2])
        there = view.places(ray, places[..., 3])
        inside = (there.abs().amax(2) < 0.97) & (ray.along > 0.05)
        shown = (inside * missing[:, None]).sum((2, 3)) / missing.sum((1, 2))[:, None].clamp_min(1e-6)
        distance = way.square().sum(-1).sqrt()
        score = torch.where(distance < TOO_FAR, shown - 0.5 * distance / TOO_FAR, shown.new_tensor(-1.0))
        best = score.argmax(dim=1)
        row = torch.arange(len(place), device=place.device)
        fits = (shown[row, best] > WORTH) & (score[row, best] > 0)
        if not fits.any():
            return None
        pictures = torch.stack([self._pictures[int(best[b])][b] for b in range(len(place))])
        return pictures.to(place.device).float() / 127.5 - 1, places[row, best], fits
