"""Pictures from words: a place to begin at, and another view where a flight's picture has worn out.

A picture that is flown at grows, and shows less the nearer one comes. Whoever wants to fly on for ever has to show
something anew: render, refine, repeat (Infinite Nature, Liu et al. 2021, arXiv:2012.09855). Here it is another view of
a clear picture of the same land: the flight's first one, or one that is drawn when the words have changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact import flow
from wanact.flying.draft import Drafter
from wanact.flying.sides import COARSE
from wanact.flying.sight import SKY, Sight
from wanact.flying.viewpoint import way_to
from wanact.models import vae as vae_ops
from wanact.models.transformer import PreparedText

REDRAW_STEPS = 6  # from noise to a picture, when the words change in flight, which waits for it
KEPT = 0.8  # doublings in size that a picture bears
ASIDE = 2.0  # doublings, that being seen by a radian from another side is as bad as
LEAST = 0.2  # of a picture, worn out so far: another takes its place
TURNS_DEG = (-20, -10, 0, 10, 20)  # of the clear picture and its mirror image, of which the one that fits best is taken
LASTS = 11  # latent frames, that a view is shown at least
RECENT = 4  # of which are not taken again at once: who flies ahead leaves things behind
RIM = 7  # pixels of what stands before a sky that are not its own


class Places:
    """Draws pictures of what a prompt says, as latents.

    Args:
        transformer: that was trained on pictures alone, with their words.
        text: embeddings of the words [1, S, text_dim], or what `prepare_text` made of them; under guidance those of
            the negative prompt behind them, [2, S, text_dim].
        prediction: what the transformer predicts.
        sigmas: noise levels of the steps, from 1 down to 0.
        guidance_scale: how far it is led away from the negative prompt; 1 draws without.
        perturbed_layers: in which the branch that it is led away from does not look around.
    """

    def __init__(
        self,
        transformer: Any,
        text: Tensor | PreparedText,
        prediction: flow.Prediction,
        sigmas: list[float],
        guidance_scale: float,
        perturbed_layers: Collection[int] = (),
    ) -> None:
        self.transformer, self.text = transformer, text
        self.prediction: flow.Prediction = prediction
        self.sigmas, self.guidance_scale, self.perturbed_layers = sigmas, guidance_scale, perturbed_layers

    def draw(self, noise: Tensor) -> Tensor:
        """A latent frame [1, C, 1, h, w], float32, from standard normal noise of the same shape."""
        latent = noise
        for sigma, following in zip(self.sigmas, self.sigmas[1:], strict=False):
            latent = flow.euler_step(latent, self._velocity(latent, sigma), sigma, following)
        return latent

    def _velocity(self, latent: Tensor, sigma: float) -> Tensor:
        """Guided, [1, C, 1, h, w], float32."""
        branches = 1 if self.guidance_scale <= 1 else 2
        noisy = latent.to(self.transformer.dtype).expand(branches, -1, -1, -1, -1)
        timestep = torch.full((branches, 1), 1000.0 * sigma, device=latent.device)
        perturbed = self.perturbed_layers if branches == 2 else ()
        output = self.transformer(noisy, timestep, self.text, return_dict=False, perturbed_layers=perturbed)[0].float()
        velocity = flow.velocity_of(output, latent, sigma, self.prediction)
        if branches == 1:
            return velocity
        asked, without = velocity.split(1)
        return without + self.guidance_scale * (asked - without)


class Redrawn(NamedTuple):
    """Another view.

    Attributes:
        picture: [1, 3, H, W] in [-1, 1].
        region: the picture of which it is a part, and where that would have been seen.
    """

    picture: Tensor
    region: Sight


class _Clear(NamedTuple):
    """A clear picture of the land, and its sky as if nothing stood before it, [1, 3, H, W]."""

    sight: Sight
    sky: Tensor


class Redrawer:
    """Shows another view where a flight's picture has worn out: the clear picture or its mirror image, turned a little,
    under the sky that there was.

    All of the picture changes at once. Piece by piece, what is left and what is new do not fit: halves of hills hang in
    the air.

    Args:
        drafter: of the flight.
        clear: a picture of this land, [1, 3, H, W] in [-1, 1], as flights begin; None draws one from the words.
        places: draws it.
        seed: of its noise.
    """

    def __init__(self, drafter: Drafter, clear: Tensor | None, places: Places, seed: int) -> None:
        self.drafter, self.places, self.seed = drafter, places, seed
        self._shown = deque([(False, 0)], maxlen=RECENT)  # lately; a flight begins with the picture as it is
        self._begun: Tensor | None = None  # where the view was first seen from
        self._until = 0  # latent frame, up to which nothing else is shown
        self._clear = None if clear is None else self._looked_at(clear)

    @torch.no_grad()
    def __call__(self, sight: Sight, number: int) -> Redrawn | None:
        """What takes a sight's place; None while it has not worn out so far.

        Args:
            sight: of one flight.
            number: of its latent frame.
        """
        worn = self._worn(sight) > KEPT
        if number < self._until or float(worn.float().mean()) < LEAST:
            return None
        self.begin(sight.place, number)
        clear = self._clear_ones(sight.picture).sight
        is_mirrored, turn = self._fitting(clear, sight, worn)
        self._shown.append((is_mirrored, turn))
        seen_from = sight.place.clone()  # by a camera that then turned
        seen_from[:, 2:] = torch.cat([sight.place[:, 2:3] - turn, clear.place[:, 3:]], dim=1)
        region = self._under_sky(clear.mirror_image if is_mirrored else clear, seen_from)
        return Redrawn(self.drafter.sides.around(region, sight.place[:, None])[:, :, 0], region)

    def begin(self, place: Tensor, number: int) -> None:
        """From this place [1, 4] and latent frame on a view is seen that has not worn out."""
        self._begun, self._until = place, number + LASTS

    def _worn(self, sight: Sight) -> Tensor:
        """How far each cell of it has worn out, [1, 1, h, w]; so has what is seen from another side than at first:
        pictures have no other one."""
        if self._begun is None:
            self._begun = sight.place
        if sight.roughly_near is None:
            return sight.worn_out
        ways = way_to(self._begun, sight.place[:, None]), way_to(sight.place, self._begun[:, None])
        aside = torch.minimum(*(way[..., 1].abs() for way in ways))  # who turns on the way sees other things
        h, w = sight.worn.shape[2:]
        return sight.worn_out + ASIDE * aside * F.adaptive_avg_pool2d(sight.roughly_near, (h, w))

    def _fitting(self, clear: Sight, sight: Sight, worn: Tensor) -> tuple[bool, int]:
        """The view, of those that were not shown lately, that is most like the picture where that has not worn out."""
        stays = 1 - F.interpolate(worn.float(), [size // COARSE for size in sight.picture.shape[2:]])[:, :, None]
        picture = F.avg_pool2d(sight.picture, COARSE)[:, :, None]
        turns, pitch = sight.place.new_tensor([TURNS_DEG]), sight.place[:, 3:]
        unlike: dict[tuple[bool, int], float] = {}
        for is_mirrored, side in ((False, clear), (True, clear.mirror_image)):
            turned = self.drafter.sides.turned(F.avg_pool2d(side.picture, COARSE), clear.place, turns, pitch)
            each = ((turned - picture).abs() * stays).mean((0, 1, 3, 4)).tolist()
            unlike |= {(is_mirrored, turn): value for turn, value in zip(TURNS_DEG, each, strict=True)}
        return min((view for view in unlike if view not in self._shown), key=unlike.__getitem__)

    def _under_sky(self, clear: Sight, place: Tensor) -> Sight:
        """A clear picture as if seen from a place, under the sky that is there: it comes no nearer."""
        if clear.near is None:
            return Sight(clear.picture, place)
        first, sky = self._clear_ones(clear.picture)
        ahead = torch.cat([place[:, :2], first.place[:, 2:]], dim=1)  # as then: whoever moves, it comes along
        sky = self.drafter.sides.mirrored(sky, ahead, place[:, None])[:, :, 0]
        is_sky = F.avg_pool2d((_at_pixels(clear.near, sky) < SKY).float(), 3, stride=1, padding=1)
        return self.drafter.sight(torch.lerp(clear.picture, sky, is_sky), place)

    def _clear_ones(self, picture: Tensor) -> _Clear:
        """What is shown anew, of this picture's size."""
        if self._clear is None:
            vae = self.drafter.vae
            dtype = next(vae.parameters()).dtype
            shape = vae_ops.encode(vae, picture[:, :, None].to(dtype)).shape
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)).to(picture.device)
            self._clear = self._looked_at(vae_ops.decode(vae, self.places.draw(noise).to(dtype))[:, :, 0].float())
        return self._clear

    @torch.no_grad()
    def _looked_at(self, picture: Tensor) -> _Clear:
        """All that is known of a clear picture: a flight has no time for it."""
        sight = self.drafter.sight(picture, self.drafter.start(1, picture.device))
        if sight.near is None:
            return _Clear(sight, picture)
        stands = (_at_pixels(sight.near, picture) > SKY).float()
        return _Clear(sight, _sky(picture, 1 - F.max_pool2d(stands, RIM, stride=1, padding=RIM // 2)))


def _sky(picture: Tensor, known: Tensor) -> Tensor:
    """A picture [1, 3, H, W] of which only the sky is known, where `known` [1, 1, H, W] is 1, and what would be seen if
    nothing stood before it: colours from beside, or of the row, and below the lowest that shows any, of that one."""
    height, width = picture.shape[2:]
    has_any = known.amax(3)[0, 0] > 0
    if not has_any.any():
        return picture
    rows = torch.arange(height, device=picture.device)
    from_row = torch.where(has_any, rows, 0).cummax(0).values.clamp_min(int(has_any.int().argmax()))
    sums = torch.cat([picture * known, known], dim=1)[:, :, from_row]
    around, parts = sums.mean(3, keepdim=True), 1
    around = around[:, :3] / around[:, 3:]
    while parts < width:
        parts = min(2 * parts, width)
        beside = F.adaptive_avg_pool2d(sums, (height, parts))
        around = F.interpolate(around, (height, parts), mode="bilinear", align_corners=False)
        around = torch.lerp(around, beside[:, :3] / beside[:, 3:].clamp_min(1e-6), beside[:, 3:])
    return around


def _at_pixels(near: Tensor, picture: Tensor) -> Tensor:
    """How near each pixel of a picture is, of which every second was seen."""
    return F.interpolate(near, picture.shape[2:], mode="bilinear", align_corners=False)
