"""Who is asking, inside of a handler of the page, and whether they still wait for the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

from gradio.context import LocalContext


def current() -> Hashable:
    """Whose time the work of this handler counts as: the address that the request came from; outside of a page, the
    thread.

    Visitors behind a proxy that does not pass their addresses on count as one, and take turns among themselves.
    """
    address = address_of(LocalContext.request.get(None))
    return address or threading.get_ident()


def address_of(request: Any) -> str | None:
    """Where a request comes from, as far as the server knows."""
    client = getattr(request, "client", None)
    return getattr(client, "host", None)


def waits() -> Callable[[], bool]:
    """Tells, from then on and in any thread, whether somebody waits for the answer of this handler."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:
        return lambda: True
    event = blocks._queue.event_ids_to_events.get(event_id)
    return lambda: event is None or event.alive
