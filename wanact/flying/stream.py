"""A flight without end: one action in, four frames out, for as long as somebody flies.

    stream = WanActStream(pipe, image, "snowy mountains at dusk")
    while flying:
        frames = stream.step([0.05, 0, 0, 0, 0, 3, 0, 0])  # forward, and to the right

A flight needs a causal checkpoint (`python -m train causal`): every latent frame is drawn from the ones before it,
whose keys and values are remembered. Two things make up where a flight stands: what is committed, and at most one
latent frame that is drawn and not committed. Four verbs change it:

    prefill    make keys, values and the decoder's memory from the latents that are kept: to begin, or to take up
    draw       the next latent frame, whose frames are handed out piece by piece
    commit     remember it: its keys and values are kept, and it is history
    roll_back  take back what is only drawn, or forget everything after a latent frame

Latents are kept for a while, so that a flight can be rolled back and forked; keys and values are made from them again.

Rest is rest: after a second without a key nothing more is committed, however long it lasts, so that the view cannot
drift and time stands still for the network. The next key is answered from what was committed last.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wanact import shapes
from wanact.actions import NUM_CHANNELS, ActionError, ActionTrack
from wanact.flying.draft import Drawn
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.places import Redrawer
from wanact.flying.request import ClipRequest, RequestError, check_request, clean_prompt
from wanact.flying.rollout import CausalRollout
from wanact.media import video
from wanact.models import vae as vae_ops
from wanact.models.transformer import PreparedText
from wanact.runs.ref import BASE_MODEL
from wanact.weights.model_dir import Rest

MAX_HISTORY = 1200  # latent frames that can be rolled back: five minutes at 16 frames a second
SHELF_LENGTH = 120  # latent frames whose memory is taken together
MAX_REDRAWS = 2  # of a latent frame, for actions that come while it is drawn
DECODER_MEMORY = 8  # latent frames after which a decoder that starts anew shows what it would have shown


@dataclass(frozen=True)
class Moment:
    """A latent frame of a flight, [1, C, 1, h, w], the one action that led to it, and the words it was drawn by."""

    latent: Tensor
    track: ActionTrack
    words: str


class Flown(NamedTuple):
    """The action [8] of a latent frame, and whether it was a rest, after which nothing is remembered."""

    action: np.ndarray
    at_rest: bool


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


class _Screen:
    """What has been shown: a decoder after some latent frames, which have to come in their order.

    Args:
        decoder: at its beginning.
    """

    def __init__(self, decoder: vae_ops.StreamingDecoder):
        self._decoder = decoder
        self._before: _Screen | None = None
        self._newest = np.zeros((1, 0, 0, 3), np.uint8)  # frame, of which there is none before the first latent frame

    def after(self) -> _Screen:
        """A screen that goes on from this one and leaves it as it is; from where it stands when the first frame is
        asked for, because until then the latent frame before may still be decoded."""
        screen = _Screen(self._decoder)
        screen._before = self
        return screen

    def show(self, latent: Tensor, drawn: Drawn | None = None) -> Iterator[np.ndarray]:
        """The frames of the next latent frame: one after half of the time, then three; those of `drawn` if there is
        such. All have to be taken."""
        self._begin()
        if drawn is None:
            pieces = self._decoder.pieces(latent.to(self._decoder.vae.dtype))
        else:
            pieces = iter(drawn.frames.split([1, shapes.TEMPORAL_STRIDE - 1], dim=2))
        for piece in pieces:
            frames = video.to_uint8(piece[0])
            self._newest = frames[-1:]
            yield frames

    def stand_still(self) -> Iterator[np.ndarray]:
        """As many frames, all of them the newest."""
        self._begin()
        for count in (1, shapes.TEMPORAL_STRIDE - 1):
            yield np.repeat(self._newest, count, axis=0)

    def _begin(self) -> None:
        if self._before is not None:
            self._before._begin()
            self._newest = self._before._newest
            self._decoder, self._before = self._before._decoder.fork(), None


@dataclass(frozen=True)
class _Drawn:
    """A latent frame that is not committed.

    Attributes:
        track: the one action that led to it.
        moment: what is drawn; None where the view is held.
        at_rest: whether it is only shown: nothing of it is remembered.
        screen: shows it: the flight's own on a GPU, where what a decoder remembers is large, and a latent frame is
            decoded before a key could come.
        drawn: it and its draft, if there is one.
    """

    track: ActionTrack
    moment: Moment | None
    at_rest: bool
    screen: _Screen
    drawn: Drawn | None = None

    @property
    def flown(self) -> Flown:
        return Flown(self.track.magnitude[0], self.at_rest)


@dataclass
class _Memory:
    """What the flight flies on from: keys and values of what is committed, and the screen that shows it."""

    rollout: CausalRollout
    screen: _Screen


class _Superseded(Exception):
    """Another action is to be flown than the one that is being drawn."""


class WanActStream:
    """One flight. Several may share a pipeline: each verb holds its lock and flies the checkpoint it began with.

    Args:
        pipe: with a causal checkpoint loaded.
        image: the first frame, of any size and mode.
        prompt: what is seen; the attribute may be set anew in flight.
        seed: 0 to 2**31 - 1; the same seed and actions give the same flight.
        num_inference_steps: steps that draw a latent frame; None for what the checkpoint was trained for.
        height, width: in pixels, multiples of 32.
        rest: what is shown after a second without a key: `hold` the last view, still; `draw` what may come next,
            drawn and not committed; `commit` flies on as ever. None for what the model's metadata says.

    Attributes:
        rest: the same.
        image: the first frame, RGB, fitted to the flight's size.
        checkpoint: what is flown.
        prompts: (n, prompt): the words since n latent frames had been flown; the first n is 0.
        taken_up: after how many latent frames the flight was taken up anew, by `prefill`, `roll_back` or as a fork.
            Keys and values made again from a part of the past may differ a little from those that were; who replays
            does the same.
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
        rest: Rest | None = None,
    ):
        if pipe.causal is None:
            raise RequestError("this checkpoint draws all frames of a clip together; a live flight needs a causal one")
        self.rest: Rest = pipe.defaults["rest"] if rest is None else rest
        if self.rest not in get_args(Rest):
            raise RequestError(f"rest={str(rest)[:40]!r} must be one of {', '.join(get_args(Rest))}")
        self.pipe = pipe
        self._settings, self.checkpoint = pipe.causal, pipe.checkpoint or BASE_MODEL
        request = check_request(
            pipe.defaults,
            1 + shapes.TEMPORAL_STRIDE,
            ClipRequest(
                prompt,
                image,
                negative_prompt="",
                height=height,
                width=width,
                num_frames=1 + shapes.TEMPORAL_STRIDE,
                num_inference_steps=num_inference_steps or self._settings.num_inference_steps,
                guidance_scale=1.0,
                seed=seed,
            ),
        )
        if request.image is None:
            raise RequestError("a live flight begins with a picture; a clip without one draws it from the words")
        pipe.require_cache(request.height, request.width, self._settings.window)
        self.seed = request.seed
        self.image = request.image
        self.prompts: list[tuple[int, str]] = [(0, request.prompt)]
        self.taken_up: list[int] = []
        self.timings: dict[str, float] = {}
        self._sigmas = pipe.rollout_sigmas(request.num_inference_steps)
        self._second = max(1, round(pipe.defaults["fps"] / shapes.TEMPORAL_STRIDE))  # in latent frames
        self._flown: list[Flown] = []  # all but what is only drawn: 32 bytes each, for the flight's record
        self._past: deque[Moment] = deque(maxlen=MAX_HISTORY)  # the newest of what is committed
        self._shelf = _Shelf()
        self._drawn: _Drawn | None = None
        self._memory: _Memory | None = None  # None before the flight begins and after it has landed
        self._text: Tensor | PreparedText | None = None  # what the network reads of the words; None like the memory
        self._commit_s = 0.0
        with self._flying():
            self._first = pipe.encode_image(request.image)
            self._prompt = self._first_words = request.prompt
            self.prefill()

    def step(self, action: Sequence[float] | np.ndarray, held: bool | None = None) -> np.ndarray:
        """Fly on by one latent frame: draw it, and commit it.

        Args:
            action: magnitudes of the eight channels, [8], in the units of an action track; 0 rests.
            held: whether a latent frame without a key is a rest, for who flies a record again; None for whether a
                second has gone by without a key and with the same words.

        Returns:
            Frames, uint8 [4, H, W, 3].

        Raises:
            ActionError: if the action breaks the format.
        """
        frames = np.concatenate(list(self.draw(action, held=held)))
        self.commit()
        return frames

    def prefill(self) -> None:
        """Make keys, values and the decoder's memory from the latents that are kept, and fly on from there.

        What is drawn is committed by it. From long flights a part of the past is taken: the window, and what that saw.
        """
        pipe = self.pipe
        with self._flying():
            self._keep_drawn()
            now = self.num_frames
            self.taken_up = [*(n for n in self.taken_up if n < now), *([now] if now else [])]
            past = list(self._past)[-self._warm_up :]
            # What the network reads of the words is large and made again: it is kept of the newest words alone.
            texts = {words: pipe.prepare_prompt(words) for words in self._words_of(past)}
            first = self._first.to(pipe.device)
            rollout = CausalRollout(
                *(pipe.components.transformer, pipe.controller, texts[self._first_words], first),
                self._sigmas,
                self._settings,
                prediction=pipe.prediction,
                negative=None if self.guidance_scale == 1 else pipe.prepare_prompt(pipe.defaults["negative_prompt"]),
                drafter=pipe.drafter(),
                first_picture=pipe.picture(self.image),
                redrawer=self._redrawer(),
            )
            rollout.fly_blind(pipe.model_actions(track) for track in self._tracks_before(len(past)))
            rollout.cache.skip(self._num_committed - len(past))
            for moment in past:
                rollout.text = texts[moment.words]
                rollout.commit(moment.latent.to(pipe.device), pipe.model_actions(moment.track))
            self._text = rollout.text = texts[self._prompt]
            screen = _Screen(vae_ops.StreamingDecoder(pipe.components.vae))
            for latent in [first, *(moment.latent for moment in past)][-DECODER_MEMORY:]:
                for _ in screen.show(latent.to(pipe.device)):
                    pass
            self._memory = _Memory(rollout, screen)

    def draw(
        self,
        action: Sequence[float] | np.ndarray,
        newer: Callable[[], np.ndarray | None] = lambda: None,
        held: bool | None = None,
    ) -> Iterator[np.ndarray]:
        """Draw the next latent frame; what was drawn before is committed first, if it has not been.

        The latent frame is drawn at the call. It is decoded as the frames are asked for, which may be in another
        thread, beside `commit` and the next `draw`; all frames of a latent frame have to be taken before those of the
        next.

        Args:
            action, held: as for `step`.
            newer: asked after each step that draws; an action that it returns is flown instead, drawn anew (twice at
                most, so that hasty keys do not hold the flight up).

        Returns:
            Its frames as soon as each can be shown, uint8 [1, H, W, 3] after half of the time, then [3, H, W, 3].

        Raises:
            ActionError: if the action breaks the format.
        """
        with self.pipe.lock:
            self.commit()
            start = time.perf_counter()
            drawn = self._drawn = self._draw_newest(action, newer, held)
            self.timings["transformer"] = time.perf_counter() - start + self._commit_s
            self._commit_s = 0.0  # a flight that is taken up anew has nothing to commit
            screen, moment = drawn.screen, drawn.moment
            return self._timed(screen.stand_still() if moment is None else screen.show(moment.latent, drawn.drawn))

    @property
    def is_committed(self) -> bool:
        """Whether `commit` has nothing to do."""
        return self._drawn is None

    def commit(self) -> None:
        """Remember what was drawn: it passes through the network once more, and its keys and values are kept.

        Of a rest nothing is kept but that it was flown.

        The next `draw` begins with it; who has shown a frame may have time for it before.
        """
        if self._drawn is None:
            return
        with self.pipe.lock:
            start, moment = time.perf_counter(), self._drawn.moment
            if moment is not None and not self._drawn.at_rest:
                with self._flying(), torch.inference_mode():
                    self._now.rollout.commit(moment.latent, self.pipe.model_actions(moment.track))
            self._now.screen = self._drawn.screen
            self._keep_drawn()
            self._commit_s = time.perf_counter() - start

    def roll_back(self, latent_frame: int | None = None) -> bool:
        """Take back what came after a latent frame; the flight goes on as if it had never been.

        What is drawn and not committed goes without a trace; its frames must not be asked for afterwards. What is
        committed goes by `prefill`.

        Args:
            latent_frame: the newest that stays, `earliest` to `num_frames`. None takes back what is not committed, if
                that takes no time: not on a GPU, where the decoder has gone on, and not while somebody else has the
                pipeline.

        Returns:
            Whether anything was taken back.

        Raises:
            RequestError: if so much is not kept.
        """
        if latent_frame is None:
            return self._drop_drawn()
        if not self.earliest <= latent_frame <= self.num_frames:
            raise RequestError(
                f"the flight cannot go back to latent frame {latent_frame}; "
                f"what is kept goes from {self.earliest} to {self.num_frames}"
            )
        if latent_frame == self.num_frames:
            return False
        with self._flying():
            if latent_frame < len(self._flown) or not self._drop_drawn():
                self._drawn = None
                for _ in range(sum(not flown.at_rest for flown in self._flown[latent_frame:])):
                    self._past.pop()
                del self._flown[latent_frame:]
                self._note_prompt()
                self.prefill()
        return True

    def fork(self) -> WanActStream:
        """A second flight that begins with this one's past and goes its own way."""
        other = copy.copy(self)
        other.timings = {}
        other._past, other._shelf = self._past.copy(), _Shelf()
        other._flown, other.prompts, other.taken_up = self._flown.copy(), self.prompts.copy(), self.taken_up.copy()
        other.prefill()
        return other

    def land(self) -> None:
        """Give back what is on the device. What was flown stays, in the CPU's memory; a fork takes it up again."""
        if self._drawn is not None:
            with self.pipe.lock:
                self._keep_drawn()
        self._memory = self._text = None
        if self._first.device.type != "cpu":
            self._first, self._shelf = self._first.cpu(), _Shelf()
            kept = [replace(moment, latent=self._shelf.keep(moment.latent.cpu())) for moment in self._past]
            self._past = deque(kept, maxlen=MAX_HISTORY)

    @property
    def num_bytes(self) -> int:
        """Memory of the latents that are kept."""
        return (len(self._past) + 1) * self._first.numel() * self._first.element_size()

    def _tracks_before(self, count: int) -> Iterator[ActionTrack]:
        """One action each: those that were flown before the newest `count` latent frames that are committed."""
        committed = [number for number, flown in enumerate(self._flown) if not flown.at_rest]
        for flown in self._flown[: committed[-count] if count else len(self._flown)]:
            yield ActionTrack(flown.action[None])

    def _draw_newest(
        self, action: Sequence[float] | np.ndarray, newer: Callable[[], np.ndarray | None], held: bool | None
    ) -> _Drawn:
        """The next latent frame, by this action or a newer one."""
        redraws, screen = 0, self._now.screen

        def after_step() -> None:
            nonlocal action, redraws
            if redraws < MAX_REDRAWS and (found := newer()) is not None:
                action, redraws = found, redraws + 1
                raise _Superseded

        while True:
            track = _one_action(action)
            at_rest = self._is_rest(track, held)
            if at_rest and self.rest == "hold":
                return _Drawn(track, None, True, screen.after())
            with contextlib.suppress(_Superseded), self._flying():
                # What is committed depends on what is remembered, and not on how long that was looked at.
                number = self.num_frames if at_rest else self._num_committed
                noise = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
                with torch.inference_mode():  # a twelfth faster than no_grad where calls are short
                    latent = self._now.rollout.draw(
                        self.pipe.model_actions(track),
                        lambda noise=noise: torch.randn(self._first.shape, generator=noise).to(self.pipe.device),
                        after_step,
                    )
                screen = screen.after() if latent.device.type == "cpu" else screen
                moment = Moment(latent, track, self._prompt)
                return _Drawn(track, moment, at_rest, screen, self._now.rollout.drawn)

    def _redrawer(self) -> Redrawer | None:
        """Shows anew what wears out, as the first frame shows it for as long as its words hold."""
        is_as_begun = self._prompt == self._first_words
        return self.pipe.redrawer(self._prompt, self.seed, self.pipe.picture(self.image) if is_as_begun else None)

    def _words_of(self, past: Sequence[Moment]) -> set[str]:
        """The words of latent frames, of the first, and of what is seen from now on."""
        return {self._first_words, self._prompt, *(moment.words for moment in past)}

    def _is_rest(self, track: ActionTrack, held: bool | None) -> bool:
        """Whether the next latent frame is only shown: without a key, a second after the last one and the last words.

        The second is drawn and committed as any other: the drone comes to rest in it.
        """
        if self.rest == "commit" or track.magnitude.any():
            return False
        before = self._flown[-self._second :]
        still = len(before) == self._second and not any(flown.action.any() for flown in before)
        same_words = self.prompts[-1][0] <= self.num_frames - self._second
        return still and same_words if held is None else held

    def _timed(self, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same; what they took is the decoder's time."""
        spent, start = 0.0, time.perf_counter()
        for frames in pieces:
            spent += time.perf_counter() - start
            self.timings["decoder"] = spent
            yield frames
            start = time.perf_counter()

    def _keep_drawn(self) -> None:
        """What was drawn is history now."""
        if self._drawn is not None:
            drawn, self._drawn = self._drawn, None
            if drawn.moment is not None and not drawn.at_rest:
                self._past.append(replace(drawn.moment, latent=self._shelf.keep(drawn.moment.latent)))
            self._flown.append(drawn.flown)

    def _drop_drawn(self) -> bool:
        """What was drawn has never been, if the screen can go back and the pipeline is free."""
        if self._drawn is None or self._drawn.screen is self._now.screen:
            return False
        if not self.pipe.lock.acquire(blocking=False):
            return False
        try:
            self._drawn = None
        finally:
            self.pipe.lock.release()
        return True

    @property
    def _now(self) -> _Memory:
        if self._memory is None:
            raise RequestError("the flight has landed; a fork of it can be flown on")
        return self._memory

    @property
    def _all_flown(self) -> list[Flown]:
        return self._flown if self._drawn is None else [*self._flown, self._drawn.flown]

    @property
    def _num_committed(self) -> int:
        """Latent frames after the first that the network has seen: rests are none of them."""
        return sum(not flown.at_rest for flown in self._flown)

    @property
    def num_frames(self) -> int:
        """Latent frames flown after the first, what is only drawn included."""
        return len(self._flown) + (self._drawn is not None)

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
            self.commit()
            self._text = self._now.rollout.text = self.pipe.prepare_prompt(prompt)
            self._prompt = prompt
            self._now.rollout.redrawer = self._redrawer()
            if self.num_frames == 0:  # nothing has been seen yet: the flight begins with these words
                self._first_words = prompt
                self.prefill()
        self._note_prompt()

    @property
    def guidance_scale(self) -> float:
        """Classifier-free guidance; 1 is none."""
        return float(self._settings.guidance_scale)

    @property
    def sampler(self) -> str:
        """How a latent frame is drawn."""
        return self._settings.sampler

    @property
    def track(self) -> ActionTrack:
        """The actions flown, from the beginning."""
        return ActionTrack(np.array([flown.action for flown in self._all_flown]).reshape(-1, NUM_CHANNELS))

    @property
    def held(self) -> tuple[int, ...]:
        """The latent frames that were rests, from 1."""
        return tuple(number for number, flown in enumerate(self._all_flown, 1) if flown.at_rest)

    @property
    def newest_action(self) -> np.ndarray:
        """Magnitudes [8] of the action that led to the newest latent frame."""
        return self._all_flown[-1].action

    @property
    def earliest(self) -> int:
        """The first latent frame that can be rolled back to now."""
        committed = [number for number, flown in enumerate(self._flown, 1) if not flown.at_rest]
        if len(self._past) == len(committed):
            return 0
        return committed[-1 - max(0, len(self._past) - self._warm_up)]

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


def _one_action(action: Sequence[float] | np.ndarray) -> ActionTrack:
    magnitude = np.asarray(action, np.float32)
    if magnitude.shape != (NUM_CHANNELS,):
        raise ActionError(f"an action has shape {magnitude.shape}, expected (8,): one magnitude for each channel")
    return ActionTrack(magnitude[None])
