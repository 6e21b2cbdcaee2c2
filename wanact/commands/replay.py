"""Fly records again, on one checkpoint or several.

    python -m wanact replay FILE --checkpoints RUN RUN@552 base --out DIR
    python -m wanact replay FOLDER --checkpoints A B --table

FILE is a flight record; a folder of them is a benchmark. The same record on the same checkpoint, machine and build
gives the same frames. RUN is a run (its newest checkpoint), RUN@552, RUN@best and RUN@latest name one, and `base` is
the model without actions. Without --checkpoints a record is flown on what it was recorded with, found in --runs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wanact.control_card.clip import measure_clip
from wanact.files import CheckpointError, place, visible, write_json
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.record import FlightError, FlightRecord
from wanact.flying.replay import replay
from wanact.media.video import write_mp4
from wanact.runs import store
from wanact.runs.ref import BASE, BASE_MODEL, CheckpointRef, split_name

ASSETS = Path(__file__).resolve().parents[2] / "assets"
COLUMNS = ("control", "runs", "agreement", "likeness", "lag", "sharpness", "colour")


def main(argv: list[str] | None = None) -> int:
    """Fly records again; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m wanact replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", type=place, metavar="FILE", help="a flight record, or a folder of them")
    parser.add_argument("--checkpoints", nargs="+", metavar="RUN[@STEP]", help="what to fly them on; base for none")
    parser.add_argument("--runs", type=place, default=ASSETS / "runs", help="where a record's own checkpoint is found")
    parser.add_argument("--model_dir", type=place, default=ASSETS / "nano", help="the base model")
    parser.add_argument("--out", type=place, help="folder for one mp4 a record and checkpoint")
    parser.add_argument("--from", dest="until", type=int, metavar="N", help="only up to latent frame N")
    parser.add_argument("--frames", action="store_true", help="write every frame as lossless PNG too")
    parser.add_argument("--table", action="store_true", help="print the control numbers of each checkpoint")
    parser.add_argument("--json", type=place, help="file for all numbers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.out is None and not args.table and args.json is None:
        print("error: say what to do with the frames: --out DIR, --table or --json FILE", file=sys.stderr)
        return 2
    flown = list(replay_all(args))
    if args.table:
        print_table(flown)
    if args.json is not None:
        write_json(args.json, {"flights": flown})
    return 0


def replay_all(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Fly every record on every checkpoint; the numbers of one flight at a time."""
    records = read_records(args.records)
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    for name, record in records:
        record = record if args.until is None else record.until(args.until)
        recorded = record.model.get("fingerprint")
        if recorded and not pipe.is_recorded_as(recorded):
            print(
                f"{name}: recorded on another model ({record.model.get('name')}); frames will differ", file=sys.stderr
            )
        wanted = [find(text) for text in args.checkpoints] if args.checkpoints else [own_checkpoint(record, args.runs)]
        for checkpoint in wanted:
            pipe.load_controller(checkpoint.path)
            frames, called = replay(pipe, record), _file_name(checkpoint)
            if args.out is not None:
                file = args.out / f"{name}--{called}.mp4"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_mp4(frames, file, fps=record.fps)
                print(f"wrote {file}")
                if args.frames:
                    write_frames(frames, file.with_suffix(""))
            numbers = measure_clip(frames, record.track) if len(record.track) else {}
            digest = hashlib.sha256(frames.tobytes()).hexdigest()
            yield {"record": name, "checkpoint": called, "frames_sha256": digest} | numbers


def read_records(path: Path) -> list[tuple[str, FlightRecord]]:
    """The record of a file, or all of a folder's `*.json`, each with the name of its file.

    Raises:
        FlightError: if there is none, or one of them cannot be used; the file is named.
    """
    files = sorted(visible(path.glob("*.json"))) if path.is_dir() else [path]
    if not files:
        raise FlightError(f"{path} holds no flight records (*.json)")
    records = []
    for file in files:
        try:
            records.append((file.stem, FlightRecord.load(file)))
        except FlightError as error:
            raise FlightError(f"{file.name}: {error}") from error
    return records


def find(text: str) -> CheckpointRef:
    """The checkpoint that RUN[@STEP] names, or the base.

    Raises:
        CheckpointError: if there is none.
    """
    if text == BASE:
        return BASE_MODEL
    run, which = split_name(text)
    if which is None:
        return store.ref_of(store.resolve(run))
    for info in store.list_checkpoints(run):
        if info.is_named(which):
            if info.problem is not None:
                raise CheckpointError(info.problem)
            return info
    raise CheckpointError(f"{run} has no checkpoint {which!r}")


def _file_name(checkpoint: CheckpointRef) -> str:
    """What a checkpoint is called in files and tables."""
    return checkpoint.run if checkpoint.step is None else f"{checkpoint.run}-{checkpoint.name}"


def own_checkpoint(record: FlightRecord, runs: Path) -> CheckpointRef:
    """What a record was flown on, among these runs.

    Raises:
        CheckpointError: if it is not there.
    """
    if record.checkpoint is None or record.checkpoint.get("id") == BASE:
        return BASE_MODEL
    name, step = record.checkpoint.get("run"), record.checkpoint.get("step")
    for run in store.list_runs(runs):
        if run.name == name:
            return find(f"{run.path}@{step}" if step is not None else str(run.path))
    raise CheckpointError(f"the record was flown on {name!r}, which is not in {runs}; name a checkpoint instead")


def write_frames(frames: np.ndarray, folder: Path) -> None:
    """Write every frame as a PNG, numbered from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:06}.png")


def print_table(flown: Sequence[dict[str, Any]]) -> None:
    """The control numbers of each checkpoint, over all its records, the best control first."""
    names = list(dict.fromkeys(str(flight["checkpoint"]) for flight in flown))
    rows = [(name, _means([flight for flight in flown if flight["checkpoint"] == name])) for name in names]
    width = max(10, *(len(name) for name in names))
    print(f"{'checkpoint':{width}}  flights  " + "  ".join(f"{column:>9}" for column in COLUMNS))
    for name, (count, *values) in sorted(rows, key=lambda row: -(row[1][1] if row[1][1] is not None else -1)):
        cells = "  ".join(f"{_cell(value):>9}" for value in values)
        print(f"{name:{width}}  {count:7}  {cells}")


def _cell(value: int | float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _control(measured: Sequence[dict[str, Any]]) -> tuple[float | None, int]:
    """The share of all runs of all flights that moved the picture the right way, and how many there are."""
    right, runs = (sum(int(flight[name]) for flight in measured) for name in ("right", "runs"))
    return (right / runs if runs else None), runs


def _means(flown: Sequence[dict[str, Any]]) -> tuple[int | float | None, ...]:
    """How many flights, and the mean of each column over those that have it."""

    def mean(values: list[Any]) -> float | None:
        found = [float(value) for value in values if value is not None]
        return float(np.mean(found)) if found else None

    measured = [flight for flight in flown if "seen" in flight]
    return (
        len(flown),
        *_control([flight["control"] for flight in measured if flight["control"]]),
        mean([flight["mean_agreement"] for flight in measured]),
        mean([flight["likeness"] for flight in measured]),
        mean([flight["lag"] for flight in measured]),
        mean([flight["sharpness"][-1] for flight in measured]),
        mean([flight["colour"][-1] for flight in measured]),
    )
