"""The files of visitors stay within bounds, the oldest leave first, and what the page shows itself stays."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pytest
from gradio.routes import file_upload_statuses
from starlette.middleware import Middleware

from tests.waiting import wait_for
from wanact.ui import cache
from wanact.ui import quota as module
from wanact.ui.doors import Doors
from wanact.ui.edits import Edits
from wanact.ui.quota import MAX_FORM_FILES, MAX_PROGRESS, NO_ROOM, Quota, RoomForUploads


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "get_upload_folder", lambda: str(tmp_path))
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(bytes(1000))
        time.sleep(0.01)  # so that their times differ
    sample, *brought = map(str, files)
    keeper = SimpleNamespace(keep_in_cache={sample})
    return SimpleNamespace(blocks={1: keeper}, temp_file_sets=[{sample, *brought[:2]}, {brought[2], "/gone"}])


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def test_the_oldest_leave_until_the_others_are_within_bounds(page, tmp_path):
    Quota(page, 3000).enforce()
    assert left(tmp_path) == ["0.png", "1.png", "2.png", "3.png"]
    Quota(page, 2500).enforce()
    assert left(tmp_path) == ["0.png", "2.png", "3.png"], "the oldest one is of the page itself"
    Quota(page, 0).enforce()
    assert left(tmp_path) == ["0.png"]


def test_a_full_disk_makes_them_leave_sooner(page, tmp_path, monkeypatch):
    free = module.SPARE_BYTES - 1500
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    Quota(page).enforce()
    assert left(tmp_path) == ["0.png", "3.png"]


def test_an_upload_without_room_is_refused_in_a_sentence(page_url, picture, monkeypatch):
    upload = {"files": (picture.name, picture.read_bytes())}
    assert httpx.post(f"{page_url}gradio_api/upload", files=upload, timeout=60).status_code == 200
    monkeypatch.setattr(module, "has_room", lambda *_: False)
    answer = httpx.post(f"{page_url}gradio_api/upload", files=upload, timeout=60)
    assert answer.status_code == 507 and answer.json() == {"detail": NO_ROOM}


def test_files_have_a_number_too_and_what_is_gone_is_not_looked_for_again(page, tmp_path):
    Quota(page, 3000, max_files=2).enforce()
    assert left(tmp_path) == ["0.png", "2.png", "3.png"]
    assert {os.path.basename(path) for files in page.temp_file_sets for path in files} == {"0.png", "2.png", "3.png"}


def test_folders_leave_once_nothing_lies_in_them(page, tmp_path):
    for name, holds in (("empty", False), ("new", False), ("full", True)):
        (tmp_path / name).mkdir()
        if holds:
            (tmp_path / name / "a.png").write_bytes(b"x")
        if name != "new":
            os.utime(tmp_path / name, (0, 0))
    Quota(page).tidy()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"full", "new"}


# What Gradio makes of a form


HEAD = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n'
FORM = {"content-type": "multipart/form-data; boundary=x"}
END = b"\r\n--x--\r\n"
FIELD = b'\r\n--x\r\nContent-Disposition: form-data; name="files"\r\n\r\n'


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A page of nothing, with the doors of ours, and the folder of what is brought."""
    folder = tmp_path_factory.mktemp("brought")
    with pytest.MonkeyPatch.context() as patch, gr.Blocks() as demo:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        middleware = [Middleware(Doors, edits=Edits()), Middleware(RoomForUploads)]
        options = {"app_kwargs": {"middleware": middleware}, "quiet": True, "ssr_mode": False, "_frontend": False}
        _, url, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, **options)
        with httpx.Client(base_url=f"{url}gradio_api", timeout=60) as http:
            yield http, folder
        demo.close()


# An answer may be there before its request has ended, and files leave with the request.


def strays(folder) -> list[str]:
    """Files under the names that they have while they are received."""
    return [path.name for path in folder.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    "content",
    [
        HEAD % (b"other", b"a") + b"abc" + END,
        HEAD % (b"files", b"..") + b"abc" + END,
        HEAD % (b"files", b"a") + b"abc" + FIELD + b"abc" + END,
        HEAD % (b"files", b"a") + b"abc",
        (HEAD % (b"files", b"a") + b"abc\r\n") * (MAX_FORM_FILES + 1) + b"--x--\r\n",
    ],
    ids=["another name", "no name", "a field", "no end", "many"],
)
def test_of_a_form_that_is_no_upload_nothing_stays(bare, content):
    http, folder = bare
    assert http.post("/upload", content=content, headers=FORM).status_code in (200, 400, 413)
    wait_for(lambda: not strays(folder))


def test_an_upload_that_breaks_off_leaves_nothing(bare):
    http, folder = bare
    address = urlsplit(str(http.base_url))
    with socket.create_connection((address.hostname, address.port)) as line:
        head = f"POST {address.path}upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        line.sendall(f"{head}Content-Type: {FORM['content-type']}\r\n\r\n".encode())
        line.sendall(HEAD % (b"files", b"a") + bytes(10_000))
        wait_for(lambda: strays(folder))
    wait_for(lambda: not strays(folder))


def test_a_field_is_refused_and_not_held(bare):
    """Gradio keeps it in memory, whatever its length: 200 MB took 600."""
    http, _ = bare
    assert "a field" in http.post("/upload", content=FIELD.lstrip() + bytes(100) + END, headers=FORM).text


def test_files_that_are_brought_stay_as_they_are(bare):
    http, folder = bare
    names = http.post("/upload", files=[("files", ("a.png", b"abc")), ("files", ("b.png", b"def"))]).json()
    wait_for(lambda: not strays(folder))
    assert [cache.find(name).read_bytes() for name in names] == [b"abc", b"def"]


def test_the_progress_of_uploads_is_forgotten(bare):
    http, _ = bare
    for _ in range(MAX_PROGRESS + 9):
        asked = {"upload_id": secrets.token_hex(6)}
        assert http.post("/upload", params=asked, files={"files": ("a.png", b"abc")}).status_code == 200
    wait_for(lambda: len(file_upload_statuses._statuses) <= MAX_PROGRESS >= len(file_upload_statuses._signals))
