"""What is flown for a card: where the flights begin, and along which tracks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wanact.actions import CHANNELS, FULL_DEFLECTION, ActionTrack, channel_track
from wanact.errors import UserError
from wanact.media.video import open_image

FIRST_FRAMES = Path(__file__).resolve().parents[2] / "assets" / "card"
LIST = "first_frames.json"

DOSES = (0.25, 0.5, 0.75, 1.0, 1.5)  # of full deflection; the data ends at 1.1
FULL_DOSE = DOSES.index(1.0)
# Out for two latent frames and back for two, after one of rest; then rest, so that a late answer is still seen.
OUT_AND_BACK = (0, 1, 1, -1, -1, 0, 0, 0)


@dataclass(frozen=True)
class FirstFrame:
    """Where a measured flight begins.

    Attributes:
        image, prompt, seed: what the pipeline is given; all flights from here share them.
        reference: what a full deflection of each channel looks like from here, from the simulator's exact depth:
            {"camera": [8], "picture": [8]} per latent frame, in the units of `Seen` and in the direction of the
            channel. None for a picture of unknown depth: then translation has no gain.
        world: the simulator's seed that the picture comes from, if it does.
    """

    image: Image.Image
    prompt: str
    seed: int
    reference: dict[str, list[float]] | None = None
    world: int | None = None


@dataclass(frozen=True)
class Probe:
    """One track that is flown from a first frame.

    Attributes:
        kind: hold, rest or out_and_back.
        channel: index of the channel that is flown (first), -1 at rest.
        dose: fraction of full deflection.
        track: the actions.
    """

    kind: str
    channel: int
    dose: float
    track: ActionTrack


def probes(num_actions: int, doses: bool) -> list[Probe]:
    """The tracks flown from one first frame.

    Args:
        num_actions: of a held channel and of rest.
        doses: whether channels are held at all five magnitudes, or at full deflection alone.
    """
    chosen = DOSES if doses else (1.0,)
    channels = range(len(CHANNELS))
    holds = [Probe("hold", c, dose, channel_track(c, num_actions, dose)) for c in channels for dose in chosen]
    returns = [Probe("out_and_back", c, 1.0, out_and_back(c)) for c in channels]
    return [*holds, Probe("rest", -1, 0.0, ActionTrack.zeros(num_actions)), *returns]


def out_and_back(channel: int, delay: int = 0) -> ActionTrack:
    """The out-and-back track that begins with this channel, all of it `delay` latent frames later."""
    magnitude = np.zeros((len(OUT_AND_BACK), len(CHANNELS)), np.float32)
    for step, way in enumerate(OUT_AND_BACK):
        if way and step + delay < len(magnitude):
            held = channel if way > 0 else channel ^ 1  # opposite channels are neighbours
            magnitude[step + delay, held] = FULL_DEFLECTION[held]
    return ActionTrack(magnitude)


def fixed_first_frames(count: int | None = None, folder: Path = FIRST_FRAMES) -> list[FirstFrame]:
    """The first frames that every card is measured from: worlds of the simulator that no training sees.

    Args:
        count: how many, from the beginning; None for all.
        folder: holds `first_frames.json` and its pictures.

    Raises:
        ValueError: if there are fewer.
    """
    entries: list[dict[str, Any]] = json.loads((folder / LIST).read_text())["first_frames"]
    if count is not None and not 1 <= count <= len(entries):
        raise UserError(f"first_frames={count} must be 1 to {len(entries)}, which is how many {folder} holds")
    return [
        FirstFrame(open_image(folder / e["file"]), e["prompt"], int(e["seed"]), e.get("reference"), e.get("world"))
        for e in entries[:count]
    ]


def own_first_frames(images: list[Path], prompt: str = "") -> list[FirstFrame]:
    """Pictures of one's own to begin from; their depth is unknown, so translation has no gain."""
    return [FirstFrame(open_image(path), prompt, seed) for seed, path in enumerate(images)]
