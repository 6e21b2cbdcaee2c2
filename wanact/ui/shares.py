"""Flights that visitors have shared: so many, so large, the oldest leaves first.

A shared flight is a folder of three files: its record, from which it can be flown on; the clip of what was shown, which
a browser plays at once; and a poster, which other sites show beside a link. Whoever knows the id, which nobody guesses,
may watch it and fly on from it. The server writes all three itself, from a flight that it has flown: nothing here was
uploaded.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from wanact.files import write_text
from wanact.flying.record import FlightError, FlightRecord
from wanact.flying.request import RequestError
from wanact.ui.quota import NO_ROOM, has_room
from wanact.ui.samples import load_samples

MAX_FLIGHTS = 500
MAX_BYTES = 2 * 2**30  # of all of them
MAX_FLIGHT_BYTES = 64 * 2**20  # of one: two minutes of a large model have about 20 MB
POSTER = 1200, 630  # the size that sites show beside a link
QUERY = "flight"  # of the page's address
LEFT_S = 3600.0  # after which what a process that was killed had begun is taken away
GONE = "this flight is not shared any more, or never was; take off for one of your own"

_ID = re.compile(r"[A-Za-z0-9_-]{16}")
_RECORD, _CLIP, _POSTER = "flight.json", "clip.mp4", "poster.jpg"
_NEW, _OLD = ".new-", ".old-"  # folders that are being made, and taken away
_FOR_AN_HOUR = {"Cache-Control": "public, max-age=3600"}


def is_shared_id(text: Any) -> bool:
    """Whether it is written as an id is, so that it can be the name of a folder."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Shared:
    """A flight that is shared.

    Attributes:
        id: which one.
        record: what was flown.
        folder: where its files are.
    """

    id: str
    record: FlightRecord
    folder: Path

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.record.num_frames / self.record.fps


class Shares:
    """The flights that are shared, on the disk. Several processes may have the same folder.

    Args:
        folder: where they are kept; None for one that goes with this process, and the links with it.
        max_flights, max_bytes: of all of them; the oldest leave first.
    """

    def __init__(self, folder: Path | None = None, max_flights: int = MAX_FLIGHTS, max_bytes: int = MAX_BYTES):
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="wanact-shared-"))
            owner = os.getpid()
            atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.max_flights, self.max_bytes = folder, max_flights, max_bytes
        self._lock = threading.Lock()

    def put(self, record: FlightRecord, write_clip: Callable[[Path], Any], poster: Image.Image) -> str:
        """Keep a flight; the folder appears whole or not at all.

        Args:
            record: of a live flight.
            write_clip: writes what was shown, as mp4, to a path.
            poster: the picture that stands for it.

        Returns:
            Its id.

        Raises:
            RequestError: if it is too large, or the disk is full.
        """
        name = secrets.token_urlsafe(12)
        with tempfile.TemporaryDirectory(prefix=_NEW, dir=self.folder) as made:
            folder = Path(made) / name
            folder.mkdir()
            if not has_room(self.folder, MAX_FLIGHT_BYTES):
                raise RequestError(NO_ROOM)
            write_text(folder / _RECORD, record.to_json())
            write_clip(folder / _CLIP)
            (folder / _POSTER).write_bytes(poster_jpeg(poster))
            size = _size(folder)
            if size > MAX_FLIGHT_BYTES:
                raise RequestError(
                    f"the flight has {size / 2**20:.0f} MB, at most {MAX_FLIGHT_BYTES >> 20} MB are shared; "
                    "share a shorter one"
                )
            with self._lock:
                os.rename(folder, self.folder / name)
        self.forget_old()
        return name

    def find(self, name: Any) -> Shared:
        """The flight of this id.

        Raises:
            RequestError: if there is none; in the same words, whatever lies there.
        """
        if is_shared_id(name) and (folder := self.folder / name).is_dir() and not folder.is_symlink():
            try:
                return Shared(name, _load(folder / _RECORD), folder)
            except FlightError as error:
                raise RequestError(GONE) from error
        raise RequestError(GONE)

    def file(self, name: Any, what: str) -> Path | None:
        """The clip or the poster of a flight, or None."""
        if not is_shared_id(name) or what not in (_CLIP, _POSTER):
            return None
        path = self.folder / name / what
        return path if path.is_file() and not path.parent.is_symlink() else None

    def forget_old(self) -> None:
        """Let the oldest leave until the others are within bounds; sooner where the disk is nearly full."""
        with self._lock:
            num_bytes = 0
            for place, (_, path, size) in enumerate(sorted(self._kept(), reverse=True)):
                num_bytes += size
                newest = place == 0
                if not newest and (
                    place >= self.max_flights or num_bytes > self.max_bytes or not has_room(self.folder)
                ):
                    gone = self.folder / f"{_OLD}{secrets.token_urlsafe(6)}"
                    with contextlib.suppress(FileNotFoundError):  # another process was sooner
                        os.rename(path, gone)  # so that no half of it can be found
                    shutil.rmtree(gone, ignore_errors=True)

    def _kept(self) -> Iterator[tuple[float, Path, int]]:
        """When each was shared, where it lies, and its bytes; what was begun long ago and never ended is taken away."""
        for path in list(self.folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another process lets flights leave, too
                when = path.lstat().st_mtime
                if path.name.startswith((_NEW, _OLD)) and time.time() - when > LEFT_S:
                    shutil.rmtree(path, ignore_errors=True)
                elif _is_share(path):
                    yield when, path, _size(path)


@functools.lru_cache(maxsize=16)
def _load(path: Path) -> FlightRecord:
    """A record, which never changes; a link that many open is read once."""
    return FlightRecord.load(path)


def _is_share(path: Path) -> bool:
    return is_shared_id(path.name) and not path.is_symlink() and (path / _RECORD).is_file()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def poster_jpeg(picture: Image.Image) -> bytes:
    """A picture in the shape that other sites show, as JPEG."""
    file = io.BytesIO()
    ImageOps.fit(picture.convert("RGB"), POSTER, Image.Resampling.LANCZOS).save(file, "JPEG", quality=85)
    return file.getvalue()


# ---- over HTTP -----------------------------------------------------------------------------------------------


def routes() -> list[Route]:
    """What serves clips and posters, and the picture of the page itself."""
    return [
        Route("/shared/{name}/{what}", _serve, methods=["GET", "HEAD"]),
        Route("/preview.jpg", _serve_preview, methods=["GET", "HEAD"]),
    ]


def _serve(request: Request) -> Response:
    shares: Shares | None = getattr(request.app.get_blocks(), "shares", None)
    what = request.path_params["what"]
    path = shares.file(request.path_params["name"], what) if shares else None
    if path is None:
        return PlainTextResponse("This flight is not shared any more.", status_code=404)
    return FileResponse(path, media_type="video/mp4" if what == _CLIP else "image/jpeg", headers=_FOR_AN_HOUR)


def _serve_preview(_: Request) -> Response:
    picture = _own_picture()
    if picture is None:
        return PlainTextResponse("There is no picture.", status_code=404)
    return Response(picture, media_type="image/jpeg", headers=_FOR_AN_HOUR)


@functools.lru_cache(maxsize=1)
def _own_picture() -> bytes | None:
    """What stands for the page: its first sample frame."""
    samples, _prompts = load_samples()
    if not samples:
        return None
    with Image.open(samples[0].path) as picture:
        return poster_jpeg(picture)
