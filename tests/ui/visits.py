"""What every test in a browser needs: a page that is served, and visitors whose consoles are watched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from wanact.ui.page import launch_options

# What Chromium says of a request that its page has left, by its version.
ABORTED = ("AbortError: signal is aborted without reason", "AbortError: BodyStreamBuffer was aborted")
CUT_OFF = "Unexpected error Connection errored out."


@contextlib.contextmanager
def serving(demo: gr.Blocks, options: dict[str, Any] | None = None, **more: Any) -> Iterator[str]:
    """Serve a page to this machine; the address. `options` are `launch_options()` if they are not given."""
    options = launch_options() if options is None else options
    _, url, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, **options, **more)
    try:
        yield url
    finally:
        demo.close()


class Console:
    """The errors in the console of one page.

    Left out is what Gradio's client writes as a page is left (a reload, another address) in the middle of an answer:
    its `beforeunload` aborts the stream, and it reports that to itself as a connection that broke. Nobody sees it,
    for the page is gone. A connection that breaks while the page stands is reported without the first of the two.
    """

    def __init__(self, page, problems: list[str]):
        self.problems, self.is_leaving = problems, False
        page.on("console", lambda message: self.note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(f"{error} {error.stack}"))
        page.on("framenavigated", lambda frame: self.arrive() if frame == page.main_frame else None)

    def note(self, text: str) -> None:
        if text.startswith(ABORTED) and "/assets/" in text and "/modules/" not in text:  # Gradio's code, none of ours
            self.is_leaving = True
        elif not (self.is_leaving and text.startswith(CUT_OFF)):
            self.problems.append(text)

    def arrive(self) -> None:
        self.is_leaving = False


class Visits:
    """Opens the page as new visitors and notes every error in the console and every request to another host."""

    def __init__(self, browser, url: str):
        self.browser, self.url = browser, url
        self.problems, self.contexts = [], []

    def open(self, width=1440, height=1000, **options):
        """An empty page of a new visitor."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        Console(page, self.problems)
        page.on("request", lambda request: self.note_foreign(request.url))
        return page

    def open_at(self, address, parts, *, timeout_ms=120_000, state="visible", **options):
        """The page of a new visitor at an address, once these parts of it are there."""
        page = self.open(**options)
        page.set_default_timeout(timeout_ms)
        page.goto(address)
        for part in parts:
            page.wait_for_selector(part, state=state)
        return page

    def __call__(self, width=1440, height=1000, **options):
        page = self.open(width, height, **options)
        page.goto(self.url)
        page.wait_for_selector("#plan td[data-c]")
        page.wait_for_selector("#frame img")
        return page

    def note_foreign(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.problems.append(url)

    def end(self) -> None:
        for context in self.contexts:
            context.close()
        assert not self.problems, self.problems


def press(page, button: str, start: str, done: str) -> None:
    """Press a button and wait until what it starts is done.

    Args:
        start: the event of the page's own that tells of the start. What is shown may pass faster than one can look.
        done: what is there when it is done; it may have been there before the press.
    """
    page.evaluate(
        """name => {
            window.hasStarted = false;
            document.addEventListener(name, () => { window.hasStarted = true; }, {once: true});
        }""",
        start,
    )
    page.click(button)
    page.wait_for_function("done => window.hasStarted && document.querySelector(done)", arg=done)
