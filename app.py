"""Serve the page: python app.py --model_dir DIR --runs DIR --host ADDRESS --port N."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    import spaces  # noqa: F401  # pyright: ignore[reportMissingImports]  on ZeroGPU it must come before torch
except ImportError:
    pass

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wanact.errors import UserError, in_words, unsupported_system
from wanact.files import expanded
from wanact.flying.placement_options import add_arguments, options_of
from wanact.ui.address import require_free

ROOT = Path(__file__).resolve().parent
PILOTS = ROOT / "assets" / "pilots"  # come with the app, whatever runs are named
DTYPES = ("float32", "bfloat16", "float16")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fly a drone inside a video model, in the browser.")
    model_dir = os.environ.get("WANACT_MODEL_DIR") or str(ROOT / "assets" / "nano")
    runs = os.environ.get("WANACT_RUNS") or str(ROOT / "assets" / "runs")
    parser.add_argument("--model_dir", default=model_dir, help="model directory, or org/name on the Hugging Face Hub")
    parser.add_argument(
        "--runs", nargs="+", default=[runs], metavar="DIR", help="folders of trained runs, or hf://org/name"
    )
    parser.add_argument(
        "--data",
        action="extend",
        nargs="+",
        default=[],
        metavar="DIR",
        help="data set to look at on the page Data, by everybody who may open the page: a folder with clips.csv, a "
        "table, or a manifest of episodes",
    )
    parser.add_argument(
        "--allow_edits",
        action="store_true",
        help="print an address whose browsers may write notes, stars and cards into the runs, also where the page is "
        "served to other machines; for private hosts",
    )
    parser.add_argument(
        "--embed_in",
        nargs="+",
        default=["https://huggingface.co", "https://*.hf.space"] if os.environ.get("SPACE_ID") else [],
        metavar="ORIGIN",
        help="sites that may show the page in a frame, as https://example.com; * for any",
    )
    parser.add_argument(
        "--pt_dir", action="append", default=[], metavar="FILE", help="fine-tuned weights on top, whole or in part"
    )
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE", help="LoRA on top: a file, or peft's folder"
    )
    parser.add_argument(
        "--causal",
        type=int,
        metavar="WINDOW",
        help="the base draws each latent frame from so many before it, and flies live; 0 draws all frames at once. "
        "Without it a file of --pt_dir is causal if it says so (vidarc.pt)",
    )
    host = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"  # a Space sets it
    parser.add_argument("--host", default=host, help="address to serve on; 0.0.0.0 to accept other machines")
    parser.add_argument("--port", type=int, default=None, help="port; 7860 or the next free one if not given")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ...; a GPU if there is one")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=None,
        help="bfloat16 on a GPU; on a CPU, that or float32: what is faster here",
    )
    parser.add_argument(
        "--shared",
        metavar="DIR",
        default=os.environ.get("WANACT_SHARED"),
        help="folder for flights that visitors share and the best times of courses; without it both end with the app",
    )
    parser.add_argument("--root_path", default=None, help="path under which a proxy serves the page")
    add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model, open the page and stay until interrupted; 2 if something that was asked for cannot be had."""
    args = parse_args(argv)
    if (problem := unsupported_system()) is not None:
        return _refuse(problem)
    if args.port is not None:
        try:
            require_free(args.host, args.port)  # before minutes go into a model
        except UserError as error:
            return _refuse(in_words(error))

    import torch

    from wanact.data.sets import DataSet
    from wanact.flying.pipeline import WanActPipeline
    from wanact.ui.doors import check_origins
    from wanact.ui.edits import Edits
    from wanact.ui.engine import Engine
    from wanact.ui.page import build_page, launch_options
    from wanact.ui.shares import Shares
    from wanact.weights.layouts import resolve_runs
    from wanact.world.truth import fly_sample

    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # of a shared machine, the cores that are ours
    print(f"Loading {args.model_dir}", flush=True)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        data = [DataSet(Path(expanded(name))) for name in args.data]
        runs = [resolve_runs(expanded(name)) for name in args.runs]
        for folder in runs:
            if not folder.is_dir():
                print(f"{folder} is no folder of runs: nothing from there is offered.", file=sys.stderr)
        pipe = WanActPipeline.from_model_dir(
            expanded(args.model_dir),
            device=device,
            dtype=getattr(torch, args.dtype) if args.dtype else "fastest",
            fit=options_of(args),
            fine_tuned=[*args.pt_dir, *args.lora],
            causal=args.causal,
        )
        for note in pipe.notes:
            print(note, flush=True)
        edits = Edits.new() if _may_edit(args) else Edits()
        shares = Shares(Path(expanded(args.shared))) if args.shared else None
        engine = Engine(pipe, [*runs, PILOTS], edits=edits, truth=fly_sample, shares=shares, data=data)
        demo = build_page(engine)
        _, url, _ = demo.launch(
            server_name=args.host,
            server_port=args.port,
            root_path=args.root_path,
            prevent_thread_lock=True,
            **launch_options(edits, check_origins(args.embed_in)),
        )
    except UserError as error:
        return _refuse(in_words(error))
    except OSError as error:
        if "empty port" in str(error):  # Gradio's words for ports that are taken
            return _refuse(f"no port is free on {args.host}; stop another program, or give a port with --port")
        return _refuse(in_words(error))
    except RuntimeError as error:
        return _refuse(f"device {device!r} cannot be used: {str(error).splitlines()[0]}")
    print(f"WanAct is at {url}", flush=True)
    if edits.are_possible:
        print(f"To keep notes, stars and cards with the runs, open {edits.address(url)}", flush=True)
    demo.block_thread()
    return 0


def _may_edit(args: argparse.Namespace) -> bool:
    """Whether an address is printed whose browsers may write into the runs; others never may."""
    at_home = args.host in ("127.0.0.1", "localhost", "::1") and not os.environ.get("SPACE_ID")
    return args.allow_edits or at_home


def _refuse(reason: str) -> int:
    print(f"app.py: {' '.join(reason.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
