"""The page's own components: thin Python around html, css and js."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioModel
from gradio.processing_utils import save_bytes_to_cache

from wanact.actions import CHANNELS, FULL_DEFLECTION, MAX_MAGNITUDE, ActionTrack, read_track
from wanact.errors import UserError
from wanact.flying.record import FlightRecord
from wanact.media.video import MAX_IMAGE_BYTES, ImageError
from wanact.runs.index import Entry
from wanact.runs.ref import CheckpointRef
from wanact.ui import cache
from wanact.ui.modules import mounting
from wanact.ui.theme import asset

MAX_PLAN_BYTES = 8 * 2**20  # a plan has 5 kB, a flight with its first frame up to some MB
_MARKS = re.compile(r"[!-/:-@\[-`{-~]")  # what Markdown and HTML make something of
_PEAKS = {"move": FULL_DEFLECTION[0], "look": FULL_DEFLECTION[4]}


class Component(gr.HTML):
    """An HTML component whose template, style and module are the files <name>.* of web/ or a page."""

    schema: dict[str, Any] = {"type": "string"}
    example: Any = ""

    def __init__(self, name: str, value: Any = None, **kwargs: Any):
        super().__init__(
            value=value,
            html_template=asset(f"{name}.html"),
            css_template=asset(f"{name}.css"),
            js_on_load=mounting(name),
            apply_default_css=False,
            **kwargs,
        )

    def api_info(self) -> dict[str, Any]:
        return self.schema

    def example_payload(self) -> Any:
        return self.example

    def example_value(self) -> Any:
        return self.example

    def preprocess(self, payload: Any) -> Any:
        return payload if isinstance(payload, str) or self.schema.get("type") != "string" else None

    def postprocess(self, value: Any) -> Any:
        return value


class ActionPad(Component):
    """Eight keys that light up while held, and the magnitudes that they stand for; the value is the held keys, [8]."""

    schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": 1},
        "description": "held keys in the order " + ", ".join(CHANNELS),
    }
    example = [1, 0, 0, 0, 0, 0, 0, 0]

    def __init__(self, **kwargs: Any):
        super().__init__("pad", [0] * len(CHANNELS), label="Flight keys", peaks=_PEAKS, **kwargs)


def read_plan(message: dict) -> dict:
    """Check a plan that a visitor opens in the browser.

    Args:
        message: {"text": action JSON or a flight record, "steps": how many a clip needs}.

    Returns:
        {"value": (N, 2, 8) nested lists, "note": str}, or {"problem": one sentence}.
    """
    text, steps = (message.get("text"), message.get("steps")) if isinstance(message, dict) else (None, None)
    if not isinstance(text, str) or len(text) > MAX_PLAN_BYTES:
        return {"problem": "The plan is too large; actions for a clip are a few kilobytes of JSON."}
    try:
        is_record = '"wanact_flight"' in text[:200]
        track, mended = (FlightRecord.parse(text).track, None) if is_record else read_track(text)
    except UserError as error:
        return {"problem": f"The plan was not opened: {str(error).rstrip('.')}."}
    if isinstance(steps, int) and len(track) != steps:
        return {"problem": f"The plan was not opened: it has {len(track)} steps, but this clip needs {steps}."}
    return {"value": track.to_list(), "note": f"Opened {len(track)} steps{f'; {mended}' if mended else ''}."}


class FlightPlan(Component):
    """A timeline of steps by eight channels, with presets, recording, import, export and the path from above.

    The value is the on-disk action format, (steps, 2, 8).
    """

    example: Any = []

    def __init__(self, track: ActionTrack, presets: Mapping[str, ActionTrack], step_seconds: float, **kwargs: Any):
        self.steps = len(track)
        # Every array level needs "items": one missing makes the page answer 500.
        row = {"type": "array", "items": {"type": "number"}}
        self.schema = {
            "type": "array",
            "items": {"type": "array", "items": row},
            "description": f"({self.steps}, 2, 8): flags and magnitudes of " + ", ".join(CHANNELS),
        }
        self.example = track.to_list()
        super().__init__(
            "timeline",
            track,
            label="Flight plan",
            server_functions=[read_plan],
            steps=self.steps,
            step_seconds=step_seconds,
            presets={name: preset.to_list() for name, preset in presets.items()},
            peaks=_PEAKS,
            caps=MAX_MAGNITUDE,
            max_plan_bytes=MAX_PLAN_BYTES,
            **kwargs,
        )

    def postprocess(self, value: ActionTrack | None) -> list:
        return ActionTrack.zeros(self.steps).to_list() if value is None else value.to_list()


class ClipState(GradioModel):
    """What the viewer shows.

    `status` is one of idle, queued, working, done, cancelled, failed; `progress` is a share from 0 to 1; `preview` a
    data URL. Of a clip that plays while it is drawn, `frames` are the newest as base64 JPEGs, the first of them number
    `begin`. `video`, `record` and `track` belong to a finished clip, `gif` and `webp` follow when they are written.
    """

    status: str = "idle"
    message: str = ""
    progress: float = 0.0
    preview: str | None = None
    frames: list[str] = []
    begin: int = 0
    video: FileData | None = None
    gif: FileData | None = None
    webp: FileData | None = None
    record: FileData | None = None
    track: list | None = None
    fps: float = 16.0
    caption: str = ""


class ClipViewer(Component):
    """Plays the clip with a display of the held keys, and shows progress, preview and messages while it is drawn.

    Args:
        ratio: width over height of the model's own clips, whose room is kept.
        fps: at which frames play.
    """

    data_model = ClipState
    schema = {"type": "object", "description": "status, message, progress, video and flight record"}
    example = {"status": "idle"}

    def __init__(self, ratio: float, fps: float, **kwargs: Any):
        super().__init__("viewer", ClipState(), label="Clip", ratio=ratio, fps=fps, **kwargs)

    def preprocess(self, payload: Any) -> None:
        return None  # a clip never travels back


class SampleGallery(Component):
    """Buttons with pictures; the value is the id of the chosen sample."""

    schema = {"type": "string", "description": "id of a sample frame"}

    def __init__(self, samples: Sequence[Mapping[str, str]], value: str | None = None, **kwargs: Any):
        super().__init__("gallery", value, label="Samples", samples=list(samples), **kwargs)


def step_heading(number: int, title: str, remark: str) -> str:
    """Heading of a numbered card."""
    return f'<h2 class="step"><b aria-hidden="true">{number}</b>{title}<small>{remark}</small></h2>'


class Chips(Component):
    """A row of ready-made texts; the value is the one that was pressed."""

    def __init__(self, texts: Sequence[str], label: str, **kwargs: Any):
        super().__init__("chips", None, label=label, texts=list(texts), **kwargs)


def choice_of(checkpoint: CheckpointRef) -> dict[str, Any]:
    """A checkpoint as lists in the browser know it: its label, and whether it is the newest step of its run."""
    is_latest = isinstance(checkpoint, Entry) and checkpoint.is_latest and checkpoint.step is not None
    return {"id": checkpoint.id, "label": checkpoint.label, "run": checkpoint.run, "latest": is_latest}


class CheckpointPicker(Component):
    """A list of runs and their steps that keeps itself up to date; the value is the id of a checkpoint.

    Args:
        listing: what there is to fly, as `FlyDesk.list_checkpoints` gives it.
        value: the id that is selected first.
    """

    schema = {"type": "string", "description": 'id of a checkpoint as run/step-000000552, or "base"'}
    example = "base"

    def __init__(self, listing: Callable[[], dict[str, Any]], value: str | None = None, **kwargs: Any):
        def list_checkpoints(_message: dict) -> dict[str, Any]:
            return listing()

        super().__init__(
            "checkpoint",
            value,
            label="Checkpoint",
            listing=listing(),
            server_functions=[list_checkpoints],
            **kwargs,
        )


class Crop(Component):
    """Where a first frame of another shape than the clip is cut, shown on the frame, and dragged there.

    The value is the share of what is cut off that goes at the left, or at the top: 0.5 is the middle.

    Args:
        scene: prefix of the ids of the scene's elements.
        ratio: width by height of the clip.
    """

    schema = {"type": "number", "description": "where a picture of another shape is cut: 0 to 1, 0.5 is the middle"}
    example = 0.5
    may_be_left_out = True

    def __init__(self, scene: str, ratio: float, **kwargs: Any):
        super().__init__("crop", 0.5, label="Crop", scene=scene, ratio=ratio, **kwargs)


class SceneMemory(Component):
    """Keeps the choices of a scene in the visitor's tab, and asks for them back after a reload; nothing of it is seen.

    The value is what the tab has kept: sample or picture, prompt and crop.

    Args:
        scene: prefix of the ids of the scene's elements.
        samples: ids that the address may name.
    """

    schema = {"type": "object", "description": "what a tab has kept of a scene"}
    example: Any = {}

    def __init__(self, scene: str, samples: Sequence[str], **kwargs: Any):
        super().__init__(
            "memory", {}, label="What was chosen", scene=scene, samples=list(samples), elem_classes="memory", **kwargs
        )
        # Run in the browser: with frame, prompt, sample and crop when one has changed, and when all are given back.
        self.listen = _announcing("scene", f"scene: '{scene}', frame, prompt, sample, crop")
        self.done = _announcing("restored", f"scene: '{scene}'")


def _announcing(name: str, detail: str) -> str:
    return (
        "(frame, prompt, sample, crop) => { document.dispatchEvent("
        f"new CustomEvent('wanact:{name}', {{detail: {{{detail}}}}})); }}"
    )


class FrameInput(gr.Image):
    """gr.Image that hands the file on unread, so that a bad one is refused by us and in words."""

    is_template = True  # the browser draws the parent's component

    def store(self, url: str) -> str:
        """Keep the picture in a data URL as if it had been uploaded; its path.

        Raises:
            ImageError: if it is no data URL, or too long.
        """
        path = save_bytes_to_cache(_data_of(url), "first-frame.png", self.GRADIO_CACHE)
        self.temp_files.add(path)
        return path

    def preprocess(self, payload: Any) -> str | None:
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            return self.store(payload.url)
        if not cache.holds(payload.path):
            raise cache.NoFileError(cache.NO_FILE)
        return payload.path


def _data_of(url: str) -> bytes:
    """The bytes of a data URL, as many as an upload may have.

    Raises:
        ImageError: if it is none, or longer.
    """
    head, _, data = url.partition(",")
    if len(data) > MAX_IMAGE_BYTES * 4 / 3 + 4:
        raise ImageError(f"The picture is larger than the {MAX_IMAGE_BYTES >> 20} MB that are read.")
    try:
        if not head.endswith(";base64"):
            raise ValueError("percent-encoded")
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ImageError("The picture is no data URL in base64.") from error


class Note(gr.Markdown):
    """A remark beside what it is about: gr.Markdown in which every character stands for itself."""

    is_template = True

    def postprocess(self, value: str | None) -> Any:
        return super().postprocess(None if value is None else _MARKS.sub(r"\\\g<0>", " ".join(value.split())))


class OpenDropdown(gr.Dropdown):
    """gr.Dropdown that hands on any text: what there is to choose is checked when the clip is drawn."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return payload if isinstance(payload, str) else None
