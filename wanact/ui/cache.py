"""The folder in which Gradio keeps what visitors bring and get: this process's own, and never called by its path.

Whoever visits knows a file there as /cache/..., as it was told; a file that is named otherwise is not there.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from wanact.errors import UserError

ALIAS = "/cache"
NO_FILE = "This file is not here, or not any more; upload it again."
_VARIABLE = "GRADIO_TEMP_DIR"


class NoFileError(UserError):
    """What a visitor names is no file of theirs; the message does not tell whether there is one of that name."""


def make_own() -> None:
    """Have Gradio use a folder that no other user and no other app reads, and that goes with the process.

    A folder that the environment names already is left as it is.
    """
    if not os.environ.get(_VARIABLE):
        folder, owner = tempfile.mkdtemp(prefix="wanact-cache-"), os.getpid()
        os.environ[_VARIABLE] = folder
        atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))


def folder() -> str:
    """Where it is."""
    return os.path.abspath(get_upload_folder())


def holds(path: str) -> bool:
    """Whether a path is that of a regular file in the cache, not through a link."""
    root = folder()
    try:
        inside = Path(path).relative_to(root)
        is_direct = os.path.realpath(path) == os.path.join(os.path.realpath(root), inside)
        return is_direct and stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def find(name: Any) -> Path:
    """The file that a visitor names: a regular one inside of the cache, not through a link.

    Raises:
        NoFileError: if it is anything else; in the same words, whatever lies there.
    """
    if isinstance(name, str) and name.startswith(f"{ALIAS}/"):
        path = os.path.normpath(folder() + name.removeprefix(ALIAS))
        if holds(path):
            return Path(path)
    raise NoFileError(NO_FILE)
