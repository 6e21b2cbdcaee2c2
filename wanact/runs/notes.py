"""Notes and stars that people give checkpoints, kept with the run in one small JSON file."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

from wanact.errors import UserError
from wanact.files import CheckpointError, parse_json, read_bytes, write_json

NOTES = "notes.json"
FORMAT = 1
MAX_NOTE_CHARACTERS = 2_000
MAX_ENTRIES = 5_000
_MAX_BYTES = 16 * 2**20
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_lock = threading.Lock()


class NoteError(UserError):
    """A note that was not kept; the message is one sentence."""


def read_notes(run: Path) -> dict[str, dict[str, Any]]:
    """{"step-000000552": {"star": True, "note": "..."}} of a run; {} if it has none, or its file is damaged."""
    file = run / NOTES
    if file.is_symlink() or not file.is_file():
        return {}
    try:
        entries = parse_json(file, read_bytes(file, _MAX_BYTES)).get("checkpoints")
    except CheckpointError:
        return {}
    entries = entries if isinstance(entries, dict) else {}
    return {
        str(name): {"star": entry.get("star") is True, "note": str(entry.get("note", ""))[:MAX_NOTE_CHARACTERS]}
        for name, entry in list(entries.items())[:MAX_ENTRIES]
        if isinstance(entry, dict)
    }


def write_note(run: Path, checkpoint: str, star: bool, note: str) -> dict[str, dict[str, Any]]:
    """Keep a checkpoint's star and note; neither removes its entry. The file is whole or as it was before.

    Returns:
        All notes of the run.

    Raises:
        NoteError: if the note is too long, the file is full, or the folder cannot be written.
    """
    if len(note) > MAX_NOTE_CHARACTERS:
        raise NoteError(f"The note has {len(note):,} characters; up to {MAX_NOTE_CHARACTERS:,} are kept.")
    with _lock:
        notes = read_notes(run)
        notes.pop(checkpoint, None)
        if star or note.strip():
            if len(notes) >= MAX_ENTRIES:
                raise NoteError(f"This run has {MAX_ENTRIES:,} notes already; remove one first.")
            notes[checkpoint] = {"star": bool(star), "note": note.strip()}
        try:
            write_json(run / NOTES, {"format": FORMAT, "checkpoints": notes})
        except OSError as error:
            why = "cannot be written" if error.errno in _READ_ONLY else os.strerror(error.errno or errno.EIO).lower()
            raise NoteError(f"The note was not kept with the run: its folder {why}.") from error
    return notes
