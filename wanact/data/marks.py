"""Marks: what somebody who looked at a data set wants done with it, in a file beside the table that is never changed.

`clips.csv.marks.json` holds, by clip, what is left out, captioned anew or split at a cut, and what is done to the
actions of a clip or of all: axes that are mirrored, scaled or swapped, and seconds by which they came late. Whoever
reads the table for training reads it so; without the file it is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from wanact.actions import ActionTrack, read_track
from wanact.data.tables import RowError
from wanact.errors import UserError
from wanact.files import CheckpointError, otherwise, read_json, read_model, write_json

SUFFIX = ".marks.json"
FORMAT = 1
AXES = ("ahead", "right", "yaw_right", "pitch_up")
MAX_LATER = 40.0  # latent frames: ten seconds at 16 frames a second
MAX_TIMES = 10_000.0
MAX_CUTS = 100
MAX_PROMPT = 4_000
NAMES = {"ahead": "forward and back", "right": "left and right", "yaw_right": "yaw", "pitch_up": "pitch"}


class MarksError(UserError):
    """Marks that cannot be read, or say what cannot be done; the message says which."""


class LeftOut(RowError):
    """A row that was left out by hand: it is no mistake of the table's, and does not count as one."""


@dataclass(frozen=True)
class Fix:
    """What is done to actions before they are learnt.

    Attributes:
        source: for each of the four axes, the one that it is taken from.
        times: what it is multiplied by.
        later: latent frames by which actions come later than what they move: the action of latent frame t is the one
            that stands at t + later.
    """

    source: tuple[int, int, int, int] = (0, 1, 2, 3)
    times: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    later: float = 0.0

    def __post_init__(self) -> None:
        if sorted(self.source) != [0, 1, 2, 3]:
            raise MarksError(f"axes are taken from {self.source}, expected each of the four once")
        for value in self.times:
            if not 1 / MAX_TIMES <= abs(value) <= MAX_TIMES:
                raise MarksError(f"an axis is multiplied by {value:g}, expected up to {MAX_TIMES:g} or its inverse")
        if not abs(self.later) <= MAX_LATER:
            raise MarksError(f"actions are {self.later:g} latent frames late, expected at most {MAX_LATER:g}")

    def __bool__(self) -> bool:
        return self != Fix()

    def then(self, other: Fix) -> Fix:
        """This one, and after it the other."""
        pairs = list(zip(other.source, other.times, strict=True))
        source = [self.source[i] for i, _ in pairs]
        times = [round(self.times[i] * factor, 9) for i, factor in pairs]
        return Fix(_four(source), _four(times), round(self.later + other.later, 6))

    def of(self, track: ActionTrack) -> ActionTrack:
        """The track as it should have been; actions that nobody knows are taken for rest."""
        return ActionTrack.from_axes(self.of_axes(track.axes.astype(np.float64)))

    def of_axes(self, axes: np.ndarray) -> np.ndarray:
        """The same of signed axes [N, 4]. Where actions are early, the first `lead` of them are not known."""
        axes = axes[:, list(self.source)] * np.array(self.times)
        if not self.later:
            return axes.round(9)
        # What is done in latent frame t is the difference of two places of a path: read them where they stand.
        done = np.concatenate([np.zeros((1, 4)), np.cumsum(axes, axis=0)])
        places = np.arange(len(axes) + 1) + self.later
        places = places[places <= len(axes) + 1e-6]
        if len(places) < 2:
            return np.zeros((0, 4))
        known = np.arange(len(done))
        at = np.stack([np.interp(places, known, column) for column in done.T], axis=1)
        return np.diff(at, axis=0).round(9)

    @property
    def lead(self) -> int:
        """Latent frames at a clip's beginning whose actions nobody knows, because the track begins later."""
        return int(np.ceil(max(0.0, -self.later) - 1e-6))

    def to_dict(self) -> dict[str, Any]:
        changed = {
            AXES[i]: {"from": AXES[self.source[i]], "times": self.times[i]}
            for i in range(4)
            if (self.source[i], self.times[i]) != (i, 1.0)
        }
        return changed | ({"later": self.later} if self.later else {})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Fix:
        """Read what `to_dict` wrote; names and numbers are checked."""
        unknown = set(content) - {*AXES, "later"}
        if unknown:
            raise MarksError(f"a fix has {sorted(unknown)[0]!r}, expected {', '.join(AXES)} or later")
        source, times = [0, 1, 2, 3], [1.0] * 4
        for i, name in enumerate(AXES):
            entry = content.get(name)
            if entry is None:
                continue
            if not isinstance(entry, Mapping) or entry.get("from", name) not in AXES:
                raise MarksError(f"{name} is {entry!r}, expected an axis and a factor")
            source[i], times[i] = AXES.index(entry.get("from", name)), _number(entry.get("times", 1.0))
        return cls(_four(source), _four(times), _number(content.get("later", 0.0)))

    def __str__(self) -> str:
        words = []
        for i, (j, factor) in enumerate(zip(self.source, self.times, strict=True)):
            parts = [f"taken from {NAMES[AXES[j]]}"] if j != i else []
            parts += ["mirrored"] if factor < 0 else []
            parts += [f"times {abs(factor):.4g}"] if abs(factor) != 1 else []
            words += [f"{NAMES[AXES[i]]} {', '.join(parts)}"] if parts else []
        if self.later:
            words.append(f"actions {abs(self.later):.3g} latent frames {'earlier' if self.later > 0 else 'later'}")
        return "; ".join(words) or "actions as they are"


def _four(values: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    a, b, c, d = values
    return a, b, c, d


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MarksError(f"{value!r} stands where a number was expected")
    return float(value)


@dataclass(frozen=True)
class Mark:
    """What is marked of one clip.

    Attributes:
        out: it is left out.
        prompt: its words instead of the table's; None leaves them.
        cuts: seconds of its video at which another scene begins; training clips do not reach over them.
        fix: what is done to its actions, after what is done to those of all.
    """

    out: bool = False
    prompt: str | None = None
    cuts: tuple[float, ...] = ()
    fix: Fix = field(default_factory=Fix)

    def __bool__(self) -> bool:
        return self != Mark()

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = {"out": True} if self.out else {}
        content |= {"prompt": self.prompt} if self.prompt is not None else {}
        content |= {"cuts": list(self.cuts)} if self.cuts else {}
        return content | ({"fix": self.fix.to_dict()} if self.fix else {})


class _Mark(BaseModel):
    model_config = ConfigDict(extra="forbid")
    out: bool = False
    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = None
    cuts: Annotated[list[Annotated[float, Field(ge=0, lt=1e6)]], Field(max_length=MAX_CUTS)] = []
    fix: dict[str, Any] = {}


class _File(BaseModel):
    format: Annotated[int, otherwise(FORMAT)] = FORMAT
    fix: dict[str, Any] = {}
    clips: dict[str, _Mark] = {}


@dataclass(frozen=True)
class Marks:
    """The marks of one table.

    Attributes:
        path: the file that they are kept in.
        fix: what is done to the actions of all clips.
        clips: by their keys, see `keys_of`.
    """

    path: Path
    fix: Fix = field(default_factory=Fix)
    clips: Mapping[str, Mark] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.fix) or any(self.clips.values())

    def of_clip(self, key: str) -> Mark:
        return self.clips.get(key) or Mark()

    def fix_of(self, key: str) -> Fix:
        """All that is done to a clip's actions."""
        return self.fix.then(self.of_clip(key).fix)

    def with_clip(self, key: str, **changes: Any) -> Marks:
        """With something else marked of a clip."""
        mark = replace(self.of_clip(key), **changes)
        clips = {name: kept for name, kept in self.clips.items() if name != key}
        return replace(self, clips=clips | ({key: mark} if mark else {}))

    def with_fix(self, fix: Fix, keys: Iterable[str] | None = None) -> Marks:
        """With a fix after what is done already, to the clips of these keys, or to all."""
        if keys is None:
            return replace(self, fix=self.fix.then(fix))
        marks = self
        for key in keys:
            marks = marks.with_clip(key, fix=marks.of_clip(key).fix.then(fix))
        return marks

    def without_fixes(self) -> Marks:
        """With actions as the table has them."""
        clips = {key: replace(mark, fix=Fix()) for key, mark in self.clips.items()}
        return replace(self, fix=Fix(), clips={key: mark for key, mark in clips.items() if mark})

    def at_rate(self, ratio: float) -> Marks:
        """For latent frames that are so many times as many a second as those that were looked at."""

        def faster(fix: Fix) -> Fix:
            return replace(fix, later=fix.later * ratio)

        clips = {key: replace(mark, fix=faster(mark.fix)) for key, mark in self.clips.items()}
        return replace(self, fix=faster(self.fix), clips=clips)

    def save(self) -> None:
        """Write them whole; where nothing is marked, no file is left."""
        if not self:
            self.path.unlink(missing_ok=True)
            return
        clips = {key: mark.to_dict() for key, mark in sorted(self.clips.items()) if mark}
        write_json(self.path, {"format": FORMAT, "fix": self.fix.to_dict(), "clips": clips})

    def applied(self, records: list[dict[str, Any] | RowError]) -> list[dict[str, Any] | RowError]:
        """The rows of a table as they are marked, each in its place."""
        if not self:
            return records
        return [
            record if key is None else self.apply(key, record)
            for key, record in zip(keys_of(records), records, strict=True)
        ]

    def apply(self, key: str, record: dict[str, Any] | RowError) -> dict[str, Any] | RowError:
        """One row as it is marked. What `windows` needs of cuts and shifts stands in it as `cuts` and `lead`."""
        mark, fix = self.of_clip(key), self.fix_of(key)
        if isinstance(record, RowError) or not (mark or fix):
            return record
        if mark.out:
            return LeftOut(f"is left out by hand ({self.path.name})")
        changed = dict(record)
        if mark.prompt is not None:
            changed["prompt"] = mark.prompt
        if mark.cuts:
            changed["cuts"] = mark.cuts
        if fix and has_actions(record):
            changed["action"] = _fixed(record["action"], fix)
            changed["lead"] = fix.lead
        return changed


def has_actions(record: Mapping[str, Any]) -> bool:
    """Whether a row says anything in its column of actions."""
    action = record.get("action")
    return action is not None and not (isinstance(action, str) and not action.strip())


def _fixed(action: Any, fix: Fix) -> Callable[[], ActionTrack]:
    def fixed() -> ActionTrack:
        read: Any = action() if callable(action) else read_track(action)[0]
        return fix.of(read)

    return fixed


def of(table: Path) -> Marks:
    """The marks beside a table or a manifest; none where there is no file.

    Raises:
        MarksError: if the file is damaged, or says what cannot be done.
    """
    path = table.with_name(table.name + SUFFIX)
    if not path.exists():
        return Marks(path)
    try:
        content = read_json(path)
    except CheckpointError as error:
        raise MarksError(str(error)) from error
    said = read_model(_File, content, lambda problem: MarksError(f"{path} {problem}; mend it, or remove it"))
    if said.format > FORMAT:
        raise MarksError(f"{path} was written by a newer version (format {said.format}, this one reads {FORMAT})")
    try:
        clips = {
            key: Mark(one.out, one.prompt, tuple(sorted(one.cuts)), Fix.from_dict(one.fix))
            for key, one in said.clips.items()
        }
        return Marks(path, Fix.from_dict(said.fix), clips)
    except MarksError as error:
        raise MarksError(f"{path}: {error}; mend it, or remove it") from error


def keys_of(records: Sequence[dict[str, Any] | RowError]) -> list[str | None]:
    """What each row is called in the marks: its video as the table names it, and where in it, if that is said.

    A row that stands twice is told apart by a number; one that cannot be read has no name.
    """
    seen: dict[str, int] = {}
    keys: list[str | None] = []
    for record in records:
        if not isinstance(record, dict) or not isinstance(name := record.get("video"), str) or not name.strip():
            keys.append(None)
            continue
        key, start = name.strip(), str(record["start"] if record.get("start") is not None else "").strip()
        key += f"@{start}" if start else ""
        seen[key] = seen.get(key, 0) + 1
        keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return keys


def say(marks: Marks) -> str:
    """What is marked, in one sentence; "" where nothing is."""
    counts = {
        "left out": sum(mark.out for mark in marks.clips.values()),
        "captioned anew": sum(mark.prompt is not None for mark in marks.clips.values()),
        "split": sum(bool(mark.cuts) for mark in marks.clips.values()),
        "with a fix of their own": sum(bool(mark.fix) for mark in marks.clips.values()),
    }
    words = [f"{count} {what}" for what, count in counts.items() if count]
    words += [str(marks.fix)] if marks.fix else []
    return ", ".join(words)
