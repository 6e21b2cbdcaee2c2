"""Checkpoints and Compare in a real browser, on the tiny model."""

import contextlib
import hashlib
import json
import re
import threading

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from safetensors.torch import save

from tests.ui.conftest import add_step, write_card, write_run
from tests.ui.test_browser import serious_violations
from tests.ui.visits import Visits, press, serving
from tests.waiting import wait_for
from wanact.files import write_json
from wanact.flying.comparison import Comparison
from wanact.media.animation import write_animation
from wanact.media.footage import read_video
from wanact.runs import store
from wanact.runs.notes import read_notes
from wanact.runs.ref import RUN_CONFIG
from wanact.ui.edits import Edits
from wanact.ui.engine import Engine
from wanact.ui.page import build_page, launch_options

pytestmark = pytest.mark.browser

STEPS = (100, 200, 300, 400)


def write_log(run, last, every=20):
    rows = [
        {"step": s, "loss": 12 / (s + 40), "learning_rate": 1e-3 * (1 - s / 600)} for s in range(every, last, every)
    ]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def write_many(run, count):
    """Checkpoints by the thousand, each with one small file and sums that hold."""
    blob = save({"weight": torch.zeros(4)})
    folder = run / "checkpoints"
    folder.mkdir(parents=True)
    entry = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    for number in range(1, count + 1):
        step = folder / store.step_name(10 * number)
        step.mkdir()
        (step / store.CONTROLLER).write_bytes(blob)
        metadata = {"format": 1, "step": 10 * number, "loss": 1 / number, "sequence": number, "is_best": False}
        metadata |= {"timestamp": "2026-01-01T00:00:00+00:00", "files": {store.CONTROLLER: entry}}
        metadata["manifest_sha256"] = store._manifest_sum(metadata)
        write_json(step / store.METADATA, metadata)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shelf")
    write_log(write_run(root / "drone", steps=STEPS), 400)
    for step, control in zip(STEPS, (0.5, 0.75, 1.0, 0.9), strict=True):
        write_card(root / "drone", step, control, first_frames=2 if step == 100 else 6)
    damaged = write_run(root / "broken", steps=(50,)) / "checkpoints" / "step-000000050" / store.CONTROLLER
    damaged.write_bytes(damaged.read_bytes()[:-1])
    return root


@pytest.fixture(scope="module")
def serve():
    """Serve an engine's page; closed at the end of the module."""
    with contextlib.ExitStack() as pages:
        yield lambda engine: pages.enter_context(serving(build_page(engine), launch_options(engine.edits)))


@pytest.fixture(scope="module")
def edits() -> Edits:
    return Edits.new()


@pytest.fixture(scope="module")
def shelf_url(pipe, root, serve, edits):
    return serve(Engine(pipe, root, edits=edits))


@pytest.fixture(scope="module")
def own_page(browser, shelf_url, edits):
    """Of the owner, who has opened the address that the terminal prints."""
    visits = Visits(browser, shelf_url)
    page = visits.open()
    page.goto(edits.address(shelf_url))
    page.wait_for_selector("#plan td[data-c]")
    assert page.url == f"{shelf_url}?", "the token is in no address that somebody copies"
    yield page
    visits.end()


@pytest.fixture
def page(own_page):
    """One visitor's page for many tests; each starts on Checkpoints with nothing picked."""
    go(own_page, "Checkpoints")
    ready(own_page)
    for _ in range(own_page.locator("#ledger .tray [data-out]").count()):
        own_page.locator("#ledger .tray [data-out]").first.click()
    return own_page


def go(page, place):
    page.locator("#places [role=tab]", has_text=place).click()
    page.wait_for_function(
        "name => document.getElementById(`place-${document.body.dataset.place}-button`)?.textContent.trim() === name",
        arg=place,
    )


def ready(page):
    page.wait_for_selector("#ledger .ledger[data-status=ready]")
    page.wait_for_selector("#ledger circle.point >> nth=0")


def click_point(page, checkpoint):
    """In one piece: the curve is drawn anew when colours or sizes change, and the page moves when more of it comes."""
    page.wait_for_function(
        """id => {
            const one = document.querySelector(`#ledger circle.point[data-id="${id}"]`);
            if (!one) return false;
            one.scrollIntoView({block: 'center'});
            const box = one.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            const click = new PointerEvent('click', {clientX: x, clientY: y, bubbles: true, pointerType: 'mouse'});
            document.elementFromPoint(x, y).dispatchEvent(click);
            return true;
        }""",
        arg=checkpoint,
    )
    page.wait_for_selector(f'#ledger .row[data-id="{checkpoint}"][aria-selected=true]')


def shown_frames(page):
    """The frame number of every lane, read at one moment."""
    return page.eval_on_selector_all("#stage-compare figure", "list => list.map(one => +one.dataset.frame)")


def lane_pixels(page, index):
    """What a lane shows now, [H, W, 3]."""
    width, height, data = page.evaluate(
        """index => { const canvas = document.querySelectorAll('#stage-compare figure canvas')[index];
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, Array.from(data)]; }""",
        index,
    )
    return np.array(data, np.int16).reshape(height, width, 4)[..., :3]


def compare(page):
    press(page, "#compare-go", "wanact:compare-start", "#stage-compare .stage[data-status=done]")
    page.wait_for_function("document.querySelectorAll('#stage-compare figure[data-frame]').length > 1")


def test_three_steps_picked_on_the_curve_are_compared_in_step(page, tmp_path):
    picked = [f"drone/step-{step:09d}" for step in (100, 200, 400)]
    for checkpoint in picked:
        click_point(page, checkpoint)
    expect(page.locator("#ledger .letter")).to_have_count(3)
    page.click("#ledger .tray .go")
    page.wait_for_function("document.body.dataset.place === 'compare'")
    page.wait_for_function("document.querySelectorAll('#lanes .lane').length === 3")
    assert page.eval_on_selector_all("#lanes .lane > select", "all => all.map(one => one.value)") == picked
    compare(page)
    expect(page.locator("#stage-compare figure[data-status=done]")).to_have_count(3)

    seen = [shown_frames(page) for _ in range(12) if page.wait_for_timeout(90) is None]
    assert all(max(frames) - min(frames) <= 1 for frames in seen), seen
    assert len({frames[0] for frames in seen}) > 1, "it plays"
    clips = []
    for index in range(3):
        with page.expect_download() as download:
            page.locator("#stage-compare figure").nth(index).locator("a").click()
        download.value.save_as(tmp_path / f"{index}.mp4")
        clips.append(read_video(tmp_path / f"{index}.mp4").astype(int))
    scrub = page.locator("#stage-compare .transport input[type=range]")
    for frame in (12, 3, 16, 0):
        scrub.fill(str(frame))
        page.wait_for_function(
            "f => [...document.querySelectorAll('#stage-compare figure')].every(one => +one.dataset.frame === f)",
            arg=frame,
        )
        for index, clip in enumerate(clips):
            difference = np.abs(clip - lane_pixels(page, index)).mean(axis=(1, 2, 3))
            assert difference[frame] <= difference.min() + 1, f"lane {index} shows frame {difference.argmin()}"
    page.click("#stage-compare [data-do=next]")
    page.wait_for_function("document.querySelector('#stage-compare figure')?.dataset.frame === '1'")
    expect(page.locator("#stage-compare .time")).to_contain_text("frame 1 / 16", use_inner_text=True)
    assert page.locator("#stage-compare .lamp.on").count() > 0, "the held keys of this frame"

    page.select_option("#stage-compare .view", "difference")
    expect(page.locator("#stage-compare .big canvas")).to_be_visible()
    assert chosen_pair(page) == ["0", "1"] and difference_of(page) > 0.5, "of A and B"
    page.select_option("#stage-compare .right", "2")
    assert difference_of(page) > 0.5
    expect(page.locator("#stage-compare .pair-note")).to_have_text("", use_inner_text=True)
    page.select_option("#stage-compare .left", "2")
    assert difference_of(page) == 0
    expect(page.locator("#stage-compare .pair-note")).to_contain_text("same lane", use_inner_text=True)
    page.select_option("#stage-compare .view", "side")
    files = {}
    for kind in ("tiled", "record"):
        with page.expect_download() as download:
            page.click(f"#stage-compare a.{kind}")
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    assert len(read_video(files["tiled"])) == 17
    comparison = Comparison.parse(files["record"].read_bytes())
    assert [lane.checkpoint for lane in comparison.lanes] == picked


def chosen_pair(page):
    return [page.input_value(f"#stage-compare .{side}") for side in ("left", "right")]


def difference_of(page):
    """Mean brightness of what the difference of two lanes shows."""
    return page.evaluate(
        """() => { const canvas = document.querySelector('#stage-compare .big canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let sum = 0; for (let i = 0; i < data.length; i++) if (i % 4 < 3) sum += data[i]; return sum / data.length; }"""
    )


def test_a_view_that_is_on_while_lanes_appear_shows_the_two_that_are_chosen(page, pipe):
    """It was laid out when one lane was there, and kept that one on both sides."""
    go(page, "Compare")
    compare(page)
    page.select_option("#stage-compare .view", "difference")
    page.evaluate(
        """() => { window.waiting = []; new MutationObserver(() => {
        for (const figure of document.querySelectorAll('#stage-compare figure:not([data-status=done])')) {
            const first = figure.querySelector('.first');
            if (!first.hidden && first.src.startsWith('data:image')) window.waiting.push(figure.dataset.index);
        }
        }).observe(document.querySelector('#stage-compare'), {subtree: true, childList: true, attributes: true}); }"""
    )
    with pipe.lock:  # the model is busy: the lanes wait until they have been looked at
        page.click("#compare-go")
        page.wait_for_function("new Set(window.waiting).size > 1")
    page.wait_for_selector("#stage-compare .stage[data-status=done]")
    page.wait_for_function("document.querySelectorAll('#stage-compare figure[data-frame]').length > 1")
    assert chosen_pair(page) == ["0", "1"]
    expect(page.locator("#stage-compare .big canvas")).to_be_visible()
    wait_for(lambda: difference_of(page) > 0.5)
    assert {"0", "1"} <= set(page.evaluate("window.waiting")), "lanes that wait show the first frame"
    expect(page.locator("#stage-compare .first:visible"), "and none that is done").to_have_count(0)
    page.select_option("#stage-compare .view", "side")


STARTS = "window.starts = 0; document.addEventListener('wanact:compare-start', () => { window.starts += 1; });"


def test_a_press_is_kept_while_a_gif_is_made_and_none_while_lanes_are_drawn(page, pipe, monkeypatch):
    go(page, "Compare")
    compare(page)  # a GIF of a test before is written by then, and not held back with those that follow
    page.wait_for_selector("#stage-compare a.gif >> visible=true")
    goes_on = threading.Event()

    def write(*arguments):
        goes_on.wait(60)
        return write_animation(*arguments)

    monkeypatch.setattr("wanact.ui.pages.compare.desk.write_animation", write)
    page.evaluate(STARTS)
    compare(page)
    page.click("#compare-go")  # what there is to see is done, and its GIF is not
    page.wait_for_timeout(300)
    assert page.evaluate("window.starts") == 1
    with pipe.lock:
        goes_on.set()
        page.wait_for_function("window.starts === 2")
        page.wait_for_selector("#stage-compare .stage[data-status=working]")
        page.click("#compare-go")
    page.wait_for_selector("#stage-compare .stage[data-status=done]")
    page.wait_for_selector("#stage-compare a.gif >> visible=true")
    page.wait_for_timeout(300)
    assert page.evaluate("window.starts") == 2


def test_the_lanes_that_stand_there_are_the_best_and_the_best_before_it(browser, shelf_url):
    visits = Visits(browser, shelf_url)
    page = visits()
    go(page, "Compare")
    page.wait_for_selector("#lanes .lane >> nth=1")
    lanes = page.eval_on_selector_all("#lanes .lane > select", "all => all.map(one => one.value)")
    assert lanes == ["drone/step-000000300", "drone/step-000000200"]
    visits.end()


def test_the_time_lapse_plays_beside_the_curve_with_a_frame_of_every_step(page):
    click_point(page, "drone/step-000000200")
    page.click("#ledger [data-do=lapse]")
    page.wait_for_selector("#ledger .film video:not([hidden])")
    frames = page.locator("#ledger image.frame")
    assert frames.evaluate_all("all => all.map(one => one.dataset.frame)") == [
        f"drone/step-{step:09d}" for step in STEPS
    ]
    page.wait_for_function("document.querySelector('#ledger .plot .playing')")
    frames.nth(2).dispatch_event("click")
    page.wait_for_function("document.querySelector('#ledger .lapse-step').textContent.includes('step 300')")
    page.wait_for_selector('#ledger .row[data-id="drone/step-000000300"][aria-selected=true]')
    playing = page.locator("#ledger .plot .playing").get_attribute("x1")
    point = page.locator('#ledger circle.point[data-id="drone/step-000000300"]').get_attribute("cx")
    assert abs(float(playing) - float(point)) < 1, "the line stands at the step that the film shows"
    with page.expect_download() as download:
        page.click("#ledger .lapse-file")
    assert download.value.suggested_filename == "wanact-time-lapse.mp4"


def test_a_link_and_a_file_open_the_comparison_again(page, browser, shelf_url, tmp_path):
    go(page, "Compare")
    page.click("#compare-plan [data-preset='Orbit left']")
    page.locator("#compare-seed input").fill("7")
    page.locator("#lanes details summary").first.click()
    page.locator("#lanes .lane").first.locator("input[type=number]").nth(2).fill("0.5")
    page.keyboard.press("Tab")
    compare(page)
    with page.expect_download() as download:
        page.click("#stage-compare a.record")
    file = tmp_path / "comparison.json"
    download.value.save_as(file)
    page.click("#stage-compare [data-do=link]")
    page.wait_for_function("location.search.includes('compare=')")
    link = page.url
    page.evaluate("history.replaceState(null, '', '/')")
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    try:
        again = context.new_page()
        again.set_default_timeout(60_000)
        again.goto(link)
        again.wait_for_function("document.body.dataset.place === 'compare'")
        check_laid_out(again)
        again.click("#compare-plan [data-preset='Forward']")
        again.set_input_files("#compare-plan input[type=file]", file)
        again.wait_for_function("document.querySelector('#compare-plan .told')?.textContent.includes('opened')")
        check_laid_out(again)
        bad = tmp_path / "bad.json"
        bad.write_text('{"wanact_comparison": 1}')
        again.set_input_files("#compare-plan input[type=file]", bad)
        again.wait_for_function("document.querySelector('#compare-plan .told')?.textContent.includes('not opened')")
        check_laid_out(again)
    finally:
        context.close()


def check_laid_out(page):
    page.wait_for_function("document.querySelector('#compare-seed input')?.value === '7'")
    page.wait_for_selector("#compare-plan [data-preset='Orbit left'][aria-pressed=true]")
    page.wait_for_function("document.querySelector('#lanes summary')?.textContent.includes('0.5 × controls')")


def test_a_step_is_chosen_for_fly_and_places_keep_their_state(page):
    go(page, "Plan a clip")
    page.fill("#prompt textarea", "written before")
    go(page, "Checkpoints")
    click_point(page, "drone/step-000000300")
    page.click("#ledger [data-act=fly]")
    page.wait_for_function("document.body.dataset.place === 'fly'")
    expect(page.locator("#checkpoint select")).to_have_value("drone/step-000000300")
    expect(page.locator("#prompt textarea")).to_have_value("written before")


def test_keys_held_on_one_page_do_nothing_on_another(page):
    go(page, "Plan a clip")
    page.focus("#pad .pad")
    page.keyboard.down("w")
    page.wait_for_selector("#pad .key.forward.on")
    go(page, "Checkpoints")
    expect(page.locator("#pad .key.on")).to_have_count(0)
    page.keyboard.up("w")
    selected = page.get_attribute("#ledger .row[aria-selected=true]", "data-id")
    page.keyboard.press("w")
    page.keyboard.press("ArrowUp")
    assert page.get_attribute("#ledger .row[aria-selected=true]", "data-id") == selected
    assert "Press Record" not in page.evaluate("document.querySelector('#live')?.innerText || ''")


def test_the_list_is_sorted_filtered_searched_and_walked_by_keys(page):
    def steps():
        return page.eval_on_selector_all("#ledger .rows .row .c-step b", "all => all.map(one => +one.textContent)")

    page.click("#ledger [data-sort=loss]")
    assert steps()[:4] == [400, 300, 200, 100], "the highest step has the lowest loss"
    page.click("#ledger [data-sort=step]")
    page.click("#ledger [data-sort=step]")
    assert steps() == [50, *STEPS]
    page.select_option("#ledger .only", "damaged")
    assert steps() == [50] and "truncated" in page.get_attribute("#ledger .state.damaged", "title")
    page.click("#ledger .rows .row")
    expect(page.locator("#ledger .why")).to_contain_text("expected", use_inner_text=True)
    expect(page.locator("#ledger [data-act=fly]")).to_be_disabled()
    expect(page.locator("#ledger .row input")).to_be_disabled()
    page.select_option("#ledger .only", "all")
    page.fill("#ledger .search input", "drone 300")
    assert steps() == [300]
    expect(page.locator("#ledger .count")).to_have_text("1 of 5", use_inner_text=True)
    page.fill("#ledger .search input", "")
    page.locator("#ledger .rows .row").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector('#ledger .row[data-id="drone/step-000000300"][aria-selected=true]')
    page.keyboard.press(" ")
    expect(page.locator('#ledger .row[data-id="drone/step-000000300"] input')).to_be_checked()


def test_control_stands_in_the_list_and_says_which_step_is_best(page):
    def column(name):
        return page.eval_on_selector_all(f"#ledger .rows .row .c-{name}", "all => all.map(one => one.textContent)")

    page.click("#ledger [data-sort=control]")
    assert column("control") == ["100%", "90%", "75%", "≈ 50%", "–"], "a quick one says so"
    assert column("worst")[:3] == ["50%", "45%", "38%"] and all(
        map(float, column("gain")[:4] + column("sharpness")[:4])
    )
    best = page.locator("#ledger .row", has=page.locator(".mark.best"))
    assert best.all_inner_texts()[0].startswith("300")
    expect(best.first).to_contain_text("best", use_inner_text=True)
    expect(page.locator("#ledger .row", has_text="lowest loss"), "of the run without cards").to_have_count(1)
    assert "16 runs of 21 frames" in page.get_attribute("#ledger .row:nth-child(4) .c-control", "title")
    page.click("#ledger [data-sort=saved]")


def test_control_stands_on_the_steps_of_the_loss_with_values_under_the_pointer(page):
    for step in STEPS:
        place = page.locator(f'#ledger circle[data-id="drone/step-{step:09d}"]')
        x = place.evaluate_all("all => all.map(one => +one.getAttribute('cx'))")
        assert len(x) == 2 and x[0] == x[1], "the loss above, its control below"
    page.evaluate("scrollTo(0, 0)")  # or the tabs stand over it
    box = page.locator("#ledger .curves .plot svg[role=group]").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 20, box["y"] + 12)
    words = page.locator("#ledger .curves .bubble >> nth=0")
    expect(words).to_be_visible()
    assert re.search(r"step \d+\ndrone: loss [\d.]+, smoothed [\d.]+, rate", words.text_content())
    before = page.get_attribute("#ledger path.line", "d")
    page.locator("#ledger .smooth").fill("0")
    assert page.get_attribute("#ledger path.line", "d") != before
    expect(page.locator("#ledger path.raw")).to_have_count(0)
    page.locator("#ledger .smooth").fill("0.6")
    point = page.locator('#ledger circle.carded[data-id="drone/step-000000300"]').bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    expect(words).to_contain_text("control 100% of 48 runs of 21 frames")


def test_a_run_without_a_log_says_so_where_its_loss_would_be(browser, pipe, serve, tmp_path):
    write_card(write_run(tmp_path / "runs" / "bare", steps=(7,), loss=None), 7)
    visits = Visits(browser, serve(Engine(pipe, tmp_path / "runs")))
    page = visits.open()
    page.goto(f"{visits.url}?tab=checkpoints")
    page.wait_for_selector("#ledger circle.carded")
    expect(page.locator("#ledger .curves svg").first).to_contain_text("No log was kept")
    expect(page.locator("#ledger .smooth"), "nothing to be smoothed").to_be_hidden()
    visits.end()


def test_the_control_card_is_drawn_on_the_page_with_numbers_under_the_pointer(page):
    click_point(page, "drone/step-000000300")
    page.wait_for_function("document.querySelector('#card .title')?.textContent.includes('step 300')")
    page.wait_for_selector("#card .control[data-status=card][data-quick=false]")
    expect(page.locator("#card img")).to_have_count(0)
    expect(page.locator("#card svg.plot")).to_have_count(20)
    expect(page.locator("#card .headline")).to_contain_text("100%", use_inner_text=True)
    expect(page.locator("#card .headline")).to_contain_text("48 runs of 21 frames", use_inner_text=True)
    page.locator("#card svg.plot").first.scroll_into_view_if_needed()
    page.locator("#card svg.plot").first.hover()
    expect(page.locator("#card .bubble")).to_contain_text("forward, asked", use_inner_text=True)
    page.locator("#card .matrix tbody td").nth(2).hover()
    expect(page.locator("#card .bubble")).to_contain_text("asked forward, seen as left", use_inner_text=True)
    light = page.locator("#card .panel").first.evaluate("one => getComputedStyle(one).backgroundColor")
    page.click("#header .mode")
    page.wait_for_timeout(600)
    dark = page.locator("#card .panel").first.evaluate("one => getComputedStyle(one).backgroundColor")
    page.click("#header .mode")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert brightness[0] > 600 > 200 > brightness[1]
    click_point(page, "drone/step-000000100")
    page.wait_for_selector("#card .control[data-quick=true]")
    expect(page.locator("#card .measured")).to_contain_text("Quick measurement", use_inner_text=True)


def test_details_differences_notes_and_stars(page, root):
    click_point(page, "drone/step-000000200")
    page.wait_for_selector("#ledger details")
    page.locator("#ledger summary", has_text="Configuration").click()
    expect(page.locator("#ledger .tree >> visible=true")).to_contain_text("adaln_tmod", use_inner_text=True)
    page.locator("#ledger summary", has_text="Compare its settings").click()
    page.select_option("#ledger .differ select", "drone/step-000000400")
    page.wait_for_selector("#ledger .differ td")
    expect(page.locator("#ledger .differ")).to_contain_text("checkpoint.loss", use_inner_text=True)
    page.fill("#ledger .note textarea", "turns well")
    page.keyboard.press("Tab")
    page.click("#ledger [data-act=star]")
    page.wait_for_selector('#ledger .row[data-id="drone/step-000000200"] .star')
    assert read_notes(root / "drone")["step-000000200"] == {"star": True, "note": "turns well"}
    page.select_option("#ledger .only", "starred")
    expect(page.locator("#ledger .rows .row")).to_have_count(1)
    page.select_option("#ledger .only", "all")


def test_a_choice_follows_a_training_only_if_it_was_the_latest(page, root):
    """On Fly, on Live's list and in the list of checkpoints alike; in Compare the new step can be chosen."""
    run = write_run(root / "training", steps=(10, 20))
    go(page, "Plan a clip")
    page.focus("#checkpoint select")
    page.wait_for_selector("#checkpoint option[value='training/step-000000020']", state="attached")
    for chosen, then in (("training/step-000000010",) * 2, ("training/step-000000020", "training/step-000000030")):
        page.select_option("#checkpoint select", chosen)
        if then != chosen:
            add_step(run, 30)
        else:
            other = write_run(root / "another", steps=(1,))
        page.locator("#prompt textarea").focus()
        page.focus("#checkpoint select")
        newest = "training/step-000000030" if then != chosen else "another/step-000000001"
        page.wait_for_selector(f"#checkpoint option[value='{newest}']", state="attached")
        expect(page.locator("#checkpoint select")).to_have_value(then)
    expect(page.locator("#checkpoint")).to_contain_text("training has a new step", use_inner_text=True)
    go(page, "Checkpoints")
    page.wait_for_selector('#ledger .row[data-id="training/step-000000030"]')
    page.click('#ledger .row[data-id="training/step-000000030"]')
    add_step(run, 40)
    page.wait_for_selector('#ledger .row[data-id="training/step-000000040"][aria-selected=true]')
    go(page, "Compare")
    page.wait_for_selector("#lanes option[value='training/step-000000040']", state="attached")
    run.rename(root / ".trained")
    other.rename(root / ".other")


def test_new_steps_of_a_training_appear_and_vanished_ones_go(page, root):
    write_run(root / "late", steps=(77,))
    page.wait_for_selector('#ledger .row[data-id="late/step-000000077"]')
    page.wait_for_selector('#ledger circle.point[data-id="late/step-000000077"]')
    (root / "late").rename(root / ".gone")
    page.wait_for_selector('#ledger .row[data-id="late/step-000000077"]', state="detached")


def test_a_checkpoint_of_ones_own_is_flown_and_a_bad_one_refused(page, tmp_path, browser, shelf_url):
    run = write_run(tmp_path / "mine", steps=(7,))
    weights = run / "checkpoints" / "step-000000007" / store.CONTROLLER
    chooser = "#checkpoints input[type=file][accept*='.safetensors'], #shelf-head input[type=file]"
    page.set_input_files(chooser, [weights])
    page.wait_for_function("document.querySelector('#shelf-remark').innerText.includes('missing')")
    page.set_input_files(chooser, [weights, run / RUN_CONFIG])
    page.wait_for_selector('#ledger .row[data-id^="upload/"][aria-selected=true]')
    page.click("#ledger [data-act=fly]")
    page.wait_for_function("document.querySelector('#checkpoint select')?.value.startsWith('upload/')")
    page.click("#generate")
    page.wait_for_selector("#viewer .viewer[data-status=done]")
    expect(page.locator("#viewer .caption")).to_contain_text("upload", use_inner_text=True)
    visits = Visits(browser, shelf_url)
    other = visits()
    go(other, "Checkpoints")
    ready(other)
    expect(other.locator('#ledger .row[data-id^="upload/"]'), "nobody else sees it").to_have_count(0)
    visits.end()


def test_two_thousand_checkpoints_are_listed_and_the_page_stays_usable(browser, pipe, serve, tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    write_many(root / "long", 2_000)
    write_log(root / "long", 20_000)
    visits = Visits(browser, serve(Engine(pipe, root)))
    page = visits()
    go(page, "Checkpoints")
    ready(page)
    page.wait_for_function("document.querySelector('#ledger .count')?.textContent.startsWith('2,000')")
    expect(page.locator("#ledger circle.point")).to_have_count(2_000)
    assert 5 < page.locator("#ledger .rows .row").count() < 60, "only the rows in sight are in the page"
    expect(page.locator("#ledger .grid")).to_have_attribute("aria-rowcount", "2001")
    page.click("#ledger [data-sort=step]")
    page.click("#ledger [data-sort=step]")
    page.evaluate("document.querySelector('#ledger .window').scrollTop = 1e9")
    page.wait_for_selector('#ledger .row[data-id="long/step-000020000"]')
    assert page.locator("#ledger .rows .row").count() < 60
    page.click('#ledger .row[data-id="long/step-000020000"]')
    page.wait_for_selector("#ledger .detail .facts")
    page.click("#ledger [data-act=star]")
    page.wait_for_selector('#ledger .row[data-id="long/step-000020000"] .star')
    expect(page.locator("#ledger .kept")).to_contain_text("in this browser", use_inner_text=True)
    assert not read_notes(root / "long")
    page.fill("#ledger .search input", "10010")
    page.wait_for_function("document.querySelector('#ledger .count')?.textContent === '1 of 2,000'")
    visits.end()


def test_a_phone_shows_both_pages_whole(browser, shelf_url):
    visits = Visits(browser, shelf_url)
    page = visits(390, 844, has_touch=True, is_mobile=True)
    for place, what in (("Checkpoints", "#ledger circle.point >> nth=0"), ("Compare", "#lanes .lane >> nth=1")):
        page.locator("#places [role=tab]", has_text=place).tap()
        page.wait_for_selector(what)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, place
        small = page.eval_on_selector_all(
            "#places [role=tab], #ledger .acts button, #lanes button, #compare-go",
            "all => all.filter(one => one.offsetParent && one.getBoundingClientRect().height < 40)"
            ".map(one => one.outerHTML)",
        )
        assert not small, "large enough for a thumb"
    expect(page.locator("#places [role=tab]")).to_have_count(4)
    visits.end()


@pytest.mark.parametrize("place", ["Checkpoints", "Compare"])
def test_the_pages_are_accessible(page, place):
    from axe_playwright_python.sync_playwright import Axe

    go(page, place)
    page.wait_for_timeout(300)
    assert not serious_violations(Axe().run(page))
    page.click("#header .mode")
    page.wait_for_timeout(600)  # colours fade over
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    assert not serious_violations(Axe().run(page, options=contrast)), "in the dark"
    page.click("#header .mode")


def test_the_words_of_the_scripts_name_only_what_there_is(page):
    """A data-do or data-act without a handler would be a button that does nothing."""
    from wanact.ui.theme import asset

    for name in ("compare", "card"):
        offered = set(re.findall(r'data-do="(\w+)"', asset(f"{name}.html")))
        handled = set(re.findall(r"=== '(\w+)'|data-do=(\w+)\]", asset(f"{name}.js")))
        assert offered <= {one or other for one, other in handled}, name
