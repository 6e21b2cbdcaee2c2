"""What goes wrong for a person: errors whose message is one sentence, and where a program says it.

Every mistake that somebody can set right (a wrong setting, a damaged file, a size that no model draws) is a
`UserError`. A program says it in one place, its outermost: `wanact/__main__.py`, `train/__main__.py`, `app.py`, and
`sentence` on the pages. Any other exception is a mistake of ours and keeps its traceback.
"""

from __future__ import annotations

import re
import sys

PLATFORM = sys.platform


class UserError(ValueError):
    """Something that the person who asked can set right; the message says in one sentence what, and how."""


class TakenError(UserError, FileExistsError):
    """Something lies already where something new was to be written."""


def unsupported_system() -> str | None:
    """Why nothing runs here, one sentence; None where it does."""
    if PLATFORM != "win32":
        return None
    return "WanAct runs on Linux and macOS; on Windows run it in WSL 2 (wsl --install, then as on Linux)"


def in_words(error: ValueError | OSError) -> str:
    """What a person is told: our own sentence, or what the file system says, and of which file."""
    if isinstance(error, UserError) or not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


# From the root of a disk or somebody's home to the last slash; no part of an address, a relative path or a fraction.
_FOLDERS = re.compile(r"(?<![\w.:/\\~<-])(?:~\w*|[A-Za-z]:)?(?:[/\\][^\s/\\:'\"“”<>|]+)+[/\\](?=[^\s/\\])")
_WHOLE = re.compile(r"(?:~\w*|[A-Za-z]:)?[/\\](?!/).*[/\\](.+?)[/\\]*")


def without_folders(text: str) -> str:
    """A sentence for strangers, who need not know where things lie: of a path on this machine its last name is left."""
    return _FOLDERS.sub("", text)


def last_name(value: str) -> str:
    """The same of a setting, which as a whole may be a path, with blanks in it."""
    whole = _WHOLE.fullmatch(value)
    return whole[1] if whole else without_folders(value)
