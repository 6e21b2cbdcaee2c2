"""What comes in over HTTP, and what goes out: limits that the server holds, whoever asks."""

import asyncio
import json
import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.ui.visits import serving
from wanact.errors import UserError
from wanact.ui import cache
from wanact.ui.doors import MAX_CALLS, MAX_HELD_BYTES, MAX_JSON_BYTES, MAX_SMALL_BYTES, Doors, check_origins
from wanact.ui.edits import Edits
from wanact.ui.engine import Engine
from wanact.ui.page import build_page, launch_options
from wanact.ui.sessions import Sessions

JSON = {"content-type": "application/json"}
JOIN, TELL = "/gradio_api/queue/join", "/gradio_api/component_server"


@pytest.fixture(scope="module")
def edits() -> Edits:
    return Edits.new()


@pytest.fixture(scope="module")
def served(pipe, runs_root, edits):
    demo = build_page(Engine(pipe, runs_root, edits=edits))
    options = launch_options(edits, ["https://huggingface.co"])
    with serving(demo, options) as url:
        yield demo, url.rstrip("/")


@pytest.fixture
def http(served):
    with httpx.Client(base_url=served[1], timeout=60) as client:
        yield client


def test_the_page_says_what_it_may_run_load_and_be_shown_in(http):
    answer = http.get("/")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    nonce = re.search(r"'nonce-([^']+)'", policy["script-src"])[1]
    assert "unsafe-inline" not in policy["script-src"] and policy["object-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self' https://huggingface.co"
    scripts = re.findall(r"<script\b[^>]*>", answer.text)
    assert len(scripts) > 3 and all(f'nonce="{nonce}"' in script for script in scripts)
    assert nonce not in http.get("/").text, "another one each time"
    for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/none", "/gradio_api/file=/etc/passwd"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin", path
        assert "frame-ancestors" in headers["content-security-policy"], path


@pytest.mark.browser
def test_the_browser_runs_no_script_that_was_put_into_the_page(browser, served):
    page = browser.new_page()
    page.goto(served[1])
    page.wait_for_selector("#plan td[data-c]", timeout=60_000)
    page.evaluate(
        """() => {
            window.ran = [];
            const place = document.body.appendChild(document.createElement('div'));
            place.innerHTML = '<img src="data:," onerror="window.ran.push(1)"><button onclick="window.ran.push(2)">';
            place.querySelector('button').click();
            const script = document.createElement('script');
            script.textContent = 'window.ran.push(3)';
            place.append(script);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.ran") == []
    page.close()


def test_an_origin_is_checked_before_it_becomes_a_header():
    assert check_origins(["https://a.example:8443", "https://*.hf.space", "*"])
    for wrong in ("a.example", "https://a.example/path", "https://a b", "https://a;script-src *", "x\r\ny: z"):
        with pytest.raises(UserError, match="no origin"):
            check_origins([wrong])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "{url}"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "{url}", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "{url}", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example", "x-forwarded-host": "evil.example"}, 403),
        ({"origin": "https://wanact.example", "host": "wanact.example"}, 200),
        ({"origin": "https://wanact.example:8443", "host": "wanact.example"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": ""}, 415),
    ],
)
def test_a_server_function_is_called_by_this_page_alone_and_in_json(served, http, headers, status):
    demo, url = served
    ledger = next(number for number, block in demo.blocks.items() if block.elem_id == "ledger")
    body = {"component_id": ledger, "fn_name": "list_shelf", "session_hash": "x", "data": {}}
    sent = JSON | {name: value.format(url=url) for name, value in headers.items()}
    answer = http.post(TELL, content=json.dumps(body), headers=sent)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["detail"].endswith(".")


def test_no_other_page_reads_this_one(http):
    for path in ("/config", "/gradio_api/info", "/"):
        assert http.get(path, headers={"origin": "https://evil.example"}).status_code == 403


def test_a_token_opens_writing_and_stays_in_no_address(http, edits, served):
    ledger = next(number for number, block in served[0].blocks.items() if block.elem_id == "ledger")
    body = {"component_id": ledger, "fn_name": "list_shelf", "session_hash": "x", "data": {}}

    def may_edit():
        return http.post(TELL, json=body).json()["notes_with_runs"]

    assert not may_edit()
    for wrong in ("x", edits.address("").partition("=")[2][:-1], "ü"):
        answer = http.get("/", params={"edits": wrong})
        assert answer.status_code == 303 and "set-cookie" not in answer.headers
    assert not may_edit()
    answer = http.get(edits.address("/"))
    assert answer.status_code == 303 and answer.headers["location"] == "?"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    assert may_edit()
    behind = http.get(edits.address("/"), headers={"x-forwarded-proto": "https"})
    assert "secure" in behind.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/monitoring", 404),
        ("/monitoring/summary", 404),
        ("/gradio_api/dev/reload", 404),
        ("/gradio_api/deep_link?session_hash=x", 404),
        ("/gradio_api/proxy=http://127.0.0.1:1/", 404),
        ("/gradio_api/file=http://127.0.0.1:1/", 403),
        ("/gradio_api/file=/proc/self/environ", 403),
        ("/gradio_api/file=/cache/%2e%2e/%2e%2e/etc/passwd", 403),
        ("/gradio_api/file=/cache/none.png", 403),
        ("/gradio_api/file=/cache/", 403),
        ("/gradio_api/file=%00", 403),
        ("/gradio_api/custom_component/a/client/b/c", 404),
        ("/gradio_api/stream/a/b/1/playlist.m3u8", 404),
        ("/gradio_api/queue/data?session_hash=nobody", 404),
        ("/gradio_api/queue/data", 404),
        ("/gradio_api/call/generate/nobody", 404),
        ("/pwa_icon/100000", 404),
        ("/login", 404),
        ("/docs", 404),
        ("/openapi.json", 404),
        ("/?" + "x" * 10_000, 414),
    ],
)
def test_what_nobody_needs_is_not_there(http, path, status):
    answer = http.get(path)
    assert answer.status_code == status and answer.json()["detail"].endswith(".")
    assert cache.folder() not in answer.text


@pytest.mark.parametrize("path", ["/gradio_api/vibe-edit", "/gradio_api/process_recording", "/login", "/", TELL + "x"])
def test_nothing_else_is_posted(http, path):
    assert http.post(path, json={}).status_code == 404
    assert http.put("/config").status_code == 405


@pytest.mark.parametrize(
    "change",
    [
        {"data": None},
        {"data": "x"},
        {"fn_index": 10**6},
        {"fn_index": "0"},
        {"fn_index": True},
        {"fn_index": 0.5},
        {"fn_index": None},
        {"session_hash": None},
        {"session_hash": ""},
        {"session_hash": "x" * 65},
        {"session_hash": ["x"]},
        {"session_hash": "a/../b"},
        {"trigger_id": "x"},
        {"trigger_id": {}},
        {"batched": True},
    ],
)
def test_a_question_has_its_shape(http, change):
    answer = http.post(JOIN, json={"fn_index": 6, "data": [], "session_hash": "x"} | change)
    assert answer.status_code in (400, 404), answer.text
    assert re.search(r"expected shape|no such function", answer.json()["detail"])


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"{", b"[]", b'"x"', b"\xff", b"[" * 10**5, b'{"data": [NaN]}', b'{"data": [' + b"9" * 400 + b"]}"]
    + [b'{"data": ["\\ud800"]}', b'{"data": [' + b"[]," * 500_000 + b"[]]}"],
)
def test_what_is_no_json_is_said(http, body):
    answer = http.post(JOIN, content=body, headers=JSON)
    assert answer.status_code == 400 and len(answer.text) < 300, answer.text


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    ("path", "limit"), [(JOIN, MAX_JSON_BYTES), (TELL, MAX_JSON_BYTES), ("/gradio_api/cancel", MAX_SMALL_BYTES)]
)
def test_a_body_ends_at_its_limit_whether_or_not_it_says_its_length(http, path, limit, declared):
    body = b'{"data": "' + b"x" * limit + b'"}'
    content = body if declared else (body[start : start + 2**16] for start in range(0, len(body), 2**16))
    try:
        answer = http.post(path, content=content, headers=JSON)
    except (httpx.WriteError, httpx.RemoteProtocolError):
        return  # the server has hung up while we were still sending
    assert answer.status_code == 413


def test_an_upload_is_named_as_it_is_fetched_and_not_as_it_lies(http):
    name = http.post("/gradio_api/upload", files={"files": ("a.png", b"some bytes")}).json()[0]
    assert name.startswith(f"{cache.ALIAS}/") and cache.find(name).read_bytes() == b"some bytes"
    assert http.get(f"/gradio_api/file={name}").content == b"some bytes"
    assert http.get(f"/gradio_api/file={cache.find(name)}").status_code == 403, "by its alias alone"
    for path in ("/config", "/", "/gradio_api/info"):
        assert cache.folder() not in http.get(path).text, path


def test_only_regular_files_of_the_cache_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr("wanact.ui.cache.folder", lambda: str(tmp_path / "cache"))
    inside, outside = tmp_path / "cache" / "a", tmp_path / "secret.png"
    inside.mkdir(parents=True)
    outside.write_bytes(b"secret")
    (inside / "own.png").write_bytes(b"own")
    (inside / "link.png").symlink_to(outside)
    (tmp_path / "cache" / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    assert cache.find("/cache/a/own.png").read_bytes() == b"own" and cache.find("/cache/b/../a/own.png")
    refused = {
        "/cache/a/link.png",
        "/cache/folder/secret.png",
        "/cache/a/pipe",
        "/cache/a",
        "/cache/",
        "/cache/../secret.png",
        "/cache/../cache/../secret.png",
        "/cache/gone.png",
        str(outside),
        str(inside / "own.png"),
        "/cache/a/own.png\0",
        "/cache/" + "x" * 5_000,
        "",
        None,
        5,
    }
    said = set()
    for name in refused:
        with pytest.raises(cache.NoFileError) as error:
            cache.find(name)
        said.add(str(error.value))
    assert len(said) == 1, "nobody learns what is there"


def test_a_session_keeps_nothing_that_was_posted_and_ends(served, http, monkeypatch):
    demo, _ = served
    text = "x" * 2**20
    sessions = demo.app.state_holder
    assert isinstance(sessions, Sessions)
    for number in range(3):
        session = f"posts{number}"
        shown = next(n for n, fn in demo.fns.items() if fn.api_name == "show")
        http.post(JOIN, json={"fn_index": shown, "data": [{"id": text}], "session_hash": session})
        http.get("/gradio_api/queue/data", params={"session_hash": session})
        assert text not in str(sessions.session_data[session].config_values)
        assert not list(sessions.session_data[session].components)
    with http.stream("GET", "/gradio_api/heartbeat/posts0") as heartbeat:
        beats = heartbeat.iter_lines()
        next(beats)
        monkeypatch.setattr(sessions, "keep_empty_s", 0.0)
        monkeypatch.setattr(sessions, "keep_s", 0.0)
        end = time.monotonic() + 20
        while "posts1" in sessions.session_data and time.monotonic() < end:
            time.sleep(0.1)
        assert not {"posts1", "posts2"} & set(sessions.session_data) and "posts0" in sessions.session_data
    while "posts0" in sessions.session_data and time.monotonic() < end + 20:
        time.sleep(0.1)
    assert "posts0" not in sessions.session_data
    assert "posts0" not in demo._queue.pending_messages_per_session


def test_a_proxys_word_counts_only_from_near():
    """Else the first visitor would choose the host that the page names to all others."""
    heard = {}

    async def answer(request):
        heard.update(request.headers)
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", answer)])
    forged = {"x-forwarded-host": "evil.example", "x-gradio-server": "http://evil.example"}
    for client, name in ((("127.0.0.1", 1), "evil.example"), (("9.9.9.9", 1), None)):
        heard.clear()
        TestClient(Doors(app, Edits()), client=client).get("/", headers=forged)
        assert heard.get("x-forwarded-host") == name and "x-gradio-server" not in heard
    assert TestClient(Doors(app, Edits())).get("/", headers={"host": "a b"}).status_code == 400
    TestClient(Doors(app, Edits())).get("/", headers={"range": "bytes=1-2-3", "x-forwarded-host": "a b"})
    assert "range" not in heard and heard.get("x-forwarded-host") is None


@pytest.mark.parametrize(("num_bytes", "most"), [(10, MAX_CALLS), (100_000, 1)])
def test_an_address_has_so_many_calls_in_work_and_the_others_wait(num_bytes, most):
    """Server functions pass the queue: 64 slow ones of one visitor had every thread, and flights heard no key."""
    working, at_once = Counter(), Counter()

    async def work(request):
        who = request.client.host
        working[who] += 1
        at_once[who] = max(at_once[who], working[who])
        await asyncio.sleep(0.01)
        working[who] -= 1
        return PlainTextResponse("done")

    app = Starlette(routes=[Route(TELL, work, methods=["POST"])])
    work._is_server_fn = True
    app.get_blocks = lambda: SimpleNamespace(blocks={1: SimpleNamespace(work=work)})
    app.state_holder = SimpleNamespace(touch=lambda session: None)
    doors = Doors(app, Edits())
    body = {"component_id": 1, "fn_name": "work", "session_hash": "x", "data": "x" * num_bytes}

    async def ask(who: str) -> list[int]:
        transport = httpx.ASGITransport(_called(doors, app), client=(who, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            answers = await asyncio.gather(*(http.post(TELL, json=body) for _ in range(2 * MAX_CALLS)))
        return [answer.status_code for answer in answers]

    async def both() -> list[list[int]]:
        return await asyncio.gather(ask("10.0.0.1"), ask("10.0.0.2"))

    with ThreadPoolExecutor(1) as thread:  # a loop of its own: a browser's may run in this one
        answers = thread.submit(asyncio.run, both()).result()
    assert set(sum(answers, [])) == {200}
    assert at_once == {"10.0.0.1": most, "10.0.0.2": most}
    assert not doors._calls._turns and not doors._large._turns and not doors._held_bytes


def _called(doors, app):
    """The doors as Starlette calls a middleware."""

    async def call(scope, receive, send):
        await doors(scope | {"app": app}, receive, send)

    return call


def test_an_address_cannot_hold_all_that_is_received():
    doors = Doors(Starlette(), Edits())
    doors._held_bytes["10.0.0.1"] = int(0.75 * MAX_HELD_BYTES)
    body = json.dumps({"data": ["x" * 100_000], "session_hash": "x", "fn_index": 0}).encode()
    app = Starlette()
    app.get_blocks = lambda: SimpleNamespace(fns={})
    for who, status in (("10.0.0.1", 503), ("10.0.0.2", 404)):
        answer = TestClient(_called(doors, app), client=(who, 1)).post(JOIN, content=body, headers=JSON)
        assert answer.status_code == status, answer.text
    assert doors._held_bytes["10.0.0.1"] == int(0.75 * MAX_HELD_BYTES) and len(doors._held_bytes) == 1
