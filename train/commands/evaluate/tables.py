"""What all measures share: their arguments, their tables and their numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from wanact.files import CheckpointError, place, write_json
from wanact.runs import store
from wanact.runs.ref import split_name


def add_common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser.add_argument("--model_dir", type=place, required=True, help="model directory, or for vae the VAE's folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(run=run)
    return parser


def checkpoint_named(name: str) -> Path:
    """The folder that RUN, RUN@STEP, RUN@best, RUN@latest or a checkpoint's own path stands for.

    Raises:
        CheckpointError: if there is none.
    """
    folder, which = split_name(name)
    if which is None:
        return store.resolve(folder)
    found = [info.path for info in store.list_checkpoints(folder) if info.problem is None and info.is_named(which)]
    if not found:
        raise CheckpointError(f"{folder} has no usable checkpoint {which!r}")
    return found[-1]


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print columns, the first to the left and numbers to the right."""
    texts = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def write_numbers(path: Path | None, result: dict[str, Any]) -> None:
    """Write the numbers, if a file was named."""
    if path is not None:
        write_json(path, result)
