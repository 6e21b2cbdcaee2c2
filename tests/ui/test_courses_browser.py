"""Truth beside a flight, and a course from its first key to the table, in a real browser."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from tests.ui.live_desks import live_alone, make_desk
from tests.ui.test_browser import serious_violations
from tests.ui.test_live_browser import LIVE, READY, STAGE, flying, take_off
from tests.ui.visits import Visits
from wanact.ui.pages.live import beside
from wanact.ui.samples import SAMPLES, load_samples
from wanact.world import courses
from wanact.world.true_flight import Start, first_frame
from wanact.world.truth import fly_sample

pytestmark = pytest.mark.browser

COURSES = "#live-courses"


def with_rings(name: str, *distances: float) -> courses.Course:
    """A course with rings straight ahead of where the first of ours begins, or behind."""
    x, y, _, yaw, _ = courses.COURSES[0].pose
    rings = tuple((x + d * math.cos(yaw), y + d * math.sin(yaw), math.degrees(yaw)) for d in distances)
    return replace(courses.COURSES[0], id=name, name=f"The ring is {name}", rings=rings)


@pytest.fixture(scope="module")
def course() -> courses.Course:
    return with_rings("ahead", 60, 100)


@pytest.fixture(scope="module")
def samples(course, tmp_path_factory):
    """A sample from the simulator and a photograph."""
    folder = tmp_path_factory.mktemp("samples")
    pixels, words = first_frame(Start(course.start.world, course.pose), 384, 640)
    Image.fromarray(pixels).save(folder / "coast.png")
    Image.open(SAMPLES / "coffee.jpg").save(folder / "coffee.png")
    known = {"file": "coast.png", "name": "Coast", "prompt": words, "world": course.start.world, "pose": course.pose}
    photograph = {"file": "coffee.png", "name": "Coffee", "prompt": "a cup of coffee"}
    (folder / "samples.json").write_text(json.dumps({"samples": [known, photograph]}))
    return folder


@pytest.fixture(scope="module")
def url(tiny_model_dir, tmp_path_factory, course, samples):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courses, "COURSES", (course, with_rings("behind", -60)))
        patch.setattr(load_samples, "__defaults__", (samples,))
        beside._fingerprints.cache_clear()
        desk = make_desk(tiny_model_dir, tmp_path_factory.mktemp("courses") / "runs", fps=16, silence_s=20, lost_s=60)
        desk.engine.truth = fly_sample
        with live_alone(desk) as url:
            yield url
        beside._fingerprints.cache_clear()


@pytest.fixture
def visit(browser, url):
    visits = Visits(browser, url)

    yield partial(visits.open_at, url, (*READY, f"{COURSES} .course"))
    visits.end()


def card(course: str) -> str:
    return f"{COURSES} [data-course={course}]"


def picked(page, sample: str) -> None:
    page.click(f"#live-samples [data-id={sample}]")
    page.wait_for_selector(f"#live-samples [data-id={sample}][aria-pressed=true]")


def test_the_truth_is_offered_for_the_simulators_samples_alone_and_comes_in_step(visit):
    page = visit()
    box, why = page.locator(f"{STAGE} [name=truth]"), page.locator(f"{STAGE} .why")
    picked(page, "coffee")
    page.wait_for_function(f"document.querySelector('{STAGE} [name=truth]').disabled")
    expect(why).to_contain_text("what lies beyond this picture", use_inner_text=True)
    assert why.inner_text().count(".") == 1
    picked(page, "coast")
    page.wait_for_function(f"!document.querySelector('{STAGE} [name=truth]').disabled")
    page.set_input_files("#live-frame input[type=file]", str(SAMPLES / "rocket.jpg"))
    page.wait_for_function(f"document.querySelector('{STAGE} [name=truth]').disabled")
    picked(page, "coast")
    page.wait_for_function(f"!document.querySelector('{STAGE} [name=truth]').disabled")
    expect(why).to_be_hidden()
    box.check()
    expect(page.locator(f"{STAGE} .truth"), "before take-off there is nothing to compare").to_be_hidden()
    take_off(page)
    page.keyboard.down("w")
    page.wait_for_selector(f"{STAGE} .truth.ready")
    sides = [page.locator(f"{STAGE} {part}").bounding_box() for part in (".screen", ".truth")]
    assert sides[0]["x"] + sides[0]["width"] <= sides[1]["x"] + 1, "side by side"
    assert sides[0]["width"] == pytest.approx(sides[1]["width"], abs=2)
    shown = page.evaluate(
        f"[...document.querySelector('{STAGE} .truth canvas').getContext('2d').getImageData(0, 0, 96, 64).data]"
    )
    assert np.ptp(np.reshape(shown, (-1, 4))[:, :3]) > 60, "a picture"
    needle = page.locator(f"{STAGE} .needle")
    word = needle.get_attribute("data-word")
    assert word in ("close", "drifting", "lost") and needle.get_attribute("aria-valuetext").endswith(word)
    assert not serious_violations(Axe().run(page))
    page.keyboard.up("w")
    box.uncheck()
    page.wait_for_selector(f"{STAGE} .truth", state="hidden")
    page.reload()
    page.wait_for_selector(f"{STAGE} [data-do=continue]")
    page.wait_for_selector(f"{STAGE} .chosen[src^='data:image/']")
    expect(box, "its world is known after a reload, too").not_to_be_disabled()


def test_a_course_from_its_first_key_to_the_table(visit):
    page = visit()
    expect(page.locator(card("ahead"))).to_contain_text("2 rings · no time yet", use_inner_text=True)
    page.click(f"{card('behind')} .main")
    flying(page)
    page.wait_for_selector(f"{STAGE} .arrow")
    expect(page.locator(f"{STAGE} .away")).to_contain_text("60 m")
    expect(page.locator(f"{STAGE} .ring.next")).to_be_hidden()
    page.click(f"{card('ahead')} .main")
    page.wait_for_function(f"document.querySelector('{STAGE} .race').textContent.startsWith('Ring 1 of 2 · 0.0 s')")
    flying(page)
    page.wait_for_selector(f"{STAGE} .ring.next[d^=M]")
    expect(page.locator(f"{STAGE} .arrow")).to_be_hidden()
    expect(page.locator(f"{STAGE} .away")).to_contain_text("60 m")
    page.keyboard.down("w")
    page.wait_for_function(f"document.querySelector('{STAGE} .race').textContent.startsWith('Finished in')")
    page.keyboard.up("w")
    expect(page.locator(f"{COURSES} .won")).to_contain_text("place 1", use_inner_text=True)
    page.fill(f"{COURSES} [name=name]", "<b>x</b>")
    page.click(f"{COURSES} .claim .main")
    page.wait_for_selector(f"{COURSES} .problem:not([hidden])")
    expect(page.locator(f"{COURSES} .problem")).to_contain_text("<", use_inner_text=True)
    assert not page.locator(f"{COURSES} .problem b").count()
    page.fill(f"{COURSES} [name=name]", "Ada")
    page.click(f"{COURSES} .claim .main")
    page.wait_for_selector(f"{COURSES} tr.own")
    assert page.inner_text(f"{COURSES} tr.own").split()[:2] == ["1", "Ada"]
    expect(page.locator(f"{COURSES} .claim")).to_be_hidden()
    expect(page.locator(card("ahead"))).to_contain_text("· best", use_inner_text=True)
    assert not serious_violations(Axe().run(page))

    later = visit(width=390, height=844, has_touch=True, is_mobile=True)
    name = card("ahead")
    later.wait_for_function(f"document.querySelector('{name}').innerText.includes('· best')")
    later.tap(f"{card('ahead')} button:not(.main)")
    later.wait_for_selector(f"{COURSES} tbody tr")
    assert later.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")


def test_on_a_phone_the_courses_stay_inside_their_card(visit):
    page = visit(width=390, height=844, has_touch=True, is_mobile=True)
    right = "part => Math.max(...[...document.querySelectorAll(part)].map(e => e.getBoundingClientRect().right))"
    card, inside = (page.evaluate(right, part) for part in ("#live-place", f"{COURSES} :is(h2, .course, button)"))
    assert inside <= card <= 390
    lead, button = (page.locator(f"{STAGE} {part}").bounding_box() for part in (".lead", "[data-do=takeoff]"))
    assert lead["y"] >= button["y"] + button["height"], "what to hold first hides behind no button"


def test_who_goes_back_is_told_that_the_flight_does_not_count(visit):
    page = visit()
    page.click(f"{card('ahead')} .main")
    flying(page)
    page.keyboard.down("w")
    page.wait_for_function(f"{LIVE}.shown.t > 5")
    page.keyboard.up("w")
    page.locator(f"{STAGE} .timeline input").fill("2")
    page.click(f"{STAGE} [data-do=rewind]")
    flying(page)
    page.wait_for_function(f"document.querySelector('{STAGE} .race').textContent.includes('no longer counts')")
