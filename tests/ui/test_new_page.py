"""A new page is a folder of its own, a line of the list of places, and a line of docs/interface.md."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = {
    "__init__.py": "",
    "layout.py": """
import gradio as gr
from wanact.ui.components import Component

class Compass(Component):
    def __init__(self):
        super().__init__("compass", "north", label="Compass")

def build_map(engine, last_frame):
    with gr.Column(elem_id="map"):
        compass = Compass()
        compass.turned(lambda: "south", None, compass)
""",
    "layout.css": "#map { gap: 12px; }\n",
    "compass.html": "<p class=compass>${value}</p>\n",
    "compass.css": ".compass { color: var(--wa-accent); }\n",
    "compass.js": "export function mount({trigger}) { trigger('turned'); }\n",
}
OPENS = """
import json, sys
from starlette.applications import Starlette
from starlette.testclient import TestClient
from wanact.flying.pipeline import WanActPipeline
from wanact.ui.engine import Engine
from wanact.ui.modules import VERSION
from wanact.ui.page import build_page, launch_options

model, runs = sys.argv[1:]
page, options = build_page(Engine(WanActPipeline.from_model_dir(model), runs)), launch_options()
served = TestClient(Starlette(**options["app_kwargs"])).get(f"/modules/{VERSION}/pages/map/compass.js")
components = [component["props"] for component in page.get_config_file()["components"]]
print(json.dumps({
    "tabs": [props["id"] for props in components if "tabs" not in props and props.get("label") and "id" in props],
    "mounts": [props["js_on_load"] for props in components if "compass.js" in str(props.get("js_on_load"))],
    "css": options["css"],
    "module": served.text,
}))
"""


def test_a_new_page_is_a_folder_and_a_line(tiny_model_dir, runs_root, tmp_path):
    shutil.copytree(ROOT / "wanact", tmp_path / "wanact", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    folder = tmp_path / "wanact" / "ui" / "pages" / "map"
    folder.mkdir()
    for name, content in FOLDER.items():
        (folder / name).write_text(content)
    places = tmp_path / "wanact" / "ui" / "page.py"
    source = places.read_text().replace(
        '    ("compare", "Compare", build_compare),\n',
        '    ("compare", "Compare", build_compare),\n    ("map", "Map", build_map),\n',
    )
    source = source.replace(
        "\nfrom wanact.ui.theme", "\nfrom wanact.ui.pages.map.layout import build_map\nfrom wanact.ui.theme"
    )
    places.write_text(source)

    done = subprocess.run(
        [sys.executable, "-c", OPENS, str(tiny_model_dir), str(runs_root)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["tabs"][-2:] == ["compare", "map"]
    assert len(seen["mounts"]) == 1 and "'turned'" in seen["mounts"][0], "the server hears what the module triggers"
    assert seen["module"] == FOLDER["compass.js"]
    assert FOLDER["layout.css"] in seen["css"]
