"""The page for whoever has no mouse, needs high contrast, wants less motion, or has another keyboard."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.ui.test_browser import cell, generate
from tests.ui.visits import Visits

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(browser, page_url):
    visits = Visits(browser, page_url)
    yield visits
    visits.end()


def pixels(locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def test_in_high_contrast_what_is_held_planned_and_set_can_be_seen(visit):
    page = visit(forced_colors="active")
    page.click("#plan [data-preset='Forward']")
    cell(page, "forward", 1).scroll_into_view_if_needed()

    def differ(one, other):
        colours = [pixels(at)[8:-8, 8:-8].mean((0, 1)) for at in (one, other)]
        return np.abs(colours[0] - colours[1]).max() > 30

    assert differ(cell(page, "forward", 1), cell(page, "back", 1)), "a cell of the plan"
    chips = (page.locator(f"#plan [data-preset='{name}']") for name in ("Forward", "Back away"))
    assert differ(*chips), "the plan that is chosen"
    track = pixels(page.locator("#pad input[data-group=move]"))
    row = track[track.shape[0] // 2]
    assert len({tuple(colour) for colour in (row // 64).tolist()}) >= 3, "a slider's two parts and its thumb"
    page.focus("#pad .pad")
    page.keyboard.down("w")
    page.wait_for_selector("#pad .key.forward.on")
    assert differ(page.locator("#pad .key.forward"), page.locator("#pad .key.back")), "a key that is held"


# Text that is drawn in the colour of what is chosen, on a plate of the same colour that the system lays under it.
HIDDEN = """() => {
    const probe = document.body.appendChild(document.createElement('i'));
    probe.style.color = 'HighlightText';
    const {color} = getComputedStyle(probe);
    probe.remove();
    const own = one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    return [...document.querySelectorAll('body *')]
        .filter(one => one.checkVisibility() && own(one))
        .filter(one => getComputedStyle(one).color === color && getComputedStyle(one).forcedColorAdjust !== 'none')
        .map(one => one.outerHTML.slice(0, 80));
}"""


def test_in_high_contrast_text_on_the_accent_can_be_read_in_every_place(visit):
    page = visit(forced_colors="active")
    for place, part in (("fly", "#plan td[data-c]"), ("checkpoints", "#ledger .row"), ("compare", "#lanes .lane")):
        page.click(f"#place-{place}-button")
        page.wait_for_selector(part)
        page.wait_for_timeout(500)
        assert page.evaluate(HIDDEN) == [], place


def test_less_motion_means_that_nothing_plays_or_comes_round_by_itself(visit):
    page = visit(reduced_motion="reduce")
    generate(page)
    page.wait_for_function("document.querySelector('#viewer video').readyState >= 2")
    page.wait_for_timeout(800)
    still = "(v => v.paused && !v.loop && !v.autoplay && v.currentTime === 0)(document.querySelector('#viewer video'))"
    assert page.evaluate(still)
    page.click("#viewer [data-do=play]")
    page.wait_for_function("document.querySelector('#viewer video').currentTime > 0.1")
    moving = page.evaluate(
        "[...document.querySelectorAll('#header *, #places *')].filter(one => one.offsetParent"
        " && parseFloat(getComputedStyle(one).transitionDuration) > 0.01).map(one => one.outerHTML.slice(0, 80))"
    )
    assert moving == []


def test_the_keyboard_reaches_what_a_place_is_for_in_a_few_stops(visit):
    page = visit()
    page.keyboard.press("Tab")
    skip = page.locator(".skips a:focus")
    expect(skip).to_have_text("Skip to Generate", use_inner_text=True)
    page.wait_for_function("document.querySelector('.skips a:focus').getBoundingClientRect().y > 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('#generate') !== null")
    page.wait_for_function("document.querySelector('.skips a').getBoundingClientRect().y < 0")  # out of sight again
    assert page.evaluate("location.hash") == ""
    for place, selector in (("compare", "#compare-go"), ("checkpoints", "#ledger [role=grid]")):
        page.evaluate("place => document.dispatchEvent(new CustomEvent('wanact:go', {detail: {place}}))", place)
        page.wait_for_selector(selector)
        page.locator(".skips a").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("one => document.activeElement.closest(one) !== null", selector), place
    page.locator(".skips a").last.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('[role=tabpanel]')")


FRENCH = """
  const map = new Map([['KeyW', 'z'], ['KeyA', 'q'], ['KeyS', 's'], ['KeyD', 'd']]);
  Object.defineProperty(navigator, 'keyboard', {value: {getLayoutMap: async () => map}, configurable: true});
"""


def test_key_caps_are_those_of_the_keyboard(visit):
    page = visit.open()
    page.add_init_script(FRENCH)
    page.goto(visit.url)
    page.wait_for_selector("#plan td[data-c]")
    expect(page.locator("#pad .key.forward kbd")).to_have_text("Z", use_inner_text=True)
    expect(page.locator("#pad .key.left kbd")).to_have_text("Q", use_inner_text=True)
    assert page.locator("#pad .hint .keyboard kbd").all_inner_texts()[:4] == ["Z", "Q", "S", "D"]
    assert "hold Z Q S D to move" in page.get_attribute("#pad .pad", "aria-label")
    expect(page.locator("#pad .key.forward")).to_have_attribute("aria-keyshortcuts", "Z")
    expect(page.locator("#plan tbody th kbd").first).to_have_text("Z", use_inner_text=True)
    page.focus("#pad .pad")
    page.keyboard.down("KeyW")
    page.wait_for_selector("#pad .key.forward.on")
