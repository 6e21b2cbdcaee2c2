"""A comparison: one flight, flown side by side with different checkpoints, seeds, guidance, scales or prompts.

As a file it is one JSON that holds the flight record and the lanes. As a link it is short, and holds everything but the
picture, for which it names one of the samples.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import pydantic

from wanact.actions import NUM_CHANNELS, ActionError, ActionTrack
from wanact.errors import UserError
from wanact.files import number, parse_foreign, read_model, refusing, text, whole
from wanact.flying.record import MAX_BYTES, MAX_SEED, FlightRecord
from wanact.flying.request import clean_prompt

VERSION = 1
TRUTH = "truth"
MIN_LANES, MAX_LANES = 2, 4
MAX_SCALE = 4.0
MAX_GUIDANCE = 12.0
MAX_PROMPT_CHARACTERS = 2_000
MAX_LINK_CHARACTERS = 16_000
_MAX_LINK_ACTIONS, _MAX_LINK_STEPS = 400, 60
_MAX_ID_CHARACTERS = 200


class ComparisonError(UserError):
    """A comparison that cannot be flown; the message is one sentence for the person who asked for it."""


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(strict=True))
class Lane:
    """What one lane flies; None takes the flight's own.

    Args:
        checkpoint: id of a checkpoint, "base" for the model without actions, or "truth" for the simulator.
        seed: 0 to 2**31 - 1.
        guidance: 1 to 12.
        scale: of every action's magnitude, 0 to 4.
        prompt: up to 2,000 characters.
        pilot: who flies instead of the flight's track, and what, as "id:task".

    Raises:
        ValidationError: if one of them is out of range; `parse` says it in a sentence.
    """

    checkpoint: Annotated[str, text(_MAX_ID_CHARACTERS, shortest=1)]
    seed: Annotated[int, whole(0, MAX_SEED, floats=True)] | None = None
    guidance: Annotated[float, number(1, MAX_GUIDANCE)] | None = None
    scale: Annotated[float, number(0, MAX_SCALE)] = 1.0
    prompt: Annotated[str, text(MAX_PROMPT_CHARACTERS)] | None = None
    pilot: Annotated[str, text(_MAX_ID_CHARACTERS, shortest=1)] | None = None

    @classmethod
    def parse(cls, source: Any) -> Lane:
        """A lane from a program, a file or a page: an object, or only the id of a checkpoint.

        Raises:
            ComparisonError: if it is neither, or a setting is out of range.
        """
        if isinstance(source, str):
            return cls.make(source)
        if not isinstance(source, dict) or "checkpoint" not in source:
            raise ComparisonError("A lane has a checkpoint, and may have seed, guidance, scale, prompt and pilot.")
        settings = ("seed", "guidance", "scale", "prompt", "pilot")
        known = {key: source[key] for key in settings if source.get(key) not in (None, "")}
        if isinstance(prompt := known.get("prompt"), str) and len(prompt) <= MAX_PROMPT_CHARACTERS:
            known["prompt"] = clean_prompt(prompt)
        return cls.make(source["checkpoint"], **known)

    @classmethod
    def make(cls, checkpoint: Any, **settings: Any) -> Lane:
        """A lane of values that nobody has looked at.

        Raises:
            ComparisonError: naming the first that is out of range.
        """
        with refusing(lambda problem: ComparisonError(f"A lane's {problem}.")):
            return cls(checkpoint, **settings)

    def to_dict(self) -> dict[str, Any]:
        """The lane without what it leaves to the flight."""
        content = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value for key, value in content.items() if (key, value) != ("scale", 1.0)}

    def flight(self, record: FlightRecord) -> FlightRecord:
        """The flight as this lane flies it; of a pilot's lane, `record` has the track that the pilot flies."""
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
    """Raise ComparisonError unless two to four lanes are given, of which at most one is the truth of a track."""
    if not MIN_LANES <= len(lanes) <= MAX_LANES:
        raise ComparisonError(f"{len(lanes)} lanes are chosen; {MIN_LANES} to {MAX_LANES} are compared.")
    flown = [lane.pilot for lane in lanes if lane.checkpoint == TRUTH]
    if len(flown) != len(set(flown)):
        raise ComparisonError("The simulator's truth is the same in every lane; one of them is enough.")


def is_comparison(source: str | bytes) -> bool:
    """Whether a JSON holds a comparison or several flights, and not one flight."""
    content = _decode(source)
    return isinstance(content, list) or "wanact_comparison" in content


def _decode(source: str | bytes) -> Any:
    if len(source) > MAX_BYTES:
        raise ComparisonError(f"The file has {len(source) >> 20} MB, at most {MAX_BYTES >> 20} MB are read.")
    try:
        content = parse_foreign(source)
    except ValueError as error:
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
        lanes.append(Lane.make(str(wanted), seed=record.seed, guidance=record.guidance_scale, prompt=record.prompt))
    return Comparison(first, tuple(lanes))


# Links


def _as_stretch(entry: Any) -> Any:
    return tuple(entry) if isinstance(entry, list) else entry  # JSON has no tuples


_Stretch = Annotated[
    tuple[
        Annotated[int, whole(0, NUM_CHANNELS - 1)],
        Annotated[int, whole(0, _MAX_LINK_ACTIONS)],
        Annotated[int, whole(1, _MAX_LINK_ACTIONS)],
        Annotated[float, number()],
    ],
    pydantic.BeforeValidator(_as_stretch),
]


class _LinkJson(pydantic.BaseModel):
    """What a link's text holds: every name is a letter, so that it stays short."""

    v: int
    f: Annotated[str, text(100)]
    p: Annotated[str, text(MAX_PROMPT_CHARACTERS)]
    n: Annotated[str, text(MAX_PROMPT_CHARACTERS)]
    s: Annotated[int, whole(0, MAX_SEED)]
    d: Annotated[int, whole(1, _MAX_LINK_STEPS)]
    g: Annotated[float, number(1, MAX_GUIDANCE)]
    a: list[_Stretch]
    c: Annotated[int, whole(1, _MAX_LINK_ACTIONS)]
    l: list[Any]  # noqa: E741


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
        packed = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        link = base64.urlsafe_b64encode(packed).decode().rstrip("=")
        if len(link) > MAX_LINK_CHARACTERS:
            raise ComparisonError("The comparison is too long for a link; save it as JSON.")
        return link

    @classmethod
    def decode(cls, link: Any) -> Link:
        """Read a link.

        Raises:
            ComparisonError: if it is none, in one sentence.
        """
        if not isinstance(link, str) or len(link) > MAX_LINK_CHARACTERS:
            raise ComparisonError("The link is too long to be one of a comparison.")
        try:
            raw = parse_foreign(base64.b64decode(link + "=" * (-len(link) % 4), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError) as error:
            raise ComparisonError("The link is incomplete or was changed; ask for it again.") from error
        content = read_model(
            _LinkJson, raw, lambda problem: ComparisonError(f"The link was changed, for {problem}; ask for it again.")
        )
        if content.v != VERSION:
            raise ComparisonError(f"The link has version {str(content.v)[:20]}, expected {VERSION}.")
        try:
            track = _unpack(content.a, content.c)
        except ActionError as error:
            raise ComparisonError(f"The link's actions cannot be flown: {error}.") from error
        lanes = tuple(map(Lane.parse, content.l[: MAX_LANES + 1]))
        check_lanes(lanes)
        return cls(content.f, content.p, content.n, content.s, content.d, content.g, track, lanes)


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


def _unpack(stretches: Sequence[tuple[int, int, int, float]], count: int) -> ActionTrack:
    magnitude = np.zeros((count, NUM_CHANNELS), np.float32)
    for channel, start, length, value in stretches:
        if start + length > count:
            raise ActionError(f"a stretch ends after action {start + length} of {count}")
        magnitude[start : start + length, channel] = value
    return ActionTrack(magnitude)
