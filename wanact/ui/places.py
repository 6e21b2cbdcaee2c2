"""Places in Gradio's queue: so many for each kind of work, not all for one visitor, none without a listener.

Gradio counts all waiting events in one number, so that clips which wait would refuse a press on “New seed”; it keeps
events whose answers nobody collects, and runs them; and it serves in the order of asking, however often one asks.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gradio import route_utils
from gradio.blocks import Blocks
from gradio.queueing import Event, Queue
from gradio.utils import run_coro_in_background
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from wanact.ui.visitor import address_of

# What takes long and how much of it may wait and be in work at once, all visitors together. By its concurrency_id.
PLACES = {"model": 24, "live": 16, "card": 4}
MAX_SMALL = 256  # events of all other kinds
ADDRESS_SHARE = 0.75  # of the places of a kind, for one address: many may share it behind a proxy
SESSION_PLACES, SESSION_SMALL = 3, 16
COLLECT_LOOKS = 10  # an event goes if its answers are not collected for so many looks, one a second
KEEP_ANSWERS_LOOKS = 60  # as long are answers kept that nobody has collected
_CHORES_EVERY_S = 30

logger = logging.getLogger(__name__)

Chore = Callable[[], None]


class Letters(asyncio.Queue):
    """Messages for a session, and how long nobody has waited for them.

    Counted in looks, one a second, and not in time: a server that stood still has not heard what was said meanwhile.
    """

    def __init__(self):
        super().__init__()
        self._readers = self._looks = 0

    def expect_reader(self) -> None:
        """Somebody has just asked, and is about to listen."""
        self._looks = 0

    async def get(self) -> Any:
        self._readers += 1
        try:
            return await super().get()
        finally:
            self._readers -= 1
            self._looks = 0

    def look(self) -> int:
        """Looks since somebody has listened, with this one; 0 while somebody does."""
        self._looks = 0 if self._readers else self._looks + 1
        return self._looks


class Places:
    """Admission to a page's queue.

    Args:
        queue: Gradio's, which is changed: its `push` and `start` go through here.
        collect_looks: an event goes if its answers are not collected for so long; `COLLECT_LOOKS` if not given.
        chores: done beside it every half a minute, in a thread.
        at_rest: done with them if nothing is in work.
    """

    def __init__(
        self,
        queue: Queue,
        collect_looks: int | None = None,
        chores: Sequence[Chore] = (),
        at_rest: Sequence[Chore] = (),
    ):
        self._queue, self.collect_looks = queue, COLLECT_LOOKS if collect_looks is None else collect_looks
        self._chores, self._at_rest = chores, at_rest
        self._push, self._start = queue.push, queue.start
        queue.max_size = None
        queue.push, queue.start = self.push, self.start

    def start(self) -> None:
        """As of the queue; and look now and then for what is not collected."""
        self._start()
        run_coro_in_background(self._look)

    async def push(self, body: Any, request: Any, username: str | None) -> tuple[bool, Any, Any]:
        """As of the queue, if there is a place.

        Raises:
            HTTPException: 429 with one sentence, if there is none.
        """
        if body.fn_index is None:
            return await self._push(body, request, username)
        kind = route_utils.get_fn(self._queue.blocks, None, body).concurrency_id
        body.session_hash = session = body.session_hash or uuid.uuid4().hex
        self._let_in(kind, session, address_of(request))
        before = self._queue.pending_messages_per_session.get(session)
        letters = before if isinstance(before, Letters) else Letters()
        letters.expect_reader()
        self._queue.pending_messages_per_session[session] = letters  # the newest: the oldest goes when there are many
        pushed = await self._push(body, request, username)
        self._go_round(kind)
        return pushed

    # ---- who gets in -----------------------------------------------------------------------------------------

    def _let_in(self, kind: str, session: str, address: str | None) -> None:
        is_large = kind in PLACES
        held = [event for event in self._events() if (event.concurrency_id in PLACES) == is_large]
        if is_large:
            held = [event for event in held if event.concurrency_id == kind]
        most = PLACES[kind] if is_large else MAX_SMALL
        of_session = sum(event.session_hash == session for event in held)
        of_address = sum(address_of(event.request) == address for event in held)
        if of_session >= (SESSION_PLACES if is_large else SESSION_SMALL):
            raise _refusal(f"You have asked for {of_session} of these already; wait for one of them, or cancel it.")
        if len(held) >= most or of_address >= math.ceil(ADDRESS_SHARE * most):
            raise _refusal(f"{len(held)} requests wait already; try again in a minute.")

    def _events(self) -> Iterator[Event]:
        """Events that wait, and those that are in work, listened to and not answered yet."""
        for waiting in self._queue.event_queue_per_concurrency_id.values():
            yield from waiting.queue
        unanswered = self._queue.pending_event_ids_session  # Gradio tidies a job for a while after its answer was read
        for job in self._queue.active_jobs:
            yield from (
                event for event in job or () if event.alive and event._id in unanswered.get(event.session_hash, ())
            )

    def _go_round(self, kind: str) -> None:
        """Have the first event of every visitor served before the second of any."""
        waiting = self._queue.event_queue_per_concurrency_id[kind].queue
        before: Counter[Any] = Counter()
        for job in self._queue.active_jobs:
            before.update(address_of(event.request) for event in job or () if event.concurrency_id == kind)
        ranks: dict[str, int] = {}
        for event in sorted(waiting, key=lambda event: event.enqueue_time):
            address = address_of(event.request)
            ranks[event._id] = before[address]
            before[address] += 1
        waiting.sort(key=lambda event: (ranks[event._id], event.enqueue_time))

    # ---- who has left ----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        for second in itertools.count(1):
            await asyncio.sleep(1.0)
            if self._queue.stopped:
                return
            self.forget_uncollected()
            if second % _CHORES_EVERY_S == 0:
                for chore in [*self._chores, *(() if any(self._queue.active_jobs) else self._at_rest)]:
                    await run_in_threadpool(_tried, chore)

    def forget_uncollected(self) -> None:
        """Look who listens; give up what nobody has listened for, which stops, if it is in work, when it says more."""
        queue = self._queue
        sessions: dict[str, list[Event]] = {}
        for event in self._events():
            sessions.setdefault(event.session_hash, []).append(event)
        for session, letters in list(queue.pending_messages_per_session.items()):
            events = sessions.get(session, [])
            limit = self.collect_looks if events else KEEP_ANSWERS_LOOKS
            if not isinstance(letters, Letters) or letters.look() <= limit:
                continue
            for event in events:
                event.alive = False
                waiting = queue.event_queue_per_concurrency_id[event.concurrency_id].queue
                if event in waiting:
                    waiting.remove(event)
                    queue.event_ids_to_events.pop(event._id, None)
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)


def keep_places(page: Blocks, chores: Sequence[Chore] = (), at_rest: Sequence[Chore] = ()) -> Places:
    """Let a page's queue have places, after its `queue` was called; see `Places` for the chores."""
    return Places(page._queue, chores=chores, at_rest=at_rest)


def _tried(chore: Chore) -> None:
    try:
        chore()
    except Exception:  # the next time may be better, and events go on meanwhile
        logger.exception("a chore failed")


def _refusal(words: str) -> HTTPException:
    return HTTPException(429, words)
