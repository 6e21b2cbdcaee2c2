"""Room on the disk: what visitors bring and get has so many bytes together, and the oldest leaves first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gradio.blocks import Blocks
from gradio.utils import get_upload_folder
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_CACHE_BYTES = 4 * 2**30  # of pictures, clips and weights in Gradio's folder, of all visitors
SPARE_BYTES = 128 * 2**20  # stay free on the disk: flights and clips that are being made need some
NO_ROOM = "The server's disk is full, so that nothing can be taken now; try again in a few minutes."


def has_room(folder: str | os.PathLike, num_bytes: int = 0) -> bool:
    """Whether so many bytes can be written below a folder, and enough stays free."""
    return shutil.disk_usage(folder).free >= num_bytes + SPARE_BYTES


class Quota:
    """Keeps the files of a page within bounds.

    Args:
        page: whose files; those that it shows from the start are not touched.
        max_bytes: of all others together; `MAX_CACHE_BYTES` if not given.
    """

    def __init__(self, page: Blocks, max_bytes: int | None = None):
        self.page = page
        self.max_bytes = MAX_CACHE_BYTES if max_bytes is None else max_bytes

    def enforce(self) -> None:
        """Let the oldest files leave until the others are within bounds; sooner where the disk is full."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        folder = get_upload_folder()
        if not os.path.isdir(folder):
            return
        missing = SPARE_BYTES - shutil.disk_usage(folder).free
        surplus = max(total - self.max_bytes, missing)
        for _, size, path in files:
            if surplus <= 0:
                return
            Path(path).unlink(missing_ok=True)
            surplus -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """When each was made, its bytes, and where it lies."""
        kept: set[str] = set()
        for component in list(self.page.blocks.values()):
            kept.update(getattr(component, "keep_in_cache", ()))
        for path in {path for files in list(self.page.temp_file_sets) for path in list(files)} - kept:
            try:
                stat = os.lstat(path)
            except OSError:
                continue  # gone already
            yield stat.st_ctime, stat.st_size, path


class RoomForUploads:
    """Middleware: an upload is taken if there is room for it, and older ones leave for it."""

    def __init__(self, app: ASGIApp, quota_of: Callable[[Any], Quota] = lambda app: Quota(app.get_blocks())):
        self.app, self._quota_of = app, quota_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            length = dict(scope["headers"]).get(b"content-length", b"0")
            num_bytes = int(length) if length.isdigit() and len(length) < 16 else 0
            if not await run_in_threadpool(self._make_room, scope["app"], num_bytes):
                await JSONResponse({"detail": NO_ROOM}, 507)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _make_room(self, app: Any, num_bytes: int) -> bool:
        os.makedirs(get_upload_folder(), exist_ok=True)
        self._quota_of(app).enforce()
        return has_room(get_upload_folder(), num_bytes)
