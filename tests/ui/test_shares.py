"""Flights that are shared: what is kept, for how long, and what is told to whom."""

import base64
import io
import json
import os
import re

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.ui.visits import serving
from wanact.actions import ActionTrack
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError
from wanact.ui import shares as shares_module
from wanact.ui.engine import Engine
from wanact.ui.film import with_keys, write_film
from wanact.ui.page import build_page
from wanact.ui.previews import Preview
from wanact.ui.shares import MAX_FLIGHT_BYTES, POSTER, Shared, Shares


def a_record(prompt: str = "a lake", image: Image.Image | None = None) -> FlightRecord:
    track = ActionTrack(np.zeros((2, 8), np.float32))
    image = image or Image.new("RGB", (96, 64), (10, 120, 30))
    return FlightRecord(image, prompt, 3, track, 9, 4, 1.0, kind="live", held=())


def put(shares: Shares, size: int = 1000, **fields) -> str:
    return shares.put(a_record(**fields), lambda path: path.write_bytes(bytes(size)), Image.new("RGB", (96, 64)))


def age(shares: Shares, name: str, seconds: float) -> None:
    stat = (shares.folder / name).stat()
    os.utime(shares.folder / name, (stat.st_atime - seconds, stat.st_mtime - seconds))


def test_a_shared_flight_is_found_again_also_by_another_process(tmp_path):
    name = put(Shares(tmp_path))
    found = Shares(tmp_path).find(name)
    assert found.record.to_json() == a_record().to_json() and found.seconds == 9 / 16
    clip, poster = Shares(tmp_path).file(name, "clip.mp4"), Shares(tmp_path).file(name, "poster.jpg")
    assert clip is not None and poster is not None and Image.open(poster).size == POSTER
    assert Shares(tmp_path).file(name, "flight.json") is None, "the record is read here alone"


@pytest.mark.parametrize("name", [None, 3, "", "x", "../../../etc/pas", "a" * 16, "a/../b/../c/../d", "." * 16, {}, []])
def test_what_is_not_shared_is_not_there(tmp_path, name):
    shares = Shares(tmp_path)
    with pytest.raises(RequestError, match="not shared any more"):
        shares.find(name)
    assert shares.file(name, "clip.mp4") is None and shares.file(name, "../flight.json") is None


def test_a_link_in_the_folder_leads_nowhere(tmp_path):
    shares, other = Shares(tmp_path / "shared"), Shares(tmp_path / "other")
    name = put(other)
    (shares.folder / name).symlink_to(other.folder / name)
    with pytest.raises(RequestError):
        shares.find(name)
    assert shares.file(name, "clip.mp4") is None


def test_the_oldest_leaves_first_and_what_is_not_ours_stays(tmp_path):
    (tmp_path / "notes").mkdir()
    shares = Shares(tmp_path, max_flights=2)
    first, second = put(shares), put(shares)
    age(shares, first, 20)
    age(shares, second, 10)
    third = put(shares)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", second, third}
    large = Shares(tmp_path, max_bytes=60_000)
    age(shares, third, 5)
    fourth = put(large, size=50_000)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", fourth}


def test_what_a_process_that_was_killed_had_begun_is_taken_away(tmp_path):
    shares = Shares(tmp_path)
    for name in (".new-killed", ".old-killed", ".new-now", "notes"):
        (tmp_path / name / "a").mkdir(parents=True)
        if not name.endswith("now"):
            age(shares, name, 7200)
    shares.forget_old()
    assert {path.name for path in tmp_path.iterdir()} == {".new-now", "notes"}


def test_what_is_too_large_or_has_no_room_leaves_nothing(tmp_path, monkeypatch):
    shares = Shares(tmp_path)
    with pytest.raises(RequestError, match="share a shorter one"):
        put(shares, size=MAX_FLIGHT_BYTES + 1)
    monkeypatch.setattr(shares_module, "has_room", lambda *_: False)
    with pytest.raises(RequestError, match="disk is full"):
        put(shares)
    assert not list(tmp_path.iterdir())


def test_a_record_carries_pixels_and_nothing_that_the_file_said_beside_them():
    image = Image.new("RGB", (96, 64))
    image.info |= {"icc_profile": b"secret" * 9, "Author": "somebody", "exif": b"Exif\0\0secret", "dpi": (72, 72)}
    png = base64.b64decode(json.loads(a_record(image=image).to_json())["image"]["png"])
    assert not Image.open(io.BytesIO(png)).info and b"secret" not in png


def test_words_of_a_flight_stay_words_in_the_head_of_the_page(tmp_path):
    record = a_record(prompt='"><script>alert(1)</script> ' + "hills " * 60)
    preview = Preview.of(Shared("a" * 16, record, tmp_path))
    page = preview.put_into(
        b'<html><head><meta property="og:image" content="x" /><title>T</title></head></html>', "http://h"
    )
    assert b"<script>" not in page and b"<title>T</title>" in page and page.count(b'property="og:image"') == 1
    assert len(preview.title) < 130


def test_a_film_has_the_held_keys_drawn_in(tmp_path):
    frames = [np.full((64, 96, 3), 90, np.uint8)] * 6
    none, forward = np.zeros(8, bool), np.eye(8, dtype=bool)[0]
    plain, held = with_keys(frames[0], none).astype(int), with_keys(frames[0], forward).astype(int)
    changed = np.argwhere(np.abs(plain - held).sum(axis=-1) > 0)
    assert len(changed) and changed[:, 1].max() < 48 and changed[:, 0].min() > 32, "one key, below and to the left"
    for form in ("gif", "webp"):
        write_film(frames, np.array([none, forward] * 3), tmp_path / f"film.{form}", 8)
        with Image.open(tmp_path / f"film.{form}") as film:
            assert getattr(film, "n_frames", 1) > 1 and film.width == 480, "enlarged, so that keys can be read"


# Over HTTP


@pytest.fixture(scope="module")
def served(pipe, runs_root, tmp_path_factory):
    shares = Shares(tmp_path_factory.mktemp("shared"))
    with (
        serving(build_page(Engine(pipe, runs_root, shares=shares))) as url,
        httpx.Client(base_url=url.rstrip("/"), timeout=60) as http,
    ):
        yield shares, http


def said(http, path: str, **options) -> dict[str, str]:
    """What the head of the page says to other sites."""
    text = http.get(path, **options).text
    return dict(re.findall(r'<meta (?:property|name)="((?:og|twitter):[^"]*|description)" content="([^"]*)"', text))


def test_a_link_to_the_page_shows_our_words_and_a_picture(served):
    _, http = served
    tags = said(http, "/")
    assert tags["og:title"].startswith("WanAct") and "Gradio" not in " ".join(tags.values())
    assert tags["og:url"] == f"{http.base_url}".rstrip("/") + "/" and tags["og:image"].startswith(tags["og:url"])
    picture = http.get(tags["og:image"])
    assert picture.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(picture.content)).size == POSTER
    proxied = said(http, "/", headers={"x-forwarded-host": "fly.example", "x-forwarded-proto": "https"})
    assert proxied["og:image"] == "https://fly.example/preview.jpg"


def test_a_link_to_a_flight_shows_its_poster_and_its_words(served):
    shares, http = served
    name = put(shares, prompt="a <b>lake</b> at dusk")
    tags = said(http, f"/?flight={name}")
    assert "&lt;b&gt;lake" in tags["og:title"] and tags["og:url"].endswith(f"/?flight={name}")
    assert http.get(tags["og:image"]).content == (shares.folder / name / "poster.jpg").read_bytes()
    clip = http.get(f"/shared/{name}/clip.mp4", headers={"range": "bytes=0-9"})
    assert clip.status_code == 206 and clip.headers["content-type"] == "video/mp4" and "sandbox" in str(clip.headers)
    for path in ("flight.json", "..%2fflight.json", "clip.mp4/..", "poster.jpg%00"):
        assert http.get(f"/shared/{name}/{path}").status_code == 404, path
    for other in ("x", "a" * 16, "..", "%2e%2e"):
        assert http.get(f"/shared/{other}/clip.mp4").status_code == 404
        assert said(http, f"/?flight={other}")["og:title"].startswith("WanAct")
    assert http.post(f"/shared/{name}/clip.mp4", json={}).status_code == 404
