"""One training run from its arguments to its last step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from train.commands.ending import ending
from train.loop.config import NO_EFFECT, ConfigError, TrainConfig, parse, require_writable, stage_said
from train.loop.dist import Processes
from train.loop.export import require_free, require_free_file
from train.loop.progress import available_tracker
from train.loop.trainer import Trainer
from train.stages import refuse_unused, stage_class


def main(name: str | None, argv: list[str]) -> None:
    """Train a stage from the command line; None for the one that the settings name."""
    train(stage_said(argv) if name is None else name, argv)


def train(name: str, argv: list[str]) -> Trainer:
    """Train a stage with these command-line arguments.

    Raises:
        ValueError: for settings, data or checkpoints that cannot be used, in a sentence for the user.
    """
    stage = stage_class(name)
    config = parse(name, argv, stage.options, partial(refuse_unused, stage), stage.usual)
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
    start = config.checkpoint.init_from
    if start and not Path(start).exists():
        raise ConfigError(f"--init_from (--pt_dir) {start} is missing")
    file = _save_path(config)
    if file is not None:
        require_writable("save_path", file.parent)
        require_free_file(file, str(Path(config.checkpoint.output_path).resolve()))
    if config.data.cache_dir:
        require_writable("cache_dir", Path(config.data.cache_dir))
    processes = Processes(
        config.optim.mixed_precision,
        config.log.tracker,
        str(Path(config.checkpoint.output_path) / "logs"),
        config.shard.backend,
        config.shard.fsdp,
        config.shard.sharding_strategy,
        config.shard.cpu_offload,
    )
    trainer = Trainer(config, stage_class(config.stage_name)(config, processes.device), processes)
    trainer.run()
    if target and trainer.step == trainer.num_steps:
        trainer.export_model_dir(Path(target))
    if file is not None and trainer.step == trainer.num_steps:
        trainer.export_file(file)
    if processes.is_main:
        for line in ending(trainer.run_dir, config.model.model_dir):
            processes.print(line)
    processes.close()
    return trainer


def _save_path(config: TrainConfig) -> Path | None:
    """Where the trained transformer goes; in the run's own folder while somebody only tries."""
    if not config.checkpoint.save_path:
        return None
    file = Path(config.checkpoint.save_path)
    return Path(config.checkpoint.output_path) / file.name if config.debug else file
