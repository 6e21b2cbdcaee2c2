"""Tables of clips: rows of a CSV, JSON or JSONL file as they stand there, and the files that they name."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wanact.errors import UserError

FPS = 16.0  # frames a second of a clip, unless a run says otherwise


class DataError(UserError):
    """A dataset that cannot be used at all; the message says why."""


class RowError(UserError):
    """A row that cannot be used; the message says why."""


def read_records(path: Path, needs_actions: bool = False) -> list[dict[str, Any] | RowError]:
    """The raw rows of a CSV, JSON or JSONL file; a line that cannot be parsed is a RowError in its place.

    Separators are commas, semicolons, tabs or bars, whichever the header has. `caption` and `text` are read as `prompt`
    where there is none, with a warning, and so are columns named that are not read.

    Args:
        needs_actions: whether a file without a column `action` cannot be used.

    Raises:
        DataError: if the file cannot be read at all, or lacks a column.
    """
    try:
        text = _text(path, path.read_bytes())
        records = list(_READERS.get(path.suffix.lower(), _read_csv)(path, text))
    except OSError as error:
        raise DataError(f"--dataset_metadata_path {path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"--dataset_metadata_path {path} is damaged: not valid JSON ({error})") from error
    if not records:
        raise DataError(f"{path} has no rows")
    return _with_known_columns(path, records, needs_actions)


# What a file begins with that is no table, and what to do about it.
_NO_TABLES = {
    b"PK\x03\x04": "is an Excel or OpenDocument workbook; save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save it as CSV (UTF-8)",
    b"PAR1": "is a Parquet file; write it as CSV or JSONL",
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer; fetch the file with git lfs pull",
}


def _text(path: Path, data: bytes) -> str:
    """Content of a table, which is UTF-8; a byte order mark says otherwise."""
    for beginning, words in _NO_TABLES.items():
        if data.startswith(beginning):
            raise DataError(f"{path} {words}")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: line {line} has the byte 0x{data[error.start]:02x}; save it as UTF-8 "
            "(in Excel: CSV UTF-8)"
        ) from error


def _read_csv(path: Path, text: str) -> Iterator[dict[str, Any] | RowError]:
    csv.field_size_limit(sys.maxsize)  # a track of 20 actions has 2,000 characters, a long one more than the default
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"sep=.\s*", first):  # Excel's own way to name the separator
        text = rest
    options = {"delimiter": _separator(text), "skipinitialspace": True, "strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), **options)
    header, number = None, 0
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [name.strip() for name in fields]
                continue
            number += 1
            if len(fields) == len(header):
                yield dict(zip(header, fields, strict=True))
            else:
                yield RowError(
                    f"row {number} has {len(fields)} fields, the header {len(header)}; "
                    f"put text that holds a {_SEPARATORS[options['delimiter']]} into quotes"
                )
    except csv.Error as error:
        raise DataError(
            f"{path}: the quotes of row {number + 1} (line {reader.line_num}) do not match: {error}"
        ) from error


_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def _separator(text: str) -> str:
    """What stands between the names of the header: what parts it into most of the names that are known."""
    header = text.lstrip().partition("\n")[0]

    def score(separator: str) -> tuple[int, int]:
        names = [name.strip().strip('"').strip().lower() for name in header.split(separator)]
        return len(KNOWN.intersection(names)), len(names)

    return max(_SEPARATORS, key=score)


def _read_json(path: Path, text: str) -> Iterator[dict[str, Any] | RowError]:
    content = json.loads(text)
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of rows, not {type(content).__name__}")
    for record in content:
        yield record if isinstance(record, dict) else RowError("is not an object with names and values")


def _read_jsonl(path: Path, text: str) -> Iterator[dict[str, Any] | RowError]:
    for line in text.split("\n"):  # not splitlines, which also parts at U+2028 and its like inside a text
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield RowError(f"is not valid JSON: {error}")
            continue
        yield record if isinstance(record, dict) else RowError("is not an object with names and values")


_READERS = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}

KNOWN = {"video", "prompt", "action", "input_image", "start", "end", "caption", "text", "estimated"}
PROMPTS = ("caption", "text")  # what others call the prompt
VIDEOS = ("video_name", "video_path", "file_name", "file", "path", "clip")


def _with_known_columns(
    path: Path, records: list[dict[str, Any] | RowError], needs_actions: bool
) -> list[dict[str, Any] | RowError]:
    """Rows with the names that are read: no blanks around them, small letters, the prompt by its name."""
    records = [
        {_known_name(name): value for name, value in record.items()} if isinstance(record, dict) else record
        for record in records
    ]
    columns = list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))
    if not columns:
        raise records[0] if isinstance(records[0], RowError) else DataError(f"{path} has no columns")
    for needed in ("video", *["action"] * needs_actions):
        if needed not in columns:
            other = next((n for n in columns if needed == "video" and n in VIDEOS), None)
            other = other or next(iter(difflib.get_close_matches(needed, columns, 1)), None)
            hint = f"; rename {other} to {needed}" if other else ""
            raise DataError(f"{path} has no column {needed}, only {', '.join(columns)}{hint}")
    if "prompt" not in columns:
        close = difflib.get_close_matches("prompt", columns, 1)
        other = next((name for name in PROMPTS if name in columns), None)
        if other is None and close:
            raise DataError(f"{path} has no column prompt, but {close[0]}; rename {close[0]} to prompt")
        if other is not None:
            warnings.warn(f"{path} has no column prompt; {other} is read as prompt", stacklevel=4)
            columns.remove(other)
            records = [
                {("prompt" if name == other else name): value for name, value in record.items()}
                if isinstance(record, dict)
                else record
                for record in records
            ]
    if "estimated" in columns:
        guessed = sum(isinstance(record, dict) and bool(record.get("estimated")) for record in records)
        warnings.warn(f"{path}: the actions of {guessed} rows are estimated from their pictures", stacklevel=4)
    unread = [name for name in columns if name not in KNOWN - set(PROMPTS)]
    if unread:
        warnings.warn(f"{path}: not read: column {', '.join(unread)}", stacklevel=4)
    return records


def seconds_of(record: dict[str, Any], name: str) -> float | None:
    """What a column of a row says, in seconds from the beginning of the video; None if it says nothing.

    Raises:
        RowError: if that is no such time.
    """
    value = record.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise RowError(f"{name} is {value!r}, expected seconds from the beginning of the video")
    return seconds


def with_known_names(record: dict[str, Any]) -> dict[str, Any]:
    """A single record with the names that are read, as `read_records` gives those of a table."""
    known = {_known_name(name): value for name, value in record.items()}
    other = next((name for name in PROMPTS if known.get(name)), None)
    return known | ({"prompt": known[other]} if other and not known.get("prompt") else {})


def _known_name(name: Any) -> str:
    stripped = str(name).strip()
    return stripped.lower() if stripped.lower() in KNOWN else stripped


def find_file(base: Path, name: str) -> Path:
    """A file that a table names, in whatever way: with `~`, variables, Windows' backslashes, another form of Unicode.

    What is not found is given as it is written.
    """
    name = name.strip()
    plain = os.path.expandvars(os.path.expanduser(name))
    for spelled in (name, plain, plain.replace("\\", "/")):
        if (base / spelled).exists():
            return base / spelled
    spelled = Path(plain.replace("\\", "/"))
    found = Path(spelled.anchor) if spelled.is_absolute() else base
    for part in spelled.relative_to(spelled.anchor).parts:
        same = (entry for entry in _entries(found) if _composed(entry) == _composed(part))
        found = found / next(same, part)  # macOS writes é as two characters, others as one
    return found if found.exists() else base / name


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
