"""The speed card of a clip: seconds and memory that drawing one takes on this machine."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wanact import shapes
from wanact.actions import ActionTrack, channel_track
from wanact.bench import roofline
from wanact.bench.memory import peak_memory_gb
from wanact.bench.versus import PROMPT
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.placement import Clip
from wanact.media import video

STAGES = ("text", "encode", "denoise", "decode", "write")


def bench_clip(pipe: WanActPipeline, num_runs: int, **options: Any) -> dict[str, Any]:
    """Time whole clips, from the request to the written mp4, after one that warms up.

    Args:
        pipe: the checkpoint it flies is part of the measurement.
        num_runs: clips that are timed; the median of each stage counts.
        options: of the pipeline's call; None for the checkpoint's own, or the model's defaults.

    Returns:
        `seconds_total`, one `seconds_<stage>` each, `seconds_step`, `peak_memory_gb` of the whole process, and what
        was measured.
    """
    setting = {name: pipe.own_defaults[name] if value is None else value for name, value in options.items()}
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (setting["height"], setting["width"], 3), np.uint8)
    )
    num_actions = shapes.num_actions(setting["num_frames"])
    track = channel_track("forward", num_actions) if pipe.controller is not None else None
    runs = [_time_clip(pipe, image, track, setting, seed) for seed in range(num_runs + 1)][1:]
    result: dict[str, Any] = {f"seconds_{stage}": statistics.median(run[stage] for run in runs) for stage in STAGES}
    result["seconds_total"] = statistics.median(run["total"] for run in runs)
    result["seconds_step"] = result["seconds_denoise"] / setting["num_inference_steps"]
    result["peak_memory_gb"] = peak_memory_gb()
    if pipe.device.type == "cuda":
        result["peak_device_memory_gb"] = torch.cuda.max_memory_allocated(pipe.device) / 1e9
    result["checkpoint"] = None if pipe.checkpoint is None else f"{pipe.checkpoint.run}, step {pipe.checkpoint.step}"
    return result | setting | {"num_runs": num_runs}


def _time_clip(
    pipe: WanActPipeline, image: Image.Image, track: ActionTrack | None, setting: dict[str, Any], seed: int
) -> dict[str, float]:
    pipe.forget_prompts()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        frames = pipe(PROMPT, image, track, seed=seed, **setting)
        drawn = time.perf_counter()
        video.write_mp4(frames, Path(folder) / "clip.mp4", fps=pipe.defaults["fps"])
        end = time.perf_counter()
    return pipe.timings | {"write": end - drawn, "total": end - start}


def bench_floor(pipe: WanActPipeline, setting: dict[str, Any]) -> dict[str, Any]:
    """Work of a step and of decoding by count, this device's rates, and the seconds that nothing can beat.

    Args:
        setting: height, width, num_frames and guidance_scale.
    """
    branches = 2 if setting["guidance_scale"] > 1 else 1
    clip = Clip(setting["height"], setting["width"], setting["num_frames"], branches)
    transformer, vae = pipe.components.transformer, pipe.components.vae
    rates = {dtype: roofline.measure_rates(pipe.device, dtype) for dtype in {transformer.dtype, vae.dtype}}
    work = {
        "step": (roofline.step_work(transformer, clip, pipe.defaults["max_sequence_length"]), rates[transformer.dtype]),
        "decode": (roofline.decode_work(vae, clip), rates[vae.dtype]),
    }
    result = {
        "copy_gb_per_second": rates[transformer.dtype].bytes_per_second / 1e9,
        "matmul_tflop_per_second": rates[transformer.dtype].flops_per_second / 1e12,
    }
    for name, (amount, rate) in work.items():
        result |= {f"tflop_{name}": amount.flops / 1e12, f"gb_{name}": amount.bytes / 1e9}
        result[f"floor_seconds_{name}"] = rate.seconds(amount)
    return result


def format_clip(result: dict[str, Any]) -> str:
    """The result as a table for people."""
    title = (
        f"{result['num_frames']} frames of {result['height']}x{result['width']}, "
        f"{result['num_inference_steps']} steps, guidance {result['guidance_scale']:g}, "
        f"{result['checkpoint'] or 'base (no actions)'}, median of {result['num_runs']}"
    )
    names = ["text", "encode", "denoise", "step", "decode", "write", "total"]
    labels = {"encode": "first frame", "step": "  per step", "write": "write mp4"}
    lines = [f"{labels.get(name, name):<12} {result[f'seconds_{name}']:8.3f} s" for name in names]
    for name in ("step", "decode"):
        if f"floor_seconds_{name}" in result:
            floor, index = result[f"floor_seconds_{name}"], names.index(name)
            share = floor / result[f"seconds_{name}"]
            work = f"{result[f'tflop_{name}']:.3g} TFLOP, {result[f'gb_{name}']:.3g} GB"
            lines[index] += f"   floor {floor:.3f} s ({share:.0%} of it): {work}"
    lines.append(f"{'peak memory':<12} {result['peak_memory_gb']:8.2f} GB")
    if "peak_device_memory_gb" in result:
        lines.append(f"{'on the GPU':<12} {result['peak_device_memory_gb']:8.2f} GB")
    if "copy_gb_per_second" in result:
        copy, matmul = result["copy_gb_per_second"], result["matmul_tflop_per_second"]
        lines.append(f"this device copies {copy:.1f} GB/s and multiplies {matmul:.3g} TFLOP/s")
    if "ratio_vs_diffusers" in result:
        lines.append(
            f"against diffusers: {result['ratio_vs_diffusers']:.2f} times as fast in the same type, "
            f"{result['ratio_vs_diffusers_default']:.2f} times its float32; latents differ by at most "
            f"{result['max_abs_difference']:.1e}, pixels by {result['max_abs_difference_pixels']:.1e} of 1"
        )
    return "\n".join([title, *lines])


def device_name(device: torch.device) -> str:
    """What the numbers were measured on, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
