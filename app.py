"""Serve the page: python app.py --model_dir DIR --runs DIR --host ADDRESS --port N."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    import spaces  # noqa: F401  on ZeroGPU it must come before torch
except ImportError:
    pass

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
DTYPES = ("float32", "bfloat16", "float16")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fly a drone inside a video model, in the browser.")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "assets" / "nano", help="model directory")
    parser.add_argument("--runs", type=Path, default=ROOT / "assets" / "runs", help="folder of trained runs")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 for every one")
    parser.add_argument("--port", type=int, default=None, help="port; 7860 or the next free one if not given")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ...; a GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="float32 on a CPU and bfloat16 elsewhere")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model, open the page and stay until interrupted; 2 if something that was asked for cannot be had."""
    args = parse_args(argv)
    if not args.runs.is_dir():
        print(f"{args.runs} is no folder: the page offers the base model only.", file=sys.stderr)

    import torch

    from wanact.model_dir import ModelDirError
    from wanact.pipeline import WanActPipeline
    from wanact.ui.engine import Engine
    from wanact.ui.page import build_page, launch_options

    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # of a shared machine, the cores that are ours
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pipe = WanActPipeline.from_model_dir(
            args.model_dir, device=device, dtype=getattr(torch, args.dtype) if args.dtype else None
        )
        demo = build_page(Engine(pipe, args.runs))
        _, url, _ = demo.launch(
            server_name=args.host, server_port=args.port, prevent_thread_lock=True, **launch_options()
        )
    except ModelDirError as error:
        return _refuse(str(error))
    except OSError as error:  # Gradio's word for a port that is taken
        return _refuse(f"the page cannot be served: {error}")
    except RuntimeError as error:
        return _refuse(f"device {device!r} cannot be used: {str(error).splitlines()[0]}")
    print(f"WanAct is at {url}", flush=True)
    demo.block_thread()
    return 0


def _refuse(reason: str) -> int:
    print(f"app.py: {' '.join(reason.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
