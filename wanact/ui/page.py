"""The whole site: one page for each place, in one gr.Blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from wanact.ui import cache, shares
from wanact.ui.api import expose
from wanact.ui.beat import header, hold_no_connections
from wanact.ui.doors import Doors
from wanact.ui.edits import Edits
from wanact.ui.engine import Engine
from wanact.ui.modules import routes
from wanact.ui.pages.checkpoints.layout import build_checkpoints
from wanact.ui.pages.compare.layout import build_compare
from wanact.ui.pages.data import desk as data_desk
from wanact.ui.pages.data.layout import build_data
from wanact.ui.pages.fly.layout import build_fly
from wanact.ui.pages.live.layout import build_live
from wanact.ui.places import keep_places
from wanact.ui.quota import Quota, RoomForUploads
from wanact.ui.sessions import keeping_sessions
from wanact.ui.site import Site
from wanact.ui.theme import SHARED, looks, theme

# A place is an id, what its tab says, and a function that lays it out; the next one is one more line. The function gets
# the engine and the state that holds the last frame of a visitor's clip, and returns False if there is nothing to do in
# this place yet. The page opens on the first place in which there is. `web/address.js` has the names in the address.
PLACES: list[tuple[str, str, Callable[[Engine, gr.State], bool | None]]] = [
    ("live", "Fly", build_live),
    ("fly", "Plan a clip", build_fly),
    ("checkpoints", "Checkpoints", build_checkpoints),
    ("compare", "Compare", build_compare),
]
# Where there are data sets to look at, they come last.
DATA = ("data", "Data")

MAX_UPLOAD = "64mb"
MAX_THREADS = 64  # each flight that waits or flies keeps one busy
_CLEAN_EVERY_S, _KEEP_S = 600, 3600


def build_page(engine: Engine) -> gr.Blocks:
    """The page for a loaded model."""
    cache.make_own()
    desk = data_desk.DataDesk(engine, engine.data) if engine.data else None
    places = [*PLACES, *([(*DATA, partial(build_data, desk))] if desk is not None else [])]
    with Site(
        title="WanAct: fly a drone inside a video model",
        analytics_enabled=False,
        delete_cache=(_CLEAN_EVERY_S, _KEEP_S),
        fill_width=True,
    ) as demo:
        header()
        last_frame = gr.State(None, time_to_live=3600)
        with gr.Tabs(elem_id="places", overflow_behavior="wrap") as tabs:
            ready = []
            for place, name, build in places:
                # A place that is left goes on. By the id of its tab, components know in the browser where they stand.
                with gr.Tab(name, id=place, elem_id=f"place-{place}", render_children=True):
                    if build(engine, last_frame) is not False:
                        ready.append(place)
            tabs.selected = ready[0]
        expose(engine)
    demo.shares, demo.data = engine.shares, desk
    demo.queue(max_size=None, default_concurrency_limit=8, api_open=False)  # everything goes through places
    quota = Quota(demo)
    chores = [quota.enforce, quota.tidy, engine.uploads.forget_old, engine.shares.forget_old]
    keep_places(demo, chores=chores, at_rest=[engine.rest])
    hold_no_connections(demo)
    return demo


def launch_options(edits: Edits | None = None, embedded_in: Sequence[str] = ()) -> dict[str, Any]:
    """How every launch of the page is set up: its looks, its limits, its doors, and nothing from the network.

    Args:
        edits: who may write, as the engine has it.
        embedded_in: origins whose pages may show this one in a frame.
    """
    doors = Middleware(Doors, edits=edits or Edits(), embedded_in=embedded_in)
    return {
        "theme": theme(),
        "css": looks(),
        "favicon_path": SHARED / "favicon.svg",
        "max_file_size": MAX_UPLOAD,
        "footer_links": ["api", "settings"],
        "show_error": True,
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "quiet": True,
        # Nothing but Gradio's look at the page within three seconds hangs on it, and on a busy machine that look ended
        # an app that was well: its startup had been asked for and answered before.
        "_frontend": False,
        "max_threads": MAX_THREADS,
        "app_kwargs": {
            "routes": [*routes(), *shares.routes(), *data_desk.routes()],
            "middleware": [doors, Middleware(RoomForUploads)],
            "lifespan": keeping_sessions,
        },
    }
