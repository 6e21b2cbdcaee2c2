"""Where video and log have clocks of their own: the time at which what turns in the one turns in the other.

A turn to the right moves the picture to the left, whatever the lens: the sideways optical flow of the video has the
shape of the log's yaw rate, and the shift at which both match best is the difference of their clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np

from train.data.importers.trajectory import Trajectory
from wanact.errors import UserError

WIDTH = 128  # pixels at which flow is measured; turns move the whole picture
RATE = 16.0  # flow is measured between frames this many a second
LEAST_OVERLAP_S = 4.0
LEAST_MATCH = 0.6  # correlation below which a match is a guess
LEAST_LEAD = 0.03  # by which the best match must be better than any that is not its neighbour
NEIGHBOUR_S = 1.0
LEAST_TURN_DEG_S = 0.5  # a log whose yaw rate varies less tells nothing


class NoMatch(UserError):
    """Video and log cannot be aligned; the message says why."""


def picture_shifts(frames: Iterable[np.ndarray]) -> np.ndarray:
    """How far the picture moves between neighbouring frames, [F - 1, 2]: right and down, as a share of its width."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    before, shifts = None, []
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        height = max(16, round(grey.shape[0] * WIDTH / grey.shape[1]))
        grey = cv2.resize(grey, (WIDTH, height), interpolation=cv2.INTER_AREA)
        if before is not None:
            moved = flow.calc(before, grey, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
            shifts.append(np.median(moved.reshape(-1, 2), axis=0) / WIDTH)
        before = grey
    return np.array(shifts).reshape(-1, 2)


def yaw_steps(found: Trajectory, rate: float = RATE) -> np.ndarray:
    """Degrees that the camera of a log yaws to the right in each step of 1/rate seconds, from its first pose on."""
    count = int((found.seconds[-1] - found.seconds[0]) * rate)
    poses = found.at(found.seconds[0] + np.arange(count + 1) / rate)
    relative = np.linalg.inv(poses[:-1]) @ poses[1:]
    return np.degrees(np.arctan2(relative[:, 0, 2], relative[:, 2, 2]))


def clock_difference(found: Trajectory, frames: Iterable[np.ndarray], slack: float) -> tuple[float, float]:
    """By how many seconds the log is later than the video, and the correlation of what turns in both.

    Args:
        found: whose `seconds` count from the beginning of the log, or from where the video is thought to begin.
        frames: of the video, `RATE` a second, from its beginning.
        slack: seconds by which the log's clock may be off; infinite if nothing is known.

    Returns:
        offset, so that what the video shows at t is in the log at t + offset; correlation in -1..1.

    Raises:
        NoMatch: if there is too little turning, no match, or more than one.
    """
    seen = _smooth(-picture_shifts(frames)[:, 0])
    flown = _smooth(yaw_steps(found))
    if len(flown) < 2 or flown.std() * RATE < LEAST_TURN_DEG_S:
        raise NoMatch("the log hardly turns, so that nothing tells when the video begins; say it with --offset")
    least = min(len(seen), len(flown), math.ceil(LEAST_OVERLAP_S * RATE))
    start = found.seconds[0] * RATE
    lags = np.arange(least - len(seen), len(flown) - least + 1)  # picture i is step i + lag of the log
    lags = lags[np.abs(lags + start) <= slack * RATE + 1]
    if least < 2 or not len(lags):
        raise NoMatch("video and log have no time in common; say when the video begins with --offset")
    match = np.array([_correlation(seen, flown, lag) for lag in lags])
    best = int(match.argmax())
    others = match[np.abs(lags - lags[best]) > NEIGHBOUR_S * RATE]
    if match[best] < LEAST_MATCH:
        raise NoMatch(f"video and log turn differently (best correlation {match[best]:.2f}); say --offset")
    if len(others) and others.max() > match[best] - LEAST_LEAD:
        raise NoMatch("video and log match at several times; say when the video begins with --offset")
    return float((lags[best] + _between(match, best) + start) / RATE), float(match[best])


def _smooth(values: np.ndarray) -> np.ndarray:
    return np.convolve(values, np.ones(3) / 3, mode="same") if len(values) > 3 else values


def _correlation(seen: np.ndarray, flown: np.ndarray, lag: int) -> float:
    first, last = max(0, -lag), min(len(seen), len(flown) - lag)
    a, b = seen[first:last], flown[first + lag : last + lag]
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    share = min(1.0, (last - first) / min(len(seen), len(flown)))  # a short overlap matches by chance
    return float(a @ b) / size * math.sqrt(share) if size > 1e-12 else -1.0


def _between(match: np.ndarray, best: int) -> float:
    """Where the parabola through the best match and its neighbours has its top."""
    if not 0 < best < len(match) - 1:
        return 0.0
    before, here, after = match[best - 1 : best + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
