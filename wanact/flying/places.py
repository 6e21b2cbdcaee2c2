"""Pictures from words: a place to begin at, and what a flight shows anew where its picture has worn out.

A picture that is flown at grows, and shows less the nearer one comes. Whoever wants to fly on for ever has to show it
anew: render, refine, repeat (Infinite Nature, Liu et al. 2021, arXiv:2012.09855). Here what has worn out is taken from
a clear picture of the same land, the flight's first one, or one that is drawn when the words have changed: turned to
where it fits best what is still seen, its sides mirrored, so that a horizon meets a horizon and what lies before one is
ground.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wanact import flow
from wanact.flying.draft import SKY, Drafter, Sight
from wanact.media.likeness import above_and_below
from wanact.media.video import to_uint8
from wanact.models import vae as vae_ops
from wanact.models.transformer import PreparedText

REDRAW_STEPS = 6  # from noise to a picture, when the words change in flight, which waits for it
KEPT = 0.8  # doublings in size that a picture bears
RAMP = 0.1  # more, over which another one takes its place
LEAST = 0.2  # share of any cell that is worth a change
TURNS_DEG = tuple(range(-60, 61, 15))  # of the clear picture, of which the one that fits best is taken
RECENT = 3  # of which are not taken again at once: who flies ahead leaves things behind
UPRIGHT = 0.9  # times as near as what lies under it
COARSE = 4  # pixels, to which pictures are averaged to see what fits

# When a horizon counts as lost, and all of the picture is changed.
LOST = 0.5  # of what the first picture has above and below
LEAST_HORIZON = 10.0  # in CIELAB, of a picture that has one to lose
LEVEL_DEG = 4.0  # from the first picture's pitch: who looks down sees no horizon
SEEN, STAYS = 40, 20  # latent frames that a flight, and that another view is shown at least


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
    """A picture in which what had worn out is shown anew.

    Attributes:
        picture: [1, 3, H, W] in [-1, 1].
        worn: how far it is still worn out, [1, 1, h, w].
        is_elsewhere: whether it shows another place, to which nothing belongs that was seen before.
    """

    picture: Tensor
    worn: Tensor
    is_elsewhere: bool = False


class Redrawer:
    """Shows anew what has worn out of a flight's pictures; and all of a picture that has no horizon left.

    What is shown anew piece by piece may keep a hill as a wall that fills the view, and a sky as a sky. Another view is
    shown then: the horizon of the clear picture and its light, what stands there somewhere else.

    Args:
        drafter: of the flight.
        clear: a picture of this land, [1, 3, H, W] in [-1, 1], as flights begin; None draws one from the words.
        places: draws it.
        seed: of its noise.
    """

    def __init__(self, drafter: Drafter, clear: Tensor | None, places: Places, seed: int) -> None:
        self.drafter, self.places, self.seed = drafter, places, seed
        self._turns = deque([0], maxlen=RECENT)  # that were taken last; a flight begins with the picture as it is
        self._clear = None if clear is None else drafter.sight(clear, drafter.start(1, clear.device))
        self._horizon: _Horizon | None = None
        self._lost_since: int | None = None

    @torch.no_grad()
    def __call__(self, sight: Sight, number: int) -> Redrawn | None:
        """What takes a sight's place; None while it has not worn out so far.

        Args:
            sight: of one flight.
            number: of its latent frame.
        """
        is_lost = self._is_lost(sight, number)
        share = ((sight.worn_out - KEPT) / RAMP).clamp(0, 1)
        if is_lost:
            share = torch.ones_like(share)
        if float(share.max()) < LEAST:
            return None
        clear, pitch = self._clear_sight(sight.picture), sight.place[:, 3:]
        turn = TURNS_DEG[number % len(TURNS_DEG)] if is_lost else self._fitting(clear, sight, share)
        self._turns.append(turn)
        other = self.drafter.turned(clear.picture, pitch, [turn])[:, :, 0]
        if clear.near is not None:  # a turn leaves everything as near as it was
            near = self.drafter.turned(clear.near.expand(-1, 3, -1, -1), pitch, [turn])[:, :1, 0]
            share = _upright(share, near)
        anew = F.interpolate(share, other.shape[2:], mode="bilinear", align_corners=False)
        return Redrawn(torch.lerp(sight.picture, other, anew), sight.worn_out * (1 - share), is_lost)

    def _fitting(self, clear: Sight, sight: Sight, share: Tensor) -> int:
        """The turn of the clear picture, of those that were not taken lately, by which it is most like the other where
        that stays as it is."""
        turns = [turn for turn in TURNS_DEG if turn not in self._turns]
        coarse, picture = (F.avg_pool2d(x.picture, COARSE) for x in (clear, sight))
        anew = F.interpolate(share, picture.shape[2:], mode="bilinear", align_corners=False)
        turned = self.drafter.turned(coarse, sight.place[:, 3:], turns)
        unlike = ((turned - picture[:, :, None]).abs() * (1 - anew[:, :, None])).mean((0, 1, 3, 4))
        return turns[int(unlike.argmin())]

    def _clear_sight(self, picture: Tensor) -> Sight:
        """What is shown anew, of this picture's size."""
        if self._clear is None:
            vae = self.drafter.vae
            dtype = next(vae.parameters()).dtype
            shape = vae_ops.encode(vae, picture[:, :, None].to(dtype)).shape
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)).to(picture.device)
            drawn = vae_ops.decode(vae, self.places.draw(noise).to(dtype))[:, :, 0].float()
            self._clear = self.drafter.sight(drawn, self.drafter.start(1, drawn.device))
        return self._clear

    def _is_lost(self, sight: Sight, number: int) -> bool:
        """Whether this picture and the one before it have not what the first has above and below."""
        sides, pitch = above_and_below(to_uint8(sight.picture.transpose(0, 1))[0]), float(sight.place[0, 3])
        if self._horizon is None:
            if np.linalg.norm(sides) >= LEAST_HORIZON:
                self._horizon = _Horizon(sides, pitch, number + SEEN)
            return False
        if abs(pitch - self._horizon.pitch) > LEVEL_DEG or self._horizon.is_in(sides):
            self._lost_since = None
            return False
        if self._lost_since is None:
            self._lost_since = number
        if self._lost_since == number or number < self._horizon.stays_until:
            return False
        self._horizon, self._lost_since = replace(self._horizon, stays_until=number + STAYS), None
        return True


def _upright(share: Tensor, near: Tensor) -> Tensor:
    """How much of each cell [1, 1, h, w] another picture takes over, with what stands there on what it takes: it is
    about as near, in 1 / distance [1, 1, H, W], as what lies under it."""
    near = F.adaptive_max_pool2d(near, share.shape[2:])
    rows, stands = list(share.unbind(2)), near[:, :, :-1] > (UPRIGHT * near[:, :, 1:]).clamp_min(SKY)
    for row in reversed(range(len(rows) - 1)):
        rows[row] = torch.maximum(rows[row], rows[row + 1] * stands[:, :, row])
    return torch.stack(rows, dim=2)


@dataclass(frozen=True)
class _Horizon:
    """Of the first picture that had one.

    Attributes:
        sides: what `above_and_below` says of it.
        pitch: of its camera, in degrees.
        stays_until: latent frame up to which nothing else is shown.
    """

    sides: np.ndarray
    pitch: float
    stays_until: int

    def is_in(self, sides: np.ndarray) -> bool:
        """Whether another picture's colours differ enough from above to below, and the same way."""
        return float(sides @ self.sides) > LOST * float(self.sides @ self.sides)
