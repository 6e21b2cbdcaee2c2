"""What a live flight of a model of a known size remembers: a rollout on the meta device, where only shapes exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wanact import shapes
from wanact.bench.block import CONTROLLERS
from wanact.flying.rollout import CausalRollout, CausalSettings
from wanact.models import presets
from wanact.models.components import assemble
from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController

SIZES = ((480, 832), (704, 1280))
WINDOWS = (9, 21)


@torch.no_grad()
def bench_cache(
    preset: str, sizes: Sequence[tuple[int, int]] = SIZES, windows: Sequence[int] = WINDOWS
) -> list[dict[str, Any]]:
    """Fly a latent frame of each size with each window in bfloat16, and add up what the flight keeps.

    How many steps draw a frame makes no difference to what is kept.

    Args:
        preset: ti2v_5b or nano.
        sizes: height and width in pixels.
        windows: latent frames that a frame sees besides itself and the first.

    Returns:
        For each, `keys_values_gb` of the whole cache, `latent_frame_mb` of one latent frame in it, and
        `latent_mb`, what a frame of the past takes that can be rewound to.
    """
    with torch.device("meta"):
        network = presets.random_transformer(preset)
        transformer = assemble("transformer", dict(network.config), network.state_dict(), torch.bfloat16)
        transformer.rope.to("meta")
        controller = WanActionController(**ACTION_CONTROLLER_CONFIGS[CONTROLLERS[preset]]).eval().to(torch.bfloat16)
        text = torch.randn(1, 512, transformer.config.text_dim, dtype=torch.bfloat16)
        action = (torch.ones(1, 1, 8), torch.ones(1, 1, 8))
        return [_flight(transformer, controller, text, action, size, window) for size in sizes for window in windows]


def _flight(
    transformer: Any, controller: WanActionController, text: Any, action: Any, size: tuple[int, int], window: int
) -> dict[str, Any]:
    first = torch.randn(1, transformer.config.in_channels, 1, *shapes.latent_size(*size))
    rollout = CausalRollout(transformer, controller, text, first, [1.0, 0.0], CausalSettings(window, 1))
    assert rollout.step(action, lambda: torch.randn(first.shape)).shape == first.shape
    kept = (rollout.cache.keys, rollout.cache.values, rollout.cache._first_keys)
    keys_values = sum(part.numel() * part.element_size() for part in kept)
    frame = rollout.cache.keys[:, :, : rollout.cache.frame_tokens]
    return {
        "height": size[0],
        "width": size[1],
        "window": window,
        "tokens": rollout.cache.frame_tokens,
        "keys_values_gb": keys_values / 1e9,
        "latent_frame_mb": 2 * frame.numel() * frame.element_size() / 1e6,
        "latent_mb": first.numel() * first.element_size() / 1e6,
    }


def format_cache(preset: str, rows: Sequence[dict[str, Any]]) -> str:
    """The result as a table for people."""
    lines = [f"{preset}, bfloat16: what a flight remembers"]
    lines += [
        f"{row['height']}x{row['width']}, {row['tokens']} tokens a latent frame, window {row['window']:>2}: "
        f"{row['keys_values_gb']:.2f} GB of keys and values, {row['latent_frame_mb']:.0f} MB a latent frame; "
        f"{row['latent_mb']:.2f} MB for each that can be rewound to"
        for row in rows
    ]
    return "\n".join(lines)
