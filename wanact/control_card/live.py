"""How a live flight obeys, long after its first frame: channels held in turn for minutes, and ways out and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanact.actions import CHANNELS, FULL_DEFLECTION, NUM_CHANNELS, OPPOSITE
from wanact.control_card.control import Control
from wanact.data.motion import COMPONENTS, motion_track
from wanact.media.likeness import psnr_db
from wanact.shapes import TEMPORAL_STRIDE

HOLD = 10  # latent frames that a key is held
SETTLING = 1  # latent frames of a hold that do not count: the drone has inertia
# One channel of each pair. Down before up: from eight degrees below the horizon a camera can be turned down for the 30
# degrees of a hold, and up for 24, and who is stopped does not come back to where he was.
OUTWARD = [CHANNELS.index(name) for name in ("forward", "left", "yaw_left", "pitch_down")]


@dataclass(frozen=True)
class LiveControl:
    """What was seen in flights.

    Attributes:
        motion: mean motion per latent frame of every hold, [holds, 3], in the order and units of `Motion`.
        channel: the channel that was held, [holds].
        start: latent frame at which the hold began, [holds].
        out_and_back_db: for each pair of channels, PSNR in dB of the last frame to the first of flights that held one
            and then the other for as long, [flights].
    """

    motion: np.ndarray
    channel: np.ndarray
    start: np.ndarray
    out_and_back_db: dict[str, np.ndarray]

    def signed(self, channel: int, since: int = 0) -> np.ndarray:
        """Motion the right way in the holds of one channel that began at latent frame `since` or later."""
        chosen = (self.channel == channel) & (self.start >= since)
        seen = np.zeros((int(chosen.sum()), NUM_CHANNELS, len(COMPONENTS)))
        seen[:, channel] = self.motion[chosen]
        return Control(seen).signed[:, channel]

    def summary(self) -> dict[str, Any]:
        """All numbers as plain values; `late` counts the second half of the flights alone."""
        middle = int(self.start.max(initial=0) + HOLD) // 2

        def accuracy(since: int) -> dict[str, float]:
            signed = {name: self.signed(c, since) for c, name in enumerate(CHANNELS)}
            return {name: float((values > 0).mean()) for name, values in signed.items() if len(values)}

        return {
            "sign_accuracy": accuracy(0),
            "min_sign_accuracy": min(accuracy(0).values()),
            "sign_accuracy_late": accuracy(middle),
            "response": {name: float(self.signed(c).mean()) for c, name in enumerate(CHANNELS)},
            "holds": len(self.motion),
            "out_and_back_psnr_db": {pair: float(values.mean()) for pair, values in self.out_and_back_db.items()},
            "out_and_back_least_db": {pair: float(values.min()) for pair, values in self.out_and_back_db.items()},
        }


def measure_live(
    begin: Callable[[int], Any],
    flights: int,
    num_frames: int = 200,
    on_frame: Callable[[], object] | None = None,
) -> LiveControl:
    """Fly, and measure.

    Args:
        begin: makes flight number i: a `WanActStream`, or anything with its `image` and `step`.
        flights: first frames. Each is flown along all channels in random order, and out and back along every pair.
        num_frames: latent frames of the long flight.
        on_frame: called after each latent frame.
    """
    motion, channels, starts = [], [], []
    returns: dict[str, list[float]] = {}
    for number in range(flights):
        plan = hold_plan(np.random.default_rng(number), num_frames)
        frames = fly_held(begin(number), [c for c in plan for _ in range(HOLD)], on_frame)
        for place, channel in enumerate(plan):
            first = TEMPORAL_STRIDE * (place * HOLD + SETTLING)
            last = TEMPORAL_STRIDE * (place + 1) * HOLD
            motion.append(motion_track(frames[first : last + 1]).mean(axis=0))
            channels.append(channel)
            starts.append(place * HOLD)
        for out in OUTWARD:
            frames = fly_held(begin(number), [out] * HOLD + [OPPOSITE[out]] * HOLD, on_frame)
            pair = f"{CHANNELS[out]}, {CHANNELS[OPPOSITE[out]]}"
            returns.setdefault(pair, []).append(float(psnr_db(frames[:1], frames[-1:])[0]))
    by_pair = {pair: np.array(values) for pair, values in returns.items()}
    return LiveControl(np.array(motion), np.array(channels), np.array(starts), by_pair)


def hold_plan(rng: np.random.Generator, num_frames: int) -> list[int]:
    """Channels to hold one after the other: pairs in random order, each out and back, so that no flight runs away."""
    plan: list[int] = []
    while len(plan) * HOLD < num_frames:
        for out in rng.permutation(OUTWARD):
            pair = [int(out), int(OPPOSITE[out])]
            plan += pair if rng.random() < 0.5 else pair[::-1]
    return plan[: num_frames // HOLD]


def fly_held(flight: Any, held: Sequence[int], on_frame: Callable[[], object] | None) -> np.ndarray:
    """Frames of a flight along one channel after the other, the first among them, uint8 [F, H, W, 3]."""
    frames = [np.asarray(flight.image)[None]]
    for channel in held:
        action = np.zeros(NUM_CHANNELS, np.float32)
        action[channel] = FULL_DEFLECTION[channel]
        frames.append(flight.step(action))
        if on_frame is not None:
            on_frame()
    return np.concatenate(frames)
