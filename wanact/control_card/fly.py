"""Fly the probes of a card, and measure them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wanact.actions import ActionTrack
from wanact.control_card.card import FULL_CARD, ControlCard
from wanact.control_card.clip import colour_shift, sharpness
from wanact.control_card.measures import Flown, Observation, all_measures, key
from wanact.control_card.probes import FirstFrame, fixed_first_frames, probes
from wanact.data.camera import FIELD_OF_VIEW_DEG, see
from wanact.errors import UserError
from wanact.shapes import TEMPORAL_STRIDE, num_actions, num_pixel_frames

if TYPE_CHECKING:
    from wanact.models.idm import InverseDynamics

NUM_FRAMES = 21
Fly = Callable[[FirstFrame, ActionTrack], np.ndarray]


def num_clips(first_frames: int, dose_frames: int) -> int:
    """Clips that a card takes."""
    return sum(len(probes(1, doses=number < dose_frames)) for number in range(first_frames))


def observe(
    frames: np.ndarray, idm: InverseDynamics | None = None, field_of_view_deg: float = FIELD_OF_VIEW_DEG
) -> Observation:
    """Everything that is read from one clip, uint8 [F, H, W, 3]."""
    seen = see(frames, field_of_view_deg)
    latent = frames[::TEMPORAL_STRIDE]
    error = np.square(frames[0].astype(np.float32) - frames[-1]).mean()
    return Observation(
        picture=seen.picture,
        camera=seen.camera,
        turn=seen.turn,
        inverse_dynamics=None if idm is None else idm.read(frames),
        sharpness=sharpness(latent),
        colour=colour_shift(latent),
        return_db=float(10 * np.log10(255**2 / max(float(error), 1e-4))),
    )


def fly_probes(
    fly: Fly,
    starts: Sequence[FirstFrame],
    dose_frames: int,
    num_frames: int = NUM_FRAMES,
    idm: InverseDynamics | None = None,
    on_clip: Callable[[int, int], None] | None = None,
    takes_actions: bool = True,
    field_of_view_deg: float = FIELD_OF_VIEW_DEG,
) -> Flown:
    """Fly every probe from every first frame.

    Args:
        fly: draws one flight, uint8 [F, H, W, 3] with a frame for the first and four for each action.
        starts: first frames; the first `dose_frames` of them are flown at all five magnitudes.
        num_frames: of a held channel.
        idm: reads the axes a second way.
        on_clip: called with (clips done, clips in all).
        takes_actions: False flies each length once, since every track gives the same clip.
    """
    flown, done, total = [], 0, num_clips(len(starts), dose_frames)
    for number, start in enumerate(starts):
        seen, drawn = {}, {}
        for probe in probes(num_actions(num_frames), doses=number < dose_frames):
            same = None if takes_actions else len(probe.track)
            if same is None or same not in drawn:
                drawn[same] = observe(fly(start, probe.track), idm, field_of_view_deg)
            seen[key(probe)] = drawn[same]
            done += 1
            if on_clip is not None:
                on_clip(done, total)
        flown.append((start, seen))
    return flown


def measure_card(
    pipe: Any,
    first_frames: Sequence[FirstFrame] | int = FULL_CARD,
    dose_frames: int = 2,
    num_frames: int = NUM_FRAMES,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = 1.0,
    idm: InverseDynamics | None = None,
    on_clip: Callable[[int, int], None] | None = None,
    field_of_view_deg: float = FIELD_OF_VIEW_DEG,
) -> ControlCard:
    """Measure the checkpoint that a pipeline has loaded.

    Args:
        pipe: a `WanActPipeline`; without a controller it takes no actions, and the card reads chance.
        first_frames: where flights begin, or how many of the fixed ones.
        dose_frames: how many of them are flown at all five magnitudes, which takes 32 clips more each.
        num_frames: of a held channel, in pixels. With more than 21 the simulator's pitch meets its limits.
        num_inference_steps, guidance_scale: of the sampler; None for the model's own.
        idm: the inverse dynamics model, or None to go without.
        on_clip: called with (clips done, clips in all); may raise to stop.
        field_of_view_deg: horizontal angle of the camera that the model was trained on.
    """
    starts = fixed_first_frames(first_frames) if isinstance(first_frames, int) else list(first_frames)
    if not starts:
        raise UserError("a control card needs at least one first frame")
    takes_actions = pipe.controller is not None
    checkpoint, causal = pipe.checkpoint, pipe.causal

    def fly(start: FirstFrame, track: ActionTrack) -> np.ndarray:
        return pipe(
            start.prompt,
            start.image,
            track if takes_actions else None,
            seed=start.seed,
            num_frames=num_pixel_frames(len(track) + 1),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )

    flown = fly_probes(fly, starts, dose_frames, num_frames, idm, on_clip, takes_actions, field_of_view_deg)
    steps = num_inference_steps or (causal.num_inference_steps if causal else pipe.defaults["num_inference_steps"])
    return ControlCard(
        checkpoint={"run": checkpoint.run, "step": checkpoint.step} if checkpoint else {"run": "base", "step": None},
        model={"name": str(pipe.metadata.get("name", "")), "fingerprint": pipe.fingerprint()},
        settings={
            "first_frames": len(starts),
            "dose_frames": min(dose_frames, len(starts)),
            "num_frames": num_frames,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale or pipe.defaults["guidance_scale"],
            "field_of_view_deg": field_of_view_deg,
            "kind": "causal" if causal else "clip",
        },
        measures=all_measures(flown),
    )
