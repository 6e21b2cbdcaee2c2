"""A live flight as the server sees it: it answers keys, waits for acknowledgements, and ends when nobody listens."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.ui.conftest import write_run
from tests.ui.live_desks import FORWARD, NONE, RIGHT, Visitor, make_desk, nobody_flies
from wanact.flying.record import FlightRecord
from wanact.flying.replay import replay
from wanact.flying.request import RequestError
from wanact.media.footage import read_video
from wanact.media.likeness import Sight
from wanact.media.video import decode_jpeg, encode_jpeg
from wanact.ui.pages.live import desk as live_module
from wanact.ui.pages.live import flight as live_flight
from wanact.ui.pages.live.desk import LiveDesk
from wanact.ui.pages.live.flight import LiveFlight, action_of


@pytest.fixture(scope="module")
def live_desk(tiny_model_dir, tmp_path_factory) -> LiveDesk:
    """Shared by the tests that leave it as it was. Nothing is heard for long on a busy machine: limits are wide."""
    return make_desk(tiny_model_dir, tmp_path_factory.mktemp("live") / "runs", silence_s=60, lost_s=120)


@pytest.fixture
def visitor(live_desk, picture):
    visitor = Visitor(live_desk, picture)
    yield visitor
    visitor.messages.close()


def replayed(live_desk: LiveDesk, record: FlightRecord) -> np.ndarray:
    """The frames of a record, flown again."""
    pipe = live_desk.engine.pipe
    with pipe.lock:
        pipe.load_controller(live_desk.find((record.checkpoint or {})["id"]).path)
        return replay(pipe, record)


def own_desk(live_desk: LiveDesk, **limits) -> LiveDesk:
    """Another desk on the same model, with limits of its own."""
    from wanact.ui.pages.live.desk import LiveLimits

    return LiveDesk(live_desk.engine, LiveLimits(**{"silence_s": 60, "lost_s": 120} | limits))


def test_a_flight_starts_and_obeys_the_keys(visitor):
    assert visitor.hear()["kind"] == "line"
    start = visitor.until("start")
    assert (start["width"], start["height"], start["t"]) == (96, 64, 0) and start["prompt"] == "a lake"
    assert start["checkpoint"].startswith("live")
    assert visitor.until("frames")["a"] == NONE
    n = visitor.tell(held=[0.5, 0, 0, 0, 0, 2, 0, 0])
    frames = visitor.until("frames", n=n)
    assert frames["a"] == [0.025, 0, 0, 0, 0, 6, 0, 0]
    turned = visitor.until("frames", k=0)
    assert turned["attitude"][0] - frames["attitude"][0] == 6 and turned["t"] == frames["t"] + 1
    visitor.tell(held=[1, 1, 0, 0, 0, 0, 0, 1])
    assert visitor.until("frames", a=[0, 0, 0, 0, 0, 0, 0, 3]), "opposites cancel"


def test_frames_come_as_pictures_one_after_the_other(visitor):
    seen = []
    for _ in range(3):
        first, others = visitor.until("frames"), visitor.until("frames")
        assert (first["k"], len(first["f"]), others["k"], len(others["f"])) == (0, 1, 1, 3), "one comes ahead"
        seen += [first["i"], *range(others["i"], others["i"] + 3)]
        assert set(others["ms"]) >= {"transformer", "decoder", "step", "waited", "sent"}
    assert seen == list(range(1, 13))
    assert decode_jpeg(visitor.fly(1)[0]).shape == (64, 96, 3)


def test_a_key_that_comes_before_the_first_picture_counts_for_it(visitor, live_desk, monkeypatch):
    make, told = LiveFlight._make, []

    def make_late(flight, pieces):
        if not told:
            told.append(visitor.tell(held=FORWARD))
            time.sleep(0.5)
        return make(flight, pieces)

    before = visitor.until("frames", k=1)
    monkeypatch.setattr(LiveFlight, "_make", make_late)
    first, others = visitor.until("frames"), visitor.until("frames")
    assert (first["t"], first["i"], first["n"]) == (before["t"] + 1, before["i"] + 3, told[0])
    assert first["a"] == [0.05, *NONE[1:]] and (others["t"], len(others["f"])) == (first["t"], 3)
    flight = live_desk.hangar.get(visitor.flight)
    assert len(flight.pictures) == 4 * flight.stream.num_frames and len(flight.attitudes) == first["t"] + 1
    visitor.messages.close()
    frames = replayed(live_desk, flight.record())
    assert [encode_jpeg(frame) for frame in frames[1:]] == flight.pictures


def test_large_frames_are_sent_in_several_messages(visitor, monkeypatch):
    monkeypatch.setattr("wanact.ui.pages.live.desk.MESSAGE_BYTES", 1)
    messages = [visitor.until("frames") for _ in range(5)]
    assert [(message["i"], message["k"], len(message["f"])) for message in messages] == [
        (1, 0, 1),
        (2, 1, 1),
        (3, 2, 1),
        (4, 3, 1),
        (5, 0, 1),
    ]


def test_no_more_frames_are_on_their_way_than_the_window(visitor):
    visitor.acknowledges = False
    visitor.until("state", state="slow")
    assert visitor.newest == 8
    visitor.tell(ack=4)
    visitor.until("state", state="slow")
    assert visitor.newest == 12
    visitor.acknowledges = True
    visitor.tell(ack=12)
    visitor.fly(4)


def test_a_start_is_said_again_from_the_newest_picture_until_one_is_acknowledged(visitor):
    visitor.acknowledges = False
    first = visitor.until("start")
    again = visitor.until("start")
    assert (first["i"], first["t"]) == (0, 0) and again["i"] == visitor.newest == 4 * again["t"] == 8
    newest = [message for message in visitor.heard if message["kind"] == "frames"][-1]["f"][-1]
    assert again["first"] == newest and set(again) == set(first)
    visitor.acknowledges = True
    visitor.tell(ack=again["i"])
    visitor.fly(8)
    assert sum(message["kind"] == "start" for message in visitor.heard) == 2


def test_nothing_is_drawn_while_nothing_is_heard_and_the_flight_ends_at_last(live_desk, picture):
    desk = own_desk(live_desk, silence_s=0.4, lost_s=2.5)
    visitor = Visitor(desk, picture)
    visitor.until("frames", k=1)
    time.sleep(0.6)
    visitor.until("state", state="lost")
    drawn = visitor.newest
    visitor.tell(ack=drawn)
    visitor.until("frames")
    visitor.acknowledges = False
    end = visitor.until("end", reason="lost")
    assert "nothing was heard" in end["message"]
    with pytest.raises(StopIteration):
        visitor.hear()
    assert not desk.control({"flight": visitor.flight, "n": 99})["known"] and nobody_flies(desk.line)


def test_who_leaves_between_two_pieces_leaves_nothing_half_shown(live_desk, picture):
    visitor = Visitor(live_desk, picture)
    visitor.until("frames", k=0)
    visitor.messages.close()
    flight = live_desk.hangar.get(visitor.flight)
    assert len(flight.pictures) == 4 * flight.stream.num_frames == 4
    again = Visitor(live_desk, picture, {"from": visitor.flight, "at": None})
    assert again.until("frames")["t"] == 2
    again.messages.close()


def test_a_closed_page_frees_the_place(live_desk, picture):
    desk = own_desk(live_desk, max_flights=1)
    first, second = Visitor(desk, picture), Visitor(desk, picture)
    first.fly(1)
    assert second.hear()["place"] == 1
    first.messages.close()  # what Gradio does when the connection is gone
    second.fly(1)
    second.messages.close()
    assert nobody_flies(desk.line) and not list(desk.folder.iterdir())


def test_paused_nothing_is_drawn(visitor):
    visitor.fly(1)
    visitor.tell(held=NONE, paused=True)
    visitor.until("state", state="paused")
    drawn = visitor.newest
    visitor.until("state", state="paused")
    assert visitor.newest == drawn
    visitor.tell(held=NONE, paused=False)
    assert visitor.until("frames")["i"] == drawn + 1


def test_a_flight_is_taken_back_and_flown_again(visitor, live_desk):
    visitor.until("start")
    pictures = visitor.fly(3)
    visitor.tell(rewind=1, held=NONE, paused=True)
    assert visitor.until("rewound")["t"] == 1
    flight = live_desk.hangar.get(visitor.flight)
    assert flight.stream.num_frames == 1 and flight.pictures == pictures[:4] and len(flight.attitudes) == 2
    visitor.tell(held=NONE, paused=False)
    newest = visitor.newest
    message = visitor.until("frames")
    assert message["t"] == 2 and message["i"] == newest + 1, "numbers of pictures never go back"


def test_words_change_in_flight(visitor, live_desk):
    visitor.fly(1)
    visitor.tell(prompt="snow")
    assert visitor.until("prompt")["prompt"] == "snow"
    visitor.fly(1)
    assert live_desk.hangar.get(visitor.flight).stream.prompts[-1][1] == "snow"
    visitor.tell(prompt="x" * 3000)
    told = visitor.until("prompt")
    assert "3,000 characters" in told["problem"] and told["prompt"] == "snow"


def test_landed_flights_are_gone_on_with_and_forked(live_desk, picture):
    first = Visitor(live_desk, picture)
    pictures = first.fly(3)
    first.tell(stop=True)
    first.until("end", reason="landed")
    with pytest.raises(StopIteration):
        first.hear()
    landed = live_desk.hangar.get(first.flight)
    flown = landed.stream.num_frames
    fork = Visitor(live_desk, picture, {"from": first.flight, "at": 2})
    assert fork.until("start")["t"] == 2
    fork.tell(held=FORWARD)
    fork.fly(1)
    assert live_desk.hangar.get(fork.flight).pictures[:8] == pictures[:8]
    going_on = Visitor(live_desk, picture, {"from": first.flight, "at": None})
    assert going_on.until("start")["t"] == flown and landed.stream.num_frames == flown
    for visitor in (fork, going_on):
        visitor.messages.close()
    unknown = Visitor(live_desk, picture, {"from": "x" * 24}).until("failed")
    assert "not kept any more" in unknown["message"]


def test_a_saved_flight_flies_again_to_the_same_frames(live_desk, picture, tmp_path):
    visitor = Visitor(live_desk, picture)
    visitor.until("start")
    visitor.tell(held=RIGHT)
    visitor.fly(2)
    visitor.tell(prompt="snow", held=FORWARD)
    visitor.fly(2)
    visitor.tell(rewind=3)
    visitor.until("rewound")
    visitor.fly(1)
    visitor.tell(stop=True)
    visitor.until("end")
    visitor.messages.close()
    path, caption = live_desk.save(visitor.flight, "record", tmp_path)
    record = FlightRecord.load(path)
    flight = live_desk.hangar.get(visitor.flight)
    assert record.kind == "live" and record.track == flight.stream.track and "same frames" in caption
    frames = replayed(live_desk, record)
    assert [encode_jpeg(frame) for frame in frames[1:]] == flight.pictures
    path, caption = live_desk.save(visitor.flight, "clip", tmp_path)
    assert len(read_video(path)) == len(flight.pictures) + 1 and f"{len(frames)} frames" in caption


def test_old_pictures_are_forgotten_and_said_so(live_desk, picture, tmp_path, monkeypatch):
    visitor = Visitor(live_desk, picture)
    limit = sum(map(len, visitor.fly(1))) * 3
    monkeypatch.setattr(live_flight, "MAX_PICTURE_BYTES", limit)
    visitor.fly(6)
    flight = live_desk.hangar.get(visitor.flight)
    assert flight.num_forgotten and flight.pictures and sum(map(len, flight.pictures)) <= limit
    _, caption = live_desk.save(visitor.flight, "clip", tmp_path)
    assert "are not kept" in caption
    visitor.messages.close()


def test_a_view_that_is_held_takes_no_time_and_no_place_and_the_next_key_is_answered(live_desk, picture, monkeypatch):
    monkeypatch.setitem(live_desk.engine.pipe.defaults, "fps", 20.0)  # a second of five latent frames
    monkeypatch.setitem(live_desk.engine.pipe.defaults, "rest", "hold")
    visitor = Visitor(own_desk(live_desk), picture)
    visitor.fly(9)
    flight = visitor.desk.hangar.get(visitor.flight)
    shown = flight.pictures[4 * 5 - 1]
    assert all(held is shown for held in flight.pictures[4 * 5 :])
    assert flight._num_bytes == sum(map(len, flight.pictures[: 4 * 5]))
    n = visitor.tell(held=RIGHT)
    answer = visitor.until("frames", n=n)
    assert answer["a"][5] == 3 and visitor.until("frames", k=1)["ms"]["transformer"] > 0
    visitor.messages.close()
    assert flight.stream.held[:4] == (6, 7, 8, 9) and answer["t"] not in flight.stream.held
    frames = replayed(live_desk, flight.record())
    assert [encode_jpeg(frame) for frame in frames[1:]] == flight.pictures


def test_a_flight_that_has_nothing_left_to_see_says_so_until_it_is_taken_back(visitor, live_desk, monkeypatch):
    monkeypatch.setitem(live_desk.engine.pipe.defaults, "fps", 40.0)  # a second is ten latent frames
    seen: list[bool] = []
    monkeypatch.setattr(Sight, "has_dissolved", lambda sight, first: seen.append(True) or True)
    visitor.until("start")
    visitor.tell(held=FORWARD)
    assert visitor.until("frames", lost=True)["t"] >= 3 * 10, "not before three seconds"
    assert 3 <= len(seen) < 6, "it looks once a second"
    visitor.tell(rewind=20, held=FORWARD)
    assert visitor.until("rewound")["t"] == 20
    assert not visitor.until("frames")["lost"]


def test_who_looks_up_or_down_is_not_told_that_the_horizon_is_gone(live_desk, picture, monkeypatch):
    monkeypatch.setattr(Sight, "has_dissolved", lambda *_: True)
    visitor = Visitor(live_desk, picture)
    visitor.until("start")
    flight = live_desk.hangar.get(visitor.flight)
    flight._second = 1
    visitor.tell(held=[0] * 6 + [1, 0])
    visitor.fly(12)
    assert abs(flight.attitudes[-1].pitch_deg) > live_flight.LEVEL_DEG and not flight.is_lost
    visitor.messages.close()


@pytest.fixture
def shared(live_desk, picture) -> tuple[str, Visitor]:
    """A flight of six latent frames that has landed and is shared, and who flew it."""
    visitor = Visitor(live_desk, picture)
    visitor.until("start")
    visitor.tell(held=FORWARD)
    visitor.fly(3)
    with pytest.raises(RequestError, match="still in the air"):
        live_desk.share(visitor.flight)
    visitor.tell(held=RIGHT)
    visitor.fly(3)
    visitor.tell(stop=True)
    visitor.until("end")
    list(visitor.messages)
    name, remark = live_desk.share(visitor.flight)
    assert not remark and live_desk.share(visitor.flight)[0] == name, "once is enough"
    return name, visitor


def test_a_visitor_shares_so_many_flights_an_hour(live_desk, shared, monkeypatch):
    """Each new one makes the oldest of the others leave: without an end one visitor would end all links."""
    name, visitor = shared
    monkeypatch.setattr(live_module, "MAX_SHARES", 2)
    live_desk._shared_as.clear()
    live_desk._shared_at = {who: times[-1:] for who, times in live_desk._shared_at.items()}
    assert live_desk.share(visitor.flight)[0] != name
    live_desk._shared_as.clear()
    with pytest.raises(RequestError, match="2 flights within an hour"):
        live_desk.share(visitor.flight)
    monkeypatch.setattr(live_module, "SHARES_S", 0.0)
    assert live_desk.share(visitor.flight)[0]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_shared_flight_is_watched_and_taken_over_at_any_moment(live_desk, picture, shared, is_kept, tmp_path):
    name, visitor = shared
    flight = live_desk.hangar.get(visitor.flight)
    flown = len(flight.pictures)
    told = live_desk.watch({"id": name})
    assert told["prompt"] == "a lake" and told["seconds"] == round((flown + 1) / 200, 2)
    assert len(read_video(live_desk.engine.shares.file(name, "clip.mp4"))) == flown + 1
    text = json.dumps(json.loads((live_desk.engine.shares.folder / name / "flight.json").read_text()))
    assert visitor.flight not in text and "/tmp" not in text and str(picture) not in text
    if not is_kept:  # as after a restart of the server
        live_desk.hangar._flights.clear()
    friend = Visitor(live_desk, picture, {"shared": name, "at": 4})
    assert friend.until("start")["t"] == 4 and friend.flight != visitor.flight
    friend.tell(held=FORWARD)
    friend.fly(2)
    own = live_desk.hangar.get(friend.flight)
    assert own.pictures[:16] == flight.pictures[:16], "the same frames"
    assert own.stream.track.magnitude[3, 5] > 0 and own.stream.track.magnitude[4, 0] > 0
    friend.tell(stop=True)
    friend.until("end")
    list(friend.messages)
    again, _ = live_desk.share(friend.flight)
    assert again != name and live_desk.watch({"id": again})["seconds"] >= 25 / 200, "and is shared in its turn"


def in_another_thread(work):
    done: Future = Future()

    def run():
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(20)


@pytest.mark.parametrize("leaves", [True, False])
def test_who_leaves_while_a_flight_is_flown_again_leaves_the_model_too(live_desk, picture, shared, monkeypatch, leaves):
    """A page's messages are asked for in any thread, and the end of its visitor is noticed in another one."""
    name, _ = shared
    live_desk.hangar._flights.clear()
    monkeypatch.setattr(live_module, "BEAT_S", 1e-6)
    lock, messages = live_desk.engine.pipe.lock, live_desk.fly({"shared": name}, str(picture), "a lake", None, 3)
    while next(messages)["kind"] != "catching":
        pass
    taken = in_another_thread(lambda: lock.acquire(timeout=5) and (lock.release(), True)[1])
    if leaves:
        in_another_thread(messages.close)
    else:
        heard = []
        while not heard or heard[-1] in ("catching", "state"):
            heard.append(in_another_thread(lambda: next(messages)["kind"]))
        assert heard[-1] == "start"
        messages.close()
    assert taken and lock.acquire(timeout=5)
    lock.release()


def test_a_flight_of_another_model_can_be_watched_but_not_taken_over(live_desk, picture, shared, monkeypatch):
    name, _ = shared
    live_desk.hangar._flights.clear()
    monkeypatch.setattr(live_desk.engine.pipe, "is_recorded_as", lambda _: False)
    friend = Visitor(live_desk, picture, {"shared": name, "at": 4})
    assert "another model" in friend.until("failed")["message"]
    assert "problem" not in live_desk.watch({"id": name})


@pytest.mark.parametrize("name", [None, 3, "", "x", "a" * 16, {"a": 1}, "../" * 5])
def test_what_is_not_shared_can_be_neither_watched_nor_taken_over(live_desk, picture, name):
    assert "not shared" in live_desk.watch({"id": name})["problem"] and "problem" in live_desk.watch(name)
    if name is not None:
        assert "not shared" in Visitor(live_desk, picture, {"shared": name}).until("failed")["message"]


def test_a_film_of_the_newest_seconds_is_saved_with_its_keys(live_desk, shared, tmp_path):
    _, visitor = shared
    for form in ("gif", "webp"):
        path, caption = live_desk.save(visitor.flight, form, tmp_path)
        assert path.suffix == f".{form}" and "with the keys" in caption
        with Image.open(path) as film:
            assert getattr(film, "n_frames", 1) > 1


def test_ones_keys_never_reach_anothers_flight(live_desk, picture):
    one, other = Visitor(live_desk, picture), Visitor(live_desk, picture)
    for visitor in (one, other):
        visitor.until("start")
    n = one.tell(held=RIGHT)
    turning, still = one.until("frames", n=n), [other.until("frames", k=0) for _ in range(3)]
    assert turning["a"][5] == 3 and all(message["a"] == NONE for message in still)
    assert turning["flight"] != still[0]["flight"]
    assert [message["t"] for message in still] == [1, 2, 3], "both get their turns"
    for visitor in (one, other):
        visitor.messages.close()


def test_a_long_flight_lands_when_somebody_waits(live_desk, picture):
    desk = own_desk(live_desk, max_flights=1, turn_s=0.2)
    first, second = Visitor(desk, picture), Visitor(desk, picture)
    first.fly(2)
    time.sleep(0.3)
    assert first.until("frames")["left"] is None, "nobody waits, so it goes on"
    assert second.hear()["place"] == 1
    assert "1 other waits" in first.until("end", reason="over")["message"]
    with contextlib.suppress(StopIteration):
        first.hear()
    second.fly(1)
    second.messages.close()


def test_what_cannot_be_flown_is_said_in_one_sentence(live_desk, picture, tmp_path, tiny_model_dir):
    for settings, says in (
        ({"seed": -1}, "the seed is -1"),
        ({"seed": None}, "the seed is None"),
        ({"prompt": "x" * 3000}, "3,000 characters"),
        ({"checkpoint": "base"}, "cannot be flown live"),
        ({"checkpoint": "../../etc"}, "cannot be flown live"),
    ):
        message = Visitor(live_desk, picture, **settings).until("failed")["message"]
        assert says.lower() in message.lower() and message.endswith(".")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    assert "not an image" in Visitor(live_desk, bad).until("failed")["message"]
    message = next(m for m in live_desk.fly({}, None, "", None, 0) if m["kind"] == "failed")["message"]
    assert "no first frame" in message
    assert not list(live_desk.folder.iterdir()) and nobody_flies(live_desk.line)


def test_without_a_causal_checkpoint_the_way_to_one_is_named(live_desk, tmp_path, picture):
    from wanact.ui.engine import Engine

    write_run(tmp_path / "runs" / "drone")
    desk = LiveDesk(Engine(live_desk.engine.pipe, tmp_path / "runs"))
    assert desk.listing()["choices"] == []
    assert "python -m train causal" in Visitor(desk, picture).until("failed")["message"]


@pytest.mark.parametrize("message", [None, 3, "stop", [], {}, {"flight": 3}, {"flight": "../x"}, {"flight": "y" * 24}])
def test_messages_of_strangers_are_not_known(live_desk, message):
    assert live_desk.control(message) == {"known": False}


def test_held_keys_are_magnitudes():
    assert np.allclose(action_of((1, 0.5, 0, 0, 0, 0.5, 0, 0)), [0.025, 0, 0, 0, 0, 1.5, 0, 0])
    assert not action_of((1, 1, 0.5, 0.5, 2, 2, 0, 0)).any()


def test_where_gpus_are_lent_a_flight_leaves_its_files_and_is_flown_on_from_its_record(live_desk, picture, tmp_path):
    """There each flight has a process of its own: nothing but the folder is common."""
    desk, other = own_desk(live_desk), own_desk(live_desk)
    for one in (desk, other):
        one.hangar.on_disk, one.hangar.folder = True, tmp_path
    visitor = Visitor(desk, picture)
    visitor.until("start")
    visitor.tell(held=RIGHT)
    visitor.fly(3)
    visitor.tell(stop=True)
    visitor.until("end")
    visitor.messages.close()
    flown = desk.hangar.get(visitor.flight).stream
    for what in ("record", "clip"):
        assert other.save(visitor.flight, what, tmp_path)[0].stat().st_size > 0
    later = Visitor(other, picture, {"from": visitor.flight, "at": 2})
    start = later.until("start")
    assert start["t"] == 2 and start["attitude"][0] == flown.track.magnitude[:2, 5].sum()
    later.fly(1)
    later.messages.close()
    for unknown in ("x" * 24, "../x", None):
        with pytest.raises(RequestError, match="not there"):
            other.save(unknown, "clip", tmp_path)


def test_a_record_that_the_disk_does_not_take_leaves_the_one_before_and_no_half_one(
    live_desk, picture, tmp_path, monkeypatch
):
    desk = own_desk(live_desk)
    desk.hangar.on_disk, desk.hangar.folder = True, tmp_path
    visitor = Visitor(desk, picture)
    visitor.until("start")
    visitor.fly(1)
    visitor.tell(stop=True)
    visitor.until("end")
    visitor.messages.close()
    record = desk.hangar.left(visitor.flight, "record")
    before, entries = record.read_bytes(), set(tmp_path.iterdir())
    write = Path.write_text

    def full(path, text, *args, **kwargs):
        write(path, text[: len(text) // 2], *args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        desk.hangar.put(visitor.flight, desk.hangar.get(visitor.flight))
    saved = tmp_path / "saved"
    saved.mkdir()
    with pytest.raises(OSError, match="No space"):
        desk.save(visitor.flight, "record", saved)
    assert record.read_bytes() == before and not list(saved.iterdir())
    assert set(tmp_path.iterdir()) - {saved} == entries


def test_an_encoder_that_fails_ends_the_flight_and_gives_everything_back(live_desk, picture, monkeypatch):
    desk = own_desk(live_desk)
    before = len(os.listdir("/proc/self/fd"))
    visitor = Visitor(desk, picture)
    visitor.until("start")

    def broken(frame):
        raise cv2.error("cannot encode")

    monkeypatch.setattr(live_flight, "encode_jpeg", broken)
    assert "Something went wrong" in visitor.until("failed")["message"]
    visitor.messages.close()
    flight = desk.hangar.get(visitor.flight)
    assert flight.landed_at is not None and flight.stream._memory is None and not flight._coming
    assert not list(desk.folder.iterdir()) and nobody_flies(desk.line)
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    going_on = Visitor(desk, picture, {"from": visitor.flight, "at": None})
    going_on.fly(1)
    going_on.messages.close()


def test_a_full_disk_is_said_to_who_takes_off(live_desk, picture, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert "no room for one more flight" in Visitor(own_desk(live_desk), picture).until("failed")["message"]


def test_landed_flights_go_in_time_though_nobody_flies(live_desk, picture, monkeypatch):
    desk = own_desk(live_desk, keep_s=0.2)
    visitor = Visitor(desk, picture)
    visitor.fly(1)
    visitor.messages.close()
    deadline = time.monotonic() + 20
    while desk.hangar.get(visitor.flight) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert desk.hangar.get(visitor.flight) is None
    desk = own_desk(live_desk)
    monkeypatch.setattr(live_flight, "MAX_LANDED_BYTES", 1)
    visitor = Visitor(desk, picture)
    visitor.fly(1)
    assert desk.hangar.get(visitor.flight) is not None, "one in the air is not forgotten"
    visitor.messages.close()
    assert desk.hangar.get(visitor.flight) is None
