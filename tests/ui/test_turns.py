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


def test_the_first_flight_of_everybody_comes_before_the_second_of_anybody():
    line = Line(max_flights=1)
    flying = line.enter("a", "one")
    assert line.place(flying) == 0
    more, other, third = line.enter("a", "one"), line.enter("a", "two"), line.enter("a", "two")
    assert [line.place(ticket) for ticket in (other, more, third)] == [1, 2, 3]
    line.leave(flying)
    assert line.place(more) == 0, "nobody of theirs is in the air any more, and they asked first"


def test_the_newest_of_several_flights_lands_for_who_has_none():
    line = Line(max_flights=3)
    tickets = [line.enter("a", visitor) for visitor in ("one", "two", "one")]
    assert [line.place(ticket) for ticket in tickets] == [0, 0, 0]
    assert not any(line.must_land(ticket) for ticket in tickets), "nobody waits"
    line.enter("a", "one")
    assert not any(line.must_land(ticket) for ticket in tickets), "who waits flies already"
    line.enter("a", "three")
    assert [line.must_land(ticket) for ticket in tickets] == [False, False, True]
