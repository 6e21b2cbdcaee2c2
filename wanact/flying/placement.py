"""Making a model fit a device: attention kernels, 8-bit weights, offloading, and how much memory a clip needs.

The estimates are counts, not measurements: weights by their parameters, the transformer's work by its widest layer, the
VAE's by the features of its last stage. They are made to choose settings by, and to say what would fit when memory ran
out.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry

from wanact import shapes
from wanact.flying.placement_options import NOTHING_SPECIAL, FitOptions
from wanact.models.attention import choose_attention
from wanact.models.compiling import keep_apart_by_processor
from wanact.models.small_decoder import SmallDecoder
from wanact.weights.files import WeightFiles
from wanact.weights.layouts import ModelDirError
from wanact.weights.model_dir import Components

_GROUP_HOOKS = ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker")

# Bytes of features that decoding one latent frame keeps at most, in units of one float32 feature map of the last stage
# (4 frames, half the pixels' height and width, `decoder_base_dim` channels). Counted on the 5B VAE's structure.
DECODE_MAPS = 21.5
LAPPED_DIM = 16  # what a lapped autoencoder keeps, in the same units: about 36 pixels a pixel, eight groups at a time


class Placement:
    """Where the networks of one model are, and how they come to the device when they work.

    Args:
        components: loaded on the CPU, or on the device if nothing is offloaded.
        device: where they compute.
        options: how they are made to fit.

    Attributes:
        notes: sentences about what was chosen, and what was asked for and could not be had.
        small_decoder: for previews, on the device; None without one.

    Raises:
        ModelDirError: if the small decoder's weights cannot be used.
    """

    def __init__(self, components: Components, device: torch.device, options: FitOptions):
        self.components = components
        self.device = device
        self.options = options
        self.notes: list[str] = []
        transformer = components.transformer
        self.small_decoder = None if options.small_decoder is None else load_small_decoder(options.small_decoder)
        if self.small_decoder is not None:
            self.small_decoder.to(device, transformer.dtype)
        self._note_attention(choose_attention(transformer, options.attention, device))
        if options.fp8:
            transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=transformer.dtype)
        if options.vae_tiling and components.vae is not None:
            components.vae.enable_tiling()
        if options.compile:
            keep_apart_by_processor()
            transformer.compile_repeated_blocks()
        if options.offload == "none":
            for network in (transformer, components.vae, components.text_encoder):
                if network is not None:
                    network.to(device)
        else:
            self._offload_layers()

    @property
    def prepares_text(self) -> bool:
        """Whether the layers' weights are at hand outside a forward pass."""
        return not self._moves_layers

    def splits_guidance(self, clip: Clip) -> bool:
        """Whether the two branches of guidance would not fit into one batch."""
        if self.device.type != "cuda" or clip.branches == 1:
            return False
        return estimate(size_of(self.components), clip, self.options) > 0.95 * device_memory(self.device)

    @contextlib.contextmanager
    def using(self, part: str) -> Iterator[Any]:
        """A network on the device for as long as it works."""
        network = getattr(self.components, part)
        moves = self.options.offload != "none" and not (self._moves_layers and part != "vae")
        if network is None or not moves:
            yield network
            return
        network.to(self.device)
        try:
            yield network
        finally:
            network.to("cpu")
            release_memory(self.device)

    def bring(self, text_encoder: Any) -> Any:
        """A text encoder that was loaded for a moment, ready to work: on the device, or on the CPU if it has no room
        beside what is there."""
        if self._moves_layers:
            self._hook(text_encoder, by_block=False)
            return text_encoder
        if self.device.type == "cuda" and torch.cuda.mem_get_info(self.device)[0] < 1.1 * _bytes(text_encoder):
            return text_encoder
        return text_encoder.to(self.device)

    @contextlib.contextmanager
    def changing_weights(self) -> Iterator[None]:
        """Around anything that replaces weights of the transformer: offloaded layers keep copies of the old ones."""
        if not self._moves_layers:
            yield
            return
        _remove_group_hooks(self.components.transformer)
        self.components.transformer.to("cpu")
        try:
            yield
        finally:
            self._offload_layers()

    @property
    def _moves_layers(self) -> bool:
        return self.options.offload in ("group", "sequential")

    def _offload_layers(self) -> None:
        """Hook every block (group) or layer (sequential) of the transformer, and every layer of the text encoder."""
        if not self._moves_layers:
            return
        by_block = self.options.offload == "group"
        self._hook(self.components.transformer, by_block)
        encoder = self.components.text_encoder
        if encoder is not None and not _is_hooked(encoder):
            self._hook(encoder, by_block=False)

    def _hook(self, network: Any, by_block: bool) -> None:
        apply_group_offloading(
            network,
            onload_device=self.device,
            offload_device=torch.device("cpu"),
            offload_type="block_level" if by_block else "leaf_level",
            num_blocks_per_group=1 if by_block else None,
            # Blocks come while the one before computes; without a stream each waits for its weights.
            use_stream=by_block and self.device.type == "cuda",
            record_stream=by_block and self.device.type == "cuda",
        )

    def _note_attention(self, note: str | None) -> None:
        if note is not None:
            self.notes.append(note)
            warnings.warn(note, stacklevel=4)


def load_small_decoder(path: str) -> SmallDecoder:
    """A small decoder from a file of weights; ModelDirError if it is none."""
    try:
        return SmallDecoder.from_state(WeightFiles([Path(path)]))
    except ValueError as error:
        raise ModelDirError(f"the small decoder {path} cannot be used: {error}") from error


def _is_hooked(network: Any) -> bool:
    return any(getattr(module, "_diffusers_hook", None) is not None for module in network.modules())


def _remove_group_hooks(network: Any) -> None:
    for module in network.modules():
        if hasattr(module, "_diffusers_hook"):
            registry = HookRegistry.check_if_exists_or_initialize(module)
            for name in _GROUP_HOOKS:
                registry.remove_hook(name, recurse=False)


def release_memory(device: torch.device) -> None:
    """Give back what is held for nobody."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if trim := _trim():
        trim(0)


@functools.cache
def _trim() -> Any:
    """glibc keeps what threads have freed, for threads to come; None where there is no glibc."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


# How much memory a clip needs


@dataclass(frozen=True)
class ModelSize:
    """What an estimate is made from.

    Attributes:
        transformer, vae, text_encoder: bytes of weights; the text encoder's are 0 where it is not kept loaded.
        layers: of the transformer.
        width, ffn_width: of its tokens, D, and inside its feed-forward layers.
        itemsize: bytes of a number in its computations.
        decoder_dim: channels of the VAE's last stage.
        text_embedding: bytes of the text encoder's largest layer, its table of words.
        latents_per_token: places of the latents that one token stands for.
    """

    transformer: int
    vae: int
    text_encoder: int
    layers: int
    width: int
    ffn_width: int
    itemsize: int
    decoder_dim: int
    text_embedding: int = 0
    latents_per_token: int = 4


def size_of(components: Components) -> ModelSize:
    """The size of a loaded model."""
    transformer, vae, encoder = components.transformer, components.vae, components.text_encoder
    config = transformer.config
    return ModelSize(
        transformer=sum(p.numel() for p in transformer.parameters()) * transformer.dtype.itemsize,
        vae=_bytes(vae),
        text_encoder=_bytes(encoder),
        layers=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        ffn_width=config.ffn_dim,
        itemsize=transformer.dtype.itemsize,
        decoder_dim=vae.config.get("decoder_base_dim") or vae.config.get("base_dim", LAPPED_DIM),
        text_embedding=0 if encoder is None else _bytes(encoder.get_input_embeddings()),
        latents_per_token=math.prod(config.patch_size),
    )


def _bytes(network: Any) -> int:
    return 0 if network is None else sum(p.numel() * p.element_size() for p in network.parameters())


@dataclass(frozen=True)
class Clip:
    """Size of a clip in pixels and frames, and branches of guidance (2 with, 1 without)."""

    height: int
    width: int
    num_frames: int
    branches: int = 2

    def __str__(self) -> str:
        return f"{self.width}x{self.height} with {self.num_frames} frames"


def _num_tokens(size: ModelSize, clip: Clip) -> int:
    h, w = shapes.latent_size(clip.height, clip.width)
    return shapes.num_latent_frames(clip.num_frames) * h * w // size.latents_per_token


def activations(size: ModelSize, clip: Clip, options: FitOptions = NOTHING_SPECIAL) -> int:
    """Bytes that a clip needs at most on the device beside the weights."""
    return max(_denoise_bytes(size, clip), _decode_bytes(size, clip, options))


def _denoise_bytes(size: ModelSize, clip: Clip) -> int:
    # At the widest place the feed-forward layer's input and output lie beside a handful of tensors of the width.
    return _num_tokens(size, clip) * clip.branches * size.itemsize * (2 * size.ffn_width + 5 * size.width)


def _decode_bytes(size: ModelSize, clip: Clip, options: FitOptions) -> int:
    maps = min(clip.height * clip.width, 256 * 256) if options.vae_tiling else clip.height * clip.width
    return int(DECODE_MAPS * maps * size.decoder_dim * 4) + clip.num_frames * clip.height * clip.width * 3


def estimate(size: ModelSize, clip: Clip, options: FitOptions = NOTHING_SPECIAL) -> int:
    """Bytes that a clip needs at most on the device, weights included."""
    denoise, decode = _denoise_bytes(size, clip), _decode_bytes(size, clip, options)
    transformer = size.transformer
    if options.fp8:
        transformer = int(transformer / size.itemsize * 1.04)  # norms and embeddings stay as they are
    encoder = 0 if options.text_cache else size.text_encoder
    if options.offload == "none":
        return transformer + encoder + size.vae + max(denoise, decode)
    if options.offload == "model":
        return max(size.text_encoder, transformer + denoise, size.vae + decode)
    block = transformer // size.layers * (2 if options.offload == "group" else 1)
    return max(size.text_embedding, block + denoise, size.vae + decode)


def ways_to_fit(size: ModelSize, clip: Clip, options: FitOptions, available: int) -> list[tuple[str, int]]:
    """Settings under which a clip like this would fit, the least sacrifice first.

    Returns:
        Pairs of what to do and the bytes it then needs, at most three.
    """
    found: list[tuple[str, int]] = []
    for words, changed in _settings(options):
        needed = estimate(size, clip, changed)
        if needed <= available:
            found.append((f"start with {words}", needed))
            break
    for smaller in _smaller(clip):
        needed = estimate(size, smaller, options)
        if needed <= available:
            found.append((f"draw {smaller}", needed))
            break
    if not found:
        last = replace(options, offload="sequential", vae_tiling=True, text_cache=options.text_cache or "DIR")
        for smaller in _smaller(clip):
            needed = estimate(size, smaller, last)
            if needed <= available:
                found.append((f"start with --offload sequential --vae_tiling and draw {smaller}", needed))
                break
    return found


def _settings(options: FitOptions) -> Iterator[tuple[str, FitOptions]]:
    """Options that take less memory, the fastest first, and how they are spelled."""
    tiled = options.vae_tiling
    text = options.text_cache or "DIR"
    for offload, cache, tiling, fp8 in (
        ("none", True, tiled, options.fp8),
        ("none", True, True, options.fp8),
        ("model", True, tiled, options.fp8),
        ("model", True, True, options.fp8),
        ("model", True, True, True),
        ("group", True, True, options.fp8),
        ("sequential", True, True, options.fp8),
    ):
        changed = replace(options, offload=offload, vae_tiling=tiling, fp8=fp8, text_cache=text if cache else None)
        words = [f"--offload {offload}"] if offload != options.offload else []
        words += [f"--text_cache {text}"] if options.text_cache is None else []
        words += ["--vae_tiling"] if tiling and not options.vae_tiling else []
        words += ["--fp8"] if fp8 and not options.fp8 else []
        if words:
            yield " ".join(words), changed


def _smaller(clip: Clip) -> Iterator[Clip]:
    """The same clip with fewer frames, then with fewer pixels, then both."""
    frames = [n for n in (61, 49, 33, 17) if n < clip.num_frames]
    yield from (replace(clip, num_frames=n) for n in frames)
    multiple = shapes.SIZE_MULTIPLE
    for factor in (0.8, 0.65, 0.5, 0.35, 0.25):
        height, width = (max(multiple, int(x * factor) // multiple * multiple) for x in (clip.height, clip.width))
        yield replace(clip, height=height, width=width)
        yield from (replace(clip, height=height, width=width, num_frames=n) for n in frames)


def explain_shortage(size: ModelSize, clip: Clip, options: FitOptions, available: int) -> str:
    """One sentence for the person whose clip did not fit: what it needs, what there is, what would fit."""
    needed = estimate(size, clip, options)
    ways = ways_to_fit(size, clip, options, int(available * 0.92))  # some is always taken already
    advice = " or ".join(f"{words} ({_gb(n)})" for words, n in ways) or "use a device with more memory"
    return f"memory ran out: {clip} needs about {_gb(needed)} and the device has {_gb(available)}; {advice}"


def gpu_seconds(size: ModelSize, clip: Clip, num_steps: int) -> int:
    """Seconds of a data centre's GPU that drawing a clip is given, rounded up generously: late is lost.

    Work is counted, two operations a weight and token and the products of attention, at a third of an H200's best rate;
    decoding goes by pixels.
    """
    tokens = _num_tokens(size, clip)
    parameters = size.transformer / size.itemsize
    step = clip.branches * (2 * parameters * tokens + 4 * size.layers * size.width * tokens**2)
    decode = clip.num_frames * clip.height * clip.width * (size.decoder_dim / 256) ** 2 * 5e-7
    return math.ceil(15 + num_steps * step / 3e14 + decode)


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device, all of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().total


def free_memory(device: torch.device) -> int:
    """Bytes of memory of a device that can still be taken; on the CPU, within the limit of the container."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    import psutil

    return min(psutil.virtual_memory().available, _left_to_container(Path("/sys/fs/cgroup")))


def _left_to_container(folder: Path) -> int:
    """Bytes that a control group of Linux (version 2) leaves; more than there are without a limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return sys.maxsize
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))  # a cache, given back
        return max(0, int(limit) - used)
    except (OSError, ValueError):
        return sys.maxsize


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is the device or the CPU running out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size < 100e9 else f"{math.ceil(size / 1e9)} GB"
