"""The files of visitors stay within bounds, the oldest leave first, and what the page shows itself stays."""

from __future__ import annotations

import shutil
import time
from types import SimpleNamespace

import httpx
import pytest

from wanact.ui import quota as module
from wanact.ui.quota import NO_ROOM, Quota


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
