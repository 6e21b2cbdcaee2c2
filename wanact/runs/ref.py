"""What a checkpoint is called, and where it lies: names, ids and folders are taken apart here and nowhere else.

A checkpoint is a folder `RUN/checkpoints/step-000000552`, or the run's own folder if that holds exported weights only.
Its id, `run/step-000000552` or `run/exported`, is made from names and never holds a path. On a command line it is
`RUN@552`, `RUN@best` or `RUN@latest`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanact.files import CheckpointError, read_json

CHECKPOINTS = "checkpoints"
RUN_CONFIG = "action_train_config.json"
EXPORTED_ID = "exported"
BASE = "base"  # id of the model without a checkpoint


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint: what it is called and where it lies; nothing of it has been read.

    Attributes:
        id: `run/step-000000552` or `run/exported`; `base` for the model without a checkpoint.
        run: name of its run.
        step: optimizer updates, None for exported weights.
        path: its folder, or the run's for exported weights; None for the base model.
        title: what people read of one that has no run.
    """

    id: str
    run: str
    step: int | None
    path: Path | None
    title: str = ""

    @property
    def name(self) -> str:
        """What it is called in its run: `step-000000552` or `exported`."""
        return self.id.partition("/")[2]

    @property
    def label(self) -> str:
        """Run and step, for people."""
        return self.title or " · ".join([self.run, *([] if self.step is None else [f"step {self.step:,}"])])

    def to_json(self) -> dict[str, Any]:
        """How a flight record names it."""
        return {"id": self.id, "run": self.run, "step": self.step}

    @property
    def run_dir(self) -> Path:
        """The folder of its run."""
        assert self.path is not None, "the base model belongs to no run"
        return run_of(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Content of the action_train_config.json that it flies with, read anew; {} if there is none.

        Raises:
            CheckpointError: if it is damaged, or a link out of the run.
        """
        return {} if self.path is None else read_config(self.path)


BASE_MODEL = CheckpointRef(BASE, BASE, None, None, "base (no actions)")


def run_of(path: Path) -> Path:
    """The folder of the run that a checkpoint's folder belongs to: itself, if it holds exported weights."""
    return path.parent.parent if is_in_run(path) else path


def is_in_run(path: Path) -> bool:
    """Whether a folder is one of a run's checkpoints, by where it lies."""
    return path.parent.name == CHECKPOINTS


def run_name(path: Path) -> str:
    """Name of the run that a checkpoint's folder belongs to."""
    return Path(os.path.abspath(run_of(path))).name


def checkpoint_id(path: Path, run: str | None = None) -> str:
    """The id of what lies in a folder, in the run of this name; by default its folder's."""
    return f"{run_name(path) if run is None else run}/{path.name if is_in_run(path) else EXPORTED_ID}"


def folder_of(runs: Path, checkpoint_id: str) -> Path:
    """Where the checkpoint of this id lies in a folder of runs; one's own ids only, as names are not checked."""
    run, _, name = checkpoint_id.partition("/")
    return runs / run if name == EXPORTED_ID else runs / run / CHECKPOINTS / name


def split_name(text: str) -> tuple[Path, str | None]:
    """RUN@WHICH apart: the folder, and which of its checkpoints; None if the folder alone is named.

    Raises:
        CheckpointError: if nothing stands behind the @.
    """
    run, at, which = text.rpartition("@")
    if not at or Path(text).is_dir():
        return Path(text), None
    if not which.strip():
        raise CheckpointError(f"{text} names no checkpoint behind the @; give {run}@STEP, {run}@best or {run}@latest")
    return Path(run), which


def read_config(path: Path) -> dict[str, Any]:
    """Content of a checkpoint's action_train_config.json, else of its run's; {} if there is none.

    Raises:
        CheckpointError: if it is damaged, or a link out of the run.
    """
    run = run_of(path)
    for file in (path / RUN_CONFIG, run / RUN_CONFIG):
        if file.is_file():
            if not file.resolve().is_relative_to(run.resolve()):
                raise CheckpointError(f"{file} is a link out of its run; it is not followed")
            return read_json(file)
    return {}


def base_of(config: dict[str, Any]) -> str:
    """The base model that a configuration names, by its directory or its name on the Hub; "" if it names none."""
    names = ("base_model", "base_model_id", "base_model_dir")
    return next((str(config[name]) for name in names if config.get(name)), "")
