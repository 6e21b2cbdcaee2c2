"""The type of computation, chosen by a short measurement where a processor has more than one."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from wanact import shapes
from wanact.models.transformer import WanActTransformer3DModel

MARGIN = 0.85  # bfloat16 has to be this much faster: it is less exact, and two starts should choose alike
ROUNDS = 3
MOST_FRAMES = 9  # latent ones: enough to tell, and a start should not wait for more


@torch.no_grad()
def fastest_dtype(transformer: WanActTransformer3DModel, height: int, width: int, num_frames: int) -> torch.dtype:
    """float32, or bfloat16 where one layer of this transformer on the CPU takes clearly less time in it.

    A clip's frames at once and one latent frame alone are timed in turn, each in both types; the least of three counts.

    Args:
        transformer: only its configuration is used.
        height, width, num_frames: of a clip, in pixels.
    """
    config: Any = transformer.config
    settings = {**config, "num_layers": 1}
    one_layer: Any = WanActTransformer3DModel.from_config(settings)
    one_layer.eval()
    networks = {torch.float32: one_layer, torch.bfloat16: copy.deepcopy(one_layer).bfloat16()}
    h, w = shapes.latent_size(height, width)
    frames = min(shapes.num_latent_frames(num_frames), MOST_FRAMES)
    times = {}
    for count in (frames, 1):
        for round_ in range(ROUNDS + 1):
            for dtype, network in networks.items():
                latents = torch.zeros(1, transformer.config.in_channels, count, h, w, dtype=dtype)
                text = torch.zeros(1, 1, transformer.config.text_dim, dtype=dtype)
                start = time.perf_counter()
                network(latents, torch.full((1, count), 500.0), text, return_dict=False)
                taken = time.perf_counter() - start
                if round_:  # the first one warms up
                    times[dtype, count] = min(taken, times.get((dtype, count), taken))
    full, half = (times[dtype, frames] / frames + times[dtype, 1] for dtype in networks)
    return torch.bfloat16 if half < MARGIN * full else torch.float32
