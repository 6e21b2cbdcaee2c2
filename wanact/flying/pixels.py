"""Pictures between their pixels, and what is missing of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 9  # pixels, a power of three, over which what is known goes over into what is drawn
FILL_FROM = (4, 8, 16)  # pixels, from how far around that is filled: the nearest where something is known
FARTHER = 4.0  # how much what is far counts more where something hidden is filled
LINEAR = 1 / 3  # share of linear interpolation where pictures are moved
ENOUGH = 1e-6  # weight of what is known around, to fill from


def sampled(pictures: Tensor, grid: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] at places between their pixels [B, n, h, w, 2], as `grid_sample` takes them,
    [B, 3, n, h, w]. Torch's cubic spline overshoots at edges, more each time that a picture is moved; a third of linear
    makes it about Catmull and Rom's, which does not."""
    places = grid.flatten(1, 2)
    cubic, linear = (
        F.grid_sample(pictures, places, mode, "border", align_corners=False) for mode in ("bicubic", "bilinear")
    )
    return cubic.lerp(linear, LINEAR).clamp(-1, 1).unflatten(2, grid.shape[1:3])


def between(nodes: Tensor, apart: int, height: int, width: int) -> Tensor:
    """Values [B, n, C, h, w] at pixels so far apart, at each pixel, [B, n, C, H, W]."""
    size = [apart * (count - 1) + 1 for count in nodes.shape[3:]]
    values = F.interpolate(nodes.flatten(0, 1), size, mode="bilinear", align_corners=True)
    return values[..., :height, :width].unflatten(0, nodes.shape[:2])


def between_at(nodes: Tensor, apart: int, width: int, pixels: Tensor) -> Tensor:
    """The same at some pixels [P], counted row by row, [B, n, C, P]."""
    h, w = nodes.shape[3:]
    across, down = (pixels % width) / apart, (pixels // width) / apart
    grid = torch.stack([across * 2 / (w - 1) - 1, down * 2 / (h - 1) - 1], dim=-1)[None, None]
    grid = grid.expand(nodes.shape[0] * nodes.shape[1], -1, -1, -1)
    values = F.grid_sample(nodes.flatten(0, 1), grid, "bilinear", "border", align_corners=True)
    return values[:, :, 0].unflatten(0, nodes.shape[:2])


def nodes_around(pixels: Tensor, apart: int, height: int, width: int) -> Tensor:
    """The nodes, counted row by row, between which these pixels [P] lie."""
    where = torch.zeros(1, 1, height * width, device=pixels.device)
    where[..., pixels] = 1
    where = F.pad(where.view(1, 1, height, width), (0, apart, 0, apart))
    return F.max_pool2d(where, 2 * apart - 1, stride=apart, padding=apart - 1).flatten().nonzero()[:, 0]


def of_cells(places: Tensor, cells: Tensor) -> Tensor:
    """Share of each of these cells [B, 1, h, w] that places [B, 1, H, W] fill."""
    h, w = cells.shape[2:]
    return F.adaptive_avg_pool2d(places.to(cells.dtype), (h, w))


def faded(places: Tensor, reach: int = EDGE) -> Tensor:
    """How much of a place [B, n, H, W] counts: 1 there, less and less around it, nothing from so many pixels on."""
    around = swept(places, reach, torch.maximum).float()
    if not around.any():
        return around
    return swept(around, reach, torch.add) / swept(torch.ones_like(around[:1, :1]), reach, torch.add)


def swept(values: Tensor, reach: int, both: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """All values [B, C, H, W] within a square around each place as one, with 0 around the picture: the greatest by
    `torch.maximum`, the sum by `torch.add`. The square, a power of three across, is three times as wide with every
    step: pooling takes ten times as long on a CPU."""
    for dim, padding in ((3, (1, 1, 0, 0)), (2, (0, 0, 1, 1))):
        values, width = F.pad(values, [reach // 2 * side for side in padding]), 1
        while width < reach:
            count = values.shape[dim] - 2 * width
            left, middle, right = (values.narrow(dim, start * width, count) for start in range(3))
            values, width = both(both(left, middle), right), 3 * width
    return values


def filled(pictures: Tensor, hidden: Tensor, near: Tensor) -> Tensor:
    """Pictures [B, C, H, W] in which what was hidden [B, 1, H, W] takes the colours around it, of what is far above
    all: what comes out from behind something lies behind it."""
    if not hidden.any():
        return pictures
    hides = swept(hidden, 3, torch.maximum)  # and the mixed pixels at its rim
    weight = ~hides * torch.exp(-FARTHER * near.clamp_max(20)).clamp_min(1e-4)
    sums, around = [torch.cat([pictures * weight, weight], dim=1)], F.avg_pool2d(pictures, FILL_FROM[-1])
    for before, reach in pairwise((1, *FILL_FROM)):
        sums.append(F.avg_pool2d(sums[-1], reach // before))
    for colours in reversed(sums[1:]):  # from far around to near, as long as something is known there
        colours = F.avg_pool2d(colours, 3, stride=1, padding=1)
        nearer = colours[:, :-1] / colours[:, -1:].clamp_min(ENOUGH)
        farther = F.interpolate(around, nearer.shape[2:], mode="bilinear", align_corners=False)
        around = torch.where(colours[:, -1:] > ENOUGH, nearer, farther)
    around = F.interpolate(around, pictures.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(hides, around, pictures)
