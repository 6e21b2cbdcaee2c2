"""Who may write notes, stars and cards into the runs: whoever has opened the address that the terminal prints.

Where a request comes from says nothing: behind a proxy every visitor comes from 127.0.0.1, and a page of somebody else
may post to an app that runs at home. So writing takes a token; the address carries it once, then a cookie does.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

QUERY = "edits"


class Edits:
    """The right to write, as a token that only the terminal is told.

    Args:
        token: None where nobody may write; `Edits.new` makes one.
    """

    def __init__(self, token: str | None = None):
        self._token = token
        # Two apps on one host share its cookies, so that each needs a name of its own.
        self.cookie = f"wanact-edits-{hashlib.sha256((token or '').encode()).hexdigest()[:12]}"

    @classmethod
    def new(cls) -> Edits:
        """With a token that nobody has seen."""
        return cls(secrets.token_urlsafe(24))

    @property
    def are_possible(self) -> bool:
        """Whether somebody may write."""
        return self._token is not None

    def address(self, url: str) -> str:
        """What the owner opens once, in each browser that may write."""
        return f"{url}?{QUERY}={self._token}"

    def holds(self, token: str | None) -> bool:
        """Whether this is the token."""
        return self._token is not None and secrets.compare_digest(self._token.encode(), (token or "").encode())

    def allow(self, request: Any) -> bool:
        """Whether a request comes from a browser that has opened the address.

        Args:
            request: a gr.Request, or None for a call from inside.
        """
        return self.are_possible and request is not None and self.holds(dict(request.cookies).get(self.cookie))
