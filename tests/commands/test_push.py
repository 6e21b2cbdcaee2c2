import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from huggingface_hub import HfApi

from tests.flying.test_pipeline import write_run
from wanact.__main__ import main
from wanact.commands.push import prepare, push
from wanact.files import write_json
from wanact.runs import store
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import list_runs


@pytest.fixture
def run(tmp_path):
    """A run with three checkpoints that fly, the second the best."""
    exported = write_run(tmp_path / "exported")
    path = tmp_path / "orbit"
    path.mkdir()
    for step, loss in ((100, 0.5), (200, 0.3), (300, 0.4)):

        def write(folder):
            for name in (store.CONTROLLER, RUN_CONFIG):
                shutil.copyfile(exported / name, folder / name)

        store.write_checkpoint(path, step, write, {"loss": loss, "timestamp": "2026-01-01T00:00:00"})
    (path / "log.jsonl").write_text("")
    config = json.loads((exported / RUN_CONFIG).read_text())
    write_json(path / RUN_CONFIG, config | {"base_model": "Wan-AI/Wan2.2-TI2V-5B"})
    return path


def card_of(folder) -> tuple[dict, str]:
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_what_is_uploaded_flies_and_has_a_card(run, tmp_path):
    folder = prepare(run, tmp_path / "repo", "me/orbit", steps=[100, 300])
    (listed,) = list_runs(folder)
    assert [info.step for info in listed.checkpoints] == [100, 300]
    assert all(info.problem is None for info in listed.checkpoints)
    assert store.load_flight_weights(listed.path).step == 300
    assert not [entry for entry in folder.rglob("*") if entry.is_symlink()]
    assert [(info.is_best, info.is_latest) for info in listed.checkpoints] == [(False, False), (True, True)]
    front, body = card_of(folder)
    assert front["license"] == "apache-2.0" and front["pipeline_tag"] == "image-to-video"
    assert "--runs hf://me/orbit" in body and "| 100 | 0.5000 |" in body and "| 200 |" not in body
    assert "`injection_type` | `adaln_tmod`" in body


def test_a_folder_of_exported_weights_is_pushed_as_it_is(tmp_path):
    folder = prepare(write_run(tmp_path / "hover"), tmp_path / "repo", "me/hover")
    assert store.load_flight_weights(folder / "hover").controller
    front, body = card_of(folder)
    assert "base_model" not in front and "# hover" in body


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as an upload of small files needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append(self.path)
        answer = {}
        if self.path.endswith("/repos/create"):
            answer = {"url": f"http://{self.headers['host']}/me/orbit"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"http://{self.headers['host']}/me/orbit/commit/0", "commitOid": "0" * 40}
        self._send(answer)

    def do_GET(self):
        self.server.seen.append(self.path)
        self._send({"id": "me/orbit", "sha": "0" * 40, "siblings": []} if "/api/models/" in self.path else {})

    def _send(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.files = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def test_every_file_reaches_the_hub(run, tmp_path, hub):
    folder = prepare(run, tmp_path / "repo", "me/orbit", steps=[300])
    api = HfApi(endpoint=f"http://127.0.0.1:{hub.server_port}", token="hf_none")
    address = push(folder, "me/orbit", api=api)
    assert address.endswith("/me/orbit")
    expected = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert hub.files == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{run}", "me/orbit", "--steps", "7"], "no checkpoint of step"),
        (["{tmp}/nowhere", "me/orbit"], "nowhere"),
    ],
)
def test_what_cannot_be_pushed_is_said_in_one_sentence(run, tmp_path, capsys, arguments, says):
    assert main(["push", *(a.format(run=run, tmp=tmp_path) for a in arguments)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


def test_a_dry_run_writes_and_stops(run, tmp_path, capsys):
    assert main(["push", str(run), "me/orbit", "--dry_run", str(tmp_path / "dry")]) == 0
    assert (tmp_path / "dry" / "README.md").is_file() and "would be uploaded" in capsys.readouterr().out
