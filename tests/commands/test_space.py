"""A Space is pushed to a stand-in of the Hub that refuses what the Hub refuses, and says what it says."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi

from wanact.__main__ import main
from wanact.commands import push, space
from wanact.errors import UserError

NAME = "me/fly"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as a Space needs. What is binary and no LFS file is refused, as there."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self._body()
        hub, path = self.server, self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            self._send({"url": f"http://{self.headers['host']}/spaces/{NAME}"}, 409 if len(hub.created) > 1 else 200)
        elif path.endswith("/variables"):
            said = json.loads(body)
            hub.variables[said["key"]] = said["value"]
            self._send({key: {"key": key, "value": value} for key, value in hub.variables.items()})
        elif path.endswith("/hardware"):
            hub.hardware = json.loads(body)["flavor"]
            self._send({"stage": "BUILDING", "hardware": {"current": None, "requested": hub.hardware}})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if hub.is_lfs(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"http://{self.headers['host']}/blob/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._send({"objects": objects, "transfer": "basic"})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._send({"error": path}, 404)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _commit(self, lines):
        hub = self.server
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                if b"\0" in content:
                    return self._send({"error": f"{value['path']} is binary and neither in LFS nor in Xet"}, 400)
                hub.files[value["path"]] = content
            elif line["key"] == "lfsFile":
                hub.files[value["path"]] = hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del hub.files[value["path"]]
        self._send({"commitUrl": f"http://{self.headers['host']}/{NAME}/commit/0", "commitOid": "0" * 40})

    def do_PUT(self):
        content = self._body()
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self._send({})

    def do_GET(self):
        if "/tree/" in self.path:
            files = self.server.files.items()
            self._send([{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files])
        else:
            siblings = [{"rfilename": path} for path in self.server.files]
            self._send({"id": NAME, "sha": "0" * 40, "siblings": siblings})

    def _send(self, answer, status=200):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class HubServer(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Hub)
        self.created, self.variables, self.hardware, self.blobs = [], {}, None, {}
        self.files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}  # as a new one has

    def is_lfs(self, path: str) -> bool:
        lines = self.files[".gitattributes"].decode().splitlines()
        return any(fnmatch.fnmatch(path, line.split()[0]) for line in lines if "filter=lfs" in line)


@pytest.fixture
def hub(monkeypatch):
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the stand-in has LFS alone
    monkeypatch.setattr(
        push, "HfApi", lambda: HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token="hf_none")
    )
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def checkout(tmp_path, monkeypatch, root):
    """What a checkout has, in small."""
    folder = tmp_path / "checkout"
    for name in (
        "wanact/ui/web",
        "wanact/__pycache__",
        "assets/nano/vae",
        "assets/runs/full/checkpoints/step-000000001",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("app.py", "requirements.txt", "LICENSE", "wanact/ui/web/page.css", "assets/nano/model_index.json"):
        (folder / name).write_text(f"{name}\n")
    (folder / "README.md").write_bytes((root / "README.md").read_bytes())
    for name in ("assets/nano/vae/weights.safetensors", "assets/still.png", "wanact/__pycache__/x.pyc"):
        (folder / name).write_bytes(b"\0\1\2" + name.encode())
    (folder / "assets/runs/full/checkpoints/latest").symlink_to("step-000000001")
    (folder / "assets/runs/full/checkpoints/step-000000001/action_controller.safetensors").write_bytes(b"\0w")
    monkeypatch.setattr(space, "ROOT", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_space_arrives_whole_with_its_binary_files_in_lfs(hub, checkout, tmp_path, capsys):
    arguments = ["--model_dir", "Wan-AI/Wan2.2-TI2V-5B", "--runs", "hf://me/orbit", "--hardware", "zero-a10g"]
    assert main(["push", "--space", NAME, *arguments]) == 0
    assert f"/spaces/{NAME}" in capsys.readouterr().out
    expected = space.prepare_space(tmp_path / "expected", "Wan-AI/Wan2.2-TI2V-5B", "hf://me/orbit")
    assert hub.files == contents(expected)
    assert hub.created[0]["type"] == "space" and hub.created[0]["sdk"] == "gradio"
    assert hub.variables == {"WANACT_MODEL_DIR": "Wan-AI/Wan2.2-TI2V-5B", "WANACT_RUNS": "hf://me/orbit"}
    assert hub.hardware == "zero-a10g"
    assert set(hub.blobs.values()) == {content for content in hub.files.values() if b"\0" in content}
    head = yaml.safe_load(hub.files["README.md"].decode().split("---\n")[1])
    assert head["app_file"] == "app.py" and head["preload_from_hub"] == ["Wan-AI/Wan2.2-TI2V-5B", "me/orbit"]
    assert not [name for name in hub.files if "__pycache__" in name or name.endswith("latest")]


def test_a_space_that_is_pushed_again_loses_what_is_gone(hub, checkout):
    assert main(["push", "--space", NAME]) == 0
    (checkout / "wanact/ui/web/page.css").unlink()
    (checkout / "assets/still.png").write_bytes(b"\0another")
    assert main(["push", "--space", NAME]) == 0
    assert "wanact/ui/web/page.css" not in hub.files and hub.files["assets/still.png"] == b"\0another"
    assert hub.variables == {} and hub.hardware is None, "what was set there stays"


def test_a_push_without_attributes_is_refused_as_the_hub_does(hub, checkout, tmp_path, monkeypatch, capsys):
    """The stand-in is one: what git would push is refused, in one sentence."""
    monkeypatch.setattr(space, "_is_binary", lambda file: False)
    assert main(["push", "--space", NAME]) == 1
    said = capsys.readouterr().err
    assert "neither in LFS nor in Xet" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model_dir", "/models/wan"], "is a model on the Hub"),
        (["--runs", "/runs"], "are on the Hub, as in hf://org/name"),
    ],
)
def test_what_the_hub_cannot_fetch_is_refused(checkout, capsys, arguments, says):
    assert main(["push", "--space", NAME, *arguments]) == 1
    assert says in capsys.readouterr().err


def test_only_a_checkout_makes_a_space(checkout, tmp_path):
    (checkout / "app.py").unlink()
    with pytest.raises(UserError, match=r"has no app\.py: clone the repository"):
        space.prepare_space(tmp_path / "new")


@pytest.mark.parametrize("arguments", [["run", "me/orbit", "--space", NAME], []])
def test_a_run_or_a_space_is_named(arguments):
    with pytest.raises(SystemExit):
        main(["push", *arguments])
