"""`python -m train export`: files to fly with, or a whole model directory, from a run or a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.loop.export import new_folder, require_free, trained_networks, write_model_dir
from wanact.files import CheckpointError, place, read_json
from wanact.runs import store
from wanact.runs.publish import write_flight_files
from wanact.runs.ref import run_of

DTYPES = ("float32", "float16", "bfloat16")


def main(argv: list[str] | None = None) -> int:
    """Write what a run or checkpoint adds to its base model, or the base model with it."""
    parser = argparse.ArgumentParser(prog="python -m train export", description=main.__doc__)
    parser.add_argument("path", type=place, help="run (its newest checkpoint) or checkpoint")
    parser.add_argument("--output_dir", type=place, help="for files to fly with; the run's folder if not given")
    parser.add_argument("--export_model_dir", type=place, help="write a model directory instead, transformer included")
    parser.add_argument("--model_dir", type=place, help="its base; the one that the run was trained on if not given")
    parser.add_argument("--export_dtype", choices=DTYPES, default="bfloat16", help="of the model directory's weights")
    args = parser.parse_args(argv)
    checkpoint = store.resolve(args.path)
    if (checkpoint / store.METADATA).exists():
        store.verify(checkpoint)
    if args.export_model_dir is None:
        written = write_flight_files(store.load_flight_weights(checkpoint), args.output_dir or run_of(checkpoint))
        print("\n".join(f"wrote {file}" for file in written))
        return 0
    weights = trained_networks(checkpoint)
    base = args.model_dir or _base_of(checkpoint)
    origin = {"run": str(args.path.resolve()), "step": store.checkpoint_info(checkpoint).step}
    require_free(args.export_model_dir, origin["run"])  # now, and not after the base has been read
    with new_folder(args.export_model_dir, origin) as temporary:
        write_model_dir(base, temporary, weights, args.export_dtype)
    print(f"wrote the model directory {args.export_model_dir}")
    return 0


def _base_of(checkpoint: Path) -> Path:
    config = read_json(checkpoint / "train_config.json")
    base = config.get("model", {}).get("model_dir")
    if not base:
        raise CheckpointError(f"{checkpoint} does not say what it was trained on; give --model_dir")
    return Path(base)
