"""Footage, tables and settings as people bring them: what is done with each file, beside what should be.

A line is (file, what was done, what should be, whether the two agree). Files are known by the names of the examples
that came with the issue; a folder of one's own may hold others of the same names.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Line = tuple[str, str, str, bool]
FPS = 16.0


def lines(folder: Path) -> Iterator[Line]:
    """One line for each file of the folder that is known here."""
    for name, (should, look) in {**_CLIPS, **_TABLES, **_SETTINGS}.items():
        if (folder / name).exists():
            done, agrees = look(folder / name)
            yield name, done, should, agrees


Look = Callable[[Path], tuple[str, bool]]


# Clips


def _read(path: Path) -> np.ndarray | str:
    """Frames at 16 a second, or the sentence that leaves the clip out."""
    from wanact.media.footage import read_video
    from wanact.media.video import VideoError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_video(path, fps=FPS)
    except VideoError as error:
        return str(error).replace(f"{path.parent}/", "")


def _seconds_kept(path: Path) -> tuple[str, bool]:
    import av

    found = _read(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown, rate = stream.frames, float(stream.average_rate)
    if isinstance(found, str):
        return found, False
    return (
        f"{shown} frames at {rate:g} a second became {len(found)} at {FPS:g}",
        abs(len(found) / FPS - shown / rate) < 1 / FPS,
    )


def _turned(path: Path) -> tuple[str, bool]:
    import av

    found = _read(path)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    if isinstance(found, str):
        return found, False
    upright = np.abs(found[0].astype(float) - np.rot90(stored, -1)).mean() < 4
    way = "a quarter turn clockwise" if upright else "not as a player shows it"
    return f"stored {_size(stored)}, read {_size(found[0])}, {way}", bool(upright)


def _toned(path: Path) -> tuple[str, bool]:
    """The example is an ordinary clip whose light was written as PQ; ordinary it stands beside it."""
    found, ordinary = _read(path), path.parent / "ok_16fps.mp4"
    if isinstance(found, str):
        return f"left out: {found}", True
    said = f"tone-mapped, mean brightness {found.mean():.0f}"
    if not ordinary.exists():
        return said, 40 < found.mean() < 220
    other = _read(ordinary)
    error = np.abs(found.astype(float) - other).mean()
    return f"{said}, {error:.1f} from the ordinary clip beside it", bool(error < 6)


def _flight_track(path: Path) -> tuple[str, bool]:
    found = _read(path)
    if isinstance(found, str):
        return found, False
    return f"{len(found)} frames of {_size(found[0])} read", len(found) > 1


def _named(*words: str) -> Look:
    def look(path: Path) -> tuple[str, bool]:
        found = _read(path)
        done = found if isinstance(found, str) else f"{len(found)} frames read"
        return f"left out: {done}", isinstance(found, str) and all(word in found for word in words)

    return look


def _photograph(path: Path) -> tuple[str, bool]:
    from PIL import Image

    from wanact.media.video import open_image

    found, stored = np.asarray(open_image(path), float), np.asarray(Image.open(path).convert("RGB"), float)
    change = np.abs(found - stored).max()
    return f"colours moved by up to {change:.0f} of 255 into sRGB", bool(change > 5)


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"


_CLIPS: dict[str, tuple[str, Look]] = {
    "ok_16fps.mp4": ("read frame by frame", _seconds_kept),
    "drone_60fps.mp4": ("resampled to 16 a second by its time stamps", _seconds_kept),
    "phone_rotated_90.mov": ("the picture that a player shows", _turned),
    "phone_hdr_pq_10bit.mov": ("tone-mapped, or left out with the reason", _toned),
    "phone_display_p3.jpg": ("converted to sRGB", _photograph),
    "drone_thumbnail_track_first.mp4": ("the track that ffmpeg would take", _flight_track),
    "one_frame_torn.mp4": ("left out, with the second of the damage", _named("damaged at", " s")),
    "size_changes.ts": ("one sentence that says that the size changes", _named("size was", "becomes")),
    "animation.webp": ("read", _flight_track),
}


# Tables


def _rows(path: Path) -> tuple[str, list[Any]]:
    """What is said while a table is read, and its rows or what is wrong with them."""
    from train.data.csv import parse_row, read_records
    from wanact.errors import UserError

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            records = read_records(path, needs_actions=True)
        except UserError as error:
            return "", [str(error).replace(f"{path.parent}/", "")]
        rows: list[Any] = []
        for number, record in enumerate(records, start=1):
            try:
                rows.append(parse_row(record, number, path.parent, 9, needs_action=True))
            except UserError as error:
                rows.append(str(error))
    return "; ".join(str(note.message).replace(f"{path.parent}/", "") for note in said), rows


def _row_by_row(word: str = "", prompts: Callable[[str], bool] = bool) -> Look:
    """All rows are read, each with its clip, its actions and a prompt of this kind, and something is said of it."""

    def look(path: Path) -> tuple[str, bool]:
        said, rows = _rows(path)
        bad = [row for row in rows if isinstance(row, str)]
        good = [row for row in rows if not isinstance(row, str)]
        done = f"{len(good)} rows read" + "".join(f"; {text}" for text in [said, *bad] if text)
        sound = all(row.video.exists() and row.track is not None and prompts(row.prompt) for row in good)
        return done, bool(good) and not bad and sound and word in said

    return look


def _refused(*words: str) -> Look:
    def look(path: Path) -> tuple[str, bool]:
        _, rows = _rows(path)
        done = "; ".join(row if isinstance(row, str) else "read" for row in rows)
        return done, all(word in done for word in words)

    return look


def _same_tokens(path: Path) -> tuple[str, bool]:
    from train.data.csv import read_records
    from wanact.flying.request import clean_prompt
    from wanact.models.text import cleaned

    prompts = [record["prompt"] for record in read_records(path) if isinstance(record, dict)]
    agree = all(cleaned(prompt) == cleaned(clean_prompt(prompt)) for prompt in prompts)
    return f"the encoder is given {cleaned(prompts[0])!r}", agree and all(cleaned(p).isprintable() for p in prompts)


_TABLES: dict[str, tuple[str, Look]] = {
    "caption_instead_of_prompt.csv": (
        "refused or read with a word; never empty prompts in silence",
        _row_by_row("caption is read as prompt"),
    ),
    "excel_semicolon.csv": ("read, or the separator is named", _row_by_row()),
    "tabs.tsv": ("read, or the separator is named", _row_by_row()),
    "windows_1252.csv": ("“save it as UTF-8”, with the place", _refused("save it as UTF-8", "line 2")),
    "typed_quotes_after_space.csv": (
        "read, or the row's fields are counted",
        _row_by_row(prompts=lambda p: '"' not in p),
    ),
    "windows_backslashes.csv": ("read", _row_by_row()),
    "line_separator.jsonl": ("one row", _row_by_row(prompts=lambda p: "first" in p and "second" in p)),
    "half_emoji.jsonl": ("cleaned as the page cleans it", _same_tokens),
}


# Settings


def _parsed(path: Path) -> Any:
    from train.loop.config import parse
    from wanact.errors import UserError

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse("action", ["--config", str(path)])
    except UserError as error:
        return str(error).replace(f"{path.parent}/", "")


def _no(path: Path) -> tuple[str, bool]:
    config = _parsed(path)
    done = config if isinstance(config, str) else f"mixed_precision is {config.optim.mixed_precision!r}"
    return done, not isinstance(config, str) and config.optim.mixed_precision == "no"


def _as_utf8(path: Path) -> tuple[str, bool]:
    config = _parsed(path)
    done = config if isinstance(config, str) else "read"
    return done, isinstance(config, str) and "save it as UTF-8" in config and "line 1" in config


_SETTINGS: dict[str, tuple[str, Look]] = {
    "norway_mixed_precision.yaml": ("no", _no),
    "cp1252_comment.yaml": ("“save it as UTF-8”, with the place", _as_utf8),
}
