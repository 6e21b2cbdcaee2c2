"""How much one request may ask of the model: steps times frames times size, measured by the model's own clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wanact import shapes
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError

MAX_STEPS = 60  # of a clip of the model's own length and size; fewer of a larger one
MAX_AREA = 4  # times the model's own size
MAX_LENGTH = 4  # times the pixels of the model's own clip, in all frames of a longer one
MAX_LIVE_ACTIONS = 240  # of a live flight that is compared: a minute
LANES = 2  # clips of MAX_STEPS that the lanes of a comparison may take together
LANES_LENGTH = 24  # as MAX_LENGTH, of all lanes: two live flights of a minute, or four of half a minute


@dataclass(frozen=True)
class Budget:
    """What a request for this model may ask.

    Args:
        height, width, num_frames: of the model's own clip.
    """

    height: int
    width: int
    num_frames: int

    @classmethod
    def of(cls, defaults: Mapping[str, Any]) -> Budget:
        """The budget of a model with these defaults."""
        return cls(defaults["height"], defaults["width"], defaults["num_frames"])

    @property
    def _pixels(self) -> int:
        return self.height * self.width * self.num_frames

    def check_clip(self, height: int, width: int, num_frames: int, num_steps: float) -> None:
        """Refuse a clip that would take more of the model than one request may.

        Raises:
            RequestError: saying what would be drawn.
        """
        share = height * width * num_frames / self._pixels
        if num_steps * share > MAX_STEPS:
            most = int(MAX_STEPS / share)
            at = f"{num_frames} frames of {width} × {height}"
            raise RequestError(f"{num_steps:g} steps are too many for {at}; up to {most} are drawn")

    def check_record(self, record: FlightRecord) -> None:
        """Refuse a record that is too long to be flown again while somebody waits.

        Raises:
            RequestError: saying what would be flown.
        """
        longest = MAX_LIVE_ACTIONS
        if record.kind == "clip":
            frames = int(MAX_LENGTH * self._pixels / (record.image.height * record.image.width))
            longest = min(longest, (max(frames, 1) - 1) // shapes.TEMPORAL_STRIDE)
        if len(record.track) > longest:
            raise RequestError(f"the flight has {len(record.track)} actions; up to {longest} of this kind are compared")

    def check_lanes(self, record: FlightRecord, num_lanes: int) -> None:
        """Refuse a comparison whose lanes take too much together.

        Raises:
            RequestError: saying what would be flown.
        """
        self.check_record(record)
        share = num_lanes * record.image.height * record.image.width * record.num_frames / self._pixels
        if share > LANES_LENGTH:
            most = int(LANES_LENGTH / share * len(record.track))
            raise RequestError(f"{num_lanes} lanes of {len(record.track)} actions are too long; up to {most} are flown")
        if record.kind == "clip" and share * record.num_inference_steps > LANES * MAX_STEPS:
            most = int(LANES * MAX_STEPS / share)
            steps = record.num_inference_steps
            raise RequestError(f"{num_lanes} lanes of {steps} steps are too much at once; up to {most} steps are drawn")
