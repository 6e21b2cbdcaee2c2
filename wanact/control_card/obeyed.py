"""Control, as it is meant everywhere: of the runs that hold one control, how many moved the picture its way.

A run is up to five actions, 21 frames, in which a control is held and no other one moves the picture along the same
component. On a control card every run is a clip of its own; in any other flight the runs are cut from its plan. A share
is never told without how many runs it is of, and how long they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wanact.actions import NUM_CHANNELS, ActionTrack
from wanact.data.motion import COMPONENT_OF, own_picture
from wanact.shapes import num_pixel_frames

RUN_ACTIONS = 5  # as long as a control card holds a channel
SHORTEST_ACTIONS = 2  # one alone is over before the picture answers


@dataclass(frozen=True)
class Obeyed:
    """How many runs moved the picture the right way.

    Attributes:
        right, runs: of how many.
        shortest, longest: frames of a run; 0 where there is none.
    """

    right: int
    runs: int
    shortest: int
    longest: int

    @property
    def share(self) -> float | None:
        """The control: 0 to 1, or None if no run can be told."""
        return self.right / self.runs if self.runs else None

    @property
    def of_what(self) -> str:
        """How much was measured, as in "48 runs of 21 frames"."""
        return how_much(self.runs, self.shortest, self.longest)


def how_much(runs: int, shortest: int, longest: int) -> str:
    """Number and length of runs in words."""
    length = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    return f"{runs} run{'' if runs == 1 else 's'} of {length} frames" if runs else "no run that can be told"


def runs_of(track: ActionTrack) -> list[tuple[int, int, int]]:
    """The runs of a plan: (channel, first action, the action behind the last)."""
    held = track.magnitude > 0  # [N, 8]
    runs = []
    for channel in range(NUM_CHANNELS):
        rivals = (COMPONENT_OF == COMPONENT_OF[channel]) & (np.arange(NUM_CHANNELS) != channel)
        alone = held[:, channel] & ~held[:, rivals].any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], alone, [False]]).astype(int)))
        for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            cuts = np.linspace(first, end, -(-(end - first) // RUN_ACTIONS) + 1).round().astype(int).tolist()
            runs += [(channel, a, b) for a, b in zip(cuts, cuts[1:], strict=False) if b - a >= SHORTEST_ACTIONS]
    return runs


def count_obeyed(track: ActionTrack, picture: np.ndarray) -> Obeyed:
    """The control of one flight.

    Args:
        track: what was asked, N actions.
        picture: how the picture moved in each, [N, 3], as `see` gives it.
    """
    runs = runs_of(track)
    right = [own_picture(picture[first:end].mean(axis=0), channel) > 0 for channel, first, end in runs]
    return Obeyed(sum(right), len(runs), *_frames([end - first for _, first, end in runs]))


def _frames(actions: Sequence[int]) -> tuple[int, int]:
    return (num_pixel_frames(min(actions) + 1), num_pixel_frames(max(actions) + 1)) if actions else (0, 0)
