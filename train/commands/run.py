"""One training run from its arguments to its last step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from train.loop.config import NO_EFFECT, TrainConfig, parse, require_writable
from train.loop.dist import Processes
from train.loop.export import require_free
from train.loop.progress import available_tracker
from train.loop.trainer import Trainer
from train.stages import refuse_unused, stage_class


def main(name: str, argv: list[str]) -> None:
    """Train a stage from the command line."""
    train(name, argv)


def train(name: str, argv: list[str]) -> Trainer:
    """Train a stage with these command-line arguments.

    Raises:
        ValueError: for settings, data or checkpoints that cannot be used, in a sentence for the user.
    """
    stage = stage_class(name)
    config = parse(name, argv, stage.options, partial(refuse_unused, stage))
    stage.check(config)
    for flag, reason in NO_EFFECT.items():
        if flag in config.given and getattr(config.model, flag):
            print(f"--{flag} has no effect here: {reason}", file=sys.stderr)
    return run(config)


def run(config: TrainConfig) -> Trainer:
    """Train with these settings, which have been checked."""
    config.log.tracker = available_tracker(config.log.tracker)
    target = config.checkpoint.export_model_dir
    if target:  # now, and not after the last step
        require_free(Path(target), str(Path(config.checkpoint.output_path).resolve()))
    require_writable("output_path", Path(config.checkpoint.output_path))
    if config.data.cache_dir:
        require_writable("cache_dir", Path(config.data.cache_dir))
    processes = Processes(
        config.optim.mixed_precision,
        config.log.tracker,
        str(Path(config.checkpoint.output_path) / "logs"),
        config.shard.backend,
        config.shard.fsdp,
    )
    trainer = Trainer(config, stage_class(config.stage_name)(config, processes.device), processes)
    trainer.run()
    if target and trainer.step == trainer.num_steps:
        trainer.export_model_dir(Path(target))
    processes.close()
    return trainer
