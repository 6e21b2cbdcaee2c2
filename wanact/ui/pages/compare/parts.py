"""The Compare page's own components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wanact.actions import ActionTrack
from wanact.flying.comparison import MAX_LANES, MAX_SCALE, MIN_LANES
from wanact.ui.components import Component
from wanact.ui.pages.compare.desk import CompareState


class PlanStrip(Component):
    """A ready-made plan, the plan of Plan a clip or an opened flight, drawn small.

    The value is the on-disk action format (steps, 2, 8), or {"flight": record, "own_picture": bool}; while a file or a
    link is being opened it is {"open": {"text" | "link": text}}.
    """

    schema = {"description": "(steps, 2, 8) flags and magnitudes, or a flight record as an object"}

    def __init__(self, track: ActionTrack, presets: Mapping[str, ActionTrack], step_seconds: float, **kwargs: Any):
        self.example = track.to_list()
        super().__init__(
            "strip",
            track.to_list(),
            label="Flight",
            presets={name: preset.to_list() for name, preset in presets.items()},
            steps=len(track),
            step_seconds=step_seconds,
            **kwargs,
        )


class Lanes(Component):
    """Two to four lanes: what each flies, and where it differs; the value is a list of lanes.

    Args:
        listing: what there is to fly, and the `lanes` that stand there until a visitor changes them.
        has_truth: whether the simulator's truth may be a lane.
    """

    schema = {
        "type": "array",
        "items": {
            "type": "object",
            "description": "checkpoint, and seed, guidance, scale, prompt, pilot where they differ",
        },
        "description": 'two to four lanes, as [{"checkpoint": "full/step-000000942"}, {"checkpoint": "base"}]',
    }
    example: Any = [{"checkpoint": "base"}, {"checkpoint": "base", "seed": 1}]

    def __init__(self, listing: Callable[[], dict[str, Any]], has_truth: bool, **kwargs: Any):
        def list_checkpoints(_message: dict) -> dict[str, Any]:
            return listing()

        first = listing()
        super().__init__(
            "lanes",
            first["lanes"],
            label="Lanes",
            listing=first,
            has_truth=has_truth,
            fewest=MIN_LANES,
            most=MAX_LANES,
            largest_scale=MAX_SCALE,
            server_functions=[list_checkpoints],
            **kwargs,
        )


class CompareStage(Component):
    """Plays the lanes in step, with their numbers, plots and downloads."""

    data_model = CompareState
    schema = {"type": "object", "description": "lanes with clips and numbers, the tiled clip, the comparison as JSON"}
    example: Any = {"status": "idle"}

    def __init__(self, **kwargs: Any):
        super().__init__("compare", CompareState(), label="Comparison", **kwargs)

    def preprocess(self, payload: Any) -> None:
        return None  # clips never travel back
