"""The pictures and the films of Live: python -m tests.ui.live_pictures [--only film] [--out DIR].

Without --url it serves the page itself, on the bundled world. A film is the page as it was seen: keys are held as
somebody flies, and its frames are put together with the times at which they were on the screen. `--only phone` films
the cockpit of a phone that is held sideways, under two thumbs. `--only minute` films the first minute of somebody new,
the whole screen from the page's opening on: minute-1440.mp4 and minute-1440.webp, which the README shows, and
minute-390.mp4 and .webp on a phone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import ROOT, find_chromium
from tests.ui.screenshots import SIZES, served
from wanact.bench.live_browser import ARGUMENTS, BrowserError, open_live, take_off
from wanact.media.video import write_mp4

STAGE = "#live-stage"
LIVE = f"document.querySelector('{STAGE} .live').wanact"
MINUTE_WIDTH = 960  # of its film on a wide screen
LOOK_MS, HELD = 2500, 5  # as long somebody new looks at what has come, and holds a key, in latent frames
STEP_S = 180
FILM_FPS, FILM_WIDTH, MAX_BYTES = 12, 640, 3_000_000
# Key by key: what is held from when to when, in seconds.
FLIGHT = (
    ("w", 0.8, 7.5),
    ("ArrowRight", 2.0, 4.2),
    ("ArrowUp", 4.8, 5.8),
    ("ArrowDown", 6.0, 7.0),
    ("ArrowLeft", 7.8, 11.0),
    ("w", 9.0, 14.0),
    ("d", 11.6, 13.2),
    ("ArrowRight", 14.2, 16.8),
    ("s", 17.0, 18.6),
    ("a", 18.0, 19.4),
)


PHONE = 844, 390  # held sideways
# From when on the thumbs hold what: right and up on the moving stick, and on the looking one.
THUMBS = (
    (0.8, (0, 1), (0, 0)),
    (2.5, (0, 1), (0.8, 0)),
    (4.5, (0, 1), (0, 0.5)),
    (5.5, (0, 1), (-0.9, -0.3)),
    (8.0, (0.7, 0.7), (0, 0)),
    (10.0, (0, 1), (0.6, 0)),
    (14.0, (-0.6, 0.6), (-0.6, 0)),
    (18.0, (0, 0), (0, 0)),
)


def take(url: str, out: Path, playwright) -> None:
    """One picture for each width and mode, with keys held in flight."""
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
    for width, height in SIZES.items():
        for mode in ("light", "dark"):
            phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=mode, **phone)
            page.set_default_timeout(300_000)
            open_live(page, url)
            take_off(page)
            page.keyboard.down("w")
            page.wait_for_timeout(2500)
            page.keyboard.down("ArrowRight")
            page.wait_for_timeout(700)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=out / f"live-{width}-{mode}.png", full_page=bool(phone))
            page.close()
    browser.close()


def film_minute(url: str, out: Path, browser, width: int, speed: float = 1.0) -> None:
    """What somebody new does: looks, takes off with the first key, flies, lands, shares, has a clip drawn, and looks at
    the checkpoints and the comparison; minute-<width>.mp4 and .webp.

    A step begins when the one before has been answered, so that a slow machine films the same, in more time; there it
    may be played so many times as fast, which is to be said where it is shown.

    Raises:
        BrowserError: with the page's own words, if it does not fly or draws no clip.
        playwright.sync_api.TimeoutError: if a step is not answered within STEP_S.
    """
    is_phone = width < 500
    more = {"has_touch": True, "is_mobile": True} if is_phone else {}
    page = browser.new_page(viewport={"width": width, "height": SIZES[width]}, **more)
    page.set_default_timeout(1000 * STEP_S)
    wide = min(width, MINUTE_WIDTH)
    try:
        with filming(page, wide) as shots:
            page.goto(url)
            page.wait_for_selector(f"{STAGE} .chosen:not([hidden])")
            page.wait_for_timeout(LOOK_MS)
            (fly_with_thumbs if is_phone else fly_with_keys)(page)
            land_and_share(page)
            for place, show in (("fly", draw_clip), ("checkpoints", show_best), ("compare", show_lanes)):
                page.click(f"#place-{place}-button")
                show(page)
                page.wait_for_timeout(LOOK_MS)
    finally:
        page.close()
    frames = film_frames(shots, width=wide, speed=speed)
    write_mp4(frames, out / f"minute-{width}.mp4", fps=FILM_FPS)
    write_webp(frames, out / f"minute-{width}.webp")


def fly_with_keys(page) -> None:
    """W takes off; then each turn."""
    page.locator(STAGE).click(position={"x": 300, "y": 200})
    page.keyboard.down("w")
    see_it_fly(page)
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        fly_on(page, "w")
        fly_on(page, "w", key)
        page.keyboard.up(key)
    page.keyboard.up("w")
    page.wait_for_timeout(LOOK_MS / 3)


def fly_on(page, *keys: str) -> None:
    """Hold keys for HELD latent frames, whatever time they take. A page that has heard nothing for some seconds lets go
    of all keys, as it should; then they are held again."""
    end = page.evaluate(f"{LIVE}.shown.t") + HELD
    for _ in range(20):
        for key in keys:
            page.keyboard.down(key)
        page.wait_for_function(f"{LIVE}.shown.t >= {end} || {LIVE}.held.every(value => value === 0)")
        if page.evaluate(f"{LIVE}.shown.t") >= end or page.evaluate(f"{LIVE}.state") != "flying":
            return


def fly_with_thumbs(page) -> None:
    """The button takes off; then both sticks."""
    page.tap(f"{STAGE} [data-do=takeoff]")
    see_it_fly(page)
    thumbs = Thumbs(page)
    for move, look in (((0, 1), (0, 0)), ((0, 1), (0.8, 0)), ((0, 1), (0, 0.5)), ((0.7, 0.7), (-0.8, -0.3))):
        thumbs.hold(move, look)
        page.wait_for_timeout(LOOK_MS)
    thumbs.let_go()
    page.wait_for_timeout(LOOK_MS / 3)


def see_it_fly(page) -> None:
    """Wait for the first pictures of a flight."""
    page.wait_for_function(f"{LIVE}.state === 'failed' || ({LIVE}.state === 'flying' && {LIVE}.shown.i > 8)")
    if page.evaluate(f"{LIVE}.state") == "failed":
        raise BrowserError(page.inner_text(f"{STAGE} .notice span"))


def land_and_share(page) -> None:
    """Land, unless the flight has landed by itself, and have a link to it with its poster."""
    if page.locator(f"{STAGE} [data-do=land]").is_visible():
        page.click(f"{STAGE} [data-do=land]")
    page.wait_for_selector(f"{STAGE} [data-state=landed]")
    page.wait_for_timeout(LOOK_MS / 2)
    page.click(f"{STAGE} [data-do=share]")
    page.wait_for_selector("#live-shared .shared.ready")
    page.wait_for_function(
        "(poster => poster.complete && poster.naturalWidth)(document.querySelector('#live-shared .poster'))"
    )
    page.locator("#live-shared .shared").scroll_into_view_if_needed()
    page.wait_for_timeout(LOOK_MS)


def draw_clip(page) -> None:
    """A clip of what is chosen already, which plays while it is drawn."""
    page.wait_for_selector("#plan td[data-c]")
    page.wait_for_selector("#frame img")
    page.wait_for_timeout(LOOK_MS / 2)
    page.click("#generate")
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_selector("#viewer .viewer:is([data-status=done], [data-status=failed])")
    if page.get_attribute("#viewer .viewer", "data-status") == "failed":
        raise BrowserError(page.inner_text("#viewer .notice"))
    page.wait_for_timeout(LOOK_MS)


def show_best(page) -> None:
    """The list of checkpoints with a card."""
    page.wait_for_selector("#ledger .ledger[data-status=ready]")
    page.evaluate("scrollTo(0, 0)")


def show_lanes(page) -> None:
    """The lanes that are compared by default."""
    page.wait_for_selector("#lanes .lane >> nth=1")
    page.evaluate("scrollTo(0, 0)")


def film(url: str, out: Path, playwright, seconds: float) -> None:
    """A flight as mp4 and GIF, from what Chromium had on its screen."""
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
    page = browser.new_page(viewport={"width": 900, "height": 760})
    page.set_default_timeout(300_000)
    open_live(page, url)
    take_off(page)
    page.evaluate(f"document.querySelector('{STAGE} .live').style.padding = '6px'")
    page.evaluate(f"document.querySelector('{STAGE}').scrollIntoView({{block: 'start'}})")
    boxes = [page.locator(f"{STAGE} {part}").bounding_box() for part in (".screen", ".timeline", ".cockpit")]
    sides = [box["x"] for box in boxes] + [box["x"] + box["width"] for box in boxes]
    area = [min(sides) - 8, boxes[0]["y"] - 8, max(sides) + 8, boxes[2]["y"] + boxes[2]["height"] + 6]
    moves = sorted([(start, "down", key) for key, start, _ in FLIGHT] + [(end, "up", key) for key, _, end in FLIGHT])
    with filming(page) as shots:
        begin = time.monotonic()
        for at, kind, key in moves:
            if at < seconds:
                page.wait_for_timeout(max(0.0, 1000 * (begin + at - time.monotonic())))
                getattr(page.keyboard, kind)(key)
        page.wait_for_timeout(max(0.0, 1000 * (begin + seconds - time.monotonic())))
    browser.close()
    write_film(shots, area, out)


def film_phone(url: str, out: Path, playwright, seconds: float) -> None:
    """The same on a phone that is held sideways: live-phone.mp4."""
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
    width, height = PHONE
    page = browser.new_page(viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)
    page.set_default_timeout(300_000)
    open_live(page, url)
    take_off(page)
    thumbs = Thumbs(page)
    with filming(page) as shots:
        begin = time.monotonic()
        for at, move, look in THUMBS:
            if at < seconds:
                page.wait_for_timeout(max(0.0, 1000 * (begin + at - time.monotonic())))
                thumbs.hold(move, look)
        page.wait_for_timeout(max(0.0, 1000 * (begin + seconds - time.monotonic())))
        thumbs.let_go()
    browser.close()
    write_mp4(film_frames(shots, [0, 0, width, height]), out / "live-phone.mp4", fps=FILM_FPS)


class Thumbs:
    """Two fingers on the sticks of a page."""

    def __init__(self, page):
        self.touch = page.context.new_cdp_session(page)
        self.boxes = [page.locator(f"{STAGE} .stick.{group}").bounding_box() for group in ("move", "look")]
        self.down = False

    def hold(self, move: tuple[float, float], look: tuple[float, float]) -> None:
        """Each a share of the stick's reach, to the right and up."""
        if not self.down:
            self._send("touchStart", (0, 0), (0, 0))
        self._send("touchMove", move, look)

    def let_go(self) -> None:
        """Both."""
        self.touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        self.down = False

    def _send(self, kind: str, *places: tuple[float, float]) -> None:
        points = [
            {
                "x": box["x"] + box["width"] * (0.5 + 0.36 * right),
                "y": box["y"] + box["height"] * (0.5 - 0.36 * up),
                "id": number,
            }
            for number, (box, (right, up)) in enumerate(zip(self.boxes, places, strict=True))
        ]
        self.touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self.down = True


@contextlib.contextmanager
def filming(page, width: int | None = None) -> Iterator[list[tuple[float, bytes]]]:
    """What Chromium has on its screen meanwhile: when, and as JPEG; the last one also as long as it stood there.

    Args:
        page: what is filmed.
        width: at most so many pixels; the browser makes them smaller itself, which on a busy machine leaves more time
            for what is filmed, and is what takes longest afterwards.
    """
    shots: list[tuple[float, bytes]] = []
    cast = page.context.new_cdp_session(page)

    def keep(event: dict) -> None:
        shot = event["metadata"]["timestamp"], base64.b64decode(event["data"])
        is_soon = len(shots) > 1 and shot[0] - shots[-2][0] < 0.5 / FILM_FPS
        shots[-1 if is_soon else len(shots) :] = [shot]  # more than the film shows would only take memory
        cast.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    cast.on("Page.screencastFrame", keep)
    size = {} if width is None else {"maxWidth": width, "maxHeight": 10_000}
    cast.send("Page.startScreencast", {"format": "jpeg", "quality": 90, "everyNthFrame": 2, **size})
    yield shots
    cast.send("Page.stopScreencast")
    if len(shots) < 2:
        raise SystemExit("Chromium gave no pictures of its screen")
    shots.append((max(time.time(), shots[-1][0]), shots[-1][1]))


def film_frames(
    shots: list[tuple[float, bytes]], area: list[float] | None = None, width: int = FILM_WIDTH, speed: float = 1.0
) -> list[np.ndarray]:
    """An area of the screen, or all of it, at FILM_FPS and so many times as fast, so many pixels wide; what stands
    still is one array."""
    times = np.array([at for at, _ in shots]) - shots[0][0]
    frames: list[np.ndarray] = []
    before = None
    for tick in np.arange(0, times[-1], speed / FILM_FPS):
        number = int(np.searchsorted(times, tick, side="right")) - 1
        if number == before:
            frames.append(frames[-1])
            continue
        before = number
        picture = Image.open(io.BytesIO(shots[number][1])).convert("RGB")
        if area is not None:
            picture = picture.crop(tuple(area))
        height = round(width * picture.height / picture.width / 2) * 2
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        frames.append(np.asarray(picture))
    return frames


def write_webp(frames: list[np.ndarray], path: Path) -> None:
    """The film as WebP, which a README shows, in the best quality that stays below MAX_BYTES."""
    some = [Image.fromarray(frame) for frame in frames]
    for quality, step in ((70, 1), (50, 1), (50, 2), (30, 2), (20, 3)):
        few = some[::step]
        duration = round(1000 * step / FILM_FPS)
        few[0].save(path, save_all=True, append_images=few[1:], duration=duration, loop=0, quality=quality, method=2)
        if path.stat().st_size < MAX_BYTES:
            return


def write_film(shots: list[tuple[float, bytes]], area: list[float], out: Path) -> None:
    """live.mp4, and live.gif in the best quality that stays below MAX_BYTES."""
    frames = [Image.fromarray(frame) for frame in film_frames(shots, area)]
    write_mp4([np.asarray(frame) for frame in frames], out / "live.mp4", fps=FILM_FPS)
    for width, colours, step in ((480, 128, 1), (420, 96, 1), (400, 64, 2), (320, 48, 2), (280, 32, 3)):
        size = (width, round(width * frames[0].height / frames[0].width))
        few = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames[::step]]
        some = np.concatenate([np.asarray(frame) for frame in few[:: max(1, len(few) // 16)]])
        palette = Image.fromarray(some).quantize(colours)  # of the whole film: it begins under another sky than it ends
        drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in few]
        duration = 1000 * step // FILM_FPS
        drawn[0].save(
            out / "live.gif", save_all=True, append_images=drawn[1:], duration=duration, loop=0, optimize=True
        )
        if (out / "live.gif").stat().st_size < MAX_BYTES:
            return


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a page that is served already")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--only", choices=("pictures", "film", "phone", "minute"), help="one of them")
    parser.add_argument("--seconds", type=float, default=20.0, help="of film")
    parser.add_argument("--speed", type=float, default=1.0, help="the film of the first minute plays so much faster")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "assets" / "nano")
    parser.add_argument("--runs", type=Path, default=ROOT / "assets" / "runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    app = contextlib.nullcontext(args.url) if args.url else served(args.model_dir, args.runs)
    with app as url, sync_playwright() as playwright:
        if args.only in (None, "pictures"):
            take(url, args.out, playwright)
        if args.only in (None, "film"):
            film(url, args.out, playwright, args.seconds)
        if args.only in (None, "phone"):
            film_phone(url, args.out, playwright, args.seconds)
        if args.only in (None, "minute"):
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
            for width in SIZES:
                film_minute(url, args.out, browser, width, args.speed)
            browser.close()


if __name__ == "__main__":
    main()
