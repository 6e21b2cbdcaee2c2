"""What other sites show of a link to the page: title, description and picture are ours, not Gradio's."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from wanact.ui.shares import POSTER, Shared

TITLE = "WanAct: fly a drone inside a video model"
DESCRIPTION = "Hold W A S D and the arrow keys: a video model draws what the drone sees while you fly. In your browser."
_MAX_WORDS = 90

_GRADIOS = re.compile(rb"""<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*|<meta\s+name="description"[^>]*>\s*""")


@dataclass(frozen=True)
class Preview:
    """Title, description and picture of a link.

    Attributes:
        picture, address: below the page's root, without a slash in front.
    """

    title: str = TITLE
    description: str = DESCRIPTION
    picture: str = "preview.jpg"
    address: str = ""

    @classmethod
    def of(cls, shared: Shared) -> Preview:
        """Of a flight that is shared."""
        words = " ".join(shared.record.prompt.split())
        words = words if len(words) <= _MAX_WORDS else f"{words[:_MAX_WORDS].rsplit(' ', 1)[0]}…"
        title = f"A flight of {shared.seconds:.0f} s" + (f": {words}" if words else "")
        description = "Watch it, and take over the controls wherever you like: the video model draws on from there."
        return cls(title, description, f"shared/{shared.id}/poster.jpg", f"?flight={shared.id}")

    def put_into(self, page: bytes, root: str) -> bytes:
        """The HTML of the page with this in its head; `root` is the page's address as visitors see it."""
        root = root.rstrip("/")
        width, height = POSTER
        said = {
            "og:type": "website",
            "og:site_name": "WanAct",
            "og:title": self.title,
            "og:description": self.description,
            "og:url": f"{root}/{self.address}",
            "og:image": f"{root}/{self.picture}",
            "og:image:width": str(width),
            "og:image:height": str(height),
            "twitter:card": "summary_large_image",
            "twitter:title": self.title,
            "twitter:description": self.description,
            "twitter:image": f"{root}/{self.picture}",
            "description": self.description,
        }
        tags = "".join(
            f'<meta {"property" if name.startswith("og:") else "name"}="{name}" content="{html.escape(value)}" />\n'
            for name, value in said.items()
        )
        head, found, rest = _GRADIOS.sub(b"", page).partition(b"<head>")
        return head + found + b"\n" + tags.encode() + rest if found else page
