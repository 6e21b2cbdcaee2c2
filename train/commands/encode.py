"""`python -m train encode`: latents, words and masks of a share of a dataset, for a run that shares its cache, or as
shards for runs anywhere."""

from __future__ import annotations

import argparse
import re
import tempfile
from functools import partial
from pathlib import Path

from train.data.csv import write_skipped
from train.data.shards import write_skipped_beside
from train.loop.config import TrainConfig, parse, require, require_writable
from train.loop.dist import Processes
from train.stages import STAGES, refuse_unused, stage_class
from train.stages.clips import Share
from train.stages.flow import FlowStage
from wanact.errors import UserError
from wanact.files import expanded


def main(argv: list[str] | None = None) -> None:
    """Encode what a run with the same settings would encode before its first step, all of it or one share.

    The other arguments are those of the stage. `--cache_dir` is where entries go, and the run's must be the same; or
    they go into shards at any address, which the run gives as its --dataset_metadata_path.
    """
    parser = argparse.ArgumentParser(prog="python -m train encode", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("stage", nargs="?", default="i2v", help="whose settings follow; i2v if not given")
    parser.add_argument("--shard", type=share_of, default=(1, 1), metavar="i/n", help="the i-th of n shares")
    parser.add_argument(
        "--shards", metavar="ADDRESS", help="write shards (.tar) into this folder, s3://... or the like"
    )
    parser.add_argument("--rows_per_shard", type=count_of, default=256, help="rows in each of them")
    args, rest = parser.parse_known_args(argv)
    if args.stage not in STAGES or not issubclass(kind := stage_class(args.stage), FlowStage):
        raise UserError(f"stage {args.stage!r} encodes no clips; give i2v, action or causal, or nothing")
    config = parse(args.stage, rest, kind.options, partial(refuse_unused, kind))
    part, parts = args.shard
    if args.shards:
        share = _into_shards(kind, config, expanded(args.shards), args.rows_per_shard, part, parts)
    else:
        share = _into_cache(kind, config, part, parts)
    print(
        f"share {part} of {parts}: {share.rows} rows, {share.made} clips encoded, {share.found} were there, "
        f"{len(share.skipped)} left out"
    )


def _into_cache(kind: type[FlowStage], config: TrainConfig, part: int, parts: int) -> Share:
    require(config, "dataset_metadata_path", "cache_dir")
    folder = Path(config.data.cache_dir or "")
    require_writable("cache_dir", folder)
    config.checkpoint.output_path = config.checkpoint.output_path or str(folder)
    kind.check(config)
    processes = Processes(config.optim.mixed_precision)
    share = kind(config, processes.device).encode_share(processes, part - 1, parts)
    write_skipped(folder / f"skipped-{part}-of-{parts}.csv", share.skipped)
    return share


def _into_shards(kind: type[FlowStage], config: TrainConfig, address: str, rows: int, part: int, parts: int) -> Share:
    require(config, "dataset_metadata_path")
    if config.data.cache_dir:
        raise UserError("--cache_dir and --shards both say where latents go; keep one")
    with tempfile.TemporaryDirectory(prefix="encode-") as folder:
        config.checkpoint.output_path = config.checkpoint.output_path or folder
        kind.check(config)
        processes = Processes(config.optim.mixed_precision)
        share = kind(config, processes.device).encode_shards(processes, address, rows, part - 1, parts)
    write_skipped_beside(address, f"skipped-{part}-of-{parts}.csv", share.skipped)
    return share


def count_of(text: str) -> int:
    """A whole number above 0, for argparse."""
    count = int(text) if text.isdigit() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return count


def share_of(text: str) -> tuple[int, int]:
    """`1/8` as its two numbers, for argparse."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text!r} must be i/n with i from 1 to n, for example 1/8")
    return part, parts
