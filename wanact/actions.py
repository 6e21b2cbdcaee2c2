"""The eight controls of the drone: their units, their limits, and tracks of them.

One action steers one latent frame (four pixel frames). On disk a track is JSON of shape (N, 2, 8): for each
action a row of binary flags and a row of magnitudes. Translation magnitudes are relative to the clip's path
(a clip's whole path is about 1), rotation is in degrees per latent frame. The order of the channels is
fixed by the Sekai drone data and by every checkpoint trained on it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wanact import shapes
from wanact.errors import UserError
from wanact.files import parse_foreign

CHANNELS = ("forward", "back", "left", "right", "yaw_left", "yaw_right", "pitch_up", "pitch_down")
NUM_CHANNELS = len(CHANNELS)
OPPOSITE = (1, 0, 3, 2, 5, 4, 7, 6)
MIRRORED = (0, 1, 3, 2, 5, 4, 6, 7)
POSITIVE, NEGATIVE = [0, 3, 5, 6], [1, 2, 4, 7]  # of the four axes: ahead, right, yaw right, pitch up

# Brings translation (about 0.05) to the size of rotation (about 3) before the model sees them. A run writes
# its own scale in action_train_config.json; this is only what a new run starts with.
DEFAULT_MAGNITUDE_SCALE = (100.0,) * 4 + (1.0,) * 4

# A held key, and the most that the pad offers. Real clips have a median forward of 0.05 and a largest axis
# of 0.17, and turn up to 5.9 degrees in a latent frame; beyond that the model has seen nothing.
FULL_DEFLECTION = (0.05,) * 4 + (3.0,) * 4
MAX_MAGNITUDE = (0.1,) * 4 + (6.0,) * 4

MAX_ACTIONS = 10_000
MAX_JSON_CHARACTERS = 8_000_000
LARGEST_MAGNITUDE = 10_000.0  # far beyond any unit in use; larger numbers only overflow inside the model


class ActionError(UserError):
    """An action track that breaks the format; the message says where and what is right."""


@dataclass(frozen=True, eq=False)
class ActionTrack:
    """A sequence of actions, one for each latent frame after the first.

    Args:
        magnitude: [N, 8], non-negative and finite, 0 where a control rests; translation relative to the path,
            rotation in degrees per latent frame.

    Raises:
        ActionError: if the shape is wrong, a number is negative or not finite, or opposite channels are
            active in one action.
    """

    magnitude: np.ndarray

    def __post_init__(self) -> None:
        magnitude = _checked_magnitude(np.asarray(self.magnitude))
        magnitude.flags.writeable = False
        object.__setattr__(self, "magnitude", magnitude)

    @property
    def binary(self) -> np.ndarray:
        """1 where a control is active, else 0: [N, 8], float32."""
        return (self.magnitude > 0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.magnitude)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionTrack) and np.array_equal(self.magnitude, other.magnitude)

    def __hash__(self) -> int:
        return hash(self.magnitude.tobytes())

    @classmethod
    def zeros(cls, num_actions: int) -> ActionTrack:
        """A track on which no control is touched."""
        return cls(np.zeros((num_actions, NUM_CHANNELS), np.float32))

    @classmethod
    def parse(cls, source: Any) -> ActionTrack:
        """Read a track in the on-disk format, or as others write it; what is mended in it is a warning.

        Args:
            source: as for `read_track`.

        Raises:
            ActionError: for anything that breaks the format, in one sentence that says where.
        """
        track, mended = read_track(source)
        if mended:
            warnings.warn(str(mended), stacklevel=2)
        return track

    @classmethod
    def from_keys(cls, held: Any, magnitudes: Sequence[float] | np.ndarray = FULL_DEFLECTION) -> ActionTrack:
        """Turn held keys into a track; opposite keys cancel.

        Args:
            held: [N, 8], 1 or True where a key is down; a fraction means it was down for a part of the time.
            magnitudes: what a held key stands for, [8] or [N, 8].
        """
        held = np.asarray(held, np.float64)
        if held.ndim != 2 or held.shape[1] != NUM_CHANNELS:
            raise ActionError(f"held keys have shape {held.shape}, expected (N, 8)")
        if not ((held >= 0) & (held <= 1)).all():
            raise ActionError("held keys must be between 0 (up) and 1 (down)")
        net = np.clip(held - held[:, OPPOSITE], 0, None)
        return cls(net * np.asarray(magnitudes))

    @classmethod
    def from_axes(cls, axes: Any) -> ActionTrack:
        """A track from its four signed axes, [N, 4]: ahead, right, yaw right, pitch up, in the units of a track."""
        axes = np.asarray(axes, np.float64)
        if axes.ndim != 2 or axes.shape[1] != len(POSITIVE):
            raise ActionError(f"axes have shape {axes.shape}, expected (N, {len(POSITIVE)})")
        magnitude = np.zeros((len(axes), NUM_CHANNELS))
        magnitude[:, POSITIVE] = np.clip(axes, 0, None)
        magnitude[:, NEGATIVE] = np.clip(-axes, 0, None)
        return cls(magnitude)

    @property
    def axes(self) -> np.ndarray:
        """Ahead, right, yaw right and pitch up, signed, in the units of a track: [N, 4]."""
        return self.magnitude[:, POSITIVE] - self.magnitude[:, NEGATIVE]

    def mirrored(self) -> ActionTrack:
        """The track that flies the mirrored world: left and right change places."""
        return ActionTrack(self.magnitude[:, MIRRORED])

    def to_list(self) -> list[list[list[float]]]:
        """The on-disk format (N, 2, 8) as nested lists; parses back to an equal track."""
        # str() gives the shortest decimal that is the same float32: 0.05 instead of 0.05000000074505806.
        return [[[float(value > 0) for value in row], [float(str(value)) for value in row]] for row in self.magnitude]

    def to_json(self) -> str:
        """The on-disk format as a JSON string, as it stands in a dataset's CSV."""
        return json.dumps(self.to_list(), separators=(",", ":"))

    def to_model(self, scale: Sequence[float] | np.ndarray = DEFAULT_MAGNITUDE_SCALE) -> tuple[np.ndarray, np.ndarray]:
        """What the controller takes: flags and scaled magnitudes, [N, 8] float32 each.

        Args:
            scale: the run's `action_magnitude_scale`, [8].
        """
        scale = np.asarray(scale, np.float32)
        if scale.shape != (NUM_CHANNELS,) or not np.isfinite(scale).all():
            raise ActionError(f"action_magnitude_scale must be 8 finite numbers, one a channel, not {scale.tolist()}")
        return self.binary, self.magnitude * scale

    def require_length(self, num_frames: int) -> None:
        """Raise ActionError unless the track steers a clip of exactly `num_frames` pixel frames."""
        needed = shapes.num_actions(num_frames)
        if len(self) != needed:
            raise ActionError(f"the track has {len(self)} actions, but a clip of {num_frames} frames needs {needed}")

    def with_length(self, num_actions: int) -> ActionTrack:
        """The track cut, or continued with no action, to `num_actions`."""
        magnitude = np.zeros((num_actions, NUM_CHANNELS), np.float32)
        kept = min(len(self), num_actions)
        magnitude[:kept] = self.magnitude[:kept]
        return ActionTrack(magnitude)


@dataclass(frozen=True)
class Mended:
    """Flags of a track that did not say what its magnitudes say, and what was made of them.

    Attributes:
        filled: flags without a magnitude, which stand for full deflection.
        raised: magnitudes without a flag, which count as they are.
    """

    filled: int = 0
    raised: int = 0

    def __bool__(self) -> bool:
        return self.number > 0

    @property
    def number(self) -> int:
        """How many flags differ."""
        return self.filled + self.raised

    def __add__(self, other: Mended) -> Mended:
        return Mended(self.filled + other.filled, self.raised + other.raised)

    def __str__(self) -> str:
        parts = [f"{self.filled} flags without a magnitude are taken as full deflection"] if self.filled else []
        parts += [f"{self.raised} magnitudes without a flag are taken as they are"] if self.raised else []
        return ", ".join(parts) or "every flag says what its magnitude says"


def read_track(source: Any) -> tuple[ActionTrack, Mended]:
    """A track in the on-disk format or as others write it, and what had to be mended in it.

    Args:
        source: (N, 2, 8) flags and magnitudes, a batch of one (1, N, 2, 8), or magnitudes alone (N, 8); as a JSON
            string, nested lists, an array or a tensor. A flag without a magnitude is full deflection.

    Raises:
        ActionError: for anything else, in one sentence that says where.
    """
    values = _numbers(_decode_json(source) if isinstance(source, str | bytes) else source)
    if values.shape == (0,):
        values = values.reshape(0, 2, NUM_CHANNELS)
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 2 and values.shape[1] == NUM_CHANNELS:
        return ActionTrack(values), Mended()
    if values.ndim != 3 or values.shape[1:] != (2, NUM_CHANNELS):
        raise ActionError(
            f"actions have shape {values.shape}, expected (N, 2, 8): "
            "for each latent frame a row of 8 flags and a row of 8 magnitudes"
        )
    flags, magnitude = values[:, 0], values[:, 1]
    wrong = np.argwhere(~((flags >= 0) & (flags <= 1)))
    if len(wrong):
        step, channel = wrong[0]
        raise ActionError(f"action {step}, {CHANNELS[channel]}: flag {flags[step, channel]:g}, expected 0 or 1")
    active = magnitude > 0
    empty = (flags > 0) & (magnitude == 0)  # a magnitude that is no number is refused below, whatever its flag
    track = ActionTrack(np.where(empty, FULL_DEFLECTION, magnitude))
    return track, Mended(int(empty.sum()), int((active & (flags == 0)).sum()))


def _decode_json(text: str | bytes) -> Any:
    if len(text) > MAX_JSON_CHARACTERS:
        raise ActionError(
            f"action JSON has {len(text):,} characters, at most {MAX_JSON_CHARACTERS:,} are read; "
            "a clip of 81 frames needs about 2,000"
        )
    try:
        return parse_foreign(text)
    except ValueError as error:
        raise ActionError(f"actions are not valid JSON: {error}") from error


def _numbers(values: Any) -> np.ndarray:
    """A float64 array of any nested numbers; strings, nulls and ragged lists are refused, not converted."""
    if hasattr(values, "detach"):  # a tensor, without importing torch for it
        values = values.detach().float().cpu()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ActionError("action rows differ in length, expected (N, 2, 8) in every row") from error
    if array.dtype.kind not in "biuf":
        kind = "an object" if isinstance(values, dict) else "text" if array.dtype.kind in "SU" else "a non-number"
        raise ActionError(f"actions hold {kind} where numbers were expected; the format is nested lists (N, 2, 8)")
    return array.astype(np.float64)


def _checked_magnitude(values: np.ndarray) -> np.ndarray:
    """A float32 copy of magnitudes [N, 8] that keep the rules of ActionTrack."""
    if values.ndim != 2 or values.shape[1] != NUM_CHANNELS:
        raise ActionError(f"magnitudes have shape {values.shape}, expected (N, 8)")
    if len(values) > MAX_ACTIONS:
        raise ActionError(f"the track has {len(values):,} actions, at most {MAX_ACTIONS:,} are read")
    for problem, is_bad in (
        ("is not a finite number", ~np.isfinite(values)),
        ("is negative; use the opposite channel instead", values < 0),
        (f"is larger than {LARGEST_MAGNITUDE:g}; use path lengths and degrees", values > LARGEST_MAGNITUDE),
    ):
        if is_bad.any():
            step, channel = np.argwhere(is_bad)[0]
            raise ActionError(f"action {step}, {CHANNELS[channel]}: magnitude {values[step, channel]:g} {problem}")
    active = values > 0
    both = np.argwhere(active & active[:, OPPOSITE])
    if len(both):
        step, channel = both[0]
        raise ActionError(
            f"action {step}: {CHANNELS[channel]} and {CHANNELS[OPPOSITE[channel]]} are active at once; "
            "keep one of the two"
        )
    return values.astype(np.float32)


def channel_track(channel: str | int, num_actions: int, fraction: float = 1.0) -> ActionTrack:
    """A track that holds one channel at `fraction` of its full deflection throughout."""
    index = CHANNELS.index(channel) if isinstance(channel, str) else channel
    magnitude = np.zeros((num_actions, NUM_CHANNELS), np.float32)
    magnitude[:, index] = fraction * FULL_DEFLECTION[index]
    return ActionTrack(magnitude)


def _phases(num_actions: int, *phases: tuple[float, dict[str, float]]) -> ActionTrack:
    """A track of consecutive phases, each (share of the time, {channel: fraction of full deflection})."""
    magnitude = np.zeros((num_actions, NUM_CHANNELS), np.float32)
    ends = np.rint(np.cumsum([share for share, _ in phases]) * num_actions).astype(int)
    starts = [0, *ends[:-1]]
    for start, end, (_, controls) in zip(starts, ends, phases, strict=True):
        for channel, fraction in controls.items():
            index = CHANNELS.index(channel)
            magnitude[start:end, index] = fraction * FULL_DEFLECTION[index]
    return ActionTrack(magnitude)


def _preset(*phases: tuple[float, dict[str, float]]) -> Callable[[int], ActionTrack]:
    return partial(lambda parts, num_actions: _phases(num_actions, *parts), phases)


PRESETS: dict[str, Callable[[int], ActionTrack]] = {
    "No action": ActionTrack.zeros,
    "Forward": _preset((1.0, {"forward": 1})),
    "Orbit left": _preset((1.0, {"left": 1, "yaw_right": 1})),
    "Orbit right": _preset((1.0, {"right": 1, "yaw_left": 1})),
    "Fly-through": _preset(
        (0.4, {"forward": 1}),
        (0.2, {"forward": 1, "yaw_left": 1}),
        (0.2, {"forward": 1, "yaw_right": 1}),
        (0.2, {"forward": 1}),
    ),
    "Look around": _preset(
        (0.2, {"yaw_left": 1}), (0.4, {"yaw_right": 1}), (0.2, {"pitch_up": 1}), (0.2, {"pitch_down": 1})
    ),
    # No channel lifts the drone: it climbs by flying forward with its nose up.
    "Look up, then down": _preset(
        (0.25, {"forward": 1, "pitch_up": 1}), (0.25, {"forward": 1}), (0.5, {"pitch_down": 1})
    ),
    "Back away": _preset((1.0, {"back": 1})),
}


def plan_path(track: ActionTrack) -> np.ndarray:
    """The path seen from above: [N + 1, 3] of x (right), y (forward) and heading in degrees, clockwise.

    Each action moves in the axes of the frame before it and then turns, as the relative poses do that the
    actions of real clips are measured from. Forward is along the view, so a pitched drone covers less ground.
    """
    forward, back, left, right, yaw_left, yaw_right, pitch_up, pitch_down = track.magnitude.astype(np.float64).T
    heading_deg = np.concatenate([[0.0], np.cumsum(yaw_right - yaw_left)])
    pitch_deg = np.concatenate([[0.0], np.cumsum(pitch_up - pitch_down)])
    heading, pitch = np.radians(heading_deg[:-1]), np.radians(pitch_deg[:-1])
    ahead, aside = (forward - back) * np.cos(pitch), right - left
    dx = ahead * np.sin(heading) + aside * np.cos(heading)
    dy = ahead * np.cos(heading) - aside * np.sin(heading)
    x, y = np.cumsum(dx), np.cumsum(dy)
    return np.stack([np.concatenate([[0.0], x]), np.concatenate([[0.0], y]), heading_deg], axis=1)
