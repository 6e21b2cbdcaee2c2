"""The speed card: seconds and memory that flying takes on this machine.

python -m wanact bench clip [--model_dir DIR | --random ti2v_5b] [--vs-diffusers] [--json FILE] [--plot FILE]
python -m wanact bench live --run RUN [--minutes 10] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wanact.bench.block import bench_block, format_block
from wanact.bench.cache import bench_cache, format_cache
from wanact.bench.clip import bench_clip, bench_floor, device_name, format_clip
from wanact.bench.live import bench_live, format_live
from wanact.bench.live_browser import bench_browser, format_browser
from wanact.bench.plot import speed_plot
from wanact.bench.random_model import random_pipeline
from wanact.bench.versus import bench_versus
from wanact.errors import UserError
from wanact.files import place, write_json, write_text
from wanact.flying import placement_options
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.placement import Clip
from wanact.runs.ref import folder_of

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if vars(args).get("threads"):
        torch.set_num_threads(args.threads)
    if args.what == "block":
        height, width = args.size
        result = bench_block(args.preset, Clip(height, width, args.frames, branches=1))
        _write(args, result, format_block(result))
        return
    if args.what == "cache":
        rows = bench_cache(args.preset)
        _write(args, {"preset": args.preset, "flights": rows}, format_cache(args.preset, rows))
        return
    dtype = getattr(torch, args.dtype or "", args.dtype)  # None and `fastest` mean themselves
    options = placement_options.options_of(args)
    if args.random:
        if dtype == "fastest":
            raise UserError("--dtype fastest is for a model directory; with --random give the type itself")
        pipe = random_pipeline(args.random, args.device, dtype, options)
    else:
        pipe = WanActPipeline.from_model_dir(args.model_dir, device=args.device, dtype=dtype, fit=options)
        pipe.load_controller(args.run or _bundled_run(pipe))
    height, width = args.size or (None, None)
    if args.what == "live":
        seconds = 60 * args.minutes if args.minutes else args.seconds
        image = Image.open(ASSETS / "examples" / "coast.jpg") if _is_bundled(pipe) else None  # else noise
        result = bench_live(pipe, seconds, height, width, args.steps, image)
        result["device"] = device_name(pipe.device)
        table = format_live(result)
        if args.browser:
            result |= _bench_page(args, pipe, seconds)
            table += "\n" + format_browser(result)
        _write(args, result, table)
        return
    wanted = {"num_frames": args.frames, "num_inference_steps": args.steps, "guidance_scale": args.guidance}
    result = bench_clip(pipe, args.runs, height=height, width=width, **wanted)
    setting = {name: result[name] for name in ("height", "width", *wanted)}
    if args.floor:
        result |= bench_floor(pipe, setting)
    if args.vs_diffusers:
        result |= bench_versus(pipe, args.runs, setting)
    result |= {
        "device": device_name(pipe.device),
        "dtype": str(pipe.components.transformer.dtype).removeprefix("torch."),
    }
    _write(args, result, format_clip(result))
    if args.plot:
        write_text(args.plot, speed_plot(result))


def _write(args: argparse.Namespace, result: dict[str, Any], table: str) -> None:
    print(table)
    if args.json:
        write_json(args.json, result)


def _is_bundled(pipe: WanActPipeline) -> bool:
    return pipe.path.resolve() == (ASSETS / "nano").resolve()


def _bundled_run(pipe: WanActPipeline) -> Path | None:
    """What is flown of the bundled world: the checkpoint that it recommends. None for other worlds."""
    wanted = pipe.defaults.get("live_checkpoint")
    return folder_of(ASSETS / "runs", wanted) if _is_bundled(pipe) and wanted else None


def _bench_page(args: argparse.Namespace, pipe: WanActPipeline, seconds: float) -> dict[str, Any]:
    """The same flight through the page; the pipeline here only tells which run was flown."""
    if args.random or pipe.checkpoint is None:
        raise UserError("--browser needs a model directory and a causal run, which the page can offer")
    run = pipe.checkpoint.run_dir
    return bench_browser(str(args.model_dir), run.parent, seconds, run.name, args.threads)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write HEIGHTxWIDTH, for example 96x160")
    return int(height), int(width)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wanact bench", description=(__doc__ or "").partition("\n")[0])
    what = parser.add_subparsers(dest="what", required=True)
    clip = what.add_parser("clip", help="one clip, from the request to the written mp4")
    live = what.add_parser("live", help="a live flight with a causal checkpoint")
    for flown in (clip, live):
        _add_model(flown)
    live.add_argument("--seconds", type=float, default=60.0, help="of flight")
    live.add_argument("--browser", action="store_true", help="then again through the page, in headless Chromium")
    live.add_argument("--minutes", type=float, help="of flight; what has changed by its end shows drift")
    live.add_argument("--json", type=place, metavar="FILE", help="also write the numbers there")
    clip.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    clip.add_argument("--frames", type=_count, help="pixel frames, 4k+1; default: the model's")
    clip.add_argument("--vs-diffusers", action="store_true", help="draw in turns with stock diffusers and compare")
    clip.add_argument("--floor", action="store_true", help="count the work, measure the device, give the floor")
    clip.add_argument("--runs", type=_count, default=3, help="clips that are timed, after one that warms up")
    clip.add_argument("--json", type=place, metavar="FILE", help="also write the numbers there")
    clip.add_argument("--plot", type=place, metavar="FILE", help="also draw the stages as bars there, an SVG")
    block = what.add_parser("block", help="one layer of a large model at a clip's real size, on a CPU")
    block.add_argument("--preset", choices=("nano", "ti2v_5b"), default="ti2v_5b")
    block.add_argument("--size", type=_size, metavar="HxW", default=(480, 832), help="in pixels")
    block.add_argument("--frames", type=_count, default=81, help="pixel frames, 4k+1")
    block.add_argument("--threads", type=_count, help="CPU threads; default: torch's choice")
    block.add_argument("--json", type=place, metavar="FILE", help="also write the numbers there")
    cache = what.add_parser("cache", help="what a live flight of a large model remembers, without running it")
    cache.add_argument("--preset", choices=("nano", "ti2v_5b"), default="ti2v_5b")
    cache.add_argument("--json", type=place, metavar="FILE", help="also write the numbers there")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    """What is flown, and on what."""
    parser.add_argument(
        "--model_dir", default=str(ASSETS / "nano"), help="directory, or a name on the Hugging Face Hub"
    )
    parser.add_argument("--random", choices=("nano", "ti2v_5b"), help="random weights of this size instead")
    parser.add_argument(
        "--run", type=place, help="run or checkpoint to fly; default: the bundled one for nano, else the base"
    )
    parser.add_argument("--steps", type=_count, help="denoising steps; default: the model's, or the checkpoint's")
    parser.add_argument("--size", type=_size, metavar="HxW", help="in pixels; default: the model's")
    parser.add_argument("--threads", type=_count, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--dtype",
        choices=("fastest", "float32", "bfloat16", "float16"),
        help="default: float32 on a CPU, else bfloat16; fastest is what the page takes",
    )
    placement_options.add_arguments(parser)
