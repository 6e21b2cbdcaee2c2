"""Who flies now, and who flies next: places in the air."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(eq=False)
class Ticket:
    """A visitor in the line. Flights with one checkpoint can be in the air together, because each step needs it."""

    checkpoint: Hashable
    visitor: Hashable = None


class Line:
    """First come, first served, and the second flight of a visitor after everybody's first; so many are in the air at
    once, all with the same checkpoint.

    Args:
        max_flights: in the air together.
    """

    def __init__(self, max_flights: int):
        self.max_flights = max_flights
        self._tickets: list[Ticket] = []
        self._flying: list[Ticket] = []
        self._lock = threading.Lock()

    def enter(self, checkpoint: Hashable, visitor: Hashable = None) -> Ticket:
        """A place at the end of the line."""
        ticket = Ticket(checkpoint, visitor)
        with self._lock:
            self._tickets.append(ticket)
        return ticket

    def place(self, ticket: Ticket) -> int:
        """0 once the ticket flies, which it does from then on; else how many leave before it, and it, from 1."""
        with self._lock:
            if ticket in self._flying:
                return 0
            place = self._in_order().index(ticket) + 1
            same = all(other.checkpoint == ticket.checkpoint for other in self._flying)
            if place > 1 or len(self._flying) >= self.max_flights or not same:
                return place
            self._tickets.remove(ticket)
            self._flying.append(ticket)
            return 0

    def must_land(self, ticket: Ticket) -> bool:
        """Whether this is the newest of a visitor's several flights, while somebody waits who has none."""
        with self._lock:
            own = [other for other in self._flying if other.visitor == ticket.visitor]
            if len(own) < 2 or own[-1] is not ticket or len(self._flying) < self.max_flights:
                return False
            flying = {other.visitor for other in self._flying}
            return any(other.visitor not in flying for other in self._tickets)

    def _in_order(self) -> list[Ticket]:
        before = Counter(ticket.visitor for ticket in self._flying)
        ranks = []
        for ticket in self._tickets:
            ranks.append(before[ticket.visitor])
            before[ticket.visitor] += 1
        return [ticket for _, ticket in sorted(zip(ranks, self._tickets, strict=True), key=lambda pair: pair[0])]

    @property
    def num_waiting(self) -> int:
        """Visitors on the ground."""
        return len(self._tickets)

    def leave(self, ticket: Ticket) -> None:
        """Give the place up, in the air or in the line."""
        with self._lock:
            for tickets in (self._flying, self._tickets):
                if ticket in tickets:
                    tickets.remove(ticket)
