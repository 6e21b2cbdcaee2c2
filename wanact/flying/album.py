"""Pictures that a flight has seen, and where: what was seen before is not made up anew.

What comes into view from the side, or after turning back, may have been seen a while ago. The last picture does not
show it, an earlier one may: the one that shows most of it, from not too far away, is moved to where the camera is.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from wanact.flying.sight import Look, Sight
from wanact.flying.viewpoint import View, way_to
from wanact.models.nearness import usual_nearness

EVERY = 3  # latent frames between two pictures
MOST = 64  # pictures of a flight that are kept: its first, and the newest
WORTH = 0.25  # of what is missing: a picture that shows less does not help
TOO_FAR = 0.6  # clip paths: from so far away, things look different


class _Kept:
    """A picture of flights side by side, in a quarter of its size.

    Args:
        picture: [B, 3, H, W] in [-1, 1].
        place: it was seen from, [B, 4].
        look: as a sight's.
    """

    def __init__(self, picture: Tensor, place: Tensor, look: Look | None):
        self._levels = ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        self.place, self._look = place, look

    @property
    def picture(self) -> Tensor:
        return self._levels.float() / 127.5 - 1

    @cached_property
    def near(self) -> Tensor:
        """[B, 1, H/2, W/2], looked at once."""
        assert self._look is not None, "who asks knows that somebody looks"
        return self._look(self.picture, self.place)


class Album:
    """Pictures of flights side by side.

    Args:
        look: says how near what they show is, as a sight's; None where nobody does.
    """

    def __init__(self, look: Look | None = None):
        self._look = look
        self._kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, picture: Tensor, place: Tensor) -> None:
        """Take a picture [B, 3, H, W] in [-1, 1] from a place [B, 4]; a full one drops its oldest but the first."""
        if len(self) == MOST:
            del self._kept[1]
        self._kept.append(_Kept(picture, place, self._look))

    def find(self, place: Tensor, missing: Tensor, view: View) -> tuple[Sight, Tensor] | None:
        """The picture that shows most of what is missing.

        Args:
            place: of the camera, [B, 4].
            missing: share of each cell of its picture that is, [B, h, w].
            view: its picture.

        Returns:
            Its flights' own, and for which flights it is worth it, bool [B]; None where it is for none.
        """
        if not self._kept:
            return None
        places = torch.stack([kept.place for kept in self._kept], dim=1)  # [B, M, 4]
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
        chosen = [self._kept[number] for number in best.tolist()]

        def of_each(name: str) -> Tensor:
            return torch.cat([getattr(kept, name)[b : b + 1] for b, kept in enumerate(chosen)])

        look = None if self._look is None else lambda *_: of_each("near")
        return Sight(of_each("picture"), of_each("place"), look), fits
