"""A visitor's live flight: a stream with the pictures it has shown, kept for a while after it has landed."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from wanact.actions import FULL_DEFLECTION, NUM_CHANNELS, OPPOSITE
from wanact.files import write_text
from wanact.flying.placement import release_memory
from wanact.flying.record import FlightRecord, stretches
from wanact.flying.stream import WanActStream
from wanact.media.likeness import Sight
from wanact.media.video import decode_jpeg, encode_jpeg, write_mp4
from wanact.runs.ref import CheckpointRef
from wanact.shapes import TEMPORAL_STRIDE
from wanact.ui.film import FILM_S, write_film
from wanact.ui.mailbox import is_flight_id

logger = logging.getLogger(__name__)

MAX_LANDED_BYTES = 2 * 2**30  # of pictures and latents of all landed flights; the oldest are forgotten
MAX_PICTURE_BYTES = 96 * 2**20  # of a flight: about 15 minutes of nano, 3 of 832x480; the oldest are forgotten
LOST_S = 3  # a flight counts as lost when its pictures have been dissolved for so many seconds
LEVEL_DEG = 12.0  # who looks further up or down than this sees no horizon anyway


def action_of(held: tuple[float, ...]) -> np.ndarray:
    """Magnitudes of an action [8] from what is held, a share of each channel's full deflection; opposites cancel."""
    share = np.asarray(held, np.float64)
    return np.clip(share - share[list(OPPOSITE)], 0, None) * np.asarray(FULL_DEFLECTION)


def _size(pictures: list[bytes]) -> int:
    """Bytes that pictures take; one that is shown again is kept once."""
    return sum(
        len(picture) for before, picture in zip([None, *pictures], pictures, strict=False) if picture is not before
    )


@dataclass(frozen=True)
class Attitude:
    """Where the drone looks after a latent frame, against the first frame, in degrees; yaw to the right, pitch up."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0

    def after(self, action: np.ndarray) -> Attitude:
        """The same one action later."""
        return Attitude(self.yaw_deg + float(action[5] - action[4]), self.pitch_deg + float(action[6] - action[7]))


class LiveFlight:
    """What has been flown: the stream, and the pictures as they were sent.

    Args:
        stream: at its beginning, forked, or flown again from a record, of which there are no pictures.
        choice: the checkpoint, as the page names it.
        before: the flight that this one was forked from.
        pictures: of a flight that was flown again, all of them after the first, as JPEG.
        pilots: of such a flight, who flew, by latent frame, where a pilot did.
    """

    def __init__(
        self,
        stream: WanActStream,
        choice: CheckpointRef,
        before: LiveFlight | None = None,
        pictures: Sequence[bytes] = (),
        pilots: Mapping[int, tuple[str, str]] = MappingProxyType({}),
    ):
        self.stream = stream
        self.choice = choice
        self.landed_at: float | None = None
        flown = TEMPORAL_STRIDE * stream.num_frames
        # Kept as they were sent: raw frames of a minute take a hundred times as much.
        self.first = before.first if before else encode_jpeg(np.asarray(stream.image))
        self.num_forgotten = min(before.num_forgotten, flown) if before else flown - len(pictures)
        self.pictures = list(before.pictures[: flown - self.num_forgotten] if before else pictures)
        self.attitudes = [Attitude()]
        for action in stream.track.magnitude:
            self.attitudes.append(self.attitudes[-1].after(action))
        self.pilots = dict(before.pilots if before else pilots)  # who flew, by latent frame, where a pilot did
        self._num_bytes = _size(self.pictures)
        self._first_sight = before._first_sight if before else Sight.of(np.asarray(stream.image))
        self._second = max(1, round(stream.pipe.defaults["fps"] / TEMPORAL_STRIDE))  # in latent frames
        self._dissolved_s = 0  # seconds for which the pictures have been dissolved
        self._encoded: tuple[np.ndarray, bytes] | None = None  # the newest frame and its picture
        self._threads = max(1, torch.get_num_threads() // 2)
        self._pieces: Iterator[np.ndarray] | None = None  # of what has been drawn and not been shown
        self._coming: deque[Future[list[bytes]]] = deque()
        self._background: ThreadPoolExecutor | None = None
        self._drawn_anew = 0  # the latent frame that was taken back last

    def draw(self, action: np.ndarray, newer: Callable[[], np.ndarray | None] = lambda: None) -> None:
        """Fly on by one latent frame; `show` has its pictures made.

        Drawn anew if `newer` returns another action meanwhile. Pictures of the latent frame before may still be made.
        """
        with self._half_the_threads():
            self._pieces = self.stream.draw(action, newer)
        self.attitudes.append(self.attitudes[-1].after(self.stream.newest_action))

    def show(self) -> None:
        """Have the pictures of what was drawn made in the background: one, then three."""
        if self._background is None:
            self._background = ThreadPoolExecutor(1, "pictures")
        pieces, self._pieces = self._pieces, None
        assert pieces is not None, "`draw` comes before `show`"
        self._coming += [self._background.submit(self._make, pieces) for _ in range(2)]

    def note_pilot(self, pilot_id: str, task: str) -> None:
        """The newest latent frame was flown by a pilot."""
        self.pilots[self.stream.num_frames] = (pilot_id, task)

    def take_back(self) -> bool:
        """Roll the newest latent frame back, if none of its pictures has been taken; once, so that the flight goes on.

        Returns:
            Whether it was taken back.
        """
        newest = self.stream.num_frames
        if len(self._coming) < 2 or newest == self._drawn_anew or not self.stream.roll_back():
            return False
        for piece in self._coming:
            piece.cancel()
        self._coming.clear()
        self.attitudes.pop()
        self.pilots.pop(newest, None)
        self._drawn_anew = newest
        return True

    def ready(self, wait: bool = False) -> Iterator[list[bytes]]:
        """What has been made since, piece by piece, as JPEG; with `wait`, everything that was shown."""
        while self._coming and (wait or self._coming[0].done()):
            yield self._keep(self._coming.popleft().result())

    @property
    def is_shown(self) -> bool:
        """Whether all pictures have been made and taken."""
        return not self._coming

    @property
    def is_committed(self) -> bool:
        """Whether `commit` has nothing to do."""
        return self.stream.is_committed

    def commit(self) -> None:
        """Do what the next latent frame begins with, while nothing else is to be done."""
        with self._half_the_threads():
            self.stream.commit()

    def _make(self, pieces: Iterator[np.ndarray]) -> list[bytes]:
        with self._half_the_threads():
            frames = next(pieces)
            if len(frames) > 1 and len(self.attitudes) % self._second == 0:
                self._look(frames[-1])
            return [self._encode(frame) for frame in frames]

    def _look(self, frame: np.ndarray) -> None:
        """Once a second: is there still something to see?"""
        is_level = abs(self.attitudes[-1].pitch_deg) <= LEVEL_DEG
        dissolved = is_level and Sight.of(frame).has_dissolved(self._first_sight)
        self._dissolved_s = self._dissolved_s + 1 if dissolved else 0

    @property
    def is_lost(self) -> bool:
        """Whether the pictures have had neither horizon nor detail for some seconds."""
        return self._dissolved_s >= LOST_S

    def _encode(self, frame: np.ndarray) -> bytes:
        """A frame's picture; of a view that is held there is one, however long."""
        if self._encoded is None or not np.array_equal(self._encoded[0], frame):
            self._encoded = frame, encode_jpeg(frame)
        return self._encoded[1]

    def _keep(self, pictures: list[bytes]) -> list[bytes]:
        self._num_bytes += _size([*self.pictures[-1:], *pictures]) - _size(self.pictures[-1:])
        self.pictures += pictures
        while self._num_bytes > MAX_PICTURE_BYTES and len(self.pictures) > TEMPORAL_STRIDE:
            self._num_bytes -= _size(self.pictures[: TEMPORAL_STRIDE + 1]) - _size([self.pictures[TEMPORAL_STRIDE]])
            del self.pictures[:TEMPORAL_STRIDE]
            self.num_forgotten += TEMPORAL_STRIDE
        return pictures

    def _complete(self) -> None:
        """Make the pictures of everything that was drawn, though nobody waits for them."""
        if self._pieces is not None:
            self.show()
        for _ in self.ready(wait=True):
            pass

    @contextlib.contextmanager
    def _half_the_threads(self) -> Iterator[None]:
        """On a CPU more threads hardly draw faster, and take the core that a browser on this machine needs."""
        before = torch.get_num_threads()
        if self.stream.pipe.device.type == "cpu":
            torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @property
    def earliest(self) -> int:
        """The first latent frame that can be gone back to."""
        return self.stream.earliest

    def roll_back(self, latent_frame: int) -> None:
        """Take back everything after a latent frame, as far as that is kept; later ones change nothing."""
        self._complete()
        target = min(max(latent_frame, self.earliest), self.stream.num_frames)
        self.stream.roll_back(target)
        self._dissolved_s = 0
        del self.pictures[max(0, TEMPORAL_STRIDE * target - self.num_forgotten) :]
        del self.attitudes[target + 1 :]
        self.pilots = {number: who for number, who in self.pilots.items() if number <= target}
        self._num_bytes = _size(self.pictures)

    def fork(self, latent_frame: int | None = None) -> LiveFlight:
        """A flight of its own that begins with this one's past, up to a latent frame."""
        other = LiveFlight(self.stream.fork(), self.choice, self)
        if latent_frame is not None and latent_frame < other.stream.num_frames:
            other.roll_back(latent_frame)
        return other

    def land(self) -> None:
        """End the flight; it can be saved and forked until the hangar forgets it."""
        if self.landed_at is None:
            try:
                self._complete()
            except Exception:  # whatever an encoder or a device raises: the flight ends
                logger.exception("the last pictures of a flight could not be made")
            self._pieces = self._encoded = None
            self._coming.clear()
            if self._background is not None:
                self._background.shutdown(cancel_futures=True)
            self.landed_at = time.monotonic()
            self.stream.land()
            release_memory(self.stream.pipe.device)

    @property
    def num_bytes(self) -> int:
        """Memory of pictures and latents."""
        return self._num_bytes + self.stream.num_bytes

    def record(self) -> FlightRecord:
        """The flight as a record that flies it again."""
        record = FlightRecord.from_stream(self.stream, self.choice.to_json())
        return replace(record, piloted=stretches(self.pilots))

    def shown(self, first: int = 0, last: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames as they were shown, uint8 [H, W, 3], each with what is held in it, bool [8].

        Args:
            first, last: numbers of frames; what is not kept is left out. Frame 0 is the first picture.
        """
        held = self.stream.track.magnitude > 0
        num_frames = 1 + self.num_forgotten + len(self.pictures)
        for number in range(first, num_frames if last is None else min(num_frames, last)):
            if number == 0 and not self.num_forgotten:
                yield decode_jpeg(self.first), np.zeros(NUM_CHANNELS, bool)
            elif number > self.num_forgotten:
                latent_frame = (number - 1) // TEMPORAL_STRIDE
                yield decode_jpeg(self.pictures[number - 1 - self.num_forgotten]), held[latent_frame]

    def write_film(self, path: Path, fps: float) -> float:
        """Write the newest seconds as .gif or .webp, with the keys drawn in; how many seconds."""
        num_frames = 1 + self.num_forgotten + len(self.pictures)
        frames, held = zip(*self.shown(max(0, num_frames - round(FILM_S * fps))), strict=True)
        write_film(frames, np.array(held), path, fps)
        return len(frames) / fps

    def write_mp4(self, path: Path, fps: float) -> int:
        """Write the clip of what was shown; how many frames it has."""
        pictures = ([] if self.num_forgotten else [self.first]) + self.pictures
        write_mp4(map(decode_jpeg, pictures), path, fps=fps)
        return len(pictures)


class Hangar:
    """Flights by their ids, in the air and landed. Whoever knows an id may have the flight.

    Args:
        folder: readable for this user only.
        max_landed: flights that are kept after they have landed; the oldest go.
        keep_s: seconds that one is kept.
        on_disk: leave record and clip of a landed flight in the folder, for hosts that lend GPUs: there each flight
            has a process of its own, and is gone with it.
        fps: of the clips.
    """

    def __init__(self, folder: Path, max_landed: int, keep_s: float, on_disk: bool = False, fps: float = 16.0):
        self.folder, self.max_landed, self.keep_s = folder, max_landed, keep_s
        self.on_disk, self.fps = on_disk, fps
        self._flights: dict[str, LiveFlight] = {}
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def put(self, flight_id: str, flight: LiveFlight) -> None:
        """Keep a flight; of those that have landed, forget what is too much or too old."""
        with self._lock:
            self._flights[flight_id] = flight
        self.forget_old()
        if flight.landed_at is not None:
            self._look_again()
            if self.on_disk:
                self._leave_files(flight_id, flight)

    def forget_old(self) -> None:
        """Forget landed flights that are too many, too large together, or too old."""
        with self._lock:
            landed = [(f.landed_at, i) for i, f in self._flights.items() if f.landed_at is not None]
            num_bytes = 0
            for place, (at, flight_id) in enumerate(sorted(landed, reverse=True)):
                num_bytes += self._flights[flight_id].num_bytes
                old = time.monotonic() - at > self.keep_s
                if place >= self.max_landed or num_bytes > MAX_LANDED_BYTES or old:
                    del self._flights[flight_id]

    def _look_again(self) -> None:
        """See to it that the flight that has just landed goes in time, though nobody may fly until then."""
        timer = threading.Timer(self.keep_s + 1, self.forget_old)
        timer.daemon = True
        with self._lock:
            before, self._timer = self._timer, timer
        if before is not None:
            before.cancel()
        timer.start()

    def _leave_files(self, flight_id: str, flight: LiveFlight) -> None:
        """Record and clip for a process that does not know this flight."""
        for file in self.folder.glob("*.*"):
            if time.time() - file.stat().st_mtime > self.keep_s:
                file.unlink(missing_ok=True)
        if flight.stream.num_frames:
            flight.write_mp4(self._file(flight_id, "clip"), self.fps)
        write_text(self._file(flight_id, "record"), flight.record().to_json())

    def get(self, flight_id: Any) -> LiveFlight | None:
        """The flight with this id, or None."""
        return self._flights.get(flight_id) if isinstance(flight_id, str) else None

    def left(self, flight_id: Any, what: str) -> Path | None:
        """The "record" or "clip" that a flight of another process has left, or None."""
        if not self.on_disk or not isinstance(flight_id, str) or not is_flight_id(flight_id):
            return None
        file = self._file(flight_id, what)
        return file if file.is_file() else None

    def _file(self, flight_id: str, what: str) -> Path:
        return self.folder / f"{flight_id}.{'json' if what == 'record' else 'mp4'}"
