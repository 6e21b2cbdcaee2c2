"""The inputs of a scene, which Fly, Live and Compare share: first frame, samples, prompt and seed, wired together."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from wanact.flying.record import MAX_SEED
from wanact.media.video import ImageError
from wanact.ui.components import Chips, FrameInput, Note, SampleGallery, picked
from wanact.ui.engine import Engine
from wanact.ui.pages.fly.desk import sentence
from wanact.ui.samples import load_samples, read_upload

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AT_ONCE: dict[str, Any] = QUIET | {"queue": False}  # small answers: no event waits, and no connection is opened for it


def negative_prompt(engine: Engine) -> gr.Textbox:
    """The field for the negative prompt, and the model's ready-made texts by their names; rendered where called."""
    text = engine.defaults["negative_prompt"]
    field = gr.Textbox(text, label="Avoid", lines=1, max_lines=3)
    if engine.negative_prompts:
        chips = Chips(list(engine.negative_prompts), "Ready-made lists of what to avoid")
        chips.select(lambda name: engine.negative_prompts.get(name, ""), chips, field, **QUIET)
    return field


class Scene:
    """Makes the inputs; a page renders each where it belongs, and connects them.

    Attributes:
        frame, note, gallery, prompt, seed, dice: the inputs, not rendered yet.
        last_good: the newest first frame that could be read.
        picture: what a new first frame sets: frame, last_good and note.
        prompts: the example prompts.

    Args:
        prefix: of the elements' ids.
        frame_label: what screen readers call the first frame.
        frame_height: in pixels.
        webcam: whether a first frame may be taken with the camera.
        prompt_label: whether the prompt's label is shown.
    """

    def __init__(
        self, prefix: str, frame_label: str, frame_height: int, webcam: bool = True, prompt_label: bool = True
    ):
        samples, self.prompts = load_samples()
        self._samples = {sample.id: sample for sample in samples}
        first = samples[0] if samples else None
        start = str(first.path) if first else None
        self.last_good = gr.State(start, time_to_live=3600)
        self.frame = FrameInput(
            value=start,
            type="filepath",
            sources=["upload", "clipboard", "webcam"] if webcam else ["upload", "clipboard"],
            label=frame_label,
            show_label=False,
            height=frame_height,
            elem_id=f"{prefix}frame",
            buttons=[],
            render=False,
        )
        self.note = Note("", elem_id=f"{prefix}note" if prefix else "frame-note", render=False)
        self.gallery = SampleGallery(
            [sample.entry() for sample in samples],
            first.id if first else None,
            elem_id=f"{prefix}samples",
            render=False,
        )
        self.prompt = gr.Textbox(
            value=first.prompt if first else "",
            label="Prompt",
            show_label=prompt_label,
            placeholder="for example: snowy mountains at dusk",
            lines=2,
            max_lines=4,
            elem_id=f"{prefix}prompt",
            render=False,
        )
        self.seed = gr.Number(0, label="Seed", precision=0, min_width=110, elem_id=f"{prefix}seed", render=False)
        self.dice = gr.Button("New seed", size="sm", min_width=90, elem_id=f"{prefix}dice", render=False)
        self.picture = [self.frame, self.last_good, self.note]

    def connect(self) -> list[Any]:
        """Wire the inputs to each other; returns the events after which another picture is there."""
        chosen = self.frame.input(check_frame, [self.frame, self.last_good], self.picture, **QUIET)
        sampled = self.gallery.select(
            lambda sample: picked(self._samples.get(sample)),
            self.gallery,
            [self.frame, self.last_good, self.prompt, self.note],
            **AT_ONCE,
        )
        self.dice.click(lambda: secrets.randbelow(MAX_SEED + 1), None, self.seed, **AT_ONCE)
        return [self.unmark(chosen), sampled]

    def take(self, trigger: Callable[..., Any], work: Callable[..., Any], inputs: Any) -> None:
        """Another way to a first frame: on `trigger`, `work` gives picture and note."""

        def take(*values: Any) -> tuple[Any, Any, str]:
            image, note = work(*values)
            return image, keep(image), note

        self.unmark(trigger(take, inputs, self.picture, **QUIET))

    def unmark(self, event: Any) -> Any:
        """After this event no sample is marked."""
        return event.then(lambda: None, None, self.gallery, **AT_ONCE)


def keep(picture: Image.Image | str | None) -> bytes | str | None:
    """A first frame to come back to, as a session keeps it: small, because there are many sessions."""
    if not isinstance(picture, Image.Image):
        return picture
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


def check_frame(path: str | None, last_good: bytes | str | None) -> tuple[Any, Any, str]:
    """Look at a picture as soon as it is chosen; a bad one is refused and the one before it comes back.

    Returns:
        The picture as it will be used (upright, RGB), the same to keep, and a note on how it is cut.
    """
    if not path:
        return gr.skip(), None, "Choose a first frame: upload, paste, take a photo, or pick a sample."
    try:
        image = read_upload(path)
    except ImageError as error:
        gr.Warning(sentence(error), title="This picture cannot be used")
        before = Image.open(io.BytesIO(last_good)) if isinstance(last_good, bytes) else last_good
        return before, gr.skip(), f"⚠ {sentence(error)}"
    return image, keep(image), ""
