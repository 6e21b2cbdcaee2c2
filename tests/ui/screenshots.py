"""Take the pictures of the page that stand in docs/: python -m tests.ui.screenshots [--url URL] [--places fly compare].

Without --url it serves the page itself, on the bundled world and, for the Data page, on a few flights of the simulator
that it spoils in the ways that the page names.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.conftest import ROOT, find_chromium
from tests.data.conftest import write_table
from wanact.actions import ActionTrack
from wanact.bench.live_browser import ARGUMENTS, serve
from wanact.media.video import write_mp4
from wanact.world import simulator

SIZES = {1440: 1000, 390: 844}
NUM_FLIGHTS, PER_WORLD = 16, 4  # of the data set


def served(model_dir: Path, runs: Path, data: Path | None = None) -> contextlib.AbstractContextManager[str]:
    """The page's address, while an app of its own runs; with the page Data where there is a data set."""
    return serve(str(model_dir), runs, more=["--data", str(data)] if data else [])


def take(url: str, out: Path, places: Sequence[str]) -> None:
    """One picture of each place for each width and mode."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        for width, height in SIZES.items():
            for mode in ("light", "dark"):
                phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=mode, **phone)
                page.set_default_timeout(600_000)
                page.goto(f"{url}?tab=plan")
                page.wait_for_selector("#plan td[data-c]")
                page.wait_for_selector("#frame img")
                # A phone's bars at the bottom would stand in the middle of a picture of the whole page.
                if phone:
                    bars = "#generate, #ledger .tray, #stage-compare .transport"
                    page.add_style_tag(content=f":is({bars}) {{ position: static !important; }}")
                for place in places:
                    page.click(f"#place-{place}-button")
                    PLACES[place](page)
                    page.mouse.move(5, 5)
                    page.evaluate("scrollTo(0, 0)")
                    page.wait_for_timeout(800)
                    page.screenshot(path=out / f"{place}-{width}-{mode}.png", full_page=True)
                page.close()
        browser.close()


def show_fly(page: Any) -> None:
    """A clip that was just drawn, in its middle."""
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer:is([data-status=done], [data-status=failed])")
    if page.get_attribute("#viewer .viewer", "data-status") == "failed":
        raise SystemExit(page.inner_text("#viewer .notice"))
    page.locator("#viewer input[type=range]").fill("40")


def show_checkpoints(page: Any) -> None:
    """Three steps of the run that is selected first, picked on the curve."""
    page.wait_for_selector("#ledger .ledger[data-status=ready]")
    page.wait_for_selector("#ledger :is(circle.point, circle.carded) >> nth=0")
    run = (page.get_attribute("#ledger .row[aria-selected=true]", "data-id") or "").partition("/")[0]
    points = page.locator(f'#ledger circle.point[data-id^="{run}/"]')
    if points.count() == 0:  # without a log there is no loss
        points = page.locator(f'#ledger circle.carded[data-id^="{run}/"]')
    for index in sorted({0, points.count() // 2, points.count() - 1} & set(range(points.count()))):
        while not (box := points.nth(index).bounding_box()):  # it is just being drawn again, with newer states
            points.nth(index).wait_for()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
    page.wait_for_selector("#ledger .detail details")
    page.wait_for_function("document.querySelector('#card .title').textContent")
    page.wait_for_timeout(1500)


def show_compare(page: Any) -> None:
    """Two checkpoints and the simulator's truth, in the middle of their clip."""
    page.wait_for_selector("#lanes .lane >> nth=1")
    while page.locator("#lanes .lane").count() < 3:
        page.click("#lanes .add")
    page.locator("#lanes .lane > select").nth(2).select_option("truth")
    page.click("#compare-go")
    page.wait_for_selector("#stage-compare .stage:is([data-status=done], [data-status=failed])")
    if page.get_attribute("#stage-compare .stage", "data-status") == "failed":
        raise SystemExit(page.inner_text("#stage-compare .notice"))
    page.locator("#stage-compare .transport input[type=range]").fill("40")
    page.wait_for_function("document.querySelector('#stage-compare figure').dataset.frame === '40'")


def show_data(page: Any) -> None:
    """A clip whose actions turn the other way than its picture, in its middle."""
    page.wait_for_selector("#footage .footage[data-status=ready]")
    page.wait_for_selector("#footage .one img >> nth=4")
    page.locator("#footage .one").nth(1).click()
    page.wait_for_selector("#footage .detail[data-ready]")
    page.locator("#footage .controls input").fill("18")


PLACES = {"fly": show_fly, "checkpoints": show_checkpoints, "compare": show_compare, "data": show_data}


def write_flights(folder: Path) -> Path:
    """A data set for the Data page: flights of the simulator whose turns are mirrored in the table, and four of them
    with one more mistake each."""
    data = folder / "coast-flights"
    (data / "videos").mkdir(parents=True)
    rows, films, world = [], [], None
    for number in range(NUM_FLIGHTS):
        if number % PER_WORLD == 0:
            world = simulator.make_world(700 + number)
        clip = simulator.fly(world, np.random.default_rng([41, number]), num_frames=41, height=96, width=160)
        films.append(clip.frames)
        mirrored = ActionTrack.from_axes(clip.track.axes * [1, 1, -1, 1])
        name = f"videos/flight-{number + 1:03d}.mp4"
        rows.append({"video": name, "prompt": clip.caption, "action": mirrored.to_json()})
    small = [cv2.resize(frame, (20, 12), interpolation=cv2.INTER_AREA) for frame in films[6]]
    films[6] = np.stack([cv2.resize(frame, (160, 96), interpolation=cv2.INTER_CUBIC) for frame in small])
    films[9] = np.concatenate([films[9][:22], films[2][22:]])
    films[13] = films[4]
    for row, frames in zip(rows, films, strict=True):
        write_mp4(frames, data / row["video"], fps=16, lossless=True)
    rows.append(rows[3] | {"video": "videos/gone.mp4"})
    return write_table(data / "clips.csv", rows).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a page that is served already")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "assets" / "nano")
    parser.add_argument("--runs", type=Path, default=ROOT / "assets" / "runs")
    parser.add_argument("--places", nargs="+", choices=tuple(PLACES), default=tuple(PLACES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as leaving:
        url = args.url
        if url is None:
            folder = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="wanact-")))
            data = write_flights(folder) if "data" in args.places else None
            url = leaving.enter_context(served(args.model_dir, args.runs, data))
        take(url, args.out, args.places)


if __name__ == "__main__":
    main()
