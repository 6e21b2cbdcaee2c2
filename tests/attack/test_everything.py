"""Every event, server function and route, as the app itself lists them, with what nobody expects.

Something new is tried from the day it is there. With `--long` for an hour, each time with other values.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator

import gradio as gr
import httpx
import pytest
from gradio.routes import App

from tests.attack import hostile
from tests.attack.visitor import API, Visitor, picture, wait_until

AT_LEAST = 500
GROWTH = 1.1
_PARAMETERS = ["x", "0", "-1", "../../etc/passwd", "%00", "a" * 300, "☃", "http://127.0.0.1:1/", "<script>"]
_HEADERS = [
    {"range": "bytes=0-"},
    {"range": "bytes=5-2-1"},
    {"range": "bytes=²-"},
    {"host": "a b"},
    {"host": "x:99999999999"},
    {"x-forwarded-host": "\\\\"},
    {"x-forwarded-proto": "javascript"},
    {"x-gradio-server": "http://["},
    {"cookie": "=;;=\x01"},
    {"accept-encoding": "br;q=x"},
    {"content-length": "x"},
    {"x-forwarded-for": "<b>, ::1"},
]


def rounds(config: pytest.Config) -> Iterator[int]:
    """Seeds: one, or as many as fit into an hour."""
    end = time.monotonic() + 3600 * bool(config.getoption("--long"))
    for seed in itertools.count():
        yield seed
        if time.monotonic() >= end:
            return


def routes() -> list[tuple[str, str]]:
    """(method, address) of every route that Gradio has for a page."""
    with gr.Blocks() as blocks:
        gr.Textbox()
    waiting, found = list(App.create_app(blocks).routes), []
    for route in waiting:
        router = getattr(route, "original_router", None)  # FastAPI keeps what was included apart
        waiting += router.routes if router is not None else ()
        found += [(method, route.path) for method in sorted(getattr(route, "methods", None) or ())]
    assert len(found) > 60, "Gradio has many"
    return found


def test_nothing_that_is_sent_breaks_anything(app, visitor, pytestconfig):
    tried: Counter[str] = Counter()
    with Visitor(app.url) as warm:
        for attack in (events, server_functions):
            attack(warm, random.Random(-1), tried, 2)
    before, files = app.memory(), app.num_files()
    for seed in rounds(pytestconfig):
        rng = random.Random(seed)
        visitor.session = f"attack{seed}"
        events(visitor, rng, tried, 6)
        server_functions(visitor, rng, tried, 10)
        addresses(visitor, rng, tried)
        forms(visitor, rng, tried)
        assert app.is_alive
    assert sum(tried.values()) >= AT_LEAST, tried
    print("tried:", dict(tried))
    assert wait_until(lambda: app.memory() < GROWTH * before, 30), f"{before / 1e6:.0f} to {app.memory() / 1e6:.0f} MB"
    assert wait_until(lambda: app.num_files() <= files + 5, 30), "descriptors stay open"


def events(visitor: Visitor, rng: random.Random, tried: Counter[str], times: int) -> None:
    """Every event, through the queue, or beside it where it is for that."""
    for function in visitor.functions:
        usual = visitor.usual(function)
        for _ in range(times if usual else 1):
            data = hostile.fields(usual, function["api_name"], rng)
            more = {"event_data": rng.choice(hostile.VALUES)} if rng.random() < 0.2 else {}
            for message in visitor.run(function["id"], data, **more):
                assert "went wrong" not in json.dumps(message), (function["api_name"], data, message)
            tried["events"] += 1
        body = {"fn_index": function["id"], "data": usual, "session_hash": visitor.session, "trigger_id": 1}
        if function["api_name"] not in hostile.SLOW:
            assert_refused_or_fine(visitor.post(f"{API}/queue/join", json=hostile.bodies(body, rng)))
            tried["questions"] += 1
    for name in ("generate", "compare", "checkpoints", "control_card", "check_frame", "x"):
        answer = visitor.post(f"{API}/call/{name}", json={"data": [rng.choice(hostile.VALUES)]})
        assert_refused_or_fine(answer)
        if answer.status_code == 200:
            visitor.get(f"{API}/call/{name}/{answer.json()['event_id']}")
        tried["calls"] += 1


def server_functions(visitor: Visitor, rng: random.Random, tried: Counter[str], times: int) -> None:
    """Every function that a component's script may call."""
    for component, name in visitor.server_functions:
        for _ in range(times):
            answer = visitor.tell(component, name, rng.choice(hostile.VALUES))
            assert answer.status_code == 200 and isinstance(answer.json(), dict), (name, answer.text)
            assert "went wrong" not in answer.text, (name, answer.text)
            tried["server functions"] += 1
        body = {"component_id": component, "fn_name": name, "session_hash": visitor.session, "data": {}}
        for _ in range(2):
            assert_refused_or_fine(visitor.post(f"{API}/component_server", json=hostile.bodies(body, rng)))
            tried["server functions"] += 1
    for name in ("preprocess", "postprocess", "__init__", "__class__", "get_config", "server_fns"):
        body = {"component_id": visitor.component("ledger"), "fn_name": name, "session_hash": "x", "data": {}}
        assert visitor.post(f"{API}/component_server", json=body).status_code == 404
        tried["server functions"] += 1


def addresses(visitor: Visitor, rng: random.Random, tried: Counter[str]) -> None:
    """Every route of Gradio, with parameters that are none."""
    for method, path in routes():
        filled = re.sub(r"\{[^}]+\}", lambda _: rng.choice(_PARAMETERS), path)
        query = {"session_hash": rng.choice(_PARAMETERS), "upload_id": "x", "deep_link": rng.choice(_PARAMETERS)}
        try:
            with visitor.http.stream(method, filled, params=query, timeout=3) as answer:
                assert answer.status_code < 500, (method, filled, answer.status_code)
                if "event-stream" not in answer.headers.get("content-type", ""):
                    visitor.heard.append(answer.read().decode(errors="replace"))
        except (httpx.ReadTimeout, httpx.InvalidURL):
            pass  # it waits for something that does not come, or is none for our own client
        tried["addresses"] += 1
    for headers in _HEADERS:
        for path in ("/", "/config", f"{API}/file=/cache/x", f"{API}/info"):
            try:
                assert visitor.get(path, headers=headers).status_code < 500, (path, headers)
            except (UnicodeEncodeError, httpx.LocalProtocolError):
                pass  # our own client refuses to send it
            tried["headers"] += 1


def forms(visitor: Visitor, rng: random.Random, tried: Counter[str]) -> None:
    """Uploads that are none, or oddly called."""
    kind = "multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="files"%s\r\n\r\nabc\r\n'
    for headers, content in (
        ({"content-type": "multipart/form-data"}, b"x"),
        ({"content-type": kind}, b""),
        ({"content-type": kind}, b"--x--\r\n"),
        ({"content-type": kind}, part % b""),
        ({"content-type": kind}, part % b"" + b"--x--"),
        ({"content-type": kind}, part % b'; filename="' + b"a" * 9_000 + b'"'),
        ({"content-type": kind}, b"--x\r\n\r\nabc\r\n--x--"),
        ({"content-type": kind}, b"--x\r\nContent-Disposition: x\r\n\r\nabc\r\n--x--"),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 5_000}, part % b""),
        ({"content-type": "multipart/form-data; charset=x; boundary=x"}, part % b"" + b"--x--"),
        ({"content-type": "application/json"}, b"{}"),
        ({}, b"x"),
    ):
        for query in ({}, {"upload_id": "x"}):
            assert_refused_or_fine(visitor.post(f"{API}/upload", content=content, headers=headers, params=query))
            tried["forms"] += 1
    for name in ("", ".", "..", "/etc/passwd", "a" * 400, "\u202e<b>.png", ".bashrc", "con", "a\nb", "x.svg", "x.html"):
        answer = visitor.post(f"{API}/upload", files={"files": (name, picture(seed=rng.randrange(99)))})
        assert_refused_or_fine(answer)
        for path in answer.json() if answer.status_code == 200 else ():
            fetched = visitor.http.get(f"{API}/file={path}")
            kind = fetched.headers.get("content-type", "")
            assert "html" not in kind and "svg" not in kind, "nothing of a visitor's runs on the page"
        tried["forms"] += 1


def assert_refused_or_fine(answer: httpx.Response) -> None:
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert len(answer.text) < 5_000
