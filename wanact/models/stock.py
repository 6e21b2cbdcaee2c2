"""Stock diffusers on the same weights: what speed and pictures are compared with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline

from wanact import flow

PIPELINE_PATCH = [1, 2, 2]  # what diffusers' pipeline takes for granted when it writes a timestep for every token


def stock_pipeline(
    transformer: Any,
    vae: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: Any,
    dtype: torch.dtype | None = None,
    grid: flow.SigmaGrid = "from_one",
) -> WanImageToVideoPipeline:
    """diffusers' pipeline around parts of ours; the weights are shared.

    Args:
        dtype: None computes as ours does; float32 is what diffusers takes if nobody asks, and copies what is in
            another type.
        grid: of the sigmas; `from_one` leaves the scheduler its own.
    """
    if dtype not in (None, text_encoder.dtype):
        text_encoder = copy.deepcopy(text_encoder).to(dtype)
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=_shared(type(vae), vae),
        scheduler=_on_grid(scheduler, grid),
        transformer=_stock_transformer(transformer, dtype),
        expand_timesteps=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _on_grid(scheduler: Any, grid: flow.SigmaGrid) -> Any:
    """A scheduler like this one whose steps, which the pipeline asks for by their number alone, are those of a grid."""
    own = type(scheduler).from_config(scheduler.config)

    def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
        del own.set_timesteps  # back to the class's, which is called with the sigmas
        flow.set_steps(own, num_inference_steps, grid, device)
        own.set_timesteps = set_timesteps

    own.set_timesteps = set_timesteps
    return own


def _stock_transformer(ours: Any, dtype: torch.dtype | None) -> WanTransformer3DModel:
    stock = _shared(WanTransformer3DModel, ours)
    config, device = stock.config, next(ours.parameters()).device
    stock.rope = type(stock.rope)(config.attention_head_dim, tuple(config.patch_size), config.rope_max_seq_len)
    stock.rope.to(device)
    if list(config.patch_size) != PIPELINE_PATCH:
        stock.register_forward_pre_hook(_with_timesteps_of_own_patches, with_kwargs=True)
    return stock if dtype is None else stock.to(dtype)


def _with_timesteps_of_own_patches(stock: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The pipeline's timesteps, one a patch of 2x2 latents, as one a patch of the model: equal within a frame."""
    _, _, T, h, w = kwargs["hidden_states"].shape
    tokens = h * w // (stock.config.patch_size[1] * stock.config.patch_size[2])
    per_frame = kwargs["timestep"].unflatten(1, (T, -1))[:, :, 0]
    return args, kwargs | {"timestep": per_frame.repeat_interleave(tokens, dim=1)}


def _shared(cls: type, ours: Any) -> Any:
    """A model of the stock class whose parameters are those of ours."""
    with torch.device("meta"):
        stock = cls.from_config(ours.config)
    stock.load_state_dict(ours.state_dict(), assign=True)
    return stock.eval().requires_grad_(False)
