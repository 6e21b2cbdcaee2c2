"""What the Fly page asks of the server: take off, fly while somebody listens, hear the keys, save what was flown.

One call of `fly` is one flight. It yields small messages (dicts with a `kind`) that the browser's script reads:

    line     {place}                       on the ground; `place` visitors leave before, this one included
    catching {share}                       a flight is flown again up to where it is taken over; so much is done
    start    {flight, fps, first, i, ...}  the flight's id, which the browser needs to steer, and its first picture. The
                                           next value may hide it, so it is said again while nothing is acknowledged,
                                           then with the newest picture, the i-th
    frames   {i, t, k, f, a, n, ...}       pictures f (base64 JPEG), the first of a latent frame's four ahead of the
                                           others; i numbers the first of f over the whole call, k within its latent
                                           frame t; a is the action they obey, n the number of the message it came
                                           in; lost: there has been nothing to see for some seconds
    state    {state, ...}                  nothing new to see, and why: paused, busy, lost
    rewound  {t}                           taken back to latent frame t
    truth    {t, f, apart}                 what the simulator sees at the end of latent frame t, as a base64 JPEG, and
                                           how far the model's picture is from it, 0 to 100
    course   {t, poses, next, seconds, ..} in a course, before the pictures of latent frame t: where the drone is in its
                                           four frames, which ring is next, the time so far
    finished {course, seconds, place}      all rings are behind; place in the table of best times, 0 for none; with
                                           `by` where a pilot flew a part of it, which is entered in no table
    pilot    {pilot, problem, ...}         who was asked to fly is at the sticks ("" for nobody), or why not; from then
                                           on frames say whether it flew them (`by`) and what it flies to (`task`)
    end      {reason, message}             landed; the flight can be gone on with
    failed   {message}                     nothing was flown
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from wanact.errors import UserError
from wanact.files import CheckpointError, otherwise, read_model, whole, write_text
from wanact.flying.record import MAX_SEED, FlightRecord
from wanact.flying.replay import fly_again, stream_of
from wanact.flying.request import RequestError
from wanact.flying.stream import WanActStream
from wanact.flying.turns import Place
from wanact.media.footage import read_video
from wanact.media.likeness import Sight
from wanact.media.video import encode_jpeg, write_mp4
from wanact.runs.index import Entry
from wanact.runs.ref import BASE_MODEL, CheckpointRef
from wanact.shapes import TEMPORAL_STRIDE
from wanact.ui import visitor
from wanact.ui.best import BestTimes, Finishes, checked_name
from wanact.ui.components import choice_of
from wanact.ui.engine import Engine
from wanact.ui.gpu import is_lent
from wanact.ui.mailbox import Mailbox, Told, new_flight
from wanact.ui.pages.fly.desk import fitted_frame, read_prompt, say_what_is_cut, sentence
from wanact.ui.pages.live.beside import Beside, start_of
from wanact.ui.pages.live.flight import Hangar, LiveFlight
from wanact.ui.pages.live.sticks import Sticks
from wanact.ui.turns import Line, Ticket
from wanact.world import courses, true_flight
from wanact.world.courses import Course, Race

MESSAGE_BYTES = 24_000  # of JPEG: a latent frame of nano goes at once, one of 832x480 frame by frame
POLL_S = 0.005
BEAT_S = 1.0
FILMS = ("gif", "webp")
SHARED_S = 120  # of a flight are shared: whoever takes over at its end has all of it flown again
POSTER_LOOKS = 12  # frames that a poster is chosen from
MAX_SHARED_KNOWN = 1_000  # of which it is remembered what they were shared as
MAX_SHARES, SHARES_S = 60, 3600.0  # of one visitor in so long: each new one may make the oldest of others leave

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveLimits:
    """What one visitor may take of the others.

    Attributes:
        turn_s: a flight lands after so long if somebody waits; else it goes on.
        longest_s: a flight lands after so long in any case.
        max_flights: in the air together.
        window: frames on their way to the browser; more wait until it has shown some.
        silence_s: without a sign of the browser for so long, nothing is drawn.
        lost_s: without one for so long, the flight lands. Paused flights too, after `paused_s`.
        max_landed, keep_s: landed flights that are kept for saving and going on, and how long.
    """

    turn_s: float = 180.0
    longest_s: float = 1800.0
    max_flights: int = 3
    window: int = 8
    silence_s: float = 1.5
    lost_s: float = 30.0
    paused_s: float = 300.0
    max_landed: int = 12
    keep_s: float = 1200.0


@dataclass
class _Clock:
    """When the next latent frame is due. A key that goes down or up does not wait for it; the time is made up after."""

    period: float
    due: float = 0.0

    def start_step(self) -> None:
        self.due = max(self.due, time.monotonic() - self.period) + self.period

    def take_back(self) -> None:
        self.due -= self.period

    def is_due(self, changed: bool) -> bool:
        left = self.due - time.monotonic()
        return left <= 0 or (changed and left <= self.period)


@dataclass
class _OnItsWay:
    """A latent frame whose pictures go to the browser as they become ready.

    Attributes:
        base: what all of its messages say.
        before: pictures of this call before its own.
        start: when it began to be drawn.
        waited: seconds before that, for the model.
        num_sent: pictures of its own that have left.
        sending: seconds until the page could go on after them.
    """

    base: dict[str, Any]
    before: int
    start: float = 0.0
    waited: float = 0.0
    num_sent: int = 0
    sending: float = 0.0

    @property
    def end(self) -> int:
        """Pictures of this call up to now."""
        return self.before + self.num_sent

    def messages(self, pictures: list[bytes], timings: dict[str, float]) -> Iterator[dict[str, Any]]:
        """Messages with these pictures; the last of the latent frame says how long everything took."""
        for some in _split(pictures):
            encoded = [base64.b64encode(picture).decode() for picture in some]
            message = self.base | {"i": self.end + 1, "k": self.num_sent, "f": encoded}
            self.num_sent += len(some)
            if self.num_sent == TEMPORAL_STRIDE:
                step = time.perf_counter() - self.start
                taken = timings | {"step": step, "waited": self.waited, "sent": self.sending}
                message["ms"] = {name: round(1000 * value, 1) for name, value in taken.items()}
            begun = time.perf_counter()
            yield message
            self.sending += time.perf_counter() - begun


class _Keys:
    """What is held when a latent frame begins to be drawn, and until it has been drawn; a pilot's sticks where a pilot
    has them."""

    def __init__(self, mailbox: Mailbox, sticks: Sticks):
        self._mailbox, self._sticks = mailbox, sticks
        self.told = mailbox.read()
        self.action = sticks.action(self.told)  # magnitudes [8]

    @property
    def down(self) -> tuple[bool, ...]:
        """Which keys are held at all."""
        return _down(self.told)

    def newer(self) -> np.ndarray | None:
        """The action, if a key has gone down or up since."""
        told = self._mailbox.read()
        if _down(told) == self.down:
            return None
        self.told = told
        self.action = self._sticks.taken_over(told)
        return self.action


class _Order(BaseModel):
    """What the stage's script asks for when it takes off; what is malformed counts as not said."""

    before: Annotated[Any, Field(alias="from")] = None
    shared: Any = None
    course: Any = None
    at: Annotated[Annotated[int, whole(0)] | None, otherwise(None)] = None


class _Numbers(BaseModel):
    seed: Annotated[int, whole(0, MAX_SEED, floats=True)]


class LiveDesk:
    """The handlers of the Fly page.

    Args:
        engine: the shared model.
        limits: what one visitor may take.
    """

    def __init__(self, engine: Engine, limits: LiveLimits | None = None):
        self.engine = engine
        self.limits = limits or LiveLimits()
        self.line = Line(self.limits.max_flights)
        self._shared_as: dict[str, str] = {}  # ids of flights, and those that they are shared by
        self._shared_at: dict[Hashable, list[float]] = {}  # when each visitor has shared of late
        self.folder = Path(tempfile.mkdtemp(prefix="wanact-flights-"))  # 0700: other users see no mailbox
        limits, fps = self.limits, float(engine.defaults["fps"])
        self.best = BestTimes(engine.shares.folder)
        self.finishes = Finishes(self.folder, limits.keep_s)
        self.hangar = Hangar(self.folder, limits.max_landed, limits.keep_s, is_lent(), fps)
        owner = os.getpid()
        atexit.register(lambda: os.getpid() == owner and shutil.rmtree(self.folder, ignore_errors=True))

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def choices(self) -> list[CheckpointRef]:
        """The checkpoints that can be flown live, the recommended one first; last a base that is causal itself."""
        choices, _ = self.engine.checkpoints()
        causal = [choice for choice in choices if isinstance(choice, Entry) and self._is_live(choice)]
        wanted = self.engine.defaults.get("live_checkpoint")
        newest = max((choice.saved_at for choice in causal), default="")
        run = next((choice.run for choice in causal if choice.saved_at == newest), None)
        causal.sort(key=lambda c: (c.id != wanted, c.run != run, not c.is_best))
        return [*causal, *([BASE_MODEL] if self._is_live(BASE_MODEL) else [])]

    def _is_live(self, choice: CheckpointRef) -> bool:
        """Whether a checkpoint's settings, its run's, or the base's say how it is flown frame by frame."""
        try:
            return self.engine.flies_live(choice.config, choice.path)
        except CheckpointError:
            return False

    def listing(self) -> dict[str, Any]:
        """The same for the page's list."""
        choices = self.choices()
        entries = [choice_of(choice) for choice in choices]
        return {"choices": entries, "default": choices[0].id if choices else "", "damaged": 0}

    def find(self, checkpoint_id: str | None) -> CheckpointRef:
        """The causal checkpoint with this id; without one, the recommended.

        Raises:
            CheckpointError: if there is none to fly.
        """
        choices = self.choices()
        if not choices:
            raise CheckpointError(
                "live flight needs a causal checkpoint; add the bundled one (--runs runs assets/runs), or train one "
                "(python -m train causal)"
            )
        if not checkpoint_id:
            return choices[0]
        choice = next((choice for choice in choices if choice.id == checkpoint_id), None)
        if choice is None:
            raise CheckpointError(
                f"the checkpoint “{str(checkpoint_id)[:80]}” cannot be flown live; choose another one in the list"
            )
        return choice

    # ---- the browser's messages ------------------------------------------------------------------------------

    def control(self, message: Any) -> dict[str, bool]:
        """Take what a browser tells its flight: keys, acknowledgements, wishes.

        Args:
            message: {"flight": id, ...}, as `Mailbox.tell` reads it.

        Returns:
            {"known": whether such a flight is in the air or in line}.
        """
        if not isinstance(message, dict):
            return {"known": False}
        try:
            mailbox = Mailbox(self.folder, message.get("flight", ""))
        except KeyError:
            return {"known": False}
        try:
            mailbox.tell(message)
        finally:
            mailbox.close()
        return {"known": True}

    # ---- flying ----------------------------------------------------------------------------------------------

    def fly(
        self, order: Any, first_frame: str | None, prompt: str, checkpoint: str | None, seed: float, crop: float = 0.5
    ) -> Iterator[dict[str, Any]]:
        """Fly live. See the module for what is yielded.

        Args:
            order: {} for a new flight; {"from": id of a flight, "at": latent frame to go on from, None for its end}; or
                {"shared": id of a flight that is shared, "at": the same}.
            first_frame, prompt, checkpoint, seed, crop: of a new flight.
        """
        asked = _Order.model_validate(order if isinstance(order, dict) else {}, strict=True)
        flight_id = new_flight()
        with contextlib.ExitStack() as leaving:  # each of these, whatever becomes of the others
            try:
                mailbox = Mailbox(self.folder, flight_id, create=True)
                leaving.callback(mailbox.close, remove=True)
                before, course = self._before(asked), self._course(asked)
                if isinstance(before, FlightRecord):
                    choice = self.find((before.checkpoint or {}).get("id"))
                else:
                    choice = before.choice if before else self.find(checkpoint)
                ticket = self.line.enter(choice.id, visitor.current())
                leaving.callback(self.line.leave, ticket)
                turn = self.engine.pipe.lock.place(visitor.current())
                leaving.callback(turn.leave)
                leaving.callback(self._put_away, flight_id)
                yield {"kind": "line", "place": self.line.place(ticket), "flight": flight_id}
                yield from self._stand_in_line(flight_id, ticket, mailbox)
                image, size = None, (self.engine.defaults["height"], self.engine.defaults["width"])
                if course is not None:
                    pixels, prompt = true_flight.first_frame(course.start, *size)
                    image = Image.fromarray(pixels)
                elif before is None:
                    image, prompt = fitted_frame(first_frame, crop, *size), read_prompt(prompt)
                flight = yield from self._take_off(flight_id, turn, before, asked, choice, image, prompt, seed, mailbox)
                beside = self._beside(flight, course)
                leaving.callback(beside.close)
                sticks = Sticks(self.engine, flight, beside.start, beside.rings)
                leaving.callback(sticks.close)
                yield self._start(flight_id, flight, beside)
                yield from self._fly(flight_id, ticket, turn, flight, mailbox, beside, sticks)
            except UserError as error:
                yield _failed(flight_id, sentence(self.engine.index.plain(str(error))))
            except MemoryError:
                logger.exception("out of memory")
                yield _failed(flight_id, "There is not enough memory for a flight now; try again in a minute.")
            except Exception:
                logger.exception("a live flight failed")
                yield _failed(flight_id, "Something went wrong in flight; take off again.")

    def _put_away(self, flight_id: str) -> None:
        """Land a flight that is in the air, and keep what was flown."""
        flight = self.hangar.get(flight_id)
        if flight is not None:
            flight.land()
            try:
                self.hangar.put(flight_id, flight)
            except OSError:
                logger.exception("a landed flight could not be kept")

    def _before(self, order: _Order) -> LiveFlight | FlightRecord | None:
        """The flight to go on with, landed; only its record, if it flew in another process; None for a new one."""
        if order.shared is not None:
            return self._shared(order.shared)
        wanted = order.before
        if wanted is None:
            return None
        flight = self.hangar.get(wanted)
        end = time.monotonic() + 10
        # Its browser has just told it to land.
        while time.monotonic() < end and flight is not None and flight.landed_at is None:
            time.sleep(0.05)
        if flight is not None:
            return flight
        while self.hangar.on_disk and time.monotonic() < end:
            if (file := self.hangar.left(wanted, "record")) is not None:
                return FlightRecord.load(file)
            time.sleep(0.2)
        raise RequestError(
            f"this flight is not kept any more (at most {self.limits.keep_s / 60:.0f} minutes); take off anew"
        )

    def _shared(self, name: Any) -> LiveFlight | FlightRecord:
        """A shared flight to take over: itself while it is kept, else its record."""
        record = self.engine.shares.find(name).record
        flown = next((flight for flight, shared in list(self._shared_as.items()) if shared == name), None)
        flight = self.hangar.get(flown)
        if flight is not None and flight.landed_at is not None:
            return flight
        if not self.engine.pipe.is_recorded_as(record.model.get("fingerprint")):
            model = str(record.model.get("name", ""))[:40]
            raise RequestError(f"this flight was flown in another model (“{model}”); it can be watched, not taken over")
        return record

    def _stand_in_line(self, flight_id: str, ticket: Any, mailbox: Mailbox) -> Iterator[dict[str, Any]]:
        told, place, beat = mailbox.read(), 0, time.monotonic()
        while now := self.line.place(ticket):
            told = mailbox.read()
            if told.stopped or told.silence > self.limits.lost_s:
                raise RequestError("you have left the line; take off again whenever you like")
            if now != place or time.monotonic() - beat > BEAT_S:
                place, beat = now, time.monotonic()
                yield {"kind": "line", "place": place, "flight": flight_id}
            time.sleep(0.1)

    def _take_off(
        self,
        flight_id: str,
        turn: Place,
        before: LiveFlight | FlightRecord | None,
        order: _Order,
        choice: CheckpointRef,
        image: Image.Image | None,
        prompt: str,
        seed: Any,
        mailbox: Mailbox,
    ) -> Generator[dict[str, Any], None, LiveFlight]:
        """Wait for the model, then make the stream, which is the generator's result."""
        at = order.at
        if isinstance(before, FlightRecord):
            at = len(before.track) if at is None else min(at, len(before.track))
            flight = yield from self._fly_again(flight_id, turn, before.until(at), choice, mailbox)
        else:
            yield from self._have_turn(flight_id, turn)
            try:
                if before is not None:
                    flight = before.fork(at)
                else:
                    assert image is not None
                    say_what_is_cut(self.engine, prompt)
                    flight = self._new_flight(image, prompt, choice, seed)
            finally:
                turn.done()
        self.hangar.put(flight_id, flight)
        return flight

    def _start(self, flight_id: str, flight: LiveFlight, beside: Beside, num_sent: int = 0) -> dict[str, Any]:
        """The message that a flight begins with, for a page that has heard of none of the pictures that were sent."""
        stream = flight.stream
        return {
            "kind": "start",
            "flight": flight_id,
            "i": num_sent,
            "fps": float(self.engine.defaults["fps"]),
            "width": stream.image.width,
            "height": stream.image.height,
            "first": base64.b64encode(flight.pictures[-1] if flight.pictures else flight.first).decode(),
            "t": stream.num_frames,
            "earliest": flight.earliest,
            "prompt": stream.prompt,
            "checkpoint": flight.choice.label,
            "attitude": _degrees(flight, stream.num_frames),
            **beside.opening(),
        }

    def _course(self, order: _Order) -> Course | None:
        """The course that is to be flown from its beginning, if any.

        Raises:
            RequestError: if there is no such course, or no simulator.
        """
        if order.course is None or order.before is not None or order.shared is not None:
            return None  # what is gone on with has been flown in another time
        course = courses.find(order.course)
        if course is None or self.engine.truth is None:
            raise RequestError("there is no such course here; choose one below the picture")
        return course

    def _beside(self, flight: LiveFlight, course: Course | None) -> Beside:
        """What the simulator knows of a flight."""
        if course is not None:
            race = Race(course, true_flight.TrueFlight(course.start), float(self.engine.defaults["fps"]))
            return Beside(flight, course.start, race)
        return Beside(flight, start_of(flight.stream.image) if self.engine.truth is not None else None)

    def _fly_again(
        self, flight_id: str, turn: Place, record: FlightRecord, choice: CheckpointRef, mailbox: Mailbox
    ) -> Generator[dict[str, Any], None, LiveFlight]:
        """Fly a record up to its end, saying now and then how far it is; the flight is the generator's result.

        Nothing is said while the model is ours: whoever listens may leave there, and be answered in another thread.
        """
        pipe = self.engine.pipe
        stream: WanActStream | None = None
        flown: Iterator[np.ndarray] = iter(())
        pictures, beat = [], time.monotonic()
        while True:
            yield from self._have_turn(flight_id, turn)
            try:
                if stream is None:
                    pipe.load_controller(choice.path)
                    stream = stream_of(pipe, record)
                    flown = fly_again(stream, record)
                frames = next(flown, None)
            finally:
                turn.done()
            if frames is None:
                break
            pictures += [encode_jpeg(frame) for frame in frames]
            if time.monotonic() - beat > BEAT_S:
                beat, told = time.monotonic(), mailbox.read()
                if told.stopped or told.silence > self.limits.lost_s:
                    raise RequestError("you have left; take over again whenever you like")
                share = round(stream.num_frames / max(1, len(record.track)), 3)
                yield {"kind": "catching", "share": share, "flight": flight_id}
        return LiveFlight(stream, choice, pictures=pictures, pilots=record.pilots)

    def _new_flight(self, image: Image.Image, prompt: str, choice: CheckpointRef, seed: Any) -> LiveFlight:
        pipe = self.engine.pipe
        pipe.load_controller(choice.path)
        numbers = read_model(_Numbers, {"seed": seed}, lambda problem: RequestError(f"the {problem}"))
        return LiveFlight(WanActStream(pipe, image, prompt, numbers.seed), choice)

    def _have_turn(self, flight_id: str, turn: Place) -> Iterator[dict[str, Any]]:
        """Wait until the model is ours, saying so every second."""
        while not turn.take(BEAT_S):
            yield {"kind": "state", "state": "busy", "flight": flight_id}

    def _fly(
        self,
        flight_id: str,
        ticket: Ticket,
        turn: Place,
        flight: LiveFlight,
        mailbox: Mailbox,
        beside: Beside,
        sticks: Sticks,
    ) -> Iterator[dict[str, Any]]:
        limits, fps = self.limits, float(self.engine.defaults["fps"])
        began = time.monotonic()
        clock, beat, held = _Clock(TEMPORAL_STRIDE / fps), began, None
        newest = _OnItsWay({}, 0)
        done = mailbox.read()
        wishes = [done.rewind[0], done.prompt[0]]
        while True:
            told = mailbox.read()
            end = self._end_of(flight_id, ticket, told, time.monotonic() - began)
            wished = told.rewind[0] > wishes[0] or told.prompt[0] > wishes[1]
            yield from self._send(flight_id, flight, newest, beside, told, wait=end is not None or wished)
            if end is not None:
                yield end
                return
            if wished:
                yield from self._grant(flight_id, turn, flight, told, wishes, beside)
                sticks.follow()
                continue
            if (answer := sticks.hear(told)) is not None:
                yield answer | {"flight": flight_id}
            # Not beside the first picture, which somebody waits for; if others are at work, with the next latent frame.
            if newest.num_sent and not flight.is_committed:
                _with_turn(turn, flight.commit)
            changed = held is not None and _down(told) != held
            if changed and flight.take_back():
                clock.take_back()
            waits = told.paused or told.silence > limits.silence_s or newest.end - told.acknowledged >= limits.window
            if waits or not clock.is_due(changed) or not (changed or flight.is_shown):
                if time.monotonic() - beat > BEAT_S:
                    beat = time.monotonic()
                    if not told.acknowledged and flight.is_shown:
                        yield self._start(flight_id, flight, beside, newest.end)
                    reason = "paused" if told.paused else "lost" if told.silence > limits.silence_s else "slow"
                    yield {"kind": "state", "state": reason, "flight": flight_id}
                overdue = waits and clock.is_due(False)
                slept = time.monotonic()
                time.sleep(POLL_S)
                if overdue:
                    beside.wait(time.monotonic() - slept)
                continue
            clock.start_step()
            asked = time.perf_counter()
            yield from self._have_turn(flight_id, turn)
            keys, start = _Keys(mailbox, sticks), time.perf_counter()  # the newest keys, however long the wait was
            try:
                flight.draw(keys.action, keys.newer)
            finally:
                turn.done()
            held, beat = keys.down, time.monotonic()
            yield from self._send(flight_id, flight, newest, beside, told, wait=True)
            base = {
                "kind": "frames",
                "flight": flight_id,
                "t": flight.stream.num_frames,
                "earliest": flight.earliest,
                "a": [round(float(value), 4) for value in keys.action],
                "n": keys.told.state_n,
                "attitude": _degrees(flight, flight.stream.num_frames),
                "left": self._seconds_left(beat - began),
                "lost": flight.is_lost,
                **sticks.drawn(),
            }
            newest = _OnItsWay(base, newest.end, start, waited=start - asked)
            flight.show()

    def _send(
        self, flight_id: str, flight: LiveFlight, newest: _OnItsWay, beside: Beside, told: Told, wait: bool
    ) -> Iterator[dict[str, Any]]:
        """The pictures that are ready, and what the simulator knows of them."""
        for pictures in flight.ready(wait):
            if not newest.num_sent and (moment := beside.begin(newest.base["t"])) is not None:
                yield moment | {"flight": flight_id}
            yield from newest.messages(pictures, flight.stream.timings)
            if newest.num_sent == TEMPORAL_STRIDE:
                beside.end(newest.base["t"], pictures[-1], told.truth)
        yield from (message | {"flight": flight_id} for message in beside.messages())
        if (finish := beside.finish()) is not None:
            yield {"kind": "finished", "flight": flight_id, **self._finished(flight_id, flight, *finish)}

    def _finished(self, flight_id: str, flight: LiveFlight, course: str, seconds: float) -> dict[str, Any]:
        """Note a time, so that it can be entered; what the page is told of it. A pilot's is entered nowhere."""
        if flight.pilots:
            return {"course": course, "seconds": seconds, "place": 0, "by": True}
        try:
            self.finishes.note(flight_id, course, seconds)
            place = self.best.place(course, seconds)
        except OSError:
            logger.exception("a finish could not be noted")
            place = 0
        return {"course": course, "seconds": seconds, "place": place}

    def _end_of(self, flight_id: str, ticket: Ticket, told: Told, seconds: float) -> dict[str, Any] | None:
        """The last message of a flight that ends now."""
        limits = self.limits
        waiting = self.line.num_waiting
        if told.stopped:
            reason, message = "landed", "Landed."
        elif told.silence > (limits.paused_s if told.paused else limits.lost_s):
            reason, message = "lost", f"The flight has landed: nothing was heard of this page for {told.silence:.0f} s."
        elif seconds > limits.longest_s or (waiting and seconds > limits.turn_s):
            others = f"{waiting} other{'s wait' if waiting > 1 else ' waits'}" if waiting else "it was a long one"
            reason, message = "over", f"The flight has landed after {seconds:.0f} s, because {others}."
        elif self.line.must_land(ticket):
            reason, message = "over", "The flight has landed, because you fly several and somebody else waits."
        else:
            return None
        return {"kind": "end", "flight": flight_id, "reason": reason, "message": message}

    def _seconds_left(self, seconds: float) -> int | None:
        """Until the flight lands for others; None while nobody waits."""
        return max(0, round(self.limits.turn_s - seconds)) if self.line.num_waiting else None

    def _grant(
        self, flight_id: str, turn: Place, flight: LiveFlight, told: Told, wishes: list[int], beside: Beside
    ) -> Iterator[dict[str, Any]]:
        """Rewind, and change the words, as told; `wishes` holds the numbers of those that are done."""
        yield from self._have_turn(flight_id, turn)
        problem = ""
        rewinds = told.rewind[0] > wishes[0]
        try:
            if rewinds:
                flight.roll_back(told.rewind[1])
                beside.take_back()
            if told.prompt[0] > wishes[1]:
                flight.stream.prompt = read_prompt(told.prompt[1])
                say_what_is_cut(self.engine, flight.stream.prompt)
        except RequestError as error:
            problem = sentence(error)
        finally:
            turn.done()
        wishes[:] = [told.rewind[0], told.prompt[0]]
        frames = flight.stream.num_frames
        yield {
            "kind": "rewound" if rewinds else "prompt",
            "flight": flight_id,
            "t": frames,
            "prompt": flight.stream.prompt,
            "attitude": _degrees(flight, frames),
            "problem": problem,
        }

    # ---- saving ----------------------------------------------------------------------------------------------

    def save(self, flight_id: Any, what: str, folder: Path) -> tuple[Path, str]:
        """Write a flight, in the air or landed, as a clip or as a record.

        Args:
            flight_id: of a flight that is kept.
            what: "clip" for an mp4, "gif" or "webp" for its newest seconds with the keys drawn in, "record" for the
                JSON that flies it again.
            folder: where to.

        Returns:
            The file, and a caption.

        Raises:
            RequestError, FlightError: if there is nothing to save; OSError if it cannot be written.
        """
        flight = self.hangar.get(flight_id)
        if flight is None:
            left = self.hangar.left(flight_id, "record" if what == "record" else "clip")
            if left is None or what in FILMS:
                minutes = f"{self.limits.keep_s / 60:.0f} minutes"
                lent = "flights are saved after they have landed here, and " if self.hangar.on_disk else ""
                raise RequestError(f"this flight is not there: {lent}a landed one is kept for {minutes}")
            path = folder / f"wanact-live{left.suffix}"
            shutil.copyfile(left, path)
            return path, ""
        fps = float(self.engine.defaults["fps"])
        name = f"wanact-live-{_slug(flight.choice)}-seed{flight.stream.seed}"
        if what == "record":
            path = folder / f"{name}.json"
            with self.engine.pipe.lock:  # not in the middle of a step
                record = flight.record()
            write_text(path, record.to_json())
            number = len(flight.pilots)
            whose = f", {number:,} of them a pilot's" if number else ""
            return path, f"{len(record.track)} actions{whose}; it flies again to the same frames"
        if what in FILMS:
            path = folder / f"{name}.{what}"
            return path, f"the last {flight.write_film(path, fps):.1f} s, with the keys"
        path = folder / f"{name}.mp4"
        num_frames = flight.write_mp4(path, fps)
        cut = f"; the first {flight.num_forgotten / fps:.0f} s are not kept" if flight.num_forgotten else ""
        return path, f"{num_frames / fps:.1f} s, {num_frames} frames as they were shown{cut}"

    # ---- courses ---------------------------------------------------------------------------------------------

    def courses(self) -> list[dict[str, Any]]:
        """The courses that can be flown, with their rings as a map draws them; none without a simulator."""
        if self.engine.truth is None or not self.choices():
            return []
        return [
            {"id": course.id, "name": course.name, "start": course.pose[:2], "rings": course.rings}
            for course in courses.COURSES
        ]

    def best_times(self) -> dict[str, list[dict[str, Any]]]:
        """The best times of every course, fastest first."""
        return {course.id: [row.model_dump() for row in self.best.of(course.id)] for course in courses.COURSES}

    def enter(self, flight_id: Any, name: Any) -> tuple[str, int]:
        """Enter the time of a flight that has finished a course, under a name; a flight is entered once.

        Returns:
            The course, and the place in its table; 0 for none.

        Raises:
            BestError: if the name cannot be taken, or the flight has not finished; OSError if nothing can be written.
        """
        name = checked_name(name)
        course, seconds = self.finishes.take(flight_id)
        try:
            return course, self.best.enter(course, name, seconds)
        except (UserError, OSError):
            self.finishes.note(flight_id, course, seconds)  # it can be tried again
            raise

    # ---- sharing ---------------------------------------------------------------------------------------------

    def share(self, flight_id: Any) -> tuple[str, str]:
        """Keep a flight that has landed, so that others can watch it and fly on from it.

        Args:
            flight_id: of a flight that is kept.

        Returns:
            The id that it is shared by, and a remark.

        Raises:
            RequestError, FlightError: if there is nothing to share, or no room; OSError if it cannot be written.
        """
        shares, before = self.engine.shares, self._shared_as.get(flight_id) if isinstance(flight_id, str) else None
        if before is not None and shares.file(before, "clip.mp4"):
            return before, ""
        lately = self._shares_lately()
        flight = self.hangar.get(flight_id)
        if flight is None:
            name, remark = self._share_left(flight_id), ""
        elif flight.landed_at is None:
            raise RequestError("the flight is still in the air; land, then share it")
        else:
            name, remark = self._share_flown(flight)
        lately.append(time.monotonic())
        while len(self._shared_as) >= MAX_SHARED_KNOWN:
            del self._shared_as[next(iter(self._shared_as))]
        self._shared_as[flight_id] = name
        return name, remark

    def _shares_lately(self) -> list[float]:
        """When this visitor has shared within the hour.

        Raises:
            RequestError: if that was often enough.
        """
        end = time.monotonic() - SHARES_S
        lately = {who: [at for at in times if at > end] for who, times in list(self._shared_at.items())}
        self._shared_at = {who: times for who, times in lately.items() if times}
        mine = self._shared_at.setdefault(visitor.current(), [])
        if len(mine) >= MAX_SHARES:
            raise RequestError(f"you have shared {MAX_SHARES} flights within an hour; share this one later")
        return mine

    def _share_flown(self, flight: LiveFlight) -> tuple[str, str]:
        record, fps = flight.record(), float(self.engine.defaults["fps"])
        if not len(record.track):
            raise RequestError("nothing was flown yet; hold a key for a while, then share it")
        if flight.num_forgotten:
            raise RequestError("the beginning of this flight is not kept any more; share a shorter one")
        most = max(1, round(SHARED_S * fps / TEMPORAL_STRIDE))
        remark = f"its first {SHARED_S / 60:.0f} minutes" if len(record.track) > most else ""
        record = record.until(min(most, len(record.track)))

        def write_clip(path: Path) -> None:
            write_mp4((frame for frame, _ in flight.shown(0, record.num_frames)), path, fps=fps)

        step = max(1, record.num_frames // POSTER_LOOKS)
        frames = (next(flight.shown(number, number + 1))[0] for number in range(0, record.num_frames, step))
        return self.engine.shares.put(record, write_clip, _poster(frames)), remark

    def _share_left(self, flight_id: Any) -> str:
        """The same of a flight that has left its files, because it flew in another process."""
        record, clip = self.hangar.left(flight_id, "record"), self.hangar.left(flight_id, "clip")
        if record is None or clip is None:
            raise RequestError(f"this flight is not kept any more (at most {self.limits.keep_s / 60:.0f} minutes)")
        frames = read_video(clip)
        poster = _poster(iter(frames[:: max(1, len(frames) // POSTER_LOOKS)]))
        return self.engine.shares.put(FlightRecord.load(record), lambda path: shutil.copyfile(clip, path), poster)

    def watch(self, message: Any) -> dict[str, Any]:
        """What a browser needs to show a flight that is shared.

        Args:
            message: {"id": which}.

        Returns:
            {"id", "seconds", "fps", "prompt", "ratio"}, or {"problem": one sentence}.
        """
        try:
            shared = self.engine.shares.find(message.get("id") if isinstance(message, dict) else None)
        except UserError as error:
            return {"problem": sentence(error)}
        record = shared.record
        return {
            "id": shared.id,
            "seconds": round(shared.seconds, 2),
            "fps": record.fps,
            "prompt": record.prompt,
            "ratio": record.image.width / record.image.height,
        }


def _poster(frames: Iterator[np.ndarray]) -> Image.Image:
    """The frame that shows most."""
    return Image.fromarray(max(frames, key=lambda frame: Sight.of(frame).detail))


def _with_turn(turn: Place, work: Callable[[], None]) -> None:
    """Do something if the model is free now."""
    if turn.take(0.0):
        try:
            work()
        finally:
            turn.done()
    else:
        turn.leave()


def _failed(flight_id: str, message: str) -> dict[str, Any]:
    return {"kind": "failed", "flight": flight_id, "message": message}


def _down(told: Told) -> tuple[bool, ...]:
    return tuple(share > 0 for share in told.held)


def _split(pictures: list[bytes]) -> Iterator[list[bytes]]:
    """Pictures in messages of a bounded size."""
    some: list[bytes] = []
    for picture in pictures:
        if some and sum(map(len, some)) + len(picture) > MESSAGE_BYTES:
            yield some
            some = []
        some.append(picture)
    if some:
        yield some


def _degrees(flight: LiveFlight, latent_frame: int) -> list[float]:
    attitude = flight.attitudes[latent_frame]
    return [round(attitude.yaw_deg, 1), round(attitude.pitch_deg, 1)]


def _slug(choice: CheckpointRef) -> str:
    text = "-".join([choice.run, f"step{choice.step}" if choice.step is not None else "exported"])
    return "".join(char if char.isalnum() or char == "-" else "_" for char in text)[:60]
