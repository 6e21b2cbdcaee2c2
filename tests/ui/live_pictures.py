"""The pictures and the film of Live that stand in docs/: python -m tests.ui.live_pictures [--only film] [--out DIR].

Without --url it serves the page itself, on the bundled world. The film is the page as it was seen: keys are held as
somebody flies, and its frames are put together with the times at which they were on the screen.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import ROOT, find_chromium
from tests.ui.screenshots import SIZES, served
from wanact.bench.live_browser import ARGUMENTS, open_live, take_off
from wanact.media.video import write_mp4

STAGE = "#live-stage"
FILM_FPS, FILM_WIDTH, MAX_BYTES = 12, 640, 4_000_000
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
    shots: list[tuple[float, bytes]] = []
    cast = page.context.new_cdp_session(page)

    def keep(event: dict) -> None:
        shots.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        cast.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    cast.on("Page.screencastFrame", keep)
    cast.send("Page.startScreencast", {"format": "jpeg", "quality": 90, "everyNthFrame": 2})
    moves = sorted([(start, "down", key) for key, start, _ in FLIGHT] + [(end, "up", key) for key, _, end in FLIGHT])
    begin = time.monotonic()
    for at, kind, key in moves:
        if at < seconds:
            page.wait_for_timeout(max(0.0, 1000 * (begin + at - time.monotonic())))
            getattr(page.keyboard, kind)(key)
    page.wait_for_timeout(max(0.0, 1000 * (begin + seconds - time.monotonic())))
    cast.send("Page.stopScreencast")
    browser.close()
    if len(shots) < 2:
        raise SystemExit("Chromium gave no pictures of its screen")
    write_film(shots, area, out)


def write_film(shots: list[tuple[float, bytes]], area: list[float], out: Path) -> None:
    """live.mp4, and live.gif in the best quality that stays below 4 MB."""
    times = np.array([at for at, _ in shots]) - shots[0][0]
    ticks = np.arange(0, times[-1], 1 / FILM_FPS)
    wanted = [shots[int(np.searchsorted(times, tick, side="right")) - 1][1] for tick in ticks]
    frames = []
    for data in wanted:
        picture = Image.open(io.BytesIO(data)).convert("RGB").crop(tuple(area))
        height = round(FILM_WIDTH * picture.height / picture.width / 2) * 2
        frames.append(picture.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS))
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
    parser.add_argument("--only", choices=("pictures", "film"), help="one of the two")
    parser.add_argument("--seconds", type=float, default=20.0, help="of film")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "assets" / "nano")
    parser.add_argument("--runs", type=Path, default=ROOT / "assets" / "runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    app = contextlib.nullcontext(args.url) if args.url else served(args.model_dir, args.runs)
    with app as url, sync_playwright() as playwright:
        if args.only != "film":
            take(url, args.out, playwright)
        if args.only != "pictures":
            film(url, args.out, playwright, args.seconds)


if __name__ == "__main__":
    main()
