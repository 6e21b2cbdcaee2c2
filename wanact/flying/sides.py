"""What may lie at the sides of a picture, above and below it.

Nobody has seen that. Beside a picture its mirror image meets it, and goes over soon into the part of the picture that
is likest to it: all of a mirror image is seen to be one. Farther on the sides are mirrors again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact.flying.pixels import EDGE, between, sampled
from wanact.flying.sight import NODES, Camera, Sight
from wanact.flying.viewpoint import way_to
from wanact.models.nearness import usual_nearness

COARSE = 4  # pixels, to which pictures are averaged to see what fits
CUTS = 10  # places in half a picture, where what lies beside it may begin
SEAM_DEG = 12.0  # over which that goes over from its mirror image
BEYOND = 0.4  # half heights over and under a picture, from where on nothing but the edge's colour is left


class Sides:
    """Shows pictures and what may lie around them.

    Args:
        camera: that they are seen by.
    """

    def __init__(self, camera: Camera):
        self.camera = camera

    @torch.no_grad()
    def around(self, region: Sight, targets: Tensor, columns: slice = slice(None)) -> Tensor:
        """What is seen of a picture from the targets [B, n, 4], and of what may lie at its sides, in these columns,
        [B, 3, n, H, w]."""
        return self._drawn(region, targets, columns, has_sides=True)

    @torch.no_grad()
    def mirrored(self, picture: Tensor, place: Tensor, targets: Tensor) -> Tensor:
        """What a picture from a place [B, 4] shows in the directions that are seen from the targets [B, n, 4], as if
        its sides were mirrors, [B, 3, n, H, W]."""
        return self._drawn(Sight(picture, place), targets, slice(None), has_sides=False)

    def turned(self, picture: Tensor, place: Tensor, turns_deg: Tensor, pitch: Tensor | None = None) -> Tensor:
        """A picture from a place [B, 4], as a camera sees it there that has turned right by n turns [B or 1, n] and has
        this pitch [B, 1], the picture's if not given; its sides are mirrors, [B, 3, n, H, W]."""
        targets = place[:, None].repeat(1, turns_deg.shape[1], 1)
        targets[..., 2] += turns_deg
        if pitch is not None:
            targets[..., 3] = pitch
        return self.mirrored(picture, place, targets)

    def _drawn(self, region: Sight, targets: Tensor, columns: slice, has_sides: bool) -> Tensor:
        """What is seen from the targets in these columns, [B, 3, n, H, w]. What lies farthest to the sides are mirrors.
        Above and below lies a mirrored strip that goes over into the colour of its edge, as a sky does."""
        (batch, count), (height, width) = targets.shape[:2], region.picture.shape[2:]
        apart = max(1, width // NODES)
        left, right, _ = columns.indices(width)
        x = torch.arange(left, right + apart, apart, device=targets.device) + 0.5
        y = torch.arange(0, height + apart, apart, device=targets.device) + 0.5
        half = self.camera.field_of_view_deg / 2
        view = self.camera.view(region.picture)
        yaw = targets[..., 2] - region.place[:, None, 2]
        there = region.place.repeat_interleave(count, dim=0)[:, None]
        way = way_to(targets.flatten(0, 1), there).view(batch, count, 2)  # as the camera sees it that has turned
        ray = view.rays(x, y, targets[..., 3])
        ray = ray.moved(way, usual_nearness(ray.elevation())).folded(yaw, (3 if has_sides else 1) * half)
        ray, part = ray.parted(half)
        place = view.places(ray, region.place[:, None, 3].expand(batch, count))
        first, last = int(part.min()), int(part.max())
        pictures = [self._part(region, number) for number in range(first, last + 1)]
        place[:, :, 0] = (place[:, :, 0].clamp(-1, 1) + 2 * part - first - last) / len(pictures)
        across, down = between(place, apart, height, right - left).unbind(2)
        beyond = (down.abs() - 1).clamp_min(0)
        video = sampled(torch.cat(pictures, dim=3), torch.stack([across, down - 2 * beyond * down.sign()], dim=-1))
        edges = region.picture[:, :, :EDGE], region.picture[:, :, -EDGE:]
        upper, lower = (edge.mean((2, 3))[..., None, None, None] for edge in edges)
        edge = torch.where(down[:, None] < 0, upper, lower)
        return torch.lerp(video, edge, (beyond[:, None] / BEYOND).clamp_max(1))

    def _part(self, region: Sight, side: int) -> Tensor:
        """A picture, 0, or what may lie to its right, 1, or to its left, -1, [B, 3, H, W]."""
        if side == 0:
            return region.picture
        if side not in region.beside:
            region.beside[side] = self._beside(region, side)
        return region.beside[side]

    def _beside(self, region: Sight, side: int) -> Tensor:
        """What lies there: the picture's mirror image, and soon after the part of it that is likest to that."""
        picture, place = region.picture, region.place
        turns = place.new_tensor([[side * self.camera.field_of_view_deg / 2 * cut / CUTS for cut in range(CUTS)]])
        coarse = F.avg_pool2d(picture, COARSE)
        seam = (self._seam(coarse, place, side) < 1).float()[:, :, None]
        unlike = (self.turned(coarse, place, turns) - coarse.flip(-1)[:, :, None]).abs() * seam
        best = turns[0, unlike.mean((1, 3, 4)).argmin(1)][:, None]
        other = self.turned(picture, place, best)[:, :, 0]
        return torch.lerp(picture.flip(-1), other, self._seam(picture, place, side))

    def _seam(self, picture: Tensor, place: Tensor, side: int) -> Tensor:
        """How far each pixel of what lies beside a picture from a place has gone over, [B, 1, H, W]."""
        height, width = picture.shape[2:]
        half = self.camera.field_of_view_deg / 2
        x, y = (torch.arange(size, device=place.device) + 0.5 for size in (width, height))
        ray = self.camera.view(picture).rays(x, y, place[:, None, 3])
        azimuth = torch.rad2deg(torch.atan2(ray.across.expand_as(ray.along), ray.along))
        return ((half + side * azimuth) / SEAM_DEG).clamp(0, 1)
