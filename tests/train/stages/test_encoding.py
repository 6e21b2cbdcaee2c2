"""Clips of episodes are encoded ahead, in shares, or when they are drawn, and what is learnt is the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.train.conftest import NUM_FRAMES, SIZE
from train.__main__ import main
from train.data.csv import DataError
from train.loop.config import ConfigError
from train.stages.clips import ClipEncoder, PromptEncoder
from wanact.files import read_json

FLIGHTS = ["--clips", "3", "--clips_per_world", "3", "--height", str(SIZE), "--width", str(SIZE)]


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """Three episodes of 17 frames."""
    folder = tmp_path_factory.mktemp("episodes")
    assert main(["simulate", "--out", str(folder), "--format", "episodes", *FLIGHTS, "--num_frames", "17"]) == 0
    return folder


def of_episodes(folder, cache):
    return [
        *("--dataset_base_path", str(folder), "--dataset_metadata_path", str(folder / "manifest.jsonl")),
        *("--cache_dir", str(cache), "--fps", "10", "--window_stride", "8", "--mirror", "true", "--batch_size", "2"),
    ]


def learnt(run, stage, output, *more):
    trainer = run(stage, output, *more, "--max_steps", "3")
    losses = [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]
    return trainer.stage, losses


@pytest.mark.parametrize("stage", ["i2v", "action"])
def test_lazily_encoded_clips_teach_the_same_bit_for_bit(run, flights, tmp_path, stage):
    ahead, before = learnt(run, stage, tmp_path / "a", *of_episodes(flights, tmp_path / "cache_a"))
    lazy = [*of_episodes(flights, tmp_path / "cache_b"), "--encoding", "lazy", "--dataset_num_workers", "1"]
    later, after = learnt(run, stage, tmp_path / "b", *lazy)
    assert len(ahead) == len(later) == 3 * 2 * 2, "two windows of each flight, and each of them mirrored"
    assert before == after
    kept = read_json(tmp_path / "b" / "action_statistics.json")
    assert kept == read_json(tmp_path / "a" / "action_statistics.json")
    assert kept["rows"] == 3 * 17 and len(kept["mean"]) == 8
    for i in range(len(ahead)):
        assert torch.equal(ahead.latents[i]["latents"], later.latents[i]["latents"])
        assert (ahead.rows[i].track, ahead.rows[i].start) == (later.rows[i].track, later.rows[i].start)


def test_nothing_is_encoded_before_it_is_drawn(run, flights, tmp_path):
    cache = tmp_path / "cache"
    run("i2v", tmp_path / "run", *of_episodes(flights, cache), "--encoding", "lazy", "--max_steps", "1")
    assert len(list(cache.glob("latents/*/*.safetensors"))) == 2


def test_shares_go_on_and_leave_a_run_nothing_to_encode(run, model, flights, tmp_path, capsys, monkeypatch):
    own = [*of_episodes(flights, tmp_path / "cache"), "--cache_dtype", "float32"]
    flags = ["encode", "action", *own, "--model_dir", str(model)]
    assert main([*flags, "--shard", "1/2"]) == 0
    assert "share 1 of 2: 2 rows, 8 clips encoded, 0 were there, 0 left out" in capsys.readouterr().out
    entries = sorted((tmp_path / "cache" / "latents").glob("*/*.safetensors"))
    entries[0].unlink()
    entries[1].write_bytes(entries[1].read_bytes()[:-8])  # the disk was full
    assert main([*flags, "--shard", "1/2"]) == 0
    assert "2 clips encoded, 6 were there" in capsys.readouterr().out
    assert main([*flags, "--shard", "2/2"]) == 0
    assert "share 2 of 2: 1 rows, 4 clips encoded" in capsys.readouterr().out

    def refuse(*_):
        raise AssertionError("everything was encoded")

    monkeypatch.setattr(ClipEncoder, "_encode", refuse)
    for output, more in (("ahead", []), ("lazy", ["--encoding", "lazy"])):
        assert len(run("action", tmp_path / output, *own, *more, "--max_steps", "1").stage) == 12


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--shard", "3/2"], "must be i/n"),
        (["--shard", "half"], "must be i/n"),
        (["vae"], "stage 'vae' encodes no clips; give i2v, action or causal"),
        (["i2v", "--dataset_metadata_path", "x.csv"], "--cache_dir is required"),
    ],
)
def test_a_share_that_is_none_is_said(argv, words, capsys):
    try:
        assert main(["encode", *argv]) == 1
    except SystemExit as error:
        assert error.code == 2
    assert words in capsys.readouterr().err


def test_a_clip_that_cannot_be_used_gives_its_place_to_the_next(run, flights, tmp_path, capsys):
    folder = tmp_path / "flights"
    shutil.copytree(flights, folder)
    (folder / "episodes" / "ep_0002" / "video.mp4").write_text("this is no video")
    own = [*of_episodes(folder, tmp_path / "cache"), "--encoding", "lazy", "--max_skipped", "0.9"]
    stage = run("action", tmp_path / "run", *own, "--max_steps", "1").stage
    assert [stage.rows[i].number for i in range(12)] == [1] * 4 + [3] * 8
    assert all(torch.equal(stage.latents[i]["latents"], stage.latents[8]["latents"]) for i in range(4, 8))
    assert "of manifest.jsonl is left out" in capsys.readouterr().out
    for file in folder.glob("episodes/*/video.mp4"):
        file.write_text("this is no video")
    with pytest.raises(DataError, match="clips in a row of .* cannot be used"):
        run("action", tmp_path / "none", *own, "--max_steps", "1")


def test_a_table_is_not_encoded_lazily(run, tmp_path):
    with pytest.raises(ConfigError, match="--encoding lazy is for a manifest of episodes"):
        run("i2v", tmp_path / "run", "--encoding", "lazy")


def test_a_prompt_has_one_entry_however_it_is_asked_for(run, flights, tmp_path):
    stage = run("i2v", tmp_path / "run", *of_episodes(flights, tmp_path / "cache"), "--max_steps", "1").stage
    encoder = stage._prompt_encoder()
    assert isinstance(encoder, PromptEncoder)
    prompt = stage.rows[0].prompt
    assert torch.equal(encoder[prompt]["embedding"], stage.embeddings[stage.prompt_of_row[0]]["embedding"])
    assert NUM_FRAMES == stage.num_frames
