"""What a visitor, a file or a link says stays words, wherever it is shown."""

import asyncio
import inspect
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.ui.visits import Visits
from wanact.actions import PRESETS
from wanact.errors import UserError
from wanact.flying.comparison import Comparison, Lane, Link
from wanact.flying.record import FlightRecord
from wanact.ui.components import Note
from wanact.ui.page import build_page
from wanact.ui.site import refusal

MARKUP = "<a href='https://e.example'>x</a><img src=x onerror=alert(1)><form action=x><b>"
_LOOKS_FOR = "(place) => [...document.querySelectorAll(`${place} :is(a, img, form, b)`)].map(one => one.outerHTML)"


def test_a_refusal_has_no_markup_and_no_folder():
    error = refusal(f"{MARKUP} in /var/lib/wanact/x.json & more", title="<i>")
    assert "<" not in str(error.message) + str(error.title) and "/var" not in str(error.message)
    assert "&lt;img src=x" in str(error.message) and "x.json &amp; more" in str(error.message)


@pytest.mark.browser
def test_markup_is_words_in_toasts_and_remarks(browser, page_url, engine, tmp_path):
    flight = FlightRecord(
        image=Image.new("RGB", (64, 32)),
        prompt=MARKUP,
        seed=3,
        track=PRESETS["Forward"](engine.num_actions),
        num_frames=engine.defaults["num_frames"],
        num_inference_steps=2,
        guidance_scale=1.0,
        checkpoint={"id": MARKUP[:76]},
    )
    file, broken = tmp_path / "flight.json", tmp_path / "<img src=x onerror=alert(1)>[x](https:)_a_.png"
    file.write_text(flight.to_json())
    broken.write_bytes(b"nothing")
    visits = Visits(browser, page_url)
    page = visits()
    page.on("dialog", lambda dialog: visits.problems.append(dialog.message))
    page.set_input_files("#open-flight ~ input[type=file], #open-flight input[type=file], input[accept='.json']", file)
    page.wait_for_selector(".toast-body")
    page.wait_for_function("document.querySelector('.toast-body').textContent.includes('<img src=x')")
    assert page.evaluate(_LOOKS_FOR, ".toast-body") == []
    page.set_input_files("#frame input[type=file]", broken)
    page.wait_for_function("document.querySelector('#frame-note').textContent.includes('not an image')")
    assert page.evaluate(_LOOKS_FOR, "#frame-note") == []
    visits.end()


@pytest.mark.browser
def test_markup_in_a_link_is_words(browser, page_url, engine):
    lanes = (Lane.make(MARKUP), Lane.make("base", prompt=MARKUP))
    track = PRESETS["Forward"](engine.num_actions + 1)
    link = Link("<img src=x onerror=alert(1)>", MARKUP, MARKUP, 1, 2, 1.0, track, lanes)
    visits = Visits(browser, page_url)
    page = visits.open()
    page.on("dialog", lambda dialog: visits.problems.append(dialog.message))
    for changed in (link, Link(**vars(link) | {"track": PRESETS["Forward"](engine.num_actions)})):
        page.goto(f"{page_url}?compare={changed.encode()}")
        page.wait_for_selector(".toast-body")
        assert page.evaluate(_LOOKS_FOR, ".toast-body") == []
    expect(page.locator(".toast-body"), "the sample that is not here is named").to_contain_text(
        "<img src=x", use_inner_text=True
    )
    visits.end()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", "abc", "seed is 'abc', expected a whole number"),
        ("seed", [1], "seed is [1], expected a whole number"),
        ("steps", "many", "steps is 'many', expected a number"),
    ],
)
def test_a_field_of_the_wrong_kind_is_one_sentence_that_names_it(engine, name, value, says):
    demo = build_page(engine)
    generate = next(fn for fn in demo.fns.values() if fn.api_name == "generate")
    names = list(inspect.signature(generate.fn).parameters)
    sent = [value if field == name else None for field in names]
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        with ThreadPoolExecutor(1) as thread:  # Playwright's loop runs in this one
            thread.submit(asyncio.run, demo.preprocess_data(generate, sent, None)).result()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.parametrize("words", [MARKUP, "1. a_b_ *c* [d](e) `f` ~g~ $h$ \\ | # i", "a\n\n# b"])
def test_a_note_escapes_every_mark(words):
    escaped = Note(render=False).postprocess(words)
    assert escaped.replace("\\", "") == " ".join(words.split()).replace("\\", "")
    json.dumps(escaped)


def test_comparisons_keep_their_words():
    """Escaping is for the page: files and links hold what was said."""
    flight = FlightRecord(
        image=Image.new("RGB", (64, 32)),
        prompt=MARKUP,
        seed=3,
        track=PRESETS["Forward"](4),
        num_frames=17,
        num_inference_steps=2,
        guidance_scale=1.0,
    )
    comparison = Comparison(flight, (Lane.make("base"), Lane.make("base", prompt=MARKUP)))
    assert Comparison.parse(comparison.to_json()).lanes[1].prompt == MARKUP
