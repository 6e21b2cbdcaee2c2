"""`python -m train bench`: what saving and resuming cost, for the 5B model's controller or another one; or, with
`--data`, how fast shards or a stream can be read.

The weights are real in number and shape and the optimizer is Adam's, but nothing is learned: no base model is loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from train.data import streams
from train.loop.config import parse
from train.loop.dist import Processes
from train.loop.reader import Reader
from train.loop.sampler import StepSampler
from train.loop.seeding import derive_seed
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
from wanact.errors import UserError
from wanact.files import expanded, place, write_json
from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController
from wanact.runs import store


def main(argv: list[str] | None = None) -> int:
    """Measure one save and one resume, or how fast data comes."""
    parser = argparse.ArgumentParser(prog="python -m train bench", description=main.__doc__)
    parser.add_argument("--config", default="wan_ti2v_5b", choices=list(ACTION_CONTROLLER_CONFIGS))
    parser.add_argument("--json", type=place, help="write the figures here")
    parser.add_argument("--work_dir", type=place, help="where to save; a temporary folder if not given")
    parser.add_argument("--data", metavar="ADDRESS", help="read these shards, or this stream, instead")
    parser.add_argument("--workers", type=int, default=4, help="threads that read them; 0 reads when asked")
    parser.add_argument("--samples", type=int, default=10_000, help="how many are read, in the order of a run")
    args = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=args.work_dir))
    try:
        if args.data:
            figures = measure_reading(expanded(args.data), folder, args.workers, args.samples)
        else:
            figures = measure(args.config, folder)
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    if args.json:
        write_json(args.json, figures)
    return 0


def measure(name: str, run: Path) -> dict[str, float | str]:
    """Seconds of one save and one resume of a controller with all its parameters trained by Adam in float32."""
    config = parse("synthetic", [f"--output_path={run}", "--max_steps=2", "--save_full_state"])
    processes = Processes("no")

    def trainer() -> Trainer:
        network = partial(WanActionController, **ACTION_CONTROLLER_CONFIGS[name])
        return Trainer(config, SyntheticStage(config, processes.device, network), processes)

    def set_up() -> None:
        begun = trainer()
        begun.setup()
        begun.close()

    set_up()  # what only the first one waits for is no cost of building
    first = trainer()
    build_seconds = _seconds(first.setup)
    first.run()
    assert first.saver is not None, "a run of a stage that is saved has one"
    metadata = store.read_metadata(store.resolve(run))
    resume_seconds = _seconds(set_up)
    return {
        "controller": name,
        "parameters_million": round(metadata["config_summary"]["parameters"] / 1e6, 2),
        "checkpoint_mb": round(sum(entry["bytes"] for entry in metadata["files"].values()) / 1e6, 1),
        "save_blocked_seconds": round(first.blocked_seconds, 3),
        "save_written_seconds": round(first.saver.last_seconds, 3),
        "build_seconds": round(build_seconds, 3),
        "build_and_resume_seconds": round(resume_seconds, 3),
        "resume_seconds": round(resume_seconds - build_seconds, 3),
        "torch": torch.__version__,
    }


def measure_reading(address: str, folder: Path, workers: int, samples: int) -> dict[str, float | str]:
    """How fast samples come in the order of a run, and how soon after a resume; nothing is decoded."""
    if not streams.is_stream(address):
        raise UserError(f"--data {address} is neither shards nor a stream")
    first_seconds = _seconds(lambda: streams.open_source(address, folder))
    source = streams.open_source(address, folder)
    samples = max(2, min(samples, len(source)))

    def order(seed: int, epoch: int, _: int) -> torch.Tensor | None:
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        return streams.stream_order(source.counts, source.lanes, streams.BLOCK, generator) if source.lanes else None

    def read(first: int, count: int) -> tuple[int, str]:
        sampler = StepSampler(len(source), 1, 0, "bench", 1, 1, 1, order)
        reader = Reader(lambda draws: {"samples": [source[draw.index] for draw in draws]}, sampler, 0, workers)
        size, digest = 0, hashlib.sha256()
        for position in range(first, first + count):
            (sample,) = reader.read(position, position, 0)[1]["samples"]
            size += sum(map(len, sample.files.values()))
            digest.update(sample.key.encode() + b"".join(sample.files.values()))
        reader.close()
        return size, digest.hexdigest()

    began = time.perf_counter()
    size, _ = read(0, samples)
    seconds = time.perf_counter() - began
    rest = samples - samples // 2
    _, wanted = read(samples // 2, rest)
    began = time.perf_counter()
    source = streams.open_source(address, folder)
    read(samples // 2, 1)
    resume_seconds = time.perf_counter() - began
    return {
        "samples": len(source),
        "shards": len(source.counts),
        "read": samples,
        "workers": workers,
        "samples_per_second": round(samples / seconds, 1),
        "mb_per_second": round(size / seconds / 1e6, 1),
        "first_open_seconds": round(first_seconds, 3),
        "resume_in_the_middle_seconds": round(resume_seconds, 3),
        "resumed_samples_are_the_same": str(read(samples // 2, rest)[1] == wanted),
    }


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
