"""The recipes of docs/hosting.md, run as they stand there; of Docker's, which needs an engine, what its file says."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

import app as page
from tests.attack.served import ROOT, Served
from wanact.commands.space import prepare_space
from wanact.ui.modules import VERSION

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
WITHOUT_NGINX = "nginx is not installed (on Debian: apt-get install nginx-light openssl)"
PLAN = [[[1, 0, 0, 0, 0, 0, 0, 0], [0.05, 0, 0, 0, 0, 0, 0, 0]]] * 20


def blocks(kind: str, name: str = "hosting.md") -> list[str]:
    """The fenced blocks of this kind in a document."""
    text = (ROOT / "docs" / name).read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def put(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"docs/hosting.md says {old!r} {text.count(old)} times"
    return text.replace(old, new)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """Address of the app behind the documented nginx, with TLS, on a port of its own."""
    if NGINX is None or shutil.which("openssl") is None:
        if os.environ.get("WANACT_REQUIRE_NGINX"):
            pytest.fail(WITHOUT_NGINX)
        pytest.skip(WITHOUT_NGINX)
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    names = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-subj", "/CN=localhost"]
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run(request, check=True, capture_output=True)
    (command,) = (line for line in blocks("sh") if "--root_path" in line)
    under = shlex.split(command)[-2:]
    assert under == ["--root_path", "/wanact"]
    served = Served(folder / "app", *under)
    (server,) = blocks("nginx")
    server = put(server, "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    server = put(
        server,
        "# ssl_certificate ...; auth_basic ...;",
        f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;",
    )
    server = put(server, "http://127.0.0.1:7860/;", f"{served.url}/;")
    temporary = "".join(
        f"{what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/errors;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{server}}}\n"
    )
    subprocess.run([NGINX, "-t", "-e", f"{folder}/errors", "-c", config], check=True, capture_output=True)
    nginx = subprocess.Popen([NGINX, "-e", f"{folder}/errors", "-c", config])
    try:
        wait_for_port(port)
        yield f"https://127.0.0.1:{port}/wanact/"
    finally:
        nginx.send_signal(signal.SIGTERM)
        nginx.wait(20)
        served.close()


def wait_for_port(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end, f"nothing listens on {port}"
            time.sleep(0.1)


def test_a_clip_behind_the_documented_nginx_has_an_address_that_can_be_fetched(proxied):
    """Upload, queue, stream of progress and download, all under the port and path that a visitor sees."""
    client = Client(proxied, ssl_verify=False, download_files=False, verbose=False)
    state = client.predict(
        first_frame=handle_file(str(ROOT / "assets" / "examples" / "coast.jpg")),
        prompt="a coast",
        plan=PLAN,
        checkpoint="base",
        seed=0,
        negative_prompt="",
        steps=1,
        guidance=1,
        size="160 × 96",
        api_name="/generate",
    )
    assert state["video"]["url"].startswith(f"{proxied}gradio_api/file="), state["video"]["url"]
    with httpx.Client(verify=False, timeout=60) as http:
        video = http.get(state["video"]["url"])
        part = http.get(state["video"]["url"], headers={"range": "bytes=0-99"})
    assert video.status_code == 200 and video.content[4:8] == b"ftyp"
    assert part.status_code == 206 and part.content == video.content[:100], "as Safari asks for a clip"


def test_the_page_behind_the_documented_nginx_is_its_own_and_nobody_elses(proxied):
    with httpx.Client(base_url=proxied, verify=False, timeout=60) as http:
        html = http.get("").text
        assert proxied.rstrip("/") in html
        body = {"data": [], "fn_index": 0, "session_hash": "x"}
        own = proxied.removesuffix("/wanact/")
        answers = {
            origin: http.post("gradio_api/queue/join", json=body, headers={"origin": origin}).status_code
            for origin in (own, "https://wanact.example", own.rpartition(":")[0])
        }
        script = http.get(f"modules/{VERSION}/web/mount.js")
    assert script.status_code == 200 and "export" in script.text
    assert answers.pop(own) != 403 and set(answers.values()) == {403}, answers


# A Space


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The app with the variables that a Space sets, from the folder that is uploaded and nothing beside it."""
    folder = tmp_path_factory.mktemp("space")
    served = Served(folder / "app", root=prepare_space(folder / "space"), environment={"SPACE_ID": "me/fly"})
    yield served
    served.close()


def test_what_is_pushed_as_a_space_serves_the_page(space):
    assert httpx.get(space.url, timeout=60).status_code == 200
    log = space.log()
    assert "may write notes" not in log, "visitors of a Space write nothing"
    assert f"WanAct is at {space.url}" in log and "Traceback" not in log


# Docker


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line and not line.startswith("#")]


def the_only(name: str) -> str:
    (value,) = (value for word, value in instructions() if word == name)
    return value


def environment() -> dict[str, str]:
    pairs = (pair for word, value in instructions() if word == "ENV" for pair in shlex.split(value))
    return dict(pair.split("=", 1) for pair in pairs)


def test_the_image_holds_what_it_starts_and_listens_where_it_says(monkeypatch):
    copied = [name for word, value in instructions() if word == "COPY" for name in value.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert all((ROOT / name).exists() and name not in ignored for name in copied)
    interpreter, script = ast.literal_eval(the_only("ENTRYPOINT"))
    assert interpreter == "python3" and script in copied
    imported = re.findall(r"^(?:from|import) (wanact|train)\b", (ROOT / script).read_text(), re.MULTILINE)
    assert set(imported) <= set(copied)
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"):
        monkeypatch.setenv(name, environment()[name])
    assert page.parse_args([]).host == "0.0.0.0", "or nobody outside the container reaches it"
    assert the_only("EXPOSE") == environment()["GRADIO_SERVER_PORT"] == "7860"


def test_the_commands_of_the_image_parse():
    for word, value in instructions():
        if word == "RUN":
            subprocess.run(["bash", "-n", "-c", value], check=True)


def test_what_the_image_installs_is_whole_and_its_versions_fit_each_other():
    """pip's own line, on this Python, without fetching anything: what the tests run with is what it would install."""
    (install,) = (value for word, value in instructions() if word == "RUN" and "requirements.txt" in value)
    (copied,) = (value.split()[:-1] for word, value in instructions() if word == "COPY" and "requirements.txt" in value)
    assert set(re.findall(r"-[rc] (\S+)", install)) <= set(copied)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "PIP_ARGS": "--dry-run --no-index --quiet"}
    done = subprocess.run(["sh", "-c", install], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_documented_docker_commands_name_what_the_image_takes():
    text = "\n".join(block for block in blocks("sh") if block.startswith("docker")).replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line]
    assert [command[:2] for command in commands] == [["docker", "build"], ["docker", "run"], ["docker", "run"]]
    tag = commands[0][commands[0].index("-t") + 1]
    for command in commands[1:]:
        assert f"7860:{the_only('EXPOSE')}" in command
        arguments = command[command.index(tag) + 1 :]
        args = page.parse_args(arguments)
        mounts = [command[i + 1].split(":")[1] for i, word in enumerate(command) if word == "-v"]
        for name in (args.model_dir, *args.runs, args.text_cache):
            inside = name is None or str(ROOT) in name or any(Path(name).is_relative_to(m) for m in mounts)
            assert inside, f"{name} is on no mount: {mounts}"
        assert the_only("VOLUME") in mounts or not mounts


def test_the_image_is_healthy_when_the_page_answers(space):
    interpreter, *command = ast.literal_eval(the_only("HEALTHCHECK").partition("CMD ")[2])
    assert interpreter == "python3"
    for url, answers in ((space.url, True), (f"http://127.0.0.1:{free_port()}", False)):
        asked = [word.replace("http://127.0.0.1:7860", url) for word in command]
        assert any(url in word for word in asked)
        assert (subprocess.run([sys.executable, *asked], capture_output=True).returncode == 0) == answers
