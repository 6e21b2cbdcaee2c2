"""Micro-batches of a run in their order, the next ones read by threads while the present one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from train.loop.sampler import StepSampler
from train.loop.seeding import Draw

Batch = dict[str, Any]
Place = tuple[int, int, int]  # position at which a step begins, the step, and the accumulation round


class Reader:
    """Loads micro-batches of one process.

    Args:
        load: gives the batch of some samples; a function of them alone, so that reading ahead changes nothing.
        sampler: says which samples come next.
        process: rank of this process.
        ahead: how many micro-batches are read ahead, each by a thread of its own; 0 reads when asked.
    """

    def __init__(self, load: Callable[[list[Draw]], Batch], sampler: StepSampler, process: int, ahead: int) -> None:
        self.load, self.sampler, self.process, self.ahead = load, sampler, process, ahead
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="reader") if ahead else None
        self._pending: deque[tuple[Place, list[Draw], Future[Batch]]] = deque()

    def read(self, start: int, step: int, round_: int) -> tuple[list[Draw], Batch]:
        """Samples and batch of one accumulation round of the step that begins at position `start`."""
        place = (start, step, round_)
        if self._pool is None:
            draws = self._draws(place)
            return draws, self.load(draws)
        if self._pending and self._pending[0][0] != place:
            self._forget()
        while len(self._pending) <= self.ahead:
            following = self._after(self._pending[-1][0]) if self._pending else place
            draws = self._draws(following)
            self._pending.append((following, draws, self._pool.submit(self.load, draws)))
        _, draws, future = self._pending.popleft()
        return draws, future.result()

    def _draws(self, place: Place) -> list[Draw]:
        return self.sampler.micro_batch(*place, self.process)

    def _after(self, place: Place) -> Place:
        start, step, round_ = place
        if round_ + 1 == self.sampler.accumulation:
            return start + self.sampler.global_batch, step + 1, 0
        return start, step, round_ + 1

    def _forget(self) -> None:
        for _, _, future in self._pending:
            future.cancel()
        self._pending.clear()

    def close(self) -> None:
        """Forget what was read ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
