"""The order of the data: a function of (seed, epoch), and a counter.

Nothing here has a state. Sample number `position` since the run began is row `order(epoch)[position % rows]`, on any
number of processes and after any resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from train.loop.seeding import Draw, derive_seed
from wanact.errors import UserError


@lru_cache(maxsize=4)
def epoch_order(num_rows: int, seed: int, epoch: int, repeat: int = 1) -> torch.Tensor:
    """Row of every sample of one epoch: each row `repeat` times, shuffled; int64 [num_rows * repeat]."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(num_rows * repeat, generator=generator) % num_rows


class StepSampler:
    """Which samples make up a step, and which of them one process takes in one accumulation round.

    Args:
        num_rows: rows of the data.
        repeat: times each row is seen in an epoch.
        seed: the run's seed.
        stage: the stage's name, part of every sample's randomness.
        batch_size: samples of one forward in one process.
        accumulation: forwards of a step in one process.
        num_processes: processes that share a step.
        order: gives the rows of an epoch from seed, epoch and `repeat` where they are best read in an order of their
            own, else None; shuffled as a whole if not given.
    """

    def __init__(
        self,
        num_rows: int,
        repeat: int,
        seed: int,
        stage: str,
        batch_size: int,
        accumulation: int,
        num_processes: int,
        order: Callable[[int, int, int], torch.Tensor | None] | None = None,
    ) -> None:
        if num_rows < 1:
            raise UserError("the data has no usable row; skipped.csv in the run's folder says why")
        self.num_rows, self.repeat, self.seed, self.stage = num_rows, repeat, seed, stage
        self.batch_size, self.accumulation, self.num_processes = batch_size, accumulation, num_processes
        self._order = lru_cache(maxsize=4)(order or (lambda *_: None))

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer update, over all processes."""
        return self.batch_size * self.accumulation * self.num_processes

    @property
    def epoch_length(self) -> int:
        return self.num_rows * self.repeat

    def position_after(self, state: Mapping[str, Any], step: int) -> int:
        """Where the data goes on after a checkpoint.

        Its batch may have been another: what counts is the samples seen. Its data may have been longer or shorter: then
        it is the same place in the same epoch, so that epochs neither fall nor are left out.

        Args:
            state: content of its trainer_state.json; {} of other trainers, whose batches are taken to be ours.
            step: updates it has done.
        """
        position = int(state.get("position", step * self.global_batch))
        epoch, length = state.get("epoch"), state.get("epoch_length")
        if length and length != self.epoch_length:
            epoch, offset = divmod(position, length)
            return epoch * self.epoch_length + offset * self.epoch_length // length
        if epoch is not None and position // self.epoch_length != epoch:  # it does not say how long an epoch was
            return epoch * self.epoch_length
        return position

    def draw(self, position: int, step: int) -> Draw:
        """The sample at a position of the run."""
        epoch, offset = divmod(position, self.epoch_length)
        order = self._order(self.seed, epoch, self.repeat)
        if order is None:
            order = epoch_order(self.num_rows, self.seed, epoch, self.repeat)
        row = int(order[offset])
        return Draw(row, position, step, self.seed, self.stage)

    def micro_batch(self, start: int, step: int, round_: int, process: int) -> list[Draw]:
        """Samples of one process in one accumulation round of the step that begins at position `start`.

        A step is cut into rounds first and processes second, so that 1 process x 4 rounds and 2 x 2 of the same
        micro-batch size hold the same samples.
        """
        first = start + (round_ * self.num_processes + process) * self.batch_size
        return [self.draw(first + i, step) for i in range(self.batch_size)]
