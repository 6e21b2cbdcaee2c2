"""Who has the sticks of a live flight: the visitor, or a pilot whom the visitor has asked.

Any key takes over, and letting go of all of them for a while gives back. Which latent frames the pilot flew is noted
with the flight, so that its record says who flew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from wanact.errors import UserError
from wanact.flying.autopilot import Autopilot, Moment
from wanact.ui.engine import Engine
from wanact.ui.mailbox import Told
from wanact.ui.pages.fly.desk import sentence
from wanact.ui.pages.live.flight import LiveFlight, action_of
from wanact.world.followed_flight import FollowedFlight, ReckonedFlight
from wanact.world.tasks import Gates
from wanact.world.true_flight import WORLD_SIZE, Start, TrueFlight

HANDS_OFF_S = 2.0  # without a key, after which the pilot has the sticks again
ENDLESS = 1e9  # the size of a world that does not wrap

logger = logging.getLogger(__name__)


class Sticks:
    """The sticks of one flight.

    Args:
        engine: knows the pilots.
        flight: what is flown.
        start: where it began in a world of the simulator; None where nobody knows.
        rings: of a course, those that are still ahead.
    """

    def __init__(
        self,
        engine: Engine,
        flight: LiveFlight,
        start: Start | None,
        rings: Callable[[], Sequence[Sequence[float]]] = tuple,
    ):
        self._engine, self._flight, self._start, self._rings = engine, flight, start, rings
        self._wish = 0  # number of the one that was taken up last
        self._wanted = ""
        self._thread: ThreadPoolExecutor | None = None
        self._coming: Future[Autopilot] | None = None
        self._pilot: Autopilot | None = None
        self._moment: Moment | None = None
        self._touched_at = float("-inf")  # when a key was down last
        self._by_pilot = False

    def hear(self, told: Told) -> dict[str, Any] | None:
        """What a visitor holds and wishes now; the message that answers a wish, as soon as there is an answer."""
        if any(told.held):
            self._touched_at = time.monotonic()
        if told.pilot[0] > self._wish and self._coming is None:
            self._wish, self._wanted = told.pilot
            self._pilot = self._moment = None
            if not self._wanted:
                return self._answer()
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "pilot")
            self._coming = self._thread.submit(self._call, self._wanted, *self._flown())
        if self._coming is None or not self._coming.done():
            return None
        coming, self._coming = self._coming, None
        try:
            self._pilot = coming.result()
        except UserError as error:
            return self._answer(sentence(self._engine.index.plain(str(error))))
        except Exception:  # whatever it is, the flight goes on, and by hand
            logger.exception("a pilot could not be called")
            return self._answer("This pilot cannot fly here; choose another one.")
        self.follow()
        return self._answer()

    def action(self, told: Told) -> np.ndarray:
        """Magnitudes [8] of the next latent frame."""
        self._by_pilot = self._has_pilot(told)
        return self._pilot.action() if self._pilot is not None and self._by_pilot else action_of(told.held)

    def taken_over(self, told: Told) -> np.ndarray:
        """The same for keys that have gone down or up while it was drawn: they are the visitor's."""
        if any(told.held):
            self._touched_at = time.monotonic()
        self._by_pilot = False
        return action_of(told.held)

    def drawn(self) -> dict[str, Any]:
        """Note who flew the newest latent frame; what the page is told with it."""
        if self._pilot is None:
            return {}
        if self._by_pilot:
            pilot = self._pilot
            self._flight.note_pilot(pilot.pilot.id, pilot.task)
        self.follow()
        return {"by": self._by_pilot, "task": self._shown()}

    def follow(self) -> None:
        """The flight has gone on, or back."""
        if self._pilot is None:
            return
        self._moment = self._pilot.follow(*self._flown())

    def close(self) -> None:
        """The flight has landed."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _has_pilot(self, told: Told) -> bool:
        if self._pilot is None or any(told.held):
            return False
        return time.monotonic() - self._touched_at >= HANDS_OFF_S

    def _flown(self) -> tuple[np.ndarray, set[int]]:
        """All actions [N, 8], and which of them were rests."""
        stream = self._flight.stream
        return stream.track.magnitude, set(stream.held)

    def _call(self, wanted: str, magnitude: np.ndarray, rests: set[int]) -> Autopilot:
        """Beside the flight, because a world takes seconds to make, and a long flight to be followed."""
        pilot_id, _, task = wanted.rpartition(":")
        pilot = self._engine.pilot(pilot_id)
        follows: FollowedFlight = ReckonedFlight() if self._start is None else TrueFlight(self._start)
        autopilot = Autopilot(pilot, task, follows, self._flight.stream.seed, self._rings)
        follows.follow(magnitude, rests)
        return autopilot

    def _answer(self, problem: str = "") -> dict[str, Any]:
        told: dict[str, Any] = {"kind": "pilot", "pilot": "", "problem": problem}
        if self._pilot is not None:
            pilot = self._pilot
            told |= {"pilot": self._wanted, "name": pilot.pilot.name, "asked": pilot.task}
            told |= {"knows": self._start is not None, "task": self._shown()}
        return told

    def _shown(self) -> dict[str, Any]:
        """The task as the page draws it over the picture."""
        moment = self._moment
        assert moment is not None and self._pilot is not None, "`follow` comes before"
        many = len(moment.task.gates) if isinstance(moment.task, Gates) else 0
        return {
            "poses": [[round(value, 3) for value in pose] for pose in moment.poses],
            "rings": [[round(value, 3) for value in ring] for ring in moment.marks],
            "size": ENDLESS if self._start is None else WORLD_SIZE,
            "next": moment.task.next + 1 if isinstance(moment.task, Gates) else 0,
            "of": many,
            "done": moment.done,
            "missed": moment.missed,
            "asks": moment.task is not None,
        }
