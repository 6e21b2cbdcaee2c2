"""Video alone: no poses at all. Actions are estimated from the pictures, and say so wherever they go.

The inverse dynamics model reads all four axes; it knows the simulator's scale alone. Where it sees hardly any flight,
the picture's own motion is the camera's rotation, and optical flow reads it better, up to the lens's angle. The error
of both together is measured before the first clip, on flights in held-out worlds of the simulator: footage of the real
world is read worse than that. What is smaller than that error is left out, and so is a clip whose picture moves against
what was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from train.data.csv import DataError, Skipped
from train.data.importers.trajectory import Unposed, videos_in
from train.data.importers.turning import picture_shifts
from wanact.actions import ActionTrack
from wanact.models.idm import FULL, InverseDynamics, load_idm
from wanact.shapes import TEMPORAL_STRIDE
from wanact.world import simulator
from wanact.world.poses import DEAD_ZONE

AXES = ("ahead", "right", "yaw_right", "pitch_up")
FIELD_OF_VIEW_DEG = simulator.FIELD_OF_VIEW_DEG  # horizontal, of most drones' cameras within a few degrees
HELD_OUT = (90_001, 90_002, 90_003, 90_004)  # seeds of worlds that no training flies in
MEASURED_FRAMES = 41  # of the flight in each of them
HARDLY = 0.25  # of full deflection: less of it ahead and aside is rotation alone
LEAST_SHIFT = 0.004  # of the width in a latent frame: a picture that moves less contradicts nothing
SMALLEST = DEAD_ZONE[[0, 3, 5, 6]].astype(np.float64)  # of each axis


def read(source: Path) -> Iterator[Unposed | Skipped]:
    """Each video of the source."""
    model = load_idm()
    if model is None:
        raise DataError("assets/idm holds no inverse dynamics model; python -m train idm makes one")
    videos = videos_in(source)
    if not videos:
        return
    error = measured(model)
    for video in videos:
        yield Unposed(video, partial(read_clip, model, np.array(list(error["mean"].values()))), error)


def read_clip(model: InverseDynamics, error: np.ndarray, frames: np.ndarray) -> tuple[ActionTrack, dict[str, Any]]:
    """What was flown, as far as pictures tell.

    Args:
        error: mean error of each axis, [4]; what is smaller is taken for rest.
        frames: uint8 [F, H, W, 3] with F = 4k+1.

    Returns:
        The track, and notes: what the flow alone reads as rotation, in degrees a latent frame, and `refused`, a reason,
        if the picture moves against what was read.
    """
    axes, shifts = axes_of(model, frames)
    kept = np.where(np.abs(axes) > np.maximum(error, SMALLEST), axes, 0)
    notes: dict[str, Any] = {"flow_turn_deg": rotation_of(shifts).round(3).tolist()}
    sideways = shifts[:, 0]
    expected = -(axes[:, 2] / FULL[2] + axes[:, 1] / FULL[1])  # turns and flights to the right move it to the left
    moves = np.abs(sideways) > LEAST_SHIFT
    if moves.sum() >= 2 and (agreement := float((np.sign(expected) * np.sign(sideways))[moves].mean())) < 0:
        notes["refused"] = f"the picture moves against the actions that were read from it ({agreement:+.2f})"
    return ActionTrack.from_axes(kept), notes


def axes_of(model: InverseDynamics, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four axes, [N, 4], in the units of a track, and how far the picture moves in each latent frame, [N, 2]."""
    axes = model.read(frames)
    shifts = picture_shifts(frames).reshape(-1, TEMPORAL_STRIDE, 2).sum(axis=1)
    turns_alone = (np.abs(axes[:, :2]) < HARDLY * np.array(FULL[:2])).all(axis=1)
    axes[turns_alone, 2:] = rotation_of(shifts)[turns_alone]
    return axes, shifts


def rotation_of(shifts: np.ndarray) -> np.ndarray:
    """Yaw to the right and pitch up, [N, 2] degrees, that move a picture so far right and down, [N, 2] widths."""
    focal = 0.5 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    return np.degrees(np.arctan(shifts / focal)) * np.array([-1.0, 1.0])


def measured(model: InverseDynamics) -> dict[str, Any]:
    """Mean error of each axis on flights by random sticks in worlds that the model has not seen."""
    errors = []
    for seed in HELD_OUT:
        rng = np.random.default_rng(seed)
        height, width = model.config.height, model.config.width
        clip = simulator.fly(simulator.make_world(seed), rng, MEASURED_FRAMES, height, width)
        errors.append(np.abs(axes_of(model, clip.frames)[0] - clip.track.axes))
    mean = np.concatenate(errors).mean(axis=0)
    share = {name: round(float(value / full), 3) for name, value, full in zip(AXES, mean, FULL, strict=True)}
    flights = f"{len(HELD_OUT)} held-out worlds, {len(np.concatenate(errors))} latent frames"
    return {
        "mean": {name: round(float(value), 5) for name, value in zip(AXES, mean, strict=True)},
        "of_full_deflection": share,
        "measured_on": flights,
        "field_of_view_deg": FIELD_OF_VIEW_DEG,
        "says": "mean error of full deflection: "
        + ", ".join(f"{name} {value:.0%}" for name, value in share.items())
        + f" ({flights} of the simulator; more on real footage)",
    }
