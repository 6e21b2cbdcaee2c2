import re
import socket

import gradio as gr
import httpx
import pytest
from PIL import Image

from tests.ui.visits import serving
from wanact.actions import ActionTrack
from wanact.flying.record import FlightRecord
from wanact.ui.page import build_page

MB = 2**20


@pytest.fixture(scope="module")
def http(page_url):
    with httpx.Client(base_url=page_url, timeout=60) as client:
        yield client


def test_the_page_and_its_schema_answer(http):
    assert http.get("/").status_code == 200
    schema = http.get("/gradio_api/info")
    assert schema.status_code == 200
    named = schema.json()["named_endpoints"]
    expected = {
        "/generate": "first_frame prompt plan checkpoint seed negative_prompt steps guidance size crop",
        "/compare": "first_frame prompt plan lanes seed negative_prompt steps guidance crop",
        "/checkpoints": "run show offset limit",
        "/control_card": "checkpoint",
    }
    assert set(named) == set(expected), "nothing else is open to programs"
    assert not schema.json()["unnamed_endpoints"]
    for name, parameters in expected.items():
        assert [p["parameter_name"] for p in named[name]["parameters"]] == parameters.split(), name
        assert all(p["type"] for p in named[name]["parameters"] + named[name]["returns"]), name


def test_a_machine_too_busy_to_look_at_its_own_page_serves_it_all_the_same(monkeypatch):
    """Gradio gives its page three seconds to answer, and would end the app otherwise."""
    monkeypatch.setattr("gradio.networking.url_ok", lambda _url: False)
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.HTML("it stands")
    with serving(demo) as url:
        assert "it stands" in httpx.get(url, timeout=60).text


def test_the_page_loads_nothing_from_elsewhere(http):
    page = http.get("/").text
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?://[^"]+)"', page)
    assert not [address for address in loaded if not address.startswith(str(http.base_url))]


def test_an_upload_of_300_mb_is_refused(http):
    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield from (bytes(MB) for _ in range(300))
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = http.post("/gradio_api/upload", content=body(), headers=headers)
    except (httpx.WriteError, httpx.RemoteProtocolError):
        return  # the server hung up while we were still sending
    assert answer.status_code == 413 and "maximum allowed size" in answer.text


def test_files_outside_the_cache_cannot_be_read(http, root, tiny_model_dir):
    for path in (
        "/etc/passwd",
        root / "app.py",
        tiny_model_dir / "metadata.json",
        root / "wanact" / "ui" / "web" / "pad.js",
    ):
        assert http.get(f"/gradio_api/file={path}").status_code == 403


def test_a_picture_that_was_not_uploaded_cannot_be_flown(http, root, request_fields):
    """A visitor names a file of the server as their first frame."""
    frame = {"path": str(root / "assets" / "examples" / "coffee.jpg"), "meta": {"_type": "gradio.FileData"}}
    fields = [frame, "", request_fields["plan"], "base", 0, "", 2, 3.0, "96 × 64"]
    event = http.post("/gradio_api/call/generate", json={"data": fields}).json()["event_id"]
    answer = http.get(f"/gradio_api/call/generate/{event}").text
    assert "event: error" in answer and "video" not in answer


def test_a_program_can_generate_through_the_same_door(http, picture, request_fields):
    with open(picture, "rb") as file:
        path = http.post("/gradio_api/upload", files={"files": ("hills.jpg", file)}).json()[0]
    frame = {"path": path, "meta": {"_type": "gradio.FileData"}}
    fields = [frame, "a lake", request_fields["plan"], "base", 0, "", 2, 3.0, "64 × 32"]
    event = http.post("/gradio_api/call/generate", json={"data": fields}).json()["event_id"]
    answer = http.get(f"/gradio_api/call/generate/{event}").text
    assert "event: complete" in answer
    address = re.search(r'"url": ?"([^"]+\.mp4)"', answer)[1]
    assert http.get(address).content[4:8] == b"ftyp"
    assert not re.search(r"/wanact-[^/\"]*/", answer), "our own temporary folder stays unknown"


def test_every_component_can_be_left_as_it_is(engine):
    """A handler that skips an output has Gradio make the component anew from its arguments, without its value."""
    events = [event for event in build_page(engine).fns.values() if event.targets]
    for block in {block for event in events for block in event.outputs if not isinstance(block, gr.State)}:
        arguments = {name: value for name, value in block.constructor_args.items() if name != "value"}
        assert type(block)(**arguments | {"render": False})


def test_a_flight_opens_whose_checkpoint_is_not_here(http, engine, request_fields):
    flight = FlightRecord(
        image=Image.new("RGB", (64, 32)),
        prompt="a lake",
        seed=3,
        track=ActionTrack.parse(request_fields["plan"]),
        num_frames=engine.defaults["num_frames"],
        num_inference_steps=2,
        guidance_scale=1.0,
        checkpoint={"id": "gone/<b>step</b>-000000007"},
    )
    path = http.post("/gradio_api/upload", files={"files": ("flight.json", flight.to_json())}).json()[0]
    page = http.get("/config").json()
    button = next(one["id"] for one in page["components"] if one["props"].get("elem_id") == "open-flight")
    event = next(one["id"] for one in page["dependencies"] if [button, "upload"] in one["targets"])
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    http.post("/gradio_api/queue/join", json={"data": data, "fn_index": event, "session_hash": "opens"})
    answer = http.get("/gradio_api/queue/data", params={"session_hash": "opens"}).text
    assert '"success":true' in answer and "a lake" in answer
    assert "gone/&lt;b&gt;step&lt;/b&gt;-000000007”, which is not here" in answer, "as words, not as HTML"


def test_a_taken_port_is_one_sentence(tiny_model_dir, runs_root, capsys):
    import app

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.main(["--model_dir", str(tiny_model_dir), "--runs", str(runs_root), "--port", str(port)]) == 2
    assert_one_sentence(capsys, str(port))


def test_a_missing_model_is_one_sentence(tmp_path, capsys):
    import app

    assert app.main(["--model_dir", str(tmp_path / "none"), "--runs", str(tmp_path)]) == 2
    assert_one_sentence(capsys, "none")


def assert_one_sentence(capsys, names):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("app.py")]
    assert len(lines) == 1 and names in lines[0]


@pytest.fixture(scope="module")
def client(page_url):
    from gradio_client import Client

    return Client(page_url, verbose=False)


def test_a_program_lists_checkpoints(client):
    rows = client.predict("drone", "flyable", 0, 10, api_name="/checkpoints")
    assert [(row["id"], row["step"], row["is_best"]) for row in rows] == [
        ("drone/step-000000200", 200, False),
        ("drone/step-000000400", 400, True),
    ]
    assert [(row["best_by"], row["control"]) for row in rows] == [(None, None), ("loss", None)]
    assert client.predict(api_name="/checkpoints", show="damaged") == []
    assert len(client.predict(api_name="/checkpoints", offset=1, limit=1)) == 1
    for wrong in ({"show": "secret"}, {"run": "../.."}, {"limit": -1}):
        with pytest.raises(Exception, match="expected|no run|whole numbers"):
            client.predict(api_name="/checkpoints", **wrong)


def test_a_program_compares(client, picture, request_fields):
    from gradio_client import handle_file

    lanes = [{"checkpoint": "drone/step-000000400"}, {"checkpoint": "drone/step-000000400", "seed": 9}]
    plan = request_fields["plan"]
    state = client.predict(handle_file(picture), "a lake", plan, lanes, 3, "", 2, 1.0, api_name="/compare")
    assert state["status"] == "done" and [lane["status"] for lane in state["lanes"]] == ["done", "done"]
    assert state["tiled"].endswith(".mp4") and state["lanes"][1]["numbers"]["sharpness at the end"] > 0
    with pytest.raises(Exception, match="1 lanes are chosen"):
        client.predict(handle_file(picture), "", plan, lanes[:1], 3, "", 2, 1.0, api_name="/compare")


def test_a_program_asks_for_a_control_card(client, monkeypatch):
    from wanact.ui.pages.checkpoints import cards

    monkeypatch.setattr(cards, "QUICK_FRAMES", 1)
    card = client.predict("drone/step-000000200", api_name="/control_card")
    assert card["checkpoint"] == {"run": "drone", "step": 200} and "mean" in card["sign_accuracy"]
    assert card["quick"] and card["control_of"] == "8 runs of 21 frames"
    with pytest.raises(Exception, match="not there any more"):
        client.predict("../drone", api_name="/control_card")
