"""A first guess of the next latent frame: the last picture, as it is seen from where the action leads.

Drawn from noise alone, what was seen a moment ago has to be drawn anew in every latent frame, and a small network
loses a little of it each time. A flight with drafts begins between the two instead: a little noise is added to the
draft, all of it where the draft knows nothing because it lay outside of the last picture, and the network moves that to
what is really there (a flow whose ends are coupled: Albergo et al. 2023, arXiv:2310.03725; pictures moved by a camera
and mended by a video model: ViewCrafter, Yu et al. 2024, arXiv:2409.02048).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact.actions import NEGATIVE, POSITIVE
from wanact.errors import UserError
from wanact.flying.album import Album
from wanact.flying.pixels import faded, of_cells
from wanact.flying.sides import Sides
from wanact.flying.sight import MADE_UP, Camera, Look, Sight
from wanact.flying.viewpoint import flown
from wanact.models import vae as vae_ops
from wanact.models.nearness import FOLDER, NearnessNetwork
from wanact.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE

LITTLE = 0.02  # of a picture: how near that is that comes into view need not be known
SIDE = 27  # pixels, a power of three, over which what is known goes over into what lies beside it


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
        near: how near what the last picture shows is, [B, 1, H/2, W/2]; None where too much of it came into view.
    """

    latent: Tensor
    noise: Tensor
    video: Tensor
    stays: Tensor
    latent_stays: Tensor
    held: Tensor
    worn: Tensor
    near: Tensor | None

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
        self.camera = Camera(settings.field_of_view_deg)
        self.sides = Sides(self.camera)
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

    @property
    def look(self) -> Look | None:
        """Says of pictures how near everything is; None where nobody does."""
        return None if self.eye is None else self._near

    def sight(self, picture: Tensor, place: Tensor, worn: Tensor | None = None, guess: Tensor | None = None) -> Sight:
        """A picture [B, 3, H, W] in [-1, 1] from a place [B, 4], for drafts to be moved from; `worn` and `guess` as a
        sight's."""
        return Sight(picture, place, self.look, worn, guess)

    @torch.no_grad()
    def _near(self, picture: Tensor, place: Tensor) -> Tensor:
        assert self.eye is not None, "who looks has one"
        elevation = self.camera.rays(picture, place).elevation()
        return self.eye(picture.to(next(self.eye.parameters()).dtype), elevation).float()

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
        seen = self.camera.seen(anchor or last, targets)
        held = 1 - seen.missing[:, -1].float().mean((1, 2))
        if anchor is not None and anchor is not last and not anchor.fades and seen.missing.any():
            seen = self.camera.filled(seen, last, targets)
        if album is not None and seen.outside.any():
            open_ = F.adaptive_avg_pool2d(seen.outside.float().mean(1, keepdim=True), cells)[:, 0]
            found = album.find(targets[:, -1], open_, self.camera.view(last.picture))
            if found is not None:
                earlier, fits = found
                seen = self.camera.filled(seen, earlier, targets, fits[:, None, None, None] & seen.outside, SIDE)
        (video, near), unseen = seen.painted(), seen.outside
        if self.settings.mirrors and region is not None and unseen.any():
            share = faded(unseen, SIDE)[:, None]
            strip = torch.nonzero(share.amax((0, 1, 2, 3)))  # where there is any: that takes half as long
            columns = slice(int(strip[0]), int(strip[-1]) + 1)
            beside = self.sides.around(region, targets, columns)
            video[..., columns] = torch.lerp(video[..., columns], beside, share[..., columns])
            unseen = torch.zeros_like(unseen)
        worn = seen.worn * (1 - of_cells(seen.outside[:, -1:], seen.worn))
        worn = torch.lerp(worn, torch.full_like(worn, MADE_UP), of_cells(seen.hidden[:, -1:], worn))
        is_known = seen.looked and float(seen.outside[:, -1].float().mean((1, 2)).max()) < LITTLE
        unknown = F.avg_pool2d(unseen.float().mean(1, keepdim=True), 8)
        unknown = F.adaptive_max_pool2d(unknown, cells)[:, :, None]
        settings = self.settings
        edge = faded(unseen)[:, None]
        return Draft(
            vae_ops.encode_alone(self.vae, video.to(self._dtype)).float(),
            settings.noise + (1 - settings.noise) * unknown,
            video,
            settings.trust * (1 - edge),
            settings.trust * (1 - (2 * unknown).clamp(0, 1)),
            held,
            worn,
            F.avg_pool2d(near[:, -1:], 2) if is_known else None,
        )
