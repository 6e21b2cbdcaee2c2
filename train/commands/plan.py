"""`python -m train plan`: the memory that a run takes, in a table, from the settings that it would be started with."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from train.commands.evaluate.tables import print_table, write_numbers
from train.loop.config import ConfigError, TrainConfig, parse, stage_said
from train.loop.legacy import base_model_dir
from train.stages import STAGES, refuse_unused, stage_class
from train.stages.flow import FlowStage
from train.stages.memory import HOST, Model, Plan, Team, plan
from wanact.files import place
from wanact.models import presets
from wanact.models.components import NETWORKS
from wanact.weights import model_dir

GB = 1e9


def main(argv: list[str]) -> None:
    """Print what each process of a run takes; the run's own flags and files follow, as they would be given to it."""
    parser = argparse.ArgumentParser(
        prog="python -m train plan",
        usage="python -m train plan [STAGE] [--processes N] [--size NAME] [--json FILE] --config FILE ...",
        description=main.__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, default=1, help="GPUs, one process each")
    parser.add_argument("--processes_per_machine", type=int, help="all of them if not given")
    parser.add_argument(
        "--size",
        choices=sorted(presets.PRESETS),
        help="count a model of this size; the settings' model directory if not given",
    )
    parser.add_argument("--json", type=place, help="file for the numbers")
    named = argv[:1] if argv and argv[0] in STAGES else []
    own, settings = parser.parse_known_args(argv[len(named) :])
    for name in ("processes", "processes_per_machine"):
        if getattr(own, name) is not None and getattr(own, name) < 1:
            raise ConfigError(f"--{name} {getattr(own, name)} must be at least 1")
    with _among(own.processes):
        counted, config, kind = planned(named[0] if named else stage_said(settings), settings, own)
    _print(counted, config, kind.name, own.processes)
    if own.json:
        rows = [asdict(row) for row in counted.rows]
        write_numbers(
            own.json, {"clip": counted.clip, "rows": rows, "total": counted.total(), "saving": counted.saving}
        )


def planned(name: str, settings: list[str], own: argparse.Namespace) -> tuple[Plan, TrainConfig, type[FlowStage]]:
    """What was counted, and for which run.

    Raises:
        ConfigError: if the settings cannot be used, or are of a stage that is not counted.
    """
    kind = stage_class(name)
    if not issubclass(kind, FlowStage):
        raise ConfigError(f"stage {name} is small and not counted; plan is for i2v, vidar, action, causal and vidarc")
    config = parse(name, settings, kind.options, partial(refuse_unused, kind), kind.usual)
    precision = config.optim.mixed_precision
    team = Team(
        count=own.processes,
        on_a_machine=min(own.processes_per_machine or own.processes, own.processes),
        sharded=config.shard.fsdp and own.processes > 1,
        strategy=config.shard.sharding_strategy,
        cpu_offload=config.shard.cpu_offload and config.shard.fsdp and own.processes > 1,
        compute_dtype=torch.float32 if precision == "no" else torch.bfloat16,  # auto, on a GPU
    )
    return plan(kind, config, _model(config, own.size), team), config, kind


def _model(config: TrainConfig, size: str | None) -> Model:
    if size is not None:
        parts = presets.PRESETS[size]
        bases = {"transformer": presets.TRANSFORMER, "vae": presets.VAE, "text_encoder": {}}
        own = {part: parts[part] if "_class_name" in parts[part] else bases[part] | parts[part] for part in NETWORKS}
        return Model(own, model_dir.DEFAULTS)
    said = config.model
    if said.model_dir and not Path(said.model_dir).is_dir():
        raise ConfigError(
            f"{said.model_dir} is not there; give --model_dir, or --size ti2v_5b to count it without files"
        )
    path = base_model_dir(said)
    configs = {part: model_dir.network_config(path, part) for part in NETWORKS}
    return Model(configs, model_dir.read_metadata(path)["defaults"])


@contextmanager
def _among(count: int) -> Iterator[None]:
    """The plan's words for sizes count over all processes, as many as a launcher says."""
    before = os.environ.get("WORLD_SIZE")
    os.environ["WORLD_SIZE"] = str(count)
    try:
        yield
    finally:
        os.environ.pop("WORLD_SIZE")
        if before is not None:
            os.environ["WORLD_SIZE"] = before


def _print(counted: Plan, config: TrainConfig, name: str, processes: int) -> None:
    rounds = config.optim.gradient_accumulation_steps
    print(f"\n{name}, {processes} processes, {rounds} forwards an update, {counted.clip}\n")
    rows = [
        (row.what + (", in host memory" if row.where == HOST else ""), row.how, row.size / GB) for row in counted.rows
    ]
    rows.append(("together, on the device", "", counted.total() / GB))
    if offloaded := counted.total(HOST):
        rows.append(("together, in host memory", "", offloaded / GB))
    print_table(("each process", "", "GB"), rows)
    who = "each process" if config.shard.fsdp and processes > 1 else "the main process"
    print(f"\nwhile a checkpoint is written, {who} takes {counted.saving / GB:.3g} GB of host memory")
