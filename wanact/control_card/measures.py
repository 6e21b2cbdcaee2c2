"""From what is seen in the probes to the numbers of a card; docs/control-card.md has each formula in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanact.actions import CHANNELS, NUM_CHANNELS, OPPOSITE
from wanact.control_card.clip import lag_of
from wanact.control_card.probes import DOSES, FULL_DOSE, FirstFrame, Probe, out_and_back
from wanact.data.camera import AXES, AXIS_OF, AXIS_SIGN, FULL, along_channels, asked_axes
from wanact.data.motion import COMPONENT_OF, COMPONENTS, SIGN_OF, own_picture


@dataclass(frozen=True)
class Observation:
    """One probe, flown from one first frame.

    Attributes:
        picture, camera, turn: [N, 3], [N, 4] and [N, 2] as in `Seen`.
        inverse_dynamics: the four axes that the inverse dynamics model reads, [N, 4] in units of a track, or None.
        sharpness, colour: of every latent frame's last frame, [N + 1].
        return_db: PSNR of the last frame to the first.
    """

    picture: np.ndarray
    camera: np.ndarray
    turn: np.ndarray
    inverse_dynamics: np.ndarray | None
    sharpness: np.ndarray
    colour: np.ndarray
    return_db: float


# Latent frames over which the answer of a translation is averaged. Later ones see another scene the farther they flew:
# over five, half of full deflection reads 6% low and one and a half times 7% low on the simulator's own flights.
NEAR = 3

Flown = Sequence[tuple[FirstFrame, Mapping[tuple[str, int, float], Observation]]]


def key(probe: Probe) -> tuple[str, int, float]:
    """What a probe is found by."""
    return probe.kind, probe.channel, probe.dose


def all_measures(flown: Flown) -> dict[str, Any]:
    """Every measure of a card, as plain values.

    Args:
        flown: for each first frame, its probes by `key`. Doses below and above full deflection may be missing from
            some first frames.
    """
    picture = np.array([[own_picture(seen["hold", c, 1.0].picture.mean(0), c) for c in _CHANNELS] for _, seen in flown])
    camera = np.array([[seen["hold", c, 1.0].camera.mean(0) for c in _CHANNELS] for _, seen in flown])
    # Without any first frame that was flown at all magnitudes, full deflection alone gives a gain.
    dosed = [(start, seen) for start, seen in flown if ("hold", 0, DOSES[0]) in seen] or flown
    measures = {
        "sign_accuracy": sign_accuracy(picture),
        "dose_response": dose_response(_responses(dosed)),
        "cross_talk": cross_talk(camera, np.array([_full_camera(start) for start, _ in flown])),
        "lag": lag(flown),
        "null_drift": null_drift(flown),
        "out_and_back": out_and_back_error(flown),
        "separation": separation(picture),
        "sharpness": over_time(flown, lambda seen: seen.sharpness),
        "colour": over_time(flown, lambda seen: seen.colour),
        "idm": None,
    }
    if all(observation.inverse_dynamics is not None for _, seen in flown for observation in seen.values()):
        measures["idm"] = by_inverse_dynamics(flown, dosed)
    return measures


_CHANNELS = range(NUM_CHANNELS)


def _named(values: Sequence[float | None] | np.ndarray) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in zip(CHANNELS, values, strict=True)}


def _plain(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _mean(values: Any) -> float | None:
    """Mean of what could be measured; None if nothing could."""
    found = [float(v) for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(found)) if found else None


def sign_accuracy(own: np.ndarray) -> dict[str, Any]:
    """Share of first frames from which the picture moved the right way; `own` is [first frames, 8]."""
    share = (own > 0).mean(axis=0)
    return {"mean": float(share.mean()), "min": float(share.min()), "by_channel": _named(share)}


def separation(own: np.ndarray) -> dict[str, Any]:
    """Share of first frames from which a channel moved the picture further its way than its opposite did."""
    share = (own + own[:, OPPOSITE] > 0).mean(axis=0)
    return {"mean": float(share.mean()), "by_channel": _named(share)}


def _full_camera(start: FirstFrame) -> np.ndarray:
    """What a full deflection looks like from a first frame, [8]; nan for translation where the depth is unknown."""
    if start.reference is not None:
        return np.array(start.reference["camera"])
    return np.where(AXIS_OF < 2, np.nan, FULL[AXIS_OF])


def _responses(dosed: Flown) -> np.ndarray:
    """Motion the right way at each dose, in full deflections, [first frames, 8, doses]; nan where it is not known.

    Rotation is that of a camera that only turns, in degrees over those of a full deflection. Translation is the
    picture's, over what the simulator's own flight looks like from there.
    """
    result = np.full((len(dosed), NUM_CHANNELS, len(DOSES)), np.nan)
    for i, (start, seen) in enumerate(dosed):
        for c in _CHANNELS:
            axis = AXIS_OF[c]
            for k, dose in enumerate(DOSES):
                if ("hold", c, dose) not in seen:
                    continue
                held = seen["hold", c, dose]
                if axis >= 2:
                    result[i, c, k] = AXIS_SIGN[c] * held.turn.mean(0)[axis - 2] / FULL[axis]
                elif start.reference is not None:
                    result[i, c, k] = own_picture(held.picture[:NEAR].mean(0), c) / start.reference["picture"][c]
    return result


def dose_response(responses: np.ndarray) -> dict[str, Any]:
    """How the camera answers five magnitudes; `responses` in full deflections, [first frames, 8, 5]."""
    curves = responses.mean(axis=0) if len(responses) else np.full((NUM_CHANNELS, len(DOSES)), np.nan)
    channels = {
        name: {"response": [_plain(v) for v in curve]} | _shape(curve)
        for name, curve in zip(CHANNELS, curves, strict=True)
    }
    return {
        "doses": list(DOSES),
        "mean_gain": _mean(channel["gain"] for channel in channels.values()),
        "mean_linearity": _mean(channel["linearity_r2"] for channel in channels.values()),
        "first_frames": int(np.isfinite(responses[:, :, -1]).any(axis=1).sum()),
        "by_channel": channels,
    }


def _shape(curve: np.ndarray) -> dict[str, float | None]:
    """Gain, linearity, dead zone and saturation of one response curve over `DOSES`; what was not flown is nan."""
    doses, known = np.array(DOSES), np.isfinite(curve)
    below = known & (doses <= 1)
    dose, seen = doses[below], curve[below]
    gain = float((dose * seen).sum() / (dose**2).sum()) if below.any() else None
    if not known.all():
        return {"gain": gain, "linearity_r2": None, "dead_zone": None, "saturation": None}
    slope, intercept = np.polyfit(dose, seen, 1)
    spread = ((seen - seen.mean()) ** 2).sum()
    r2 = 1 - ((seen - slope * dose - intercept) ** 2).sum() / spread if spread > 1e-12 else 0.0
    dead = float(np.clip(-intercept / slope, 0, 1)) if slope > 1e-6 else 1.0
    beyond = (curve[-1] - curve[FULL_DOSE]) / (DOSES[-1] - 1)
    saturation = float(np.clip(1 - beyond / slope, 0, 1)) if slope > 1e-6 else None
    return {"gain": gain, "linearity_r2": float(max(r2, 0)), "dead_zone": dead, "saturation": saturation}


def cross_talk(camera: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """What each channel does to all eight.

    Args:
        camera: mean motion with one channel held, [first frames, 8, 4].
        full: what a full deflection looks like, [first frames, 8].

    Returns:
        matrix[asked][seen]: motion in the direction of the seen channel, 1 for its own full deflection; motion the
        other way counts as 0 there, since it stands with the opposite channel.
    """
    shares = along_channels(camera) / full[:, None, :]
    with np.errstate(invalid="ignore"):
        matrix = np.maximum(shares, 0).mean(axis=0)
    other = matrix[~np.eye(NUM_CHANNELS, dtype=bool)]
    strongest = np.where(np.eye(NUM_CHANNELS, dtype=bool) | ~np.isfinite(matrix), -1, matrix)
    asked, seen = np.unravel_index(int(strongest.argmax()), matrix.shape)
    return {
        "matrix": [[_plain(value) for value in row] for row in matrix],
        "mean_own": _mean(np.diag(matrix)),
        "mean_other": _mean(other),
        "worst": {"asked": CHANNELS[asked], "seen": CHANNELS[seen], "share": _plain(strongest.max())},
    }


def lag(flown: Flown) -> dict[str, Any]:
    """Latent frames by which the picture trails the keys, on the way out and back."""
    lags, likenesses = [], []
    for c in _CHANNELS:
        asked, seen = _way(flown, c)
        found, likeness = lag_of(asked, seen)
        lags.append(found)
        likenesses.append(likeness)
    return {"mean": _mean(lags), "by_channel": _named(lags), "likeness": _named(likenesses)}


def _way(flown: Flown, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """What was asked and what the picture did on the way out and back, [first frames, N] each."""
    asked = along_channels(asked_axes(out_and_back(channel)))[:, channel] / FULL[AXIS_OF[channel]]
    component, sign = COMPONENT_OF[channel], SIGN_OF[channel]
    seen = np.array([seen["out_and_back", channel, 1.0].picture[:, component] * sign for _, seen in flown])
    return np.broadcast_to(asked, seen.shape), seen


def null_drift(flown: Flown) -> dict[str, Any]:
    """How the picture moves while no key is held: percent of the width, or growth, per latent frame."""
    rest = np.array([seen["rest", -1, 0.0].picture.mean(0) for _, seen in flown])  # [first frames, 3]
    full = [start.reference["picture"] if start.reference else None for start, _ in flown]
    shares = []
    for motion, reference in zip(rest, full, strict=True):
        if reference is not None:
            largest = [
                np.mean([reference[c] for c in _CHANNELS if COMPONENT_OF[c] == k]) for k in range(len(COMPONENTS))
            ]
            shares.append(float(np.abs(motion / largest).max()))
    return {
        "percent": {name: 100 * float(value) for name, value in zip(COMPONENTS, rest.mean(axis=0), strict=True)},
        "spread_percent": {name: 100 * float(value) for name, value in zip(COMPONENTS, rest.std(axis=0), strict=True)},
        "share_of_full": _mean(shares),
    }


def out_and_back_error(flown: Flown) -> dict[str, Any]:
    """How far from where it began a flight ends that goes out and back: 0 at the same place, 1 never turned round."""
    errors, likeness = [], []
    for c in _CHANNELS:
        _, seen = _way(flown, c)
        errors.append(float(np.mean(np.abs(seen.sum(axis=1)) / np.maximum(np.abs(seen).sum(axis=1), 1e-9))))
        likeness.append(float(np.mean([observed["out_and_back", c, 1.0].return_db for _, observed in flown])))
    return {"mean": float(np.mean(errors)), "by_channel": _named(errors), "psnr_db": _named(likeness)}


def over_time(flown: Flown, what: Callable[[Observation], np.ndarray]) -> dict[str, Any]:
    """Sharpness or colour by latent frame, at rest and with every channel held, and where it ends."""
    rest = np.mean([what(seen["rest", -1, 0.0]) for _, seen in flown], axis=0)
    held = np.mean([what(seen["hold", c, 1.0]) for _, seen in flown for c in _CHANNELS], axis=0)
    return {"end": float(held[-1]), "rest": rest.tolist(), "held": held.tolist()}


def by_inverse_dynamics(flown: Flown, dosed: Flown) -> dict[str, Any]:
    """The measures that need axes, as the inverse dynamics model reads them; it knows the simulator's scale."""

    def read(seen: Mapping[tuple[str, int, float], Observation], kind: str, channel: int, dose: float) -> np.ndarray:
        axes = seen[kind, channel, dose].inverse_dynamics
        assert axes is not None, "asked for only where every probe was read"
        return axes.mean(axis=0)

    held = np.array([[read(seen, "hold", c, 1.0) for c in _CHANNELS] for _, seen in flown])
    own = along_channels(held)[:, _CHANNELS, _CHANNELS]
    rows = [
        [
            along_channels(read(seen, "hold", c, dose))[c] / FULL[AXIS_OF[c]] if ("hold", c, dose) in seen else np.nan
            for dose in DOSES
        ]
        for _, seen in dosed
        for c in _CHANNELS
    ]
    rest = np.mean([read(seen, "rest", -1, 0.0) for _, seen in flown], axis=0)
    return {
        "sign_accuracy": sign_accuracy(own),
        "dose_response": dose_response(np.array(rows).reshape(len(dosed), NUM_CHANNELS, len(DOSES))),
        "cross_talk": cross_talk(held, np.tile(FULL[AXIS_OF], (len(flown), 1))),
        "null_drift": dict(zip(AXES, map(float, rest), strict=True)),
    }
