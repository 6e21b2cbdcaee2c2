"""What a browser tells its flight arrives: in order, from any thread or process, and nobody else's."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from wanact.ui.mailbox import MAX_PROMPT_BYTES, Mailbox, NoRoomError, new_flight

W = [1, 0, 0, 0, 0, 0, 0, 0]
NONE = [0] * 8


@pytest.fixture
def flight(tmp_path) -> str:
    flight = new_flight()
    Mailbox(tmp_path, flight, create=True).close()
    return flight


def test_what_is_told_is_read(tmp_path, flight):
    writer, reader = Mailbox(tmp_path, flight), Mailbox(tmp_path, flight)
    assert reader.read().held == tuple(NONE) and reader.read().state_n == 0
    words = "Nebel über Hügeln"
    writer.tell({"n": 1, "held": [0.5, *NONE[1:]], "paused": True, "ack": 7, "rewind": 3, "prompt": words})
    told = reader.read()
    assert told.held == (0.5, *NONE[1:]) and told.paused and told.acknowledged == 7 and told.state_n == 1
    assert told.rewind == (1, 3) and told.prompt == (1, words) and told.silence < 5
    writer.tell({"n": 2, "stop": True})
    assert reader.read().stopped and reader.read().held == told.held


def test_a_message_that_was_overtaken_changes_nothing(tmp_path, flight):
    box = Mailbox(tmp_path, flight)
    for message in ({"n": 5, "held": NONE, "ack": 9}, {"n": 4, "held": W, "ack": 8}, {"n": 5, "held": W}):
        box.tell(message)
    assert box.read().held == tuple(NONE) and box.read().acknowledged == 9
    box.tell({"n": 6, "rewind": 10})
    box.tell({"n": 3, "rewind": 2, "prompt": "late, but the only one"})
    assert box.read().rewind == (6, 10) and box.read().prompt == (3, "late, but the only one")


@pytest.mark.parametrize(
    "message",
    [
        {"n": 2, "held": [1] * 7},
        {"n": 2, "held": [float("nan")] * 8},
        {"n": 2, "held": ["1"] * 8},
        {"n": 2, "held": "WASD"},
        {"n": -1, "held": W},
        {"n": 2.5, "held": W},
        {"n": True, "held": W},
        {"n": 2**60, "held": W},
        {"held": W},
        {"n": 2, "ack": -4, "rewind": "back", "prompt": 7, "stop": "yes"},
    ],
)
def test_what_is_malformed_is_left_out_and_counts_as_contact(tmp_path, flight, message):
    box = Mailbox(tmp_path, flight)
    box.tell({"n": 1, "held": [0, 1, *NONE[2:]], "ack": 3})
    before = box.read()
    box.tell(message)
    after = box.read()
    assert after.contact >= before.contact
    assert (after.held, after.acknowledged, after.rewind, after.stopped) == (before.held, 3, (0, 0), False)


def test_magnitudes_and_words_are_bounded(tmp_path, flight):
    box = Mailbox(tmp_path, flight)
    box.tell({"n": 1, "held": [9, -3, *NONE[2:]], "prompt": "ü" * MAX_PROMPT_BYTES})
    assert box.read().held[:2] == (2.0, 0.0)
    assert box.read().prompt[1] == "ü" * (MAX_PROMPT_BYTES // 2)
    box.tell({"n": 2, "prompt": "\ud800 lone"})
    assert box.read().prompt[1] == " lone"


@pytest.mark.parametrize("name", ["", "short", "../../etc/passwd", "a" * 30 + "/x", 7, None])
def test_a_flight_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(KeyError):
        Mailbox(tmp_path, name)
    assert not list(tmp_path.iterdir()), "strangers make no files"


def test_a_flight_that_has_ended_is_known_to_nobody(tmp_path, flight):
    Mailbox(tmp_path, flight).close(remove=True)
    with pytest.raises(KeyError):
        Mailbox(tmp_path, flight)
    with pytest.raises(KeyError):
        Mailbox(tmp_path, new_flight())


def test_ids_are_taken_once_and_not_guessed(tmp_path):
    ids = {new_flight() for _ in range(100)}
    assert len(ids) == 100 and all(len(flight) >= 24 for flight in ids)
    flight = new_flight()
    Mailbox(tmp_path, flight, create=True)
    with pytest.raises(KeyError):
        Mailbox(tmp_path, flight, create=True)
    assert (tmp_path / flight).stat().st_mode & 0o077 == 0, "other users cannot read it"


def test_keys_and_acknowledgements_of_two_threads_do_not_undo_each_other(tmp_path, flight):
    def press():
        box = Mailbox(tmp_path, flight)
        for n in range(1, 400):
            box.tell({"n": n, "held": W})
        box.close()

    def acknowledge():
        box = Mailbox(tmp_path, flight)
        for frame in range(1, 400):
            box.tell({"ack": frame})
        box.close()

    threads = [threading.Thread(target=work) for work in (press, acknowledge)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = Mailbox(tmp_path, flight).read()
    assert (told.state_n, told.acknowledged, told.held) == (399, 399, tuple(W))


def test_it_works_across_a_fork(tmp_path, flight):
    """The generator of a lent GPU runs in a forked process; the keys come in to its parent."""
    box = Mailbox(tmp_path, flight)
    ready, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"1")
        os.read(told[0], 1)
        os._exit(0 if box.read().held == tuple(W) else 1)
    os.read(ready[0], 1)
    other = Mailbox(tmp_path, flight)
    other.tell({"n": 1, "held": W})
    os.write(told[1], b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_mailbox_has_its_bytes_before_it_is_written_into(tmp_path, flight):
    """A hole in a file that is mapped, on a full disk, ends the process with SIGBUS."""
    stat = (tmp_path / flight).stat()
    assert stat.st_blocks * 512 >= stat.st_size > MAX_PROMPT_BYTES


@pytest.mark.parametrize("fails", ["open", "posix_fallocate"])
def test_a_full_disk_is_one_sentence_and_leaves_no_file_and_no_descriptor(tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(NoRoomError, match="no room for one more flight .No space left on device."):
        Mailbox(tmp_path, new_flight(), create=True)
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) == before
