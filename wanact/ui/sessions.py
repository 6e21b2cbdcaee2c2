"""What the server remembers of a visitor, and when it forgets it.

Gradio keeps for every session a copy of the page's settings with all that was posted (for links into a state of the
page, which this one has not), ten thousand sessions long, and answers that nobody collects. Here a session holds the
values of gr.State alone, and is forgotten soon after its visitor has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from copy import copy
from typing import Any

from gradio.blocks import Blocks
from gradio.state_holder import SessionState, StateHolder

MAX_SESSIONS = 1_000
# A phone that has slept comes back to its page; with nothing remembered there is nothing to come back to.
KEEP_S, KEEP_EMPTY_S = 300.0, 30.0
_FORGET_EVERY_S = 5.0


class _Session(SessionState):
    """State without the page's settings."""

    def __init__(self, blocks: Blocks):  # not Gradio's, which lays out the settings of every component first
        self.blocks_config = copy(blocks.default_config)
        self.config_values = {}
        self.state_data = {}
        self._state_ttl = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values = {}

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """All sessions of a page.

    Args:
        blocks: the page.
        keep_s, keep_empty_s: how long one is kept after its last connection or call, with values in it and without.
    """

    def __init__(self, blocks: Blocks, keep_s: float = KEEP_S, keep_empty_s: float = KEEP_EMPTY_S):
        super().__init__()
        self.set_blocks(blocks)
        self.capacity = MAX_SESSIONS
        self.keep_s, self.keep_empty_s = keep_s, keep_empty_s
        self._connections: Counter[str] = Counter()
        self._last_seen: dict[str, float] = {}

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        self._last_seen[session_id] = time.monotonic()
        return super().__getitem__(session_id)

    @contextlib.contextmanager
    def connected(self, session_id: str) -> Iterator[None]:
        """While a connection of the session is open, it is not forgotten."""
        self._connections[session_id] += 1
        try:
            yield
        finally:
            self._connections[session_id] -= 1
            if self._connections[session_id] <= 0:
                del self._connections[session_id]
            self._last_seen[session_id] = time.monotonic()

    def touch(self, session_id: str) -> None:
        """Somebody has just asked something in this session."""
        self._last_seen[session_id] = time.monotonic()

    def session_of(self, name: str) -> str:
        """The session that waits for an event of this id; a session's own id is one, too."""
        waiting = self.blocks._queue.pending_event_ids_session
        return next((session for session, events in list(waiting.items()) if name in events), name)

    def is_known(self, session_id: str) -> bool:
        """Whether there is something to tell the session."""
        return session_id in self.blocks._queue.pending_messages_per_session

    def forget_old(self) -> None:
        """Forget who has left, with what was posted and what was not collected."""
        queue, now = self.blocks._queue, time.monotonic()
        busy = {event.session_hash for event in list(queue.event_ids_to_events.values())}
        for session_id in {*self.session_data, *queue.pending_messages_per_session, *self._last_seen}:
            if session_id in busy or session_id in self._connections:
                continue
            session = self.session_data.get(session_id)
            keep_s = self.keep_s if session is not None and session.state_data else self.keep_empty_s
            if now - self._last_seen.setdefault(session_id, now) < keep_s:
                continue
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)
            queue.pending_messages_per_session.pop(session_id, None)
            queue.pending_event_ids_session.pop(session_id, None)
            del self._last_seen[session_id]


@contextlib.asynccontextmanager
async def keeping_sessions(app: Any) -> AsyncIterator[None]:
    """For the lifespan of the app: its sessions are ours."""
    sessions = app.state_holder = Sessions(app.get_blocks())

    async def forget() -> None:
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            sessions.forget_old()

    task = asyncio.create_task(forget())
    try:
        yield
    finally:
        task.cancel()
