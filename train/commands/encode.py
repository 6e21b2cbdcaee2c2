"""`python -m train encode`: latents, words and masks of a share of a dataset, for a run that shares its cache."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

from train.data.csv import write_skipped
from train.loop.config import parse, require, require_writable
from train.loop.dist import Processes
from train.stages import STAGES, refuse_unused, stage_class
from train.stages.flow import FlowStage
from wanact.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """Encode what a run with the same settings would encode before its first step, all of it or one share.

    The other arguments are those of the stage; `--cache_dir` is where entries go, and the run's must be the same.
    """
    parser = argparse.ArgumentParser(prog="python -m train encode", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("stage", nargs="?", default="i2v", help="whose settings follow; i2v if not given")
    parser.add_argument("--shard", type=_share, default=(1, 1), metavar="i/n", help="the i-th of n shares")
    args, rest = parser.parse_known_args(argv)
    if args.stage not in STAGES or not issubclass(kind := stage_class(args.stage), FlowStage):
        raise UserError(f"stage {args.stage!r} encodes no clips; give i2v, action or causal, or nothing")
    config = parse(args.stage, rest, kind.options, partial(refuse_unused, kind))
    require(config, "dataset_metadata_path", "cache_dir")
    folder = Path(config.data.cache_dir or "")
    require_writable("cache_dir", folder)
    part, parts = args.shard
    config.checkpoint.output_path = config.checkpoint.output_path or str(folder)
    kind.check(config)
    processes = Processes(config.optim.mixed_precision)
    share = kind(config, processes.device).encode_share(processes, part - 1, parts)
    write_skipped(folder / f"skipped-{part}-of-{parts}.csv", share.skipped)
    print(
        f"share {part} of {parts}: {share.rows} rows, {share.made} clips encoded, {share.found} were there, "
        f"{len(share.skipped)} left out"
    )


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text!r} must be i/n with i from 1 to n, for example 1/8")
    return part, parts
