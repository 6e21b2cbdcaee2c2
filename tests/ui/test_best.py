"""The table of best times: short, in one file, and of names that nobody has to be afraid of."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from wanact.ui.best import MAX_NOTES, MAX_PLACES, BestError, BestTimes, Finishes, checked_name
from wanact.ui.mailbox import new_flight


@pytest.fixture
def best(tmp_path) -> BestTimes:
    return BestTimes(tmp_path)


def names(best: BestTimes) -> list[str]:
    return [row.name for row in best.of("hills")]


def test_the_fastest_stand_first_and_only_so_many(best):
    for number in range(MAX_PLACES + 5):
        place = best.enter("hills", f"pilot {number}", 100.0 - number)
        assert place == 1
    assert names(best) == [f"pilot {number}" for number in range(MAX_PLACES + 4, 4, -1)]
    assert best.place("hills", 99.0) == 0 and best.enter("hills", "late", 99.0) == 0
    assert best.place("hills", 1.0) == 1 and best.of("another") == []


def test_of_a_name_the_best_time_stays(best):
    assert best.enter("hills", "Ada", 30.0) == 1 and best.enter("hills", "Bo", 20.0) == 1
    assert best.enter("hills", "ada", 40.0) == 0 and best.enter("hills", "ADA", 10.0) == 1
    assert names(best) == ["ADA", "Bo"]


def test_what_one_process_writes_another_reads(best, tmp_path):
    other = BestTimes(tmp_path)
    best.enter("hills", "Ada", 30.0)
    assert names(other) == ["Ada"]
    other.enter("hills", "Bo", 20.0)
    assert names(best) == ["Bo", "Ada"]


def test_nobody_is_lost_where_many_enter_at_once(tmp_path):
    tables = [BestTimes(tmp_path) for _ in range(MAX_PLACES)]
    threads = [
        threading.Thread(target=table.enter, args=("hills", f"pilot {number}", 10.0 + number))
        for number, table in enumerate(tables)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(tables[0])) == MAX_PLACES
    assert [path.name for path in tmp_path.iterdir()] == ["best-times.json"], "written whole, and no lock left"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"best_times": 5}', '{"best_times": {"hills": [{"name": "x", "seconds": "NaN"}]}}']
)
def test_a_damaged_table_is_shown_as_none_and_not_written_over(best, content):
    best.file.write_text(content)
    assert best.of("hills") == []
    with pytest.raises(BestError, match="damaged"):
        best.enter("hills", "Ada", 30.0)
    assert best.file.read_text() == content


@pytest.mark.parametrize("name", ["Ada", "  Ada   L. ", "Zoë", "王小明", "x-1_2.3'4"])
def test_names_are_letters_and_digits_of_any_script(name):
    assert checked_name(name) == " ".join(name.split())


@pytest.mark.parametrize(
    "name",
    [
        None,
        5,
        [],
        "",
        " ",
        "x",
        "x" * 17,
        "x" * 10_000,
        "<b>",
        "a&b",
        "a\x00b",
        "a\u202eb",
        'a"b',
        "a/b",
        "😀😀",
        "a\ud800",
    ],
)
def test_other_names_are_refused_in_a_sentence(name):
    with pytest.raises(BestError) as refused:
        checked_name(name)
    assert str(refused.value).startswith("the name") and str(refused.value).isprintable()


def test_a_finish_is_taken_once_and_for_a_while(tmp_path):
    finishes, flight = Finishes(tmp_path, keep_s=60), new_flight()
    finishes.note(flight, "hills", 12.34)
    assert Finishes(tmp_path, keep_s=60).take(flight) == ("hills", 12.34), "by any process"
    for name in (flight, new_flight(), "../best-times", None, 5, {}):
        with pytest.raises(BestError):
            finishes.take(name)
    finishes.note(flight, "hills", 12.34)
    with pytest.raises(BestError, match="minutes"):
        Finishes(tmp_path, keep_s=-1).take(flight)


def test_notes_are_so_many(tmp_path):
    finishes = Finishes(tmp_path, keep_s=60)
    for _ in range(MAX_NOTES + 9):
        finishes.note(new_flight(), "hills", 1.0)
    assert len(list(Path(tmp_path).iterdir())) == MAX_NOTES


def test_the_file_holds_nothing_but_names_times_and_days(best):
    best.enter("hills", "Ada", 30.0)
    (row,) = json.loads(best.file.read_text())["best_times"]["hills"]
    assert set(row) == {"name", "seconds", "day"}
