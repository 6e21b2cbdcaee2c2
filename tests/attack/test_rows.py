"""What was once done to the app, one test each; the names say what holds since."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.attack.served import ROOT
from tests.attack.visitor import API, FILE, Visitor, data_url, last, picture, wait_until, words
from wanact.actions import PRESETS, ActionTrack
from wanact.flying.record import FlightRecord

MB = 2**20
NOT_HERE = "This file is not here, or not any more; upload it again."


def frames_of(visitor: Visitor) -> list[str]:
    """Events that take a picture, by name."""
    images = {one["id"] for one in visitor.config["components"] if one["type"] == "image"}
    return [one["api_name"] for one in visitor.functions if images & set(one["inputs"])]


def with_frame(visitor: Visitor, name: str, frame) -> list:
    """What an event is usually sent, with another picture."""
    function = visitor.function(name)
    images = {one["id"] for one in visitor.config["components"] if one["type"] == "image"}
    usual = visitor.usual(function)
    return [frame if number in images else value for number, value in zip(function["inputs"], usual, strict=True)]


# Reading and writing what is not theirs


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A picture of somebody else, and things that are no files."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "secret.png").write_bytes(picture(seed=77))
    os.mkfifo(folder / "pipe")
    (folder / "link.png").symlink_to(folder / "secret.png")
    return folder


def test_no_event_reads_a_picture_that_was_not_uploaded(app, visitor, private):
    names = frames_of(visitor)
    assert {"generate", "compare", "fly", "check_frame"} <= set(names), "every event with a picture is tried"
    paths = [str(private / name) for name in ("secret.png", "none.png", "pipe", "link.png")]
    paths += ["/dev/ptmx", "/dev/zero", "/proc/self/environ", "/", "/etc/passwd", "/cache/none.png", "/cache", ""]
    paths += [f"{visitor.usual(visitor.function('generate'))[0]['path']}/../../../etc/passwd", "http://127.0.0.1:1/a"]
    for name in names:
        for path in paths if name == "generate" else paths[:5]:
            for frame in ({"path": path}, {"path": path, "url": f"/file={path}", "meta": FILE}):
                began = time.monotonic()
                messages = visitor.run(name, with_frame(visitor, name, frame))
                assert words(messages) == NOT_HERE, (name, frame, visitor.heard[-3:])
                assert time.monotonic() - began < 5, "nothing is opened that blocks"


def test_files_of_other_fields_are_the_visitors_own_too(visitor, private):
    """Wherever a value may be any JSON, Gradio looks for files in it."""
    file = {"path": str(private / "secret.png"), "meta": FILE}
    for function in visitor.functions:
        for number in range(len(function["inputs"])):
            data = visitor.usual(function)
            data[number] = {"deep": [file]}
            ended = last(visitor.run(function["id"], data))
            assert not ended.get("success") or "secret" not in json.dumps(ended), function["api_name"]


def test_an_uploaded_picture_flies_and_comes_back_in_the_record(visitor):
    """The doors are open for whom they are for."""
    frame = visitor.upload(picture(300, 200))
    ended = last(visitor.generate(frame))
    assert ended["success"], ended
    state = ended["output"]["data"][0]
    assert state["record"]["path"].startswith("/cache/")
    record = FlightRecord.parse(visitor.http.get(state["record"]["url"]).content)
    assert record.image.size == (320, 192)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (data_url(picture(300, 200)), ""),
        (data_url(b"no picture"), "not an image"),
        ("data:image/png,%00", "no data URL in base64"),
        ("data:image/png;base64,***", "no data URL in base64"),
        ("data:image/png;base64,", "empty"),
    ],
)
def test_a_data_url_is_read_as_an_upload_is(visitor, url, says):
    messages = visitor.run("check_frame", [{"path": "", "url": url, "meta": FILE}, None])
    ended = last(messages)
    assert ended["success"] != bool(says) or says in json.dumps(messages), messages


def test_nobody_writes_without_the_token(app, visitor):
    entry = visitor.tell(visitor.component("ledger"), "list_shelf", {}).json()
    run, name = entry["runs"][0]["name"], entry["columns"]["name"][0]
    before = sorted((file, file.stat().st_mtime_ns) for file in app.runs.rglob("*"))
    message = {"id": f"{run}/{name}", "star": True, "note": "mine"}
    ledger = visitor.component("ledger")
    assert "stay in your browser" in visitor.tell(ledger, "keep_note", message).json()["problem"]
    for headers in (
        {"cookie": "wanact-edits=x"},
        {"x-forwarded-for": "127.0.0.1"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ):
        answer = visitor.tell(ledger, "keep_note", message, **headers)
        assert answer.status_code in (403, 415) or "stay in your browser" in answer.json()["problem"], headers
    assert before == sorted((file, file.stat().st_mtime_ns) for file in app.runs.rglob("*"))


def test_the_token_that_the_terminal_prints_writes(app, visitor):
    """Asked of a run that is not there, so that the bundled ones stay as they are."""
    address = re.search(r"open (http\S+edits=\S+)", app.log())[1]
    visitor.http.get(address)
    answer = visitor.tell(visitor.component("ledger"), "keep_note", {"id": "gone/step-1", "note": "x"}).json()
    assert "not there any more" in answer["problem"]


def test_no_answer_names_a_place_of_the_machine(app, visitor):
    for path in (
        "/",
        "/config",
        f"{API}/info",
        "/manifest.json",
        f"{API}/file=/etc/passwd",
        "/theme.css",
        "/robots.txt",
    ):
        visitor.get(path)
    ledger = visitor.component("ledger")
    listing = visitor.tell(ledger, "list_shelf", {}).json()
    for number, name in zip(listing["columns"]["run"], listing["columns"]["name"], strict=True):
        one = f"{listing['runs'][number]['name']}/{name}"
        visitor.tell(ledger, "show_checkpoint", {"id": one})
        visitor.tell(ledger, "compare_settings", {"a": one, "b": "x"})
    visitor.run("checkpoints", ["", "all", 0, 1000])
    assert len(visitor.heard) > 20, "what was heard is looked through at the end"


# Stopping it


def test_a_small_file_takes_no_large_memory(app, visitor):
    """Of black, 9,990 by 9,990 pixels, in some hundred kB; as a PNG, and as a JPEG that keeps all coefficients."""
    black = Image.new("RGB", (9_990, 9_990))
    files = {}
    for name, options in (("a.png", {"format": "PNG"}), ("a.jpg", {"format": "JPEG", "progressive": True})):
        file = io.BytesIO()
        black.save(file, **options)
        files[name] = file.getvalue()
    assert len(files["a.png"]) < MB
    del black
    app.forget_peak()
    before = app.peak()
    for name, data in files.items():
        frame = visitor.upload(data, name)
        for event in ("check_frame", "generate", "compare"):
            messages = visitor.run(event, with_frame(visitor, event, frame))
            assert "megapixels" in json.dumps(messages), messages
    assert app.peak() - before < 100 * MB


def test_a_large_photograph_is_taken_in_little_memory(app, visitor):
    """48 megapixels, as phones make them."""
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).resize((8_000, 6_000)).save(file, "JPEG", quality=70)
    frame = visitor.upload(file.getvalue(), "photo.jpg")
    visitor.run("check_frame", [frame, None])
    app.forget_peak()
    before = app.peak()
    assert last(visitor.run("check_frame", [frame, None]))["success"]
    assert app.peak() - before < 150 * MB


def test_a_header_that_promises_a_gigantic_picture_is_not_believed(visitor):
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    messages = visitor.run("check_frame", [visitor.upload(bytes(data)), None])
    assert re.search("megapixels|not an image", json.dumps(messages))


def test_what_was_posted_is_given_back(app, visitor):
    """Posts of 10 MB in one session, of 1 MB in others, and sessions that say next to nothing."""
    visitor.run("show", [{"id": "x" * 10 * MB}])
    before = app.memory()
    for number in range(8):
        assert last(visitor.run("show", [{"id": "x" * 10 * MB, "other": number}]))["success"]
    for number in range(20):
        visitor.session = f"other{number}"
        assert last(visitor.run("show", [{"id": "x" * MB}]))["success"]
    for number in range(100):
        visitor.session = f"small{number}"
        visitor.tell(visitor.component("ledger"), "find_uploads", {})
    assert wait_until(lambda: app.memory() < 1.1 * before, 20), f"{before / MB:.0f} to {app.memory() / MB:.0f} MB"


def test_every_body_has_a_limit(app, visitor):
    before = app.memory()
    large = b'{"data": "' + b"x" * 20 * MB + b'"}'
    posts = ["queue/join", "component_server", "component_server/", "call/generate", "run/show", "cancel", "reset"]
    for path in [*posts, "none", "upload"]:
        for headers in ({"content-type": "application/json"}, {"content-type": "text/plain"}):
            for content in (large, (large[start : start + MB] for start in range(0, len(large), MB))):
                try:
                    answer = visitor.post(f"{API}/{path}", content=content, headers=headers)
                except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
                    continue  # it hung up
                assert answer.status_code in (404, 413, 415), (path, answer.status_code)
    assert wait_until(lambda: app.memory() < 1.1 * before, 20)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("checkpoints", ["", "all", 0, float("inf")], ""),
        ("checkpoints", ["", "all", -1, 1], "offset is -1"),
        ("checkpoints", ["", "all", 0, 1e300], "limit is 1e"),
        ("checkpoints", [None, None, None, None], "expected"),
        ("checkpoints", [{}, [], {}, []], "."),
        ("checkpoints", ["a\nb", "all", 0, 1], "no run"),
        ("control_card", [None], "not there any more"),
        ("control_card", [{"a": 1}], "not there any more"),
    ],
)
def test_numbers_and_names_of_a_program_are_held(visitor, name, data, says):
    messages = visitor.run(name, data)
    assert (not messages and not says) or says in words(messages), messages


def test_json_that_python_alone_reads_is_refused(visitor):
    event = visitor.function("generate")["id"]
    for inner in ("NaN", "Infinity", "9" * 400, "-" + "9" * 30, '"\\ud800"', "[" * 5_000 + "]" * 5_000):
        body = f'{{"fn_index": {event}, "session_hash": "x", "data": [{inner}]}}'
        answer = visitor.post(f"{API}/queue/join", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, inner[:20]


def a_flight(**changes) -> dict:
    flight = FlightRecord(
        image=Image.new("RGB", (224, 128)),
        prompt="a lake",
        seed=3,
        track=PRESETS["Forward"](20),
        num_frames=81,
        num_inference_steps=1,
        guidance_scale=1.0,
    )
    record = json.loads(flight.to_json())
    for place, value in changes.items():
        *groups, name = place.split("__")
        inner = record
        for group in groups:
            inner = inner[group]
        inner[name] = value
    return record


BAD_FLIGHTS = [
    {"size__fps": -1},
    {"size__fps": 1e308},
    {"size__fps": None},
    {"size__width": 10**400},
    {"size__num_frames": 10**18},
    {"seed": float("nan")},
    {"seed": -1},
    {"prompt": "\ud800"},
    {"prompt": 5},
    {"sampler__num_inference_steps": 10**9},
    {"sampler__guidance_scale": "x"},
    {"actions": [[[0] * 8] * 2] * 20_000},
    {"actions": "x"},
    {"image__png": "AAAA"},
    {"image__path": "/etc/passwd"},
    {"image": None},
    {"kind": "live"},
    {"kind": "x"},
    {"held": [10**400]},
    {"prompt_changes": [[0, "x"]]},
    {"checkpoint": "x"},
    {"checkpoint": {"id": 5}},
    {"model": {"a": float("inf")}},
    {"wanact_flight": 99},
]


@pytest.mark.parametrize("changes", BAD_FLIGHTS, ids=lambda changes: str(changes)[:30])
def test_a_flight_that_is_none_is_said_wherever_it_is_opened(visitor, changes):
    text = json.dumps(a_flight(**changes))
    opened = visitor.run(
        visitor.answer_to("open-flight", "upload"),
        [visitor.upload(text.encode("utf-8", "surrogatepass"), "flight.json")],
    )
    plan = {"open": {"text": text}}
    compared = visitor.run(visitor.answer_to("compare-plan", "open"), [plan])
    for messages in (opened, compared):
        assert re.search(r"[.!?]$", words(messages)) or last(messages).get("success") or not messages, messages
        assert "went wrong" not in words(messages), (changes, messages)


def test_a_flight_opens_whose_checkpoint_is_missing(visitor):
    text = json.dumps(a_flight(checkpoint={"id": "gone/step-000000001", "run": "gone", "step": 1}))
    uploaded = visitor.upload(text.encode(), "flight.json")
    messages = visitor.run(visitor.answer_to("open-flight", "upload"), [uploaded])
    assert last(messages)["success"] and "gone/step-000000001" in json.dumps(messages)


def test_a_lanes_words_break_nothing(visitor):
    function = visitor.function("compare")
    names = [visitor._name(number) for number in function["inputs"]]
    lanes = [{"checkpoint": "none", "prompt": "a\nb\x00"}, {"checkpoint": "x\ny"}, {"checkpoint": "<b>"}]
    fields = dict(zip(names, visitor.usual(function), strict=True)) | {"lanes": lanes, "Steps": 1}
    messages = visitor.run("compare", list(fields.values()))
    assert messages and "went wrong" not in json.dumps(messages), last(messages)


def test_an_uploaded_configuration_of_nothing_is_one_sentence(visitor):
    """`action_magnitude_scale: null`, and what else a configuration may lack."""
    weights = next((ROOT / "assets" / "runs" / "live").rglob("action_controller.safetensors")).read_bytes()
    config = json.loads((ROOT / "assets" / "runs" / "live" / "action_train_config.json").read_text())
    for change in ({"action_magnitude_scale": None}, {"action_magnitude_scale": "x"}, {"causal": 5}):
        files = [
            visitor.upload(weights, "action_controller.safetensors"),
            visitor.upload(json.dumps(config | change).encode(), "action_train_config.json"),
        ]
        ended = last(visitor.run("add_upload", [files]))
        answer = (ended.get("output") or {}).get("data", [{}])[0]
        assert ended["success"], ended
        if "upload" in answer:
            fields = {"checkpoint": answer["upload"]["id"]}
            messages = visitor.generate(visitor.usual(visitor.function("generate"))[0], **fields)
            assert last(messages)["success"] or "cannot be" in words(messages), words(messages)
            assert "NoneType" not in words(messages)


def test_plans_of_a_page_are_read_or_refused(visitor):
    plan = visitor.component("plan")
    for text in ("[" * 10_000, "9" * 5_000, "[[[NaN]]]", "\x00", '{"wanact_flight": 1}', "1e999", "[]", "[[[]]]"):
        answer = visitor.tell(plan, "read_plan", {"text": text, "steps": 20})
        assert answer.status_code == 200 and "problem" in answer.json(), text[:20]
    assert ActionTrack.parse(
        visitor.tell(plan, "read_plan", {"text": PRESETS["Forward"](20).to_json()}).json()["value"]
    )
