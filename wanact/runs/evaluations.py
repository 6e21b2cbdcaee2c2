"""What was measured of a pilot's checkpoints: success over held-out episodes, in files beside its run.

`python -m train pilot evaluate` writes them; whatever lies in a folder of runs is read without trust.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from wanact.files import CheckpointError, number, read_json, read_model, text, visible, whole

SIMULATOR, MODEL = "sim", "world"
_NAME = re.compile(r"evaluation-(sim|world)-(\d{1,12})\.json")
_MOST = 1_000_000
MAX_FILM_BYTES = 2 * 2**20
_Share = Annotated[float, number(0, 1)]


class Figures(BaseModel):
    """One pilot's figures over the episodes of one task.

    Attributes:
        success: share of the episodes that were done, and `interval`, where the true share lies 19 times of 20.
        reward, length: mean return of an episode and its latent frames.
    """

    success: _Share
    interval: Annotated[list[_Share], Field(min_length=2, max_length=2)]
    reward: Annotated[float, number(-1e9, 1e9)] = Field(alias="return")
    length: Annotated[float, number(0, 1e9)]


class Evaluation(BaseModel):
    """What `evaluate` has written: figures by task and by pilot (trained, hand_written, random)."""

    step: Annotated[int, whole(0, 10**12)]
    episodes: Annotated[int, whole(1, _MOST)]
    worlds: Annotated[int, whole(1, _MOST)] = 1
    tasks: Annotated[dict[Annotated[str, text(40)], dict[Annotated[str, text(40)], Figures]], Field(max_length=12)]


def evaluation_file(run: Path, where: str, step: int) -> Path:
    """Where the figures of a checkpoint lie."""
    return run / f"evaluation-{where}-{step}.json"


def film_file(run: Path, where: str, step: int) -> Path:
    """Where the film of the best flight of a checkpoint lies."""
    return run / f"flight-{where}-{step}.mp4"


def read_film(run: Path, where: str, step: int | None) -> bytes | None:
    """The film of the best flight, an mp4; None if there is none that is a film and small enough to be shown."""
    path = None if step is None else film_file(run, where, step)
    if path is None or path.is_symlink() or not path.is_file():
        return None
    with open(path, "rb") as file:
        film = file.read(MAX_FILM_BYTES + 1)
    return film if len(film) <= MAX_FILM_BYTES and film[4:8] == b"ftyp" else None


def evaluations(run: Path) -> dict[tuple[str, int], Path]:
    """The files of a run by where was flown and step; links are not followed."""
    found = ((_NAME.fullmatch(path.name), path) for path in visible(run.glob("evaluation-*.json")))
    return {(name[1], int(name[2])): path for name, path in found if name and not path.is_symlink()}


def read_evaluation(run: Path, where: str, step: int | None) -> Evaluation | None:
    """The figures of a checkpoint, None if none were measured.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = None if step is None else evaluations(run).get((where, step))
    if path is None:
        return None
    content: dict[str, Any] = read_json(path)
    return read_model(Evaluation, content, lambda problem: CheckpointError(f"{path.name} is damaged: {problem}"))
