"""Live in a real browser, on the tiny model: hands on the keys, and every trouble that a network makes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.ui import live_pictures
from tests.ui.line import line_to
from tests.ui.live_desks import live_alone, make_desk, nobody_flies
from tests.ui.test_browser import serious_violations
from tests.ui.visits import Console
from tests.waiting import wait_for
from wanact.flying.record import FlightRecord
from wanact.media.footage import read_video
from wanact.media.likeness import Sight
from wanact.ui.mailbox import Mailbox
from wanact.ui.pages.live.desk import LiveDesk

pytestmark = pytest.mark.browser

LIVE = "document.querySelector('#live-stage .live').wanact"
STAGE = "#live-stage"
READY = (f"{STAGE} .cap.forward", "#live-frame img")
LAMPS = f"[...document.querySelectorAll('{STAGE} .lamp.on')].map(lamp => lamp.classList[1]).sort().join()"
LOST_S = 8.0


@pytest.fixture(scope="module")
def desk(tiny_model_dir, tmp_path_factory) -> LiveDesk:
    return make_desk(tiny_model_dir, tmp_path_factory.mktemp("live") / "runs", fps=16, lost_s=LOST_S)


@pytest.fixture(scope="module")
def url(desk):
    """Address of a page with Live alone."""
    with live_alone(desk) as url:
        yield url


@pytest.fixture
def visit(browser, url):
    """Opens the page as new visitors. Afterwards no console has had an error."""
    problems, contexts = [], []

    def open_page(address: str = url, width: int = 1280, height: int = 900, ready=READY, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        Console(page, problems)
        page.goto(address)
        for part in ready:
            page.wait_for_selector(part)
        return page

    open_page.problems = problems
    yield open_page
    for context in contexts:
        context.close()
    assert not [problem for problem in problems if "ERR_" not in problem], problems


def take_off(page, button: str = "takeoff") -> str:
    """Fly, until the first frames are there; the flight's id."""
    page.click(f"{STAGE} [data-do={button}]")
    flying(page)
    return page.evaluate(f"{LIVE}.flight")


def flying(page, frames: int = 3) -> None:
    page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.numbers.shown.length >= {frames}")


def lit(page) -> set[str]:
    names = page.eval_on_selector_all(f"{STAGE} .lamp.on", "lamps => lamps.map(lamp => lamp.className)")
    return {name.split()[1] for name in names}


def hold(page, keys: Sequence[str], until: str) -> None:
    """Hold keys until something is so on the page, in one moment.

    A page that has heard nothing for some seconds lets go of all keys, as it should. On a machine that is busy
    elsewhere that may come about: then they are pressed again.
    """
    for _ in range(20):
        for key in keys:
            page.keyboard.down(key)
        page.wait_for_function(f"({until}) || {LIVE}.held.every(value => value === 0)")
        if page.evaluate(until):
            return
        for key in keys:
            page.keyboard.up(key)
    raise AssertionError(f"with {keys} held it never came true: {until}")


def drawn(desk: LiveDesk, flight: str) -> int:
    """Pictures that the server has made."""
    kept = desk.hangar.get(flight)
    assert kept is not None
    return len(kept.pictures)


def told(desk: LiveDesk, flight: str):
    box = Mailbox(desk.folder, flight)
    try:
        return box.read()
    finally:
        box.close()


def pixels(page) -> list[int]:
    """What the canvas shows, small: all of it takes seconds to hand over, in which the page stands still."""
    return page.evaluate(f"""() => {{
        const small = Object.assign(document.createElement('canvas'), {{width: 64, height: 40}});
        const context = small.getContext('2d');
        context.drawImage(document.querySelector('{STAGE} canvas'), 0, 0, 64, 40);
        return [...context.getImageData(0, 0, 64, 40).data];
    }}""")


def test_a_flight_from_take_off_to_the_saved_files(visit, desk, tmp_path):
    page = visit()
    page.wait_for_selector(f"{STAGE} .chosen")  # the screen shows where it starts
    flight = take_off(page)
    before = pixels(page)
    scrolled = page.evaluate("scrollY")
    obeyed = f"{LIVE}.shown.a[0] > 0 && {LIVE}.shown.a[5] > 0"
    hold(page, ("w", "ArrowRight"), f"{obeyed} && {LAMPS} === 'forward,yaw_right'")
    assert page.evaluate("scrollY") == scrolled
    page.wait_for_function(f"document.querySelector('{STAGE} .heading')?.textContent !== '000°'")
    expect(page.locator(f"{STAGE} .speed")).to_have_text("100%", use_inner_text=True)
    expect(page.locator(f"{STAGE} .rate")).to_contain_text("fps", use_inner_text=True)
    assert np.abs(np.subtract(pixels(page), before)).mean() > 1, "the picture has changed"
    page.keyboard.up("w")
    page.keyboard.up("ArrowRight")
    page.wait_for_function(f"{LIVE}.shown.a.every(value => value === 0)")
    assert lit(page) == set()

    page.click(f"{STAGE} [data-do=pause]")
    page.wait_for_selector(f"{STAGE} [data-state=paused]")
    wait_for(lambda: told(desk, flight).paused)
    page.wait_for_timeout(500)
    held_still = drawn(desk, flight)
    page.wait_for_timeout(700)
    assert drawn(desk, flight) == held_still

    page.locator(f"{STAGE} .timeline input").fill("2")
    page.wait_for_selector(f"{STAGE} [data-state=scrubbing]")
    expect(page.locator(f"{STAGE} .where")).to_contain_text("0:00.5 of ", use_inner_text=True)
    page.click(f"{STAGE} [data-do=rewind]")
    flying(page)
    page.keyboard.down("ArrowRight")
    page.wait_for_function(f"{LIVE}.shown.a[5] > 0")
    page.keyboard.up("ArrowRight")
    record = desk.hangar.get(flight).record()
    assert record.taken_up[0] == 2 and page.evaluate(f"{LIVE}.flight") == flight, "the same flight, taken back"

    for what, name in (("record", "json"), ("clip", "mp4")):
        with page.expect_download() as download:
            page.click(f"{STAGE} [data-do=save-{what}]")
        assert download.value.suggested_filename.startswith("wanact-live-live-")
        download.value.save_as(tmp_path / f"flight.{name}")
    record = FlightRecord.load(tmp_path / "flight.json")
    assert record.kind == "live" and record.track.magnitude[:, 5].any() and record.seed == 0
    assert read_video(tmp_path / "flight.mp4").shape[1:] == (64, 96, 3)

    page.click(f"{STAGE} [data-do=card]")
    expect(page.locator(f"{STAGE} .numbers")).to_contain_text("frames a second", use_inner_text=True)
    page.click(f"{STAGE} [data-do=land]")
    wait_for(lambda: desk.hangar.get(flight).landed_at is not None)
    expect(page.locator(f"{STAGE} [data-do=continue]")).to_be_visible()


def test_nothing_is_offered_before_it_answers(visit, url):
    held = []
    page = visit("about:blank", ready=())
    page.route("**/pages/live/live.js", lambda route: held.append(route))
    page.goto(url)
    page.wait_for_selector(f"{STAGE} .screen")
    wait_for(lambda: page.evaluate("true") and held)
    expect(page.locator(f"{STAGE} [data-do=takeoff]"), "a press would be lost").to_be_hidden()
    held[0].continue_()
    take_off(page)


def test_a_link_to_a_shared_flight_plays_it_and_hands_over_the_controls(visit, desk, tmp_path):
    page = visit()
    flight = take_off(page)
    page.keyboard.down("w")
    wait_for(lambda: drawn(desk, flight) >= 32)
    page.keyboard.up("w")
    expect(page.locator(f"{STAGE} [data-do=share]"), "a flight in the air is not finished").to_be_hidden()
    page.click(f"{STAGE} [data-do=land]")
    wait_for(lambda: desk.hangar.get(flight).landed_at is not None)
    with page.expect_download() as download:
        page.click(f"{STAGE} [data-do=save-gif]")
    assert download.value.suggested_filename.endswith(".gif")
    page.click(f"{STAGE} [data-do=share]")
    page.wait_for_selector("#live-shared .shared.ready")
    page.wait_for_function("document.querySelector('#live-shared .poster')?.naturalWidth === 1200")
    link = page.input_value("#live-shared .link")
    assert "?flight=" in link and flight not in link

    friend = visit(link)
    friend.wait_for_selector(f"{STAGE} [data-state=shared]")
    friend.wait_for_function(f"document.querySelector('{STAGE} .replay').currentTime > 0.3")
    friend.evaluate(f"document.querySelector('{STAGE} .replay').pause()")
    friend.click(f"{STAGE} [data-do=takeover]")
    flying(friend)
    taken = friend.evaluate(f"{LIVE}.flight")
    past = desk.hangar.get(taken).pictures[:4]
    assert taken != flight and past == desk.hangar.get(flight).pictures[:4]
    friend.keyboard.down("ArrowRight")
    friend.wait_for_function(f"{LIVE}.shown.a[5] > 0")

    late = visit(link.replace("flight=", "flight=a"))
    late.wait_for_selector(f"{STAGE} .notice:not([hidden])")
    expect(late.locator(f"{STAGE} .notice")).to_contain_text("not shared any more", use_inner_text=True)
    take_off(late)


def test_a_fork_flies_on_beside_the_flight_it_came_from(visit, desk):
    page = visit()
    first = take_off(page)
    wait_for(lambda: drawn(desk, first) >= 16)
    page.locator(f"{STAGE} .timeline input").fill("3")
    page.click(f"{STAGE} [data-do=fork]")
    page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.flight !== '{first}' && {LIVE}.shown.t > 3")
    second = page.evaluate(f"{LIVE}.flight")
    assert desk.hangar.get(second).pictures[:12] == desk.hangar.get(first).pictures[:12]
    assert desk.hangar.get(first).landed_at is not None
    chips = page.locator(f"{STAGE} .branches button")
    assert chips.all_inner_texts()[0].startswith("Flight 1")
    expect(chips.nth(1)).to_contain_text("from 0:00.8 of Flight 1", use_inner_text=True)
    flown = desk.hangar.get(first).stream.num_frames
    chips.first.click()
    page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.shown.t > {flown - 1}")
    assert page.evaluate(f"{LIVE}.flight") not in (first, second), "the first goes on where it was"
    third = page.evaluate(f"{LIVE}.flight")
    page.click(f"{STAGE} [data-do=restart]")
    page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.flight !== '{third}'")
    anew = page.evaluate(f"{LIVE}.flight")
    assert anew not in (first, second) and not desk.hangar.get(anew).stream.taken_up, "it begins at its first frame"


def test_a_page_that_has_not_heard_the_start_flies_all_the_same(visit, monkeypatch):
    """The next value of the component may hide it, as presses of Restart one right after the other did."""
    said, start = [], LiveDesk._start

    def hidden_once(desk, flight, *more):
        said.append(flight)
        is_heard = said.count(flight) > 1
        return start(desk, flight, *more) if is_heard else {"kind": "state", "state": "slow", "flight": flight}

    monkeypatch.setattr(LiveDesk, "_start", hidden_once)
    page = visit()
    take_off(page)
    page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.shown.i > 8")
    assert said.count(page.evaluate(f"{LIVE}.flight")) > 1


def test_the_prompt_changes_in_flight(visit, desk):
    page = visit()
    page.fill("#live-prompt textarea", "green hills")
    flight = take_off(page)
    page.fill("#live-prompt textarea", "desert at dusk")
    page.click("#live-say")
    wait_for(lambda: desk.hangar.get(flight).stream.prompt == "desert at dusk")
    assert [words for _, words in desk.hangar.get(flight).stream.prompts] == ["green hills", "desert at dusk"]
    page.fill("#live-prompt textarea", "wasd")
    assert lit(page) == set(), "words are no keys"


def test_a_prompt_is_offered_to_a_flight_that_was_told_another_one(visit):
    page = visit()
    use = page.locator("#live-say")
    page.fill("#live-prompt textarea", "green hills")
    page.wait_for_timeout(600)
    expect(use, "nothing flies: the next flight takes it anyway").to_be_hidden()
    take_off(page)
    page.wait_for_timeout(600)
    expect(use, "it flies to these words").to_be_hidden()
    page.fill("#live-prompt textarea", "desert at dusk")
    use.wait_for()
    use.click()
    use.wait_for(state="hidden")
    assert page.evaluate(f"document.activeElement.matches('{STAGE} .live')"), "the keys are the flight's"
    page.fill("#live-prompt textarea", "a lake")
    use.wait_for()
    page.click(f"{STAGE} [data-do=land]")
    use.wait_for(state="hidden")


def test_a_flight_that_has_dissolved_offers_the_way_back_and_another_place(visit, desk, monkeypatch):
    is_lost = True
    monkeypatch.setattr(Sight, "has_dissolved", lambda *_: is_lost)
    page = visit()
    flight = take_off(page)
    page.keyboard.down("w")
    page.wait_for_selector(f"{STAGE} .lost:not([hidden])")
    expect(page.locator(f"{STAGE} .lost")).to_contain_text("lost its horizon", use_inner_text=True)
    flown, is_lost = page.evaluate(f"{LIVE}.shown.t"), False
    page.click(f"{STAGE} [data-do=recover]")
    wait_for(lambda: desk.hangar.get(flight).stream.num_frames < flown)
    page.wait_for_selector(f"{STAGE} .lost", state="hidden")
    flying(page)
    is_lost = True
    page.wait_for_selector(f"{STAGE} .lost:not([hidden])")
    place = page.get_attribute("#live-frame img", "src")
    page.click(f"{STAGE} [data-do=elsewhere]")
    page.wait_for_function(f"document.querySelector('#live-frame img')?.src !== new URL({place!r}, location).href")
    page.wait_for_selector(f"{STAGE} .chosen")
    expect(page.locator(f"{STAGE} [data-do=takeoff]")).to_be_visible()
    wait_for(lambda: desk.hangar.get(flight).landed_at is not None)


def test_every_way_to_lose_the_keys_lets_go_of_them(visit, desk):
    page = visit()
    flight = take_off(page)

    def hold():
        page.focus(f"{STAGE} .live")
        page.keyboard.down("w")
        page.keyboard.down("ArrowUp")
        wait_for(lambda: told(desk, flight).held[0] == told(desk, flight).held[6] == 1)

    def all_let_go():
        assert page.evaluate(f"{LIVE}.held.every(value => value === 0)") and lit(page) == set()
        wait_for(lambda: not any(told(desk, flight).held))
        page.keyboard.up("w")
        page.keyboard.up("ArrowUp")

    hold()
    page.keyboard.press("Escape")
    all_let_go()
    hold()
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    all_let_go()
    hold()
    page.focus("#live-prompt textarea")
    all_let_go()
    page.keyboard.down("w")
    assert not any(told(desk, flight).held), "keys count only with the focus"
    page.keyboard.up("w")
    hold()
    page.evaluate("""() => {
        Object.defineProperty(document, 'hidden', {value: true, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }""")
    all_let_go()
    expect(page.locator(f"{STAGE} .say")).to_contain_text("tab was hidden", use_inner_text=True)
    assert told(desk, flight).paused
    page.evaluate("""() => {
        Object.defineProperty(document, 'hidden', {value: false, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }""")
    flying(page)


def test_a_gamepad_and_the_mouse_steer_by_degrees(visit, desk):
    page = visit()
    flight = take_off(page)
    page.evaluate("""() => {
        window.axes = [0.05, -0.6, 1, 0];
        navigator.getGamepads = () => [null, {connected: true, mapping: 'standard', axes: window.axes}];
    }""")
    wait_for(lambda: told(desk, flight).held[5] == 1)
    held = told(desk, flight).held
    assert 0.4 < held[0] < 0.6 and held[3] == 0, "a dead zone, and degrees beyond"
    expect(page.locator(f"{STAGE} .padded")).to_be_visible()
    page.evaluate("window.axes = [0, 0, 0, 0]")
    wait_for(lambda: not any(told(desk, flight).held))
    page.evaluate("navigator.getGamepads = () => []")
    box = page.locator(f"{STAGE} .stick.look").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - box["width"] * 0.2, y, steps=4)
    wait_for(lambda: 0.3 < told(desk, flight).held[4] < 0.7)
    page.mouse.up()
    wait_for(lambda: not any(told(desk, flight).held))
    page.locator(f"{STAGE} [name=speed]").fill("200")
    page.focus(f"{STAGE} .cap.forward")
    page.keyboard.press("Enter")
    wait_for(lambda: told(desk, flight).held[0] == 2)  # pressed without holding: it latches


def test_without_permission_for_gamepads_the_flight_goes_on(visit, url):
    """As in a frame of another page, where asking for gamepads is an error."""
    page = visit(ready=())

    def forbid(route):
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "Permissions-Policy": "gamepad=()"})

    page.route(url, forbid)
    page.goto(url)
    for part in READY:
        page.wait_for_selector(part)
    assert page.evaluate("() => { try { navigator.getGamepads(); return false; } catch { return true; } }"), (
        "asking is an error"
    )
    take_off(page)
    page.keyboard.down("ArrowRight")
    page.wait_for_function(f"{LIVE}.shown.a[5] > 0")


def test_a_key_that_was_dropped_is_found_again_as_it_repeats(visit, desk):
    page = visit()
    flight = take_off(page)
    page.keyboard.down("w")
    wait_for(lambda: told(desk, flight).held[0] == 1)
    page.keyboard.down("Meta")
    wait_for(lambda: not any(told(desk, flight).held))
    page.keyboard.up("Meta")
    page.keyboard.down("w")  # Playwright's second press without a release is a repeat
    wait_for(lambda: told(desk, flight).held[0] == 1)
    page.keyboard.up("w")
    wait_for(lambda: not any(told(desk, flight).held))


def test_the_picture_leads_until_frames_that_obey_have_come(visit):
    page = visit()
    take_off(page)
    page.evaluate(f"{LIVE}.player.next = () => null")  # nothing new is shown: what moves is predicted
    page.wait_for_timeout(300)
    before = pixels(page)
    page.keyboard.down("ArrowRight")
    page.wait_for_function(f"{LIVE}.timewarp.offset.yaw > 1")
    expect(page.locator(f"{STAGE} .live.ahead"), "and says so").to_have_count(1)
    assert np.abs(np.subtract(pixels(page), before)).mean() > 1
    page.keyboard.up("ArrowRight")
    page.uncheck(f"{STAGE} [name=predict]")
    page.wait_for_function(f"Math.abs({LIVE}.timewarp.offset.yaw) < 0.02")
    wait_for(lambda: pixels(page) == before)
    expect(page.locator(f"{STAGE} .live.ahead")).to_have_count(0)
    page.focus(f"{STAGE} .live")
    page.keyboard.down("ArrowRight")
    page.wait_for_timeout(300)
    assert pixels(page) == before, "switched off"


def test_what_it_cannot_predict_it_leaves_alone(visit):
    """The model of the tests is random: what it draws follows no camera. Comparing teaches the page not to predict."""
    page = visit()
    take_off(page)
    learnt = page.evaluate(f"""() => {{
        const live = {LIVE}, canvas = document.createElement('canvas'), noise = document.createElement('canvas');
        for (const one of [canvas, noise]) {{
            one.width = 96; one.height = 64;
            const context = one.getContext('2d'), image = context.createImageData(96, 64);
            for (let i = 0; i < image.data.length; i++)
                image.data[i] = i % 4 === 3 ? 255 : 128 + 90 * Math.sin(i * 0.0011) + 30 * Math.sin(i * 0.13);
            context.putImageData(image, 0, 0);
        }}
        const rest = [0, 0, 0, 0, 0, 0, 0, 0], turn = [0, 0, 0, 0, 0, 3, 0, 0];
        for (let i = 0; i < 12; i++) {{
            live.handoff.begin(canvas, turn, rest, 1);
            live.handoff.see({{n: 1, a: turn, image: noise}}, true);   // the same picture came back: nothing has turned
        }}
        const {{gains}} = live.timewarp;
        return [gains.yaw, live.timewarp.predicts('yaw'), gains.pitch, live.handoff.summary()];
    }}""")
    gain, predicts, other, summary = learnt
    assert gain < 0.05 and not predicts and other == 1 and summary["trials"] == 12


def test_the_warp_is_the_turn_of_a_camera(visit):
    """A picture of vertical lines, turned by the page and by the pinhole formula."""
    page = visit()
    edges = page.evaluate(f"""() => {{
        const {{Warper}} = {LIVE}, [canvas, image] = [0, 1].map(() => document.createElement('canvas'));
        canvas.width = image.width = 640; canvas.height = image.height = 384;
        const context = image.getContext('2d');
        context.fillRect(0, 0, 640, 384);
        context.fillStyle = '#fff';
        context.fillRect(320, 0, 320, 384);        // an edge straight ahead
        const found = [];
        for (const yaw of [-6, -2, 3, 8]) {{
            new Warper(canvas).draw(image, {{yaw, pitch: 0, ahead: 0, aside: 0}});
            const row = canvas.getContext('2d').getImageData(0, 190, 640, 1).data;
            let x = 0;
            while (x < 640 && row[4 * x] < 128) x++;
            found.push([yaw, x]);
        }}
        return found;
    }}""")
    for yaw, x in edges:
        expected = 320 - 320 / np.tan(np.radians(37.5)) * np.tan(np.radians(yaw))
        assert abs(x - expected) <= 2, (yaw, x, expected)


def test_a_slow_line_delays_and_does_not_pile_up(visit, desk, url):
    with line_to(url, delay_s=0.05, bytes_per_s=6e6 / 8) as line:
        page = visit(line.url)
        flight = take_off(page)
        on_the_way = []
        page.keyboard.down("w")
        for _ in range(20):
            page.wait_for_timeout(150)
            on_the_way.append(drawn(desk, flight) - told(desk, flight).acknowledged)
        page.keyboard.up("w")
        assert max(on_the_way) <= desk.limits.window + 4, on_the_way
        page.wait_for_function(f"{LIVE}.shown.n === 0 || {LIVE}.numbers.keyToFrame.length > 0")
        assert page.evaluate(f"{LIVE}.player.missed") == 0 and page.evaluate(f"{LIVE}.player.waiting.length") <= 12
        page.context.close()


def test_a_closed_tab_stops_the_model(visit, desk):
    page = visit()
    flight = take_off(page)
    page.context.close()
    seen = drawn(desk, flight)
    wait_for(lambda: desk.hangar.get(flight).landed_at is not None)
    assert drawn(desk, flight) - seen <= desk.limits.window + 4, "at most what was on its way"
    wait_for(lambda: nobody_flies(desk.line))


def test_a_line_that_stands_still_stops_the_model_and_goes_on_after(visit, desk, url):
    with line_to(url) as line:
        page = visit(line.url)
        flight = take_off(page)
        line.stall()
        time.sleep(desk.limits.silence_s + 0.5)
        seen = drawn(desk, flight)
        time.sleep(1.0)
        assert drawn(desk, flight) == seen and desk.hangar.get(flight).landed_at is None
        line.flow()
        wait_for(lambda: drawn(desk, flight) > seen)
        flying(page)
        page.context.close()


def test_a_laptop_that_slept_finds_its_flight_landed_and_goes_on(visit, desk):
    page = visit()
    flight = take_off(page)
    page.keyboard.down("w")
    sleep = page.context.new_cdp_session(page)
    sleep.send("Debugger.enable")
    sleep.send("Debugger.pause")
    wait_for(lambda: desk.hangar.get(flight).landed_at is not None)
    flown = desk.hangar.get(flight).stream.num_frames
    sleep.send("Debugger.resume")
    sleep.send("Debugger.disable")
    page.wait_for_selector(f"{STAGE} [data-state=landed]")
    expect(page.locator(f"{STAGE} .say")).to_contain_text("nothing was heard of this page", use_inner_text=True)
    assert page.evaluate(f"{LIVE}.held.every(value => value === 0)")
    page.click(f"{STAGE} [data-do=continue]")
    page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.shown.t > {flown}")


def test_after_a_lost_connection_the_flight_goes_on(visit, desk, url):
    with line_to(url) as line:
        page = visit(line.url)
        flight = take_off(page)
        line.cut()
        wait_for(lambda: desk.hangar.get(flight).landed_at is not None)
        flown = desk.hangar.get(flight).stream.num_frames
        line.flow()
        page.wait_for_function(f"document.querySelector('{STAGE} [data-do=continue]')?.offsetParent", timeout=60_000)
        page.click(f"{STAGE} [data-do=continue]")
        page.wait_for_function(f"{LIVE}.state === 'flying' && {LIVE}.shown.t > {flown}")
        page.context.close()
        visit.problems.clear()  # Gradio's own words on the connection that was cut


def test_two_visitors_fly_at_once_and_a_third_waits_its_turn(visit, desk):
    desk.line.max_flights = 2
    try:
        first, second, third = visit(), visit(), visit()
        one, other = take_off(first), take_off(second)
        third.click(f"{STAGE} [data-do=takeoff]")
        third.wait_for_function(f"document.querySelector('{STAGE} .say')?.textContent.includes('You are next')")
        first.keyboard.down("d")
        wait_for(lambda: told(desk, one).held[3] == 1)
        assert not any(told(desk, other).held)
        flying(second, frames=12)
        assert second.evaluate(f"{LIVE}.shown.a.every(value => value === 0)")
        first.wait_for_function(f"document.querySelector('{STAGE} .left')?.textContent.includes('others wait')")
        second.click(f"{STAGE} [data-do=land]")
        flying(third)
    finally:
        desk.line.max_flights = desk.limits.max_flights


def test_a_second_tab_is_a_second_flight(visit, desk, url):
    """Both tabs of one browser, which share cookies and storage."""
    first = visit()
    one = take_off(first)
    second = first.context.new_page()
    second.goto(url)
    for part in READY:
        second.wait_for_selector(part)
    other = take_off(second)
    assert other != one
    second.keyboard.down("d")
    wait_for(lambda: told(desk, other).held[3] == 1)
    assert not any(told(desk, one).held)
    second.close()
    wait_for(lambda: desk.hangar.get(other).landed_at is not None)
    first.bring_to_front()
    flying(first, frames=first.evaluate(f"{LIVE}.numbers.shown.length") + 8)
    assert desk.hangar.get(one).landed_at is None


def test_a_phone_has_two_sticks_under_its_thumbs(visit, desk):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    flight = take_off(page)
    page.locator(f"{STAGE} .cockpit").scroll_into_view_if_needed()
    boxes = [page.locator(f"{STAGE} .stick.{group}").bounding_box() for group in ("move", "look")]
    centres = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, up: float, right: float) -> None:
        (x, y), (u, v) = centres
        points = [{"x": x, "y": y - up, "id": 0}, {"x": u + right, "y": v, "id": 1}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 0, 0)
    fingers("touchMove", 80, 30)
    wait_for(lambda: told(desk, flight).held[0] == 1 and 0.2 < told(desk, flight).held[5] < 0.8)
    assert lit(page) == {"forward", "yaw_right"}
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    wait_for(lambda: not any(told(desk, flight).held))
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def boxes_in_sight(page) -> dict[str, dict[str, float]]:
    """Where the controls and the display of the stage are, by their classes."""
    parts = ".stick, .timeline, .moment, .buttons button, .pill, .attitude, .say"
    return page.evaluate(f"""() => Object.fromEntries(
        [...document.querySelectorAll('{STAGE} :is({parts})')]
            .filter(one => one.checkVisibility({{checkOpacity: true}}) && one.textContent + one.className !== 'say')
            .map(one => [one.dataset.do || one.className, one.getBoundingClientRect().toJSON()])
            .filter(([, box]) => box.width))""")


def assert_nothing_overlaps(page) -> None:
    boxes, size = boxes_in_sight(page), page.viewport_size
    for name, box in boxes.items():
        inside = box["left"] >= 0 and box["top"] >= 0
        assert inside and box["right"] <= size["width"] and box["bottom"] <= size["height"], (name, box)
        for other, its in boxes.items():
            apart = box["right"] <= its["left"] or its["right"] <= box["left"]
            assert name == other or apart or box["bottom"] <= its["top"] or its["bottom"] <= box["top"], (name, other)


@pytest.mark.parametrize("size", [(844, 390), (667, 375), (932, 430)])
def test_a_phone_held_sideways_is_a_cockpit_that_fills_the_screen(visit, size):
    page = visit(width=size[0], height=size[1], has_touch=True, is_mobile=True)
    take_off(page)
    screen = page.locator(f"{STAGE} .screen").bounding_box()
    assert (screen["x"], screen["y"], screen["width"], screen["height"]) == (0, 0, *size)
    assert {"stick move", "stick look", "timeline", "land"} <= set(boxes_in_sight(page))
    expect(page.locator(f"{STAGE} .cap kbd").first, "thumbs need no letters").to_be_hidden()
    assert_nothing_overlaps(page)
    page.locator(f"{STAGE} .timeline input").fill("1")
    page.wait_for_selector(f"{STAGE} .moment:not([hidden])")
    assert_nothing_overlaps(page)
    page.locator(f"{STAGE} [data-do=back]").tap()
    flying(page)
    page.locator(f"{STAGE} [data-do=land]").tap()
    page.wait_for_selector(f"{STAGE} [data-state=landed]")
    assert page.locator(f"{STAGE} .screen").bounding_box()["height"] < size[1], "on the ground it is a page again"


def test_a_phone_held_sideways_is_filmed(visit, tmp_path):
    page = visit(width=844, height=390, has_touch=True, is_mobile=True)
    take_off(page)
    thumbs = live_pictures.Thumbs(page)
    with live_pictures.filming(page) as shots:
        thumbs.hold((0, 1), (1, 0))
        page.wait_for_function(f"{LIVE}.shown.a[0] > 0 && {LIVE}.shown.a[5] > 0")
        thumbs.let_go()
        page.wait_for_timeout(500)
    frames = live_pictures.film_frames(shots, [0, 0, 844, 390])
    assert len(frames) > 1 and frames[0].shape == (296, 640, 3)


def test_the_page_is_accessible_on_the_ground_and_in_the_air(visit):
    from axe_playwright_python.sync_playwright import Axe

    page = visit()
    assert not serious_violations(Axe().run(page))
    take_off(page)
    page.click(f"{STAGE} [data-do=card]")
    page.locator(f"{STAGE} .timeline input").fill("1")
    assert not serious_violations(Axe().run(page))


def test_a_bad_start_is_said_where_the_flight_would_be(visit, picture, tmp_path):
    page = visit()
    page.fill("#live-prompt textarea", "x" * 2500)
    page.click(f"{STAGE} [data-do=takeoff]")
    page.wait_for_selector(f"{STAGE} [data-state=failed]")
    expect(page.locator(f"{STAGE} .notice")).to_contain_text("2,500 characters", use_inner_text=True)
    page.fill("#live-prompt textarea", "a lake")
    page.set_input_files("#live-frame input[type=file]", picture)
    page.wait_for_function("(i => i && i.naturalWidth === 320)(document.querySelector('#live-frame img'))")
    page.wait_for_function(f"document.querySelector('{STAGE} .chosen')?.src.includes('image')")
    take_off(page)
    expect(page.locator(f"{STAGE} .notice")).to_be_hidden()
    assert Path(picture).exists()


def test_a_flight_starts_where_a_clip_ended_and_without_a_causal_run_the_page_says_so(visit, page_url):
    """The whole site, on runs that draw clips only."""
    page = visit(page_url, ready=("#plan td[data-c]", "#frame img"))
    page.get_by_role("tab", name="Fly").click()
    page.wait_for_selector("#live-prompt textarea")
    expect(page.locator("#live-from-clip"), "there is no clip yet").to_be_hidden()
    page.get_by_role("tab", name="Plan a clip").click()
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=done]")
    page.get_by_role("tab", name="Fly").click()
    page.click("#live-from-clip")
    page.wait_for_function("(i => i && i.naturalWidth === 96)(document.querySelector('#live-frame img'))")
    page.click(f"{STAGE} [data-do=takeoff]")
    page.wait_for_selector(f"{STAGE} [data-state=failed]")
    expect(page.locator(f"{STAGE} .notice")).to_contain_text("python -m train causal", use_inner_text=True)
