"""Self-forcing: a network learns from flights of its own, drawn frame by frame with the cache as they are flown.

Two losses are made of such rollouts.

- `--commit truth|own`, the plan's: every frame is predicted from noise of its own level, and of each the truth or the
  network's estimate is remembered. With the truth it is teacher forcing, frame by frame.
- `--distribution_matching`: from the first frame on the network draws a clip in the steps of a flight, and is moved
  where two networks that see whole clips differ: `real` knows clips of the data, and the critic, which is trained all
  along, those that the network draws. No frame has a truth, so that errors which a flight piles up count as what they
  are: clips that look like none.

The past that a frame sees never has a gradient, and of the steps that draw it only the last one that is taken has.

Source: Yin et al. 2024 (DMD2, arXiv:2405.14867); Huang et al. 2025 (Self Forcing, arXiv:2506.08009).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from train.loop.config import ConfigError, flag
from wanact import flow
from wanact.flying.rollout import CausalRollout
from wanact.models.controller import WanActionController
from wanact.models.transformer import Actions, WanActTransformer3DModel

CRITIC, GENERATOR = "critic", "generator"
SCORE_SIGMAS = (0.02, 0.98)  # both networks are asked between these levels
MATCHING_STEPS = 4  # of a latent frame, where --flight_steps says nothing
LEAST_DISTANCE = 1e-6  # of a clip that is as the data's: the gradient is divided by it

ActionOf = Callable[[int], Actions | None]  # what leads to a latent frame


@dataclass
class SelfForcingOptions:
    """How a network learns from its own flights."""

    commit: Literal["truth", "own"] | None = flag(
        default=None,
        help="roll frames out one by one with the cache, and remember the true frame or the network's own estimate; "
        "all frames in one pass if not given",
    )
    grad_frames: int | None = flag(
        default=None, help="newest frames of a rollout that have a gradient; all that are predicted if not given"
    )
    distribution_matching: bool = flag(
        default=False, help="learn from own flights by a critic, so that clips look as --real_run's; see docs/vidar.md"
    )
    real_run: str | None = flag(
        default=None,
        help="run, checkpoint or weights that draw whole clips, which are matched; the model directory's if not given",
    )
    real_guidance: float = flag(
        default=3.0,
        help="how much further the real estimate goes away from that without words: a guidance scale less one",
    )
    fake_guidance: float = flag(default=0.0, help="the same for the critic's estimates")
    generator_every: int = flag(default=5, help="updates of the critic for each of what flies")
    critic_rate: float = flag(default=0.2, help="the critic's learning rate, as a share of --learning_rate")

    def __post_init__(self) -> None:
        for name in ("grad_frames", "generator_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} must be at least 1")
        for name in ("real_guidance", "fake_guidance"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name):g} must not be negative")
        if self.critic_rate <= 0:
            raise ConfigError(f"--critic_rate {self.critic_rate:g} must be above 0")
        if self.commit and self.distribution_matching:
            raise ConfigError("--distribution_matching always remembers its own frames; leave --commit out")
        if self.grad_frames and not (self.commit or self.distribution_matching):
            raise ConfigError("--grad_frames has no effect without --commit or --distribution_matching")

    @property
    def rolls_out(self) -> bool:
        return self.distribution_matching or self.commit is not None


MATCHING_SETTINGS = ("real_run", "real_guidance", "fake_guidance", "generator_every", "critic_rate")


def frame_noise(seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> Callable[[], Tensor]:
    """Noise of latent frames one after the other, [B, C, 1, h, w]: a stream for each sample, drawn as it is used."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda: torch.stack([torch.randn(shape, generator=one) for one in generators]).to(device)


class Predicted(NamedTuple):
    """Frames that a rollout has predicted.

    Attributes:
        velocity: [B, C, n, h, w]; zero where a frame is given.
        source: what they are drawn from, like `velocity`: noise, on drafts where the rollout makes some.
        shows: how much of what is drawn will be seen, [B, 1, n, h, w], the rest is its draft's; None without drafts.
    """

    velocity: Tensor
    source: Tensor
    shows: Tensor | None


def predicted_velocities(
    rollout: CausalRollout,
    latents: Tensor,
    noise: Tensor,
    sigma: Tensor,
    action_of: ActionOf,
    start: int,
    commit: Literal["truth", "own"],
    grad_frames: int | None,
    given: int = 1,
) -> Predicted:
    """The plan's rollout: each frame is predicted once, and then remembered.

    Args:
        rollout: that has committed the first frame.
        latents: the true clip, [B, C, stop, h, w].
        noise: of frames from `start` on, [B, C, n, h, w].
        sigma: their levels, [B, n].
        start: frames before it are history alone.
        commit: what is remembered of a predicted frame.
        grad_frames: newest frames that have a gradient; None for all.
        given: frames at the clip's beginning that are history alone wherever `start` is.
    """
    stop = latents.shape[2]
    place = slice(0, max(given - start, 0))
    velocities, sources = [torch.zeros_like(noise[:, :, place])], [noise[:, :, place]]
    shows = [torch.ones_like(noise[:, :1, place])]
    for frame in range(1, stop):
        action, clean = action_of(frame), latents[:, :, frame : frame + 1]
        if frame >= max(start, given):
            place = slice(frame - start, frame - start + 1)
            level, source = sigma[:, place], noise[:, :, place]
            draft = None if rollout.drafter is None else rollout.draft(action)
            if draft is not None:
                source = draft.under(source)
                shows.append(1 - draft.latent_stays)
            noisy = flow.interpolate(clean, source, level[:, None, :, None, None])
            with torch.set_grad_enabled(torch.is_grad_enabled() and _learns(frame, stop, grad_frames)):
                velocity = rollout.velocity(noisy, level, action)
            velocities.append(velocity)
            sources.append(source)
            if commit == "own":
                clean = flow.euler_step(noisy, velocity.detach(), level[:, None, :, None, None], 0.0)
                clean = rollout.joined(clean)
        if frame + 1 < stop:
            _commit(rollout, clean, action)
    drafted = None if rollout.drafter is None else torch.cat(shows, dim=2)
    return Predicted(torch.cat(velocities, dim=2), torch.cat(sources, dim=2), drafted)


def drawn_clip(
    rollout: CausalRollout,
    given: Tensor,
    stop: int,
    action_of: ActionOf,
    draw_noise: Callable[[], Tensor],
    last_step: int,
    grad_frames: int | None,
) -> Tensor:
    """A clip that goes on from given frames as a flight does, [B, C, stop, h, w].

    Args:
        rollout: that has committed the first frame.
        given: true frames, [B, C, n, h, w], of which the first is committed.
        last_step: of the steps that draw a frame, the last that is taken, the same for all frames.
        grad_frames: newest frames that have a gradient; None for all.
    """
    frames = [*given.split(1, dim=2)]
    for frame in range(1, stop):
        action = action_of(frame)
        if frame >= len(frames):
            with torch.set_grad_enabled(torch.is_grad_enabled() and _learns(frame, stop, grad_frames)):
                frames.append(rollout.estimate(action, draw_noise, last_step))
        if frame + 1 < stop:
            _commit(rollout, frames[frame].detach(), action)
    return torch.cat(frames, dim=2)


def _learns(frame: int, stop: int, grad_frames: int | None) -> bool:
    return grad_frames is None or frame >= stop - grad_frames


@torch.no_grad()
def _commit(rollout: CausalRollout, clean: Tensor, action: Actions | None) -> None:
    rollout.commit(clean, action)


@dataclass
class Score:
    """A network that sees whole clips, and what it takes noisy ones for.

    Attributes:
        controller: None where nothing steers.
        prediction: what the transformer predicts.
    """

    transformer: WanActTransformer3DModel
    controller: WanActionController | None
    prediction: flow.Prediction

    def velocity(self, noisy: Tensor, sigma: Tensor, context: Tensor, actions: Actions | None) -> Tensor:
        """Velocity [B, C, T, h, w] of clips whose first frame is clean and whose others are at `sigma` [B]."""
        timestep = (1000.0 * sigma)[:, None].repeat(1, noisy.shape[2])
        timestep[:, 0] = 0.0
        output = self.transformer(
            noisy, timestep, context, return_dict=False, actions=actions, controller=self.controller
        )[0]
        return flow.velocity_of(output, noisy, timestep[:, None, :, None, None] / 1000.0, self.prediction).float()

    def clean(
        self,
        noisy: Tensor,
        sigma: Tensor,
        context: Tensor,
        actions: Actions | None,
        without: Tensor,
        guidance: float,
    ) -> Tensor:
        """The clip that is seen behind the noise, `guidance` times further away from the one without words."""
        velocity = self.velocity(noisy, sigma, context, actions)
        if guidance:
            velocity = velocity + guidance * (velocity - self.velocity(noisy, sigma, without, actions))
        return flow.euler_step(noisy, velocity, sigma.view(-1, 1, 1, 1, 1), 0.0)


def at_level(clip: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """A clip under noise of one level [B], but for its first frame."""
    noisy = flow.interpolate(clip, noise, sigma.view(-1, 1, 1, 1, 1))
    return torch.cat([clip[:, :, :1], noisy[:, :, 1:]], dim=2)


def matching_loss(clip: Tensor, real: Tensor, fake: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """A loss whose gradient leads a clip from what the critic sees behind its noise to what the real score sees.

    Args:
        clip: drawn, with a gradient, [B, C, T, h, w].
        real, fake: estimates of the clean clip, like `clip`.
        counted: 1 where frames are moved, [B, 1, T, 1, 1].

    Returns:
        Loss [B], half the squared step, and the step's mean size [B].

    Source: Yin et al. 2024 (DMD, arXiv:2311.18828), equations 7 and 8: the step is divided by the mean distance to the
    real estimate, so that all noise levels count alike.
    """
    share = counted / (counted.sum(dim=(1, 2, 3, 4), keepdim=True) * clip[0, :, 0].numel())

    def mean(values: Tensor) -> Tensor:
        return (values * share).sum(dim=(1, 2, 3, 4))

    with torch.no_grad():
        distance = mean((clip - real).abs()).clamp_min(LEAST_DISTANCE)
        step = (fake - real) / distance.view(-1, 1, 1, 1, 1)
        target = clip - step
    return 0.5 * mean((clip - target).square()), mean(step.abs())
