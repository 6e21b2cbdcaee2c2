"""The speed card of a live flight as a visitor has it: the page in headless Chromium, on the same machine."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wanact.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio"
).split()
KEYS = ("w", "s", "a", "d", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
START_S, FIRST_FRAME_S, LIST_S = 300, 120, 30
_LIVE = "document.querySelector('#live-stage .live').wanact"
_STAGE = "#live-stage"


class BrowserError(UserError):
    """The page cannot be measured here; the message says what is missing."""


def bench_browser(
    model_dir: str, runs: Path, seconds: float, run: str | None = None, threads: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Start the app, fly in headless Chromium with one key after another, and ask the page what it has seen.

    Args:
        model_dir, runs: as `app.py` takes them.
        seconds: of flight.
        run: name of the run to fly; None for the page's own choice.
        threads: CPU threads of the app.
        seed: which keys are pressed, and for how long.

    Returns:
        `shown_fps`, `key_to_frame_ms_p50` and `_p95` from a key's event until a frame that the model drew with it is
        on the canvas, `key_to_pixel_ms_p50` and `_p95` until anything that follows the key is on the screen,
        `frames_missed`, `page_first_frame_ms`, the shares of transformer, decoder and transport in the time of a
        latent frame, and `handoff_warped` and `handoff_plain`: how far the predicted and the older picture are from
        the frame that came, of 255.

    Raises:
        BrowserError: without Playwright or Chromium, or if the app or the flight does not start.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise BrowserError("--browser needs Playwright: pip install -r requirements-dev.txt") from error
    chromium = os.environ.get("WANACT_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        raise BrowserError("--browser needs Chromium: install it, or name it in WANACT_CHROMIUM")
    with serve(model_dir, runs, threads) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(1000 * FIRST_FRAME_S)
            open_live(page, url, run)
            take_off(page)
            press_keys(page, seconds, random.Random(seed))
            measured = page.evaluate(f"{_LIVE}.measure()")
            page.click(f"{_STAGE} [data-do=land]")
        except Error as error:
            raise BrowserError(f"the flight could not be measured: {str(error).splitlines()[0]}") from error
        finally:
            browser.close()
    handoff = measured.pop("handoff") or {}
    return {
        **{name: value for name, value in measured.items() if not name.startswith(("share_", "engine", "first"))},
        "page_first_frame_ms": measured["first_frame_ms"],
        "page_share_transformer": measured["share_transformer"],
        "page_share_decoder": measured["share_decoder"],
        "share_transport": measured["share_transport"],
        "handoff_warped": handoff.get("warped"),
        "handoff_plain": handoff.get("plain"),
        "handoff_trials": handoff.get("trials", 0),
    }


def format_browser(result: dict[str, Any]) -> str:
    """The result as a table for people."""

    def number(name: str, width: int = 8) -> str:
        value = result.get(name)
        return f"{value:{width}.1f}" if isinstance(value, int | float) else "–".rjust(width)

    lines = [
        "in headless Chromium on this machine",
        f"frames shown a second {number('shown_fps')}, {result['frames_missed']} missed",
        f"first frame           {number('page_first_frame_ms')} ms",
        f"key to drawn frame    {number('key_to_frame_ms_p50')} ms, 95% within {number('key_to_frame_ms_p95', 0)} ms "
        f"({result['keys_measured']} keys)",
        f"key to first pixel    {number('key_to_pixel_ms_p50')} ms, 95% within {number('key_to_pixel_ms_p95', 0)} ms",
        "  ".join(
            f"{name} {result[key]:.0%}"
            for name, key in (
                ("transformer", "page_share_transformer"),
                ("decoder", "page_share_decoder"),
                ("transport", "share_transport"),
            )
            if result[key] is not None
        ),
        f"prediction off by     {number('handoff_warped')} of 255, without it {number('handoff_plain', 0)} "
        f"({result['handoff_trials']} keys)",
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def serve(model_dir: str, runs: Path, threads: int | None = None, more: Sequence[str] = ()) -> Iterator[str]:
    """The address of an app of our own, while it runs; `more` are further arguments of `app.py`.

    Raises:
        BrowserError: if it does not answer within START_S.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--model_dir", model_dir, "--runs", str(runs), *more]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}/"
    try:
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise BrowserError(f"the app did not start (exit code {process.poll()})")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def open_live(page: Any, url: str, run: str | None = None) -> None:
    """Open the Fly page, and choose a run.

    Raises:
        BrowserError: if the run is not offered there.
    """
    page.goto(url)
    page.get_by_role("tab", name="Fly", exact=True).click()
    page.wait_for_selector(f"{_STAGE} [data-do=takeoff]")
    page.wait_for_selector("#live-frame img")
    if run is not None:
        from playwright.sync_api import TimeoutError

        page.click("#live-advanced button >> nth=0")
        choices = page.locator("#live-checkpoint select")
        wanted = choices.locator(f'option[value^="{run}/"]').first
        try:  # the page is there before its list of checkpoints is
            wanted.wait_for(state="attached", timeout=1000 * LIST_S)
        except TimeoutError as error:
            raise BrowserError(f"the run {run} has no causal checkpoint; `python -m train causal` makes one") from error
        choices.select_option(wanted.get_attribute("value"))


def take_off(page: Any) -> None:
    """Fly, until some frames are there.

    Raises:
        BrowserError: with the page's own words, if it does not fly.
    """
    page.click(f"{_STAGE} [data-do=takeoff]")
    page.wait_for_function(f"{_LIVE}.state === 'failed' || {_LIVE}.numbers.shown.length > 8")
    if page.evaluate(f"{_LIVE}.state") == "failed":
        raise BrowserError(page.inner_text(f"{_STAGE} .notice span"))


def press_keys(page: Any, seconds: float, rng: random.Random) -> None:
    """One key after another, held for about a second, with a rest between, as somebody does who tries the controls."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        key = rng.choice(KEYS)
        page.keyboard.down(key)
        page.wait_for_timeout(1000 * rng.uniform(0.7, 1.5))
        page.keyboard.up(key)
        page.wait_for_timeout(1000 * rng.uniform(0.7, 1.2))
