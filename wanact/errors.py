"""What goes wrong for a person: errors whose message is one sentence, and where a program says it.

Every mistake that somebody can set right (a wrong setting, a damaged file, a size that no model draws) is a
`UserError`. A program says it in one place, its outermost: `wanact/__main__.py`, `train/__main__.py`, `app.py`, and
`sentence` on the pages. Any other exception is a mistake of ours and keeps its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """Something that the person who asked can set right; the message says in one sentence what, and how."""


class TakenError(UserError, FileExistsError):
    """Something lies already where something new was to be written."""


def in_words(error: UserError | OSError) -> str:
    """What a person is told: our own sentence, or what the file system says, and of which file."""
    if isinstance(error, UserError) or not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
