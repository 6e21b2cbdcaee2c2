"""The flight record: one small JSON file from which a clip can be drawn again, here or on another checkpoint."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from wanact.actions import ActionError, ActionTrack
from wanact.video import ImageError, open_image

VERSION = 1
MAX_BYTES = 32 * 2**20
MAX_SEED = 2**31 - 1


class FlightError(ValueError):
    """A flight record that cannot be used; the message is one sentence for the person who opened it."""


def image_sha256(image: Image.Image) -> str:
    """A fingerprint of what is seen: of the size and the RGB pixels, whatever file they came in."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FlightRecord:
    """Everything that a clip depends on.

    Args:
        image: the first frame as the model saw it, RGB, already fitted to the clip's size.
        prompt, negative_prompt: as they were typed.
        seed: 0 to 2**31 - 1.
        num_frames, fps: length of the clip in pixel frames, and its speed.
        num_inference_steps, guidance_scale: the sampler's settings.
        track: the actions, one for each latent frame after the first.
        model: {"name", "fingerprint"} of the model directory.
        checkpoint: {"run", "step"} of the action controller, or None for the base model, which takes no actions.
        sampler: whatever else the sampler depends on, for example {"flow_shift": 5.0}.
    """

    image: Image.Image
    prompt: str
    seed: int
    track: ActionTrack
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    fps: float = 16.0
    model: dict[str, str] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    sampler: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as JSON; `parse` gives an equal flight back."""
        png = io.BytesIO()
        self.image.save(png, "PNG", optimize=True)
        record = {
            "wanact_flight": VERSION,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "size": {
                "width": self.image.width,
                "height": self.image.height,
                "num_frames": self.num_frames,
                "fps": self.fps,
            },
            "sampler": {
                **self.sampler,
                "num_inference_steps": self.num_inference_steps,
                "guidance_scale": self.guidance_scale,
            },
            "model": self.model,
            "checkpoint": self.checkpoint,
            "actions": self.track.to_list(),
            "image": {"sha256": image_sha256(self.image), "png": base64.b64encode(png.getvalue()).decode()},
        }
        return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def parse(cls, source: str | bytes) -> FlightRecord:
        """Read a record.

        Raises:
            FlightError: if it is no flight record, is from a newer version, was changed or breaks the format.
        """
        record = _decode(source)
        sampler = _take(record, "sampler", dict)
        size = _take(record, "size", dict)
        try:
            track = ActionTrack.parse(_take(record, "actions", list))
        except ActionError as error:
            raise FlightError(f"The flight's actions cannot be flown: {error}.") from error
        seed = _take(record, "seed", int)
        if not 0 <= seed <= MAX_SEED:
            raise FlightError(f"The flight's seed is {seed}, expected 0 to {MAX_SEED}.")
        checkpoint = record.get("checkpoint")
        if checkpoint is not None and not isinstance(checkpoint, dict):
            raise FlightError("The flight's checkpoint is damaged; expected a run and a step, or null.")
        return cls(
            image=_image(_take(record, "image", dict), size),
            prompt=_take(record, "prompt", str),
            negative_prompt=_take(record, "negative_prompt", str, default=""),
            seed=seed,
            track=track,
            num_frames=_take(size, "num_frames", int),
            fps=_take(size, "fps", float, default=16.0),
            num_inference_steps=_take(sampler, "num_inference_steps", int),
            guidance_scale=_take(sampler, "guidance_scale", float),
            model=_take(record, "model", dict, default={}),
            checkpoint=checkpoint,
            sampler={k: v for k, v in sampler.items() if k not in ("num_inference_steps", "guidance_scale")},
        )


def _decode(source: str | bytes) -> dict:
    if len(source) > MAX_BYTES:
        raise FlightError(f"The flight has {len(source) / 2**20:.0f} MB, at most {MAX_BYTES / 2**20:.0f} MB are read.")
    try:
        record = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise FlightError("The file is no flight record: it is not valid JSON.") from error
    if not isinstance(record, dict) or "wanact_flight" not in record:
        raise FlightError("The file is no flight record: choose a JSON that was saved with “Flight” under a clip.")
    version = record["wanact_flight"]
    if version != VERSION:
        raise FlightError(f"The flight has format version {version!r}; this version of WanAct reads {VERSION}.")
    return record


def _take(record: dict, key: str, kind: type, default: Any = None) -> Any:
    """A value of the expected kind; an int passes where a float is asked for, a bool never does."""
    value = record.get(key, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is float and not math.isfinite(value)):
        found = "missing" if value is None else f"{str(value)[:40]!r}"
        raise FlightError(f"The flight is damaged: “{key}” is {found}, expected {_KIND_NAMES[kind]}.")
    return value


_KIND_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number"}


def _image(entry: dict, size: dict) -> Image.Image:
    try:
        image = open_image(base64.b64decode(_take(entry, "png", str), validate=True))
    except (ImageError, binascii.Error) as error:
        raise FlightError("The flight is damaged: its first frame cannot be read.") from error
    if image.size != (_take(size, "width", int), _take(size, "height", int)):
        raise FlightError(f"The flight is damaged: its first frame is {image.width} x {image.height} pixels.")
    if image_sha256(image) != _take(entry, "sha256", str):
        raise FlightError("The flight was changed: its first frame does not match its fingerprint.")
    return image
