"""The Data page in a real browser: a clip under one clock, filters, verdicts that are applied, marks, and the way to
Plan a clip."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import expect

from tests.ui.test_browser import serious_violations
from tests.ui.test_data import looked_at  # noqa: F401  a fixture
from tests.ui.visits import Visits, serving
from wanact.data import marks
from wanact.data.sets import DataSet
from wanact.ui.edits import Edits
from wanact.ui.engine import Engine
from wanact.ui.page import build_page, launch_options

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(looked_at, tmp_path_factory):  # noqa: F811
    return shutil.copytree(looked_at, tmp_path_factory.mktemp("data") / "lakes", copy_function=shutil.copy2)


@pytest.fixture(scope="module")
def edits():
    return Edits.new()


@pytest.fixture(scope="module")
def url(pipe, runs_root, folder, edits):
    engine = Engine(pipe, runs_root, edits=edits, data=[DataSet(folder)])
    with serving(build_page(engine), launch_options(edits)) as address:
        yield address


@pytest.fixture(scope="module")
def visits(browser, url):
    visits = Visits(browser, url)
    yield visits
    visits.end()


def opened(visits, first="", **options):
    page = visits.open(**options)
    if first:
        page.goto(first)
        page.wait_for_selector("#places [role=tab]")
    page.goto(f"{visits.url}?tab=data")
    page.wait_for_selector("#footage .footage[data-status=ready]")
    page.wait_for_selector("#footage .one img")
    return page


def choose(page, index):
    clip = page.locator("#footage .one").nth(index)
    name = clip.get_attribute("data-id")
    clip.click()
    page.wait_for_selector(f'#footage .detail[data-ready="{name}"]')


@pytest.fixture(scope="module")
def own_page(visits, edits, url):
    return opened(visits, edits.address(url))


def test_a_clip_its_actions_and_the_flow_stand_under_one_clock(own_page):
    page = own_page
    choose(page, 0)
    assert page.locator("#footage .lane .asked").count() == page.locator("#footage .lane .read").count() == 4
    pixels = "() => document.querySelector('#footage .stage canvas').toDataURL()"
    seen = []
    for frame in (0, 12):
        page.locator("#footage .controls input").fill(str(frame))
        expect(page.locator("#footage .detail")).to_have_attribute("data-frame", str(frame))
        expect(page.locator("#footage .lane .now").first).to_have_attribute("x1", str(frame))
        seen.append((page.evaluate(pixels), page.locator("#footage .hud .lamp.on").count()))
    assert seen[0][0] != seen[1][0], "another frame"
    assert [lamps for _, lamps in seen] == [0, 1], "the first frame obeys nothing"
    expect(page.locator("#footage .hud .lamp.on.yaw_left")).to_have_count(1)


def test_filters_leave_what_is_like_them(own_page):
    page = own_page
    expect(page.locator("#footage .one")).to_have_count(5)
    page.click("#footage .channels button[aria-label='With forward']")
    expect(page.locator("#footage .one")).to_have_count(1)
    page.click("#footage .channels button[aria-label='With forward']")
    page.fill("#footage .search input", "lake 2")
    expect(page.locator("#footage .one")).to_have_count(1)
    page.fill("#footage .search input", "nowhere")
    expect(page.locator("#footage .empty")).to_be_visible()
    page.fill("#footage .search input", "")
    page.select_option("#footage .flag", "unreadable")
    expect(page.locator("#footage .one")).to_have_count(1)
    page.select_option("#footage .flag", "all")


def test_marks_and_verdicts_are_kept_beside_the_table(own_page, folder):
    page, table = own_page, folder / "clips.csv"
    before = table.read_bytes()
    choose(page, 1)
    page.check("#footage .detail .out")
    page.wait_for_selector("#footage .one.out")
    assert marks.of(table).of_clip("clip1.mp4").out
    page.uncheck("#footage .detail .out")
    page.wait_for_selector("#footage .one.out", state="detached")
    page.fill("#footage .detail textarea", "a bay in fog")
    page.click("#footage .detail [data-do=caption]")
    page.wait_for_selector("#footage .one .words span:text('a bay in fog')")
    page.click("#footage .verdicts li[data-name=yaw-mirrored] [data-do=apply]")
    page.wait_for_selector("#footage .verdicts li[data-name=yaw-mirrored]", state="detached")
    kept = marks.of(table)
    assert kept.fix.times == (1.0, 1.0, -1.0, 1.0) and kept.of_clip("clip1.mp4").prompt == "a bay in fog"
    assert table.read_bytes() == before
    page.click("#footage .marked button")
    page.wait_for_selector("#footage .verdicts li[data-name=yaw-mirrored]")


def test_a_clip_is_flown_on_plan(own_page):
    page = own_page
    choose(page, 3)
    page.click("#footage .detail [data-do=plan]")
    page.wait_for_selector("#place-fly", state="visible")
    page.wait_for_function(
        "document.querySelector('#plan td[data-c=\"0\"][data-t=\"0\"]').getAttribute('aria-selected') === 'true'"
    )
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'lake 3'")


def test_a_visitor_sees_everything_and_keeps_nothing(visits, folder):
    page = opened(visits, width=390, height=844)
    choose(page, 0)
    assert page.eval_on_selector("#footage .detail fieldset", "fields => fields.disabled")
    expect(page.locator("#footage .verdicts [data-do=apply]").first).to_be_disabled()
    expect(page.locator("#footage .verdicts")).to_contain_text("--apply yaw-mirrored", use_inner_text=True)
    assert str(folder.parent) not in page.content()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing reaches over the side"


def test_nothing_serious_stands_in_anybodys_way(visits):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(visits)
    choose(page, 0)
    assert not serious_violations(Axe().run(page))
    page.click("#header .mode")
    page.wait_for_timeout(600)  # colours fade over
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    assert not serious_violations(Axe().run(page, options=contrast)), "in the dark"
