"""Fly a clip: a first frame, a prompt and an action track in, frames out."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from wanact import checkpoints, flow, shapes, video
from wanact.actions import ActionTrack
from wanact.checkpoints import CheckpointError, FlightWeights
from wanact.convert import ConvertError, convert, convert_lora
from wanact.model_dir import Components, load_components
from wanact.models import vae as vae_ops
from wanact.models.controller import WanActionController
from wanact.models.overlay import Overlay, OverlayError
from wanact.models.text import encode_prompts
from wanact.models.transformer import Actions

MAX_PROMPT_CHARACTERS = 10_000
MAX_SEED = 2**31 - 1  # as in a flight record
MAX_STEPS = 1000
MAX_GUIDANCE = 30.0
MAX_SIDE = 4096
MAX_PIXELS = 1280 * 1280
TEXT_CACHE_SIZE = 32

# Clips with frames up to this size are decoded in one pass, which takes a third less time (nano, 96x160: 1.8 s of one
# core instead of 2.8); larger ones frame by frame, whose memory does not grow with the clip.
MAX_WHOLE_DECODE_PIXELS = 256 * 256
PREVIEW_SCALE = 8


class RequestError(ValueError):
    """A clip that cannot be drawn as asked; the message is one sentence for the person who asked."""


class Cancelled(Exception):
    """Raise it from `on_step` or `on_frames` to stop a clip; it reaches the caller, and the pipeline stays usable."""


@dataclass(frozen=True)
class Progress:
    """One denoising step is done.

    Attributes:
        step: how many are done, from 1.
        total: how many there are.
        latents_preview: the model's estimate of the clean clip so far, normalised latents [1, C, T, h, w].
    """

    step: int
    total: int
    latents_preview: Tensor


@dataclass(frozen=True)
class FlownCheckpoint:
    """What lies over the base model now."""

    run: str
    step: int | None
    path: Path


@dataclass(frozen=True)
class _Request:
    """A checked request, with the model's defaults filled in."""

    prompt: str
    negative_prompt: str
    image: Image.Image
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    seed: int

    @property
    def num_latent_frames(self) -> int:
        return shapes.num_latent_frames(self.num_frames)


class WanActPipeline:
    """Draws clips with one model. One call at a time: a call waits while another holds `lock`.

    Several visitors choose different checkpoints; who loads one and flies it takes `lock` around both, so that nobody
    swaps it in between:

        with pipe.lock:
            pipe.load_controller(run)
            frames = pipe(prompt, image, track)

    Attributes:
        components: the model's parts; the transformer wears the loaded checkpoint.
        checkpoint: the checkpoint flown, None for the base.
        controller: its action controller, None for the base.
        timings: seconds that each stage of the last clip took.
        lock: held during a call, reentrant.
    """

    def __init__(self, components: Components):
        self.components = components
        self.controller: WanActionController | None = None
        self.checkpoint: FlownCheckpoint | None = None
        self.timings: dict[str, float] = {}
        self.lock = threading.RLock()
        self._magnitude_scale: list[float] = []
        self._overlay = Overlay(components.transformer)
        self._loaded: tuple | None = None
        self._text_cache: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def from_model_dir(
        cls, path: str | os.PathLike, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> WanActPipeline:
        """A pipeline on everything a model directory holds.

        Args:
            path: in any layout that `load_components` reads.
            device: where the networks go.
            dtype: of transformer and text encoder; None for float32 on a CPU and bfloat16 elsewhere.

        Raises:
            ModelDirError: if the directory cannot be used.
        """
        dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
        return cls(load_components(path, device=device, dtype=dtype))

    @property
    def path(self) -> Path:
        """The model directory."""
        return self.components.path

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of its metadata.json, the defaults complete."""
        return self.components.metadata

    @property
    def defaults(self) -> dict[str, Any]:
        """What a clip gets where a call says None."""
        return self.metadata["defaults"]

    @property
    def device(self) -> torch.device:
        return self.components.transformer.device

    def load_controller(self, run_or_checkpoint: str | os.PathLike | None) -> None:
        """Swap the action controller, and LoRA or full weights if the run trained them; the base stays loaded.

        Args:
            run_or_checkpoint: a run (its newest checkpoint), a checkpoint, or None for the base, which takes no
                actions. What is loaded already and has not changed on disk is not loaded again.

        Raises:
            CheckpointError: if it is missing, damaged, or made for another model. The pipeline then flies what it
                flew before, or the base if weights of the transformer turn out not to fit.
        """
        with self.lock:
            if run_or_checkpoint is None:
                self._overlay.remove()
                self.controller, self.checkpoint, self._loaded = None, None, None
                return
            folder = checkpoints.resolve(run_or_checkpoint)
            stamp = (folder.resolve(), *_file_stamps(folder))
            if stamp == self._loaded:
                return
            weights = checkpoints.load_flight_weights(folder)
            controller, scale = self._build_controller(weights, folder)
            self.load_controller(None)
            try:
                replaced = convert("transformer", weights.transformer or {}, partial=True)
                self._overlay.apply(replaced, convert_lora(weights.lora) if weights.lora else None)
            except (OverlayError, ConvertError) as error:
                raise CheckpointError(f"{folder} was made for another base model: {error}") from error
            self.controller, self._magnitude_scale = controller, scale
            self.checkpoint = FlownCheckpoint(weights.run, weights.step, folder)
            self._loaded = stamp

    def __call__(
        self,
        prompt: str,
        image: Image.Image | str | os.PathLike | bytes,
        track: ActionTrack | None = None,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        on_step: Callable[[Progress], None] | None = None,
        fit: Literal["crop", "pad"] = "crop",
        on_frames: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Draw one clip. The same arguments give the same clip.

        Args:
            prompt: what is seen; up to 10,000 characters, of which the text encoder reads the first tokens.
            image: the first frame, of any size and mode.
            track: the actions, one for each latent frame after the first; None flies without a controller.
            negative_prompt: what guidance leads away from.
            height, width: in pixels, multiples of 32.
            num_frames: in pixels, 4k+1.
            num_inference_steps: denoising steps.
            guidance_scale: classifier-free guidance; 1 is none, and takes half the time. Actions reach both branches.
            seed: 0 to 2**31 - 1.
            on_step: called after every step; may raise `Cancelled`.
            fit: whether the image is cropped or padded to the clip's shape.
            on_frames: called with frames as they are decoded, uint8 [n, H, W, 3]; may raise `Cancelled`.

        Returns:
            Frames, uint8 [F, H, W, 3].

        Raises:
            RequestError, ImageError, ActionError: if an argument cannot be used; nothing has been computed then.
            Cancelled: if a callback did.
        """
        request = self._check(
            prompt, negative_prompt, image, height, width, num_frames, num_inference_steps, guidance_scale, seed, fit
        )
        if track is not None:
            track.require_length(request.num_frames)
        with self.lock, torch.no_grad():
            self.timings = {}
            actions = self._model_actions(track)
            with self._timed("text"):
                context = self._encode_text(request)
            with self._timed("encode"):
                first_latent = self.encode_image(request.image)
            with self._timed("denoise"):
                latents = self._denoise(request, context, first_latent, actions, on_step)
            with self._timed("decode"):
                return self.decode(latents, on_frames)

    def preview(self, latents: Tensor, scale: int = PREVIEW_SCALE) -> np.ndarray:
        """Latents as small pictures, for a look while a clip is being drawn.

        Args:
            latents: normalised, [1, C, T, h, w].
            scale: pixels that a latent becomes.

        Returns:
            uint8 [T, h*scale, w*scale, 3], by the linear map `latent_rgb` of the model's metadata; grey without one.
        """
        latents = latents[0].float().cpu()
        rgb = self.metadata.get("latent_rgb")
        if rgb is None:
            frames = latents.mean(dim=0, keepdim=True).expand(3, -1, -1, -1)
        else:
            weight, bias = torch.tensor(rgb["weight"]), torch.tensor(rgb["bias"])
            frames = torch.einsum("cthw,cr->rthw", latents, weight) + bias.view(3, 1, 1, 1)
        frames = torch.nn.functional.interpolate(frames, scale_factor=(scale, scale), mode="bilinear")
        return video.to_uint8(frames)

    def encode_image(self, image: Image.Image) -> Tensor:
        """A first frame, already fitted, as the clip's clean first latent frame [1, C, 1, h, w]."""
        frame = video.to_tensor(np.array(image)[None]).unsqueeze(0)  # [1, 3, 1, H, W]
        vae = self.components.vae
        return vae_ops.encode(vae, frame.to(vae.device, vae.dtype)).float()

    def decode(self, latents: Tensor, on_frames: Callable[[np.ndarray], None] | None = None) -> np.ndarray:
        """Normalised latents [1, C, T, h, w] as frames, uint8 [F, H, W, 3]; `on_frames` gets them as they come."""
        vae = self.components.vae
        latents = latents.to(vae.device, vae.dtype)
        pixels = latents.shape[3] * latents.shape[4] * shapes.SPATIAL_STRIDE**2
        whole = pixels <= MAX_WHOLE_DECODE_PIXELS
        chunks = [vae_ops.decode(vae, latents)] if whole else vae_ops.iter_decode(vae, latents)
        frames = []
        for chunk in chunks:
            frames.append(video.to_uint8(chunk[0]))
            if on_frames is not None:
                on_frames(frames[-1])
        return np.concatenate(frames)

    def forget_prompts(self) -> None:
        """Empty the cache of text embeddings, so that the next call encodes its prompts again."""
        with self.lock:
            self._text_cache.clear()

    # The stages of a call

    def _encode_text(self, request: _Request) -> Tensor:
        """Text embeddings [1, S, text_dim], or [2, S, text_dim] with the negative prompt second under guidance."""
        prompts = [request.prompt]
        if request.guidance_scale > 1:
            prompts.append(request.negative_prompt)
        return torch.cat([self._encode_prompt(prompt) for prompt in prompts])

    def _encode_prompt(self, prompt: str) -> Tensor:
        if prompt in self._text_cache:
            self._text_cache.move_to_end(prompt)
            return self._text_cache[prompt]
        parts = self.components
        length = self.defaults["max_sequence_length"]
        embeds = encode_prompts(parts.tokenizer, parts.text_encoder, [prompt], length)
        self._text_cache[prompt] = embeds.to(self.device, parts.transformer.dtype)
        if len(self._text_cache) > TEXT_CACHE_SIZE:
            self._text_cache.popitem(last=False)
        return self._text_cache[prompt]

    def _denoise(
        self,
        request: _Request,
        context: Tensor,
        first_latent: Tensor,
        actions: Actions | None,
        on_step: Callable[[Progress], None] | None,
    ) -> Tensor:
        """Noise -> latents [1, C, T, h, w], latent frame 0 kept clean under timestep 0."""
        _, C, _, h, w = first_latent.shape
        generator = torch.Generator().manual_seed(request.seed)  # on the CPU: the same noise on every device
        latents = torch.randn(1, C, request.num_latent_frames, h, w, generator=generator).to(self.device)
        scheduler = self._make_scheduler(request.num_inference_steps)
        total = len(scheduler.timesteps)
        for step, t in enumerate(scheduler.timesteps):
            latents[:, :, :1] = first_latent
            velocity = self._velocity(latents, t, context, actions, request.guidance_scale)
            noisy, latents = latents, scheduler.step(velocity, t, latents, return_dict=False)[0]
            if on_step is not None:
                clean = flow.euler_step(noisy, velocity, scheduler.sigmas[step].to(noisy.device), 0.0)
                clean[:, :, :1] = first_latent
                on_step(Progress(step + 1, total, clean))
        latents[:, :, :1] = first_latent
        return latents

    def _velocity(
        self, latents: Tensor, t: Tensor, context: Tensor, actions: Actions | None, guidance_scale: float
    ) -> Tensor:
        """Guided velocity [1, C, T, h, w], float32; both branches in one batch."""
        transformer, branches = self.components.transformer, context.shape[0]
        timestep = t.float().repeat(branches, latents.shape[2])  # [1 or 2, T]
        timestep[:, 0] = 0.0
        velocity = transformer(
            latents.to(transformer.dtype).expand(branches, -1, -1, -1, -1),
            timestep,
            context,
            return_dict=False,
            actions=actions,
            controller=self.controller,
        )[0].float()
        if branches == 1:
            return velocity
        positive, negative = velocity.split(1)
        return negative + guidance_scale * (positive - negative)

    def _make_scheduler(self, num_inference_steps: int) -> Any:
        """The model's scheduler, fresh: it remembers the steps before."""
        scheduler = type(self.components.scheduler).from_config(self.components.scheduler.config)
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            # Its default grid is not Wan's. The shift is the scheduler's own.
            grid = flow.inference_sigmas(num_inference_steps, shift=1.0)[:-1]
            scheduler.set_timesteps(sigmas=grid.tolist(), device=self.device)
        else:
            scheduler.set_timesteps(num_inference_steps, device=self.device)
        return scheduler

    def _model_actions(self, track: ActionTrack | None) -> Actions | None:
        if track is None:
            return None
        if self.controller is None:
            warnings.warn("no action controller is loaded, so the action track is ignored", stacklevel=3)
            return None
        binary, magnitude = (torch.from_numpy(x)[None] for x in track.to_model(self._magnitude_scale))
        return binary.to(self.device), magnitude.to(self.device)

    def _build_controller(self, weights: FlightWeights, folder: Path) -> tuple[WanActionController | None, list[float]]:
        """The checkpoint's action controller and its magnitude scale; None and [] if it trained only the model."""
        if weights.controller is None:
            return None, []
        transformer = self.components.transformer
        try:
            controller = WanActionController(**weights.config["action_controller_config"])
            controller.load_state_dict(convert("controller", weights.controller, partial=True))
            transformer.check_controller(controller)
            scale = [float(factor) for factor in weights.config["action_magnitude_scale"]]
            ActionTrack.zeros(1).to_model(scale)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"the action controller of {folder} cannot be used here: {reason}") from error
        return controller.to(transformer.device, transformer.dtype).eval(), scale

    # Checking a request

    def _check(
        self,
        prompt: str,
        negative_prompt: str | None,
        image: Any,
        height: int | None,
        width: int | None,
        num_frames: int | None,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        seed: int,
        fit: Literal["crop", "pad"],
    ) -> _Request:
        def default(value: Any, name: str) -> Any:
            return self.defaults[name] if value is None else value

        height = _whole("height", default(height, "height"), shapes.SIZE_MULTIPLE, MAX_SIDE)
        width = _whole("width", default(width, "width"), shapes.SIZE_MULTIPLE, MAX_SIDE)
        num_frames = _whole("num_frames", default(num_frames, "num_frames"), 1, self._max_frames())
        try:
            shapes.check_size(height, width)
            shapes.num_latent_frames(num_frames)
        except ValueError as error:
            raise RequestError(str(error)) from error
        if height * width > MAX_PIXELS:
            raise RequestError(f"{width} x {height} is larger than the {MAX_PIXELS / 1e6:.1f} megapixels of a clip")
        guidance_scale = default(guidance_scale, "guidance_scale")
        if not isinstance(guidance_scale, (int, float)) or not 1 <= guidance_scale <= MAX_GUIDANCE:
            raise RequestError(f"guidance_scale is {guidance_scale!r}, expected a number from 1 to {MAX_GUIDANCE:g}")
        steps = default(num_inference_steps, "num_inference_steps")
        return _Request(
            prompt=clean_prompt(prompt, "prompt"),
            negative_prompt=clean_prompt(default(negative_prompt, "negative_prompt"), "negative prompt"),
            image=video.fit_image(video.open_image(image), height, width, fit),
            num_frames=num_frames,
            num_inference_steps=_whole("num_inference_steps", steps, 1, MAX_STEPS),
            guidance_scale=float(guidance_scale),
            seed=_whole("seed", seed, 0, MAX_SEED),
        )

    def _max_frames(self) -> int:
        """The rotary table's latent frames, in pixel frames."""
        return shapes.num_pixel_frames(self.components.transformer.config.rope_max_seq_len)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.timings[stage] = time.perf_counter() - start


def clean_prompt(prompt: str, name: str = "prompt") -> str:
    """A prompt without control characters and lone surrogates, which no tokenizer has; line breaks become spaces.

    Raises:
        RequestError: if it is no text or longer than 10,000 characters.
    """
    if not isinstance(prompt, str):
        raise RequestError(f"the {name} is {type(prompt).__name__}, expected text")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RequestError(
            f"the {name} has {len(prompt):,} characters, at most {MAX_PROMPT_CHARACTERS:,} are taken; shorten it"
        )
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", prompt).strip()


def _whole(name: str, value: Any, smallest: int, largest: int) -> int:
    is_whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_whole or value != int(value) or not smallest <= value <= largest:
        raise RequestError(f"{name} is {value!r}, expected a whole number from {smallest} to {largest}")
    return int(value)


def _file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """What changes when a checkpoint is written anew: names, sizes and times of its files and its run's settings."""
    files = [*sorted(folder.glob("*.safetensors")), folder / checkpoints.RUN_CONFIG]
    if folder.parent.name == checkpoints.CHECKPOINTS:
        files.append(folder.parent.parent / checkpoints.RUN_CONFIG)
    return [(file.name, stat.st_size, stat.st_mtime_ns) for file in files if file.exists() for stat in [file.stat()]]
