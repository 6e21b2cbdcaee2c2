"""Micro-batches of a run in their order, the next one read by a thread while the present one is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from train.loop.sampler import StepSampler
from train.loop.seeding import Draw

Batch = dict[str, Any]


class Reader:
    """Loads micro-batches of one process.

    Args:
        load: gives the batch of some samples; a function of them alone, so that reading ahead changes nothing.
        sampler: says which samples come next.
        process: rank of this process.
        ahead: whether to read ahead.
    """

    def __init__(self, load: Callable[[list[Draw]], Batch], sampler: StepSampler, process: int, ahead: bool) -> None:
        self.load, self.sampler, self.process = load, sampler, process
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reader") if ahead else None
        self._pending: tuple[tuple[int, int], Future[Batch]] | None = None

    def read(self, start: int, step: int, round_: int) -> tuple[list[Draw], Batch]:
        """Samples and batch of one accumulation round of the step that begins at position `start`."""
        draws = self.sampler.micro_batch(start, step, round_, self.process)
        if self._pool is None:
            return draws, self.load(draws)
        place = (step, round_)
        if self._pending is None or self._pending[0] != place:
            self._pending = (place, self._pool.submit(self.load, draws))
        future = self._pending[1]
        last = round_ + 1 == self.sampler.accumulation
        following = (start + self.sampler.global_batch, step + 1, 0) if last else (start, step, round_ + 1)
        self._pending = (
            following[1:],
            self._pool.submit(self.load, self.sampler.micro_batch(*following, self.process)),
        )
        return draws, future.result()

    def close(self) -> None:
        """Forget what was read ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
