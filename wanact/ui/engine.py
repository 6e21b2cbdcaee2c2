"""One model for all visitors: which checkpoints there are, and drawing one flight at a time as a stream of events."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wanact import shapes
from wanact.actions import ActionTrack
from wanact.checkpoints import CheckpointError, CheckpointInfo, RunInfo, list_runs
from wanact.pipeline import Cancelled, Progress

BASE = "base"


@dataclass(frozen=True)
class CheckpointChoice:
    """Something to fly with: the base model, a checkpoint, or a run's exported weights.

    Attributes:
        id: what the page sends back, made from names in the runs folder, never a path.
        label: run, step and loss, for people.
        path: directory to load, None for the base model.
        saved_at: local time, ISO 8601, "" if unknown.
    """

    id: str
    label: str
    path: Path | None = None
    run: str | None = None
    step: int | None = None
    loss: float | None = None
    is_best: bool = False
    saved_at: str = ""


BASE_CHOICE = CheckpointChoice(BASE, "base (no actions)")


@dataclass(frozen=True)
class Flight:
    """A checked request: everything that the clip depends on."""

    image: Image.Image
    prompt: str
    negative_prompt: str
    track: ActionTrack
    seed: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    checkpoint: CheckpointChoice = BASE_CHOICE


@dataclass(frozen=True)
class Denoised:
    """A denoising step is done. `preview` is a small uint8 clip [T, h, w, 3]."""

    step: int
    total: int
    preview: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """The first `num_frames` frames are decoded."""

    num_frames: int


@dataclass(frozen=True)
class Waiting:
    """Nothing new; sent twice a second, so that whoever listens can show the time and be stopped."""


class Engine:
    """The pipeline behind the page. All visitors share its weights and nothing else.

    Args:
        pipe: a WanActPipeline.
        runs_root: folder of runs; it may be missing, and is read anew each time.
    """

    def __init__(self, pipe: Any, runs_root: Path):
        self.pipe = pipe
        self.runs_root = Path(runs_root)
        self.defaults: dict[str, Any] = pipe.defaults
        self.name = str(pipe.components.metadata.get("name") or pipe.components.path.name)
        self.num_actions = shapes.num_actions(self.defaults["num_frames"])

    def fingerprint(self) -> str:
        """Of the base model's weights, and what is laid on them for good."""
        return self.pipe.fingerprint()

    def checkpoints(self) -> tuple[list[CheckpointChoice], int]:
        """What can be flown now, newest first in each run, the base model last; and how many are damaged."""
        choices, damaged = [], 0
        for run in list_runs(self.runs_root):
            usable = [info for info in run.checkpoints if info.problem is None]
            damaged += len(run.checkpoints) - len(usable)
            choices += [_choice(run, info) for info in reversed(usable)]
            if not run.checkpoints:
                choices.append(CheckpointChoice(f"{run.name}/exported", run.name, run.path, run.name))
        return [*choices, BASE_CHOICE], damaged

    def default_checkpoint(self) -> str:
        """The model directory's own recommendation, else the best checkpoint of the run that was saved to last."""
        choices, _ = self.checkpoints()
        wanted = self.defaults.get("checkpoint")
        if any(choice.id == wanted for choice in choices):
            return wanted
        newest = max(choices, key=lambda choice: choice.saved_at)
        of_its_run = [choice for choice in choices if choice.run == newest.run]
        return next((choice.id for choice in of_its_run if choice.is_best), newest.id)

    def find(self, checkpoint_id: str | None) -> CheckpointChoice:
        """The choice with this id.

        Raises:
            CheckpointError: if it is not, or no longer, on disk.
        """
        choices, _ = self.checkpoints()
        for choice in choices:
            if choice.id == checkpoint_id:
                return choice
        raise CheckpointError(
            f"the checkpoint “{str(checkpoint_id)[:80]}” is not there any more; choose another one in the list."
        )

    def fly(self, flight: Flight) -> Iterator[Denoised | Decoded | Waiting | np.ndarray]:
        """Draw a clip. The last event is its frames, uint8 [F, H, W, 3].

        Closing the iterator cancels the flight after the denoising step in hand.

        Raises:
            CheckpointError: if the checkpoint cannot be loaded.
            ValueError: if the pipeline refuses the request.
        """
        events: queue.SimpleQueue = queue.SimpleQueue()
        abandoned = threading.Event()
        clip: Future = Future()

        def work() -> None:
            try:
                clip.set_result(self._draw(flight, events, abandoned))
            except BaseException as error:
                clip.set_exception(error)
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
            abandoned.set()

    def _draw(self, flight: Flight, events: queue.SimpleQueue, abandoned: threading.Event) -> np.ndarray:
        def on_step(progress: Progress) -> None:
            if abandoned.is_set():
                raise Cancelled("the visitor cancelled the flight")
            preview = self.pipe.preview(progress.latents_preview)
            events.put(Denoised(progress.step, progress.total, preview))

        num_decoded = 0

        def on_frames(frames: np.ndarray) -> None:
            nonlocal num_decoded
            if abandoned.is_set():
                raise Cancelled("the visitor cancelled the flight")
            num_decoded += len(frames)
            events.put(Decoded(num_decoded))

        with self.pipe.lock:  # loading a checkpoint and flying it belong together
            if abandoned.is_set():
                raise Cancelled("the visitor cancelled the flight before it began")
            self._load(flight.checkpoint)
            return self.pipe(
                flight.prompt,
                flight.image,
                flight.track if self.pipe.controller is not None else None,
                negative_prompt=flight.negative_prompt,
                height=flight.height,
                width=flight.width,
                num_inference_steps=flight.num_inference_steps,
                guidance_scale=flight.guidance_scale,
                seed=flight.seed,
                on_step=on_step,
                on_frames=on_frames,
            )

    def _load(self, choice: CheckpointChoice) -> None:
        try:
            self.pipe.load_controller(choice.path)
        except (OSError, ValueError) as error:
            reason = str(error).replace(f"{self.runs_root}{os.sep}", "")  # a visitor need not know where runs lie
            raise CheckpointError(f"the checkpoint “{choice.label}” cannot be loaded: {reason}") from error


def _choice(run: RunInfo, info: CheckpointInfo) -> CheckpointChoice:
    parts = [run.name, f"step {info.step:,}"]
    if info.loss is not None:
        parts.append(f"loss {info.loss:.4f}")
    parts += [word for word, holds in (("best", info.is_best), ("latest", info.is_latest)) if holds]
    return CheckpointChoice(
        id=f"{run.name}/{info.path.name}",
        label=" · ".join(parts),
        path=info.path,
        run=run.name,
        step=info.step,
        loss=info.loss,
        is_best=info.is_best,
        saved_at=info.saved_at,
    )
