"""The numbers of one flight: what was asked, what is seen, and how the picture holds up on the way."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from wanact.actions import CHANNELS, ActionTrack
from wanact.control_card.obeyed import count_obeyed
from wanact.data.camera import AXES, FIELD_OF_VIEW_DEG, FULL, along_channels, asked_axes, see

MAX_LAG = 3  # latent frames
_WIDTH = 320


def sharpness(frames: np.ndarray) -> np.ndarray:
    """Mean length of the grey gradient in each frame, over that of the first, [F]: 1 is as sharp, 0 is blank."""
    strength = np.array([_gradient(frame) for frame in frames])
    return strength / max(float(strength[0]), 1e-6)


def colour_shift(frames: np.ndarray) -> np.ndarray:
    """Distance of each frame's mean colour to the first's in CIELAB, [F]; 2.3 is just noticeable."""
    lab = np.array(
        [cv2.cvtColor(_small(frame).astype(np.float32) / 255, cv2.COLOR_RGB2LAB).mean((0, 1)) for frame in frames]
    )
    return np.linalg.norm(lab - lab[0], axis=1)


def lag_of(asked: np.ndarray, seen: np.ndarray, max_lag: int = MAX_LAG) -> tuple[int | None, float]:
    """Latent frames by which what is seen trails what was asked, and how alike both are then.

    The lag is the shift k of 0..max_lag with the largest sum of asked[t] * seen[t + k].

    Args:
        asked, seen: one axis, [N], or several flights of it, [flights, N].

    Returns:
        (lag, likeness): the lag is None if nothing is asked or nothing follows; the likeness is the normalised
        correlation at that lag, 1 for a faithful copy.
    """
    asked, seen = np.atleast_2d(asked), np.atleast_2d(seen)
    shifts = range(min(max_lag, asked.shape[1] - 1) + 1)
    sums = np.array([(asked[:, : asked.shape[1] - k] * seen[:, k:]).sum() for k in shifts])
    best = int(sums.argmax())
    size = np.sqrt((asked**2).sum() * (seen[:, best:] ** 2).sum())
    if sums[best] <= 0 or size == 0:
        return None, 0.0
    return best, float(sums[best] / size)


def measure_clip(
    frames: np.ndarray, track: ActionTrack | None, field_of_view_deg: float = FIELD_OF_VIEW_DEG
) -> dict[str, Any]:
    """Numbers of one flight, for a table or small plots under it; plain values, ready for JSON.

    Args:
        frames: uint8 [F, H, W, 3] with F = 4k+1, k >= 1.
        track: what was asked, k actions; None for a flight without actions.
        field_of_view_deg: horizontal angle of the camera.

    Returns:
        A dict of
        axes: names of the four axes, ahead, right, yaw_right, pitch_up;
        seen: [k][4], ahead and right as parallax in focal lengths, rotations in degrees per latent frame;
        asked: [k][4] in the track's units, or None;
        control: {share, right, runs, shortest, longest, of_what} as in `Obeyed`: the control card's measure, on the
            runs of this flight; None without a track;
        agreement: {channel: share of the latent frames that ask for it in which the camera moved its way}, None for
            channels that are not asked for;
        mean_agreement: over all that is asked, or None;
        correlation: {axis: of asked and seen over the flight}, None where either does not change;
        lag: latent frames by which the picture trails, or None; likeness: how alike both are then, 0 to 1;
        sharpness: [F], 1 is as sharp as the first frame; colour: [F], distance to the first frame's mean colour
            (CIELAB).

    Raises:
        ValueError: if the frames are no such clip.
        ActionError: if the track has another length.
    """
    look = see(frames, field_of_view_deg)
    seen = look.camera
    result: dict[str, Any] = {
        "axes": list(AXES),
        "seen": seen.tolist(),
        "asked": None,
        "control": None,
        "agreement": dict.fromkeys(CHANNELS),
        "mean_agreement": None,
        "correlation": dict.fromkeys(AXES),
        "lag": None,
        "likeness": 0.0,
        "sharpness": sharpness(frames).tolist(),
        "colour": colour_shift(frames).tolist(),
    }
    if track is None:
        return result
    track.require_length(len(frames))
    asked, control = asked_axes(track), count_obeyed(track, look.picture)
    obeyed, wanted = along_channels(seen) > 0, along_channels(asked) > 0
    shares = {c: float(obeyed[wanted[:, i], i].mean()) for i, c in enumerate(CHANNELS) if wanted[:, i].any()}
    # Axes weigh alike: a full deflection of each is 1, and what is seen is scaled to what is seen at most.
    scaled = seen / np.maximum(np.abs(seen).max(axis=0), [1e-3, 1e-3, 0.1, 0.1])
    lag, likeness = lag_of((asked / FULL).T, scaled.T)
    result |= {
        "asked": asked.tolist(),
        "control": asdict(control) | {"share": control.share, "of_what": control.of_what},
        "agreement": dict.fromkeys(CHANNELS) | shares,
        "mean_agreement": float(obeyed[wanted].mean()) if wanted.any() else None,
        "correlation": {axis: _correlation(asked[:, i], seen[:, i]) for i, axis in enumerate(AXES)},
        "lag": lag,
        "likeness": likeness,
    }
    return result


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _gradient(frame: np.ndarray) -> float:
    grey = cv2.cvtColor(_small(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)).mean())


def _small(frame: np.ndarray) -> np.ndarray:
    scale = _WIDTH / frame.shape[1]
    return frame if scale >= 1 else cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
