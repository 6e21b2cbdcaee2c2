"""One layer of a model of a known size at a clip's real size: what a machine without its memory can still run."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from wanact import shapes
from wanact.bench.memory import peak_memory_gb
from wanact.flying.placement import Clip
from wanact.models import presets
from wanact.models.components import assemble
from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController

CONTROLLERS = {"ti2v_5b": "wan_ti2v_5b_adaln", "nano": "nano"}


@torch.no_grad()
def bench_block(preset: str, clip: Clip, injection_type: str | None = None) -> dict[str, Any]:
    """A forward pass with one layer, steered, on the CPU in float32; and the whole network's on the meta device.

    Args:
        preset: ti2v_5b or nano.
        clip: its size; `branches` is the batch.
        injection_type: of the controller; None for modulation, which takes the most memory.

    Returns:
        `seconds_block`, `peak_memory_gb` of the process, and the bytes of one layer's modulation per frame, as it is,
        and per token, as it would be.
    """
    torch.manual_seed(0)
    transformer = presets.random_transformer(preset, num_layers=1)
    transformer = assemble("transformer", dict(transformer.config), transformer.state_dict(), torch.float32)
    controller = _controller(preset, injection_type, num_layers=1)
    inputs = _inputs(transformer, clip)
    sizes: list[tuple[int, ...]] = []
    handle = transformer.blocks[0].register_forward_pre_hook(lambda block, args: sizes.append(tuple(args[2].shape)))
    start = time.perf_counter()
    velocity = transformer(**inputs, controller=controller).sample
    seconds = time.perf_counter() - start
    handle.remove()
    assert velocity.isfinite().all() and velocity.shape == inputs["hidden_states"].shape
    whole = _on_meta(preset, clip, injection_type)
    (modulation,) = sizes  # [B, n, 6, D]
    tokens = whole["tokens"]
    per_frame = 4 * modulation[0] * modulation[1] * modulation[2] * modulation[3]
    return {
        "preset": preset,
        "height": clip.height,
        "width": clip.width,
        "num_frames": clip.num_frames,
        "seconds_block": seconds,
        "peak_memory_gb": peak_memory_gb(),
        "modulation_mb": per_frame / 1e6,
        "modulation_per_token_mb": per_frame / modulation[1] * tokens / 1e6,
        **whole,
    }


def _on_meta(preset: str, clip: Clip, injection_type: str | None) -> dict[str, Any]:
    """A forward pass of the whole network, where only shapes exist."""
    with torch.device("meta"):
        network = presets.random_transformer(preset)
        transformer = assemble("transformer", dict(network.config), network.state_dict(), torch.float32)
        controller = _controller(preset, injection_type, num_layers=len(transformer.blocks))
        transformer.rope.to("meta")
        inputs = _inputs(transformer, clip)
        velocity = transformer(**inputs, controller=controller).sample
    h, w = shapes.latent_size(clip.height, clip.width)
    return {
        "parameters": sum(p.numel() for p in transformer.parameters()),
        "controller_parameters": sum(p.numel() for p in controller.parameters()),
        "tokens": shapes.num_latent_frames(clip.num_frames) * h * w // math.prod(network.config["patch_size"]),
        "velocity_shape": list(velocity.shape),
    }


def _controller(preset: str, injection_type: str | None, num_layers: int) -> WanActionController:
    config = dict(ACTION_CONTROLLER_CONFIGS[CONTROLLERS[preset]])
    return WanActionController(
        **config | {"num_layers": num_layers, "injection_type": injection_type or config["injection_type"]}
    ).eval()


def _inputs(transformer: Any, clip: Clip) -> dict[str, Any]:
    h, w = shapes.latent_size(clip.height, clip.width)
    B, T = clip.branches, shapes.num_latent_frames(clip.num_frames)
    return {
        "hidden_states": torch.randn(B, transformer.config.in_channels, T, h, w),
        "timestep": torch.full((B, T), 700.0),
        "encoder_hidden_states": torch.randn(B, 512, transformer.config.text_dim),
        "actions": (torch.ones(1, T - 1, 8), torch.ones(1, T - 1, 8)),
    }


def format_block(result: dict[str, Any]) -> str:
    """The result as a few lines for people."""
    return "\n".join(
        [
            f"{result['preset']}: {result['parameters'] / 1e9:.2f} B parameters and a controller of "
            f"{result['controller_parameters'] / 1e6:.0f} M; a forward pass on the meta device gives velocity "
            f"{tuple(result['velocity_shape'])}",
            f"one layer at {result['height']}x{result['width']}, {result['num_frames']} frames, {result['tokens']:,} "
            f"tokens: {result['seconds_block']:.1f} s, peak memory {result['peak_memory_gb']:.2f} GB",
            f"modulation of a layer: {result['modulation_mb']:.2f} MB per frame; it would be "
            f"{result['modulation_per_token_mb']:.0f} MB per token",
        ]
    )
