"""The browser's scripts: ES modules, read once and served under an address that changes with their content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from wanact.ui.theme import FOLDERS, UI

# By their path below wanact/ui, so that they import each other in the browser and in Node as they lie here.
MODULES = {
    file.relative_to(UI).as_posix(): file.read_bytes()
    for folder in FOLDERS
    for file in sorted(folder.iterdir())
    if file.suffix == ".js"
}


def version_of(modules: Mapping[str, bytes]) -> str:
    """A name for these modules, another one as soon as one byte of them is."""
    return hashlib.sha256(repr(sorted(modules.items())).encode()).hexdigest()[:16]


VERSION = version_of(MODULES)
_ADDRESS = "/modules/{version}/{path:path}"
_FOR_A_YEAR = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}

# What gradio runs for each component, with element, trigger, props, server, upload and watch as its parameters.
# The root is the page's own as visitors see it, with the path of a proxy; of one host, the origin of this tab counts.
# Who can be waited for comes to a shared promise in order, and what changes until then is told afterwards.
_MOUNTING = """
let changed = false;
watch('value', () => { changed = true; });
const root = new URL(window.gradio_config?.root || '.', location.href);
const origin = root.hostname === location.hostname ? location.origin : root.origin;
const modules = `${origin}${root.pathname.replace(/\\/$/, '')}/modules/VERSION/`;
(window.wanactMount ??= import(`${modules}web/mount.js`))
  .then(({mountInTurn}) => {
    const component = {element, props, trigger, server, upload, watch};
    return mountInTurn(() => import(`${modules}PATH`), component, () => changed);
  })
  .catch(error => {
    console.error(error);
    const words = 'This part of the page did not load. Reload the page.';
    element.prepend(Object.assign(document.createElement('p'), {role: 'alert', textContent: words}));
  });
// It triggers EVENTS.
"""


def mounting(name: str) -> str:
    """The `js_on_load` of a component: imports the module <name>.js and calls what it exports as `mount`.

    Raises:
        KeyError: if there is no such module.
    """
    path = next((path for path in MODULES if path.endswith(f"/{name}.js")), name)
    # gr.HTML has a listener for an event of our own if the event's name stands in quotes in this script.
    events = sorted(set(re.findall(r"\btrigger\('(\w+)'\)", MODULES[path].decode())))
    named = ", ".join(f"'{event}'" for event in events) or "nothing"
    return _MOUNTING.replace("VERSION", VERSION).replace("PATH", path).replace("EVENTS", named)


def routes() -> list[Route]:
    """What serves the modules, and from memory: no other file can be named."""
    return [Route(_ADDRESS, _serve, methods=["GET"])]


async def _serve(request: Request) -> Response:
    module = MODULES.get(request.path_params["path"])
    if module is None or request.path_params["version"] != VERSION:
        return PlainTextResponse("There is no such module.", status_code=404, headers={"Cache-Control": "no-store"})
    return Response(module, media_type="text/javascript", headers=_FOR_A_YEAR)
