"""A desk for live flights on the tiny model, and a visitor who listens, answers and holds keys."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from tests.flying.test_stream import write_causal_run
from tests.ui.visits import serving
from wanact.flying.pipeline import WanActPipeline
from wanact.ui import cache
from wanact.ui.engine import Engine
from wanact.ui.pages.live.desk import LiveDesk, LiveLimits
from wanact.ui.pages.live.layout import build_live
from wanact.ui.site import Site
from wanact.ui.turns import Line

FORWARD, RIGHT = [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]
NONE = [0] * 8


def slowed(monkeypatch, owner: type, name: str, seconds: float) -> None:
    """Let a method take at least so long, as that of a real model does: who looks at a page sees what happens before
    it is done."""
    method = getattr(owner, name)

    def slow(*args, **kwargs):
        time.sleep(seconds)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def make_desk(model_dir: Path, runs: Path, fps: float = 200.0, **limits: Any) -> LiveDesk:
    """A desk with a causal run `live` and one that draws whole clips; so fast that no test waits for the clock."""
    if not (runs / "live").exists():
        runs.mkdir(exist_ok=True)
        write_causal_run(runs / "live")
    pipe = WanActPipeline.from_model_dir(model_dir)
    pipe.defaults["fps"] = fps
    return LiveDesk(Engine(pipe, runs), LiveLimits(**limits))


@contextlib.contextmanager
def live_alone(desk: LiveDesk) -> Iterator[str]:
    """Address of a page with Fly alone."""
    cache.make_own()
    with Site(analytics_enabled=False) as demo:
        build_live(desk.engine, gr.State(None), desk)
    demo.shares = desk.engine.shares
    demo.queue(default_concurrency_limit=8)
    with serving(demo) as url:
        yield url


def nobody_flies(line: Line) -> bool:
    """Whether as many as may fly could take off now."""
    tickets = [line.enter("no checkpoint") for _ in range(line.max_flights)]
    places = [line.place(ticket) for ticket in tickets]
    for ticket in tickets:
        line.leave(ticket)
    return not any(places)


class Visitor:
    """Takes off and listens. Every picture is acknowledged at once unless `acknowledges` is off."""

    def __init__(self, desk: LiveDesk, picture: Path, order: dict | None = None, **settings: Any):
        settings = {"prompt": "a lake", "checkpoint": None, "seed": 3} | settings
        self.desk = desk
        self.messages = desk.fly(order or {}, str(picture), **settings)
        self.flight = ""
        self.n = 0
        self.newest = 0
        self.heard: list[dict[str, Any]] = []
        self.acknowledges = True

    def tell(self, **message: Any) -> int:
        """Say something; the number of the message."""
        self.n += 1
        assert self.desk.control({"flight": self.flight, "n": self.n, **message})["known"]
        return self.n

    def hear(self) -> dict[str, Any]:
        """The next message."""
        message = next(self.messages)
        self.heard.append(message)
        self.flight = message.get("flight", self.flight)
        if message["kind"] == "frames":
            self.newest = message["i"] + len(message["f"]) - 1
            if self.acknowledges:
                self.tell(ack=self.newest)
        return message

    def until(self, kind: str, **values: Any) -> dict[str, Any]:
        """The next message of a kind, with these values."""
        for _ in range(200):
            message = self.hear()
            if message["kind"] == kind and all(message.get(name) == value for name, value in values.items()):
                return message
        raise AssertionError(f"no {kind} {values} among {[message['kind'] for message in self.heard]}")

    def fly(self, latent_frames: int) -> list[bytes]:
        """So many latent frames more; their pictures."""
        pictures = []
        while len(pictures) < 4 * latent_frames:
            pictures += [base64.b64decode(picture) for picture in self.until("frames")["f"]]
        return pictures
