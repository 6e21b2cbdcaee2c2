"""Control cards on the page: those that were measured, and a quick one on request."""

from __future__ import annotations

import base64
import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import gradio as gr
import numpy as np

from wanact.control_card.card import ControlCard, card_path, keep_card, load_card, load_cards
from wanact.control_card.face import face_of, series_of
from wanact.control_card.fly import measure_card
from wanact.errors import UserError
from wanact.files import CheckpointError
from wanact.flying.pipeline import Cancelled
from wanact.flying.request import RequestError
from wanact.flying.turns import Place
from wanact.runs.evaluations import MODEL, SIMULATOR, read_evaluation, read_film
from wanact.runs.index import Entry
from wanact.runs.ref import BASE, CheckpointRef
from wanact.ui import visitor
from wanact.ui.components import Component
from wanact.ui.engine import Engine
from wanact.ui.gpu import on_gpu
from wanact.ui.pages.fly.desk import sentence

QUICK_FRAMES, QUICK_DOSES = 2, 0  # first frames of a quick card, and how many of them are flown at every magnitude
LARGEST_MODEL = 50_000_000  # parameters of a transformer whose card is measured while somebody waits

logger = logging.getLogger(__name__)


class CardPanel(Component):
    """Shows the control card of a checkpoint, and asks for one to be measured; the value is what it shows."""

    schema = {"type": "object", "description": "title, card, series, note, progress"}
    example: Any = {}

    def __init__(self, **kwargs: Any):
        super().__init__("card", {}, label="Control card", **kwargs)

    def preprocess(self, payload: Any) -> str | None:
        """The id of the checkpoint whose card is shown."""
        wanted = payload.get("id") if isinstance(payload, dict) else None
        return wanted[:200] if isinstance(wanted, str) else None


class CardDesk:
    """Looks cards up beside their runs and measures quick ones.

    Args:
        engine: the shared model. Between two clips of a card other visitors fly.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        parameters = sum(weight.numel() for weight in engine.pipe.components.transformer.parameters())
        self.can_measure = parameters <= LARGEST_MODEL

    def show(self, checkpoint_id: str | None) -> dict[str, Any]:
        """What the panel shows of a checkpoint: its card and the curves of its run, where they were measured."""
        if not checkpoint_id:
            return {}
        if (state := self._show_pilot(checkpoint_id)) is not None:
            return state
        try:
            choice = self.engine.find(checkpoint_id)
        except UserError as error:
            return {"id": checkpoint_id, "title": checkpoint_id, "note": sentence(error)}
        card = self.find_card(choice)
        state = {"id": choice.id, "title": _title(choice), "can_measure": self.can_measure and choice.id != BASE}
        if card is None:
            state["note"] = "No control card has been measured for this checkpoint." + (
                "" if self.can_measure else " For a model of this size, python -m wanact card measures one."
            )
            return state | self._series(choice)
        return state | _face(card) | self._series(choice)

    def _show_pilot(self, checkpoint_id: str) -> dict[str, Any] | None:
        """What the panel shows of a pilot: its success in each task; None if it is none."""
        try:
            entry = self.engine.index.find(checkpoint_id)
        except UserError:
            return None  # an upload, the base, or nothing
        if not entry.is_pilot:
            return None
        state: dict[str, Any] = {"id": entry.id, "title": _title(entry), "can_measure": False, "is_pilot": True}
        try:
            figures = pilot_figures(entry)
        except CheckpointError as error:
            return state | {"note": sentence(self.engine.index.plain(str(error)))}
        if not figures:
            command = f"python -m train pilot evaluate {entry.run}@{entry.step}"
            return state | {"note": f"This pilot was not measured yet; {command} does it."}
        return state | {"pilot": figures, "note": ""}

    def find_card(self, choice: CheckpointRef) -> ControlCard | None:
        """The card that lies beside the run, None if none was measured."""
        if choice.path is None:
            return None
        return load_card(choice.run_dir, choice.step)

    def measure(self, checkpoint_id: str | None, keep: bool = False) -> Iterator[dict[str, Any]]:
        """Measure a quick card; yields what the panel shows meanwhile, last the card.

        Args:
            checkpoint_id: which.
            keep: write it beside the run.
        """
        state: dict[str, Any] = {"id": checkpoint_id or ""}
        try:
            if not self.can_measure:
                raise RequestError("a model of this size takes too long here; use python -m wanact card")
            choice = self.engine.find(checkpoint_id)
            state |= {"title": _title(choice)}
            yield state | {"progress": 0.0, "note": "Waiting for the model…"}
            for event in measure_quickly(self.engine, choice):
                if isinstance(event, ControlCard):
                    kept = self._keep(choice, event, keep)
                    more = {"note": kept, "can_measure": True, "has_full": self._has_full(choice)}
                    yield state | _face(event) | more | self._series(choice)
                    return
                done, total = event
                yield state | {"progress": done / total, "note": f"Flying probe {done} of {total}"}
        except Cancelled:
            return  # nobody listens
        except UserError as error:
            yield state | {"note": sentence(error), "can_measure": self.can_measure}
        except Exception:
            logger.exception("a control card failed")
            note = "Something went wrong while the card was measured; nothing was changed."
            yield state | {"note": note, "can_measure": self.can_measure}

    def _keep(self, choice: CheckpointRef, card: ControlCard, keep: bool) -> str:
        quick = f"A quick measurement, of {card.of_what}: a rough estimate. "
        if self._has_full(choice):
            return quick + "It is not saved: the full card stays with the run."
        if not keep or not isinstance(choice, Entry):
            return quick + "It is not saved."
        try:
            is_kept = keep_card(card, card_path(choice.run_dir, choice.step))
        except OSError:
            return quick + "It could not be saved with the run."
        return quick + ("It is saved with the run." if is_kept else "The run keeps its full card.")

    def _has_full(self, choice: CheckpointRef) -> bool:
        card = self.find_card(choice)
        return card is not None and not card.is_quick

    def _series(self, choice: CheckpointRef) -> dict[str, Any]:
        if not isinstance(choice, Entry):
            return {}
        cards = load_cards(choice.run_dir)
        return {"series": series_of(cards), "step": choice.step} if len(cards) > 1 else {}


def pilot_figures(entry: Entry) -> list[dict[str, Any]]:
    """What was measured of a pilot, for the panel: where, over how many episodes, and by task each pilot's figures;
    and the film of its best flight as a data URL, None where there is none.

    Raises:
        CheckpointError: if a file of figures is damaged.
    """
    found = ((where, read_evaluation(entry.run_dir, where, entry.step)) for where in (SIMULATOR, MODEL))
    return [
        {
            "where": where,
            "episodes": evaluation.episodes,
            "worlds": evaluation.worlds,
            "film": _data_url(read_film(entry.run_dir, where, entry.step)),
            "tasks": {
                task: {name: one.model_dump(by_alias=True) for name, one in pilots.items()}
                for task, pilots in evaluation.tasks.items()
            },
        }
        for where, evaluation in found
        if evaluation is not None
    ]


def _data_url(film: bytes | None) -> str | None:
    return None if film is None else "data:video/mp4;base64," + base64.b64encode(film).decode()


def measure_quickly(engine: Engine, choice: CheckpointRef) -> Iterator[tuple[int, int] | ControlCard]:
    """Measure a card in a thread of its own: (clips done, clips in all), and last the card.

    Closing the iterator stops it after the slice in hand.

    Raises:
        CheckpointError, RequestError: if the checkpoint cannot be flown.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    result: Future = Future()
    place = engine.pipe.lock.place(visitor.current())
    somebody_waits = visitor.waits()

    def on_clip(done: int, total: int) -> None:
        events.put((done, total))

    def work() -> None:
        try:
            pipe = _TakingTurns(engine, choice, place)
            result.set_result(measure_card(pipe, first_frames=QUICK_FRAMES, dose_frames=QUICK_DOSES, on_clip=on_clip))
        except BaseException as error:
            result.set_exception(error)
        events.put(None)

    threading.Thread(target=work, name="wanact-card", daemon=True).start()
    try:
        done = (0, 1)
        while True:
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                event = done  # so that whoever listens can be gone
            if event is None:
                break
            if not somebody_waits():
                raise Cancelled("nobody waits for the card any more")
            yield (done := event)
        yield result.result()
    finally:
        place.gone.set()


class _TakingTurns:
    """A pipeline that wears one checkpoint for each clip, and lets others fly in between and between slices."""

    def __init__(self, engine: Engine, choice: CheckpointRef, place: Place):
        self.engine, self.choice, self.place = engine, choice, place
        with place:
            engine.load(choice)
            pipe = engine.pipe
            self.controller, self.checkpoint, self.causal = pipe.controller, pipe.checkpoint, pipe.causal
        self.defaults, self.metadata, self.fingerprint = pipe.defaults, pipe.metadata, engine.fingerprint

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        if self.place.gone.is_set():
            raise Cancelled("nobody waits for the card any more")
        with self.place:
            self.engine.load(self.choice)
            return self.engine.pipe(*args, **kwargs)


def _title(choice: CheckpointRef) -> str:
    step = "" if choice.step is None else f" · step {choice.step:,}"
    return f"{choice.title or choice.run}{step}"


def _face(card: ControlCard) -> dict[str, Any]:
    face = face_of(card)
    return {"note": "The control card is damaged; measure it again."} if face is None else {"card": face}


def card_seconds(_checkpoint: Any, _keep: bool = False) -> int:
    """How long a quick card may take on a GPU that is lent."""
    return 120


def build_card(engine: Engine, elem_id: str) -> tuple[CardPanel, CardDesk]:
    """A panel with its measuring, inside the current gr.Blocks; who selects a checkpoint writes to its value."""
    desk = CardDesk(engine)
    panel = CardPanel(elem_id=elem_id)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    panel.wanted(desk.show, panel, panel, **quiet)
    fly = on_gpu(desk.measure, card_seconds)

    def measure(checkpoint_id: str | None, request: gr.Request) -> Iterator[dict[str, Any]]:
        yield from fly(checkpoint_id, engine.edits.allow(request))

    panel.measure(measure, panel, panel, concurrency_id="card", concurrency_limit=1, **quiet)
    return panel, desk


def quick_card(engine: Engine, checkpoint_id: str) -> ControlCard:
    """The card of a checkpoint for a program: the one that was measured, else a quick one.

    Raises:
        gr.Error: in one sentence.
    """
    desk = CardDesk(engine)
    try:
        choice = engine.find(checkpoint_id)
        card = desk.find_card(choice)
        if card is not None:
            return card
        if not desk.can_measure:
            raise RequestError("no card has been measured, and a model of this size takes too long while one waits")
        *_, last = measure_quickly(engine, choice)
        return last  # pyright: ignore[reportReturnType]
    except (UserError, Cancelled) as error:
        raise gr.Error(sentence(error), print_exception=False) from error
