"""`python -m wanact replay`: the same frames again, other checkpoints, a folder as a benchmark."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from tests.flying.test_stream import LEFT, RIGHT, write_causal_run
from wanact.__main__ import main
from wanact.actions import ActionTrack
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.record import FlightRecord
from wanact.flying.stream import WanActStream


@pytest.fixture(scope="module")
def flown(tiny_model_dir, tmp_path_factory):
    """A folder with a run, a live record and a clip's, and the frames of the live flight."""
    folder = tmp_path_factory.mktemp("flights")
    (folder / "runs").mkdir()
    (folder / "records").mkdir()
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    pipe.load_controller(write_causal_run(folder / "runs" / "live"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    stream = WanActStream(pipe, image, "hills", 5)
    frames = [stream.step(LEFT), stream.step(RIGHT)]
    record = FlightRecord.from_stream(stream)
    (folder / "records" / "a.json").write_text(record.to_json())
    clip = FlightRecord(image, "hills", 3, record.track, 9, 2, 1.0, model=record.model)
    (folder / "records" / "b.json").write_text(clip.to_json())
    return folder, np.concatenate(frames)


def command(flown, tiny_model_dir, *more):
    folder = flown[0]
    return main(["replay", *more, "--model_dir", str(tiny_model_dir), "--runs", str(folder / "runs")])


def test_a_live_flight_comes_again_frame_by_frame(flown, tiny_model_dir, tmp_path, capsys):
    folder, frames = flown
    record = str(folder / "records" / "a.json")
    assert (
        command(flown, tiny_model_dir, record, "--out", str(tmp_path), "--frames", "--json", str(tmp_path / "n")) == 0
    )
    written = [np.asarray(Image.open(tmp_path / "a--live" / f"{i:06}.png")) for i in range(1, 9)]
    assert np.array_equal(np.stack(written), frames)
    assert (tmp_path / "a--live.mp4").stat().st_size > 0
    (numbers,) = json.loads((tmp_path / "n").read_text())["flights"]
    assert numbers["checkpoint"] == "live" and len(numbers["seen"]) == 2
    assert "other model" not in capsys.readouterr().err


def test_a_folder_is_a_benchmark_of_several_checkpoints(flown, tiny_model_dir, tmp_path, capsys):
    folder, _ = flown
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("b", "c"):
        (clips / f"{name}.json").write_text((folder / "records" / "b.json").read_text())
    run = str(folder / "runs" / "live")
    assert command(flown, tiny_model_dir, str(clips), "--checkpoints", run, "base", "--table") == 0
    head, *rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert head[:5] == ["checkpoint", "flights", "control", "runs", "agreement"]
    assert {(row[0], row[1]) for row in rows} == {("live", "2"), ("base", "2")}


def test_a_flight_may_be_flown_up_to_a_latent_frame(flown, tiny_model_dir, tmp_path):
    folder, frames = flown
    record = str(folder / "records" / "a.json")
    assert command(flown, tiny_model_dir, record, "--from", "1", "--out", str(tmp_path), "--frames") == 0
    pictures = sorted((tmp_path / "a--live").iterdir())
    assert len(pictures) == 5 and np.array_equal(np.asarray(Image.open(pictures[4])), frames[3])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.json", "--checkpoints", "nowhere"], "nowhere is not a folder"),
        (["a.json", "--checkpoints", "base"], "needs a causal one"),
        (["a.json", "--from", "7"], "2 latent frames to go back to, not 7"),
        (["b.json", "--checkpoints", "{runs}/live@7"], "no checkpoint '7'"),
        (["none.json"], "none.json: The flight"),
        (["."], "z.json: The file is no flight record"),
    ],
)
def test_mistakes_get_one_sentence(flown, tiny_model_dir, tmp_path, capsys, arguments, says):
    folder, _ = flown
    record, *more = arguments
    if record == ".":
        (tmp_path / "z.json").write_text("{}")
        record = str(tmp_path)
    else:
        record = str(folder / "records" / record)
    more = [word.replace("{runs}", str(folder / "runs")) for word in more]
    assert command(flown, tiny_model_dir, record, *more, "--table") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error


def test_a_record_of_a_checkpoint_that_is_gone_says_so(flown, tiny_model_dir, tmp_path, capsys):
    folder, _ = flown
    record = FlightRecord.load(folder / "records" / "a.json")
    gone = dataclasses.replace(record, checkpoint={"run": "old", "step": 7}, track=ActionTrack.zeros(2))
    (tmp_path / "gone.json").write_text(gone.to_json())
    assert command(flown, tiny_model_dir, str(tmp_path), "--table") == 1
    assert "flown on 'old', which is not in" in capsys.readouterr().err
