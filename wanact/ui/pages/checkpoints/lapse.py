"""The time-lapse: one flight through every kept step of a run, as a film and a frame of each."""

from __future__ import annotations

import base64
import io
import logging
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gradio.data_classes import FileData, GradioModel
from PIL import Image

from wanact.actions import PRESETS, ActionTrack
from wanact.errors import UserError
from wanact.files import CheckpointError
from wanact.flying.pipeline import Cancelled
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError
from wanact.media.tiles import tile_clips
from wanact.media.video import fit_image, open_image, write_mp4
from wanact.runs.index import Entry, Run
from wanact.ui.budget import Budget
from wanact.ui.components import Component
from wanact.ui.engine import Engine
from wanact.ui.pages.fly.desk import sentence
from wanact.ui.samples import load_samples

MAX_STEPS = 12  # of a run; more are thinned out evenly
NUM_ACTIONS = 8  # of the flight: two seconds of nano
PLAN = "Fly-through"
THUMBNAIL_HEIGHT = 48
_KEPT = 8  # films that are kept in memory, for whoever asks next

logger = logging.getLogger(__name__)


class LapseState(GradioModel):
    """What the page shows of a time-lapse: its status is idle, working, done, failed or cancelled.

    `parts` has for each step {id, step, label, first, picture, width, height}: the film's frame at which it begins, and
    the last frame that the step drew, as a data URL.
    """

    status: str = "idle"
    message: str = ""
    progress: float = 0.0
    run: str = ""
    video: FileData | None = None
    parts: list[dict[str, Any]] = []
    fps: float = 16.0
    left_out: int = 0


class TimeLapse(Component):
    """Carries what the page asks of a time-lapse and what becomes of it; the list of checkpoints shows it."""

    data_model = LapseState
    schema = {"type": "object", "description": "run, film and its parts"}
    example: Any = {"status": "idle"}

    def __init__(self, **kwargs: Any):
        super().__init__("lapse", LapseState(), label="Time-lapse", **kwargs)

    def preprocess(self, payload: Any) -> str | None:
        """The run whose steps are flown."""
        return payload.run[:200] if isinstance(payload, LapseState) else None


@dataclass(frozen=True)
class _Film:
    """A film of a run's steps, and what it was drawn with: while that stands, it is not drawn again."""

    key: tuple
    mp4: bytes
    parts: list[dict[str, Any]]
    fps: float
    left_out: int


class LapseDesk:
    """Flies one flight with each kept step of a run. What it drew last is kept in memory, for all visitors.

    Args:
        engine: the shared model.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.budget = Budget.of(engine.defaults)
        self._lock = threading.Lock()
        self._films: dict[str, _Film] = {}

    def film(self, run: str | None) -> Iterator[LapseState]:
        """Yields what the page shows meanwhile, last the film."""
        state = LapseState(status="working", run=run or "", message="Waiting for the model…")
        try:
            yield state
            found = self._find(run)
            flight = self._flight()
            steps, left_out = self._choose(found, flight)
            key = _key_of(steps)
            film = self._films.get(found.name)
            if film is None or film.key != key:
                film = yield from self._draw(state, flight, steps, key, left_out)
                self._keep(found.name, film)
            with tempfile.TemporaryDirectory(prefix="wanact-") as folder:
                yield _shown(film, found.name, Path(folder))
        except Cancelled:
            yield LapseState(status="cancelled", run=state.run, message="Cancelled.")
        except UserError as error:
            yield LapseState(status="failed", run=state.run, message=sentence(error))
        except Exception:
            logger.exception("a time-lapse failed")
            words = "Something went wrong while the steps were flown; nothing was changed."
            yield LapseState(status="failed", run=state.run, message=words)

    def recall(self, run: Run) -> dict[str, Any] | None:
        """What was drawn of a run for whoever asked last: {parts, fps, left_out}; None if a step is new since."""
        film = self._films.get(run.name)
        if film is None:
            return None
        try:
            steps, _ = self._choose(run, self._flight())
        except UserError:
            return None
        if film.key != _key_of(steps):
            return None
        return {"parts": film.parts, "fps": film.fps, "left_out": film.left_out}

    def _find(self, run: str | None) -> Run:
        found = next((one for one in self.engine.runs() if one.name == run and not one.problem), None)
        if found is None:
            raise CheckpointError(f"the run “{str(run)[:80]}” is not there any more; choose another one")
        return found

    def _flight(self) -> FlightRecord:
        """The flight that every step flies: the first sample frame, the model's own settings, seed 0."""
        samples, _ = load_samples()
        if not samples:
            raise RequestError("there is no sample frame to begin a time-lapse with")
        defaults = self.engine.defaults
        image = fit_image(open_image(samples[0].path), defaults["height"], defaults["width"])
        track: ActionTrack = PRESETS[PLAN](min(NUM_ACTIONS, self.engine.num_actions))
        return FlightRecord.by_defaults(defaults, image, samples[0].prompt, track)

    def _choose(self, run: Run, flight: FlightRecord) -> tuple[list[Entry], int]:
        """The steps that are flown, oldest first, and how many are left out: as many as one request may ask."""
        steps = sorted((e for e in run.entries if e.flyable and e.step is not None), key=lambda e: e.step or 0)
        if len(steps) < 2:
            raise RequestError(f"a time-lapse needs two steps that can be flown; {run.name} has {len(steps)}")
        for count in range(min(MAX_STEPS, len(steps)), 1, -1):
            if self._affords(flight, count):
                chosen = np.linspace(0, len(steps) - 1, count).round().astype(int)
                return [steps[index] for index in chosen], len(steps) - count
        raise RequestError("a time-lapse takes too long with a model of this size; compare two steps instead")

    def _affords(self, flight: FlightRecord, count: int) -> bool:
        try:
            self.budget.check_lanes(flight, count)
        except RequestError:
            return False
        return True

    def _draw(
        self, state: LapseState, flight: FlightRecord, steps: list[Entry], key: tuple, left_out: int
    ) -> Iterator[LapseState]:
        clips, parts, first = [], [], 0
        for number, entry in enumerate(steps):
            state.message = f"Step {entry.step:,}: {number + 1} of {len(steps)}"
            state.progress, state.parts = number / len(steps), list(parts)
            yield state.model_copy(deep=True)
            frames = yield from self._fly_step(state, flight, entry)
            label = f"{entry.run} · step {entry.step:,}"
            tiled, _ = tile_clips([frames], [label])
            parts.append({"id": entry.id, "step": entry.step, "label": label, "first": first, **_thumbnail(frames[-1])})
            clips.append(tiled)
            first += len(tiled)
        with tempfile.TemporaryDirectory(prefix="wanact-") as folder:
            path = Path(folder) / "lapse.mp4"
            write_mp4(np.concatenate(clips), path, fps=flight.fps)
            return _Film(key, path.read_bytes(), parts, flight.fps, left_out)

    def _fly_step(self, state: LapseState, flight: FlightRecord, entry: Entry) -> Iterator[LapseState]:
        record = replace(flight, checkpoint=entry.to_json())
        events = self.engine.replay(record, entry)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, np.ndarray):
                    return event
                yield state.model_copy(deep=True)  # so that whoever listens can be gone
        raise Cancelled("the flight ended without frames")

    def _keep(self, run: str, film: _Film) -> None:
        with self._lock:
            self._films.pop(run, None)
            while len(self._films) >= _KEPT:
                self._films.pop(next(iter(self._films)))
            self._films[run] = film


def _key_of(steps: Sequence[Entry]) -> tuple:
    return tuple((entry.id, entry.stamp) for entry in steps)


def lapse_seconds(_run: Any) -> int:
    """How long a time-lapse may take on a GPU that is lent."""
    return 180


def _shown(film: _Film, run: str, folder: Path) -> LapseState:
    path = folder / "wanact-time-lapse.mp4"
    path.write_bytes(film.mp4)
    video = FileData(path=str(path), orig_name=path.name)
    return LapseState(
        status="done", progress=1.0, run=run, video=video, parts=film.parts, fps=film.fps, left_out=film.left_out
    )


def _thumbnail(frame: np.ndarray) -> dict[str, Any]:
    width = max(1, round(frame.shape[1] * THUMBNAIL_HEIGHT / frame.shape[0]))
    picture = Image.fromarray(frame).resize((2 * width, 2 * THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"picture": url, "width": width, "height": THUMBNAIL_HEIGHT}
