"""Pictures from words: a place to begin at, and what a flight shows anew where its picture has worn out.

A picture that is flown at grows, and shows less the nearer one comes. Whoever wants to fly on for ever has to draw it
anew: render, refine, repeat (Infinite Nature, Liu et al. 2021, arXiv:2012.09855). Here the picture is put under as much
noise as it has worn out, place by place, and drawn from there by a network that knows pictures of such places; what has
not worn out stays (Differential Diffusion, Levin and Fried 2023, arXiv:2306.00950).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanact import flow
from wanact.models import vae as vae_ops
from wanact.models.transformer import PreparedText

KEPT = 0.25  # doublings in size that a picture bears without being drawn anew
REDRAW_STEPS = 6  # from noise to a picture; a flight waits for it
SHOWN = 0.15  # level from which nothing but the new picture is shown


class Places:
    """Draws pictures of what a prompt says, as latents.

    Args:
        transformer: that was trained on pictures alone, with their words.
        text: embeddings of the words [1, S, text_dim], or what `prepare_text` made of them; under guidance those of
            the negative prompt behind them, [2, S, text_dim].
        prediction: what the transformer predicts.
        sigmas: noise levels of the steps, from 1 down to 0.
        guidance_scale: how far it is led away from the negative prompt; 1 draws without.
    """

    def __init__(
        self,
        transformer: Any,
        text: Tensor | PreparedText,
        prediction: flow.Prediction,
        sigmas: list[float],
        guidance_scale: float,
    ) -> None:
        self.transformer, self.text = transformer, text
        self.prediction: flow.Prediction = prediction
        self.sigmas, self.guidance_scale = sigmas, guidance_scale

    def draw(self, noise: Tensor, known: Tensor | None = None, worn: Tensor | None = None) -> Tensor:
        """A latent frame [1, C, 1, h, w], float32.

        Args:
            noise: standard normal, of the same shape.
            known: a latent frame that is drawn anew where it has worn out; all is drawn if not given.
            worn: the noise level from which each place is drawn anew, [1, 1, 1, h, w]; where it is 0 all stays.
        """
        latent = noise
        for sigma, following in zip(self.sigmas, self.sigmas[1:], strict=False):
            if known is not None and worn is not None:
                if sigma > float(worn.max()):
                    continue
                stays = worn < sigma if latent is not noise else torch.ones_like(worn, dtype=torch.bool)
                latent = torch.where(stays, flow.interpolate(known, noise, sigma), latent)
            latent = flow.euler_step(latent, self._velocity(latent, sigma), sigma, following)
        if known is not None and worn is not None:
            latent = torch.where(worn < self.sigmas[-2], known, latent)
        return latent

    def _velocity(self, latent: Tensor, sigma: float) -> Tensor:
        """Guided, [1, C, 1, h, w], float32."""
        branches = 1 if self.guidance_scale <= 1 else 2
        noisy = latent.to(self.transformer.dtype).expand(branches, -1, -1, -1, -1)
        timestep = torch.full((branches, 1), 1000.0 * sigma, device=latent.device)
        output = self.transformer(noisy, timestep, self.text, return_dict=False)[0].float()
        velocity = flow.velocity_of(output, latent, sigma, self.prediction)
        if branches == 1:
            return velocity
        asked, without = velocity.split(1)
        return without + self.guidance_scale * (asked - without)


class Redrawn(NamedTuple):
    """A picture, [1, 3, H, W] in [-1, 1], and how far it is still worn out, [1, 1, h, w]."""

    picture: Tensor
    worn: Tensor


class Redrawer:
    """Draws anew what has worn out of a flight's pictures.

    Args:
        places: draws pictures of what is seen.
        vae: of the flight.
        seed: of its noise.
    """

    def __init__(self, places: Places, vae: Any, seed: int) -> None:
        self.places, self.vae, self.seed = places, vae, seed

    @torch.no_grad()
    def __call__(self, picture: Tensor, worn: Tensor, number: int) -> Redrawn | None:
        """A picture as it is drawn anew; None where it has not worn out so far.

        Args:
            picture: [1, 3, H, W] in [-1, 1].
            worn: doublings in size since it was drawn, [1, 1, h, w].
            number: of its latent frame: each has noise of its own.
        """
        noise_level = (worn - KEPT).clamp(0, 1)  # a doubling more is made up anew
        if float(noise_level.max()) < self.places.sigmas[-2]:
            return None
        dtype = next(self.vae.parameters()).dtype
        known = vae_ops.encode(self.vae, picture.unsqueeze(2).to(dtype)).float()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        noise = torch.randn(known.shape, generator=generator).to(known.device)
        drawn = vae_ops.decode(self.vae, self.places.draw(noise, known, noise_level.unsqueeze(2)).to(dtype))
        share = (noise_level / SHOWN).clamp(0, 1)
        smooth = F.interpolate(share, picture.shape[2:], mode="bilinear", align_corners=False)
        # What is coarser than this noise is what it was, and stays worn: else a wall that fills the view stays a wall.
        return Redrawn(torch.lerp(picture, drawn[:, :, 0].float(), smooth), worn * (1 - noise_level))
