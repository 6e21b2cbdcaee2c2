"""Randomness that belongs to samples: seeds are a function of what is drawn, never of who draws it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Draw:
    """One sample of one step: which row it is, and the randomness that belongs to it.

    Attributes:
        index: row of the stage's data.
        position: samples seen since the run began, a counter that never repeats.
        step: the optimizer update this sample takes part in, from 0.
        seed: the run's seed.
        stage: the stage's name.
    """

    index: int
    position: int
    step: int
    seed: int
    stage: str

    def again(self, number: int) -> Draw:
        """The same row once more, with randomness of its own; number 0 is this draw."""
        return replace(self, stage=f"{self.stage}, again {number}") if number else self

    def generator(self, purpose: str) -> torch.Generator:
        """Generator on the CPU for this sample, one independent stream for each `purpose`."""
        return torch.Generator().manual_seed(derive_seed(self.seed, self.stage, self.position, purpose))

    def step_generator(self, purpose: str) -> torch.Generator:
        """Generator that every sample of this step shares: for choices the whole batch makes together."""
        return torch.Generator().manual_seed(derive_seed(self.seed, self.stage, "step", self.step, purpose))


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed that depends on every part and on their order, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
