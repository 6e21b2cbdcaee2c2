"""A flight without end: one action in, four frames out, for as long as somebody flies.

    stream = WanActStream(pipe, image, "snowy mountains at dusk")
    while flying:
        frames = stream.step([0.05, 0, 0, 0, 0, 3, 0, 0])  # forward, and to the right

A flight needs a causal checkpoint (`python -m train causal`): every latent frame is drawn from the ones before it,
whose keys and values are remembered. Latents are kept for a while, so that a flight can be rewound and forked; keys
and values are made from them again.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wanact import flow, shapes
from wanact.actions import NUM_CHANNELS, ActionError, ActionTrack
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.request import RequestError, check_request, clean_prompt
from wanact.flying.rollout import CausalRollout
from wanact.media import video
from wanact.models import vae as vae_ops
from wanact.models.transformer import PreparedText

MAX_HISTORY = 1200  # latent frames that can be rewound: five minutes at 16 frames a second
SHELF_LENGTH = 120  # latent frames whose memory is taken together
MAX_REDRAWS = 2  # of a latent frame, for actions that come while it is drawn
DECODER_MEMORY = 8  # latent frames after which a decoder that starts anew shows what it would have shown


@dataclass(frozen=True)
class Moment:
    """A latent frame of a flight, [1, C, 1, h, w], the one action that led to it, and the words it was drawn by."""

    latent: Tensor
    track: ActionTrack
    text: Tensor | PreparedText


class _Shelf:
    """Keeps latent frames side by side. As tensors of their own, among the large short-lived ones of every step, they
    would keep the heap from being used again, and take three times their size.
    """

    def __init__(self):
        self._block, self._used = torch.empty(0), 0

    def keep(self, latent: Tensor) -> Tensor:
        """A copy of a latent frame, in a block that goes when nothing on it is needed any more."""
        if self._used == len(self._block):
            self._block, self._used = latent.new_empty((SHELF_LENGTH, *latent.shape)), 0
        kept = self._block[self._used].copy_(latent)
        self._used += 1
        return kept


class _Superseded(Exception):
    """Another action is to be flown than the one that is being drawn."""


class WanActStream:
    """One flight. Several may share a pipeline: each step holds its lock and flies the checkpoint it began with.

    Args:
        pipe: with a causal checkpoint loaded.
        image: the first frame, of any size and mode.
        prompt: what is seen; the attribute may be set anew in flight.
        seed: 0 to 2**31 - 1; the same seed and actions give the same flight.
        num_inference_steps: steps that draw a latent frame; None for what the checkpoint was trained for.
        height, width: in pixels, multiples of 32.

    Attributes:
        num_frames: latent frames flown after the first.
        image: the first frame, RGB, fitted to the flight's size.
        checkpoint: what is flown.
        prompts: (n, prompt): the words since n latent frames had been flown; the first n is 0.
        taken_up: after how many latent frames the flight was taken up anew, by rewinding or as a fork. Keys and values
            made again from a part of the past may differ a little from those that were; who replays does the same.
        timings: seconds that transformer and decoder took for the newest latent frame.

    Raises:
        RequestError, ImageError: if an argument cannot be used, or the checkpoint is not causal.
    """

    def __init__(
        self,
        pipe: WanActPipeline,
        image: Image.Image | str | os.PathLike | bytes,
        prompt: str = "",
        seed: int = 0,
        *,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ):
        if pipe.causal is None or pipe.checkpoint is None:
            raise RequestError("this checkpoint draws all frames of a clip together; a live flight needs a causal one")
        self.pipe = pipe
        self._settings, self.checkpoint = pipe.causal, pipe.checkpoint
        request = check_request(
            pipe.defaults,
            1 + shapes.TEMPORAL_STRIDE,
            prompt=prompt,
            negative_prompt="",
            image=image,
            height=height,
            width=width,
            num_frames=1 + shapes.TEMPORAL_STRIDE,
            num_inference_steps=num_inference_steps or self._settings.num_inference_steps,
            guidance_scale=1.0,
            seed=seed,
            fit="crop",
        )
        self.seed = request.seed
        self.image = request.image
        self.num_frames = 0
        self.prompts: list[tuple[int, str]] = [(0, request.prompt)]
        self.taken_up: list[int] = []
        self._flown: list[np.ndarray] = []  # actions of the whole flight: 32 bytes each, for the flight's record
        self.timings: dict[str, float] = {}
        self._background: ThreadPoolExecutor | None = None
        self._decoding: Future[np.ndarray] | None = None
        self._sigmas = flow.inference_sigmas(request.num_inference_steps, pipe.defaults["flow_shift"]).tolist()
        self._past: deque[Moment] = deque(maxlen=MAX_HISTORY)
        self._shelf = _Shelf()
        self._to_remember: tuple[Tensor, ActionTrack] | None = None
        self._remembering_s = 0.0
        self._decoder_before: vae_ops.StreamingDecoder | None = None  # until the newest latent frame is remembered
        with self._flying():
            self._first = pipe.encode_image(request.image)
            self._prompt, self._text = request.prompt, pipe.prepare_prompt(request.prompt)
            self._first_text = self._text
            self._begin()

    def step(self, action: Sequence[float] | np.ndarray) -> np.ndarray:
        """Fly on by one latent frame.

        Args:
            action: magnitudes of the eight channels, [8], in the units of an action track; 0 rests.

        Returns:
            Frames, uint8 [4, H, W, 3].

        Raises:
            ActionError: if the action breaks the format.
        """
        return np.concatenate(list(self.pieces(action)))

    def pieces(
        self, action: Sequence[float] | np.ndarray, newer: Callable[[], np.ndarray | None] = lambda: None
    ) -> Iterator[np.ndarray]:
        """As `step`, but the frames come as soon as each can be shown: the first after half of the time, then three.

        The latent frame is drawn at the call. All pieces have to be taken before the flight is asked for more.

        Args:
            action: as for `step`.
            newer: asked after each step that draws; an action that it returns is flown instead, drawn anew (twice at
                most, so that hasty keys do not hold the flight up).
        """
        self._settle()
        latent = self._draw(action, newer)
        # On a GPU what a decoder remembers is large, and a latent frame is decoded before a key could come.
        self._decoder_before = self._decoder.fork() if latent.device.type == "cpu" else None
        return self._decode(latent, self._decoder)

    def withdraw(self) -> bool:
        """Take back the newest latent frame as if it had never been drawn, while nothing is known of it but `pieces`.

        For who learns of another action before a frame was shown. The pieces must not be asked for more afterwards.

        Returns:
            Whether it was taken back: not after `remember`, which the next step does too, not on a GPU, and not while
            somebody else has the pipeline.
        """
        if self._decoder_before is None or not self.pipe.lock.acquire(blocking=False):
            return False
        try:
            self._decoder, self._decoder_before = self._decoder_before, None
            self._to_remember = None
            self._past.pop()
            self._flown.pop()
            self.num_frames -= 1
        finally:
            self.pipe.lock.release()
        return True

    @property
    def has_remembered(self) -> bool:
        """Whether `remember` has nothing to do."""
        return self._to_remember is None

    def remember(self) -> None:
        """Do what the next step begins with, now: who has shown a latent frame may have time for it.

        The newest latent frame passes through the network once more, and its keys and values are kept.
        """
        if self._to_remember is not None:
            latent, track = self._to_remember
            with self._flying(), torch.inference_mode():
                start = time.perf_counter()
                self._rollout.remember(latent, self.pipe.model_actions(track))
                self._remembering_s = time.perf_counter() - start
            self._to_remember = self._decoder_before = None

    def draw(self, action: Sequence[float] | np.ndarray) -> Future[np.ndarray]:
        """As `step`, but the frames are decoded in the background, while the next latent frame may be drawn already.

        More frames a second for one latent frame more between a key and what is seen of it. On a CPU the two halves
        share the threads out, since neither grows much faster with more.
        """
        before = torch.get_num_threads()
        overlapped = self._decoding is not None and not self._decoding.done() and self._first.device.type == "cpu"
        torch.set_num_threads(max(1, before // 2) if overlapped else before)
        try:
            latent = self._draw(action)
        finally:
            torch.set_num_threads(before)
        if self._background is None:
            share = max(1, before // 2) if self._first.device.type == "cpu" else before
            self._background = ThreadPoolExecutor(1, "decoder", torch.set_num_threads, (share,))
        pieces = self._decode(latent, self._decoder)
        self._decoding = self._background.submit(lambda: np.concatenate(list(pieces)))
        return self._decoding

    def _draw(
        self, action: Sequence[float] | np.ndarray, newer: Callable[[], np.ndarray | None] = lambda: None
    ) -> Tensor:
        """The next latent frame, noted."""
        redraws = 0

        def after_step() -> None:
            nonlocal action, redraws
            if redraws < MAX_REDRAWS and (found := newer()) is not None:
                action, redraws = found, redraws + 1
                raise _Superseded

        with self._flying():
            self.remember()
            start = time.perf_counter()
            while True:
                with contextlib.suppress(_Superseded):
                    latent, track = self._drawn(action, after_step)
                    break
            self.timings["transformer"] = time.perf_counter() - start + self._remembering_s
            self._remembering_s = 0.0  # a flight that is taken up anew has nothing to remember
        self._to_remember = latent, track
        self._past.append(Moment(self._shelf.keep(latent), track, self._text))
        self._flown.append(track.magnitude[0])
        self.num_frames += 1
        return latent

    def _drawn(
        self, action: Sequence[float] | np.ndarray, after_step: Callable[[], None]
    ) -> tuple[Tensor, ActionTrack]:
        magnitude = np.asarray(action, np.float32)
        if magnitude.shape != (NUM_CHANNELS,):
            raise ActionError(f"an action has shape {magnitude.shape}, expected (8,): one magnitude for each channel")
        track = ActionTrack(magnitude[None])
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + self.num_frames)
        with torch.inference_mode():  # a twelfth faster than no_grad where calls are short
            latent = self._rollout.draw(
                self.pipe.model_actions(track),
                lambda: torch.randn(self._first.shape, generator=noise).to(self._first.device),
                after_step,
            )
        return latent, track

    def _decode(self, latent: Tensor, decoder: vae_ops.StreamingDecoder) -> Iterator[np.ndarray]:
        spent, start = 0.0, time.perf_counter()
        for piece in decoder.pieces(latent.to(decoder.vae.dtype)):
            frames = video.to_uint8(piece[0])
            spent += time.perf_counter() - start
            self.timings["decoder"] = spent
            yield frames
            start = time.perf_counter()

    def _settle(self) -> None:
        """Wait for frames that are still being decoded: the decoder takes latent frames in their order."""
        if self._decoding is not None:
            self._decoding.exception()
            self._decoding = None

    @property
    def window(self) -> int:
        """Latent frames that are remembered besides the first."""
        return self._settings.window

    @property
    def num_inference_steps(self) -> int:
        """Steps that draw a latent frame."""
        return len(self._sigmas) - 1

    @property
    def prompt(self) -> str:
        """What is seen from the next frame on."""
        return self._prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        prompt = clean_prompt(prompt, "prompt")
        with self._flying():
            self.remember()
            self._text = self._rollout.text = self.pipe.prepare_prompt(prompt)
            if self.num_frames == 0:  # nothing has been seen yet: the flight begins with these words
                self._first_text = self._text
                self._begin()
        self._prompt = prompt
        self._note_prompt()

    @property
    def sampler(self) -> str:
        """How a latent frame is drawn."""
        return self._settings.sampler

    @property
    def track(self) -> ActionTrack:
        """The actions flown, from the beginning."""
        return ActionTrack(np.concatenate([np.zeros((0, NUM_CHANNELS)), *(action[None] for action in self._flown)]))

    @property
    def newest_action(self) -> np.ndarray:
        """Magnitudes [8] of the action that led to the newest latent frame."""
        return self._flown[-1]

    @property
    def max_rewind(self) -> int:
        """Latent frames that can be taken back now."""
        whole = len(self._past) == self.num_frames  # the flight's beginning is still kept
        return len(self._past) if whole else max(0, len(self._past) - self._warm_up)

    def rewind(self, num_frames: int) -> None:
        """Take back the newest latent frames; the flight goes on as if they had never been.

        Raises:
            RequestError: if so many are not kept.
        """
        self._settle()
        if not 0 <= num_frames <= self.max_rewind:
            raise RequestError(f"{num_frames} latent frames cannot be rewound; 0 to {self.max_rewind} can")
        with self._flying():
            for _ in range(num_frames):
                self._past.pop()
            self.num_frames -= num_frames
            del self._flown[self.num_frames :]
            self._note_prompt()
            self._take_up()

    def fork(self) -> WanActStream:
        """A second flight that begins with this one's past and goes its own way."""
        self._settle()
        other = copy.copy(self)
        other.timings, other._background = {}, None
        other._past, other._shelf = self._past.copy(), _Shelf()
        other._flown, other.prompts, other.taken_up = self._flown.copy(), self.prompts.copy(), self.taken_up.copy()
        with other._flying():
            other._take_up()
        return other

    def land(self) -> None:
        """Give the memory of keys and values back. What was flown stays; a fork takes it up again."""
        self._settle()
        if self._background is not None:
            self._background.shutdown()
            self._background = None
        self._to_remember = self._decoder_before = None
        del self._rollout, self._decoder

    def snapshot(self) -> dict[str, Any]:
        """What the same flight can be flown from: seed, prompt, actions and checkpoint."""
        return {
            "seed": self.seed,
            "prompt": self._prompt,
            "track": self.track.to_list(),
            "checkpoint": str(self.checkpoint.path),
            "num_frames": self.num_frames,
        }

    @property
    def _warm_up(self) -> int:
        """Latent frames that are remembered anew when a flight is taken up again: its window, and what that saw."""
        return 2 * self._settings.window

    @contextlib.contextmanager
    def _flying(self) -> Iterator[None]:
        """The pipeline to ourselves, with our checkpoint."""
        with self.pipe.lock, torch.no_grad():
            self.pipe.load_controller(self.checkpoint.path)
            yield

    def _note_prompt(self) -> None:
        """Keep since when the words have been what they are; what was said later than now has been taken back."""
        before = [entry for entry in self.prompts[1:] if entry[0] < self.num_frames]
        kept = self.prompts[:1] + before if self.num_frames else []
        if not kept or kept[-1][1] != self._prompt:
            kept.append((self.num_frames, self._prompt))
        self.prompts = kept

    def _take_up(self) -> None:
        """Begin anew where the past ends, and keep where that was."""
        self.taken_up = [*(n for n in self.taken_up if n < self.num_frames), self.num_frames]
        self._begin()

    def _begin(self) -> None:
        """Make keys and values, and the decoder's memory, from the past."""
        pipe, self._to_remember, self._decoder_before = self.pipe, None, None
        self._rollout = CausalRollout(
            pipe.components.transformer,
            pipe.controller,
            self._first_text,
            self._first,
            self._sigmas,
            self._settings,
            prediction=pipe.prediction,
        )
        past = list(self._past)[-self._warm_up :]
        self._rollout.cache.skip(self.num_frames - len(past))
        for moment in past:
            self._rollout.text = moment.text
            self._rollout.remember(moment.latent, pipe.model_actions(moment.track))
        self._rollout.text = self._text
        self._decoder = vae_ops.StreamingDecoder(pipe.components.vae)
        for latent in [self._first, *(moment.latent for moment in past)][-DECODER_MEMORY:]:
            self._decoder.step(latent.to(self._decoder.vae.dtype))
