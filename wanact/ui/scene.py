"""The inputs of a scene, which Fly, Plan a clip and Compare share: first frame, samples, prompt and seed.

They are wired together here, and kept in the visitor's tab.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import gradio as gr
from PIL import Image
from pydantic import BaseModel

from wanact.files import number, otherwise
from wanact.flying.record import MAX_SEED
from wanact.media.video import ImageError
from wanact.ui.components import Chips, Crop, FrameInput, Note, SampleGallery, SceneMemory
from wanact.ui.describe import Describer
from wanact.ui.engine import TOGETHER, Engine
from wanact.ui.pages.fly.desk import sentence
from wanact.ui.samples import Sample, load_samples, read_upload

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AT_ONCE: dict[str, Any] = QUIET | {"queue": False}  # small answers: no event waits, and no connection is opened for it

# gr.Image says that there is input before it takes a picture away, and hands on the one that was there.
_AS_SEEN = (
    "async (frame, ...rest) => { await new Promise(done => setTimeout(done)); "
    "return [document.querySelector('#FRAME img') ? frame : null, ...rest]; }"
)


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
        frame, crop, note, gallery, prompt, describe, seed, dice: the inputs, not rendered yet.
        last_good: the newest first frame that could be read: the path of a sample, or a picture of the visitor's own.
        picture: what a new first frame sets: frame, last_good and note.
        prompts: the example prompts.

    Args:
        prefix: of the elements' ids.
        engine: whose first frames these are.
        frame_label: what screen readers call the first frame.
        frame_height: in pixels.
        webcam: whether a first frame may be taken with the camera.
        prompt_label: whether the prompt's label is shown.
    """

    def __init__(
        self,
        prefix: str,
        engine: Engine,
        frame_label: str,
        frame_height: int,
        webcam: bool = True,
        prompt_label: bool = True,
    ):
        samples, self.prompts = load_samples()
        self._samples = {sample.id: sample for sample in samples}
        self._draws = engine.draws
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
        ratio = engine.defaults["width"] / engine.defaults["height"]
        self.crop = Crop(prefix, ratio, elem_id=f"{prefix}crop", render=False)
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
        self._describer = Describer(engine) if engine.draws_places else None
        self.describe = gr.Button(
            "Describe a place: draw a first frame from the prompt",
            size="sm",
            visible=engine.draws_places,
            elem_id=f"{prefix}describe",
            elem_classes="own-button",
            render=False,
        )
        self.picture = [self.frame, self.last_good, self.note]
        self._memory = SceneMemory(prefix, list(self._samples), elem_id=f"{prefix}memory", render=False)

    def connect(self) -> list[Any]:
        """Wire the inputs to each other; returns the events after which another picture is there."""

        def look(path: str | None, last_good: bytes | str | None) -> tuple[Any, Any, str]:
            return check_frame(path, last_good, self._draws)

        look.__name__ = check_frame.__name__  # what programs and tests know the event by
        seen = _AS_SEEN.replace("FRAME", str(self.frame.elem_id))
        chosen = self.frame.input(look, [self.frame, self.last_good], self.picture, js=seen, **QUIET)
        chosen = chosen.then(self._own, [self.last_good, self.prompt], [self.gallery, self.prompt], **AT_ONCE)
        sampled = self.gallery.select(
            self._pick, self.gallery, [self.frame, self.last_good, self.prompt, self.note], **AT_ONCE
        )
        self.dice.click(lambda: secrets.randbelow(MAX_SEED + 1), None, self.seed, **AT_ONCE)
        described = [] if self._describer is None else [self._connect_words(self._describer)]
        return [chosen, sampled, *described, self._remember()]

    def _connect_words(self, describer: Describer) -> Any:
        def describe(prompt: Any, seed: Any) -> Iterator[tuple[Any, Any, str]]:
            for image, note in describer.describe(prompt, seed):
                yield image, keep(image) if isinstance(image, Image.Image) else gr.skip(), note

        drawn = self.describe.click(
            describe,
            [self.prompt, self.seed],
            self.picture,
            concurrency_id="model",
            concurrency_limit=TOGETHER,
            trigger_mode="once",
            **QUIET,
        )
        return self.unmark(drawn)

    def take(self, trigger: Callable[..., Any], work: Callable[..., Any], inputs: Any) -> None:
        """Another way to a first frame: on `trigger`, `work` gives picture and note."""

        def take(*values: Any) -> tuple[Any, Any, str]:
            image, note = work(*values)
            return image, keep(image), note

        self.unmark(trigger(take, inputs, self.picture, **QUIET))

    def unmark(self, event: Any) -> Any:
        """After this event no sample is marked, unless it is still the first frame."""
        return event.then(
            lambda last_good: gr.skip() if isinstance(last_good, str) else None,
            self.last_good,
            self.gallery,
            **AT_ONCE,
        )

    def _pick(self, name: Any) -> tuple[Any, ...]:
        """First frame, the one to fall back to, prompt and note of the sample that was chosen."""
        sample = self._samples.get(name) if isinstance(name, str) else None
        if sample is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        return str(sample.path), str(sample.path), sample.prompt, self._about(sample)

    def _about(self, sample: Sample) -> str:
        return sample.credit if sample.world is not None else f"{_as_sentence(sample.credit)} {self._draws}".strip()

    def _own(self, last_good: bytes | str | None, prompt: Any) -> tuple[Any, Any]:
        """Sample and prompt after another picture was chosen: a picture of one's own is none of the samples, nor what
        the prompt of a sample says; after one that was refused the sample is still there."""
        if isinstance(last_good, str):
            return gr.skip(), gr.skip()
        is_samples = last_good is not None and prompt in {sample.prompt for sample in self._samples.values()}
        return None, "" if is_samples else gr.skip()

    # ---- what outlives a reload --------------------------------------------------------------------------------

    def _remember(self) -> Any:
        """Have the tab keep what is chosen, and give it back after a reload; the event after which it is there."""
        self._memory.render()
        kept = [self.frame, self.prompt, self.gallery, self.crop]
        gr.on([part.change for part in kept], None, kept, None, js=self._memory.listen, **AT_ONCE)
        restored = self._memory.restore(
            self._restore, self._memory, [*self.picture, self.prompt, self.gallery], **QUIET
        )
        restored = restored.then(lambda kept: _Kept.read(kept).crop, self._memory, self.crop, **AT_ONCE)
        return restored.then(None, None, None, js=self._memory.done, **AT_ONCE)

    def _restore(self, kept: Any) -> tuple[Any, ...]:
        """First frame, the one to fall back to, note, prompt and sample, as a tab has kept them."""
        asked = _Kept.read(kept)
        prompt = gr.skip() if asked.prompt is None else asked.prompt
        sample = self._samples.get(asked.sample or "")
        if sample is not None:
            prompt = sample.prompt if asked.prompt is None else asked.prompt
            return str(sample.path), str(sample.path), self._about(sample), prompt, sample.id
        if asked.picture is None:
            return gr.skip(), gr.skip(), gr.skip(), prompt, gr.skip()
        try:
            path = self.frame.store(asked.picture)
            return path, keep(read_upload(path)), self._draws, prompt, None
        except ImageError as error:
            return gr.skip(), gr.skip(), f"⚠ {sentence(error)}", prompt, gr.skip()


class _Kept(BaseModel):
    """What a tab has kept of a scene; what is malformed counts as not kept.

    Attributes:
        sample: id of the sample that was chosen, None for a picture of one's own.
        picture: that picture as a data URL.
        prompt: None for the sample's.
        crop: as `Crop` has it.
    """

    sample: Annotated[str | None, otherwise(None)] = None
    picture: Annotated[str | None, otherwise(None)] = None
    prompt: Annotated[str | None, otherwise(None)] = None
    crop: Annotated[Annotated[float, number(0, 1)], otherwise(0.5)] = 0.5

    @classmethod
    def read(cls, kept: Any) -> _Kept:
        return cls.model_validate(kept if isinstance(kept, dict) else {})


def _as_sentence(words: str) -> str:
    return words and f"{words[:1].upper()}{words[1:].rstrip('.')}."


def keep(picture: Image.Image | str | None) -> bytes | str | None:
    """A first frame to come back to, as a session keeps it: small, because there are many sessions."""
    if not isinstance(picture, Image.Image):
        return picture
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


def check_frame(path: str | None, last_good: bytes | str | None, remark: str = "") -> tuple[Any, Any, str]:
    """Look at a picture as soon as it is chosen; a bad one is refused and the one before it comes back.

    Args:
        path: of the picture, None where it was taken away.
        last_good: the one before.
        remark: on pictures of visitors' own.

    Returns:
        The picture as it will be used (upright, RGB), the same to keep, and a note.
    """
    if not path:
        return gr.skip(), None, "Choose a first frame: upload, paste, take a photo, or pick a sample."
    try:
        image = read_upload(path)
    except ImageError as error:
        gr.Warning(sentence(error), title="This picture cannot be used")
        before = Image.open(io.BytesIO(last_good)) if isinstance(last_good, bytes) else last_good
        return before, gr.skip(), f"⚠ {sentence(error)}"
    return image, keep(image), remark
