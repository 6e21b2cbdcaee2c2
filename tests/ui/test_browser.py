"""The page in a real browser, on the tiny model: hands on the keys, eyes on the screen."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.ui.conftest import write_run
from tests.ui.visits import Visits, press
from wanact.actions import CHANNELS, PRESETS, ActionTrack, plan_path
from wanact.flying.record import FlightRecord
from wanact.media.footage import read_video
from wanact.ui.samples import SAMPLES

pytestmark = pytest.mark.browser

STEPS = 4  # of the tiny model's clips


@pytest.fixture
def visit(browser, page_url):
    """Visits of this test alone."""
    visits = Visits(browser, page_url)
    yield visits
    visits.end()


@pytest.fixture(scope="module")
def own_page(browser, page_url):
    visits = Visits(browser, page_url)
    yield visits()
    visits.end()


@pytest.fixture
def page(own_page):
    """One visitor's page for many tests, because it takes seconds to open; each starts from an empty plan."""
    own_page.keyboard.press("Escape")
    own_page.click("#plan [data-do=clear]")
    return own_page


def plan_of(page) -> np.ndarray:
    """What the timeline shows, [steps, 8] magnitudes."""
    values = page.eval_on_selector_all("#plan td[data-c]", "cells => cells.map(cell => +cell.dataset.value)")
    return np.array(values).reshape(8, STEPS).T


def cell(page, channel: str, step: int):
    return page.locator(f'#plan td[data-c="{CHANNELS.index(channel)}"][data-t="{step}"]')


def lit(page) -> set[str]:
    labels = page.eval_on_selector_all("#pad .key.on", "keys => keys.map(key => key.dataset.channel)")
    return {CHANNELS[int(label)] for label in labels}


def status(page) -> str:
    return page.inner_text("#plan .status")


def generate(page) -> None:
    press(page, "#generate", "wanact:generate", "#viewer .viewer[data-status=done]")


def fill_seed(page, seed: str) -> None:
    """Open the advanced settings and write the seed, again where Gradio lost it.

    The fields of an accordion come into being when it opens, and for some tenths of a second Gradio may still set
    them back to their first values: longer than this browser needs to write into one, not longer than a hand needs.
    """
    page.locator("#advanced button").first.click()
    for _ in range(10):
        page.locator("#seed input").fill(seed)
        page.wait_for_timeout(500)
        if page.input_value("#seed input") == seed:
            return
    raise AssertionError(f"the seed {seed} does not stay in its field")


def test_one_click_gives_a_playing_clip_that_moves(visit, tmp_path):
    page = visit()
    expect(page.locator("#samples button >> nth=0")).to_have_attribute("aria-pressed", "true")
    assert plan_of(page).any()
    generate(page)
    page.wait_for_function("(v => !v.paused && v.currentTime > 0.1)(document.querySelector('#viewer video'))")
    assert page.evaluate("(v => v.loop && v.muted && v.videoWidth)(document.querySelector('#viewer video'))") == 96
    files = {}
    for kind in ("clip", "record"):
        with page.expect_download() as download:
            page.click(f"#viewer a.{kind}")
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    frames = read_video(files["clip"]).astype(int)
    assert files["clip"].name == "wanact-drone-step400-seed0.mp4" and frames.shape == (17, 64, 96, 3)
    assert np.abs(frames[1:] - frames[:-1]).mean() > 0.5, "the clip stands still"
    record = FlightRecord.parse(files["record"].read_text())
    assert record.track == PRESETS["Fly-through"](STEPS) and record.checkpoint["step"] == 400


def test_the_display_of_keys_follows_the_clip_and_can_be_switched_off(page):
    page.click("#plan [data-preset='Orbit left']")
    generate(page)
    page.wait_for_function("document.querySelectorAll('#viewer .lamp.on').length === 2")
    expect(page.locator("#viewer .lamp.left.on")).to_be_visible()
    page.uncheck("#viewer .switch input")
    expect(page.locator("#viewer .lamp.left")).to_be_hidden()
    page.locator("#viewer input[type=range]").fill("0")
    expect(page.locator("#viewer .lamp.on"), "nothing steers the first frame").to_have_count(0)


def test_held_keys_light_up_and_fill_the_timeline(page):
    page.click("#plan [data-do=record]")
    assert "Hold a key" in status(page) and not plan_of(page).any()
    scrolled = page.evaluate("scrollY")
    page.keyboard.down("w")
    page.wait_for_selector('#plan td.now[data-t="1"]')
    page.keyboard.down("ArrowRight")
    page.wait_for_function("document.querySelectorAll('#pad .key.on').length === 2")
    assert lit(page) == {"forward", "yaw_right"}
    page.wait_for_selector('#plan td.now[data-t="2"]')
    page.keyboard.up("w")
    page.wait_for_function("document.querySelector('#plan .status')?.textContent.startsWith('Recorded')")
    page.keyboard.up("ArrowRight")
    assert lit(page) == set() and page.evaluate("scrollY") == scrolled
    held = plan_of(page) > 0
    forward, right = held[:, CHANNELS.index("forward")], held[:, CHANNELS.index("yaw_right")]
    assert forward[0] and forward[1] and right[-1] and not right[0] and held.sum() == forward.sum() + right.sum()
    generate(page)
    expect(page.locator("#viewer video")).to_be_visible()


def test_keys_go_to_the_text_field_that_has_the_focus(page):
    page.fill("#prompt textarea", "")
    page.click("#prompt textarea")
    page.keyboard.type("wasd")
    expect(page.locator("#prompt textarea")).to_have_value("wasd")
    assert lit(page) == set()


def test_opposite_keys_cancel_and_everything_lets_go(page):
    page.focus("#pad .pad")
    page.keyboard.down("w")
    assert "Press Record" in status(page)
    page.keyboard.down("s")
    page.keyboard.down("ArrowUp")
    assert lit(page) == {"pitch_up"}
    page.keyboard.up("s")
    assert lit(page) == {"forward", "pitch_up"}
    page.keyboard.press("Escape")
    assert lit(page) == set()
    page.keyboard.up("w")
    page.focus("#pad .pad")
    page.keyboard.down("a")
    page.focus("#prompt textarea")
    assert lit(page) == set()
    box = page.locator("#pad .key.right").bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    assert lit(page) == {"right"}
    page.mouse.up()
    assert lit(page) == set()
    page.focus("#pad .key.back")
    page.keyboard.press("Enter")
    assert lit(page) == {"back"}
    expect(page.locator("#pad .key.back")).to_have_attribute("aria-pressed", "true")


def test_the_timeline_is_painted_erased_and_undone(page):
    page.click("#plan [data-do=clear]")
    cell(page, "pitch_down", 0).scroll_into_view_if_needed()
    start, end = cell(page, "yaw_left", 0).bounding_box(), cell(page, "yaw_left", 2).bounding_box()
    page.mouse.move(start["x"] + 9, start["y"] + 9)
    page.mouse.down()
    page.mouse.move(end["x"] + 9, end["y"] + 9, steps=8)
    page.mouse.up()
    painted = ActionTrack.from_keys(np.eye(8)[[4, 4, 4]]).with_length(STEPS).magnitude
    assert np.allclose(plan_of(page), painted)
    cell(page, "yaw_right", 1).click()
    assert plan_of(page)[1].tolist() == [0, 0, 0, 0, 0, 3, 0, 0], "the opposite gives way"
    page.click("#plan [data-do=undo]")
    assert np.allclose(plan_of(page), painted)
    cell(page, "yaw_left", 0).click()
    assert not plan_of(page)[0].any()


def test_the_timeline_is_edited_with_the_keyboard(page):
    cell(page, "forward", 0).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert plan_of(page)[:, :2].tolist() == [[0, 0.05], [0.05, 0], [0, 0], [0, 0]]
    page.keyboard.press("Delete")
    assert not plan_of(page)[0].any()


def test_the_path_from_above_is_the_models_own_sum(page):
    for name, make in PRESETS.items():
        page.click(f"#plan [data-preset='{name}']")
        drawn = page.evaluate(
            "[...document.querySelectorAll('#plan *')].find(e => e.wanactPath)"
            ".wanactPath.map(p => [p.x, p.y, p.heading])"
        )
        assert np.allclose(drawn, plan_path(make(STEPS)), atol=1e-6), name
        expect(page.locator(f"#plan [data-preset='{name}']")).to_have_attribute("aria-pressed", "true")


def test_the_sliders_scale_the_plan(page):
    page.click("#plan [data-preset='Forward']")
    page.locator("#pad input[data-group=move]").fill("0.1")
    assert np.allclose(plan_of(page)[:, 0], 0.1)
    expect(page.locator("#pad label.move output")).to_have_text("200%", use_inner_text=True)
    expect(page.locator("#plan figcaption")).to_contain_text("distance 200% · turn 0° · tilt 0°", use_inner_text=True)
    page.locator("#pad input[data-group=look]").fill("1.5")
    cell(page, "pitch_up", 2).click()
    assert plan_of(page)[2, CHANNELS.index("pitch_up")] == 1.5


def test_a_plan_is_exported_and_imported_and_a_bad_one_refused(page, tmp_path):
    page.click("#plan [data-preset='Look around']")
    shown = plan_of(page)
    with page.expect_download() as download:
        page.click("#plan [data-do=export]")
    exported = Path(download.value.path()).read_text()
    assert np.allclose(ActionTrack.parse(exported).magnitude, shown)
    page.click("#plan [data-do=clear]")
    open_plan(page, tmp_path / "good.json", exported)
    page.wait_for_function("document.querySelector('#plan .status')?.textContent.startsWith('Opened')")
    assert np.allclose(plan_of(page), shown)
    for name, content in {"text": '[["a"]]', "short": "[]", "large": " " * (9 * 2**20)}.items():
        open_plan(page, tmp_path / f"{name}.json", content)
        page.wait_for_function("!document.querySelector('#plan .status')?.textContent.startsWith('Opened')")
        assert status(page).endswith(".") and np.allclose(plan_of(page), shown), "a bad plan changes nothing"


def sample(file: str) -> str:
    """Selector of a sample frame's button."""
    names = [entry["file"] for entry in json.loads((SAMPLES / "samples.json").read_text())["samples"]]
    return f"#samples button >> nth={names.index(file)}"


def open_plan(page, path, content):
    path.write_text(content)
    page.set_input_files("#plan input[type=file]", path)


def test_the_plan_outlives_a_reload(page):
    page.click("#plan [data-preset='Back away']")
    page.reload()
    page.wait_for_selector("#plan td[data-c]")
    assert np.allclose(plan_of(page), PRESETS["Back away"](STEPS).magnitude)


def test_a_bad_picture_leaves_the_one_before(page, tmp_path):
    page.click(sample("rocket.jpg"))
    page.wait_for_function("document.querySelector('#frame img')?.src.includes('rocket')")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    page.set_input_files("#frame input[type=file]", bad)
    page.wait_for_function("document.querySelector('#frame-note')?.textContent.includes('not an image')")
    page.wait_for_function("document.querySelector('#frame img')?.src.includes('rocket')")
    generate(page)


def test_an_upload_is_flown_and_goes_on_from_its_last_frame(page, picture):
    page.set_input_files("#frame input[type=file]", picture)
    page.wait_for_function("(i => i && i.naturalWidth === 320)(document.querySelector('#frame img'))")
    page.wait_for_function("!document.querySelector('#samples [aria-pressed=true]')")
    generate(page)
    page.click("#viewer [data-do=extend]")
    page.wait_for_function("(i => i && i.naturalWidth === 96)(document.querySelector('#frame img'))")
    expect(page.locator("#frame-note")).to_contain_text("last frame", use_inner_text=True)
    generate(page)


def test_a_picture_is_pasted(page):
    page.evaluate("""async () => {
        const canvas = Object.assign(document.createElement('canvas'), {width: 123, height: 77});
        const blob = await new Promise(done => canvas.toBlob(done));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([blob], 'image.png', {type: 'image/png'}));
        document.dispatchEvent(new ClipboardEvent('paste', {clipboardData}));
    }""")
    page.wait_for_function("(i => i && i.naturalWidth === 123)(document.querySelector('#frame img'))")


def test_the_list_of_checkpoints_follows_the_disk(page, runs_root):
    def wait_for_step_5(there: bool):
        page.focus("#prompt textarea")
        page.focus("#checkpoint select")
        page.wait_for_function(
            f"document.querySelector('#checkpoint').innerText.includes('step 5') === {str(there).lower()}"
        )

    late = write_run(runs_root / "late", steps=(5,))
    wait_for_step_5(True)
    expect(page.locator("#checkpoint select"), "what was selected stays").to_have_value("drone/step-000000400")
    page.select_option("#checkpoint select", "late/step-000000005")
    shutil.rmtree(late)
    wait_for_step_5(False)
    expect(page.locator("#checkpoint select")).to_have_value("drone/step-000000400")
    expect(page.locator("#checkpoint")).to_contain_text(
        "late/step-000000005 is not there any more", use_inner_text=True
    )
    page.select_option("#checkpoint select", "base")
    expect(page.locator("#checkpoint")).to_contain_text("ignores the flight plan", use_inner_text=True)
    generate(page)
    expect(page.locator("#viewer .caption")).to_contain_text("base (no actions)", use_inner_text=True)
    page.select_option("#checkpoint select", "drone/step-000000400")


def test_a_sample_brings_its_prompt_and_a_flight_brings_everything(page, tmp_path):
    page.click(sample("coffee.jpg"))
    page.wait_for_function("document.querySelector('#prompt textarea')?.value.includes('coffee')")
    page.click("#plan [data-preset='Orbit right']")
    fill_seed(page, "77")
    generate(page)
    with page.expect_download() as download:
        page.click("#viewer a.record")
    flight = tmp_path / "flight.json"
    download.value.save_as(flight)
    page.reload()
    page.wait_for_selector("#plan td[data-c]")
    page.click("#plan [data-preset='No action']")
    page.set_input_files(
        "#open-flight ~ input[type=file], #open-flight input[type=file], input[accept='.json']", flight
    )
    page.wait_for_function("document.querySelector('#prompt textarea')?.value.includes('coffee')")
    page.wait_for_selector("#plan [data-preset='Orbit right'][aria-pressed=true]")
    assert np.allclose(plan_of(page), PRESETS["Orbit right"](STEPS).magnitude)
    page.locator("#advanced button").first.click()
    page.wait_for_function("document.querySelector('#seed input')?.value === '77'")


def test_an_error_stays_in_sight_and_nothing_is_lost(page):
    page.fill("#prompt textarea", "x" * 2_500)
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=failed]")
    expect(page.locator("#viewer .notice")).to_contain_text("2,500 characters", use_inner_text=True)
    assert len(page.input_value("#prompt textarea")) == 2_500
    page.fill("#prompt textarea", "a lake")
    generate(page)
    expect(page.locator("#viewer .notice")).to_be_hidden()


def test_visitors_wait_in_line_and_can_cancel(page, visit, engine):
    *served, waiting = page, visit(), visit(), visit()
    with contextlib.ExitStack() as model_is_busy:
        model_is_busy.enter_context(engine.pipe.lock)
        for one in served:  # so many clips are drawn side by side
            one.click("#generate")
            one.wait_for_selector("#viewer .viewer[data-status=working]")
        waiting.click("#generate")
        waiting.wait_for_function("document.querySelector('#viewer .what')?.textContent.includes('You are next')")
        for one in (waiting, *served):
            one.click("#viewer [data-do=cancel]")
            one.wait_for_selector("#viewer .viewer[data-status=cancelled]")
    generate(waiting)
    expect(page.locator("#viewer .viewer"), "visitors share nothing").to_have_attribute("data-status", "cancelled")


def test_a_phone_shows_it_all_and_two_fingers_hold_two_keys(visit):
    page = visit(390, 844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator("#generate")).to_be_visible()
    page.locator("#pad .pad").scroll_into_view_if_needed()
    boxes = [page.locator(f"#pad .key.{name}").bounding_box() for name in ("forward", "yaw_right")]
    points = [{"x": b["x"] + b["width"] / 2, "y": b["y"] + b["height"] / 2, "id": i} for i, b in enumerate(boxes)]
    assert all(box["width"] >= 44 and box["height"] >= 44 for box in boxes)
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
    assert lit(page) == {"forward", "yaw_right"}
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert lit(page) == set()
    page.tap("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=done]")
    page.wait_for_timeout(600)
    box = page.locator("#viewer video").bounding_box()
    assert 0 <= box["y"] < 844 - box["height"], "the clip is in sight"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_page_is_accessible(page):
    from axe_playwright_python.sync_playwright import Axe

    page.reload()  # Gradio's own toasts, of other tests' errors, nest a button in a button
    page.wait_for_selector("#plan td[data-c]")
    page.locator("#advanced button").first.click()
    assert not serious_violations(Axe().run(page))
    page.click("#header .mode")
    page.wait_for_timeout(600)  # colours fade over
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    assert not serious_violations(Axe().run(page, options=contrast)), "in the dark"
    page.click("#header .mode")


def serious_violations(results) -> list:
    return [
        (violation["id"], node["target"], re.sub(r"\s+", " ", node["failureSummary"])[:200])
        for violation in results.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if node["target"] != [".toast-header"]  # Gradio's own: a button in a button, for ten seconds
    ]
