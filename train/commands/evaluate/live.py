"""Whether long flights go as the keys say."""

from __future__ import annotations

import argparse
from typing import Any

from tqdm import tqdm

from train.commands.evaluate.starts import first_frames
from train.commands.evaluate.tables import add_common, print_table, write_numbers
from wanact.actions import CHANNELS
from wanact.control_card.live import measure_live
from wanact.files import place
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream


def add(commands: Any) -> None:
    parser = add_common(commands.add_parser("live", help="whether long flights go as the keys say"), _evaluate_live)
    parser.add_argument("--run_dir", type=place, required=True, help="causal run or checkpoint")
    parser.add_argument("--first_frames", type=int, default=20)
    parser.add_argument("--latent_frames", type=int, default=200, help="of each flight")
    parser.add_argument("--json", type=place, help="file for the numbers")


def _evaluate_live(args: argparse.Namespace) -> None:
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    pipe.load_controller(args.run_dir)
    starts = list(first_frames(args.first_frames, pipe.defaults["height"], pipe.defaults["width"]))

    def begin(number: int) -> WanActStream:
        start = starts[number]
        return WanActStream(pipe, start.image, start.prompt, start.seed)

    with tqdm(desc="flights", unit=" latent frames") as bar:
        result = measure_live(begin, len(starts), args.latent_frames, lambda: bar.update(1)).summary()
    write_numbers(args.json, result | {"checkpoint": f"{args.run_dir}", "latent_frames": args.latent_frames})
    rows = [(name, *result[name].values()) for name in ("sign_accuracy", "sign_accuracy_late", "response")]
    print_table(("", *CHANNELS), rows)
    pairs = result["out_and_back_psnr_db"]
    print_table(
        ("out and back, dB", "mean", "least"), [(p, pairs[p], result["out_and_back_least_db"][p]) for p in pairs]
    )
