"""A first frame from words alone, where the model draws its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from wanact.errors import UserError
from wanact.flying.placement import Clip, gpu_seconds, size_of
from wanact.flying.request import RequestError
from wanact.runs.ref import BASE_MODEL
from wanact.ui.engine import Denoised, Engine, Flight
from wanact.ui.gpu import LONGEST, on_gpu
from wanact.ui.pages.fly.desk import read_prompt, say_what_is_cut, sentence

logger = logging.getLogger(__name__)


class Describer:
    """Draws the place that a visitor describes: one frame of the base model, which knows of no actions.

    Args:
        engine: the shared model.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.describe = on_gpu(self._describe, lambda *_: self._seconds())

    def _describe(self, prompt: Any, seed: Any) -> Iterator[tuple[Any, str]]:
        """The picture, once it is there, and a note on how far it is."""
        try:
            yield gr.skip(), "Drawing the place…"
            for event in self.engine.fly(self._request(prompt, seed)):
                if isinstance(event, np.ndarray):
                    yield Image.fromarray(event[0]), "Drawn from your words. Another seed draws another place."
                elif isinstance(event, Denoised):
                    yield gr.skip(), f"Drawing the place: step {event.step} of {event.total}"
        except UserError as error:
            yield gr.skip(), f"⚠ {sentence(error)}"
        except MemoryError:
            logger.exception("out of memory")
            yield gr.skip(), "⚠ There is not enough memory to draw a place now; try again in a minute."
        except Exception:
            logger.exception("a place could not be drawn")
            yield gr.skip(), "⚠ Something went wrong while the place was drawn; nothing else has changed, try again."

    def _request(self, prompt: Any, seed: Any) -> Flight:
        words = read_prompt(prompt)
        if not words.strip():
            raise RequestError("there are no words yet: describe a place in the prompt, and press again")
        say_what_is_cut(self.engine, words)
        return Flight(words, None, num_frames=1, seed=seed, checkpoint=BASE_MODEL)

    def _seconds(self) -> int:
        """How long a GPU is lent for it."""
        defaults = self.engine.defaults
        branches = 2 if defaults["guidance_scale"] > 1 else 1
        clip = Clip(defaults["height"], defaults["width"], 1, branches=branches)
        needed = gpu_seconds(size_of(self.engine.pipe.components), clip, defaults["num_inference_steps"])
        return max(5, min(LONGEST, needed))
