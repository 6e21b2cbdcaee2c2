"""Take the pictures of the page that stand in docs/: python -m tests.ui.screenshots [--url URL] [--out docs].

Without --url it serves the page itself, on the bundled world.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT, find_chromium
from tests.ui.test_browser import ARGUMENTS

PORT = 7876
SIZES = {1440: 1000, 390: 844}


@contextlib.contextmanager
def served(model_dir: Path, runs: Path) -> Iterator[str]:
    """The page's address, while an app of its own runs."""
    url = f"http://127.0.0.1:{PORT}/"
    command = [sys.executable, "app.py", "--port", str(PORT), "--model_dir", str(model_dir), "--runs", str(runs)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        for _ in range(240):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(url, timeout=2).close()
                break
            if process.poll() is not None:
                raise SystemExit(f"app.py ended with {process.returncode}")
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def take(url: str, out: Path) -> None:
    """One picture for each width and mode, with a clip playing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        for width, height in SIZES.items():
            for mode in ("light", "dark"):
                phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=mode, **phone)
                page.set_default_timeout(300_000)
                page.goto(url)
                page.wait_for_selector("#plan td[data-c]")
                page.wait_for_selector("#frame img")
                page.click("#generate")
                page.wait_for_selector("#viewer .viewer:is([data-status=done], [data-status=failed])")
                if page.get_attribute("#viewer .viewer", "data-status") == "failed":
                    raise SystemExit(page.inner_text("#viewer .notice"))
                page.locator("#viewer input[type=range]").fill("40")
                page.mouse.move(5, 5)
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(800)
                # A phone's bar at the bottom would stand in the middle of a picture of the whole page.
                if phone:
                    page.add_style_tag(content="#generate { position: static !important; }")
                page.screenshot(path=out / f"fly-{width}-{mode}.png", full_page=True)
                page.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a page that is served already")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "assets" / "nano")
    parser.add_argument("--runs", type=Path, default=ROOT / "assets" / "runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(args.url) if args.url else served(args.model_dir, args.runs) as url:
        take(url, args.out)


if __name__ == "__main__":
    main()
