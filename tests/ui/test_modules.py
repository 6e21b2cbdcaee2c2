"""The browser's modules: each is served as what it is, nothing else is, and none is mounted too early."""

import posixpath
import re

import gradio as gr
import httpx
import pytest
from playwright.sync_api import expect

from tests.ui.visits import Visits, serving
from wanact.ui.components import ClipState, ClipViewer
from wanact.ui.modules import MODULES, VERSION, mounting, version_of
from wanact.ui.page import build_page
from wanact.ui.theme import UI

IMPORT = re.compile(r"^import \{([^}]+)\} from '([^']+)';$", re.MULTILINE)
EXPORT = re.compile(r"^export (?:(?:async )?function|class|const) (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def http(page_url):
    with httpx.Client(base_url=page_url, timeout=60) as client:
        yield client


def test_every_module_is_served_as_what_it_is(http):
    assert set(MODULES) == {file.relative_to(UI).as_posix() for file in UI.rglob("*.js")}
    for path, content in MODULES.items():
        answer = http.get(f"/modules/{VERSION}/{path}")
        assert answer.status_code == 200 and answer.content == content, path
        assert answer.headers["content-type"].split(";")[0] == "text/javascript"
        assert "immutable" in answer.headers["cache-control"], "a reload asks for none of them again"


@pytest.mark.parametrize(
    "path",
    [
        "0123456789abcdef/web/pad.js",
        f"{VERSION}/web/pad.css",
        f"{VERSION}/theme.py",
        f"{VERSION}/web",
        f"{VERSION}/",
        f"{VERSION}/web/../theme.py",
        f"{VERSION}/web/%2e%2e/theme.py",
        f"{VERSION}/web/..%2ftheme.py",
        f"{VERSION}/%2fetc/passwd",
        f"{VERSION}//etc/passwd",
        f"../{VERSION}/web/pad.js",
        "",
    ],
)
def test_nothing_else_can_be_read(http, path):
    answer = http.get(httpx.URL(str(http.base_url), raw_path=f"/modules/{path}".encode()))
    assert answer.status_code == 404 and "import" not in answer.text and "root:" not in answer.text


def test_the_address_changes_with_every_module():
    assert VERSION == version_of(MODULES)
    changed = {version_of({**MODULES, path: content + b" "}) for path, content in MODULES.items()}
    assert len(changed | {VERSION, version_of({})}) == len(MODULES) + 2


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_what_others_export(path):
    source = MODULES[path].decode()
    imports = IMPORT.findall(source)
    assert len(imports) == len(re.findall(r"^import\b", source, re.MULTILINE)), "one form, which this test can read"
    for names, origin in imports:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), origin))
        assert set(re.findall(r"\w+", names)) <= set(EXPORT.findall(MODULES[target].decode())), target


def test_a_component_can_be_heard_for_what_its_module_triggers():
    with gr.Blocks():
        viewer = ClipViewer(1.5, 16)
        viewer.cancel(lambda: ClipState(), None, viewer)
        with pytest.raises(AttributeError, match="no attribute 'land'"):
            _ = viewer.land
    with pytest.raises(KeyError):
        mounting("no such component")


@pytest.mark.browser
def test_what_comes_before_its_module_is_not_lost(browser, page_url):
    """On a slow line somebody presses Generate before the scripts are there."""
    visits = Visits(browser, page_url)
    page = visits.open()
    page.add_init_script("""
        window.early = [];
        const never = new Promise(() => {});
        window.wanactMount = Promise.resolve({mountInTurn: (...told) => { early.push(told); return never; }});
    """)
    page.goto(page_url)
    page.wait_for_selector("#frame img")
    page.click("#generate")
    page.wait_for_function(
        "early.some(([, {element, props}]) => element.closest('#viewer') && props.value.status === 'done')"
    )
    expect(page.locator("#viewer [data-status=done]")).to_have_count(0)
    expect(page.locator("#plan td[data-c]")).to_have_count(0)
    page.evaluate(
        """async address => {
            const {mountInTurn} = await import(address);
            for (const told of early) mountInTurn(...told);
        }""",
        f"{page_url}modules/{VERSION}/web/mount.js",
    )
    page.wait_for_selector("#viewer .viewer[data-status=done]")
    page.wait_for_function("document.querySelector('#viewer video').duration > 0")
    page.wait_for_selector("#plan td[data-c]")
    visits.end()


@pytest.mark.browser
def test_a_module_that_does_not_come_is_said_and_stops_no_other(browser, page_url):
    visits = Visits(browser, page_url)
    page = visits.open()
    page.route("**/pages/fly/gallery.js", lambda route: route.fulfill(status=503))
    page.goto(page_url)
    page.wait_for_selector("#plan td[data-c]")
    expect(page.locator("#samples [role=alert]")).to_contain_text("Reload the page", use_inner_text=True)
    visits.problems.clear()  # the browser tells of it
    visits.end()


@pytest.mark.browser
def test_what_belongs_to_another_component_may_come_before_it(browser, page_url):
    """Gradio loads what shows a picture by itself: the part that cuts it may be there first."""
    visits = Visits(browser, page_url)
    page = visits()
    page.evaluate(
        """async address => {
            const {mount} = await import(address);
            const element = document.createElement('div');
            element.innerHTML = '<p class="cut" hidden></p>';
            document.body.append(element);
            mount({element, props: {scene: 'late-', ratio: 2, value: 0.5}, watch() {}});
            const tall = Object.assign(document.createElement('canvas'), {width: 20, height: 40});
            const frame = Object.assign(document.createElement('div'), {id: 'late-frame'});
            frame.append(Object.assign(new Image(), {src: tall.toDataURL()}));
            document.body.append(frame);
        }""",
        f"{page_url}modules/{VERSION}/web/crop.js",
    )
    page.wait_for_selector("#late-frame .crop-veil:not([hidden])", state="attached")
    visits.end()


@pytest.mark.browser
def test_the_page_works_under_the_path_of_a_proxy(browser, engine):
    with serving(build_page(engine), root_path="/drone") as url:
        visits = Visits(browser, url + "drone/")
        page = visits()
        for place in ("Fly", "Checkpoints", "Compare"):
            page.locator("#places [role=tab]", has_text=place).click()
        page.wait_for_selector("#lanes .lane >> nth=1")
        loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => new URL(entry.name).pathname)")
        modules = {path for path in loaded if "/modules/" in path}
        shown = {path for path in MODULES if not path.startswith("pages/data/")}  # there is no data set to look at
        assert modules == {f"/drone/modules/{VERSION}/{path}" for path in shown}
        visits.end()
