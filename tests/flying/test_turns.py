"""Nobody waits for long: turns go to whoever has had the least of the model's time, and long work is cut for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wanact.flying import turns as module
from wanact.flying.turns import Place, Turns


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.0005)


@contextmanager
def held_elsewhere(turn: Turns | Place) -> Iterator[None]:
    """Another thread has the turn meanwhile."""
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            held.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        yield
    finally:
        go.set()
        thread.join()


class Work(threading.Thread):
    """Works for so long in a turn, asking between slices; remembers its slices and the longest that it was held up."""

    def __init__(self, turns: Turns, visitor: str, seconds: float, slice_s: float = 0.005):
        super().__init__()
        self.place, self.turns, self.visitor = turns.place(visitor), turns, visitor
        self.seconds, self.slice_s = seconds, slice_s
        self.begun = self.ended = self.longest_wait = 0.0

    def run(self) -> None:
        asked = time.monotonic()
        with self.place:
            self.begun = time.monotonic()
            self.longest_wait = self.begun - asked
            for _ in range(round(self.seconds / self.slice_s)):
                busy(self.slice_s)
                before = time.monotonic()
                self.turns.give_way()
                self.longest_wait = max(self.longest_wait, time.monotonic() - before)
        self.ended = time.monotonic()


def together(*works: Work) -> None:
    for work in works:
        work.start()
    for work in works:
        work.join()


def test_short_work_does_not_wait_for_long_work():
    turns = Turns(slice_s=0.01)
    long = Work(turns, "long", 1.0)
    long.start()
    while not long.begun:
        time.sleep(0.001)
    short = [Work(turns, f"short {n}", 0.02) for n in range(3)]
    together(*short)
    assert long.is_alive(), "they were served in the middle of it"
    long.join()


def test_time_is_shared_by_visitors_and_not_by_pieces_of_work():
    turns = Turns(slice_s=0.01)
    greedy = [Work(turns, "greedy", 0.3) for _ in range(4)]
    modest = Work(turns, "modest", 0.3)
    together(*greedy, modest)
    assert modest.ended < max(work.ended for work in greedy)
    assert sum(work.ended < modest.ended for work in greedy) <= 2, "half of the time was the modest one's"


def test_who_had_the_model_alone_is_not_punished_for_it_later():
    turns = Turns(slice_s=0.01)
    together(Work(turns, "first", 0.5))
    first, second = Work(turns, "first", 0.2), Work(turns, "second", 1.0)
    together(first, second)
    assert first.ended < second.ended
    assert first.longest_wait < 0.4, "the half second before does not count any more"


def test_what_is_held_is_whole_again_after_giving_way():
    """Depth and owner come back, as of a reentrant lock."""
    turns = Turns(slice_s=0.0)
    entered, out = threading.Event(), []

    def visit() -> None:
        with turns:
            out.append("visitor")

    with turns, turns:
        thread = threading.Thread(target=visit)
        thread.start()
        while not turns._waiting:
            time.sleep(0.001)
        assert turns.give_way() and out == ["visitor"]
        assert turns.is_mine
        entered.set()
    assert not turns.is_mine
    thread.join()
    with pytest.raises(RuntimeError, match="another thread"):
        turns.release()


def test_others_than_the_holder_give_no_way_and_take_nothing():
    turns = Turns(slice_s=0.0)
    seen = []

    def other() -> None:
        seen.append((turns.give_way(), turns.is_for_nobody, turns.acquire(blocking=False)))

    with turns:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [(False, False, False)]
    assert turns.acquire(blocking=False)
    turns.release()


def test_who_asked_first_is_next_even_if_a_try_timed_out():
    turns = Turns()
    first, second = turns.place("first"), turns.place("second")
    with held_elsewhere(turns):
        assert not first.take(0.01)
    assert not second.take(0.01), "the first one's place is kept"
    assert first.take(1)
    first.done()
    assert second.take(1)
    second.done()


def test_who_stays_away_or_leaves_blocks_nobody(monkeypatch):
    monkeypatch.setattr(module, "ABSENT_S", 0.05)
    turns = Turns()
    first, second, third = (turns.place(name) for name in ("first", "second", "third"))
    with held_elsewhere(first):
        assert not second.take(0.01)
    assert third.take(10), "the second has not come back"
    third.done()
    second.leave()
    assert first.take(0.0)
    first.done()


def test_work_that_nobody_waits_for_is_told():
    turns = Turns()
    place = turns.place("visitor")
    with place:
        assert not turns.is_for_nobody
        place.gone.set()
        assert turns.is_for_nobody
