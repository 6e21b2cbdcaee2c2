"""Many tabs of one browser, which opens six connections to a host: every page loads, and every flight answers."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ui.live_desks import make_desk
from tests.ui.test_live_browser import LIVE, READY, STAGE, take_off
from tests.ui.visits import serving
from wanact.ui.page import build_page

pytestmark = pytest.mark.browser
HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture(scope="module")
def url(tiny_model_dir, tmp_path_factory):
    desk = make_desk(tiny_model_dir, tmp_path_factory.mktemp("tabs") / "runs", fps=8)
    with serving(build_page(desk.engine)) as url:
        yield url


@pytest.fixture
def tabs(browser, url):
    """Opens one tab after the other in one window, on Fly."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def open_tab():
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        for part in READY:
            page.wait_for_selector(part)
        return page

    yield open_tab
    context.close()


def test_three_flights_and_four_more_tabs_all_get_answers(tabs):
    flying = [tabs() for _ in range(3)]
    flights = [take_off(page) for page in flying]
    assert len(set(flights)) == 3
    others = [tabs() for _ in range(4)]
    others[-1].click(f"{STAGE} [data-do=takeoff]")
    others[-1].wait_for_selector(f"{STAGE} .notice:not([hidden])")
    expect(others[-1].locator(f"{STAGE} .notice")).to_contain_text("three tabs of this browser", use_inner_text=True)
    for page in flying:
        page.bring_to_front()
        page.focus(f"{STAGE} .live")
        page.keyboard.down("w")
        page.wait_for_function(f"{LIVE}.shown.a[0] > 0")
        page.keyboard.up("w")
    flying[0].click(f"{STAGE} [data-do=land]")
    others[-1].bring_to_front()
    take_off(others[-1])


def test_a_tab_that_nobody_looks_at_lands_and_can_be_gone_on_with(tabs):
    page = tabs()
    take_off(page)
    page.evaluate(HIDE, True)
    page.wait_for_function(f"{LIVE}.state === 'paused'")
    page.evaluate("() => { const now = performance.now.bind(performance); performance.now = () => now() + 61000; }")
    page.wait_for_function(f"{LIVE}.state === 'landed'")
    expect(page.locator(f"{STAGE} .say")).to_contain_text("tab was hidden", use_inner_text=True)
    page.evaluate(HIDE, False)
    take_off(page, "continue")
