"""A page's sign of life: a short request now and then, instead of a connection that each tab holds open.

Browsers open six connections to a host, over all tabs. With Gradio's heartbeat, a stream for each tab, the sixth tab
did not load, and of three tabs with flights, which have a stream each as well, none got an answer.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from wanact.ui.modules import mounting
from wanact.ui.theme import asset


def header() -> gr.HTML:
    """The page's head, whose script (`web/header.js`) beats: each beat names a session that is still in use."""

    def beat(_message: Any) -> dict[str, bool]:
        return {"alive": True}

    return gr.HTML(asset("header.html"), elem_id="header", js_on_load=mounting("header"), server_functions=[beat])


def hold_no_connections(page: gr.Blocks) -> None:
    """Have browsers and programs open no heartbeat to a page."""
    config_of = page.get_config_file

    def get_config_file(*args: Any, **kwargs: Any) -> Any:
        return config_of(*args, **kwargs) | {"connect_heartbeat": False}

    page.get_config_file = get_config_file
