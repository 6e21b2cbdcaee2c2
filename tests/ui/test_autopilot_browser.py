"""The autopilot in a real browser: it flies, a key takes over, letting go gives back, and the record replays."""

from __future__ import annotations

from functools import partial

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.pilots import write_evaluation, write_pilot
from tests.ui.live_desks import live_alone, make_desk
from tests.ui.test_browser import serious_violations
from tests.ui.test_live_browser import LAMPS, LIVE, READY, STAGE, flying, hold, lit, take_off
from tests.ui.visits import Visits
from wanact.flying.record import FlightRecord
from wanact.flying.replay import replay
from wanact.ui.pages.live.desk import LiveDesk

pytestmark = pytest.mark.browser

PILOT = f"{STAGE} [name=pilot]"
AUTO = f"document.querySelector('{STAGE} .auto').textContent"


@pytest.fixture(scope="module")
def desk(tiny_model_dir, tmp_path_factory) -> LiveDesk:
    runs = tmp_path_factory.mktemp("autopilot") / "runs"
    write_evaluation(write_pilot(runs / "pilot"), 200)
    return make_desk(tiny_model_dir, runs, fps=16, silence_s=20, lost_s=60)


@pytest.fixture(scope="module")
def url(desk):
    with live_alone(desk) as url:
        yield url


@pytest.fixture
def visit(browser, url):
    visits = Visits(browser, url)

    yield partial(visits.open_at, url, (*READY, f"{PILOT} optgroup"), state="attached")
    visits.end()


def test_it_flies_until_a_key_is_held_and_again_after_and_its_record_replays(visit, desk, tmp_path):
    page = visit()
    groups = page.eval_on_selector_all(f"{PILOT} optgroup", "groups => groups.map(group => group.label)")
    assert groups == ["pilot · step 200", "pilot · step 100", "a pilot written by hand"]
    page.select_option(PILOT, "hand_written:gates")  # before take-off: it flies from the first frame that it can
    flight = take_off(page)
    page.wait_for_function(f"{AUTO}.startsWith('Autopilot: gate 1 of')")
    page.wait_for_selector(f"{STAGE} .aims .next[d^=M]")
    assert "forward" in lit(page), "its sticks move the lamps"
    knob = f"document.querySelector('{STAGE} .stick.move .knob').style.getPropertyValue('--y')"
    assert page.evaluate(f"+{knob}") < -0.5, "and the stick"
    expect(page.locator(f"{STAGE} .lead"), "nobody is told to hold a key").to_be_hidden()
    expect(page.locator(f"{STAGE} .knows")).to_contain_text("reckons its way", use_inner_text=True)
    assert not serious_violations(Axe().run(page))

    mine = f"{AUTO} === 'You fly; the autopilot waits' && {LIVE}.shown.a[3] > 0 && {LIVE}.shown.a[0] === 0"
    hold(page, "d", f"{mine} && {LAMPS} === 'right' && +{knob} === 0")
    page.keyboard.up("d")
    page.wait_for_function(f"{AUTO}.startsWith('Autopilot: gate')")

    page.click(f"{STAGE} [data-do=land]")
    page.wait_for_function(f"{LIVE}.state === 'landed'")
    expect(page.locator(f"{STAGE} .auto")).to_be_hidden()
    expect(page.locator(f"{STAGE} .aims")).to_be_hidden()
    path, _ = desk.save(flight, "record", tmp_path)
    record = FlightRecord.load(path)
    by_hand = {number for number, action in enumerate(record.track.magnitude, 1) if action[3] and not action[0]}
    assert len(record.piloted) == 2 and by_hand and not by_hand & set(record.pilots)
    pipe = desk.engine.pipe
    with pipe.lock:
        pipe.load_controller(desk.find((record.checkpoint or {})["id"]).path)
        assert len(replay(pipe, record)) == record.num_frames


def test_it_can_be_asked_and_sent_away_in_flight(visit):
    page = visit()
    take_off(page)
    page.select_option(PILOT, "hand_written:circle")
    page.wait_for_function(f"{AUTO} === 'Autopilot circles'")
    page.select_option(PILOT, "")
    page.wait_for_selector(f"{STAGE} .auto", state="hidden")
    page.wait_for_function(f"!{LIVE}.autopilot.flies")
    assert not lit(page)


def test_on_a_phone_it_is_chosen_and_a_thumb_takes_over(visit):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    page.select_option(PILOT, "pilot/step-000000200:gates")
    take_off(page)
    flying(page)
    page.wait_for_function(f"{LIVE}.autopilot.flies")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    box = page.locator(f"{STAGE} .stick.look").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    page.wait_for_function(f"!{LIVE}.autopilot.flies && {LIVE}.shown.a[5] > 0")
    page.mouse.up()
    page.wait_for_function(f"{LIVE}.autopilot.flies")
