"""How fast a device could be at best: work by count, rates by measurement.

Counting runs the networks on the meta device, where only shapes exist. Operations are those of matrix products,
convolutions and attention. Bytes are what every layer reads and writes if nothing stays in a cache: its weights, its
input and its output once each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wanact import shapes
from wanact.flying.placement import Clip
from wanact.models.components import from_config
from wanact.models.transformer import WanActTransformer3DModel
from wanact.models.vae import decode_raw

META = torch.device("meta")


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes moved."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Rates:
    """What a device does at best: bytes a second of a copy, operations a second of a matrix product."""

    bytes_per_second: float
    flops_per_second: float

    def seconds(self, work: Work) -> float:
        """The floor: no way to do this work in less."""
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)


def step_work(transformer: Any, clip: Clip, text_length: int) -> Work:
    """One denoising step: both branches of guidance if the clip has two, the text's keys and values ready."""
    dtype = transformer.dtype
    with META:
        empty = from_config(WanActTransformer3DModel, transformer.config)
        nn.Module.to(empty, dtype)
    h, w = shapes.latent_size(clip.height, clip.width)
    T, channels = shapes.num_latent_frames(clip.num_frames), transformer.config.in_channels
    latents = torch.empty(clip.branches, channels, T, h, w, device=META, dtype=dtype)
    text = torch.empty(clip.branches, text_length, transformer.config.text_dim, device=META, dtype=dtype)
    timestep = torch.empty(clip.branches, T, device=META)
    prepared = empty.prepare_text(text)
    return _count(empty, lambda: empty(latents, timestep, prepared))


def decode_work(vae: Any, clip: Clip) -> Work:
    """Decoding a whole clip."""
    with META:
        empty = type(vae).from_config(vae.config)
    h, w = shapes.latent_size(clip.height, clip.width)
    latents = torch.empty(1, vae.config.z_dim, shapes.num_latent_frames(clip.num_frames), h, w, device=META)
    return _count(empty, lambda: decode_raw(empty, latents))


def measure_rates(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> Rates:
    """What this device reaches in a large copy and a large matrix product, the best of several."""
    is_cpu = device.type == "cpu"
    source = torch.empty((1 << 25) if is_cpu else (1 << 28), device=device)  # float32: 128 MB or 1 GB
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    n = 1024 if is_cpu else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return Rates(
        copied / _best(lambda: target.copy_(source), device, seconds),
        2 * n**3 / _best(lambda: a @ b, device, seconds),
    )


def _best(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest of as many runs as fit into the time, after one that warms up."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _count(network: nn.Module, run: Callable[[], Any]) -> Work:
    counter = FlopCounterMode(display=False)
    with _counting_bytes(network) as moved, counter:
        run()
    return Work(counter.get_total_flops(), moved[0])


@contextmanager
def _counting_bytes(network: nn.Module) -> Iterator[list[int]]:
    """Sum over the layers of what they read and write."""
    moved = [0]

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [x for x in (*inputs, output, *module.parameters(recurse=False)) if isinstance(x, Tensor)]
        moved[0] += sum(x.numel() * x.element_size() for x in tensors)

    leaves = [module for module in network.modules() if not any(module.children())]
    handles = [module.register_forward_hook(add) for module in leaves]
    try:
        yield moved
    finally:
        for handle in handles:
            handle.remove()
