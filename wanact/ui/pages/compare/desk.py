"""What the Compare page asks of the server: check the flight and its lanes, fly them in turn, put numbers to them."""

from __future__ import annotations

import base64
import errno
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import numpy as np
from gradio.data_classes import FileData, GradioModel
from PIL import Image
from pydantic import BaseModel

from wanact.actions import ActionTrack
from wanact.control_card.clip import measure_clip
from wanact.errors import UserError
from wanact.files import CheckpointError, number, read_model, whole, write_text
from wanact.flying.autopilot import HAND_WRITTEN, WRITTEN, Autopilot
from wanact.flying.comparison import MAX_LANES, TRUTH, Comparison, ComparisonError, Lane, Link, is_comparison
from wanact.flying.pipeline import Cancelled
from wanact.flying.record import MAX_SEED, FlightRecord, Piloted, image_sha256
from wanact.flying.request import RequestError
from wanact.media.animation import write_animation
from wanact.media.likeness import gmsd, psnr_db, ssim
from wanact.media.tiles import TileLayout, tile_clips
from wanact.media.video import fit_image, open_image, write_mp4
from wanact.runs.store import step_of
from wanact.ui.budget import MAX_STEPS
from wanact.ui.engine import Decoded, Denoised, Engine
from wanact.ui.gpu import LONGEST, clip_seconds, on_gpu
from wanact.ui.pages.fly.desk import (
    MAX_GUIDANCE,
    ClipForm,
    FlyDesk,
    fitted_frame,
    read_prompt,
    say_what_is_cut,
    sentence,
)
from wanact.ui.samples import Sample, load_samples
from wanact.world.followed_flight import ReckonedFlight
from wanact.world.true_flight import Start, TrueFlight

LETTERS = "ABCD"

logger = logging.getLogger(__name__)


class LaneState(GradioModel):
    """What one lane shows: its status is waiting, drawing, done or failed.

    `control_of` says how much its control is measured from, as in "6 runs of 17 to 21 frames"; `masks` is what
    `Masks.read` gives of its clip, {} where there is no network of masks.
    """

    letter: str
    label: str
    checkpoint: str = ""
    status: str = "waiting"
    message: str = ""
    progress: float = 0.0
    video: FileData | None = None
    numbers: dict[str, float | None] = {}
    control_of: str = ""
    masks: dict[str, Any] = {}
    curves: dict[str, list[float]] = {}


class CompareState(GradioModel):
    """What the stage shows. Lanes appear as they finish: `tiled` holds all that are done, and `layout` where.

    `first_frame` is a data URL of what the flight begins with, which lanes show that wait for their turn; `masks` says
    by which network masks are read, see `Masks.told`.
    """

    status: str = "idle"
    message: str = ""
    lanes: list[LaneState] = []
    tiled: FileData | None = None
    gif: FileData | None = None
    webp: FileData | None = None
    layout: dict[str, Any] | None = None
    record: FileData | None = None
    track: list | None = None
    fps: float = 16.0
    num_frames: int = 0
    first_frame: str = ""
    masks: dict[str, str] = {}
    link: str = ""
    link_problem: str = ""


@dataclass
class _Lane:
    """A lane while it is flown."""

    lane: Lane
    state: LaneState
    frames: np.ndarray | None = None
    record: FlightRecord | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CompareForm(ClipForm):
    """A form whose plan may be a flight record, with two to four lanes."""

    lanes: Any = field(kw_only=True)


class _Numbers(BaseModel):
    seed: Annotated[int, whole(0, MAX_SEED, floats=True)]
    steps: Annotated[int, whole(1, MAX_STEPS, floats=True)]
    guidance: Annotated[float, number(1, MAX_GUIDANCE)]


class CompareDesk:
    """The handlers of the Compare page. It remembers nothing of a visitor.

    Args:
        engine: the shared model.
        flights: reads what a visitor sends of a flight.
    """

    def __init__(self, engine: Engine, flights: FlyDesk | None = None):
        self.engine = engine
        self.flights = flights or FlyDesk(engine)
        self.samples: list[Sample] = load_samples()[0]
        self.fly = on_gpu(self._answer, compare_seconds(clip_seconds(self.flights)))

    def list_lanes(self) -> dict[str, Any]:
        """What there is to fly, and the lanes that a visitor finds: the best, the best before it, and the truth."""
        listing = self.flights.list_checkpoints()
        best = listing["default"]
        lanes = [best, self.engine.best_before(best), *([TRUTH] if self.engine.truth is not None else [])]
        return listing | {"lanes": [{"checkpoint": lane} for lane in lanes], "pilots": self.engine.list_pilots()}

    # ---- flying --------------------------------------------------------------------------------------------

    def compare(
        self,
        first_frame: str | None,
        prompt: str,
        plan: Any,
        lanes: Any,
        seed: float = 0,
        negative_prompt: str = "",
        steps: float | None = None,
        guidance: float | None = None,
        crop: float = 0.5,
        size: str | None = None,
    ) -> Iterator[Any]:
        """Fly one flight with two to four checkpoints or settings, side by side.

        Args:
            first_frame: picture to start from; not needed if the plan is a flight record.
            prompt: what the scene is.
            plan: actions of shape (steps, 2, 8), or a flight record.
            lanes: two to four of {"checkpoint": id, "base" or "truth"; "seed", "guidance", "scale", "prompt" if they
                differ from the others; "pilot" as "id:task", where a pilot flies instead of the plan}.
            seed: 0 to 2147483647, of every lane that has none of its own.
            negative_prompt: what to avoid in the scene.
            steps: denoising steps; at the model's own number a causal checkpoint takes its own.
            guidance: how closely the clips follow the prompt.
            crop: where a picture of another shape is cut, from 0 (it keeps its left or top) to 1.
            size: width × height.

        Yields:
            State of the stage: clips, numbers and the tiled clip of the lanes that are done.
        """
        form = CompareForm(first_frame, prompt, plan, seed, negative_prompt, steps, guidance, size, crop, lanes=lanes)
        yield from self.fly(form)

    def _answer(self, form: CompareForm) -> Iterator[Any]:
        """Read the form, fly its lanes, and answer whatever goes wrong."""
        try:
            comparison = self.read(form)
            with tempfile.TemporaryDirectory(prefix="wanact-") as folder:
                yield from self._fly(comparison, Path(folder))
        except Cancelled:
            yield CompareState(status="cancelled", message="Cancelled. Everything is as you left it.")
        except UserError as error:
            yield from _fail(sentence(error))
        except OSError as error:
            logger.exception("a comparison could not be written")
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            yield from _fail("The server's disk is full." if full else sentence(error.strerror or error))
        except Exception:
            logger.exception("a comparison failed")
            yield from _fail("Something went wrong while the lanes were flown; nothing was lost, try again.")

    def read(self, form: CompareForm) -> Comparison:
        """Check everything that a visitor sends.

        Raises:
            UserError: in one sentence.
        """
        if not isinstance(form.lanes, list):
            raise ComparisonError("The lanes are no list; expected two to four checkpoints.")
        chosen = tuple(map(Lane.parse, form.lanes[:9]))
        record = self._read_flight(form)
        defaults = self.engine.defaults
        settings = {
            "seed": form.seed,
            "steps": defaults["num_inference_steps"] if form.steps is None else form.steps,
            "guidance": defaults["guidance_scale"] if form.guidance is None else form.guidance,
        }
        numbers = read_model(_Numbers, settings, RequestError)
        flight = replace(
            record,
            prompt=read_prompt(form.prompt),
            negative_prompt=read_prompt(form.negative_prompt, "negative prompt"),
            seed=numbers.seed,
            num_inference_steps=numbers.steps,
            guidance_scale=numbers.guidance,
            model={"name": self.engine.name, "fingerprint": self.engine.fingerprint()},
        )
        comparison = Comparison(flight, chosen)
        self.flights.budget.check_lanes(flight, len(chosen))
        say_what_is_cut(self.engine, flight.prompt)
        return comparison

    def _read_flight(self, form: CompareForm) -> FlightRecord:
        """The flight without prompt, seed and sampler; a record brings its own picture, length and kind."""
        plan = form.plan
        if isinstance(plan, dict):
            content = plan.get("flight", plan)
            record = FlightRecord.parse(json.dumps(content))
            self.flights.budget.check_record(record)
            if record.kind == "clip":
                record.track.require_length(record.num_frames)
            self.flights.read_size(f"{record.image.width} × {record.image.height}")
            if plan.get("own_picture") is not False:
                return record
            own = fitted_frame(form.first_frame, form.crop, record.image.height, record.image.width)
            return replace(record, image=own)
        height, width = self.flights.read_size(form.size)
        track = ActionTrack.parse(plan)
        track.require_length(self.engine.defaults["num_frames"])
        first = fitted_frame(form.first_frame, form.crop, height, width)
        return FlightRecord.by_defaults(self.engine.defaults, first, "", track)

    def _fly(self, comparison: Comparison, folder: Path) -> Iterator[CompareState]:
        flight = comparison.flight
        lanes = [_Lane(lane, self._start(index, lane)) for index, lane in enumerate(comparison.lanes)]
        state = CompareState(
            status="working",
            lanes=[lane.state for lane in lanes],
            track=flight.track.to_list(),
            fps=flight.fps,
            num_frames=flight.num_frames,
            first_frame=_picture_url(flight.image),
            masks=self.engine.masks.told(),
        )
        yield state
        truths: list[_Lane] = []
        tiled: np.ndarray | None = None
        # The truth first: the others are measured against it.
        for lane in sorted(lanes, key=lambda lane: lane.lane.checkpoint != TRUTH):
            lane.state.status = "drawing"
            try:
                yield from self._fly_lane(lane, flight, state)
                if lane.lane.checkpoint == TRUTH:
                    truths.append(lane)
                self._finish(lane, _truth_of(lane, truths), folder, flight.fps)
                if "by" in state.masks:
                    lane.state.masks = self._masks(lane)
            except Cancelled:
                raise
            except UserError as error:
                lane.state.status, lane.state.message = "failed", sentence(error)
            except Exception:
                logger.exception("a lane failed")
                lane.state.status, lane.state.message = "failed", "Something went wrong while this lane was flown."
            tiled = self._tile(lanes, folder, state)
            yield _light(state) if lane is not lanes[-1] else state
        self._sign_off(comparison, folder, state)
        yield _light(state)
        if tiled is not None:  # while the lanes play
            self._animate(tiled, folder, state)
        yield state

    def _start(self, index: int, lane: Lane) -> LaneState:
        return LaneState(letter=LETTERS[index], label=self._label(lane), checkpoint=lane.checkpoint)

    def _label(self, lane: Lane) -> str:
        pilot = f"flown by {self._pilot_name(lane.pilot)}" if lane.pilot else ""
        if lane.checkpoint == TRUTH:
            return " · ".join(filter(None, ("the simulator's truth", pilot)))
        try:
            choice = self.engine.find(lane.checkpoint)
            name = choice.label if choice.step is None else f"{choice.run} · step {choice.step:,}"
        except CheckpointError:
            name = lane.checkpoint
        parts = [
            f"seed {lane.seed}" if lane.seed is not None else "",
            f"guidance {lane.guidance:g}" if lane.guidance is not None else "",
            f"{lane.scale:g} × the controls" if lane.scale != 1 else "",
            f"“{lane.prompt[:40]}”" if lane.prompt is not None else "",
            pilot,
        ]
        return " · ".join([name, *filter(None, parts)])

    def _pilot_name(self, wanted: str) -> str:
        pilot_id, _, task = wanted.rpartition(":")
        if pilot_id == HAND_WRITTEN:
            name = WRITTEN.name
        else:
            run, _, step_name = pilot_id.partition("/")
            step = step_of(step_name)
            name = run if step is None else f"{run} · step {step:,}"
        return f"{name[:60]}: {task[:20]}"

    def _flown_by_a_pilot(self, wanted: str, flight: FlightRecord) -> FlightRecord:
        """The flight with the track that a pilot flies from its first frame.

        Raises:
            CheckpointError, AutopilotError: if there is no such pilot, or it has not learnt that.
        """
        pilot_id, _, task = wanted.rpartition(":")
        pilot, sample = self.engine.pilot(pilot_id), self.sample_of(flight)
        start = None if sample is None or self.engine.truth is None else Start.of_sample(sample)
        follows = ReckonedFlight() if start is None else TrueFlight(start)
        flown = flight.with_track(Autopilot(pilot, task, follows, flight.seed).fly(len(flight.track)))
        if flight.kind != "live":
            return flown
        return replace(flown, piloted=(Piloted(1, len(flight.track), pilot_id, task),) if len(flight.track) else ())

    def _fly_lane(self, lane: _Lane, flight: FlightRecord, state: CompareState) -> Iterator[CompareState]:
        started, told = time.monotonic(), 0.0
        if lane.lane.pilot is not None:
            lane.state.message = "The pilot flies"
            yield _light(state)
            flight = self._flown_by_a_pilot(lane.lane.pilot, flight)
        lane.record = lane.lane.flight(flight)
        if lane.lane.checkpoint == TRUTH:
            lane.state.message = "The simulator flies the plan"
            yield _light(state)
            lane.frames = self._truth(lane.record)
            return
        choice = self.engine.find(lane.lane.checkpoint)
        lane.record = replace(
            lane.record,
            checkpoint=choice.to_json() if choice.path else None,
            num_inference_steps=self.engine.steps_of(choice, lane.record.num_inference_steps),
        )
        events = self.engine.replay(lane.record, choice)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, np.ndarray):
                    lane.frames = event
                    return
                if isinstance(event, Denoised):
                    if event.preview is not None:
                        lane.state.progress = 0.8 * event.step / event.total
                elif isinstance(event, Decoded):
                    share = min(1.0, event.num_frames / flight.num_frames)
                    lane.state.progress = share if event.while_drawn or flight.kind == "live" else 0.8 + 0.2 * share
                lane.state.message = f"{time.monotonic() - started:.0f} s"
                if time.monotonic() - told > 0.3:
                    told = time.monotonic()
                    yield _light(state)

    def sample_of(self, record: FlightRecord) -> Sample | None:
        """The sample frame that a flight begins with, None if it is another picture."""
        wanted = image_sha256(record.image)
        for sample in self.samples:
            fitted = fit_image(open_image(sample.path), record.image.height, record.image.width)
            if image_sha256(fitted) == wanted:
                return sample
        return None

    def _truth(self, flight: FlightRecord) -> np.ndarray:
        sample = self.sample_of(flight)
        if (filmed := self.engine.filmed(flight)) is not None:
            return filmed
        if self.engine.truth is None or sample is None or sample.world is None:
            raise ComparisonError(
                "The truth is known for the simulator's own sample frames only; begin with one of those."
            )
        return self.engine.truth(sample, flight.track, flight.image.height, flight.image.width)

    def _masks(self, lane: _Lane) -> dict[str, Any]:
        assert lane.frames is not None
        try:
            return self.engine.masks.read(lane.frames)
        except UserError as error:
            return {"problem": sentence(error)}

    def _finish(self, lane: _Lane, truth: np.ndarray | None, folder: Path, fps: float) -> None:
        """Write the lane's clip and measure it."""
        frames, state = lane.frames, lane.state
        assert frames is not None and lane.record is not None
        video = folder / f"wanact-compare-{state.letter}.mp4"
        write_mp4(frames, video, fps=fps)
        state.video = FileData(path=str(video), orig_name=video.name)
        takes_actions = lane.record.checkpoint is not None or lane.lane.checkpoint == TRUTH
        seen = measure_clip(frames, lane.record.track if takes_actions else None)
        state.numbers = {
            "control": _rounded((seen["control"] or {}).get("share")),
            "likeness": _rounded(seen.get("likeness")),
            "lag": _rounded(seen.get("lag")),
            "sharpness at the end": _rounded(np.mean(seen["sharpness"][-8:])),
            "colour shift at the end": _rounded(np.mean(seen["colour"][-8:])),
        }
        state.control_of = (seen["control"] or {}).get("of_what", "")
        state.curves = {name: [round(float(value), 4) for value in seen[name]] for name in ("sharpness", "colour")}
        if truth is not None and truth is not frames and truth.shape == frames.shape:
            state.numbers |= {
                "PSNR to the truth": _rounded(np.mean(psnr_db(frames[1:], truth[1:]))),
                "SSIM to the truth": _rounded(np.mean(ssim(frames[1:], truth[1:]))),
                "GMSD to the truth": _rounded(np.mean(gmsd(frames[1:], truth[1:]))),
            }
        state.status, state.progress, state.message = "done", 1.0, ""

    def _tile(self, lanes: list[_Lane], folder: Path, state: CompareState) -> np.ndarray | None:
        """One clip of all lanes that are done, uint8 [F, H, W, 3]: what the page plays, and what a visitor keeps."""
        clips = [lane.frames if lane.state.status == "done" else None for lane in lanes]
        if not any(clip is not None for clip in clips):
            return None
        labels = [f"{lane.state.letter}  {lane.state.label}" for lane in lanes]
        tiled, layout = tile_clips(clips, labels)
        number = sum(clip is not None for clip in clips)
        video = folder / f"wanact-compare-{number}.mp4"
        write_mp4(tiled, video, fps=state.fps)
        state.tiled = FileData(path=str(video), orig_name="wanact-compare.mp4")
        state.layout = _where(layout, clips)
        state.num_frames = len(tiled)
        return tiled

    def _animate(self, tiled: np.ndarray, folder: Path, state: CompareState) -> None:
        """The same for places that take no video."""
        try:
            for form in ("gif", "webp"):
                path = folder / f"wanact-compare.{form}"
                write_animation(tiled, path, state.fps)
                setattr(state, form, FileData(path=str(path), orig_name=path.name))
        except OSError:
            logger.exception("a comparison could not be written as a GIF or WebP")

    def _sign_off(self, comparison: Comparison, folder: Path, state: CompareState) -> None:
        record = folder / "wanact-comparison.json"
        write_text(record, comparison.to_json())
        state.record = FileData(path=str(record), orig_name=record.name)
        sample = self.sample_of(comparison.flight)
        try:
            if sample is None:
                raise ComparisonError("A link cannot carry a picture of yours; the JSON can.")
            state.link = Link.of(comparison, sample.id).encode()
        except ComparisonError as error:
            state.link_problem = sentence(error)
        failed = [lane.letter for lane in state.lanes if lane.status == "failed"]
        state.first_frame = ""
        state.status = "failed" if len(failed) == len(state.lanes) else "done"
        state.message = "No lane could be flown." if state.status == "failed" else ""

    # ---- opening -------------------------------------------------------------------------------------------

    def open(self, message: Any) -> dict[str, Any]:
        """What a file or a link sets on the page.

        Args:
            message: {"text": a comparison, flight records or one flight record as JSON} or {"link": text}.

        Returns:
            first_frame, prompt, negative_prompt, seed, steps, guidance, plan, lanes (None keeps those on the page) and
            sample.

        Raises:
            gr.Error: in one sentence.
        """
        try:
            text, link = (message.get("text"), message.get("link")) if isinstance(message, dict) else (None, None)
            return self._open_link(link) if isinstance(link, str) else self._open_text(text)
        except UserError as error:
            raise gr.Error(sentence(error), title="It was not opened", print_exception=False) from error

    def _open_text(self, text: Any) -> dict[str, Any]:
        if not isinstance(text, str):
            raise ComparisonError("The file is no comparison and no flight.")
        several = is_comparison(text)
        comparison = Comparison.parse(text) if several else None
        flight = comparison.flight if comparison else FlightRecord.parse(text)
        self.flights.budget.check_record(flight)
        sample = self.sample_of(flight)
        return {
            "first_frame": flight.image,
            "sample": sample.id if sample else None,
            "prompt": flight.prompt,
            "negative_prompt": flight.negative_prompt,
            "seed": flight.seed,
            "steps": flight.num_inference_steps,
            "guidance": max(1.0, flight.guidance_scale),
            "plan": {"flight": json.loads(flight.to_json()), "own_picture": True},
            "lanes": [lane.to_dict() for lane in comparison.lanes] if comparison else None,
            "flown_with": (flight.checkpoint or {}).get("id"),
        }

    def _open_link(self, text: str) -> dict[str, Any]:
        link = Link.decode(text)
        link.track.require_length(self.engine.defaults["num_frames"])
        sample = next((sample for sample in self.samples if sample.id == link.sample), None)
        if sample is None:
            raise ComparisonError(f"The link begins with the sample “{link.sample[:40]}”, which is not here.")
        return {
            "first_frame": str(sample.path),
            "sample": sample.id,
            "prompt": link.prompt,
            "negative_prompt": link.negative_prompt,
            "seed": link.seed,
            "steps": link.num_inference_steps,
            "guidance": link.guidance_scale,
            "plan": link.track.to_list(),
            "lanes": [lane.to_dict() for lane in link.lanes],
        }


def compare_seconds(one: Callable[[ClipForm], int]) -> Callable[[CompareForm], int]:
    """How long flying the lanes may take, from what a visitor sends and the seconds of one clip."""

    def seconds(form: CompareForm) -> int:
        count = len(form.lanes) if isinstance(form.lanes, list) else 2
        return min(LONGEST, max(1, min(count, MAX_LANES)) * one(form))

    return seconds


def _truth_of(lane: _Lane, truths: list[_Lane]) -> np.ndarray | None:
    """What the simulator saw on a lane's track; a pilot flies another than the plan."""
    assert lane.record is not None
    track = lane.record.track
    return next((one.frames for one in truths if one.record is not None and one.record.track == track), None)


def _picture_url(picture: Image.Image) -> str:
    """A small copy of a picture as a data URL."""
    small = picture.convert("RGB")
    small.thumbnail((480, 480))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _where(layout: TileLayout, clips: list[np.ndarray | None]) -> dict[str, Any]:
    return layout.to_dict() | {"shown": [clip is not None for clip in clips]}


def _light(state: CompareState) -> CompareState:
    """The state as it is now, so that what is sent does not change on the way."""
    return state.model_copy(deep=True)


def _fail(message: str) -> Iterator[Any]:
    yield CompareState(status="failed", message=message)
    raise gr.Error(message, title="No comparison this time", print_exception=False, duration=8)


def _rounded(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
