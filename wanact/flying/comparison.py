"""A comparison: one flight, flown side by side with different checkpoints, seeds, guidance, scales or prompts.

As a file it is one JSON that holds the flight record and the lanes. As a link it is short, and holds everything but the
picture, for which it names one of the samples.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from wanact.actions import NUM_CHANNELS, ActionError, ActionTrack
from wanact.errors import UserError
from wanact.flying.record import MAX_BYTES, MAX_SEED, FlightError, FlightRecord

VERSION = 1
TRUTH = "truth"
MIN_LANES, MAX_LANES = 2, 4
MAX_SCALE = 4.0
MAX_GUIDANCE = 12.0
MAX_PROMPT_CHARACTERS = 2_000
MAX_LINK_CHARACTERS = 16_000
_MAX_LINK_ACTIONS = 400
_MAX_ID_CHARACTERS = 200


class ComparisonError(UserError):
    """A comparison that cannot be flown; the message is one sentence for the person who asked for it."""


@dataclass(frozen=True)
class Lane:
    """What one lane flies; None takes the flight's own.

    Args:
        checkpoint: id of a checkpoint, "base" for the model without actions, or "truth" for the simulator.
        seed: 0 to 2**31 - 1.
        guidance: 1 to 12.
        scale: of every action's magnitude, 0 to 4.
        prompt: up to 2,000 characters.

    Raises:
        ComparisonError: if one of them is out of range.
    """

    checkpoint: str
    seed: int | None = None
    guidance: float | None = None
    scale: float = 1.0
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.checkpoint, str) or not 0 < len(self.checkpoint) <= _MAX_ID_CHARACTERS:
            raise ComparisonError(f"A lane names no checkpoint: {str(self.checkpoint)[:40]!r}.")
        _check_number("seed", self.seed, 0, MAX_SEED, whole=True)
        _check_number("guidance", self.guidance, 1, MAX_GUIDANCE)
        _check_number("scale", self.scale, 0, MAX_SCALE)
        if self.scale is None:
            object.__setattr__(self, "scale", 1.0)
        if self.prompt is not None and (not isinstance(self.prompt, str) or len(self.prompt) > MAX_PROMPT_CHARACTERS):
            raise ComparisonError(f"A lane's prompt is no text of up to {MAX_PROMPT_CHARACTERS:,} characters.")

    @classmethod
    def parse(cls, source: Any) -> Lane:
        """A lane from a program, a file or a page: an object, or only the id of a checkpoint.

        Raises:
            ComparisonError: if it is neither.
        """
        if isinstance(source, str):
            return cls(source)
        if not isinstance(source, dict) or "checkpoint" not in source:
            raise ComparisonError("A lane has a checkpoint, and may have seed, guidance, scale and prompt.")
        settings = ("seed", "guidance", "scale", "prompt")
        known = {key: source[key] for key in settings if source.get(key) not in (None, "")}
        if isinstance(known.get("seed"), float) and known["seed"] == int(known["seed"]):
            known["seed"] = int(known["seed"])
        return cls(source["checkpoint"], **known)

    def to_dict(self) -> dict[str, Any]:
        """The lane without what it leaves to the flight."""
        content = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value for key, value in content.items() if (key, value) != ("scale", 1.0)}

    def flight(self, record: FlightRecord) -> FlightRecord:
        """The flight as this lane flies it."""
        changes: dict[str, Any] = {"checkpoint": {"id": self.checkpoint}}
        if self.seed is not None:
            changes["seed"] = self.seed
        if self.guidance is not None:
            changes["guidance_scale"] = float(self.guidance)
        if self.prompt is not None:
            changes["prompt"] = self.prompt
        if self.scale != 1.0:
            changes["track"] = ActionTrack(record.track.magnitude * np.float32(self.scale))
        return replace(record, **changes)


@dataclass(frozen=True)
class Comparison:
    """One flight and two to four lanes.

    Raises:
        ComparisonError: if there are fewer or more lanes.
    """

    flight: FlightRecord
    lanes: tuple[Lane, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lanes", tuple(self.lanes))
        check_lanes(self.lanes)

    def to_json(self) -> str:
        """The comparison as JSON; `parse` gives an equal one back."""
        flight = json.loads(self.flight.to_json())
        content = {"wanact_comparison": VERSION, "lanes": [lane.to_dict() for lane in self.lanes], "flight": flight}
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def parse(cls, source: str | bytes) -> Comparison:
        """Read a comparison, or make one of a list of flight records that differ in what lanes may differ in.

        Raises:
            ComparisonError, FlightError: in one sentence.
        """
        content = _decode(source)
        if isinstance(content, list):
            return _from_records(content)
        version = content.get("wanact_comparison")
        if isinstance(version, bool) or version != VERSION:
            raise ComparisonError(f"The comparison has version {str(version)[:20]}, expected {VERSION}.")
        lanes = content.get("lanes")
        if not isinstance(lanes, list) or len(lanes) > MAX_LANES:
            raise ComparisonError(f"A comparison has {MIN_LANES} to {MAX_LANES} lanes.")
        return cls(FlightRecord.parse(json.dumps(content.get("flight"))), tuple(map(Lane.parse, lanes)))


def check_lanes(lanes: Sequence[Lane]) -> None:
    """Raise ComparisonError unless two to four lanes are given, of which at most one is the truth."""
    if not MIN_LANES <= len(lanes) <= MAX_LANES:
        raise ComparisonError(f"{len(lanes)} lanes are chosen; {MIN_LANES} to {MAX_LANES} are compared.")
    if sum(lane.checkpoint == TRUTH for lane in lanes) > 1:
        raise ComparisonError("The simulator's truth is the same in every lane; one of them is enough.")


def is_comparison(source: str | bytes) -> bool:
    """Whether a JSON holds a comparison or several flights, and not one flight."""
    content = _decode(source)
    return isinstance(content, list) or "wanact_comparison" in content


def _decode(source: str | bytes) -> Any:
    if len(source) > MAX_BYTES:
        raise ComparisonError(f"The file has {len(source) >> 20} MB, at most {MAX_BYTES >> 20} MB are read.")
    try:
        content = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise ComparisonError("The file is no comparison: it is not valid JSON.") from error
    if not isinstance(content, dict | list):
        raise ComparisonError("The file is no comparison: expected an object, or a list of flight records.")
    return content


def _from_records(entries: list[Any]) -> Comparison:
    if not MIN_LANES <= len(entries) <= MAX_LANES:
        raise ComparisonError(f"The file lists {len(entries)} flights; {MIN_LANES} to {MAX_LANES} are compared.")
    records = [FlightRecord.parse(json.dumps(entry)) for entry in entries]
    first, lanes = records[0], []
    for record in records:
        if record.image.tobytes() != first.image.tobytes() or record.track != first.track or record.kind != first.kind:
            raise ComparisonError("The flights differ in first frame or track; lanes share both.")
        wanted = (record.checkpoint or {}).get("id", "base")
        lanes.append(Lane(str(wanted), seed=record.seed, guidance=record.guidance_scale, prompt=record.prompt))
    return Comparison(first, tuple(lanes))


def _check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (whole and not isinstance(value, int)):
        kind = "a whole number" if whole else "a number"
        raise ComparisonError(f"A lane's {name} is {str(value)[:40]}, expected {kind} from {low} to {high:g}.")


# Links


@dataclass(frozen=True)
class Link:
    """What a link holds: the flight without its picture, and the lanes."""

    sample: str
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    track: ActionTrack
    lanes: tuple[Lane, ...]

    @classmethod
    def of(cls, comparison: Comparison, sample: str) -> Link:
        """The link of a comparison whose first frame is the sample of this id.

        Raises:
            ComparisonError: if a link cannot hold it, and a file can.
        """
        flight = comparison.flight
        if flight.kind != "clip":
            raise ComparisonError("A live flight is too much for a link; save the comparison as JSON.")
        if any(lane.checkpoint.startswith("upload/") for lane in comparison.lanes):
            raise ComparisonError("An uploaded checkpoint is yours alone, so a link to it would lead nowhere.")
        return cls(
            sample,
            flight.prompt,
            flight.negative_prompt,
            flight.seed,
            flight.num_inference_steps,
            flight.guidance_scale,
            flight.track,
            comparison.lanes,
        )

    def encode(self) -> str:
        """The link as text for an address.

        Raises:
            ComparisonError: if it is too long for one.
        """
        content = {
            "v": VERSION,
            "f": self.sample,
            "p": self.prompt,
            "n": self.negative_prompt,
            "s": self.seed,
            "d": self.num_inference_steps,
            "g": self.guidance_scale,
            "a": _pack(self.track),
            "c": len(self.track),
            "l": [lane.to_dict() for lane in self.lanes],
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        link = base64.urlsafe_b64encode(text).decode().rstrip("=")
        if len(link) > MAX_LINK_CHARACTERS:
            raise ComparisonError("The comparison is too long for a link; save it as JSON.")
        return link

    @classmethod
    def decode(cls, text: Any) -> Link:
        """Read a link.

        Raises:
            ComparisonError: if it is none, in one sentence.
        """
        if not isinstance(text, str) or len(text) > MAX_LINK_CHARACTERS:
            raise ComparisonError("The link is too long to be one of a comparison.")
        try:
            content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            if content["v"] != VERSION:
                raise ComparisonError(f"The link has version {str(content['v'])[:20]}, expected {VERSION}.")
            link = cls(
                sample=_text(content["f"], 100),
                prompt=_text(content["p"], MAX_PROMPT_CHARACTERS),
                negative_prompt=_text(content["n"], MAX_PROMPT_CHARACTERS),
                seed=content["s"],
                num_inference_steps=content["d"],
                guidance_scale=content["g"],
                track=_unpack(content["a"], content["c"]),
                lanes=tuple(map(Lane.parse, _list(content["l"])[: MAX_LANES + 1])),
            )
        except ActionError as error:
            raise ComparisonError(f"The link's actions cannot be flown: {error}.") from error
        except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, ComparisonError):
                raise
            raise ComparisonError("The link is incomplete or was changed; ask for it again.") from error
        _check_number("seed", link.seed, 0, MAX_SEED, whole=True)
        _check_number("number of steps", link.num_inference_steps, 1, 60, whole=True)
        _check_number("guidance", link.guidance_scale, 1, MAX_GUIDANCE)
        check_lanes(link.lanes)
        return link


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise TypeError("no text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _pack(track: ActionTrack) -> list[list[float]]:
    """[channel, first action, how many, magnitude] of every stretch in which a control does not change."""
    runs: list[list[float]] = []
    for channel in range(NUM_CHANNELS):
        column = track.magnitude[:, channel]
        for step, value in enumerate(column):
            if value == 0:
                continue
            if step and column[step - 1] == value:
                runs[-1][2] += 1
            else:
                runs.append([channel, step, 1, float(str(value))])
    return runs


def _unpack(runs: Any, count: Any) -> ActionTrack:
    if type(count) is not int or not 0 < count <= _MAX_LINK_ACTIONS or not isinstance(runs, list):
        raise TypeError("no track")
    magnitude = np.zeros((count, NUM_CHANNELS), np.float32)
    for channel, start, length, value in runs:
        inside = type(channel) is type(start) is type(length) is int and 0 <= channel < NUM_CHANNELS
        if not inside or not 0 <= start < start + length <= count or not isinstance(value, int | float):
            raise TypeError("no stretch of a track")
        magnitude[start : start + length, channel] = value
    return ActionTrack(magnitude)


__all__ = ["TRUTH", "Comparison", "ComparisonError", "FlightError", "Lane", "Link", "check_lanes", "is_comparison"]
