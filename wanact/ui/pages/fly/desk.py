"""What Plan a clip asks of the server: check what a visitor sends, draw the clip, open a flight, go on from a clip."""

from __future__ import annotations

import base64
import errno
import html
import io
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import numpy as np
from PIL import Image
from pydantic import BaseModel

from wanact import shapes
from wanact.actions import ActionTrack
from wanact.errors import UserError, without_folders
from wanact.files import number, read_bytes, read_model, whole, write_text
from wanact.flying.pipeline import Cancelled
from wanact.flying.record import MAX_BYTES, FlightRecord, grid_of
from wanact.flying.request import RequestError, clean_prompt
from wanact.media.animation import write_animation
from wanact.media.video import encode_jpeg, fit_image, write_mp4
from wanact.runs.ref import CheckpointRef
from wanact.ui.budget import MAX_AREA, MAX_STEPS, Budget
from wanact.ui.components import ClipState, choice_of
from wanact.ui.engine import Decoded, Denoised, Engine, Flight, Waiting
from wanact.ui.gpu import clip_seconds, on_gpu
from wanact.ui.samples import read_upload

MAX_PROMPT_CHARACTERS = 2_000
MAX_GUIDANCE = 12.0
_DISK_FULL = "The clip was drawn but could not be kept, because the server's disk is full; tell whoever runs it."

logger = logging.getLogger(__name__)


def read_prompt(text: Any, name: str = "prompt") -> str:
    """The prompt without control characters.

    Raises:
        RequestError: if it is longer than 2,000 characters, of which no text encoder reads the end.
    """
    if isinstance(text, str) and len(text) > MAX_PROMPT_CHARACTERS:
        raise RequestError(
            f"the {name} has {len(text):,} characters, at most {MAX_PROMPT_CHARACTERS:,} are read; shorten it"
        )
    return clean_prompt(text or "", name)


def say_what_is_cut(engine: Engine, prompt: str) -> None:
    """Tell the visitor which words at the end of a prompt the text encoder does not read."""
    end = engine.pipe.unread(prompt)
    if end:
        shown = html.escape(end if len(end) <= 80 else f"{end[:80]}…")  # toasts render HTML
        gr.Warning(f"The prompt is longer than this model reads; these words at its end have no effect: “{shown}”.")


def read_first_frame(path: str | None) -> Image.Image:
    """The picture that a visitor has chosen.

    Raises:
        RequestError, ImageError: if there is none, or it cannot be used.
    """
    if not path:
        raise RequestError("there is no first frame yet: upload a picture, or choose one of the samples")
    return read_upload(path)


def fitted_frame(path: str | None, crop: Any, height: int, width: int) -> Image.Image:
    """The picture that a visitor has chosen, cut to the clip's shape where they have said.

    Raises:
        RequestError, ImageError: if there is none, or it cannot be used.
    """
    place = read_model(_Crop, {"crop": crop}, RequestError)
    return fit_image(read_first_frame(path), height, width, crop=place.crop)


def size_choices(height: int, width: int) -> list[str]:
    """The model's own size first, then turned by a quarter, then a square of about the same area."""
    step = shapes.SIZE_MULTIPLE
    side = max(step, round(math.sqrt(height * width) / step) * step)
    sizes = [(height, width), (width, height), (side, side)]
    return list(dict.fromkeys(size_label(*size) for size in sizes))


def size_label(height: int, width: int) -> str:
    """A size as the page writes it, width first."""
    return f"{width} × {height}"


def preview_url(clip: np.ndarray, fps: float) -> str:
    """A small uint8 clip [T, h, w, 3], one picture a latent frame, as an animated WebP data URL."""
    pictures = [Image.fromarray(picture) for picture in clip]
    file = io.BytesIO()
    milliseconds = round(1000 * shapes.TEMPORAL_STRIDE / fps)
    pictures[0].save(
        file, "WEBP", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, quality=60, method=0
    )
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class ClipForm:
    """What a page or a program sends for a clip, unread; None takes the model's default."""

    first_frame: str | None
    prompt: Any
    plan: Any
    seed: Any = 0
    negative_prompt: Any = ""
    steps: Any = None
    guidance: Any = None
    size: Any = None
    crop: Any = 0.5


@dataclass(frozen=True)
class FlyForm(ClipForm):
    """A form with the id of a checkpoint."""

    checkpoint: Any = field(kw_only=True)


class _Numbers(BaseModel):
    steps: Annotated[int, whole(1, MAX_STEPS, floats=True)]
    guidance: Annotated[float, number(1, MAX_GUIDANCE)]


class _Crop(BaseModel):
    crop: Annotated[float, number(0, 1)]


class FlyDesk:
    """The handlers of Plan a clip. It remembers nothing of a visitor: what they have is in their own page.

    Args:
        engine: the shared model.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.budget = Budget.of(engine.defaults)
        self.fly = on_gpu(self._fly, clip_seconds(self))

    # ---- drawing a clip ------------------------------------------------------------------------------------

    def generate(
        self,
        first_frame: str | None,
        prompt: str,
        plan: Any,
        checkpoint: str | None,
        seed: float,
        negative_prompt: str = "",
        steps: float | None = None,
        guidance: float | None = None,
        size: str | None = None,
        crop: float = 0.5,
    ) -> Iterator[tuple[Any, Any]]:
        """Draw a clip from a first frame, a prompt and a flight plan.

        Args:
            first_frame: picture to start from.
            prompt: what the scene is.
            plan: actions of shape (steps, 2, 8): flags and magnitudes of the eight channels.
            checkpoint: id of a checkpoint, or "base" for the model without actions.
            seed: 0 to 2147483647; the same seed gives the same clip.
            negative_prompt: what to avoid in the scene.
            steps: denoising steps; at the model's own number a causal checkpoint takes its own.
            guidance: how closely the clip follows the prompt.
            size: width × height.
            crop: where a picture of another shape is cut, from 0 (it keeps its left or top) to 1.

        Yields:
            State of the viewer, and the last frame for going on from it.
        """
        shown = (first_frame, prompt, plan, seed, negative_prompt, steps, guidance, size, crop)
        form = FlyForm(*shown, checkpoint=checkpoint)
        yield from self.fly(form)

    def _fly(self, form: FlyForm) -> Iterator[tuple[Any, Any]]:
        """Read the form, draw its clip, and answer whatever goes wrong."""
        try:
            yield from self._draw(self.read_flight(form))
        except Cancelled:
            yield ClipState(status="cancelled", message="Cancelled. Everything is as you left it."), gr.skip()
        except UserError as error:
            yield from _fail(sentence(error))
        except OSError as error:
            logger.exception("a clip could not be written")
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            yield from _fail(_DISK_FULL if full else sentence(error.strerror or error))
        except MemoryError:
            logger.exception("out of memory")
            yield from _fail("There is not enough memory for this clip; choose a smaller size and try again.")
        except Exception:
            logger.exception("a flight failed")
            yield from _fail("Something went wrong while the clip was drawn; nothing was lost, try again.")

    def read_flight(self, form: FlyForm) -> Flight:
        """Check what a visitor sends, but for the seed, which the pipeline checks.

        Raises:
            UserError: in one sentence.
        """
        defaults = self.engine.defaults
        height, width = self.read_size(form.size)
        track = ActionTrack.parse(form.plan)
        track.require_length(defaults["num_frames"])
        settings = {
            "steps": defaults["num_inference_steps"] if form.steps is None else form.steps,
            "guidance": defaults["guidance_scale"] if form.guidance is None else form.guidance,
        }
        numbers = read_model(_Numbers, settings, RequestError)
        checkpoint = self.engine.find(form.checkpoint)
        steps = self.engine.steps_of(checkpoint, numbers.steps)
        self.budget.check_clip(height, width, defaults["num_frames"], steps)
        return Flight(
            read_prompt(form.prompt),
            fitted_frame(form.first_frame, form.crop, height, width),
            track,
            negative_prompt=read_prompt(form.negative_prompt, "negative prompt"),
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=numbers.guidance,
            seed=form.seed,
            checkpoint=checkpoint,
        )

    def read_size(self, size: str | None) -> tuple[int, int]:
        """Height and width from “width × height”.

        Raises:
            RequestError: if it is no such text, no multiple of 32, or too large.
        """
        own = self.engine.defaults["height"], self.engine.defaults["width"]
        if size is None:
            return own
        try:
            width, height = (int(part) for part in str(size).replace("x", "×").split("×"))
            shapes.check_size(height, width)
        except ValueError:
            raise RequestError(
                f"the size is {str(size)[:40]}, expected width × height in multiples of 32, as in {size_label(*own)}"
            ) from None
        if height * width > MAX_AREA * own[0] * own[1]:
            raise RequestError(f"the size {size} is too large for this model; {size_label(*own)} is its own")
        return height, width

    def _draw(self, flight: Flight) -> Iterator[tuple[Any, Any]]:
        started = time.monotonic()
        fps = self.engine.defaults["fps"]
        num_frames = self.engine.defaults["num_frames"]
        state = ClipState(status="working", message="Reading the frame and the prompt", progress=0.02)
        yield state, gr.skip()
        say_what_is_cut(self.engine, flight.prompt)
        for event in self.engine.fly(flight):
            if isinstance(event, np.ndarray):
                yield from self._deliver(flight, event, time.monotonic() - started)
                return
            seconds = f" · {time.monotonic() - started:.0f} s"
            if isinstance(event, Denoised) and event.preview is not None:
                message = f"Drawing: step {event.step} of {event.total}"
                share, preview = 0.8 * event.step / event.total, preview_url(event.preview, fps)
                state = ClipState(status="working", message=message, progress=share)
                yield state.model_copy(update={"message": message + seconds, "preview": preview}), gr.skip()
            elif isinstance(event, Decoded) and event.while_drawn:
                state = _playing(event, num_frames, fps)
                yield state, gr.skip()
            elif isinstance(event, Decoded):
                message = f"Finishing: frame {event.num_frames} of {num_frames}"
                share = 0.8 + 0.2 * event.num_frames / num_frames
                state = ClipState(status="working", message=message, progress=share)
                yield state.model_copy(update={"message": message + seconds}), gr.skip()
            elif isinstance(event, Waiting) and not state.frames:
                yield state.model_copy(update={"message": state.message + seconds}), gr.skip()
            else:
                yield gr.skip(), gr.skip()  # a visitor who has gone is noticed

    def _deliver(self, flight: Flight, frames: np.ndarray, seconds: float) -> Iterator[tuple[Any, Any]]:
        """Write the clip and its record, hand them to Gradio, which keeps its own copies, and take ours away."""
        fps = self.engine.defaults["fps"]
        with tempfile.TemporaryDirectory(prefix="wanact-") as folder:
            name = "-".join(["wanact", *_slug(flight.checkpoint), f"seed{flight.seed:.0f}"])
            video, record = Path(folder, f"{name}.mp4"), Path(folder, f"{name}.json")
            write_mp4(frames, video, fps=fps)
            flown = self._record(flight)
            write_text(record, flown.to_json())
            caption = f"{flight.checkpoint.label} · seed {flight.seed:.0f} · generated in {seconds:.1f} s"
            state = {
                "status": "done",
                "progress": 1.0,
                "video": {"path": str(video), "orig_name": video.name},
                "record": {"path": str(record), "orig_name": record.name},
                "track": flown.track.to_list(),
                "fps": fps,
                "caption": caption,
            }
            last = frames[-1].copy()  # a view would keep the whole clip for as long as the session
            yield ClipState(**state), last
            try:
                for form in ("gif", "webp"):  # while the clip plays
                    picture = Path(folder, f"{name}.{form}")
                    write_animation(frames, picture, fps)
                    state[form] = {"path": str(picture), "orig_name": picture.name}
            except OSError:
                logger.exception("a clip could not be written as a GIF or WebP")
            yield ClipState(**state), last

    def _record(self, flight: Flight) -> FlightRecord:
        choice, defaults = flight.checkpoint, self.engine.defaults
        return FlightRecord.from_request(
            self.engine.pipe.check(flight),
            fps=float(defaults["fps"]),
            model={"name": self.engine.name, "fingerprint": self.engine.fingerprint()},
            checkpoint=choice.to_json() if choice.path else None,
            sampler=grid_of(defaults),
        )

    # ---- around a clip -------------------------------------------------------------------------------------

    def go_on(self, last_frame: np.ndarray | None) -> tuple[Image.Image, str]:
        """The last frame of the clip as the next first frame."""
        if last_frame is None:
            raise gr.Error("There is no clip to go on from; generate one first.", print_exception=False)
        note = "The last frame of your clip. Change the plan and generate again to fly on."
        return Image.fromarray(last_frame), note

    def list_checkpoints(self) -> dict[str, Any]:
        """What there is to fly now: ids and labels, the default's id, and how many are damaged."""
        choices, damaged = self.engine.checkpoints()
        entries = [choice_of(choice) for choice in choices]
        return {"choices": entries, "default": self.engine.default_checkpoint(), "damaged": damaged}

    def open_flight(self, path: str | None) -> dict[str, Any]:
        """Everything that a flight record sets, by the name of the field.

        Raises:
            gr.Error: in one sentence, if the file is no flight that can be flown here.
        """
        try:
            if not path:
                raise RequestError("there is no file; choose a JSON that was saved with “Flight” under a clip")
            flight = FlightRecord.parse(read_bytes(Path(path), MAX_BYTES))
            if flight.kind == "live":
                raise RequestError("this flight was flown live, and is no clip; open it on Compare to fly it again")
            flight.track.require_length(self.engine.defaults["num_frames"])
            label = size_label(flight.image.height, flight.image.width)
            self.read_size(label)
        except UserError as error:
            raise gr.Error(sentence(error), title="The flight was not opened", print_exception=False) from error
        fields = asdict(flight) | {"image": flight.image, "track": flight.track, "size": label}
        choices, _ = self.engine.checkpoints()
        wanted = flight.checkpoint["id"] if flight.checkpoint and "id" in flight.checkpoint else "base"
        fields["checkpoint"] = wanted if any(choice.id == wanted for choice in choices) else None
        if fields["checkpoint"] is None:
            gr.Warning(f"The flight was flown with “{str(wanted)[:80]}”, which is not here; another one is selected.")
        return fields


def _playing(event: Decoded, num_frames: int, fps: float) -> ClipState:
    """A clip that plays while it is drawn, and how many of its seconds there are: those after its first frame."""
    return ClipState(
        status="working",
        message=f"Drawing: {(event.num_frames - 1) / fps:.1f} of {(num_frames - 1) / fps:.3g} s",
        progress=max(0.02, event.num_frames / num_frames),
        frames=[base64.b64encode(encode_jpeg(frame)).decode() for frame in event.frames],
        begin=event.num_frames - len(event.frames),
    )


def _fail(message: str) -> Iterator[tuple[Any, Any]]:
    """Show the message where the clip would be, and raise it, for the toast and for programs."""
    yield ClipState(status="failed", message=message), gr.skip()
    raise gr.Error(message, title="No clip this time", print_exception=False, duration=8)


def sentence(error: Any) -> str:
    """An error's message as a sentence: a capital first, a full stop last, on one line, and none of our folders."""
    text = without_folders(" ".join(str(error).split()))
    if text.split(" ", 1)[0].isalpha():  # the name of a file keeps its spelling
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def _slug(choice: CheckpointRef) -> list[str]:
    parts = [choice.run, f"step{choice.step}" if choice.step is not None else ""]
    return ["".join(char if char.isalnum() else "_" for char in part)[:40] for part in parts if part]
