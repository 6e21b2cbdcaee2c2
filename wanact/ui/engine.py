"""One model for all visitors: which checkpoints there are, and drawing one flight at a time as a stream of events."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wanact import shapes
from wanact.actions import ActionTrack
from wanact.control_card.kept import KeptCards, best_step
from wanact.data.sets import DataSet
from wanact.errors import in_words
from wanact.files import CheckpointError
from wanact.flying.autopilot import HAND_WRITTEN, WRITTEN, Pilot, tasks_of, trained
from wanact.flying.pipeline import Cancelled, OnFrames, OnStep, Progress
from wanact.flying.placement import free_memory, release_memory
from wanact.flying.prompts import negative_prompts
from wanact.flying.record import FlightRecord, image_sha256
from wanact.flying.replay import replay
from wanact.flying.request import ClipRequest
from wanact.flying.rollout import causal_settings, says_causal
from wanact.flying.turns import Place
from wanact.runs.index import MAX_UNASKED_BYTES, Entry, Run, RunIndex
from wanact.runs.ref import BASE, BASE_MODEL, CheckpointRef
from wanact.runs.store import TRANSFORMER
from wanact.ui import visitor
from wanact.ui.edits import Edits
from wanact.ui.masks import Masks
from wanact.ui.shares import Shares
from wanact.ui.uploads import PREFIX, Uploads

TOGETHER = 3  # clips and comparisons that are drawn in turns, if there is memory for them
MAX_FILMED = 64  # clips of data sets whose flights are known to be filmed
MOST_PILOTS = 40  # in a list to choose from
ROOM_SHARE = 0.8  # of the memory that is free when the page opens, for clips that are drawn side by side


@dataclass(frozen=True)
class Flight(ClipRequest):
    """Everything that a visitor's clip depends on: the request, and what flies it."""

    checkpoint: CheckpointRef = field(default=BASE_MODEL, kw_only=True)


@dataclass(frozen=True)
class Denoised:
    """A denoising step is done. `preview` is a small uint8 clip [T, h, w, 3]; None where frames are shown meanwhile."""

    step: int
    total: int
    preview: np.ndarray | None


@dataclass(frozen=True)
class Decoded:
    """The first `num_frames` frames are decoded; the newest of them are `frames`, uint8 [n, H, W, 3].

    `while_drawn`: those that follow have not been drawn yet.
    """

    num_frames: int
    frames: np.ndarray
    while_drawn: bool


@dataclass(frozen=True)
class Waiting:
    """Nothing new; sent twice a second, so that whoever listens can show the time and be stopped."""


class Engine:
    """The pipeline behind the page. All visitors share its weights and nothing else.

    Args:
        pipe: a WanActPipeline.
        runs: folder of runs, or several; they may be missing, and what has changed in them is read anew each time.
        edits: who may write notes, stars and cards into the runs; nobody if not given.
        shares: the flights that visitors have shared; None for a folder that goes with the process.
        data: data sets that the page shows.
        truth: what the simulator sees on a track from a sample frame, (sample, track, height, width) -> uint8
            [F, H, W, 3]; None where there is no simulator.
    """

    def __init__(
        self,
        pipe: Any,
        runs: str | os.PathLike | Sequence[str | os.PathLike],
        edits: Edits | None = None,
        truth: Callable[[Any, ActionTrack, int, int], np.ndarray] | None = None,
        shares: Shares | None = None,
        data: Sequence[DataSet] = (),
    ):
        self._shares = shares
        self.pipe = pipe
        self.truth = truth
        self.data = tuple(data)
        self._filmed: dict[str, Callable[[FlightRecord], np.ndarray | None]] = {}
        self.index = RunIndex([runs] if isinstance(runs, str | os.PathLike) else runs)
        self.masks = Masks(self.index)
        self.cards = KeptCards()
        self.edits = edits or Edits()
        config = pipe.components.transformer.config
        self.uploads = Uploads(
            config.num_attention_heads * config.attention_head_dim, config.num_layers, pipe.check_settings
        )
        self.defaults: dict[str, Any] = pipe.defaults
        self.name = str(pipe.components.metadata.get("name") or pipe.components.path.name)
        self.draws = str(pipe.components.metadata.get("draws") or "")  # what it can draw, in words for visitors
        self.draws_places = bool(self.defaults.get("text_to_video")) or pipe.components.places is not None
        self.negative_prompts = negative_prompts(config.text_dim)
        self._room = _Room(int(ROOM_SHARE * free_memory(pipe.device)))
        self.num_actions = shapes.num_actions(self.defaults["num_frames"])

    def fingerprint(self) -> str:
        """Of the base model's weights, and what is laid on them for good."""
        return self.pipe.fingerprint()

    @property
    def shares(self) -> Shares:
        """The flights that visitors have shared."""
        if self._shares is None:
            self._shares = Shares()
        return self._shares

    def keep_filmed(self, image: Image.Image, frames: Callable[[FlightRecord], np.ndarray | None]) -> None:
        """Know what was truly filmed from a first frame on, for a while; `frames` gives uint8 [F, H, W, 3], or None."""
        self._filmed[image_sha256(image)] = frames
        while len(self._filmed) > MAX_FILMED:
            self._filmed.pop(next(iter(self._filmed)), None)

    def filmed(self, flight: FlightRecord) -> np.ndarray | None:
        """What was truly filmed on a flight, if it is one of a data set that somebody took from there."""
        frames = self._filmed.get(image_sha256(flight.image))
        return None if frames is None else frames(flight)

    def rest(self) -> None:
        """While nobody draws: give memory back that threads have left."""
        release_memory(self.pipe.device)

    def runs(self) -> list[Run]:
        """All runs, in each the checkpoint marked that is best by control, or by loss where no card was measured."""
        return [self._by_control(run) for run in self.index.runs()]

    def _by_control(self, run: Run) -> Run:
        cards = {} if run.problem else self.cards.of(run.path)
        best = best_step(cards, {entry.step for entry in run.entries if entry.flyable and entry.step is not None})
        if best is None:
            return run
        entries = [replace(entry, is_best=entry.step == best, best_by="control") for entry in run.entries]
        return replace(run, entries=entries)

    def checkpoints(self) -> tuple[list[CheckpointRef], int]:
        """What can be flown now, newest first in each run, the base model last; and how many are damaged."""
        choices, damaged = [], 0
        for run in self.runs():
            choices += [entry for entry in reversed(run.entries) if entry.flyable]
            damaged += sum(entry.state == "damaged" for entry in run.entries) + (run.problem is not None)
        return [*choices, BASE_MODEL], damaged

    def flies_live(self, config: Mapping[str, Any], path: Path | None) -> bool:
        """Whether a checkpoint is flown frame by frame: it says so, or leaves a base alone that is."""
        alone = path is None or not (path / TRANSFORMER).exists()
        return says_causal(config) or (alone and self.pipe.base_causal is not None)

    def steps_of(self, checkpoint: CheckpointRef, asked: int) -> int:
        """How many steps a clip is drawn in, or each of its latent frames by a checkpoint that flies frame by frame.

        Such a one was made for a number of its own, and keeps it unless another than the model's is asked for.
        """
        if asked != self.defaults["num_inference_steps"]:
            return asked
        try:
            if not self.flies_live(config := checkpoint.config, checkpoint.path):
                return asked
            own = causal_settings(config.get("causal"), asked) or self.pipe.base_causal
        except (CheckpointError, TypeError, ValueError):
            return asked  # what is wrong is said when it is loaded
        return asked if own is None else own.num_inference_steps

    def default_checkpoint(self) -> str:
        """The model directory's own recommendation, else the best checkpoint of the run that was saved to last."""
        choices, _ = self.checkpoints()
        wanted = self.defaults.get("checkpoint")
        if wanted in {choice.id for choice in choices}:
            return str(wanted)
        entries = [choice for choice in choices if isinstance(choice, Entry)]
        if not entries:
            return BASE
        newest = max(entries, key=lambda entry: entry.saved_at)
        return next((entry.id for entry in entries if entry.run == newest.run and entry.is_best), newest.id)

    def best_before(self, checkpoint_id: str) -> str:
        """What was best until this checkpoint of its run came; before its first one another run's best, or the base."""
        run = next((one for one in self.runs() if any(entry.id == checkpoint_id for entry in one.entries)), None)
        if run is None:
            return BASE
        step = next(entry.step for entry in run.entries if entry.id == checkpoint_id)
        earlier = [e for e in run.entries if e.flyable and e.step is not None and step is not None and e.step < step]
        best = best_step(self.cards.of(run.path), {entry.step for entry in earlier if entry.step is not None})
        if best is not None:
            return next(entry.id for entry in earlier if entry.step == best)
        if earlier:  # no card says which
            return min(earlier, key=lambda e: (e.loss is None, e.loss or 0.0, -(e.step or 0))).id
        others = [entry for one in self.runs() if one.name != run.name for entry in one.entries if entry.flyable]
        return max(others, key=lambda entry: (entry.is_best, entry.saved_at)).id if others else BASE

    def find(self, checkpoint_id: str | None) -> CheckpointRef:
        """The checkpoint with this id.

        Raises:
            CheckpointError: if it is not, or no longer, on disk.
        """
        if checkpoint_id == BASE:
            return BASE_MODEL
        if isinstance(checkpoint_id, str) and checkpoint_id.startswith(PREFIX):
            upload = self.uploads.find(checkpoint_id)
            if upload is None:
                raise CheckpointError("the uploaded checkpoint is not kept any more; upload it again")
            return CheckpointRef(upload.id, PREFIX.rstrip("/"), None, upload.path, upload.label)
        entry = self.index.find(checkpoint_id)
        if entry.is_sound and entry.is_pilot:
            raise CheckpointError(
                f"“{entry.id[:80]}” is a pilot, which flies inside a model: choose it as the autopilot on Fly"
            )
        if not entry.flyable:
            raise CheckpointError(f"the checkpoint “{entry.id[:80]}” cannot be flown: {entry.problem}")
        marked = next((one for one in self._by_control(self.index.run(entry.run)).entries if one.id == entry.id), entry)
        return replace(entry, is_best=marked.is_best, best_by=marked.best_by)

    def list_pilots(self) -> list[dict[str, Any]]:
        """Who can be put at the sticks, for lists in the browser: the best of each run first, last the written one."""
        found = [entry for run in self.index.runs() for entry in reversed(run.entries) if entry.is_pilot]
        found.sort(key=lambda entry: not entry.is_best)
        listed = [
            {"id": entry.id, "label": f"{entry.run} · step {entry.step:,}", "tasks": list(learnt)}
            for entry in found[:MOST_PILOTS]
            if entry.is_sound and (learnt := self._tasks_of(entry))
        ]
        return [*listed, {"id": WRITTEN.id, "label": WRITTEN.name, "tasks": list(WRITTEN.tasks)}]

    def pilot(self, pilot_id: str) -> Pilot:
        """The pilot of this id, its files verified.

        Raises:
            CheckpointError: if it is not there, or damaged.
        """
        if pilot_id == HAND_WRITTEN:
            return WRITTEN
        entry = self.index.verify(self.index.find(pilot_id))
        if not entry.is_sound or not entry.is_pilot:
            raise CheckpointError(f"“{entry.id[:80]}” is no pilot that can fly; choose another one")
        try:
            return trained(entry.path, entry.id, f"{entry.run} · step {entry.step:,}")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the pilot “{entry.id[:80]}” cannot fly: {self.index.plain(in_words(error))}"
            ) from error

    def _tasks_of(self, entry: Entry) -> tuple[str, ...]:
        try:
            return tasks_of(entry.path)
        except (OSError, ValueError):
            return ()

    def fly(self, flight: Flight) -> Iterator[Denoised | Decoded | Waiting | np.ndarray]:
        """Draw a clip. The last event is its frames, uint8 [F, H, W, 3].

        Closing the iterator cancels the flight after the slice in hand.

        Raises:
            CheckpointError: if the checkpoint cannot be loaded.
            ValueError: if the pipeline refuses the request.
        """

        def draw(on_step: OnStep, on_frames: OnFrames) -> np.ndarray:
            track = flight.track if self.pipe.controller is not None else None
            return self.pipe(replace(flight, track=track), on_step=on_step, on_frames=on_frames)

        request = self.pipe.check(flight)  # refused here, before it waits for the model
        yield from self._events(flight.checkpoint, draw, self.pipe.memory_for(request))

    def replay(
        self, record: FlightRecord, checkpoint: CheckpointRef
    ) -> Iterator[Denoised | Decoded | Waiting | np.ndarray]:
        """Fly a record on a checkpoint, as `fly` does; a live flight is flown latent frame by latent frame."""

        def draw(on_step: OnStep, on_frames: OnFrames) -> np.ndarray:
            return replay(self.pipe, record, on_frames, on_step=on_step)

        needed = self.pipe.memory_for(record.to_request()) if record.kind == "clip" else 0
        yield from self._events(checkpoint, draw, needed)

    def _events(
        self, checkpoint: CheckpointRef, draw: Callable[[OnStep, OnFrames], np.ndarray], needed: int
    ) -> Iterator[Denoised | Decoded | Waiting | np.ndarray]:
        """What `draw` tells while it runs on a checkpoint, in a thread of its own; last its frames.

        Args:
            needed: bytes of memory that it takes at most.
        """
        events: queue.SimpleQueue = queue.SimpleQueue()
        clip: Future = Future()
        place = self.pipe.lock.place(visitor.current())

        def on_step(progress: Progress) -> None:
            _go_on(place)
            preview = None if self.pipe.shows_while_drawn else self.pipe.preview(progress.latents_preview)
            events.put(Denoised(progress.step, progress.total, preview))

        num_frames = 0

        def on_frames(frames: np.ndarray) -> None:
            nonlocal num_frames
            _go_on(place)
            num_frames += len(frames)
            events.put(Decoded(num_frames, frames, self.pipe.shows_while_drawn))

        def work() -> None:
            try:
                with self._room.taken(needed, place.gone), place:
                    _go_on(place)
                    self.load(checkpoint)
                    frames = draw(on_step, on_frames)
                clip.set_result(frames)
            except BaseException as error:
                clip.set_exception(error)
            release_memory(self.pipe.device)
            events.put(None)

        threading.Thread(target=work, name="wanact-flight", daemon=True).start()
        try:
            while True:
                try:
                    event = events.get(timeout=0.5)
                except queue.Empty:
                    event = Waiting()
                if event is None:
                    yield clip.result()
                    return
                yield event
        finally:
            place.gone.set()

    def load(self, choice: CheckpointRef) -> None:
        """Lay a checkpoint over the base, its files verified if they are small; hold the pipeline's lock.

        Raises:
            CheckpointError: if it is damaged or does not fit; the message tells no paths.
        """
        try:
            if isinstance(choice, Entry) and choice.num_bytes <= MAX_UNASKED_BYTES:
                entry = self.index.verify(choice)
                if entry.problem is not None:
                    raise CheckpointError(entry.problem)
            self.pipe.load_controller(choice.path)
        except (OSError, ValueError) as error:
            reason = str(error)
            if choice.path is not None:  # a visitor need not know where runs lie
                for folder in (choice.path, *choice.path.parents[:3][::-1]):
                    reason = reason.replace(f"{folder}{os.sep}", "")
            raise CheckpointError(
                f"the checkpoint “{choice.label}” cannot be loaded: {self.index.plain(reason)}"
            ) from error


class _Room:
    """Memory for what is drawn side by side, first come, first served; what is alone gets all there is.

    Args:
        num_bytes: that there are.
    """

    def __init__(self, num_bytes: int):
        self.num_bytes = num_bytes
        self._taken: list[int] = []
        self._line: list[object] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, num_bytes: int, gone: threading.Event) -> Iterator[None]:
        """Wait until there is room, and hold it; Cancelled if `gone` is set before."""
        ticket = object()

        def may_enter() -> bool:
            return self._line[0] is ticket and (not self._taken or sum(self._taken) + num_bytes <= self.num_bytes)

        with self._changed:
            self._line.append(ticket)
            try:
                while not gone.is_set() and not self._changed.wait_for(may_enter, 0.5):
                    pass
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
            if gone.is_set():
                raise Cancelled("the visitor left before the flight began")
            self._taken.append(num_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(num_bytes)
                self._changed.notify_all()


def _go_on(place: Place) -> None:
    if place.gone.is_set():
        raise Cancelled("the visitor cancelled the flight")
