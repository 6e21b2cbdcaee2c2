"""A first guess of the next latent frame: the last picture, as it is seen from where the action leads.

Drawn from noise alone, what was seen a moment ago has to be drawn anew in every latent frame, and a small network
loses a little of it each time. A flight with drafts begins between the two instead: a little noise is added to the
draft, all of it where the draft knows nothing because it lay outside of the last picture, and the network moves that to
what is really there (a flow whose ends are coupled: Albergo et al. 2023, arXiv:2310.03725; pictures moved by a camera
and mended by a video model: ViewCrafter, Yu et al. 2024, arXiv:2409.02048).

Turns are exact: a pinhole camera turns every pixel alike. How far what is seen moves by a step ahead or sideways
depends on how near it is. A network may see that (`wanact.models.nearness`), and then it is known, too, what comes out
from behind something; without one it is taken from how far below the horizon something lies, which is right over open
ground and wrong for what stands on it. That, and what comes into view, is the other network's part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact.actions import NEGATIVE, POSITIVE
from wanact.errors import UserError
from wanact.flying.album import Album
from wanact.flying.viewpoint import Ray, View, flown, way_to
from wanact.models import vae as vae_ops
from wanact.models.nearness import FOLDER, NearnessNetwork, usual_nearness
from wanact.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE

NODES = 40  # across a picture, at which it is reckoned where pixels come from
FINE_NODES = 160  # the same where it is seen how near everything is
LOOKS = 4  # at the last picture, until it is found what a pixel shows
REACH = 9  # nodes across, a power of three, within which what is nearest is looked at first: it hides what is behind it
EDGE = 9  # pixels, a power of three, over which what is known goes over into what is drawn
SIDE = 27  # pixels, a power of three, over which it goes over into what lies beside another picture
FADES = 2  # drafts, over which a picture takes another's place
FILL_FROM = (4, 8, 16)  # pixels, from how far around that is filled: the nearest where something is known
FARTHER = 4.0  # how much what is far counts more where something hidden is filled
LINEAR = 1 / 3  # share of linear interpolation where pictures are moved
ENOUGH = 1e-6  # weight of what is known around, to fill from
MADE_UP = 1.6  # how far what is filled from around has worn out, and the most that anything can
COARSE = 4  # pixels, to which pictures are averaged to see what fits
CUTS = 10  # places in half a picture, where what lies beside it may begin
SEAM_DEG = 12.0  # over which that goes over from its mirror image
BEYOND = 0.4  # half heights over and under a picture, from where on nothing but the edge's colour is left
SKY = 0.05  # how near, in 1 / clip path, a sky is at most
OFF = 1.5  # pixels that a place may miss the one it comes from: beyond it was hidden


@dataclass(frozen=True)
class DraftSettings:
    """How a flight's latent frames are drafted; `draft` in what a run says of its flights.

    Attributes:
        noise: deviation of the noise on a draft, in the units of latents; 1 where the draft knows nothing.
        field_of_view_deg: of the camera, across.
        pitch_deg: of the camera in the first frame, which nobody tells.
        pitch_limits_deg: at which the camera stops.
        sees: whether the model directory's network of nearness is looked through, instead of the usual nearness.
        trust: how much of the draft stays as it is where it knows what is there, from 0 to 1: all of it leaves only
            what comes into view to the network.
        mirrors: whether what comes into view at the sides is begun from what an earlier picture shows elsewhere, and
            not from noise: for networks that know no more of it than a blur.
        redraws: whether a picture that has worn out, because it was flown at, passed or made up, gives way to another
            view of a clear one: the first, or one that the model directory's network of places draws when the words
            have changed.

    Raises:
        ValueError: for settings that cannot be flown.
    """

    noise: float = 0.1
    field_of_view_deg: float = 75.0
    pitch_deg: float = -8.0
    pitch_limits_deg: tuple[float, float] = (-38.0, 16.0)
    sees: bool = False
    trust: float = 0.0
    mirrors: bool = False
    redraws: bool = False

    def __post_init__(self) -> None:
        bounds = {
            "noise": (0.0, 1.0),
            "trust": (0.0, 1.0),
            "field_of_view_deg": (10.0, 150.0),
            "pitch_deg": (-80.0, 80.0),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= most:
                raise UserError(f"draft: {name} is {str(value)[:20]}, expected a number from {least:g} to {most:g}")
        for name in ("sees", "mirrors", "redraws"):
            if type(getattr(self, name)) is not bool:
                raise UserError(f"draft: {name} is {str(getattr(self, name))[:20]}, expected true or false")
        limits = self.pitch_limits_deg
        is_pair = isinstance(limits, (list, tuple)) and len(limits) == 2
        if not (is_pair and all(type(x) in (int, float) for x in limits)):
            raise UserError(f"draft: pitch_limits_deg is {str(limits)[:20]}, expected two numbers of degrees")
        if not -80 <= limits[0] < limits[1] <= 80:
            raise UserError(f"draft: pitch_limits_deg is {str(limits)[:20]}, expected -80 to 80, the lower one first")
        object.__setattr__(self, "pitch_limits_deg", tuple(map(float, limits)))


class Draft(NamedTuple):
    """A guess of a latent frame.

    Attributes:
        latent: the guess, [B, C, 1, h, w].
        noise: deviation of the noise that belongs on it, [B, 1, 1, h, w].
        video: its pictures, [B, 3, 4, H, W] in [-1, 1].
        stays: share of each picture that stays as it is, [B, 1, 4, H, W].
        latent_stays: the same of the latent frame, [B, 1, 1, h, w].
        held: share of the last picture that the sight it was moved from first showed, [B].
        worn: how far the last picture has worn out, as a sight's, [B, 1, h, w].
    """

    latent: Tensor
    noise: Tensor
    video: Tensor
    stays: Tensor
    latent_stays: Tensor
    held: Tensor
    worn: Tensor

    def under(self, noise: Tensor) -> Tensor:
        """What the latent frame is drawn from: the guess under this standard noise."""
        return self.latent + self.noise * noise

    def joined(self, drawn: Tensor) -> Tensor:
        """What was drawn from it, [B, C, 1, h, w], and what stays of it."""
        return torch.lerp(drawn, self.latent, self.latent_stays)

    def shown(self, frames: Tensor) -> Tensor:
        """The frames of what was drawn from it, [B, 3, 4, H, W], and what stays of its own. They never went through the
        autoencoder, which would lose a little each time."""
        return torch.lerp(frames, self.video.to(frames.dtype), self.stays.to(frames.dtype))


class Drawn:
    """A latent frame that was drawn from a draft, and its frames: the flight goes on from the last one, and somebody
    shows them, in another thread. Whoever is first decodes them.

    Args:
        vae: of the flight.
        latent: [B, C, 1, h, w].
        draft: that it was drawn from.
    """

    def __init__(self, vae: Any, latent: Tensor, draft: Draft):
        self.latent, self.draft, self._vae = latent, draft, vae
        self._lock, self._frames = threading.Lock(), torch.empty(0)

    @property
    def frames(self) -> Tensor:
        """[B, 3, 4, H, W] in [-1, 1], in the autoencoder's type."""
        with self._lock:
            if not len(self._frames):
                dtype = next(self._vae.parameters()).dtype
                self._frames = self.draft.shown(vae_ops.decode_alone(self._vae, self.latent.to(dtype)))
            return self._frames


class Sight:
    """A picture, and how near what it shows is.

    Args:
        picture: [B, 3, H, W] in [-1, 1].
        place: it was seen from, [B, 4].
        look: says of both how near things are; None where nobody does.
        worn: how far it has worn out, [B, 1, h, w]: how often what it shows was doubled in size since it was drawn.
            Not at all if not given.

    Attributes:
        sides: the picture between what may lie at its sides, [B, 3, H, 3 W], once somebody has made that up.
        fades_from: what was shown before this picture took its place, [B, 3, H, W]: the next drafts go over from it.
        faded: how far they have, from 0 to 1.
    """

    def __init__(
        self,
        picture: Tensor,
        place: Tensor,
        look: Callable[[Tensor, Tensor], Tensor] | None = None,
        worn: Tensor | None = None,
    ):
        self.sides: Tensor | None = None
        self.fades_from: Tensor | None = None
        self.faded = 0.0
        self.picture, self.place, self._look = picture, place, look
        cells = (size // SPATIAL_STRIDE for size in picture.shape[2:])
        self.worn = picture.new_zeros(len(picture), 1, *cells) if worn is None else worn
        self._near: Tensor | None = None

    @property
    def near(self) -> Tensor | None:
        """[B, 1, H/2, W/2], looked at when it is first asked for: a turn moves near and far alike."""
        if self._near is None and self._look is not None:
            self._near = self._look(self.picture, self.place)
        return self._near

    @property
    def worn_out(self) -> Tensor:
        """How far it has worn out, [B, 1, h, w], where it can: a sky does not grow, and its mirror image is one."""
        if self.near is None:
            return self.worn
        nearest = F.adaptive_max_pool2d(self.near, self.worn.shape[2:])
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


class _Seen(NamedTuple):
    """A picture as it looks from elsewhere, at n moments.

    Attributes:
        video: [B, 3, n, H, W].
        outside, hidden: what the picture did not show, bool [B, n, H, W].
        near: 1 / distance, [B, n, H, W]; 0 where nobody looked.
        worn: as a sight's, of the last moment, [B, 1, h, w].
    """

    video: Tensor
    outside: Tensor
    hidden: Tensor
    near: Tensor
    worn: Tensor

    @property
    def missing(self) -> Tensor:
        return self.outside | self.hidden

    def filled_from(self, other: _Seen, where: Tensor | None = None, over: int = 1) -> _Seen:
        """With what another picture shows of what is missing, or of what is missing there, and over so many pixels
        around it. What neither shows was hidden if it lay inside of either."""
        fills = self.missing & ~other.missing
        fills = fills if where is None else fills & where
        share = (_faded(fills, over) * ~other.missing)[:, None]
        return _Seen(
            torch.lerp(self.video, other.video, share),
            self.outside & ~fills & (other.outside if where is None else True),
            (self.hidden & ~fills) | ((self.outside & other.hidden) if where is None else False),
            torch.where(fills, other.near, self.near),
            torch.lerp(self.worn, other.worn, _of_cells(fills[:, -1:], self.worn)),
        )

    def painted(self) -> Tensor:
        """The video, with what was hidden filled from around."""
        flat = (x.flatten(0, 1) for x in (self.video.transpose(1, 2), self.hidden[:, :, None], self.near[:, :, None]))
        return _filled(*flat).unflatten(0, self.outside.shape[:2]).transpose(1, 2)


class Drafter:
    """Drafts the latent frames of flights side by side.

    Args:
        vae: an autoencoder whose latent frames stand alone.
        settings: noise and camera.
        magnitude_scale: what the channels' magnitudes were multiplied by before they came here, [8].
        eye: sees how near everything is, where the settings ask for it.

    Raises:
        UserError: if a latent frame of this autoencoder depends on those before it, or there is no eye to see with.
    """

    def __init__(
        self, vae: Any, settings: DraftSettings, magnitude_scale: Sequence[float], eye: NearnessNetwork | None = None
    ):
        if not vae_ops.frames_stand_alone(vae):
            raise UserError(f"latent frames of {type(vae).__name__} depend on those before them: none can be drafted")
        if settings.sees and eye is None:
            raise UserError(f"this run's drafts see how near things are; the model directory has no {FOLDER}/ for it")
        self.vae, self.settings, self.eye = vae, settings, eye if settings.sees else None
        self._dtype = next(vae.parameters()).dtype
        self._factor = torch.tensor([1 / scale if scale else 0.0 for scale in magnitude_scale])

    def start(self, count: int, device: torch.device | str) -> Tensor:
        """Where flights begin, [count, 4], see `viewpoint`."""
        place = torch.zeros(count, 4, device=device)
        place[:, 3] = self.settings.pitch_deg
        return place

    def moved(self, place: Tensor, magnitude: Tensor) -> Tensor:
        """Where the camera is after actions, one each, whose scaled magnitudes are [B or 1, 1, 8], [B, 4]."""
        return self._on_the_way(place, magnitude, 1)[:, -1]

    def _on_the_way(self, place: Tensor, magnitude: Tensor, count: int) -> Tensor:
        m = magnitude[:, 0].float() * self._factor.to(magnitude.device)
        axes = (m[:, POSITIVE] - m[:, NEGATIVE]).expand(len(place), -1)
        shares = torch.arange(1, count + 1, device=place.device) / count
        return flown(place, axes, shares, self.settings.pitch_limits_deg)

    def picture(self, latent: Tensor) -> Tensor:
        """The last picture of latent frames [B, C, 1, h, w], [B, 3, H, W] in [-1, 1]."""
        return vae_ops.decode_alone(self.vae, latent.to(self._dtype))[:, :, -1].float()

    def sight(self, picture: Tensor, place: Tensor, worn: Tensor | None = None) -> Sight:
        """A picture [B, 3, H, W] in [-1, 1] from a place [B, 4], for drafts to be moved from; `worn` as a sight's."""
        return Sight(picture, place, None if self.eye is None else self._near, worn)

    @torch.no_grad()
    def _near(self, picture: Tensor, place: Tensor) -> Tensor:
        assert self.eye is not None, "who looks has one"
        elevation = self._seen_at(picture, place).elevation()
        return self.eye(picture.to(next(self.eye.parameters()).dtype), elevation).float()

    def _seen_at(self, picture: Tensor, place: Tensor) -> Ray:
        """Through every second pixel of a picture [B, 3, H, W] from a place [B, 4]: where it is seen how near it is."""
        height, width = picture.shape[2:]
        x, y = (torch.arange(0, size, 2, device=picture.device) + 1.0 for size in (width, height))
        return View(width, height, self.settings.field_of_view_deg).rays(x, y, place[:, None, 3])

    @torch.no_grad()
    def __call__(
        self,
        last: Sight,
        magnitude: Tensor,
        album: Album | None = None,
        anchor: Sight | None = None,
        region: Sight | None = None,
    ) -> Draft:
        """The latent frame that follows, as far as the camera tells; float32.

        Args:
            last: the last picture, and where the camera is.
            magnitude: of the action that leads on, scaled, [B or 1, 1, 8].
            album: pictures from earlier on, for what the last one does not show.
            anchor: what is moved first; the last picture is for what it does not show. A picture that is moved again
                and again frays, and one that is judged anew each time bends.
            region: a picture of these parts, which is mirrored where the settings say so.
        """
        height, width = last.picture.shape[2:]
        cells = (height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
        targets = self._on_the_way(last.place, magnitude, TEMPORAL_STRIDE)
        seen = self._seen(anchor or last, targets)
        held = 1 - seen.missing[:, -1].float().mean((1, 2))
        if anchor is not None and anchor is not last and not anchor.fades and seen.missing.any():
            seen = seen.filled_from(self._seen(last, targets))
        if album is not None and seen.outside.any():
            open_ = F.adaptive_avg_pool2d(seen.outside.float().mean(1, keepdim=True), cells)[:, 0]
            found = album.find(targets[:, -1], open_, View(width, height, self.settings.field_of_view_deg))
            if found is not None:
                kept, kept_place, fits = found
                more = self._seen(self.sight(kept, kept_place), targets)
                seen = seen.filled_from(more, fits[:, None, None, None] & seen.outside, SIDE)
        video, unseen = seen.painted(), seen.outside
        if self.settings.mirrors and region is not None and unseen.any():
            share = _faded(unseen, SIDE)[:, None]
            strip = torch.nonzero(share.amax((0, 1, 2, 3)))  # where there is any: that takes half as long
            columns = slice(int(strip[0]), int(strip[-1]) + 1)
            beside = self.around(region, targets, columns)
            video[..., columns] = torch.lerp(video[..., columns], beside, share[..., columns])
            unseen = torch.zeros_like(unseen)
        worn = seen.worn * (1 - _of_cells(seen.outside[:, -1:], seen.worn))
        worn = torch.lerp(worn, torch.full_like(worn, MADE_UP), _of_cells(seen.hidden[:, -1:], worn))
        unknown = F.avg_pool2d(unseen.float().mean(1, keepdim=True), 8)
        unknown = F.adaptive_max_pool2d(unknown, cells)[:, :, None]
        settings = self.settings
        edge = _faded(unseen)[:, None]
        return Draft(
            vae_ops.encode_alone(self.vae, video.to(self._dtype)).float(),
            settings.noise + (1 - settings.noise) * unknown,
            video,
            settings.trust * (1 - edge),
            settings.trust * (1 - (2 * unknown).clamp(0, 1)),
            held,
            worn,
        )

    def _seen(self, sight: Sight, targets: Tensor) -> _Seen:
        """A picture as it looks from others places [B, n, 4]."""
        grid, met = self._places(sight, targets)
        batch, count = targets.shape[:2]
        pictures = sight.picture.repeat_interleave(count, dim=0)
        if sight.fades_from is not None:
            share = sight.faded + (torch.arange(count, device=grid.device) + 1) / (count * FADES)
            before = sight.fades_from.repeat_interleave(count, dim=0)
            pictures = torch.lerp(before, pictures, share.repeat(batch).view(-1, 1, 1, 1))
        seen = _sampled(pictures, grid).clamp(-1, 1)
        outside = (grid.abs().amax(-1) > 1).unflatten(0, (batch, count))
        hidden, near = torch.zeros_like(outside), outside.new_zeros(outside.shape, dtype=seen.dtype)
        if met is not None:
            hidden, near = met.unflatten(0, (batch, count)).unbind(2)
            hidden = (hidden > 0.5) & ~outside
        video = seen.unflatten(0, (batch, count)).transpose(1, 2)
        return _Seen(video, outside, hidden, near, _worn(sight.worn, grid.unflatten(0, (batch, count))[:, -1]))

    @torch.no_grad()
    def around(self, region: Sight, targets: Tensor, columns: slice = slice(None)) -> Tensor:
        """What is seen of a picture from the targets [B, n, 4], and of what may lie at its sides, in these columns,
        [B, 3, n, H, w]."""
        if region.sides is None:
            region.sides = torch.cat([self._beside(region, -1), region.picture, self._beside(region, 1)], dim=3)
        return self.mirrored(region, targets, region.sides, columns)

    def _beside(self, region: Sight, side: int) -> Tensor:
        """What may lie to the right of a picture, or to the left, -1: its mirror image, which meets it, and soon after
        what it shows itself from where on that is likest to it. All of a mirror image is seen to be one."""
        picture, place, whole = region.picture, region.place, side * self.settings.field_of_view_deg
        turns = place.new_tensor([whole, *(whole / 2 * cut / CUTS for cut in range(CUTS))])
        coarse = F.avg_pool2d(picture, COARSE)
        seam = (self._seam(coarse, place, side) < 1).float()[:, :, None]
        turned = self.turned(coarse, place, turns[None])
        best = ((turned[:, :, 1:] - turned[:, :, :1]).abs() * seam).mean((1, 3, 4)).argmin(1)
        both = torch.stack([turns[0].expand(len(place)), turns[1 + best]], dim=1)
        mirror_image, other = self.turned(picture, place, both).unbind(2)
        return torch.lerp(mirror_image, other, self._seam(picture, place, side))

    def turned(self, picture: Tensor, place: Tensor, turns_deg: Tensor, pitch: Tensor | None = None) -> Tensor:
        """A picture from a place [B, 4], as a camera sees it there that has turned right by n turns [B or 1, n] and has
        this pitch [B, 1], the picture's if not given; its sides are mirrors, [B, 3, n, H, W]."""
        targets = place[:, None].repeat(1, turns_deg.shape[1], 1)
        targets[..., 2] += turns_deg
        if pitch is not None:
            targets[..., 3] = pitch
        return self.mirrored(Sight(picture, place), targets)

    def _seam(self, picture: Tensor, place: Tensor, side: int) -> Tensor:
        """How far each pixel of what lies beside a picture from a place has gone over, [B, 1, H, W]."""
        height, width = picture.shape[2:]
        half = self.settings.field_of_view_deg / 2
        x, y = (torch.arange(size, device=place.device) + 0.5 for size in (width, height))
        ray = View(width, height, 2 * half).rays(x, y, place[:, None, 3])
        azimuth = torch.rad2deg(torch.atan2(ray.across.expand_as(ray.along), ray.along))
        return ((half + side * azimuth) / SEAM_DEG).clamp(0, 1)

    @torch.no_grad()
    def mirrored(
        self, region: Sight, targets: Tensor, sides: Tensor | None = None, columns: slice = slice(None)
    ) -> Tensor:
        """What a picture shows in the directions that are seen from the targets [B, n, 4], as if its sides were
        mirrors, [B, 3, n, H, w]. Above and below it lies a mirrored strip that goes over into the colour of its edge,
        as a sky does.

        Args:
            sides: the picture between others as wide, seen from the same place: those at the ends have the mirrors.
            columns: that are asked for, all if not given.
        """
        pictures = region.picture if sides is None else sides
        (batch, count), (height, width) = targets.shape[:2], region.picture.shape[2:]
        apart, parts = max(1, width // NODES), pictures.shape[3] // width
        x, y = (torch.arange(0, size + apart, apart, device=targets.device) + 0.5 for size in (width, height))
        half = self.settings.field_of_view_deg / 2
        view = View(width, height, 2 * half)
        yaw = targets[..., 2] - region.place[:, None, 2]
        there = region.place.repeat_interleave(count, dim=0)[:, None]
        way = way_to(targets.flatten(0, 1), there).view(batch, count, 2)  # as the camera sees it that has turned
        ray = view.rays(x, y, targets[..., 3])
        ray, part = ray.moved(way, usual_nearness(ray.elevation())).folded(yaw, parts * half).parted(half)
        place = view.places(ray, region.place[:, None, 3].expand(batch, count))
        place[:, :, 0] = (place[:, :, 0].clamp(-1, 1) + 2 * part) / parts
        across, down = _between(place, apart, height, width)[..., columns].unbind(1)
        beyond = (down.abs() - 1).clamp_min(0)
        grid = torch.stack([across, down - 2 * beyond * down.sign()], dim=-1)
        video = _sampled(pictures.repeat_interleave(count, dim=0), grid).clamp(-1, 1)
        edges = region.picture[:, :, :EDGE], region.picture[:, :, -EDGE:]
        upper, lower = (edge.mean((2, 3), keepdim=True).repeat_interleave(count, dim=0) for edge in edges)
        edge = torch.where(down[:, None] < 0, upper, lower)
        video = torch.lerp(video, edge, (beyond[:, None] / BEYOND).clamp_max(1))
        return video.unflatten(0, (batch, count)).transpose(1, 2)

    def _places(self, sight: Sight, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where each pixel seen from the targets [B, n, 4] lies in a picture, as `grid_sample` takes it,
        [Bn, H, W, 2]; and where it is looked for, how much it was hidden there, and how near it is, [Bn, 2, H, W]."""
        place, (height, width), device = sight.place, sight.picture.shape[2:], sight.picture.device
        way, yaw = way_to(place, targets), targets[..., 2] - place[:, None, 2]
        looks = self.eye is not None and bool(way.any())  # a turn moves near and far alike
        before = place[:, None, 3].expand_as(yaw)
        # Places change slowly across a picture: a few are reckoned, the rest lies between.
        apart = max(1, width // (FINE_NODES if looks else NODES))
        x, y = (torch.arange(0, size + apart, apart, device=device) + 0.5 for size in (width, height))
        view = View(width, height, self.settings.field_of_view_deg)
        ray = view.rays(x, y, targets[..., 3]).turned(-yaw)
        found = view.places(ray.moved(-way, usual_nearness(ray.elevation())), before)
        met = None
        if looks:
            found, met = self._look(sight, view, ray, found, way, yaw, before, targets[..., 3])
        met = None if met is None else _between(met, apart, height, width)
        return _between(found, apart, height, width).permute(0, 2, 3, 1), met

    def _look(
        self,
        sight: Sight,
        view: View,
        ray: Ray,
        place: Tensor,
        way: Tensor,
        yaw: Tensor,
        before: Tensor,
        after: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Where what the rays meet lies in the picture [B, n, 2, h, w]; whether it was hidden there, and how near it
        is, [B, n, 2, h, w].

        Each place of the picture is known to go somewhere; which one comes to a ray is looked for, from the nearest
        around. Where none does, it was hidden.
        """
        near, (height, width) = sight.near, sight.picture.shape[2:]
        assert near is not None, "who looks knows"
        gone = self._seen_at(sight.picture, sight.place).moved(way, near)
        comes = near / gone.length()  # how near it is from there
        leads = view.places(gone.turned(yaw), after)
        known = torch.cat([comes[:, :, None], leads], dim=2).flatten(0, 1)
        target = view.places(ray.turned(yaw), after)

        def look(values: Tensor, place: Tensor) -> Tensor:
            grid = place.flatten(0, 1).permute(0, 2, 3, 1)
            found = F.grid_sample(values, grid, "bilinear", "border", align_corners=False)
            return found.unflatten(0, place.shape[:2])

        met = look(_swept(known[:, :1], REACH, torch.maximum), place)
        for _ in range(LOOKS):
            place = view.places(ray.moved(-way, met[:, :, 0]), before)
            found = look(known, place)
            met = found[:, :, :1]
        size = place.new_tensor([width, height]).view(2, 1, 1) / 2
        miss = ((found[:, :, 1:] - target) * size).square().sum(2, keepdim=True).sqrt()
        return place, torch.cat([(miss > OFF).float(), met], dim=2)


def _between(nodes: Tensor, apart: int, height: int, width: int) -> Tensor:
    """Values [B, n, C, h, w] at pixels so far apart, at each pixel, [Bn, C, H, W]."""
    size = [apart * (count - 1) + 1 for count in nodes.shape[3:]]
    values = F.interpolate(nodes.flatten(0, 1), size, mode="bilinear", align_corners=True)
    return values[..., :height, :width]


def _of_cells(places: Tensor, cells: Tensor) -> Tensor:
    """Share of each of these cells [B, 1, h, w] that places [B, 1, H, W] fill."""
    h, w = cells.shape[2:]
    return F.adaptive_avg_pool2d(places.to(cells.dtype), (h, w))


def _worn(worn: Tensor, grid: Tensor) -> Tensor:
    """How far a picture has worn out, [B, 1, h, w], when its pixels are taken from the places of a grid [B, H, W, 2]:
    a double as large is once more."""
    h, w = worn.shape[2:]
    at = F.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), (h, w))
    before = F.grid_sample(worn, at.permute(0, 2, 3, 1), "bilinear", "border", align_corners=False)
    across, down = (torch.gradient(at, dim=dim)[0] for dim in (3, 2))  # in half pictures a cell
    area = (across[:, :1] * down[:, 1:] - across[:, 1:] * down[:, :1]).abs() * h * w / 4
    return (before - area.clamp_min(1e-3).log2() / 2).clamp(0, MADE_UP)


def _faded(places: Tensor, reach: int = EDGE) -> Tensor:
    """How much of a place [B, n, H, W] counts: 1 there, less and less around it, nothing from so many pixels on."""
    around = _swept(places, reach, torch.maximum).float()
    if not around.any():
        return around
    return _swept(around, reach, torch.add) / _swept(torch.ones_like(around[:1, :1]), reach, torch.add)


def _sampled(pictures: Tensor, grid: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] at places between their pixels. Torch's cubic spline overshoots at edges, more each time
    that a picture is moved; a third of linear makes it about Catmull and Rom's, which does not."""
    cubic, linear = (
        F.grid_sample(pictures, grid, mode, "border", align_corners=False) for mode in ("bicubic", "bilinear")
    )
    return torch.lerp(cubic, linear, LINEAR)


def _swept(values: Tensor, reach: int, both: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
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


def _filled(pictures: Tensor, hidden: Tensor, near: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in which what was hidden [B, 1, H, W] takes the colours around it, of what is far above
    all: what comes out from behind something lies behind it."""
    if not hidden.any():
        return pictures
    hides = F.max_pool2d(hidden.float(), 3, stride=1, padding=1)  # and the mixed pixels at its rim
    weight = (1 - hides) * torch.exp(-FARTHER * near.clamp_max(20)).clamp_min(1e-4)
    sums, around = [torch.cat([pictures * weight, weight], dim=1)], F.avg_pool2d(pictures, FILL_FROM[-1])
    for before, reach in pairwise((1, *FILL_FROM)):
        sums.append(F.avg_pool2d(sums[-1], reach // before))
    for colours in reversed(sums[1:]):  # from far around to near, as long as something is known there
        colours = F.avg_pool2d(colours, 3, stride=1, padding=1)
        nearer = colours[:, :3] / colours[:, 3:].clamp_min(ENOUGH)
        farther = F.interpolate(around, nearer.shape[2:], mode="bilinear", align_corners=False)
        around = torch.where(colours[:, 3:] > ENOUGH, nearer, farther)
    around = F.interpolate(around, pictures.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(hides > 0, around, pictures)
