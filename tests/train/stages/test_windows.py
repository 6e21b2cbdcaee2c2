"""A long flight is learnt from as a whole: clips one after the other, each with its actions, in an order that stays."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from tests.train.conftest import NUM_FRAMES, SIZE
from tests.train.loop.test_resume import assert_same, stop_at
from train.data.csv import DataError
from wanact.actions import ActionTrack
from wanact.media.video import write_mp4

LENGTH = 37  # frames of the whole flight: ten latent frames and nine actions


@pytest.fixture
def flight(tmp_path):
    """A long flight of noise with its actions, and its clips from frames 0, 8, 16 and 24 as files of their own."""
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 255, (LENGTH, SIZE, SIZE, 3), dtype=np.uint8)
    track = ActionTrack.from_keys((rng.random((LENGTH // 4, 8)) > 0.6).astype(float))
    write_mp4(frames, tmp_path / "flight.mp4", lossless=True)
    parts = []
    for start in (0, 8, 16, 24):
        write_mp4(frames[start : start + NUM_FRAMES], tmp_path / f"part{start}.mp4", lossless=True)
        parts.append((f"part{start}.mp4", ActionTrack(track.magnitude[start // 4 : start // 4 + 2]).to_json()))
    return tmp_path, track.to_json(), parts


def table(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
    return ["--dataset_base_path", str(path.parent), "--dataset_metadata_path", str(path)]


def content(stage):
    """Latents and controls of every sample."""
    return [(stage.latents[i]["latents"], torch.tensor(stage.rows[i].track.magnitude)) for i in range(len(stage.rows))]


def test_windows_of_a_flight_equal_clips_that_were_cut_by_hand(run, flight):
    folder, track, parts = flight
    row = {"prompt": "a flight", "action": track}
    by_hand = [row | {"video": name, "action": action} for name, action in parts]
    by_seconds = [row | {"video": "flight.mp4", "start": s / 16, "end": (s + 9) / 16} for s in (0, 8, 16, 24)]
    flags = {
        "hand": table(folder / "hand.csv", by_hand),
        "seconds": table(folder / "seconds.csv", by_seconds),
        "stride": [*table(folder / "whole.csv", [row | {"video": "flight.mp4"}]), "--window_stride", "8"],
    }
    found = {
        name: content(run("action", folder / name, *more, "--max_steps", "1").stage) for name, more in flags.items()
    }
    assert len(found["hand"]) == 4 and not torch.equal(found["hand"][0][0], found["hand"][1][0])
    for name in ("seconds", "stride"):
        assert len(found[name]) == 4, name
        for one, other in zip(found["hand"], found[name], strict=True):
            assert all(map(torch.equal, one, other)), name


def test_a_stride_stays_inside_the_part_that_a_row_names(run, flight):
    folder, track, _ = flight
    rows = [{"video": "flight.mp4", "prompt": "", "action": track, "start": 0.5, "end": 1.6}]
    trainer = run("action", folder / "run", *table(folder / "a.csv", rows), "--window_stride", "4", "--max_steps", "1")
    assert [row.start for row in trainer.stage.rows] == [8, 12, 16]


def test_order_and_resume_over_windows_are_as_over_rows(run, flight):
    folder, track, parts = flight
    rows = [{"video": "flight.mp4", "prompt": "a flight", "action": track}, *(
        {"video": name, "prompt": "a part", "action": action} for name, action in parts[:1]
    )]  # fmt: skip
    flags = [*table(folder / "a.csv", rows), "--window_stride", "8", "--batch_size", "2", "--mirror", "true"]
    whole = run("action", folder / "whole", *flags, "--max_steps", "9")
    assert [(row.number, row.start) for row in whole.stage.rows[::2]] == [(1, 0), (1, 8), (1, 16), (1, 24), (2, 0)]
    stop_at(run, "action", folder / "parts", 4, *flags, "--max_steps", "9")
    run("action", folder / "parts", *flags, "--max_steps", "9", "--dataset_num_workers", "2")
    assert_same(folder / "whole", folder / "parts", 9)


def test_a_window_that_cannot_be_used_is_named_with_its_second(run, flight):
    folder, track, _ = flight
    short = json.dumps(json.loads(track)[:5])
    rows = [{"video": "flight.mp4", "prompt": "", "action": short}]
    flags = [*table(folder / "a.csv", rows), "--window_stride", "8", "--max_steps", "1"]
    with pytest.raises(DataError, match="2 of 4 clips cannot be used"):
        run("action", folder / "run", *flags)
    trainer = run("action", folder / "run", *flags, "--max_skipped", "0.5")
    assert len(trainer.stage) == 2
    skipped = (folder / "run" / "skipped.csv").read_text()
    assert "clip from 1.00 s: the track has 5 actions, but 9 frames from frame 16 on need actions 5 to 6" in skipped


@pytest.mark.parametrize("stage", ["vae", "idm"])
def test_every_stage_reads_windows(flight, model, stage):
    from train.commands.run import train

    folder, track, _ = flight
    own = {
        "vae": ["--model_dir", str(model), "--vae_crops", "5x32x32:1"],
        "idm": ["--idm_channels", "8,8,8,8", "--idm_hidden", "16"],
    }[stage]
    rows = [{"video": "flight.mp4", "prompt": "", "action": track}]
    shape = ["--height", str(SIZE), "--width", str(SIZE), "--num_frames", str(NUM_FRAMES)]
    flags = [*table(folder / "a.csv", rows), *shape, "--window_stride", "8", "--max_steps", "1"]
    trained = train(stage, [*own, *flags, "--output_path", str(folder / "run")]).stage
    assert len(trained) == 4
