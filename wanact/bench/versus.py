"""WanAct against stock diffusers: the same clip on the same weights, in turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from wanact.flying.pipeline import WanActPipeline
from wanact.models import vae as vae_ops
from wanact.models.stock import stock_pipeline

PROMPT = "a drone flies over green hills at noon"


def bench_versus(pipe: WanActPipeline, num_runs: int, setting: dict[str, Any]) -> dict[str, Any]:
    """Seconds of whole clips, ours and diffusers', drawn in turns so that a busy machine slows both.

    Args:
        pipe: its base model is flown, since diffusers knows no actions.
        num_runs: clips of each, after one that warms up.
        setting: height, width, num_frames, num_inference_steps and guidance_scale.

    Returns:
        `ratio_vs_diffusers` in the same type and `ratio_vs_diffusers_default` against diffusers' own float32, both the
        median over the pairs; `max_abs_difference` of the final latents and `max_abs_difference_pixels` of the frames
        in [0, 1], and the seconds.
    """
    pipe.load_controller(None)
    pipe.defaults["perturbed_layers"] = []  # diffusers' pipeline has none
    parts = pipe.components
    networks = (parts.transformer, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler)
    grid = pipe.defaults["sigma_grid"]
    rivals = {"diffusers": stock_pipeline(*networks, grid=grid)}
    if parts.transformer.dtype != torch.float32:
        rivals["diffusers_default"] = stock_pipeline(*networks, dtype=torch.float32, grid=grid)
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (setting["height"], setting["width"], 3), np.uint8)
    )
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in rivals}}
    for seed in range(num_runs + 1):
        seconds["ours"].append(_timed(pipe, lambda seed=seed: _draw_ours(pipe, image, setting, seed)))
        for name, rival in rivals.items():
            seconds[name].append(
                _timed(pipe, lambda rival=rival, seed=seed: _draw_stock(pipe, rival, image, setting, seed, "np"))
            )
    timed = {name: values[1:] for name, values in seconds.items()}

    def ratio(name: str) -> float:
        return statistics.median(b / a for a, b in zip(timed["ours"], timed[name], strict=True))

    result: dict[str, Any] = {"ratio_vs_diffusers": ratio("diffusers")}
    result["ratio_vs_diffusers_default"] = ratio("diffusers_default" if "diffusers_default" in timed else "diffusers")
    result |= {f"seconds_{name}_runs": values for name, values in timed.items()}
    return result | _difference(pipe, rivals["diffusers"], image, setting)


def _timed(pipe: WanActPipeline, draw: Any) -> float:
    pipe.forget_prompts()
    _wait(pipe)
    start = time.perf_counter()
    draw()
    _wait(pipe)
    return time.perf_counter() - start


def _draw_ours(pipe: WanActPipeline, image: Image.Image, setting: dict[str, Any], seed: int) -> np.ndarray:
    return pipe(PROMPT, image, None, seed=seed, **setting)


def _draw_stock(
    pipe: WanActPipeline, rival: Any, image: Image.Image, setting: dict[str, Any], seed: int, output_type: str
) -> Any:
    return rival(
        image,
        PROMPT,
        negative_prompt=pipe.defaults["negative_prompt"],
        generator=torch.Generator().manual_seed(seed),
        max_sequence_length=pipe.defaults["max_sequence_length"],
        output_type=output_type,
        **setting,
    ).frames


def _difference(pipe: WanActPipeline, rival: Any, image: Image.Image, setting: dict[str, Any]) -> dict[str, float]:
    """Largest differences of the same clip: of its latents, and of its frames in [0, 1]."""
    last: list[torch.Tensor] = []
    pipe(PROMPT, image, None, seed=0, on_step=lambda progress: last.append(progress.latents_preview), **setting)
    ours = last[-1]  # after the last step the estimate of the clean clip is the clip
    theirs = _draw_stock(pipe, rival, image, setting, 0, "latent").to(ours.device, ours.dtype)
    vae = pipe.components.vae
    frames = vae_ops.decode(vae, ours.to(vae.dtype))
    with torch.no_grad():
        stock_frames = rival.vae.decode(vae_ops.denormalise(rival.vae, theirs.to(vae.dtype))).sample
    return {
        "max_abs_difference": float((ours - theirs).abs().max()),
        "max_abs_difference_pixels": float((frames - stock_frames).abs().max()) / 2,
    }


def _wait(pipe: WanActPipeline) -> None:
    if pipe.device.type == "cuda":
        torch.cuda.synchronize(pipe.device)
