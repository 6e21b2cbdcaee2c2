"""First come, first served, and nobody is left out."""

from __future__ import annotations

import threading

from wanact.ui.turns import Line, Turns


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


def test_turns_go_round():
    turns, order = Turns(threading.RLock()), []
    everyone = threading.Barrier(3)

    def fly(name: str) -> None:
        everyone.wait()
        for _ in range(20):
            assert turns.take(name, 30)
            order.append(name)
            turns.done(name)

    threads = [threading.Thread(target=fly, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == sorted("abc" * 20)


def test_who_asked_first_is_next_even_if_a_try_timed_out():
    lock = threading.Lock()
    turns = Turns(lock)
    lock.acquire()
    assert not turns.take("first", 0.01)
    lock.release()
    assert not turns.take("second", 0.01), "the first one's place is kept"
    assert turns.take("first", 1)
    turns.done("first")
    assert turns.take("second", 1)
    turns.done("second")


def test_who_leaves_blocks_nobody():
    turns = Turns(threading.Lock())
    assert turns.take("first", 1)
    assert not turns.take("second", 0.01)
    turns.done("first")
    turns.leave("second")
    assert turns.take("third", 1)
    turns.done("third")
