"""What the simulator knows of a live flight that began in one of its worlds: its own picture of the moment that is
shown, how far the model's is from it, and the rings of a course.

Everything is computed from the actions that the server has flown. Pictures are drawn beside the flight, one at a time
for all flights together, at most one a latent frame: where the processor bears fewer, moments are left out.
"""

from __future__ import annotations

import base64
import functools
import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanact.flying.record import image_sha256
from wanact.media.likeness import apart
from wanact.media.video import decode_jpeg, encode_jpeg, fit_image, open_image
from wanact.ui.pages.live.flight import LiveFlight
from wanact.ui.samples import Sample, load_samples
from wanact.world.courses import RADIUS, Race
from wanact.world.true_flight import WORLD_SIZE, Start, TrueFlight

logger = logging.getLogger(__name__)

_drawing = threading.BoundedSemaphore(1)  # of pictures, in this process


def known_samples(samples: list[Sample]) -> dict[str, Start]:
    """Where the samples begin that come from the simulator, by their ids."""
    starts = {sample.id: Start.of_sample(sample) for sample in samples}
    return {name: start for name, start in starts.items() if start is not None}


def start_of(image: Any) -> Start | None:
    """Where a flight begins whose first frame is a sample from the simulator, uncut; None for any other picture.

    Args:
        image: the flight's, PIL.
    """
    return _fingerprints(image.height, image.width).get(image_sha256(image))


@functools.lru_cache(maxsize=4)
def _fingerprints(height: int, width: int) -> dict[str, Start]:
    samples, _ = load_samples()
    known = known_samples(samples)
    fitted = {s.id: fit_image(open_image(s.path), height, width) for s in samples if s.id in known}
    return {image_sha256(picture): known[name] for name, picture in fitted.items()}


@dataclass(frozen=True)
class _Seen:
    """The simulator's picture of a latent frame, and how far the model's is from it."""

    latent_frame: int
    picture: bytes
    apart: float


class Beside:
    """The simulator beside one flight.

    Args:
        flight: what is flown.
        start: where it began; None where nobody knows.
        race: the course that is flown, if any.
    """

    def __init__(self, flight: LiveFlight, start: Start | None, race: Race | None = None):
        self.start, self.race = start, race
        self._flight, self._true = flight, race.flight if race else None
        self._thread: ThreadPoolExecutor | None = None
        self._coming: Future[_Seen | None] | None = None
        self._seen: deque[_Seen] = deque()
        self._has_finished = False

    def opening(self) -> dict[str, Any]:
        """What the page is told when the flight starts."""
        told: dict[str, Any] = {"known": self.start is not None, "course": None}
        if self.race is not None:
            course = self.race.course
            rings = [[*(round(value, 4) for value in centre), RADIUS] for centre in course.centres]
            told["course"] = {"id": course.id, "name": course.name, "rings": rings, "size": WORLD_SIZE,
                              "pose": [round(value, 4) for value in course.pose]}  # fmt: skip
        return told

    def rings(self) -> list[tuple[float, float, float, float]]:
        """The rings of the course that are still ahead."""
        return [] if self.race is None else self.race.course.centres[self.race.next :]

    def begin(self, latent_frame: int) -> dict[str, Any] | None:
        """Pictures of a latent frame are about to be sent, so that it stands: the message that goes before them."""
        if self.race is None:
            return None
        poses = self.race.fly(*self._flown(latent_frame))
        return {
            "kind": "course",
            "t": latent_frame,
            "poses": [[round(value, 4) for value in pose] for pose in poses],
            "next": self.race.next,
            "seconds": round(self.race.seconds, 2),
            "counts": self.race.counts,
        }

    def end(self, latent_frame: int, picture: bytes, wanted: bool) -> None:
        """All pictures of a latent frame have been sent; the last of them is held against the simulator's."""
        if not wanted or self.start is None or not self._is_idle() or not _drawing.acquire(blocking=False):
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "truth")
        try:
            self._coming = self._thread.submit(self._look, latent_frame, picture, *self._flown(latent_frame))
            self._coming.add_done_callback(lambda _: _drawing.release())
        except BaseException:
            _drawing.release()
            raise

    def finish(self) -> tuple[str, float] | None:
        """Course and seconds, once, as soon as all rings are behind."""
        if self.race is None or self.race.finished_s is None or self._has_finished:
            return None
        self._has_finished = True
        return self.race.course.id, self.race.finished_s

    def messages(self) -> Iterator[dict[str, Any]]:
        """What has been drawn since."""
        self._is_idle()
        while self._seen:
            seen = self._seen.popleft()
            encoded = base64.b64encode(seen.picture).decode()
            yield {"kind": "truth", "t": seen.latent_frame, "f": encoded, "apart": seen.apart}

    def wait(self, seconds: float) -> None:
        """The flight has waited for its visitor."""
        if self.race is not None:
            self.race.wait(seconds)

    def take_back(self) -> None:
        """The flight has gone back."""
        self._is_idle()
        self._seen.clear()
        self._coming = None  # what is being drawn is of a moment that has never been
        if self.race is not None:
            self.race.take_back()

    def close(self) -> None:
        """The flight has landed."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_idle(self) -> bool:
        """Whether nothing is being drawn; what was drawn is kept."""
        if self._coming is None:
            return True
        if not self._coming.done():
            return False
        seen, self._coming = self._coming.result(), None
        if seen is not None:
            self._seen.append(seen)
        return True

    def _flown(self, latent_frame: int) -> tuple[np.ndarray, set[int]]:
        """Actions [N, 8] up to a latent frame, and which of them were rests."""
        stream = self._flight.stream
        return stream.track.magnitude[:latent_frame], set(stream.held)

    def _look(self, latent_frame: int, picture: bytes, magnitude: np.ndarray, rests: set[int]) -> _Seen | None:
        """Beside the flight: draw what the drone truly sees, and hold the model's picture against it."""
        try:
            assert self.start is not None, "asked for where it is known alone"
            if self._true is None:
                self._true = TrueFlight(self.start)
            pose, image = self._true.follow(magnitude, rests)[-1], self._flight.stream.image
            true = self._true.draw(pose, image.height, image.width)
            return _Seen(latent_frame, encode_jpeg(true), round(apart(decode_jpeg(picture), true), 1))
        except Exception:  # whatever it is, the flight goes on, and without
            logger.exception("the simulator's picture of a flight could not be drawn")
            self.start = None
            return None
