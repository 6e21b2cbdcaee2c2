"""The whole page on a causal checkpoint, in a real browser: what moves, what stays, and how wide the places are."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ui.live_desks import make_desk, slowed
from tests.ui.visits import serving
from wanact.flying.rollout import CausalRollout
from wanact.ui.page import build_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tiny_model_dir, tmp_path_factory):
    desk = make_desk(tiny_model_dir, tmp_path_factory.mktemp("drawing") / "runs", fps=8)
    with serving(build_page(desk.engine)) as url:
        yield url


@pytest.fixture
def page(browser, url):
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(url)
    page.wait_for_selector("#places [role=tab] >> nth=3")
    yield page
    context.close()


def plan_a_clip(page) -> None:
    page.get_by_role("tab", name="Plan a clip").click()
    page.wait_for_function("document.querySelector('#generate')?.getClientRects().length")


def test_a_causal_clip_plays_while_it_is_drawn_and_nothing_below_it_moves(page, monkeypatch):
    slowed(monkeypatch, CausalRollout, "draw", 0.1)
    plan_a_clip(page)
    page.wait_for_selector("#frame img")
    page.wait_for_function("""() => {  // what is said of the first frame has come, and its fonts
        const top = document.querySelector('#generate').getBoundingClientRect().top;
        window.still = top === window.top_ ? window.still + 1 : 0;
        window.top_ = top;
        return window.still > 60;
    }""")
    page.evaluate("""() => {
        window.seen = {words: [], frames: [], places: []};
        const {seen} = window, viewer = document.querySelector('#viewer .viewer');
        const drawn = viewer.querySelector('canvas.drawn');
        (function look() {
            if (!drawn.hidden && drawn.dataset.frame) seen.frames.push(+drawn.dataset.frame);
            const words = viewer.querySelector('.what').textContent;
            if (words !== seen.words.at(-1)) seen.words.push(words);
            const top = document.querySelector('#generate').getBoundingClientRect().top + scrollY;
            if (top !== seen.places.at(-1)) seen.places.push(top);
            requestAnimationFrame(look);
        })();
    }""")
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=done]")
    page.wait_for_selector("#viewer a.webp:not(.to-come)")
    page.wait_for_function("(v => !v.paused && v.currentTime > 0)(document.querySelector('#viewer video'))")
    seen = page.evaluate("window.seen")
    assert seen["frames"] and seen["frames"] == sorted(seen["frames"]), "it is seen before it is done"
    assert any(words.startswith("Drawing: ") and words.endswith(" of 2 s") for words in seen["words"]), seen["words"]
    assert len(seen["places"]) == 1, f"Generate stood at {seen['places']}"
    expect(page.locator("#viewer canvas.drawn")).to_be_hidden()
    for link in ("clip", "gif", "webp", "record"):
        expect(page.locator(f"#viewer a.{link}")).to_be_visible()


def test_all_places_have_one_width(page):
    edges = set()
    for tab in page.locator("#places [role=tab]").all():
        tab.click()
        page.wait_for_timeout(500)
        edges.add(
            page.evaluate("""() => {
            const cards = [...document.querySelectorAll('#places > .tabitem > * > *, #places > .tabitem .card')]
                .filter(one => one.offsetParent).map(one => one.getBoundingClientRect()).filter(box => box.width > 0);
            return [Math.min(...cards.map(box => box.left)), Math.max(...cards.map(box => box.right))].join(' to ');
        }""")
        )
    assert len(edges) == 1, edges


def test_on_a_phone_the_clip_is_above_the_plan(page):
    page.set_viewport_size({"width": 390, "height": 844})
    plan_a_clip(page)
    tops = [page.locator(part).bounding_box()["y"] for part in ("#frame", "#viewer", "#plan")]
    assert tops == sorted(tops)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
