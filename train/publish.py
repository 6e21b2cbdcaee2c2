"""`python -m train publish`: the steps of a run that are worth keeping, as a smaller run that only flies."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from train.config import ConfigError
from train.export import write_flight_files
from wanact import checkpoints
from wanact.checkpoints import CheckpointInfo

# What a reader of a published checkpoint asks; settings of resuming, sums and machine paths stay behind.
KEPT = ("epoch", "loss", "reason", "stage", "config_summary", "versions", "timestamp")


def publish(run: Path, out: Path, steps: list[int] | None = None, base_model: str | None = None) -> list[Path]:
    """Copy what flies of some checkpoints of a run.

    Args:
        run: a run with verified checkpoints.
        out: folder of the new run; must not exist.
        steps: which checkpoints; all if not given.
        base_model: written into the configuration instead of the path that the run was trained on.

    Returns:
        The new checkpoints.

    Raises:
        ConfigError: if a step is not there.
        CheckpointError: if a checkpoint is damaged.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder for --out")
    found = {info.step: info for info in checkpoints.list_checkpoints(run)}
    missing = [step for step in steps or [] if step not in found]
    if missing or not found:
        raise ConfigError(f"{run} has no checkpoint of step {missing}; it has {sorted(found)}")
    written = [_publish_one(found[step], out, base_model) for step in sorted(steps or found)]
    shutil.copyfile(run / "log.jsonl", out / "log.jsonl")
    weights = checkpoints.load_flight_weights(written[-1])
    checkpoints.write_json(out / checkpoints.RUN_CONFIG, weights.config)
    return written


def _publish_one(info: CheckpointInfo, out: Path, base_model: str | None) -> Path:
    checkpoints.verify(info.path)
    weights = checkpoints.load_flight_weights(info.path)
    if base_model is not None:
        weights.config["base_model"] = base_model
    metadata = {name: info.metadata[name] for name in KEPT if name in info.metadata}
    return checkpoints.write_checkpoint(out, info.step, lambda folder: write_flight_files(weights, folder), metadata)


def main(argv: list[str] | None = None) -> None:
    """Write a run that only flies: weights, configuration, metadata and log of chosen steps."""
    parser = argparse.ArgumentParser(prog="python -m train publish", description=main.__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    parser.add_argument("--steps", type=int, nargs="+", help="steps to keep; all if not given")
    parser.add_argument("--base_model", help="name of the base model to write, instead of a path of this machine")
    args = parser.parse_args(argv)
    for path in publish(args.run, args.out, args.steps, args.base_model):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
