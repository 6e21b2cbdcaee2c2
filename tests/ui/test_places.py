"""Who may wait: no visitor takes all places, small events pass by, and what nobody collects is given up."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import httpx
import pytest

from tests.ui.visits import serving
from wanact.ui import places as module
from wanact.ui.page import build_page
from wanact.ui.places import PLACES, SESSION_PLACES, Letters, Places

API = "/gradio_api"


class Event:
    def __init__(self, kind: str, session: str, address: str = "a"):
        self.concurrency_id, self.session_hash, self.alive = kind, session, True
        self.request = SimpleNamespace(client=SimpleNamespace(host=address))
        self._id, self.enqueue_time = f"{session}-{time.perf_counter_ns()}", time.perf_counter()


@pytest.fixture
def queue():
    """What places need of Gradio's."""
    kinds = {kind: SimpleNamespace(queue=[]) for kind in (*PLACES, "small")}
    return SimpleNamespace(
        **{"push": None, "start": None, "max_size": 16, "active_jobs": []},
        **{"event_queue_per_concurrency_id": kinds, "event_ids_to_events": {}},
        **{"pending_messages_per_session": {}, "pending_event_ids_session": {}},
    )


def wait(queue, *events: Event) -> None:
    for event in events:
        queue.event_queue_per_concurrency_id[event.concurrency_id].queue.append(event)
        queue.event_ids_to_events[event._id] = event


def test_clips_that_wait_take_no_places_of_small_events(queue):
    places = Places(queue)
    wait(queue, *(Event("model", f"s{n}", f"a{n}") for n in range(PLACES["model"])))
    with pytest.raises(Exception, match="24 requests wait already; try again"):
        places._let_in("model", "new", "new")
    places._let_in("small", "new", "new")
    places._let_in("live", "new", "new")


def test_a_session_and_an_address_have_a_share(queue):
    places = Places(queue)
    wait(queue, *(Event("live", "one") for _ in range(SESSION_PLACES)))
    with pytest.raises(Exception, match="You have asked for 3 of these already"):
        places._let_in("live", "one", "a")
    wait(queue, *(Event("live", f"s{n}") for n in range(PLACES["live"] * 3 // 4 - SESSION_PLACES)))
    with pytest.raises(Exception, match="wait already"):
        places._let_in("live", "another", "a")
    places._let_in("live", "another", "b")


def test_a_job_that_is_tidied_after_its_answer_was_read_takes_no_place(queue):
    places = Places(queue)
    jobs = [Event("live", "one") for _ in range(SESSION_PLACES)]
    queue.active_jobs = [jobs, None]
    queue.pending_event_ids_session["one"] = {event._id for event in jobs}
    with pytest.raises(Exception, match="You have asked for 3 of these already"):
        places._let_in("live", "one", "a")
    queue.pending_event_ids_session["one"].remove(jobs[0]._id)
    places._let_in("live", "one", "a")


def test_the_first_of_everybody_comes_before_the_second_of_anybody(queue):
    places = Places(queue)
    events = [Event("model", f"s{n}", address) for n, address in enumerate("aaabbc")]
    queue.active_jobs = [[Event("model", "running", "b")], None]
    wait(queue, *events)
    places._go_round("model")
    order = [event.session_hash for event in queue.event_queue_per_concurrency_id["model"].queue]
    assert order == ["s0", "s5", "s1", "s3", "s2", "s4"]


def test_letters_know_whether_somebody_reads_them():
    async def read() -> list[int]:
        letters = Letters()
        looks = [letters.look(), letters.look()]
        reading = asyncio.create_task(letters.get())
        await asyncio.sleep(0)
        looks += [letters.look(), letters.look()]
        letters.put_nowait("a")
        await reading
        looks.append(letters.look())
        letters.expect_reader()
        return [*looks, letters.look()]

    assert asyncio.run(read()) == [1, 2, 0, 0, 1, 1]


def test_what_is_not_collected_is_given_up_and_what_is_stays(queue):
    places = Places(queue)
    waiting, running, heard = Event("model", "gone"), Event("live", "gone"), Event("model", "here")
    wait(queue, waiting, heard)
    queue.active_jobs = [[running]]
    for session, looks in (("gone", 10), ("here", 9), ("old answers", 60), ("new answers", 10)):
        letters = queue.pending_messages_per_session[session] = Letters()
        letters._looks = looks
        queue.pending_event_ids_session[session] = {running._id}
    places.forget_uncollected()
    assert queue.event_queue_per_concurrency_id["model"].queue == [heard]
    assert not running.alive and heard.alive and list(queue.event_ids_to_events.values()) == [heard]
    assert set(queue.pending_messages_per_session) == {"here", "new answers"} == set(queue.pending_event_ids_session)


@pytest.fixture
def page(engine, monkeypatch):
    """A page of this test alone, that does not give up until it is told to."""
    monkeypatch.setattr(module, "COLLECT_LOOKS", 1000)
    demo = build_page(engine)
    with serving(demo) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield demo, http


def test_unread_requests_close_nothing_and_go_by_themselves(page, picture, request_fields, engine):
    demo, http = page
    uploaded = http.post(f"{API}/upload", files={"files": (picture.name, picture.read_bytes())}).json()[0]
    frame = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    fields = [frame, "", request_fields["plan"], "base", 0, "", 2, 3.0, "64 × 32"]
    config = http.get("/config").json()
    dice = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "dice")
    press = next(d["id"] for d in config["dependencies"] if [dice, "click"] in d["targets"])
    with engine.pipe.lock:  # the model is busy
        answers = [http.post(f"{API}/call/generate", json={"data": fields}) for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["detail"].endswith("try again in a minute.")
        seed = http.post(f"{API}/run/predict", json={"data": [], "fn_index": press, "session_hash": "s"}).json()
        assert 0 <= seed["data"][0] < 2**31
        demo._queue.push.__self__.collect_looks = 1
        deadline = time.monotonic() + 60
        while (demo._queue.event_ids_to_events or len(demo._queue)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not demo._queue.event_ids_to_events and not len(demo._queue)


def test_what_has_to_wait_cannot_pass_the_queue_by(page, request_fields):
    _, http = page
    answer = http.post(f"{API}/run/control_card", json={"data": ["base"]})
    assert answer.status_code == 404
