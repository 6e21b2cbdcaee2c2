"""First come, first served, and nobody is left out."""

from __future__ import annotations

from wanact.ui.turns import Line


def test_so_many_fly_and_the_next_one_follows():
    line = Line(max_flights=2)
    tickets = [line.enter("a") for _ in range(4)]
    assert [line.place(ticket) for ticket in tickets] == [0, 0, 1, 2]
    assert line.num_waiting == 2
    line.leave(tickets[0])
    assert line.place(tickets[3]) == 2, "the one before has not asked yet, and is still the next"
    assert [line.place(ticket) for ticket in tickets[1:]] == [0, 0, 1]
    line.leave(tickets[3])
    assert line.num_waiting == 0


def test_another_checkpoint_waits_until_the_air_is_free():
    line = Line(max_flights=3)
    first, other, third = line.enter("a"), line.enter("b"), line.enter("a")
    assert [line.place(ticket) for ticket in (first, other, third)] == [0, 1, 2], "nobody overtakes"
    line.leave(first)
    assert [line.place(ticket) for ticket in (other, third)] == [0, 1]
    line.leave(other)
    line.leave(other)
    assert line.place(third) == 0
