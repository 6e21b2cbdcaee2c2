"""Fly a clip: a first frame, a prompt and an action track in, frames out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor

from wanact import flow, shapes
from wanact.actions import NUM_CHANNELS, ActionTrack
from wanact.errors import UserError
from wanact.files import CheckpointError, number, read_model, sha256
from wanact.flying.draft import Drafter, Drawn
from wanact.flying.fastest import fastest_dtype
from wanact.flying.placement import (
    Clip,
    Placement,
    activations,
    device_memory,
    explain_shortage,
    free_memory,
    is_out_of_memory,
    release_memory,
    size_of,
)
from wanact.flying.placement_options import NOTHING_SPECIAL, FitOptions
from wanact.flying.places import REDRAW_STEPS, Places, Redrawer
from wanact.flying.prompts import Prompts, PromptStore, encoder_identity
from wanact.flying.request import ClipRequest, Picture, Request, RequestError, check_request
from wanact.flying.rollout import CausalRollout, CausalSettings, causal_settings
from wanact.flying.turns import SLICE_S, Turns
from wanact.media import video
from wanact.models import vae as vae_ops
from wanact.models.components import PARTS
from wanact.models.controller import WanActionController, controller_of
from wanact.models.kv_cache import KVCache
from wanact.models.nearness import FOLDER as NEARNESS
from wanact.models.overlay import Overlay, OverlayError
from wanact.models.transformer import Actions, PreparedText
from wanact.runs import store
from wanact.runs.ref import RUN_CONFIG, CheckpointRef, is_in_run, run_of
from wanact.runs.store import FlightWeights
from wanact.weights.convert import convert
from wanact.weights.finetuned import files_of, lay_on, said_causal
from wanact.weights.layouts import METADATA, ModelDirError
from wanact.weights.lora import convert_lora
from wanact.weights.model_dir import PLACES, Components, fingerprint, former_fingerprint, load_components
from wanact.weights.names import ConvertError

# Clips with frames up to this size are decoded in one pass, which takes a third less time (nano, 96x160: 1.8 s of one
# core instead of 2.8); larger ones frame by frame: in short slices, and in memory that does not grow with the clip.
MAX_WHOLE_DECODE_PIXELS = 192 * 192
PREVIEW_SCALE = 8
MAX_KEPT, MAX_KEPT_BYTES = 4, 2**30  # checkpoints whose weights stay at hand, for turns that change between them
BLOCKS_AHEAD = 4  # blocks of a network that are queued on a GPU
MAX_SCALE = 1e6  # of a magnitude before the controller reads it; runs have 1 and 100


class OutOfMemory(RequestError):
    """Memory ran out while a clip was drawn; the message says what would fit. The pipeline stays usable."""


class Cancelled(Exception):
    """Raise it from `on_step` or `on_frames` to stop a clip; it reaches the caller, and the pipeline stays usable."""


@dataclass(frozen=True)
class Progress:
    """One denoising step is done; with a causal checkpoint, one latent frame.

    Attributes:
        step: how many are done, from 1.
        total: how many there are.
        latents_preview: the model's estimate of the clean clip so far, normalised latents [1, C, T, h, w]; zero where
            a causal checkpoint has not come yet.
    """

    step: int
    total: int
    latents_preview: Tensor


OnStep = Callable[[Progress], None]
OnFrames = Callable[[np.ndarray], None]


class WanActPipeline:
    """Draws clips with one model. One call works at a time, and gives way to others between its slices, the blocks of
    the networks (`wanact.flying.turns`); between steps where they are compiled, between clips where they are offloaded.

    Several visitors choose different checkpoints; who loads one and flies it takes `lock` around both, so that nobody
    swaps it in between:

        with pipe.lock:
            pipe.load_controller(run)
            frames = pipe(prompt, image, track)

    Attributes:
        components: the model's parts; the transformer wears the loaded checkpoint.
        checkpoint: the checkpoint flown, None for the base.
        controller: its action controller, None for the base.
        causal: how it is flown frame by frame, None for a checkpoint that draws all frames of a clip together.
        base_causal: the same of the base, and so of checkpoints that leave its transformer as it is.
        timings: seconds that each stage of the last clip took.
        lock: held during a call, reentrant; work of others may come between, and finds its own checkpoint there.
        notes: sentences for whoever started it: which fine-tuned weights fitted, which options could not be had.

    Args:
        components: the model's parts.
        device: where they compute; None for where the transformer is.
        fit: how a large model is made to fit.
    """

    def __init__(
        self, components: Components, device: str | torch.device | None = None, fit: FitOptions = NOTHING_SPECIAL
    ):
        self.components = components
        self.placement = Placement(components, torch.device(device or components.transformer.device), fit)
        self.notes = list(self.placement.notes)
        self.controller: WanActionController | None = None
        self.checkpoint: CheckpointRef | None = None
        self.base_causal: CausalSettings | None = None
        self.causal: CausalSettings | None = None
        self.timings: dict[str, float] = {}
        self.lock = Turns()
        self._magnitude_scale: list[float] = []
        self._overlay = Overlay(components.transformer)
        self._worn: _Worn | None = None
        self._kept: OrderedDict[tuple, _Worn] = OrderedDict()
        self._queued: deque[torch.cuda.Event] = deque()
        self._cut_into_slices()
        self._fine_tuned: tuple[Path, ...] = ()
        self._prompts = self._make_prompts()

    @classmethod
    def from_model_dir(
        cls,
        path: str | os.PathLike,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | Literal["fastest"] | None = None,
        *,
        fit: FitOptions = NOTHING_SPECIAL,
        fine_tuned: Sequence[str | os.PathLike] = (),
        causal: int | None = None,
    ) -> WanActPipeline:
        """A pipeline on everything a model directory holds.

        Args:
            path: in any layout that `load_components` reads.
            device: where the networks compute.
            dtype: of transformer and text encoder; None for float32 on a CPU and bfloat16 elsewhere. `fastest` tries
                both on a CPU, see `fastest_dtype`: two processors may then differ in the last digits of a clip.
            fit: how a large model is made to fit the device.
            fine_tuned: files of weights or LoRA, or folders of a LoRA, that change the base, in this order.
            causal: window of a base that draws each latent frame from those before it; 0 for one that draws all
                frames of a clip together, None for what the fine-tuned weights or the directory's metadata say.

        Raises:
            ModelDirError: if the directory or one of the files cannot be used.
        """
        usual = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
        measured = dtype == "fastest" and usual == torch.float32
        dtype = dtype if isinstance(dtype, torch.dtype) else usual
        parts = [part for part in PARTS if part != "text_encoder" or fit.text_cache is None]
        files = tuple(file for path in fine_tuned for file in files_of(Path(path)))  # before gigabytes are loaded
        start = device if fit.offload == "none" and not fine_tuned else "cpu"
        components = load_components(path, device=start, dtype=dtype, parts=parts)
        if measured:
            clip = (components.metadata["defaults"][name] for name in ("height", "width", "num_frames"))
            dtype = fastest_dtype(components.transformer, *clip)
            if dtype != usual:
                components = load_components(path, device=start, dtype=dtype, parts=parts)
        reports = [str(lay_on(components.transformer, file)) for file in fine_tuned]
        pipe = cls(components, device, fit)
        pipe.notes[:0] = reports
        pipe._fine_tuned = files
        pipe._set_base_causal(causal, files)
        return pipe

    def _set_base_causal(self, window: int | None, files: Sequence[Path]) -> None:
        said = next(((file.name, said) for file in files if (said := said_causal(file))), None)
        if said is None and (own := self.metadata.get("causal")):
            said = METADATA, own
        try:
            settings = causal_settings(said and said[1], self.defaults["num_inference_steps"])
        except (TypeError, UserError) as error:
            assert said is not None, "nothing said is nothing wrong"
            raise ModelDirError(f"the causal settings beside {said[0]} cannot be used: {error}") from error
        if window == 0:
            settings = None
        elif window is not None:
            settings = replace(settings or CausalSettings(window, self.defaults["num_inference_steps"]), window=window)
        self.base_causal = self.causal = settings
        if settings is not None:
            why = f"as {said[0]} says" if window is None and said else "as --causal says"
            self.notes.append(f"the base is flown frame by frame, {why}, with a window of {settings.window}")

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
    def prediction(self) -> flow.Prediction:
        """What the transformer predicts, as the model's scheduler has it."""
        return flow.prediction_of(self.components.scheduler)

    @property
    def device(self) -> torch.device:
        """Where the networks compute; offloaded ones are elsewhere in between."""
        return self.placement.device

    def fingerprint(self) -> str:
        """What tells this model from others: of its directory, and of the fine-tuned weights on top."""
        return self._with_fine_tuned(fingerprint(self.path))

    def is_recorded_as(self, recorded: object) -> bool:
        """Whether a fingerprint that was recorded is this model's, also if it was before it covered the VAE."""
        return recorded in (self.fingerprint(), self._with_fine_tuned(former_fingerprint(self.path)))

    def _with_fine_tuned(self, base: str) -> str:
        if not self._fine_tuned:
            return base
        files = [sha256(file) for file in self._fine_tuned]
        return hashlib.sha256("".join([base, *files]).encode()).hexdigest()

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
                self._put_on(None)
                return
            folder = store.resolve(run_or_checkpoint)
            stamp = (folder.resolve(), *_file_stamps(folder))
            if self._worn is None or self._worn.stamp != stamp:
                self._put_on(self._kept.get(stamp) or self._read(folder, stamp))

    def _read(self, folder: Path, stamp: tuple) -> _Worn:
        """A checkpoint from its files."""
        weights = store.load_flight_weights(folder)
        controller, scale = self._build_controller(weights, folder)
        causal = self._causal_settings(weights, folder)
        try:
            replaced = convert("transformer", weights.transformer or {}, partial=True)
            lora = convert_lora(weights.lora) if weights.lora else None
        except ConvertError as error:
            raise _does_not_fit(folder, error) from error
        return _Worn(stamp, weights.ref, controller, scale, causal, replaced, lora)

    def _put_on(self, worn: _Worn | None) -> None:
        """Wear a checkpoint instead of what is worn now; None for the base."""
        if worn is self._worn:
            return
        begun = time.perf_counter()
        self.controller, self.checkpoint, self.causal = None, None, self.base_causal
        self._magnitude_scale, self._worn = [], None
        try:
            with self.placement.changing_weights():
                self._overlay.remove()
                if worn is not None:
                    self._overlay.apply(worn.replaced, worn.lora)
        except OverlayError as error:
            assert worn is not None, "the base fits"
            raise _does_not_fit(worn.stamp[0], error) from error
        if worn is None:
            return
        self.controller, self.checkpoint, self.causal = worn.controller, worn.ref, worn.causal
        self._magnitude_scale, self._worn = worn.scale, worn
        self._keep(worn)
        # Where visitors fly different checkpoints, each turn begins with this; it shall be a small part of the turn.
        self.lock.slice_s = max(SLICE_S, 4 * (time.perf_counter() - begun))

    def _keep(self, worn: _Worn) -> None:
        """Have what was read at hand, if it is small, for turns that change between checkpoints."""
        if worn.num_bytes <= MAX_KEPT_BYTES:
            self._kept[worn.stamp] = worn
            self._kept.move_to_end(worn.stamp)
        while sum(one.num_bytes for one in self._kept.values()) > MAX_KEPT_BYTES or len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    # Turns

    def _cut_into_slices(self) -> None:
        """Have every block of a network and every part of it look whose turn it is."""
        options, parts = self.placement.options, self.components
        if options.offload != "none" or options.compile or options.vae_tiling:
            return
        for network in (parts.transformer, parts.vae, parts.text_encoder, parts.places):
            for module in network.modules() if network is not None else ():
                if isinstance(module, torch.nn.ModuleList):
                    for block in module:
                        block.register_forward_pre_hook(self._before_block)
                        for part in block.children():
                            if any(weight.ndim > 1 for weight in part.parameters()):  # others take no time
                                part.register_forward_pre_hook(self._between_slices)
        if self.device.type == "cpu":  # where the attention of a large clip takes longer than a slice
            for block in parts.transformer.blocks:
                block.attn1.processor.between_pieces = self._between_slices

    def _before_block(self, *_: object) -> None:
        if self.device.type == "cuda" and self.lock.is_mine:
            self._wait_for_device()
        self._between_slices()

    def _between_slices(self, *_: object) -> None:
        """Let others have the model if it is their turn, and wear afterwards what is worn now.

        Raises:
            Cancelled: if nobody waits for what is drawn.
        """
        if not self.lock.is_mine:
            return
        if self.lock.is_for_nobody:
            raise Cancelled("nobody waits for this clip any more")
        if self.placement.options.offload != "none":
            return  # another's work would move the network away
        worn = self._worn
        if self.lock.give_way():
            self._put_on(worn)

    def _wait_for_device(self) -> None:
        """Queue a few blocks ahead and no more: whoever comes next would wait for all of them."""
        event = torch.cuda.Event()
        event.record()
        self._queued.append(event)
        if len(self._queued) > BLOCKS_AHEAD:
            self._queued.popleft().synchronize()

    @overload
    def __call__(
        self, request: ClipRequest, /, *, on_step: OnStep | None = None, on_frames: OnFrames | None = None
    ) -> np.ndarray: ...

    @overload
    def __call__(
        self,
        prompt: str,
        image: Picture | None,
        track: ActionTrack | None = None,
        *,
        on_step: OnStep | None = None,
        on_frames: OnFrames | None = None,
        **options: Any,
    ) -> np.ndarray: ...

    def __call__(
        self, *asked: Any, on_step: OnStep | None = None, on_frames: OnFrames | None = None, **options: Any
    ) -> np.ndarray:
        """Draw one clip. The same request gives the same clip.

        Without a picture the first latent frame is drawn with the others, from noise of its own, as Wan2.2-TI2V does. A
        causal checkpoint has learned only what follows a first frame: the base draws a clip of the same length, whose
        first it takes.

        Args:
            asked: a `ClipRequest`, or what makes one: prompt, image, track, and its other fields by name.
            on_step: called after every step; may raise `Cancelled`.
            on_frames: called with frames as they are decoded, uint8 [n, H, W, 3], which is while the clip is drawn if
                `shows_while_drawn`; may raise `Cancelled`.
            options: further fields of the request.

        Returns:
            Frames, uint8 [F, H, W, 3].

        Raises:
            RequestError, ImageError, ActionError: if the request cannot be drawn; nothing has been computed then.
            OutOfMemory: if the device has too little memory for this clip.
            Cancelled: if a callback did.
        """
        is_request = len(asked) == 1 and isinstance(asked[0], ClipRequest) and not options
        request = self.check(asked[0] if is_request else ClipRequest(*asked, **options))
        with self.lock, torch.no_grad(), self._explaining_shortage(request):
            actions = self.model_actions(request.track)
            timings: dict[str, float] = {}
            with self._timed("text", timings):
                context = self._encode_text(request)
            with self._timed("encode", timings):
                first_latent = None if request.image is None else self.encode_image(request.image)
            screen = _Screen(self, on_frames) if self.shows_while_drawn else None
            with self._timed("denoise", timings):
                if self.causal is None:
                    latents = self._denoise(request, context, first_latent, actions, on_step)
                else:
                    latents = self._roll_out(request, context, first_latent, actions, on_step, screen)
            if screen is not None:
                timings |= {"denoise": timings["denoise"] - screen.seconds, "decode": screen.seconds}
                frames = np.concatenate(screen.frames)
            else:
                with self._timed("decode", timings):
                    frames = self.decode(latents, on_frames)
            self.timings = timings
            return frames

    @property
    def shows_while_drawn(self) -> bool:
        """Whether a clip of the checkpoint that is worn is decoded latent frame by latent frame while it is drawn.

        A causal one's is, if transformer and autoencoder are on the device together.
        """
        options = self.placement.options
        return self.causal is not None and options.offload == "none" and not options.vae_tiling

    @property
    def own_defaults(self) -> dict[str, Any]:
        """The model's defaults with the steps and the guidance of the loaded checkpoint, where it is causal."""
        if self.causal is None:
            return dict(self.defaults)
        own = {"num_inference_steps": self.causal.num_inference_steps, "guidance_scale": self.causal.guidance_scale}
        return self.defaults | own

    def check(self, request: ClipRequest) -> Request:
        """The request as it would be drawn now, with the defaults of the model and of the loaded checkpoint.

        Raises:
            RequestError, ImageError, ActionError: naming what cannot be used, and what could be.
        """
        defaults = self.own_defaults
        if self.causal is None and request.image is None and request.num_frames == 1:  # a place from words, and no clip
            defaults |= self.metadata.get(PLACES, {})
        longest = shapes.num_pixel_frames(self.components.transformer.config.rope_max_seq_len)  # of the rotary table
        return check_request(defaults, longest, request)

    def check_settings(self, config: Mapping[str, Any]) -> None:
        """Hold the numbers of a run's settings against what this model can use, before anything is built from them.

        Args:
            config: content of an action_train_config.json that nobody vouches for.

        Raises:
            CheckpointError, OutOfMemory: naming the one that is out of range.
        """
        causal = self._own_causal(config, "these weights")
        if causal is not None:
            self.require_cache(self.defaults["height"], self.defaults["width"], causal.window)
        scale = config.get("action_magnitude_scale")
        if scale is not None:
            read_model(_Scale, {"action_magnitude_scale": scale}, CheckpointError)

    def memory_for(self, request: ClipRequest | Request) -> int:
        """Bytes that drawing a clip takes beside the weights, at most.

        Raises:
            RequestError, ImageError, ActionError: as `check`.
        """
        request = request if isinstance(request, Request) else self.check(request)
        return activations(size_of(self.components), clip_of(request), self.placement.options)

    def require_cache(self, height: int, width: int, window: int) -> None:
        """Check that keys and values of a flight find room, before they take it.

        Raises:
            OutOfMemory: naming what they need and what there is.
        """
        transformer = self.components.transformer
        (h, w), (_, p_h, p_w) = shapes.latent_size(height, width), transformer.config.patch_size
        needed = KVCache.num_bytes(transformer, (h // p_h) * (w // p_w), window)
        available = free_memory(self.device)
        if needed > available:
            raise OutOfMemory(
                f"a flight of {width}x{height} that remembers {window} latent frames needs {needed / 1e9:.1f} GB of "
                f"memory and {available / 1e9:.1f} GB are free"
            )

    def preview(self, latents: Tensor, scale: int = PREVIEW_SCALE) -> np.ndarray:
        """Latents as small pictures, for a look while a clip is being drawn.

        Args:
            latents: normalised, [1, C, T, h, w].
            scale: pixels that a latent becomes.

        Returns:
            uint8 [T, h*scale, w*scale, 3], by the small decoder if there is one, else by the linear map `latent_rgb`
            of the model's metadata; grey without either.
        """
        if self.placement.small_decoder is not None:
            frames = self.placement.small_decoder.decode(latents.to(self.device))[
                0, :, :: shapes.TEMPORAL_STRIDE
            ].float()
            size = (latents.shape[3] * scale, latents.shape[4] * scale)
            return video.to_uint8(torch.nn.functional.interpolate(frames, size, mode="bilinear", antialias=True))
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
        frame = self.picture(image).unsqueeze(2)
        with self.placement.using("vae") as vae:
            return vae_ops.encode(vae, frame.to(vae.dtype)).float()

    def picture(self, image: Image.Image) -> Tensor:
        """A first frame, already fitted, as the networks see it, [1, 3, H, W] in [-1, 1]."""
        return video.to_tensor(np.array(image)[None]).unsqueeze(0)[:, :, 0].to(self.device)

    def decode(self, latents: Tensor, on_frames: OnFrames | None = None) -> np.ndarray:
        """Normalised latents [1, C, T, h, w] as frames, uint8 [F, H, W, 3]; `on_frames` gets them as they come."""
        pixels = latents.shape[3] * latents.shape[4] * shapes.SPATIAL_STRIDE**2
        frames = []
        with self.placement.using("vae") as vae:
            latents = latents.to(self.device, vae.dtype)
            whole = pixels <= MAX_WHOLE_DECODE_PIXELS or vae.use_tiling  # tiles hold the whole clip, not frames of it
            for chunk in [vae_ops.decode(vae, latents)] if whole else vae_ops.iter_decode(vae, latents):
                frames.append(video.to_uint8(chunk[0]))
                self._between_slices()
                if on_frames is not None:
                    on_frames(frames[-1])
        return np.concatenate(frames)

    def prepare_prompt(self, prompt: str) -> Tensor | PreparedText:
        """What the transformer reads of a prompt, without guidance."""
        with self.lock, torch.no_grad():
            context = self._prompts.encode([prompt], self.device, self.components.transformer.dtype)
            return self._read_text(self.components.transformer, context)

    def model_actions(self, track: ActionTrack | None) -> Actions | None:
        """Flags and scaled magnitudes [1, N, 8] on the device, as the loaded controller was trained on them."""
        if track is None:
            return None
        if self.controller is None:
            warnings.warn("no action controller is loaded, so the action track is ignored", stacklevel=3)
            return None
        binary, magnitude = (torch.from_numpy(x)[None] for x in track.to_model(self._magnitude_scale))
        return binary.to(self.device), magnitude.to(self.device)

    def places(self, prompt: str, negative_prompt: str | None = None, num_steps: int | None = None) -> Places:
        """What draws pictures of what these words say, in so many steps or as many as the model likes, without guidance
        unless there is a negative prompt; the model directory has a network for it."""
        network = self.components.places
        assert network is not None, "who asks looked"
        said = self.defaults | self.metadata.get(PLACES, {})
        guidance = 1.0 if negative_prompt is None else said["guidance_scale"]
        prompts = [prompt] if negative_prompt is None or guidance <= 1 else [prompt, negative_prompt]
        text = self._read_text(network, self._prompts.encode(prompts, self.device, network.dtype))
        sigmas = self.rollout_sigmas(num_steps or said["num_inference_steps"])
        return Places(network, text, self.prediction, sigmas, guidance, said["perturbed_layers"])

    def redrawer(self, prompt: str, seed: int, clear: Tensor | None) -> Redrawer | None:
        """What shows anew what wears out in the loaded checkpoint's flights, from a clear picture [1, 3, H, W] of what
        the words say or from the words alone; None where nothing does."""
        drafter = self.drafter()
        if drafter is None or not drafter.settings.redraws:
            return None
        places = self.places(prompt, self.defaults["negative_prompt"], REDRAW_STEPS)
        return Redrawer(drafter, clear, places, seed)

    def drafter(self) -> Drafter | None:
        """What drafts the latent frames of the loaded checkpoint's flights; None where it draws from noise alone."""
        if self.causal is None or self.causal.draft is None:
            return None
        parts = self.components
        return Drafter(parts.vae, self.causal.draft, self._magnitude_scale or [1.0] * NUM_CHANNELS, parts.nearness)

    def rollout_sigmas(self, num_steps: int) -> list[float]:
        """The noise levels that a latent frame is drawn through where frames are drawn in turn."""
        return flow.inference_sigmas(num_steps, self.defaults["flow_shift"], self.defaults["sigma_grid"]).tolist()

    def unread(self, prompt: str) -> str:
        """The end of a prompt that is cut off, because the text encoder reads only so many tokens; "" if none is."""
        return self._prompts.unread(prompt)

    def forget_prompts(self) -> None:
        """Empty the cache of text embeddings, so that the next call encodes its prompts again."""
        with self.lock:
            self._prompts.forget()

    # The stages of a call

    def _encode_text(self, request: Request) -> Tensor:
        """Text embeddings [1, S, text_dim], or [2, S, text_dim] with the negative prompt second under guidance."""
        prompts = [request.prompt]
        if request.guidance_scale > 1:
            prompts.append(request.negative_prompt)
        return self._prompts.encode(prompts, self.device, self.components.transformer.dtype)

    def _make_prompts(self) -> Prompts:
        parts, length, folder = self.components, self.defaults["max_sequence_length"], self.placement.options.text_cache
        dtype = parts.transformer.dtype
        saved = None if folder is None else PromptStore(folder, encoder_identity(self.path, length, dtype))

        def load() -> Any:
            return self.placement.bring(load_components(self.path, dtype=dtype, parts=["text_encoder"]).text_encoder)

        return Prompts(
            parts.tokenizer,
            parts.text_encoder,
            length,
            load=None if folder is None else load,
            store=saved,
            borrow=lambda: self.placement.using("text_encoder"),
        )

    def _denoise(
        self,
        request: Request,
        context: Tensor,
        first_latent: Tensor | None,
        actions: Actions | None,
        on_step: OnStep | None,
    ) -> Tensor:
        """Noise -> latents [1, C, T, h, w], latent frame 0 kept clean under timestep 0 if it is given."""
        latents = self._noise(request, request.num_latent_frames)
        known = first_latent is not None
        scheduler = self._make_scheduler(request.num_inference_steps)
        total = len(scheduler.timesteps)
        with self.placement.using("transformer") as transformer:
            apart = self.placement.splits_guidance(clip_of(request))
            text, prepared = self._prepare(transformer, context.split(1 if apart else len(context)), actions, request)
            for step, t in enumerate(scheduler.timesteps):
                self._between_slices()
                if known:
                    latents[:, :, :1] = first_latent
                output = self._predict(latents, t, text, prepared, request, known)
                noisy, latents = latents, scheduler.step(output, t, latents, return_dict=False)[0]
                if on_step is not None:
                    sigma = scheduler.sigmas[step].to(noisy.device)
                    velocity = flow.velocity_of(output, noisy, sigma, self.prediction)
                    clean = flow.euler_step(noisy, velocity, sigma, 0.0)
                    if known:
                        clean[:, :, :1] = first_latent
                    on_step(Progress(step + 1, total, clean))
        if known:
            latents[:, :, :1] = first_latent
        return latents

    def _roll_out(
        self,
        request: Request,
        context: Tensor,
        first_latent: Tensor | None,
        actions: Actions | None,
        on_step: OnStep | None,
        screen: _Screen | None,
    ) -> Tensor:
        """Latents [1, C, T, h, w] of a causal checkpoint: each frame in its turn, shown on a screen if there is one."""
        assert self.causal is not None, "__call__ looked"
        if first_latent is None:
            first_latent = self._draw_first(request)
        generator = torch.Generator().manual_seed(request.seed)

        def draw_noise() -> Tensor:
            return torch.randn(first_latent.shape, generator=generator).to(self.device)

        latents = first_latent.repeat(1, 1, request.num_latent_frames, 1, 1)
        latents[:, :, 1:] = 0.0
        drafter = self.drafter()
        picture = None if drafter is None or request.image is None else self.picture(request.image)
        if screen is not None:
            screen.show(first_latent, known=picture)
        total = request.num_latent_frames - 1
        window = max(1, min(self.causal.window, total))  # there is nothing behind that
        settings = replace(self.causal, window=window)
        if settings.guidance_scale > 1:  # a checkpoint that is made for it is guided as asked
            settings = replace(settings, guidance_scale=request.guidance_scale)
        self.require_cache(request.height, request.width, settings.window)
        sigmas = self.rollout_sigmas(request.num_inference_steps)
        with self.placement.using("transformer") as transformer:
            text = self._read_text(transformer, context[:1])
            rollout = CausalRollout(
                transformer,
                self.controller,
                text,
                first_latent,
                sigmas,
                settings,
                prediction=self.prediction,
                negative=self._read_text(transformer, context[1:]) if settings.guidance_scale > 1 else None,
                drafter=drafter,
                first_picture=picture,
                redrawer=self.redrawer(request.prompt, request.seed, picture),
            )
            for frame, latent in enumerate(rollout.clip(actions, total, draw_noise), start=1):
                latents[:, :, frame : frame + 1] = latent
                if screen is not None:
                    screen.show(latent, rollout.drawn)
                if on_step is not None:
                    on_step(Progress(frame, total, latents.clone()))
        return latents

    def _draw_first(self, request: Request) -> Tensor:
        """The first latent frame [1, C, 1, h, w], from words: by the network of places where there is one, else as the
        base draws it; the checkpoint is put on again.

        A base that is causal itself draws it alone: it has never seen a clip's frames together.
        """
        if self.components.places is not None:
            return self.places(request.prompt, request.negative_prompt).draw(self._noise(request, 1))
        steps, guidance = self.defaults["num_inference_steps"], self.defaults["guidance_scale"]
        asked = replace(request, track=None, num_inference_steps=steps, guidance_scale=guidance)
        if self.base_causal is not None:
            asked = replace(asked, num_frames=1)
        worn = self._worn
        self._put_on(None)
        try:
            return self._denoise(asked, self._encode_text(asked), None, None, None)[:, :, :1]
        finally:
            self._put_on(worn)

    def _noise(self, request: Request, num_latent_frames: int) -> Tensor:
        """What a clip of so many latent frames is drawn from, [1, C, T, h, w]; the same on every device."""
        C, (h, w) = self.components.transformer.config.in_channels, shapes.latent_size(request.height, request.width)
        generator = torch.Generator().manual_seed(request.seed)
        return torch.randn(1, C, num_latent_frames, h, w, generator=generator).to(self.device)

    def _read_text(self, transformer: Any, context: Tensor) -> Tensor | PreparedText:
        """What the layers read of text embeddings [B, S, text_dim], made now if it can be kept."""
        return transformer.prepare_text(context) if self.placement.prepares_text else context

    def _prepare(
        self, transformer: Any, contexts: Sequence[Tensor], actions: Actions | None, request: Request
    ) -> tuple[list[Tensor | PreparedText], Tensor | None]:
        """What is the same in every step: what the layers read of the text, batch by batch, and of the actions."""
        text = [self._read_text(transformer, context) for context in contexts]
        if actions is None or self.controller is None:
            return text, None
        return text, transformer.prepare_actions(actions, self.controller, 1, request.num_latent_frames)

    def _predict(
        self,
        latents: Tensor,
        t: Tensor,
        text: list[Tensor | PreparedText],
        actions: Tensor | None,
        request: Request,
        first_is_known: bool,
    ) -> Tensor:
        """Guided prediction of the transformer, [1, C, T, h, w], float32."""
        transformer, branches = self.components.transformer, 1 if request.guidance_scale <= 1 else 2
        batch = branches // len(text)
        timestep = t.float().repeat(batch, latents.shape[2])  # [1 or 2, T]
        if first_is_known:
            timestep[:, 0] = 0.0
        noisy = latents.to(transformer.dtype).expand(batch, -1, -1, -1, -1)
        settings: dict[str, Any] = {"return_dict": False, "actions": actions, "controller": self.controller}
        perturbed = [()] * (len(text) - 1) + [request.perturbed_layers if branches == 2 else ()]
        velocity = torch.cat(
            [
                transformer(noisy, timestep, context, perturbed_layers=layers, **settings)[0].float()
                for context, layers in zip(text, perturbed, strict=True)
            ]
        )
        if branches == 1:
            return velocity
        positive, negative = velocity.split(1)
        return negative + request.guidance_scale * (positive - negative)

    def _make_scheduler(self, num_inference_steps: int) -> Any:
        """The model's scheduler, fresh: it remembers the steps before."""
        scheduler = type(self.components.scheduler).from_config(self.components.scheduler.config)
        flow.set_steps(scheduler, num_inference_steps, self.defaults["sigma_grid"], self.device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # or it looks the timestep up, which waits for the GPU
        return scheduler

    def _build_controller(self, weights: FlightWeights, folder: Path) -> tuple[WanActionController | None, list[float]]:
        """The checkpoint's action controller and its magnitude scale; None and [] if it trained only the model."""
        if weights.controller is None:
            return None, []
        transformer = self.components.transformer
        try:
            controller = controller_of(weights.config["action_controller_config"])
            controller.load_state_dict(controller.whole(convert("controller", weights.controller, partial=True)))
            transformer.check_controller(controller)
            scale = weights.config["action_magnitude_scale"]
            if not isinstance(scale, list):
                raise ValueError(f"its action_magnitude_scale is {str(scale)[:40]}, expected 8 numbers, one a channel")
            scale = [float(factor) for factor in scale]
            ActionTrack.zeros(1).to_model(scale)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"the action controller of {folder} cannot be used here: {reason}") from error
        return controller.to(self.device, transformer.dtype).eval(), scale

    def _causal_settings(self, weights: FlightWeights, folder: Path) -> CausalSettings | None:
        """How a checkpoint is flown: as it says, else as the base whose transformer it leaves alone."""
        own = self._own_causal(weights.config, str(folder))
        return self.base_causal if own is None and weights.transformer is None else own

    def _own_causal(self, config: Mapping[str, Any], whose: str) -> CausalSettings | None:
        """What a run's settings say of flying frame by frame."""
        try:
            causal = causal_settings(config.get("causal"), self.defaults["num_inference_steps"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the causal settings of {whose} cannot be used: {error}") from error
        most = self.components.transformer.config.rope_max_seq_len
        if causal is not None and causal.window > most:
            raise CheckpointError(
                f"the causal settings of {whose} cannot be used: window is {causal.window}, this model has places for "
                f"{most} latent frames"
            )
        if causal is not None and causal.draft is not None and not vae_ops.frames_stand_alone(self.components.vae):
            raise CheckpointError(
                f"{whose} draws its latent frames from drafts, and those of this model's "
                f"{type(self.components.vae).__name__} depend on one another; fly it with the model it was trained on"
            )
        draft, parts = causal and causal.draft, self.components
        for asked, wanted, network, folder in (
            (draft and draft.sees, "see how near things are", parts.nearness, NEARNESS),
            (draft and draft.redraws, "show anew what wears out", parts.places, PLACES),
        ):
            if asked and network is None:
                raise CheckpointError(
                    f"{whose} draws its latent frames from drafts that {wanted}, and the model directory has no "
                    f"{folder}/; fly it with the model it was trained on"
                )
        return causal

    @contextlib.contextmanager
    def _explaining_shortage(self, request: Request) -> Iterator[None]:
        """Turn running out of memory into a sentence, and leave the device as it was before."""
        problem = ""
        clip, size = clip_of(request), size_of(self.components)
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = explain_shortage(size, clip, self.placement.options, device_memory(self.device))
        if problem:  # raised out here, where the error's frames no longer hold tensors
            release_memory(self.device)
            raise OutOfMemory(problem)

    @contextlib.contextmanager
    def _timed(self, stage: str, timings: dict[str, float]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        timings[stage] = time.perf_counter() - start


class _Screen:
    """Decodes a clip while it is drawn.

    Attributes:
        frames: so far, uint8 [n, H, W, 3] each.
        seconds: that decoding has taken.
    """

    def __init__(self, pipe: WanActPipeline, on_frames: OnFrames | None):
        self._pipe, self._on_frames = pipe, on_frames
        self._decoder = vae_ops.StreamingDecoder(pipe.components.vae)
        self.frames: list[np.ndarray] = []
        self.seconds = 0.0

    def show(self, latent: Tensor, drawn: Drawn | None = None, known: Tensor | None = None) -> None:
        """Decode the next latent frame, normalised [1, C, 1, h, w].

        Args:
            drawn: it and its draft, if there is one.
            known: its only frame, [1, 3, H, W], which is shown instead.
        """
        timings: dict[str, float] = {}
        with self._pipe._timed("decode", timings):
            if drawn is None:
                chunk = self._decoder.step(latent.to(self._pipe.device, self._pipe.components.vae.dtype))
            else:
                chunk = drawn.frames
            chunk = chunk if known is None else known.unsqueeze(2)
            self.frames.append(video.to_uint8(chunk[0]))
        self.seconds += timings["decode"]
        self._pipe._between_slices()
        if self._on_frames is not None:
            self._on_frames(self.frames[-1])


@dataclass(frozen=True, eq=False)
class _Worn:
    """A checkpoint as it was read.

    Attributes:
        stamp: its folder, and what changes when it is written anew.
        ref: which one it is.
        controller, scale, causal: as the pipeline's.
        replaced, lora: what is laid over the transformer.
    """

    stamp: tuple
    ref: CheckpointRef
    controller: WanActionController | None
    scale: list[float]
    causal: CausalSettings | None
    replaced: dict[str, Tensor]
    lora: dict[str, Tensor] | None

    @functools.cached_property
    def num_bytes(self) -> int:
        own = () if self.controller is None else self.controller.parameters()
        tensors = [*own, *self.replaced.values(), *(self.lora or {}).values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _does_not_fit(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder} was made for another base model: {error}")


class _Scale(BaseModel):
    action_magnitude_scale: Annotated[
        list[Annotated[float, number(0, MAX_SCALE)]], Field(min_length=NUM_CHANNELS, max_length=NUM_CHANNELS)
    ]


def clip_of(request: Request) -> Clip:
    """What the memory that a request takes is estimated from."""
    branches = 2 if request.guidance_scale > 1 else 1
    return Clip(request.height, request.width, request.num_frames, branches)


def _file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """What changes when a checkpoint is written anew: names, sizes and times of its files and its run's settings."""
    files = [*sorted(folder.glob("*.safetensors")), folder / RUN_CONFIG]
    if is_in_run(folder):
        files.append(run_of(folder) / RUN_CONFIG)
    return [(file.name, stat.st_size, stat.st_mtime_ns) for file in files if file.exists() for stat in [file.stat()]]
