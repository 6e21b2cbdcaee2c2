"""`python -m train bench`: what saving and resuming cost, for the 5B model's controller or another one.

The weights are real in number and shape and the optimizer is Adam's, but nothing is learned: no base model is loaded.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from train.loop.config import parse
from train.loop.dist import Processes
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
from wanact.files import place, write_json
from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController
from wanact.runs import store


def main(argv: list[str] | None = None) -> int:
    """Measure one save and one resume."""
    parser = argparse.ArgumentParser(prog="python -m train bench", description=main.__doc__)
    parser.add_argument("--config", default="wan_ti2v_5b", choices=list(ACTION_CONTROLLER_CONFIGS))
    parser.add_argument("--json", type=place, help="write the figures here")
    parser.add_argument("--work_dir", type=place, help="where to save; a temporary folder if not given")
    args = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=args.work_dir))
    try:
        figures = measure(args.config, folder)
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:22} {value}")
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


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
