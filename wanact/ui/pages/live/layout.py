"""The Fly page, live: a first frame, words, and the keys; the world answers while they are held."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import FileData, GradioModel
from PIL import Image

from wanact.errors import UserError
from wanact.ui.components import CheckpointPicker, Component
from wanact.ui.engine import Engine
from wanact.ui.gpu import is_lent, on_gpu
from wanact.ui.pages.fly.desk import sentence
from wanact.ui.pages.live.beside import known_samples
from wanact.ui.pages.live.desk import FILMS, LiveDesk, LiveLimits
from wanact.ui.places import PLACES
from wanact.ui.samples import load_samples
from wanact.ui.scene import AT_ONCE, QUIET, Scene

LENT_S = 50
# What the stage's script says of the flight that is asked for goes first.
_ORDER = "(order, ...rest) => [document.querySelector('#live-stage .live').wanact.order(), ...rest]"
_SAVE = "() => [document.querySelector('#live-stage .live').wanact.wanted()]"
_CLAIM = "() => [document.querySelector('#live-courses .courses').wanact.claim()]"
_FAILED = "() => { document.dispatchEvent(new CustomEvent('wanact:live-failed')); }"
_SAY = (
    "(words) => { document.dispatchEvent(new CustomEvent('wanact:live-prompt', {detail: {words}})); return [words]; }"
)


class LiveStage(Component):
    """Canvas, display, sticks and time line of a live flight; the value is the newest message of the server."""

    schema = {"type": "object", "description": "a message of a live flight"}
    example: Any = {}

    def __init__(self, desk: LiveDesk, **kwargs: Any):
        def control(message: dict) -> dict[str, bool]:
            return desk.control(message)

        def watch(message: dict) -> dict[str, Any]:
            return desk.watch(message)

        def pilots(_message: Any) -> dict[str, Any]:
            return {"pilots": desk.engine.list_pilots()}

        width, height = desk.engine.defaults["width"], desk.engine.defaults["height"]
        samples, _ = load_samples()
        super().__init__(
            "live",
            {},
            label="Live flight",
            ratio=width / height,
            fps=desk.engine.defaults["fps"],
            known=list(known_samples(samples)) if desk.engine.truth is not None else None,
            server_functions=[control, watch, pilots],
            **kwargs,
        )


class Courses(Component):
    """Courses to fly, and their best times; the value is what became of a time: {"course", "place", "best"} or
    {"problem"}."""

    schema = {"type": "object", "description": "what became of a time that was entered"}
    example: Any = {}

    def __init__(self, desk: LiveDesk, **kwargs: Any):
        def best(_message: Any) -> dict[str, Any]:
            return {"best": desk.best_times()}

        super().__init__(
            "courses",
            {},
            label="Courses",
            courses=desk.courses(),
            server_functions=[best],
            **kwargs,
        )

    def preprocess(self, payload: Any) -> Any:
        return payload if isinstance(payload, dict) else {}


class SavedFile(GradioModel):
    """A file to download, and what it is; or why there is none."""

    file: FileData | None = None
    caption: str = ""
    problem: str = ""


class LiveFiles(Component):
    """Hands a saved flight to the visitor."""

    data_model = SavedFile
    schema = {"type": "object", "description": "file and caption"}
    example: Any = {}

    def __init__(self, **kwargs: Any):
        super().__init__("files", SavedFile(), label="Saved flight", **kwargs)

    def preprocess(self, payload: Any) -> None:
        return None


class SharedLink(Component):
    """The link to a flight that is shared; the value is {"id", "remark"} or {"problem"}."""

    schema = {"type": "object", "description": "id of a shared flight"}
    example: Any = {}

    def __init__(self, **kwargs: Any):
        super().__init__("shared", {}, label="Shared flight", **kwargs)

    def preprocess(self, payload: Any) -> None:
        return None


def build_live(engine: Engine, last_frame: gr.State, desk: LiveDesk | None = None) -> bool:
    """Lay out the page and connect it, inside the current gr.Blocks.

    Args:
        engine: the shared model.
        last_frame: of the visitor's newest planned clip, uint8 [H, W, 3], None without one.
        desk: None for one of its own.

    Returns:
        Whether there is a causal checkpoint to fly.
    """
    # Of a lent GPU, a visitor has two minutes a day.
    desk = desk or LiveDesk(engine, LiveLimits(turn_s=LENT_S, longest_s=LENT_S) if is_lent() else None)
    scene = Scene("live-", engine, "First frame of the flight", frame_height=210)
    listing = desk.listing()

    with gr.Column(elem_id="live"):
        with gr.Column(elem_id="live-place", elem_classes="card"):
            stage = LiveStage(desk, elem_id="live-stage")
            files = LiveFiles(elem_id="live-files")
            shared = SharedLink(elem_id="live-shared")
            courses = Courses(desk, elem_id="live-courses")
        with gr.Column(elem_id="live-scene", elem_classes="card"):
            gr.HTML('<h2 class="step">Where to start<small>Upload, paste, take a photo, or pick one</small></h2>')
            scene.frame.render()
            scene.crop.render()
            scene.note.render()
            scene.gallery.render()
            from_clip = gr.Button("Start from your last clip", size="sm", visible=False, elem_id="live-from-clip")
            scene.prompt.render()
            scene.describe.render()
            say = gr.Button("Use this prompt now", size="sm", elem_id="live-say")
            with gr.Accordion("Advanced", open=False, elem_id="live-advanced"):
                checkpoint = CheckpointPicker(desk.listing, listing["default"], elem_id="live-checkpoint")
                with gr.Row():
                    scene.seed.render()
                    scene.dice.render()

    flying = stage.takeoff(
        on_gpu(desk.fly, lambda *_: LENT_S + 10),
        [stage, scene.frame, scene.prompt, checkpoint, scene.seed, scene.crop],
        stage,
        js=_ORDER,
        concurrency_id="live",
        concurrency_limit=PLACES["live"],
        trigger_mode="multiple",
        **QUIET,
    )
    flying.failure(None, js=_FAILED)
    stage.save(partial(_save, desk), stage, files, js=_SAVE, **QUIET)
    stage.publish(partial(_share, desk), stage, shared, js=_SAVE, **QUIET)
    courses.claim(partial(_enter, desk), courses, courses, js=_CLAIM, **QUIET)
    scene.connect()
    scene.take(from_clip.click, _from_clip, last_frame)
    last_frame.change(lambda frame: gr.update(visible=frame is not None), last_frame, from_clip, **AT_ONCE)
    say.click(None, scene.prompt, scene.prompt, js=_SAY, **QUIET)
    return bool(listing["choices"])


def _save(desk: LiveDesk, wanted: Any) -> Iterator[SavedFile]:
    """Write what the stage asked for and hand it to Gradio, which keeps a copy of its own; then take ours away."""
    wanted = wanted if isinstance(wanted, dict) else {}
    asked = wanted.get("what")
    what = asked if asked in ("record", *FILMS) else "clip"
    with tempfile.TemporaryDirectory(prefix="wanact-") as folder:
        try:
            path, caption = desk.save(wanted.get("flight"), what, Path(folder))
        except (UserError, OSError) as error:
            yield SavedFile(problem=sentence(getattr(error, "strerror", None) or error))
        else:
            yield SavedFile(file=FileData(path=str(path), orig_name=path.name), caption=caption)


def _share(desk: LiveDesk, wanted: Any) -> dict[str, str]:
    """Share what the stage asked for."""
    flight = wanted.get("flight") if isinstance(wanted, dict) else None
    try:
        name, remark = desk.share(flight)
    except (UserError, OSError) as error:
        return {"problem": sentence(getattr(error, "strerror", None) or error)}
    return {"id": name, "remark": remark}


def _enter(desk: LiveDesk, claimed: Any) -> dict[str, Any]:
    """Enter a time that was flown under the name that was given."""
    claimed = claimed if isinstance(claimed, dict) else {}
    try:
        course, place = desk.enter(claimed.get("flight"), claimed.get("name"))
    except (UserError, OSError) as error:
        return {"problem": sentence(getattr(error, "strerror", None) or error)}
    return {"course": course, "place": place, "best": desk.best_times()}


def _from_clip(last_frame: np.ndarray | None) -> tuple[Any, str]:
    if last_frame is None:
        return gr.skip(), "There is no clip yet: generate one on Plan a clip first."
    return Image.fromarray(last_frame), "The last frame of your clip."
