"""Room on the disk and in memory: what visitors bring and get has so many bytes and files together, and the oldest
leaves first; of an upload that is none nothing stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gradio import route_utils, routes
from gradio.blocks import Blocks
from gradio.route_utils import GradioMultiPartParser
from gradio.utils import get_upload_folder
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_CACHE_BYTES = 4 * 2**30  # of pictures, clips and weights in Gradio's folder, of all visitors
MAX_CACHE_FILES = 10_000  # of these: however small, each takes two entries of the disk's table
MAX_FORM_FILES = 16  # of one upload
MAX_PROGRESS = 64  # uploads whose progress is remembered for whoever asks
_EMPTY_S = 600.0  # after which a folder that nothing lies in goes
SPARE_BYTES = 128 * 2**20  # stay free on the disk: flights and clips that are being made need some
NO_ROOM = "The server's disk is full, so that nothing can be taken now; try again in a few minutes."


def has_room(folder: str | os.PathLike, num_bytes: int = 0) -> bool:
    """Whether so many bytes can be written below a folder, and enough stays free."""
    return shutil.disk_usage(folder).free >= num_bytes + SPARE_BYTES


# The files that a request has begun, under the names that they have until they are whole.
_begun: ContextVar[list[str] | None] = ContextVar("begun", default=None)


class UploadForm(GradioMultiPartParser):
    """Gradio's reader of uploads, which keeps fields in memory, and files of forms that are none on the disk."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs | {"max_files": MAX_FORM_FILES})

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        if part.file is None:
            raise MultiPartException("Files alone are uploaded; this form has a field beside them.")
        if (begun := _begun.get()) is not None:
            begun.append(part.file.file.name)
        if part.field_name != "files":
            raise MultiPartException("An upload's files are called files.")


route_utils.GradioMultiPartParser = UploadForm  # type: ignore[misc]  # what its `upload_fn` makes


def forget_progress(most: int = MAX_PROGRESS) -> None:
    """Of uploads whose progress can be asked for, the oldest leave; Gradio keeps all that nobody has asked for, and the
    names of those that somebody has."""
    progress = routes.file_upload_statuses
    for kept in (progress._statuses, progress._signals):
        while len(kept) > most:
            kept.pop(next(iter(kept)), None)


class Quota:
    """Keeps the files of a page within bounds.

    Args:
        page: whose files; those that it shows from the start are not touched.
        max_bytes: of all others together; `MAX_CACHE_BYTES` if not given.
        max_files: how many these may be.
    """

    def __init__(self, page: Blocks, max_bytes: int | None = None, max_files: int = MAX_CACHE_FILES):
        self.page = page
        self.max_bytes = MAX_CACHE_BYTES if max_bytes is None else max_bytes
        self.max_files = max_files

    def enforce(self) -> None:
        """Let the oldest files leave until the others are within bounds; sooner where the disk is full."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        folder = get_upload_folder()
        if not os.path.isdir(folder):
            return
        missing = SPARE_BYTES - shutil.disk_usage(folder).free
        surplus = max(total - self.max_bytes, missing)
        for number, (_, size, path) in enumerate(files):
            if surplus <= 0 and len(files) - number <= self.max_files:
                return
            Path(path).unlink(missing_ok=True)
            self._forget(path)
            surplus -= size

    def tidy(self) -> None:
        """Take folders away in which nothing lies any more: Gradio makes one for each file, and leaves it."""
        with contextlib.suppress(FileNotFoundError), os.scandir(get_upload_folder()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # something lies in it, or it is gone
                    if entry.is_dir(follow_symlinks=False) and time.time() - entry.stat().st_mtime > _EMPTY_S:
                        os.rmdir(entry.path)

    def _forget(self, path: str) -> None:
        """A file is gone, and need not be looked for again."""
        for files in list(self.page.temp_file_sets):
            files.discard(path)

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """When each was made, its bytes, and where it lies."""
        kept: set[str] = set()
        for component in list(self.page.blocks.values()):
            kept.update(getattr(component, "keep_in_cache", ()))
        for path in {path for files in list(self.page.temp_file_sets) for path in list(files)} - kept:
            try:
                stat = os.lstat(path)
            except OSError:
                self._forget(path)  # gone already
                continue
            yield stat.st_ctime, stat.st_size, path


class RoomForUploads:
    """Middleware: an upload is taken if there is room for it, and older ones leave for it; what has begun to be written
    and has become no upload leaves with the request."""

    def __init__(self, app: ASGIApp, quota_of: Callable[[Any], Quota] = lambda app: Quota(app.get_blocks())):
        self.app, self._quota_of = app, quota_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            length = dict(scope["headers"]).get(b"content-length", b"0")
            num_bytes = int(length) if length.isdigit() and len(length) < 16 else 0
            if not await run_in_threadpool(self._make_room, scope["app"], num_bytes):
                await JSONResponse({"detail": NO_ROOM}, 507)(scope, receive, send)
                return
            await self._take(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            forget_progress()

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun: list[str] = []
        before = _begun.set(begun)
        try:
            await self.app(scope, receive, send)
        finally:
            _begun.reset(before)
            for path in begun:  # a file that is whole has been given another name
                Path(path).unlink(missing_ok=True)
            forget_progress()

    def _make_room(self, app: Any, num_bytes: int) -> bool:
        os.makedirs(get_upload_folder(), exist_ok=True)
        self._quota_of(app).enforce()
        return has_room(get_upload_folder(), num_bytes)
