"""What one flight is told while it flies: held keys, acknowledgements and wishes, in a small memory-mapped file.

The generator that flies runs in a thread, or on hosts that lend GPUs in a forked process, where what a request handler
writes into a Python object never arrives. A mapped file is seen by both. Whoever knows the flight's id may write; ids
come from `secrets` and are told to one browser only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from wanact.actions import NUM_CHANNELS
from wanact.errors import UserError
from wanact.files import number, otherwise, whole

MAX_HELD = 2.0  # times the full deflection of a key: the largest magnitudes that models have seen
MAX_PROMPT_BYTES = 8_000
MAX_PILOT_BYTES = 300  # of a run's name and a task's


class NoRoomError(UserError):
    """The server cannot take one more flight; the message is one sentence for the visitor."""


_MAX_NUMBER = 2**53  # the browser counts in doubles
_ID = re.compile(r"[A-Za-z0-9_-]{20,64}")
# Contact; held, paused, stopped and whether the truth is wanted, with the number of the message they came in; the frame
# that was acknowledged; a rewind with its number; the length of a prompt with its number, and of a pilot's id with its
# own. Both texts follow.
_HEAD = struct.Struct("<d8f???QQQQQIQI")
_SIZE = _HEAD.size + MAX_PROMPT_BYTES + MAX_PILOT_BYTES


@dataclass(frozen=True)
class Told:
    """What a flight has been told so far.

    Attributes:
        held: share of the full deflection of each channel, [8], 0 to 2.
        truth: whether the simulator's picture is wanted beside the model's.
        state_n: number of the message that `held`, `paused` and `truth` came in; 0 before the first.
        acknowledged: number of the newest frame that the browser has shown; 0 for none.
        rewind: (number of the wish, latent frame to go back to).
        prompt: (number of the wish, what is seen from then on).
        pilot: (number of the wish, who is to fly and what as "id:task"; "" for nobody).
        contact: time of the last message, in seconds of `time.monotonic`, which all processes share.
    """

    held: tuple[float, ...]
    paused: bool
    stopped: bool
    truth: bool
    state_n: int
    acknowledged: int
    rewind: tuple[int, int]
    prompt: tuple[int, str]
    pilot: tuple[int, str]
    contact: float

    @property
    def silence(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.contact


_Number = Annotated[int, whole(0, _MAX_NUMBER - 1)] | None
_Held = Annotated[list[Annotated[float, number()]], Field(min_length=NUM_CHANNELS, max_length=NUM_CHANNELS)] | None


class _Message(BaseModel):
    """A message of the browser; what is malformed counts as not said."""

    n: Annotated[_Number, otherwise(None)] = None
    held: Annotated[_Held, otherwise(None)] = None
    paused: Annotated[bool, otherwise(False)] = False
    stop: Annotated[bool, otherwise(False)] = False
    truth: Annotated[bool | None, otherwise(None)] = None
    ack: Annotated[_Number, otherwise(None)] = None
    rewind: Annotated[_Number, otherwise(None)] = None
    prompt: Annotated[str | None, otherwise(None)] = None
    pilot: Annotated[str | None, otherwise(None)] = None


class Mailbox:
    """The mailbox of one flight. Several may be open on the same file, in any process.

    Args:
        folder: where the mailboxes are, readable for this user only.
        flight: id from `new_flight`.
        create: make it; else it must exist, so that strangers cannot fill the disk.

    Raises:
        KeyError: if there is no such flight.
        NoRoomError: if one cannot be made, because the disk is full or too many files are open.
    """

    def __init__(self, folder: Path, flight: str, create: bool = False):
        if not is_flight_id(flight):
            raise KeyError(flight)
        self.path = folder / flight
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        try:
            self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            if create and not isinstance(error, FileExistsError):
                raise _no_room(error) from error
            raise KeyError(flight) from error
        try:
            if create:  # with its bytes: writing into a hole that the disk has no room for would end the process
                os.posix_fallocate(self._file, 0, _SIZE)
            self._memory = mmap.mmap(self._file, _SIZE)
        except (OSError, ValueError) as error:
            os.close(self._file)
            if create:
                self.path.unlink(missing_ok=True)
                raise _no_room(error) from error
            raise KeyError(flight) from error  # being made, or no mailbox
        if create:
            self._store(
                Told((0.0,) * NUM_CHANNELS, False, False, False, 0, 0, (0, 0), (0, ""), (0, ""), time.monotonic())
            )

    def read(self) -> Told:
        """What the flight has been told."""
        with self._locked():
            return self._load()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Take a message of the browser; whatever in it is malformed is left out, and it counts as contact anyway.

        Args:
            message: `n`, rising from message to message, because two posts can overtake each other, and any of `held`
                [8], `paused`, `truth` (these with `held`), `stop`, `ack`, `rewind` (a latent frame), `prompt` and
                `pilot`. Of each the newest counts.
        """
        said = _Message.model_validate(message, strict=True)
        n = said.n
        with self._locked():
            told = self._load()
            held, paused, truth, state_n = told.held, told.paused, told.truth, told.state_n
            if n is not None and n > state_n and said.held is not None:
                held = tuple(min(max(share, 0.0), MAX_HELD) for share in said.held)
                paused, state_n = said.paused, n
                truth = truth if said.truth is None else said.truth
            rewind, prompt, pilot = told.rewind, told.prompt, told.pilot
            if n is not None and n > rewind[0] and said.rewind is not None:
                rewind = (n, said.rewind)
            if n is not None and n > prompt[0] and said.prompt is not None:
                prompt = (n, said.prompt)
            if n is not None and n > pilot[0] and said.pilot is not None:
                pilot = (n, said.pilot)
            self._store(
                Told(
                    held,
                    paused,
                    told.stopped or said.stop,
                    truth,
                    state_n,
                    max(told.acknowledged, said.ack or 0),
                    rewind,
                    prompt,
                    pilot,
                    time.monotonic(),
                )
            )

    def close(self, remove: bool = False) -> None:
        """Let go of the file; with `remove` nobody can open it any more."""
        self._memory.close()
        os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the file, among threads and processes alike: the lock belongs to this opening of the file."""
        import fcntl  # Windows has none

        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _load(self) -> Told:
        values = _HEAD.unpack(self._memory[: _HEAD.size])
        contact, held, (paused, stopped, truth, state_n, ack) = values[0], values[1:9], values[9:14]
        rewind_n, rewind_to, prompt_n, length, pilot_n, pilot_length = values[14:]
        end = _HEAD.size + length
        words, pilot = self._memory[_HEAD.size : end].decode(), self._memory[end : end + pilot_length].decode()
        wishes = (rewind_n, rewind_to), (prompt_n, words), (pilot_n, pilot)
        return Told(held, paused, stopped, truth, state_n, ack, *wishes, contact)

    def _store(self, told: Told) -> None:
        words, pilot = _cut(told.prompt[1], MAX_PROMPT_BYTES), _cut(told.pilot[1], MAX_PILOT_BYTES)
        head = _HEAD.pack(
            told.contact,
            *told.held,
            told.paused,
            told.stopped,
            told.truth,
            told.state_n,
            told.acknowledged,
            *told.rewind,
            told.prompt[0],
            len(words),
            told.pilot[0],
            len(pilot),
        )
        self._memory[: len(head) + len(words) + len(pilot)] = head + words + pilot


def _cut(text: str, most: int) -> bytes:
    """A text in so many bytes, with no part of a letter."""
    return text.encode(errors="ignore")[:most].decode(errors="ignore").encode()


def _no_room(error: Exception) -> NoRoomError:
    reason = getattr(error, "strerror", None) or error
    return NoRoomError(f"the server has no room for one more flight ({reason}); try again in a few minutes")


def new_flight() -> str:
    """An id that nobody guesses."""
    return secrets.token_urlsafe(18)


def is_flight_id(text: Any) -> bool:
    """Whether it is written as an id is, so that it can be the name of a file."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None
