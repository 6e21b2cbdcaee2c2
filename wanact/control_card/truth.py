"""What a control card ought to read: flights of the simulator, whose motion is known to the last digit.

    python -m wanact.control_card.truth --out assets/card      # draws the fixed first frames and their references

`python -m wanact card --validate` holds the card's measuring to it.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from wanact.actions import CHANNELS, NUM_CHANNELS, ActionTrack, channel_track
from wanact.control_card.clip import lag_of
from wanact.control_card.fly import NUM_FRAMES, observe
from wanact.control_card.measures import NEAR, Observation, all_measures, key
from wanact.control_card.probes import DOSES, FULL_DOSE, LIST, FirstFrame, out_and_back, probes
from wanact.data.camera import (
    AXIS_OF,
    FULL,
    along_channels,
    asked_axes,
    fit_camera,
    grey_for_flow,
    optical_flow,
    see,
)
from wanact.data.motion import own_picture, texture
from wanact.errors import UserError
from wanact.files import place, write_json
from wanact.shapes import TEMPORAL_STRIDE, num_actions, num_pixel_frames
from wanact.world import simulator
from wanact.world.exact_flow import exact_flow
from wanact.world.poses import PATH_UNITS

FIRST_WORLD = 920_000  # of the card's first frames: no training and no other measure uses these worlds
COUNT = 12
HEIGHT, WIDTH = 192, 320
GAINS = (0.5, 1.0, 1.25)  # of the pilots whose obedience the card must read
# And of one beyond: flying ahead at one and a half times full deflection, near ground passes by so far that flow loses
# it. What is read then is told, and does not count.
BEYOND = 1.5
DELAYS = (0, 1, 2)  # latent frames by which pilots are late
SHUFFLES = 400


@functools.lru_cache(maxsize=1)
def _world(seed: int) -> simulator.World:
    return simulator.make_world(seed)


@functools.lru_cache(maxsize=100)
def fly_exactly(seed: int, track: ActionTrack) -> simulator.Clip:
    """The simulator's flight along a track from the first frame of this world."""
    num_frames = num_pixel_frames(len(track) + 1)
    return simulator.fly(_world(seed), np.random.default_rng([seed, 0]), num_frames, HEIGHT, WIDTH, track)


def true_axes(poses: np.ndarray) -> np.ndarray:
    """How the camera really moved, [N, 4], in the order of `camera.AXES` and the units of a track."""
    keyed = poses[::TEMPORAL_STRIDE]
    relative = np.linalg.inv(keyed[:-1]) @ keyed[1:]
    yaw = np.degrees(np.arctan2(relative[:, 0, 2], relative[:, 2, 2]))
    pitch = np.degrees(np.arcsin(np.clip(-relative[:, 1, 2], -1, 1)))
    return np.stack([relative[:, 2, 3] / PATH_UNITS, relative[:, 0, 3] / PATH_UNITS, yaw, pitch], 1)


# First frames


def make_first_frames(folder: Path, count: int = COUNT) -> None:
    """Draw the fixed first frames: the first `count` worlds as they come, none left out."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(count):
        seed = FIRST_WORLD + number
        clip = fly_exactly(seed, ActionTrack.zeros(1))
        name = f"{number + 1:02}.png"
        Image.fromarray(clip.frames[0]).save(folder / name, optimize=True)
        entry = {"file": name, "prompt": clip.caption, "seed": number, "world": seed, "reference": reference(seed)}
        entries.append(entry)
        print(f"{name}: {clip.caption}", flush=True)
    write_json(folder / LIST, {"first_frames": entries})


def reference(seed: int) -> dict[str, list[float]]:
    """What a full deflection of each channel looks like from a world's first frame, as a card sees it."""
    camera, picture = np.zeros(NUM_CHANNELS), np.zeros(NUM_CHANNELS)
    for c in range(NUM_CHANNELS):
        seen = see(fly_exactly(seed, channel_track(c, num_actions(NUM_FRAMES))).frames)
        camera[c] = along_channels(seen.camera.mean(0))[c]
        picture[c] = own_picture(seen.picture[: NEAR if AXIS_OF[c] < 2 else None].mean(0), c)
    camera = np.repeat(camera.reshape(-1, 2).mean(1), 2)  # parallax of single flights is rough: opposite ones share it
    camera[4:] = FULL[AXIS_OF[4:]]  # degrees are degrees
    return {"camera": camera.round(6).tolist(), "picture": picture.round(6).tolist()}


# Validation


def validate(
    starts: Sequence[FirstFrame], dose_frames: int, idm: Any = None, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Hold the card's measuring to flights whose motion is known.

    Args:
        starts: first frames that come from worlds of the simulator.
        dose_frames: how many of them are flown at all magnitudes.
        idm: the inverse dynamics model, to be held to the same flights.

    Returns:
        {"simulator": {...}, "shuffled": {...}}: see docs/control-card.md. The card of a pilot that obeys exactly is
        under "simulator.card".
    """
    flown, truths, late, geometry = [], [], [], []
    for number, start in enumerate(starts):
        if start.world is None:
            raise UserError(f"first frame {number + 1} comes from no world of the simulator; its motion is not known")
        seen, true = _fly_all(start, number < dose_frames, idm)
        flown.append((start, seen))
        truths.append(true)
        late.append(_fly_late(start))
        geometry.append(_against_geometry(start.world))
        tell(f"world {number + 1} of {len(starts)}")
    measures = all_measures(flown)
    gains = _gain_errors([seen for _, seen in flown[:dose_frames]], truths[:dose_frames], starts[:dose_frames])
    lags = _lag_errors(late)
    accuracy = measures["sign_accuracy"]["by_channel"]
    return {
        "simulator": {
            "min_sign_accuracy": min(accuracy.values()),
            "max_gain_error": max(max(gains[f"{gain:g}"].values()) for gain in GAINS),
            "max_lag_error": max(lags.values()),
            "first_frames": len(starts),
            "dose_frames": dose_frames,
            "gain_error": gains,
            "lag_error": lags,
            "geometry": {name: float(np.mean([g[name] for g in geometry])) for name in geometry[0]},
            "card": measures,
        },
        "shuffled": _shuffled(flown),
    }


def _held(channel: int, dose: float) -> ActionTrack:
    return channel_track(channel, num_actions(NUM_FRAMES), dose)


def _fly_all(start: FirstFrame, doses: bool, idm: Any) -> tuple[dict, dict]:
    """Observations and true axes of all probes, and of the magnitudes that disobedient pilots fly."""
    seen: dict[tuple[str, int, float], Observation] = {}
    true: dict[tuple[str, int, float], np.ndarray] = {}
    flights = [(key(probe), probe.track) for probe in probes(num_actions(NUM_FRAMES), doses)]
    if doses:
        magnitudes = {round(gain * dose, 6) for gain in (*GAINS, BEYOND) for dose in DOSES[: FULL_DOSE + 1]} - set(
            DOSES
        )
        flights += [(("hold", c, dose), _held(c, dose)) for c in range(NUM_CHANNELS) for dose in sorted(magnitudes)]
    for name, track in flights:
        clip = fly_exactly(start.world, track)
        seen[name] = observe(clip.frames, idm)
        true[name] = true_axes(clip.poses)
    return seen, true


def _gain_errors(seen: list[dict], true: list[dict], starts: Sequence[FirstFrame]) -> dict[str, dict[str, float]]:
    """For pilots that fly a fraction or a multiple of what is asked: relative error of the gain that is read."""
    errors: dict[str, dict[str, float]] = {}
    for gain in (*GAINS, BEYOND):
        flown = [
            (
                start,
                observed
                | {("hold", c, d): observed["hold", c, round(gain * d, 6)] for c in range(8) for d in DOSES[:4]},
            )
            for start, observed in zip(starts, seen, strict=True)
        ]
        read = all_measures(flown)["dose_response"]["by_channel"]
        errors[f"{gain:g}"] = {
            name: abs(read[name]["gain"] / _true_gain(gain, c, true) - 1) for c, name in enumerate(CHANNELS)
        }
    return errors


def _true_gain(gain: float, channel: int, true: list[dict]) -> float:
    """Slope of the true motion over what was asked; of translation relative to the reference's own flight."""
    doses = np.array(DOSES[: FULL_DOSE + 1])
    moved = np.array(
        [[along_channels(t["hold", channel, round(gain * d, 6)].mean(0))[channel] for d in doses] for t in true]
    )
    if AXIS_OF[channel] < 2:
        moved = moved / np.array([along_channels(t["hold", channel, 1.0].mean(0))[channel] for t in true])[:, None]
    else:
        moved = moved / FULL[AXIS_OF[channel]]
    return float((doses * moved.mean(0)).sum() / (doses**2).sum())


def _fly_late(start: FirstFrame) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Flights out and back by pilots that are late: (channel, delay) -> picture, true axes, what was asked."""
    flights = {}
    for c in range(NUM_CHANNELS):
        for delay in DELAYS:
            clip = fly_exactly(start.world, out_and_back(c, delay))
            flights[c, delay] = see(clip.frames).picture, true_axes(clip.poses)
    return flights


def _lag_errors(late: list[dict]) -> dict[str, float]:
    """Largest distance, over the delays, of the lag that is read to the delay that was flown, by channel."""
    errors = {}
    for c, name in enumerate(CHANNELS):
        asked = along_channels(asked_axes(out_and_back(c)))[:, c]
        worst = 0.0
        for delay in DELAYS:
            seen = np.array([[own_picture(m, c) for m in flights[c, delay][0]] for flights in late])
            lag, _ = lag_of(np.broadcast_to(asked, seen.shape), seen)
            worst = max(worst, abs(lag - delay) if lag is not None else float(len(asked)))
        errors[name] = worst
    return errors


def _against_geometry(world: int) -> dict[str, float]:
    """How far optical flow, and the rotation read from it, are from what geometry says, in one latent frame."""
    errors: dict[str, list[float]] = {"flow_px": [], "rotation_deg": [], "rotation_deg_of_exact_flow": []}
    for c in range(NUM_CHANNELS):
        clip = fly_exactly(world, channel_track(c, 1))
        a, b = (grey_for_flow(clip.frames[i]) for i in (0, TEMPORAL_STRIDE))
        weight, flow = texture(a), optical_flow(a, b)
        scale = a.shape[1] / WIDTH
        exact = exact_flow(_world(world), clip.poses[0], clip.poses[TEMPORAL_STRIDE], HEIGHT // 2, WIDTH // 2)
        exact = cv2.resize(exact.astype(np.float32), a.shape[::-1]) * 2 * scale
        seen = weight > 0.5
        errors["flow_px"].append(
            float(np.median(np.linalg.norm(flow - exact, axis=2)[seen])) / scale if seen.any() else 0
        )
        true = true_axes(clip.poses)[0, 2:]
        errors["rotation_deg"].append(float(np.abs(fit_camera(flow, weight)[0][2:] - true).max()))
        errors["rotation_deg_of_exact_flow"].append(float(np.abs(fit_camera(exact, weight)[0][2:] - true).max()))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def _shuffled(flown: list) -> dict[str, float]:
    """Sign accuracy of the same clips under each other's names: chance, if the measure does not flatter."""
    rng = np.random.default_rng(0)
    motion = np.array([[seen["hold", c, 1.0].picture.mean(0) for c in range(NUM_CHANNELS)] for _, seen in flown])
    means = []
    for _ in range(SHUFFLES):
        shuffled = rng.permuted(np.broadcast_to(np.arange(NUM_CHANNELS), motion.shape[:2]), axis=1)
        own = [[own_picture(motion[i, s], c) for c, s in enumerate(row)] for i, row in enumerate(shuffled)]
        means.append(float((np.array(own) > 0).mean()))
    return {"mean_sign_accuracy": float(np.mean(means)), "spread": float(np.std(means)), "shuffles": SHUFFLES}


def main(argv: list[str] | None = None) -> None:
    """Draw the fixed first frames of the control card, with what the simulator looks like from there."""
    parser = argparse.ArgumentParser(prog="python -m wanact.control_card.truth", description=main.__doc__)
    parser.add_argument("--out", type=place, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args(argv)
    make_first_frames(args.out, args.count)


if __name__ == "__main__":
    main()
