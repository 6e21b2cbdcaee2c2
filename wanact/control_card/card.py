"""The control card of one checkpoint: every number, as a value and as a file beside the run's checkpoints.

A card lies in `RUN/control_card/step-000000552.json`, never inside a checkpoint, whose files carry sums; that of the
base model beside them is `base.json`, that of weights without a step `exported.json`.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanact.actions import NUM_CHANNELS
from wanact.control_card.obeyed import how_much
from wanact.files import CheckpointError, read_json, write_json
from wanact.runs.store import step_name

VERSION = 1
FOLDER = "control_card"
BASE = "base.json"
FULL_CARD = 6  # first frames; what was measured from fewer is a quick look

# Scalar of each measure that is drawn over the steps of a run: name -> (path in the measures, label, best value).
CURVES: dict[str, tuple[tuple[str, ...], str, float | None]] = {
    "sign_accuracy": (("sign_accuracy", "mean"), "control", 1.0),
    "worst_channel": (("sign_accuracy", "min"), "control, worst channel", 1.0),
    "separation": (("separation", "mean"), "separation", 1.0),
    "gain": (("dose_response", "mean_gain"), "gain", 1.0),
    "linearity": (("dose_response", "mean_linearity"), "linearity R2", 1.0),
    "cross_talk": (("cross_talk", "mean_other"), "cross-talk", 0.0),
    "null_drift": (("null_drift", "share_of_full"), "drift at rest", 0.0),
    "out_and_back": (("out_and_back", "mean"), "out-and-back error", 0.0),
    "sharpness": (("sharpness", "end"), "sharpness at the end", 1.0),
    "colour": (("colour", "end"), "colour shift at the end", 0.0),
}


@dataclass(frozen=True)
class ControlCard:
    """What a checkpoint does with the controls.

    Attributes:
        checkpoint: {"run", "step"}; {"run": "base", "step": None} for the base model.
        model: {"name", "fingerprint"} of the model directory.
        settings: how it was measured: first_frames, dose_frames, num_frames, num_inference_steps, guidance_scale, ...
        measures: sign_accuracy, dose_response, cross_talk, lag, null_drift, out_and_back, separation, sharpness,
            colour and idm (None without an inverse dynamics model), each a dict of plain values;
            docs/control-card.md has their definitions.
    """

    checkpoint: dict[str, Any]
    model: dict[str, Any]
    settings: dict[str, Any]
    measures: dict[str, Any] = field(repr=False)

    @property
    def title(self) -> str:
        """Run and step in words."""
        step = self.checkpoint.get("step")
        return str(self.checkpoint.get("run", "")) + (f", step {step}" if step is not None else "")

    @property
    def num_runs(self) -> int:
        """Clips that control is measured from: every channel held alone, from every first frame."""
        return NUM_CHANNELS * self._setting("first_frames")

    @property
    def of_what(self) -> str:
        """How much control is measured from, as in "48 runs of 21 frames"."""
        length = self._setting("num_frames")
        return how_much(self.num_runs, length, length)

    @property
    def is_quick(self) -> bool:
        """Whether it was measured from fewer first frames than a card is."""
        return self._setting("first_frames") < FULL_CARD

    def _setting(self, name: str) -> int:
        value = self.settings.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6 else 0

    def number(self, name: str) -> float | None:
        """One of `CURVES`; None where it could not be measured."""
        value: Any = self.measures
        for key in CURVES[name][0]:
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def is_fuller_than(self, other: ControlCard) -> bool:
        """Whether it was measured from more than another card of the same model, and from less in nothing."""

        def extent(card: ControlCard) -> list[int]:
            return [card._setting(name) for name in ("first_frames", "dose_frames", "num_frames")]

        own, others = extent(self), extent(other)
        same = self.model.get("fingerprint") == other.model.get("fingerprint")
        return same and own != others and all(a >= b for a, b in zip(own, others, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values: checkpoint, model, settings, and one object for each measure."""
        head = {"wanact_control_card": VERSION, "checkpoint": self.checkpoint, "model": self.model}
        return head | {"settings": self.settings} | self.measures

    @classmethod
    def from_json(cls, source: dict[str, Any] | str | bytes) -> ControlCard:
        """The card that `to_json` gave.

        Raises:
            CheckpointError: if it is none, or of another version.
        """
        try:
            content = source if isinstance(source, dict) else json.loads(source)
        except ValueError as error:
            raise CheckpointError("the control card is damaged: not valid JSON") from error
        version = content.get("wanact_control_card") if isinstance(content, dict) else None
        if version != VERSION:
            raise CheckpointError(f"the control card has version {version!r}, expected {VERSION}; measure it again")
        named = {name: content.get(name) for name in ("checkpoint", "model", "settings")}
        measures = {k: v for k, v in content.items() if k not in (*named, "wanact_control_card")}
        if not all(isinstance(value, dict) for value in (*named.values(), measures.get("sign_accuracy"))):
            raise CheckpointError("the control card is damaged: parts of it are missing")
        return cls(**named, measures=measures)  # pyright: ignore[reportArgumentType]


def card_path(run: str | os.PathLike, step: int | None) -> Path:
    """Where the card of a run's step lies; None for the weights that the run itself exported."""
    return Path(run) / FOLDER / (f"{step_name(step)}.json" if step is not None else "exported.json")


def save_card(card: ControlCard, path: Path) -> Path:
    """Write a card; the file is whole or as before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, card.to_json())
    return path


def keep_card(card: ControlCard, path: Path) -> bool:
    """Write a card unless what lies there is worth more; whether it was written.

    A fuller card of the same model stays, and a full card is never replaced by a quick one, whatever it was of.
    """
    kept = read_card(path)
    if kept is not None and (kept.is_fuller_than(card) or (card.is_quick and not kept.is_quick)):
        return False
    save_card(card, path)
    return True


def load_card(run: str | os.PathLike, step: int | None) -> ControlCard | None:
    """The card of a run's step, or None if it has none that can be read. Costs one small file."""
    return read_card(card_path(run, step))


def read_card(path: Path) -> ControlCard | None:
    """The card in a file, or None if there is none or it is damaged, from another version, or leads elsewhere."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return None
    try:
        return ControlCard.from_json(read_json(path))
    except CheckpointError:
        return None


def load_cards(run: str | os.PathLike) -> list[ControlCard]:
    """All cards of a run's steps, oldest step first, and before them the base's if it was measured."""
    folder = Path(run) / FOLDER
    paths = [folder / BASE, *sorted(folder.glob("step-*.json"))] if folder.is_dir() else []
    cards = [read_card(path) for path in paths]
    return sorted((card for card in cards if card), key=lambda card: card.checkpoint.get("step") or 0)
