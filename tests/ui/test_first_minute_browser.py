"""The first minute of a new visitor, and what a reload brings back, on a world that flies live and draws places."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.ui import live_pictures
from tests.ui.conftest import write_run
from tests.ui.live_desks import make_desk, slowed
from tests.ui.test_live_browser import LIVE, STAGE, flying, pixels, take_off
from tests.ui.visits import Visits, serving
from tests.waiting import wait_for
from wanact.bench.live_browser import BrowserError
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError
from wanact.media.footage import read_video
from wanact.ui.page import build_page
from wanact.ui.pages.live.desk import LiveDesk
from wanact.ui.samples import load_samples

pytestmark = pytest.mark.browser

DRAWS = "This world draws hills only; a photograph turns into hills."
READY = (f"{STAGE} .cap.forward", "#live-frame img", "#live-samples [aria-pressed=true]", f"{STAGE} .chosen")
PLACE = "document.body.dataset.place"


@pytest.fixture(scope="module")
def url(tiny_model_dir, tmp_path_factory):
    runs = tmp_path_factory.mktemp("first") / "runs"
    desk = make_desk(tiny_model_dir, runs, fps=8)
    write_run(runs / "drone")
    desk.engine.pipe.defaults["text_to_video"] = True
    desk.engine.pipe.components.metadata["draws"] = DRAWS
    engine = type(desk.engine)(desk.engine.pipe, runs)
    with serving(build_page(engine)) as url:
        yield url


@pytest.fixture
def visit(browser, url):
    """Opens the page as new visitors, at an address; no console has an error."""
    visits = Visits(browser, url)

    def open_page(search: str = "", width: int = 1440, height: int = 1000, ready=READY, **options):
        return visits.open_at(url + search, ready, timeout_ms=90_000, width=width, height=height, **options)

    yield open_page
    visits.end()


@pytest.fixture(scope="module")
def portrait(tmp_path_factory) -> Path:
    """A photograph that is taller than wide: red above, green in the middle, blue below."""
    pixels = np.zeros((600, 300, 3), np.uint8)
    for third in range(3):
        pixels[200 * third : 200 * (third + 1), :, third] = 220
    path = tmp_path_factory.mktemp("pictures") / "tower.png"
    Image.fromarray(pixels).save(path)
    return path


def sample(name: str, scene: str = "live-") -> str:
    return f"#{scene}samples [data-id={name}]"


def is_marked(page, name: str, scene: str = "live-") -> None:
    page.wait_for_selector(f"{sample(name, scene)}[aria-pressed=true]")


def has_place(page, place: str, name: str) -> None:
    page.wait_for_function(f"{PLACE} === '{place}'")
    assert f"tab={name}" in page.url


def has_words(page, words: str, scene: str = "live-") -> None:
    page.wait_for_function(f"document.querySelector('#{scene}prompt textarea')?.value === {words!r}")


def stage_colour(page) -> np.ndarray:
    """Mean colour of what the stage shows before take-off, [3]."""
    page.wait_for_function(f"document.querySelector('{STAGE} .chosen').complete")
    shot = page.locator(f"{STAGE} .screen").screenshot()
    picture = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float)
    height, width, _ = picture.shape
    return picture[height // 8 : height // 4, width // 8 : -width // 8].mean(axis=(0, 1))


# ---- the page opens on live flight -----------------------------------------------------------------------------------


def test_the_page_opens_on_a_flight_that_a_held_key_begins_and_steers(visit):
    page = visit()
    tabs = page.get_by_role("tab").all_inner_texts()
    assert tabs == ["Fly", "Plan a clip", "Checkpoints", "Compare"]
    page.wait_for_function(f"{PLACE} === 'live'")
    expect(page.locator(f"{STAGE} .lead")).to_contain_text("Hold W", use_inner_text=True)
    scrolled = page.evaluate("scrollY")
    page.keyboard.down("w")  # nothing on the page has the focus yet
    page.wait_for_function(f"{LIVE}.state === 'line' || {LIVE}.state === 'flying'")
    flying(page)
    page.wait_for_function(f"{LIVE}.shown.a[0] > 0")
    expect(page.locator(f"{STAGE} .lead"), "something was pressed").to_be_hidden()
    page.keyboard.up("w")
    page.wait_for_function(f"{LIVE}.shown.a.every(value => value === 0)")
    assert page.evaluate("scrollY") == scrolled


def test_a_key_that_is_held_while_a_flight_starts_steers_its_first_picture(visit, monkeypatch):
    slowed(monkeypatch, WanActPipeline, "encode_image", 0.5)
    page = visit()
    page.evaluate(f"""() => {{
        window.told = [];
        const live = document.querySelector('{STAGE} .live');
        new MutationObserver(() => window.told.push(live.dataset.state)).observe(live, {{attributes: true}});
    }}""")
    page.click(f"{STAGE} [data-do=takeoff]")
    page.keyboard.down("ArrowRight")  # the button that had the focus is gone by now
    page.wait_for_selector(f"{STAGE} .lamp.yaw_right.on", state="attached")
    page.wait_for_function(f"{LIVE}.numbers.shown.length >= 1")
    first = page.evaluate(f"{LIVE}.shown.a[5]")
    flying(page)
    page.wait_for_function(f"{LIVE}.shown.a[5] > 0")
    page.keyboard.up("ArrowRight")
    assert first > 0, "the first picture already obeys"


def test_the_invitation_stays_until_something_was_pressed(visit):
    page = visit()
    take_off(page)
    expect(page.locator(f"{STAGE} .lead")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(f"{STAGE} .lead"), "Tab is no control").to_be_visible()
    page.focus(f"{STAGE} .live")
    page.keyboard.down("a")
    page.wait_for_selector(f"{STAGE} .lead", state="hidden")
    page.keyboard.up("a")
    expect(page.locator(f"{STAGE} .lead")).to_be_hidden()


def test_a_phone_is_told_of_the_stick_which_begins_the_flight(visit):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    expect(page.locator(f"{STAGE} .lead")).to_contain_text("left stick", use_inner_text=True)
    expect(page.locator(f"{STAGE} .lead")).not_to_contain_text("W", use_inner_text=True)
    button, lead = (page.locator(f"{STAGE} {part}").bounding_box() for part in ("[data-do=takeoff]", ".lead"))
    assert button["y"] + button["height"] <= lead["y"], "it covers no button"
    stick = page.locator(f"{STAGE} .stick.move")
    stick.scroll_into_view_if_needed()
    box = stick.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, up in (("touchStart", 0), ("touchMove", 60)):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y - up}]})
    flying(page)
    page.wait_for_function(f"{LIVE}.shown.a[0] > 0")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_after_a_flight_another_first_frame_stands_on_the_stage(visit):
    page = visit()
    take_off(page)
    page.click(f"{STAGE} [data-do=land]")
    page.wait_for_selector(f"{STAGE} [data-state=landed]")
    expect(page.locator(f"{STAGE} .chosen"), "it has seen more than its first frame").to_be_hidden()
    mains = f"{STAGE} .choices .main:visible"
    expect(page.locator(mains)).to_have_text(["Continue"], use_inner_text=True)
    page.click(sample("canyon"))
    page.wait_for_selector(f"{STAGE} .chosen")
    page.wait_for_function(f"document.querySelector('{STAGE} .chosen').src.includes('canyon')")
    expect(page.locator(mains)).to_have_text(["New flight"], use_inner_text=True)


# ---- place and choice in the address ---------------------------------------------------------------------------------


def test_back_goes_to_the_tab_before(visit):
    page = visit()
    page.get_by_role("tab", name="Plan a clip").click()
    has_place(page, "fly", "plan")
    page.wait_for_selector("#samples button >> nth=0")
    page.click(sample("canyon", ""))
    page.wait_for_function("location.search.includes('start=canyon')")
    page.get_by_role("tab", name="Compare").click()
    has_place(page, "compare", "compare")
    assert "start" not in page.url
    page.go_back()
    has_place(page, "fly", "plan")
    assert "start=canyon" in page.url
    page.go_back()
    page.wait_for_function(f"{PLACE} === 'live'")
    page.go_forward()
    has_place(page, "fly", "plan")


def test_a_link_opens_a_place_with_its_first_frame(visit):
    page = visit("?tab=plan&start=coffee", ready=("#plan td[data-c]", "#frame img"))
    is_marked(page, "coffee", "")
    has_words(page, "a cup of coffee on a wooden table", "")
    assert page.evaluate(PLACE) == "fly"


def test_a_link_to_nowhere_opens_the_first_place(visit):
    page = visit("?tab=nowhere&start=../../etc")
    assert page.evaluate(PLACE) == "live"
    is_marked(page, "coast")


def test_a_reload_comes_back_to_the_same_page_picture_prompt_and_plan(visit, portrait):
    page = visit("?tab=plan", ready=("#plan td[data-c]", "#frame img"))
    page.set_input_files("#frame input[type=file]", portrait)
    page.wait_for_function("document.querySelector('#frame img')?.naturalHeight === 600")
    page.wait_for_selector("#samples:not(:has([aria-pressed=true]))")
    has_words(page, "", "")
    page.fill("#prompt textarea", "a tower by the sea")
    page.click("#plan [data-preset='Orbit right']")
    page.focus("#frame .crop-kept")
    page.keyboard.press("Home")
    page.wait_for_function(
        "(kept => kept?.picture && kept.prompt === 'a tower by the sea' && kept.crop === 0)"
        "(JSON.parse(sessionStorage.getItem('wanact-scene-')))"
    )
    page.wait_for_selector("#plan [data-preset='Orbit right'][aria-pressed=true]")
    assert "tower" not in page.url and "cache" not in page.url, "no picture of a visitor stands in an address"
    page.reload()
    has_words(page, "a tower by the sea", "")
    page.wait_for_function("document.querySelector('#frame img')?.naturalHeight === 600")
    page.wait_for_selector("#frame .crop-kept[aria-valuenow='0']")
    page.wait_for_selector("#plan [data-preset='Orbit right'][aria-pressed=true]")
    assert page.evaluate(PLACE) == "fly"
    expect(page.locator("#samples [aria-pressed=true]")).to_have_count(0)
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=done]")


def test_a_reload_comes_back_to_the_flight_with_its_last_view_and_one_thing_to_press(visit):
    page = visit()
    page.click(sample("canyon"))
    page.wait_for_function("document.querySelector('#live-frame img')?.src.includes('canyon')")
    take_off(page)
    page.fill("#live-prompt textarea", "a red canyon in snow")
    page.click("#live-say")
    page.wait_for_function("JSON.parse(sessionStorage.getItem('wanact-scene-live-'))?.prompt?.includes('snow')")
    page.focus(f"{STAGE} .live")
    page.keyboard.down("d")
    page.wait_for_function(f"{LIVE}.shown.a[3] > 0 && {LIVE}.shown.t > 3")
    page.keyboard.up("d")
    page.reload()
    page.wait_for_selector(f"{STAGE} [data-do=continue]")
    has_words(page, "a red canyon in snow")
    is_marked(page, "canyon")
    page.wait_for_selector(f"{STAGE} .chosen[src^='data:image/']")  # the stage is not black
    expect(page.locator(f"{STAGE} .choices .main:visible")).to_have_text(["Continue"], use_inner_text=True)
    expect(page.locator(f"{STAGE} [data-do=share]"), "it can be shared as before the reload").to_be_visible()
    take_off(page, "continue")
    page.wait_for_function(f"{LIVE}.shown.t > 3")
    assert np.asarray(pixels(page)).std() > 1


# ---- first frames ----------------------------------------------------------------------------------------------------


def test_a_picture_that_is_taken_away_stays_away(visit):
    page = visit()
    page.click("#live-frame [aria-label='Remove Image'], #live-frame [title='Remove Image']")
    page.wait_for_function("document.querySelector('#live-note')?.textContent.includes('Choose a first frame')")
    page.wait_for_selector("#live-samples:not(:has([aria-pressed=true]))")
    page.wait_for_timeout(1000)  # until now the sample came back, under another name
    expect(page.locator("#live-frame img")).to_have_count(0)
    expect(page.locator(f"{STAGE} .why"), "nothing is chosen of which more could be known").to_be_hidden()
    page.click(f"{STAGE} [data-do=takeoff]")
    page.wait_for_selector(f"{STAGE} .notice:not([hidden])")
    expect(page.locator(f"{STAGE} .notice")).to_contain_text("no first frame", use_inner_text=True)
    page.click(sample("canyon"))
    page.wait_for_function("document.querySelector('#live-frame img')?.src.includes('canyon')")


def test_an_opened_flight_leaves_no_sample_marked(visit, tmp_path):
    page = visit("?tab=plan", ready=("#plan td[data-c]", "#frame img", "#samples [aria-pressed=true]"))
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=done]")
    with page.expect_download() as download:
        page.click("#viewer a.record")
    download.value.save_as(tmp_path / "flight.json")
    page.set_input_files("input[accept='.json']", tmp_path / "flight.json")
    page.wait_for_function("document.querySelector('#frame-note')?.textContent.includes('that you opened')")
    page.wait_for_selector("#samples:not(:has([aria-pressed=true]))")


def test_a_portrait_shows_where_it_is_cut_and_is_dragged(visit, portrait):
    page = visit()
    page.set_input_files("#live-frame input[type=file]", portrait)
    page.wait_for_selector("#live-frame .crop-kept")
    expect(page.locator("#live-crop")).to_contain_text("taller than the flight", use_inner_text=True)
    page.wait_for_function("document.querySelector('#live-frame img')?.naturalHeight === 600")
    wait_for(lambda: stage_colour(page).argmax() == 1)  # the middle is green
    box = page.locator("#live-frame .crop-kept").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] - 200, steps=4)
    page.mouse.up()
    page.wait_for_selector("#live-frame .crop-kept[aria-valuenow='0']")
    wait_for(lambda: stage_colour(page).argmax() == 0)  # above it is red
    flight = take_off(page)
    assert flight
    page.click(f"{STAGE} [data-do=land]")
    with page.expect_download() as download:
        page.click(f"{STAGE} [data-do=save-record]")
    record = FlightRecord.load(Path(download.value.path()))
    assert np.asarray(record.image).mean(axis=(0, 1)).argmax() == 0, "what is flown is what was shown"


def test_a_photograph_takes_the_samples_words_away_and_is_told_what_the_world_draws(visit, portrait):
    page = visit()
    prompts = {one.id: one.prompt for one in load_samples()[0]}
    has_words(page, prompts["coast"])
    expect(page.locator("#live-scene")).not_to_contain_text(DRAWS, use_inner_text=True)
    page.click(sample("coffee"))
    page.wait_for_function(f"document.querySelector('#live-note')?.textContent.includes({DRAWS!r})")
    page.click(sample("canyon"))
    has_words(page, prompts["canyon"])
    page.set_input_files("#live-frame input[type=file]", portrait)
    has_words(page, "")
    page.wait_for_function(f"document.querySelector('#live-note')?.textContent.includes({DRAWS!r})")
    page.fill("#live-prompt textarea", "a tower")
    page.set_input_files("#live-frame input[type=file]", portrait)
    page.wait_for_timeout(1500)
    has_words(page, "a tower")


def test_a_place_is_described(visit):
    page = visit()
    page.fill("#live-prompt textarea", "")
    page.click("#live-describe")
    page.wait_for_function("document.querySelector('#live-note')?.textContent.includes('describe a place')")
    is_marked(page, "coast")
    page.fill("#live-prompt textarea", "snowy mountains at dusk")
    page.click("#live-describe")
    page.wait_for_function("(i => i && i.naturalWidth === 96)(document.querySelector('#live-frame img'))")
    page.wait_for_function("document.querySelector('#live-note')?.textContent.includes('from your words')")
    page.wait_for_selector("#live-samples:not(:has([aria-pressed=true]))")
    has_words(page, "snowy mountains at dusk")
    take_off(page)


# ---- its film --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", live_pictures.SIZES)
def test_the_first_minute_is_filmed_from_the_opened_page_to_the_comparison(browser, url, tmp_path, monkeypatch, width):
    for name, value in (
        ("LOOK_MS", 400),
        ("HELD", 1),
        ("FILM_FPS", 4),
        ("MINUTE_WIDTH", 360),
    ):  # a quick and coarse film
        monkeypatch.setattr(live_pictures, name, value)
    live_pictures.film_minute(url, tmp_path, browser, width)
    film = tmp_path / f"minute-{width}.mp4"
    first, *_, last = frames = read_video(film)
    wide = min(width, live_pictures.MINUTE_WIDTH)
    assert first.shape[:2] == (pytest.approx(wide * live_pictures.SIZES[width] / width, abs=2), wide)
    assert len(frames) / 4 > 3, "as long as keys were held"
    tabs = [frame[: frame.shape[0] // 4].astype(int) for frame in (first, last)]
    assert np.abs(tabs[0] - tabs[1]).max() > 60, "another tab is lit at its end"
    with Image.open(film.with_suffix(".webp")) as shown:
        assert getattr(shown, "n_frames", 1) > 5
    assert film.with_suffix(".webp").stat().st_size < live_pictures.MAX_BYTES


def test_a_film_of_a_flight_that_fails_says_what_the_page_says(browser, url, tmp_path, monkeypatch):
    def refuse(*_args):
        raise RequestError("the world is closed today")

    monkeypatch.setattr(LiveDesk, "_new_flight", refuse)
    with pytest.raises(BrowserError, match="world is closed today"):
        live_pictures.film_minute(url, tmp_path, browser, 1440)
    assert not list(tmp_path.iterdir())
