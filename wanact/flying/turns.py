"""Turns on the one model: a lock whose holder gives way between slices of its work.

A clip takes seconds to minutes, a latent frame of a live flight a tenth of a second. Whoever draws asks between two
blocks of a network whether it is somebody else's turn (`Turns.give_way`); the next turn goes to the visitor who has had
the least of the model's time. So nobody waits much longer than a slice for each of the others, whatever they draw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable

SLICE_S = 0.1  # that a turn lasts at least while others wait, and not much longer
CREDIT_S = 0.2  # who comes back after a pause has had so much less than the others at most
ABSENT_S = 0.5  # a place is passed over if its owner has not asked for so long


class Place:
    """A place in the round, for one piece of work; made by `Turns.place`.

    Attributes:
        visitor: whose time it counts as.
        gone: set it when nobody waits for this work any more: its next slice does not come.
    """

    def __init__(self, turns: Turns, visitor: Hashable):
        self.visitor = visitor
        self.gone = threading.Event()
        self._turns = turns
        self._asked = 0.0  # when last; infinite while asking

    def take(self, timeout: float | None = None) -> bool:
        """Wait for a turn; False if it has not come in time, with the place in the round kept.

        Whoever has the turn gives it back with `done`, in the same thread.
        """
        return self._turns._take(self, timeout)

    def done(self) -> None:
        """Hand the turn on."""
        self._turns.release()

    def leave(self) -> None:
        """Give the place in the round up."""
        self._turns._leave(self)

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.done()


class Turns:
    """A reentrant lock that goes round among visitors, by the time that they have had.

    It can be held as any lock is (`with turns:`), and is then held until the block ends or work in it gives way.

    Attributes:
        slice_s: seconds that a turn lasts at least while others wait.
    """

    def __init__(self, slice_s: float = SLICE_S):
        self.slice_s = slice_s
        self._changed = threading.Condition(threading.Lock())
        self._waiting: list[Place] = []  # in the order in which they asked
        self._holder: Place | None = None
        self._thread = 0  # of the holder
        self._depth = 0
        self._since = self._charged = 0.0
        self._spent: dict[Hashable, float] = {}  # seconds of each visitor; what is far behind counts as `_floor`
        self._floor = 0.0

    def place(self, visitor: Hashable) -> Place:
        """A place for a piece of a visitor's work."""
        return Place(self, visitor)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As of `threading.RLock`; the time counts as that of the thread."""
        me = threading.get_ident()
        if self.is_mine:
            self._depth += 1
            return True
        place = Place(self, me)
        if self._take(place, (None if timeout < 0 else timeout) if blocking else 0.0):
            return True
        self._leave(place)
        return False

    def release(self) -> None:
        """As of `threading.RLock`."""
        if not self.is_mine:
            raise RuntimeError("the turn belongs to another thread")
        if self._depth > 1:
            self._depth -= 1
            return
        with self._changed:
            self._hand_on()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._thread == threading.get_ident()

    @property
    def is_for_nobody(self) -> bool:
        """Whether this thread has the turn, and nobody waits for its work any more."""
        return self.is_mine and self._holder is not None and self._holder.gone.is_set()

    def give_way(self) -> bool:
        """Between two slices of the holder's work: let others have their turns, if it is time.

        Returns:
            Whether anybody had the model meanwhile. In other threads than the holder's nothing happens.
        """
        if not self._waiting or not self.is_mine or time.monotonic() - self._since < self.slice_s:
            return False
        with self._changed:
            place, depth = self._holder, self._depth
            assert place is not None, "it is ours"
            self._charge(place)
            if self._next([*self._present(), place]) is place:
                self._since = self._charged  # and asked again after another slice
                return False
            self._hand_on()
            self._ask(place)
            self._wait(place, None)
            self._begin(place, depth)
        return True

    # ---- who is next; the condition's lock is held --------------------------------------------------------------

    def _take(self, place: Place, timeout: float | None) -> bool:
        with self._changed:
            self._ask(place)
            if not self._wait(place, timeout):
                place._asked = time.monotonic()
                self._changed.notify_all()
                return False
            self._begin(place, 1)
            return True

    def _wait(self, place: Place, timeout: float | None) -> bool:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._is_next(place):
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, ABSENT_S))  # nobody tells when the next one has been away for too long
        return True

    def _leave(self, place: Place) -> None:
        with self._changed:
            if place in self._waiting:
                self._waiting.remove(place)
                self._changed.notify_all()

    def _ask(self, place: Place) -> None:
        place._asked = float("inf")
        if place not in self._waiting:
            if self._holder is not None:
                self._charge(self._holder)
            self._waiting.append(place)
            before = self._spent.get(place.visitor, 0.0)
            self._spent[place.visitor] = max(before, self._floor - CREDIT_S)

    def _present(self) -> list[Place]:
        now = time.monotonic()
        return [place for place in self._waiting if now - place._asked < ABSENT_S]

    def _next(self, places: list[Place]) -> Place | None:
        return min(places, key=lambda place: self._spent[place.visitor], default=None)

    def _is_next(self, place: Place) -> bool:
        return self._holder is None and self._next(self._present()) is place

    def _begin(self, place: Place, depth: int) -> None:
        self._waiting.remove(place)
        self._holder, self._thread, self._depth = place, threading.get_ident(), depth
        self._since = self._charged = time.monotonic()

    def _charge(self, holder: Place) -> None:
        """Count the holder's time up to now, and move the floor on: nobody who wants the model has had less."""
        now = time.monotonic()
        self._spent[holder.visitor] += now - self._charged
        self._charged = now
        least = min(self._spent[place.visitor] for place in (holder, *self._waiting))
        self._floor = max(self._floor, least)

    def _hand_on(self) -> None:
        assert self._holder is not None, "somebody has the turn"
        self._charge(self._holder)
        self._holder, self._thread, self._depth = None, 0, 0
        if len(self._spent) > 256:  # what is behind the floor counts as little as what was never there
            waiting = {place.visitor for place in self._waiting}
            self._spent = {who: s for who, s in self._spent.items() if who in waiting or s > self._floor - CREDIT_S}
        self._changed.notify_all()
