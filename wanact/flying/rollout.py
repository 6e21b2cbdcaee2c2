"""Latent frames in their order, each drawn from those before it: how a causal model makes a clip or a flight."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from wanact import flow
from wanact.actions import NUM_CHANNELS
from wanact.errors import UserError
from wanact.flying.album import EVERY, Album
from wanact.flying.draft import Draft, Drafter, DraftSettings, Drawn
from wanact.flying.places import Redrawer
from wanact.flying.request import MAX_GUIDANCE
from wanact.flying.sight import Sight
from wanact.flying.viewpoint import way_to
from wanact.models.controller import WanActionController
from wanact.models.kv_cache import KVCache
from wanact.models.transformer import Actions, PreparedText

Sampler = Literal["euler", "consistency", "unipc"]
MAX_WINDOW = 1024  # latent frames that Wan's rotary table has places for; no model has seen a larger distance
HELD = 0.7  # of a draft, that an anchor shows: one that shows less is left for the newest picture
NEARBY = 0.3  # clip paths: one that was seen from farther away is too coarse
REGION = 0.4  # clip paths, within which what nobody has seen is made up from the same picture
LOOKS_DOWN_DEG = 4.0  # from it: a picture that shows so much less of the sky does not replace it
MAX_DRAW_STEPS = 100  # of a latent frame, far more than a causal checkpoint is trained for


@dataclass(frozen=True)
class CausalSettings:
    """How a causal checkpoint is flown; `causal` in its run's settings.

    Attributes:
        window: latent frames that a frame sees besides itself and the first.
        num_inference_steps: steps that draw a latent frame.
        sampler: `euler` follows the velocity from level to level; `consistency` goes to the end from each level and
            adds noise anew, as few-step students are trained; `unipc` is the solver of Wan's own command, and begins
            anew with every latent frame.
        guidance_scale: classifier-free guidance; 1 is none, and takes half the time.
        draft: how what is drawn from is drafted; None draws from noise alone.

    Raises:
        ValueError: for settings that cannot be flown.
    """

    window: int
    num_inference_steps: int
    sampler: Sampler = "euler"
    guidance_scale: float = 1.0
    draft: DraftSettings | None = None

    def __post_init__(self) -> None:
        for name, most in (("window", MAX_WINDOW), ("num_inference_steps", MAX_DRAW_STEPS)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"{name} is {_brief(value)}, expected a whole number from 1 to {most}")
        if self.sampler not in get_args(Sampler):
            raise UserError(f"sampler is {_brief(self.sampler)}, expected one of {', '.join(get_args(Sampler))}")
        guidance = self.guidance_scale
        if type(guidance) not in (int, float) or not 1 <= guidance <= MAX_GUIDANCE:
            raise UserError(f"guidance_scale is {_brief(guidance)}, expected a number from 1 to {MAX_GUIDANCE:g}")
        if isinstance(self.draft, dict):  # as a run's settings say it
            object.__setattr__(self, "draft", DraftSettings(**self.draft))
        if not isinstance(self.draft, DraftSettings | None):
            raise UserError(f"draft is {_brief(self.draft)}, expected an object")

    def said(self) -> dict[str, Any]:
        """As a run's settings say it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def _brief(value: object) -> str:
    """A value that may be anything, for a sentence."""
    return str(value)[:20] if type(value) is int and abs(value) < 10**20 else reprlib.repr(value)[:40]


DEFAULT_WINDOW = 20  # latent frames: a whole clip of 81 frames


def says_causal(config: Mapping[str, Any]) -> bool:
    """Whether a run's configuration says that it is flown frame by frame."""
    return isinstance(config.get("causal"), dict) or config.get("causal") is True


def causal_settings(said: Any, num_inference_steps: int) -> CausalSettings | None:
    """What a run's `causal` or a window means: None for neither.

    Args:
        said: settings, True for the usual ones, or a window in latent frames.
        num_inference_steps: of a frame, where it is not said.

    Raises:
        TypeError, ValueError: for settings that cannot be flown.
    """
    if said is None or said is False:
        return None
    usual: dict[str, Any] = {"window": DEFAULT_WINDOW, "num_inference_steps": num_inference_steps}
    own = said if isinstance(said, dict) else {} if said is True else {"window": said}
    return CausalSettings(**usual | own)


class CausalRollout:
    """The latents of a flight, one latent frame at a time.

    Args:
        transformer: a WanActTransformer3DModel that was trained to see only what was before.
        controller: None flies without actions.
        text: embeddings of the prompt [1, S, text_dim], or what `prepare_text` made of them.
        first_latent: the first frame, [B, C, 1, h, w]; B flights go side by side.
        sigmas: noise levels of the steps that draw a frame, from 1 down to 0.
        settings: window, sampler and guidance.
        late: actions that went before, where the flight is taken up in its middle.
        prediction: what the transformer predicts.
        negative: like `text`, what guidance leads away from; None draws without. Both see the same past, whose keys
            and values are those of `text`.
        drafter: drafts latent frames, where the settings say so; then every latent frame needs an action.
        cache: `RolloutCache` where more than one frame is learned from.
        first_picture: the first frame as it was given, [B, 3, H, W] in [-1, 1], for drafts; decoded if not given.
        place: of the camera in it, [B, 4]; the drafter's start if not given.
        redrawer: shows anew what has worn out of a picture; nobody does if not given.

    Attributes:
        place: of the camera after what is committed, [B, 4]; a drafter asks for it.
        redrawer: the same; may be set anew in flight, for other words.
    """

    def __init__(
        self,
        transformer: Any,
        controller: WanActionController | None,
        text: Tensor | PreparedText,
        first_latent: Tensor,
        sigmas: Sequence[float],
        settings: CausalSettings,
        late: int = 0,
        prediction: flow.Prediction = "flow_prediction",
        negative: Tensor | PreparedText | None = None,
        drafter: Drafter | None = None,
        cache: type[KVCache] = KVCache,
        first_picture: Tensor | None = None,
        place: Tensor | None = None,
        redrawer: Redrawer | None = None,
    ):
        self.drafter, self.redrawer = drafter, redrawer
        if drafter is not None and place is None:
            place = drafter.start(len(first_latent), first_latent.device)
        self.place = place
        self._album = Album(None if drafter is None else drafter.look)
        self._last: Sight | None = None  # the newest picture
        self._anchor: Sight | None = None  # what drafts are moved from
        self._region: Sight | None = None  # from which what nobody has seen is made up
        self._draft: Draft | None = None  # the newest, and what was drawn from it
        self._drawn: Drawn | None = None
        self.transformer = transformer
        self.negative = negative if settings.guidance_scale > 1 else None
        self.guidance_scale = settings.guidance_scale
        self.controller = controller
        self.text = text
        self.late = late
        self.sigmas = [float(sigma) for sigma in sigmas]
        self.sampler = settings.sampler
        self.prediction: flow.Prediction = prediction
        self._dtype = transformer.dtype  # diffusers goes through all modules to find it
        h, w = first_latent.shape[3:]
        self.cache = cache(transformer, (h, w), settings.window, batch_size=len(first_latent))
        self._zero = torch.zeros(1, 1, device=first_latent.device)
        if drafter is not None and first_picture is not None and place is not None:
            self._last = drafter.sight(first_picture, place)
        self.commit(first_latent, None)

    @property
    def drawn(self) -> Drawn | None:
        """The newest latent frame that was drawn from a draft, some of which is shown as it is."""
        return self._drawn

    def step(self, action: Actions | None, draw_noise: Callable[[], Tensor]) -> Tensor:
        """The next latent frame, drawn and committed; as `draw`."""
        latent = self.draw(action, draw_noise)
        self.commit(latent, action)
        return latent

    def draw(
        self,
        action: Actions | None,
        draw_noise: Callable[[], Tensor],
        after_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """The next latent frame [B, C, 1, h, w], float32; the one after it needs it committed.

        Args:
            action: (binary, magnitude) [B or 1, 1, A], the magnitude already scaled; None rests.
            draw_noise: standard normal of a latent frame's shape, anew at each call.
            after_step: called after each step; what it raises ends the drawing, and leaves no trace.
        """
        prepared = self._prepare(action)
        draw_source = self._sources(action, draw_noise)
        latent = draw_source()
        solver = self._solver() if self.sampler == "unipc" else None
        for step, (sigma, following) in enumerate(zip(self.sigmas, self.sigmas[1:], strict=False)):
            velocity = self._guided(latent, self._zero + 1000.0 * sigma, prepared)
            if solver is not None:
                latent = solver.step(velocity, solver.timesteps[step], latent, return_dict=False)[0]
            else:
                latent = self._moved(latent, velocity, sigma, following, draw_source)
            after_step()
        return self.joined(latent)

    def _moved(
        self, latent: Tensor, velocity: Tensor, sigma: float, following: float, draw_source: Callable[[], Tensor]
    ) -> Tensor:
        """A latent frame at the level of the next step."""
        if self.sampler == "euler" or following == 0:
            return flow.euler_step(latent, velocity, sigma, following)
        clean = flow.euler_step(latent, velocity, sigma, 0.0)
        return flow.interpolate(clean, draw_source(), following)

    def estimate(self, action: Actions | None, draw_noise: Callable[[], Tensor], last_step: int) -> Tensor:
        """The next latent frame as one of the steps that draw it sees it, [B, C, 1, h, w], float32; not committed.

        The steps before have no gradient. This is what a network learns from its own flights by: of a step that is
        chosen at random, so that in the end each step is learned.

        Args:
            action, draw_noise: as for `draw`.
            last_step: from 0; the last of all gives what `draw` gives.

        Source: Huang et al. 2025 (arXiv:2506.08009), algorithm 1.
        """
        if self.sampler == "unipc":
            raise ValueError("sampler unipc has no estimates of its own; use euler or consistency")
        prepared = self._prepare(action)
        draw_source = self._sources(action, draw_noise)
        latent = draw_source()
        with torch.no_grad():
            for sigma, following in zip(self.sigmas[:last_step], self.sigmas[1:], strict=False):
                velocity = self._velocity(latent, self._zero + 1000.0 * sigma, prepared)
                latent = self._moved(latent, velocity, sigma, following, draw_source)
        sigma = self.sigmas[last_step]
        velocity = self._velocity(latent, self._zero + 1000.0 * sigma, prepared)
        return flow.euler_step(latent, velocity, sigma, 0.0)

    def velocity(self, noisy: Tensor, sigma: Tensor, action: Actions | None) -> Tensor:
        """Velocity of a noisy next frame [B, C, 1, h, w] at `sigma` [B, 1]; leaves no trace."""
        return self._velocity(noisy, 1000.0 * sigma, self._prepare(action))

    def fly_blind(self, actions: Iterable[Actions | None]) -> None:
        """Turn the camera as these actions did, of which nothing is remembered."""
        if self.drafter is not None:
            for action in actions:
                self._turn(action)

    def draft(self, action: Actions | None) -> Draft:
        """What the camera alone tells of the next latent frame."""
        assert self.drafter is not None and self._last is not None, "who asks looked"
        self._draft = self.drafter(self._last, self._magnitude(action), self._album, self._anchor, self._region)
        return self._draft

    def _sources(self, action: Actions | None, draw_noise: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What a latent frame is drawn from: noise, on a draft where there is a drafter."""
        if self.drafter is None:
            return draw_noise
        draft = self.draft(action)
        return lambda: draft.under(draw_noise())

    def _magnitude(self, action: Actions | None) -> Tensor:
        return torch.zeros(1, 1, NUM_CHANNELS, device=self._zero.device) if action is None else action[1]

    def redraw(self, noisy: Tensor, sigma: Tensor, action: Actions | None, num_steps: int) -> Tensor:
        """The next latent frame, drawn from a noisy one in equal steps and committed: what training on one's own
        frames needs.

        Args:
            noisy: [B, C, 1, h, w], at `sigma`.
            sigma: noise level of each flight, [B, 1].
        """
        prepared = self._prepare(action)
        for left in range(num_steps, 0, -1):
            velocity = self._velocity(noisy, 1000.0 * sigma * left / num_steps, prepared)
            noisy = noisy - (sigma / num_steps).view(-1, 1, 1, 1, 1) * velocity
        noisy = self.joined(noisy)
        self._remember(noisy, action, prepared)
        return noisy

    def clip(self, actions: Actions | None, num_actions: int, draw_noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """The next latent frames along a track, one by one; `actions` [B or 1, num_actions, A], None rests."""
        for frame in range(num_actions):
            own = slice(frame, frame + 1)
            action = None if actions is None else (actions[0][:, own], actions[1][:, own])
            yield self.step(action, draw_noise)

    def commit(self, latent: Tensor, action: Actions | None) -> None:
        """Take a latent frame that is known as the next of the flight: one more pass, over what is clean."""
        self._remember(latent, action, self._prepare(action))

    def _turn(self, action: Actions | None) -> None:
        if self.drafter is not None and self.place is not None:
            self.place = self.drafter.moved(self.place, self._magnitude(action))

    def _remember(self, latent: Tensor, action: Actions | None, prepared: Tensor | None) -> None:
        if self.drafter is not None:
            self._look(self.drafter, latent, action)
        self.transformer.prefill(
            latent.to(self._dtype), self.text, self.cache, actions=[prepared], controller=self.controller
        )

    def _look(self, drafter: Drafter, latent: Tensor, action: Actions | None) -> None:
        """See what is remembered, and keep some of it."""
        if self.cache.num_frames > 0:
            self._turn(action)
        assert self.place is not None, "who drafts knows where the camera is"
        drawn = self._drawn if self._drawn is not None and latent is self._drawn.latent else None
        if drawn is not None:
            picture = drawn.frames[:, :, -1].float()
        elif self._last is not None and self.cache.num_frames == 0:
            picture = self._last.picture  # as it was given
        else:
            picture = drafter.picture(latent)
        worn, guess = (None, None) if drawn is None else (drawn.draft.worn, drawn.draft.near)
        if self._anchor is not None:
            self._anchor.fade_on()
        self._last, known = drafter.sight(picture, self.place, worn, guess), drawn is None
        if self.redrawer is not None and known:
            self.redrawer.begin(self.place, self.cache.num_frames)
        if drawn is not None and self._anchor is not None:
            self._anchor = self._anchor.renewed(self._last, drawn.draft.held < HELD)
        self._anchor = _renewed(self._anchor, self._last, known, NEARBY)
        keeps = self.cache.num_frames % EVERY == 0 and not self._anchor.fades
        redrawn = None
        if self.redrawer is not None and worn is not None and self._anchor is self._last:
            redrawn = self.redrawer(self._last, self.cache.num_frames)
        if redrawn is None:
            self._region = _renewed(self._region, self._last, known, REGION, LOOKS_DOWN_DEG)
        else:  # nothing belongs to it that was seen before
            self._album, self._region, keeps = Album(drafter.look), redrawn.region, True
            self._last = self._anchor = drafter.sight(redrawn.picture, self.place)
            self._last.fades_from, picture = picture, redrawn.picture
        if keeps:
            self._album.keep(picture, self.place)

    def joined(self, latent: Tensor) -> Tensor:
        """What was drawn, and what stays of its draft."""
        if self.drafter is None or self._draft is None:
            return latent
        if self._draft.latent_stays.any():
            latent = self._draft.joined(latent)
        self._drawn = Drawn(self.drafter.vae, latent, self._draft)
        return latent

    def _solver(self) -> UniPCMultistepScheduler:
        """Of one latent frame; the levels are shifted already."""
        solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
        levels: Any = np.array(self.sigmas[:-1])  # called a list there, and multiplied as an array
        solver.set_timesteps(sigmas=levels, device=self._zero.device)
        solver.set_begin_index(0)
        return solver

    def _guided(self, latent: Tensor, timestep: Tensor, action: Tensor | None) -> Tensor:
        velocity = self._velocity(latent, timestep, action)
        if self.negative is None:
            return velocity
        without = self._velocity(latent, timestep, action, self.negative)
        return without + self.guidance_scale * (velocity - without)

    def _prepare(self, action: Actions | None) -> Tensor | None:
        frame = self.cache.num_frames
        if self.controller is None or frame == 0:
            return None
        if action is None:
            none = torch.zeros(1, 1, NUM_CHANNELS, device=self._zero.device)
            action = (none, none)
        return self.transformer.prepare_frame_action(action, self.controller, frame + self.late)

    def _velocity(
        self, latent: Tensor, timestep: Tensor, action: Tensor | None, text: Tensor | PreparedText | None = None
    ) -> Tensor:
        output = self.transformer(
            latent.to(self._dtype),
            timestep,
            self.text if text is None else text,
            return_dict=False,
            actions=action,
            controller=None if action is None else self.controller,
            view=self.cache,
        )[0].float()
        return flow.velocity_of(output, latent, timestep.view(-1, 1, 1, 1, 1) / 1000.0, self.prediction)


def _renewed(sight: Sight | None, newest: Sight, known: bool, reach: float, lower_deg: float = math.inf) -> Sight:
    """The newest in place of what was seen from farther away than `reach` clip paths, or if it is known to be true; not
    where it looks down by so many degrees more."""
    if sight is None or known:
        return newest
    way = way_to(sight.place, newest.place[:, None])[:, 0].square().sum(-1).sqrt()
    return sight.renewed(newest, (way > reach) & (newest.place[:, 3] > sight.place[:, 3] - lower_deg))
