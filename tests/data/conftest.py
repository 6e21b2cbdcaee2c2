"""Twenty small flights of the simulator, flown once for all tests, and tables of them in which something is wrong."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wanact.actions import ActionTrack
from wanact.data.sets import LOOKED, DataSet
from wanact.media.video import write_mp4

CLIPS, WORLDS, FRAMES, HEIGHT, WIDTH = 20, 3, 41, 64, 96
Change = Callable[[np.ndarray], np.ndarray]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def flights(tmp_path_factory) -> DataSet:
    """The untouched set, looked at."""
    from wanact.world import simulator

    folder = tmp_path_factory.mktemp("flights")
    (folder / "videos").mkdir()
    rows, world = [], None
    for number in range(CLIPS):
        if number % -(-CLIPS // WORLDS) == 0:
            world = simulator.make_world(700 + number)
        clip = simulator.fly(world, np.random.default_rng([700, number]), FRAMES, HEIGHT, WIDTH)
        name = f"videos/flight-{number:02d}.mp4"
        write_mp4(clip.frames, folder / name, fps=16, lossless=True)
        rows.append({"video": name, "prompt": clip.caption, "action": clip.track.to_json()})
    data = DataSet(write_table(folder / "clips.csv", rows).parent)
    data.look()
    return data


@pytest.fixture(scope="session")
def spoilt(flights) -> Callable[[str, Change], DataSet]:
    """A table of the same videos with other actions, as somebody would have written it; what is seen is there already,
    because the videos are the same."""

    def make(name: str, change: Change) -> DataSet:
        folder = flights.table.parent
        rows = [
            {"video": c.key, "prompt": c.prompt, "action": ActionTrack.from_axes(change(c.axes)).to_json()}
            for c in flights
        ]
        table = write_table(folder / f"{name}.csv", rows)
        shutil.copytree(flights.kept, folder / LOOKED / table.name, dirs_exist_ok=True)
        data = DataSet(table)
        assert data.num_seen == len(data), "nothing is looked at twice"
        return data

    return make
