"""How well the inverse dynamics model reads flights that it was not trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train.commands.evaluate.tables import print_table, write_numbers
from train.data import csv
from wanact.data.camera import AXES
from wanact.files import place
from wanact.models.idm import FOLDER, FULL, IDMError, InverseDynamics, load_idm, signed_axes


def add(commands: Any) -> None:
    parser = commands.add_parser("idm", help="how well actions are read from frames")
    parser.add_argument("--idm", type=place, default=FOLDER, help="folder with the model")
    parser.add_argument("--dataset", type=place, required=True, help="folder that `train simulate` wrote, held out")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--json", type=place, help="file for the numbers")

    def run(args: argparse.Namespace) -> None:
        model = load_idm(args.idm)
        if model is None:
            raise IDMError(f"{args.idm} holds no inverse dynamics model; `python -m train idm` makes one")
        _show(measure(model, args.dataset, args.clips, args.num_frames), args.json)

    parser.set_defaults(run=run)


def _show(result: dict[str, Any], path: Path | None) -> None:
    axes = {name: values for name, values in result.items() if isinstance(values, dict)}
    columns = ("mean_error", "mean_error_of_full", "sign_accuracy", "gain", "r2")
    print_table(("", *columns), [(axis, *(values[name] for name in columns)) for axis, values in axes.items()])
    write_numbers(path, result)


def measure(model: InverseDynamics, dataset: Path, count: int, num_frames: int) -> dict[str, Any]:
    """Errors over held-out flights, for each axis.

    Returns:
        For each axis: `mean_error` in units of a track, `mean_error_of_full` over the full deflection, `sign_accuracy`
        where at least a quarter of it is flown, `gain` (slope of what is read over what was flown) and `r2`.
    """
    read, true = [], []
    records = csv.read_records(dataset / "clips.csv")[:count]
    for number, record in enumerate(tqdm(records, desc="clips"), start=1):
        row = csv.parse_row(record, number, dataset, num_frames, needs_action=True)
        assert row.track is not None, "parse_row was asked for actions"
        height, width = model.config.height, model.config.width
        read.append(model.read(csv.clip_frames(row, num_frames, height, width, "crop")))
        true.append(signed_axes(row.track) * np.array(FULL))
    return {"clips": len(read)} | errors(np.concatenate(read), np.concatenate(true))


def errors(read: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """The figures of `measure` from axes [N, 4] that were read and flown."""
    result = {}
    for i, axis in enumerate(AXES):
        a, b, full = read[:, i], true[:, i], FULL[i]
        flown = np.abs(b) >= full / 4
        error = np.abs(a - b).mean()
        spread = np.square(b - b.mean()).sum()
        result[axis] = {
            "mean_error": float(error),
            "mean_error_of_full": float(error / full),
            "sign_accuracy": float((a[flown] * b[flown] > 0).mean()) if flown.any() else None,
            "gain": float((a * b).sum() / max((b * b).sum(), 1e-12)),
            "r2": float(1 - np.square(a - b).sum() / max(spread, 1e-12)),
        }
    return result
