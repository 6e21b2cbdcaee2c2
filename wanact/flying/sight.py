"""Pictures, and how they look from elsewhere.

Turns are exact: a pinhole camera turns every pixel alike. How far what is seen moves by a step ahead or sideways
depends on how near it is. Somebody may see that (`wanact.models.nearness`), and then it is known, too, what comes out
from behind something; otherwise it is taken from how far below the horizon something lies, which is right over open
ground and wrong for what stands on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact.flying.pixels import (
    between,
    between_at,
    faded,
    filled,
    nodes_around,
    of_cells,
    sampled,
    swept,
)
from wanact.flying.viewpoint import Ray, View, way_to
from wanact.models.nearness import usual_nearness
from wanact.shapes import SPATIAL_STRIDE

NODES = 40  # across a picture, at which it is reckoned where pixels come from
FINE_NODES = 160  # the same where it is seen how near everything is
LOOKS = 4  # at the last picture, until it is found what a pixel shows
REACH = 9  # nodes across, a power of three, within which what is nearest is looked at first: it hides what is behind it
FADES = 2  # drafts, over which a picture takes another's place
MADE_UP = 1.6  # how far what is filled from around has worn out, and the most that anything can
SKY = 0.05  # how near, in 1 / clip path, a sky is at most
OFF = 1.5  # pixels that a place may miss the one it comes from: beyond it was hidden

Look = Callable[[Tensor, Tensor], Tensor]  # how near what a picture shows is, of it and of its place


class Sight:
    """A picture, and how near what it shows is.

    Args:
        picture: [B, 3, H, W] in [-1, 1].
        place: it was seen from, [B, 4].
        look: says of both how near things are; None where nobody does.
        worn: how far it has worn out, [B, 1, h, w]: how often what it shows was doubled in size since it was drawn.
            Not at all if not given.
        guess: how near it is, [B, 1, H/2, W/2], as the picture tells that it was moved from: to look takes a while.

    Attributes:
        beside: what may lie to its right, 1, and to its left, -1, [B, 3, H, W], once somebody has made that up.
        fades_from: what was shown before this picture took its place, [B, 3, H, W]: the next drafts go over from it.
        faded: how far they have, from 0 to 1.
    """

    def __init__(
        self,
        picture: Tensor,
        place: Tensor,
        look: Look | None = None,
        worn: Tensor | None = None,
        guess: Tensor | None = None,
    ):
        self.beside: dict[int, Tensor] = {}
        self.fades_from: Tensor | None = None
        self.faded = 0.0
        self.picture, self.place, self._look = picture, place, look
        cells = (size // SPATIAL_STRIDE for size in picture.shape[2:])
        self.worn = picture.new_zeros(len(picture), 1, *cells) if worn is None else worn
        self._near: Tensor | None = None
        self._guess = guess

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody says how near things are."""
        return self._look is not None

    @property
    def near(self) -> Tensor | None:
        """[B, 1, H/2, W/2], looked at when it is first asked for: a turn moves near and far alike."""
        if self._near is None and self._look is not None:
            self._near = self._look(self.picture, self.place)
        return self._near

    @property
    def roughly_near(self) -> Tensor | None:
        """The same, guessed where that can be."""
        return self.near if self._guess is None or self._near is not None else self._guess

    @property
    def worn_out(self) -> Tensor:
        """How far it has worn out, [B, 1, h, w], where it can: a sky does not grow, and its mirror image is one."""
        if self.roughly_near is None:
            return self.worn
        nearest = F.adaptive_max_pool2d(self.roughly_near, self.worn.shape[2:])
        return torch.where(nearest > SKY, self.worn, 0.0)

    @property
    def fades(self) -> bool:
        """Whether drafts still go over to it from what was shown before."""
        return self.fades_from is not None

    @cached_property
    def mirror_image(self) -> Sight:
        """Left and right the other way round, from the same place."""
        other = Sight(self.picture.flip(-1), self.place, self._look, self.worn.flip(-1))
        other._near = None if self.near is None else self.near.flip(-1)
        return other

    def fade_on(self) -> None:
        """A draft more has gone over from what was shown before."""
        self.faded += 1 / FADES
        if self.faded >= 1:
            self.fades_from = None

    def renewed(self, other: Sight, where: Tensor) -> Sight:
        """Another's flights, where [B] they are chosen, among these."""
        if not where.any():
            return self
        if where.all():
            return other

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(where.view(-1, *[1] * (new.ndim - 1)), new, old)

        mixed = (chosen(getattr(other, name), getattr(self, name)) for name in ("picture", "place", "worn"))
        picture, place, worn = mixed
        sight = Sight(picture, place, self._look, worn)
        if self.near is not None and other.near is not None:
            sight._near = chosen(other.near, self.near)
        return sight

    def at(self, grid: Tensor) -> Tensor:
        """Colours at places in it [B, n, h, w, 2] at n moments of the next draft, [B, 3, n, h, w]."""
        if self.fades_from is None:
            return sampled(self.picture, grid)
        count = grid.shape[1]
        share = self.faded + (torch.arange(count, device=grid.device) + 1) / (count * FADES)
        pictures = torch.lerp(self.fades_from[:, None], self.picture[:, None], share.view(-1, 1, 1, 1))
        seen = sampled(pictures.flatten(0, 1), grid.flatten(0, 1)[:, None])
        return seen[:, :, 0].unflatten(0, grid.shape[:2]).transpose(1, 2)


class Seen(NamedTuple):
    """A picture as it looks from elsewhere, at n moments.

    Attributes:
        video: [B, 3, n, H, W].
        outside, hidden: what the picture did not show, bool [B, n, H, W].
        near: 1 / distance, [B, n, H, W]; the usual one where nobody looked.
        worn: as a sight's, of the last moment, [B, 1, h, w].
        looked: whether somebody did.
    """

    video: Tensor
    outside: Tensor
    hidden: Tensor
    near: Tensor
    worn: Tensor
    looked: bool

    @property
    def missing(self) -> Tensor:
        return self.outside | self.hidden

    def painted(self) -> tuple[Tensor, Tensor]:
        """The video, and how near everything is, with what was hidden filled from around."""
        if not self.hidden.any():
            return self.video, self.near
        near, hidden = (x.flatten(0, 1)[:, None] for x in (self.near, self.hidden))
        pictures = torch.cat([self.video.transpose(1, 2).flatten(0, 1), near], dim=1)
        video, near = filled(pictures, hidden, near).unflatten(0, self.outside.shape[:2]).split([3, 1], dim=2)
        return video.transpose(1, 2), near[:, :, 0]


class Comes(NamedTuple):
    """Where what is seen from elsewhere comes from in a picture.

    Attributes:
        grid: as `grid_sample` takes it, [B, n, h, w, 2].
        outside: what the picture does not reach, bool [B, n, h, w].
        hidden: what was behind something in it, bool [B, n, h, w].
        near: 1 / distance, [B, n, h, w]; the usual one where nobody looked.
        looked: whether somebody did.
    """

    grid: Tensor
    outside: Tensor
    hidden: Tensor
    near: Tensor
    looked: bool


class Camera:
    """Sees pictures from elsewhere.

    Args:
        field_of_view_deg: across.
    """

    def __init__(self, field_of_view_deg: float):
        self.field_of_view_deg = field_of_view_deg

    def view(self, picture: Tensor) -> View:
        """Of a picture's size, [..., H, W]."""
        return View(picture.shape[-1], picture.shape[-2], self.field_of_view_deg)

    def rays(self, picture: Tensor, place: Tensor) -> Ray:
        """Through every second pixel of a picture [B, 3, H, W] from a place [B, 4]: where it is seen how near it is."""
        y, x = (torch.arange(0, size, 2, device=picture.device) + 1.0 for size in picture.shape[2:])
        return self.view(picture).rays(x, y, place[:, None, 3])

    def seen(self, sight: Sight, targets: Tensor) -> Seen:
        """A picture as it looks from other places [B, n, 4]."""
        comes = self.comes(sight, targets)
        h, w = sight.worn.shape[2:]
        at = F.adaptive_avg_pool2d(comes.grid[:, -1].permute(0, 3, 1, 2), (h, w))
        worn = worn_there(sight.worn, at)
        return Seen(sight.at(comes.grid), comes.outside, comes.hidden, comes.near, worn, comes.looked)

    def filled(
        self, seen: Seen, sight: Sight, targets: Tensor, where: Tensor | None = None, over: int | None = None
    ) -> Seen:
        """With what another picture shows of what is missing. Only that is reckoned.

        Args:
            where: bool [B, n, H, W], of what is missing; all of it if not given, and then what neither picture shows
                was hidden if it lay inside of either.
            over: pixels, a power of three, over which that goes over into what is around it.
        """
        wanted = seen.missing if where is None else seen.missing & where
        asked = wanted if over is None else swept(wanted, over, torch.maximum)
        pixels = asked.flatten(2).flatten(0, 1).any(0).nonzero()[:, 0]
        middles = _middles(seen.worn, wanted.shape[3])  # for how far it has worn out
        comes = self.comes(sight, targets, torch.cat([pixels, middles]))
        grid, outside, hidden, near = (x[:, :, 0, : len(pixels)] for x in comes[:4])
        was_outside, was_hidden, was_near = (x.flatten(2)[..., pixels] for x in seen[1:4])

        shown = ~(outside | hidden)
        fills = wanted.flatten(2)[..., pixels] & shown
        filled_there = _with(torch.zeros_like(wanted), pixels, fills)
        share = fills if over is None else faded(filled_there, over).flatten(2)[..., pixels] * shown
        colours = sight.at(grid[:, :, None])[:, :, :, 0]
        video = torch.lerp(seen.video.flatten(3)[..., pixels], colours, share[:, None].to(colours.dtype))
        if where is None:
            was_outside, was_hidden = was_outside & outside, was_hidden | (was_outside & hidden)
        at = comes.grid[:, -1, 0, len(pixels) :].transpose(1, 2).unflatten(2, seen.worn.shape[2:])
        return Seen(
            _with(seen.video, pixels, video),
            _with(seen.outside, pixels, was_outside & ~fills),
            _with(seen.hidden, pixels, was_hidden & ~fills),
            _with(seen.near, pixels, torch.where(fills, near, was_near)),
            torch.lerp(seen.worn, worn_there(sight.worn, at), of_cells(filled_there[:, -1:], seen.worn)),
            seen.looked,
        )

    def comes(self, sight: Sight, targets: Tensor, pixels: Tensor | None = None) -> Comes:
        """Where what is seen from the targets [B, n, 4] comes from in a picture; of these pixels alone [P], counted row
        by row, as h = 1 and w = P, if they are given, and roughly."""
        place, (height, width), device = sight.place, sight.picture.shape[2:], sight.picture.device
        way, yaw = way_to(place, targets), targets[..., 2] - place[:, None, 2]
        looks = sight.is_looked_at and bool(way.any())  # a turn moves near and far alike
        before = place[:, None, 3].expand_as(yaw)
        # Places change slowly across a picture: a few are reckoned, the rest lies between.
        apart = max(1, width // (FINE_NODES if looks else NODES))
        x, y = (torch.arange(0, size + apart, apart, device=device) + 0.5 for size in (width, height))
        view = self.view(sight.picture)
        ray = view.rays(x, y, targets[..., 3]).turned(-yaw)
        chosen = None
        if looks and pixels is not None:
            chosen = nodes_around(pixels, apart, height, width)
            ray = ray.at(chosen)
        near = usual_nearness(ray.elevation())
        place, hidden = view.places(ray.moved(-way, near), before), torch.zeros_like(near)
        if looks:
            known = sight.near if pixels is None else sight.roughly_near
            place, hidden, near = self._look(sight, known, view, ray, place, way, yaw, before, targets[..., 3])
        nodes = torch.cat([place, hidden[:, :, None], near[:, :, None]], dim=2)
        if chosen is not None:
            every = nodes.new_zeros(*nodes.shape[:3], len(y) * len(x))
            nodes = every.index_copy(3, chosen, nodes[:, :, :, 0]).unflatten(3, (len(y), len(x)))
        if pixels is None:
            values = between(nodes, apart, height, width)
        else:
            values = between_at(nodes, apart, width, pixels)[:, :, :, None]
        grid = values[:, :, :2].permute(0, 1, 3, 4, 2)
        outside = grid.abs().amax(-1) > 1
        return Comes(grid, outside, (values[:, :, 2] > 0.5) & ~outside, values[:, :, 3], looks)

    def _look(
        self,
        sight: Sight,
        near: Tensor | None,
        view: View,
        ray: Ray,
        place: Tensor,
        way: Tensor,
        yaw: Tensor,
        before: Tensor,
        after: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where what the rays meet lies in the picture [B, n, 2, h, w], of which is known how near it is; whether it
        was hidden there, and how near it is, [B, n, h, w].

        Each place of the picture is known to go somewhere; which one comes to a ray is looked for, from the nearest
        around. Where none does, it was hidden.
        """
        assert near is not None, "who looks knows"
        height, width = sight.picture.shape[2:]
        gone = self.rays(sight.picture, sight.place).moved(way, near)
        nearness = near / gone.length()  # from there
        leads = view.places(gone.turned(yaw), after)
        known = torch.cat([nearness[:, :, None], leads], dim=2).flatten(0, 1)
        target = view.places(ray.turned(yaw), after)

        def look(values: Tensor, place: Tensor) -> Tensor:
            grid = place.flatten(0, 1).permute(0, 2, 3, 1)
            found = F.grid_sample(values, grid, "bilinear", "border", align_corners=False)
            return found.unflatten(0, place.shape[:2])

        met = look(swept(known[:, :1], REACH, torch.maximum), place)
        for _ in range(LOOKS):
            place = view.places(ray.moved(-way, met[:, :, 0]), before)
            found = look(known, place)
            met = found[:, :, :1]
        size = place.new_tensor([width, height]).view(2, 1, 1) / 2
        miss = ((found[:, :, 1:] - target) * size).square().sum(2, keepdim=True).sqrt()
        return place, (miss[:, :, 0] > OFF).float(), met[:, :, 0]


def worn_there(worn: Tensor, at: Tensor) -> Tensor:
    """How far a picture has worn out, [B, 1, h, w], when its cells are taken from these places of it, [B, 2, h, w]:
    a double as large is once more."""
    h, w = worn.shape[2:]
    before = F.grid_sample(worn, at.permute(0, 2, 3, 1), "bilinear", "border", align_corners=False)
    across, down = (torch.gradient(at, dim=dim)[0] for dim in (3, 2))  # in half pictures a cell
    area = (across[:, :1] * down[:, 1:] - across[:, 1:] * down[:, :1]).abs() * h * w / 4
    return (before - area.clamp_min(1e-3).log2() / 2).clamp(0, MADE_UP)


def _middles(cells: Tensor, width: int) -> Tensor:
    """The pixels in the middle of these cells [B, 1, h, w], counted row by row in a picture of this width, [hw]."""
    down, across = (torch.arange(count, device=cells.device) * SPATIAL_STRIDE for count in cells.shape[2:])
    return ((down[:, None] + SPATIAL_STRIDE // 2) * width + across + SPATIAL_STRIDE // 2).flatten()


def _with(values: Tensor, pixels: Tensor, others: Tensor) -> Tensor:
    """Values [..., H, W], and others [..., P] at these pixels, counted row by row."""
    return values.flatten(-2).index_copy(-1, pixels, others).view_as(values)
