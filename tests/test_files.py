"""Files are written whole, or not at all."""

import threading

import pytest

from wanact.files import replacing


def test_processes_with_the_same_number_do_not_take_each_others(tmp_path):
    # As in two containers that share a disk: nothing tells them apart but chance.
    with replacing(tmp_path / "note") as one, replacing(tmp_path / "note") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "note").read_text() == "one" and list(tmp_path.iterdir()) == [tmp_path / "note"]


def test_threads_that_write_the_same_file_do_not_take_each_others(tmp_path):
    file, both_wrote, failures = tmp_path / "note", threading.Barrier(2), []

    def write(text: str) -> None:
        try:
            with replacing(file) as temporary:
                temporary.write_text(text)
                both_wrote.wait(timeout=30)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and file.read_text() in ("one", "two")
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "note"
    file.write_text("old")
    with pytest.raises(RuntimeError), replacing(file) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
