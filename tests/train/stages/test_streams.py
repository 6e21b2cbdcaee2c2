"""A run learns from shards and streams what it learns from the table they were made of, and resumes exactly."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.conftest import NUM_FRAMES, SIZE
from tests.train.processes import run_processes
from train.__main__ import main
from train.commands.run import train
from train.data.csv import DataError
from train.data.shards import TarShards
from train.loop.config import ConfigError
from train.loop.trainer import Trainer
from train.stages.clips import ClipEncoder
from wanact.errors import UserError
from wanact.files import load_weights
from wanact.runs import store

STEPS = 5


@pytest.fixture(scope="module")
def clips(dataset, tmp_path_factory):
    """The clips of the dataset as they are, two in each shard."""
    folder = tmp_path_factory.mktemp("clips")
    assert main(["shard", str(dataset / "clips.csv"), "--out", str(folder), "--rows_per_shard", "2"]) == 0
    return folder


@pytest.fixture(scope="module")
def latents(model, dataset, tmp_path_factory):
    """Their latents and words, written in two shares."""
    folder = tmp_path_factory.mktemp("latents")
    for part in ("2/2", "1/2"):
        assert main([*encoding(model, dataset / "clips.csv", folder), "--shard", part]) == 0
    return folder


def encoding(model, table, shards, *more):
    return [
        *("encode", "action", "--model_dir", str(model), "--cache_dtype", "float32"),
        *("--dataset_metadata_path", str(table), "--shards", str(shards), "--rows_per_shard", "2", *more),
        *(["--dataset_base_path", str(table.parent)] if table.is_file() else []),
    ]


@pytest.fixture(scope="module")
def parquet(dataset, tmp_path_factory):
    """The same clips as a data set of the library: Parquet with bytes."""
    pytest.importorskip("datasets")
    from pyarrow import Table, parquet

    with open(dataset / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["video"] = (dataset / row["video"]).read_bytes()
    folder = tmp_path_factory.mktemp("parquet")
    for number in range(2):
        parquet.write_table(Table.from_pylist(rows[number * 3 : number * 3 + 3]), folder / f"{number}.parquet")
    return folder


@pytest.fixture
def streamed(model, tmp_path):
    """Arguments of a small run on a stream: `streamed("action", address, output)`."""
    from tests.train.conftest import CONTROLLER

    def build(stage: str, address: object, output: Path, *more: str) -> list[str]:
        return [
            *("--model_dir", str(model), "--dataset_metadata_path", str(address), "--output_path", str(output)),
            *("--cache_dir", str(tmp_path / "cache"), "--cache_dtype", "float32", "--save_full_state"),
            *("--log_steps", "1", "--batch_size", "2", "--max_steps", str(STEPS)),
            *(["--action_controller_config", CONTROLLER] if stage in ("action", "causal") else []),
            *more,
        ]

    return build


def losses(run):
    return [row["loss"] for row in store.read_log(run)]


def weights(run, step=STEPS):
    return load_weights(run / "checkpoints" / store.step_name(step) / "trainable_full.safetensors")


def assert_same(one, other):
    assert losses(one) == losses(other)
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["i2v", "action", "causal"])
@pytest.mark.parametrize("kind", ["clips", "latents"])
def test_shards_teach_what_the_table_teaches_bit_for_bit(stage, kind, run, streamed, request, tmp_path):
    shards = request.getfixturevalue(kind)
    run(stage, tmp_path / "table", "--batch_size", "2", "--max_steps", str(STEPS))
    train(stage, streamed(stage, shards, tmp_path / "shards", "--dataset_num_workers", "3"))
    assert_same(tmp_path / "table", tmp_path / "shards")


def test_latents_in_shards_are_read_without_encoding(streamed, latents, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("they are there")

    monkeypatch.setattr(ClipEncoder, "_encode", refuse)
    stage = train("action", streamed("action", latents, tmp_path / "run")).stage
    assert len(stage) == 5 and not list((tmp_path / "cache" / "latents").glob("*/*"))


@pytest.mark.parametrize("kind", ["clips", "latents", "parquet", "memory"])
def test_a_run_that_is_cut_off_goes_on_bit_for_bit(kind, streamed, request, tmp_path):
    if kind == "memory":  # an address that is no folder, as those of object stores
        import fsspec

        address = f"memory://{tmp_path.name}"
        for file in request.getfixturevalue("latents").iterdir():
            fsspec.filesystem("memory").pipe_file(f"{address}/{file.name}", file.read_bytes())
    else:
        address = ("datasets:" if kind == "parquet" else "") + str(request.getfixturevalue(kind))
    train("action", streamed("action", address, tmp_path / "whole"))
    _until(3, lambda: train("action", streamed("action", address, tmp_path / "parts")))
    train("action", streamed("action", address, tmp_path / "parts", "--dataset_num_workers", "2"))
    assert_same(tmp_path / "whole", tmp_path / "parts")


def _until(last, function):
    """Run until a signal stops it after this step."""
    train_step = Trainer._train_step

    def interrupted(self):
        if self.step + 1 == last:
            os.kill(os.getpid(), signal.SIGUSR1)
        return train_step(self)

    Trainer._train_step = interrupted
    try:
        assert function().step == last
    finally:
        Trainer._train_step = train_step


@pytest.mark.parametrize("kind", ["latents", "parquet"])
def test_two_processes_learn_what_one_learns_and_go_on_alone(kind, streamed, request, tmp_path):
    address = ("datasets:" if kind == "parquet" else "") + str(request.getfixturevalue(kind))
    one, two = tmp_path / "one", tmp_path / "two"
    train("action", streamed("action", address, one, "--gradient_accumulation_steps", "2"))

    def begin():
        _until(3, lambda: train("action", streamed("action", address, two, "--dataset_num_workers", "2")))

    assert run_processes(2, begin, tmp_path / "log") == [0, 0], (tmp_path / "log").read_text()
    train("action", streamed("action", address, two, "--gradient_accumulation_steps", "2"))
    assert losses(one) == pytest.approx(losses(two), abs=1e-6)
    torch.testing.assert_close(weights(one), weights(two), rtol=0, atol=1e-6)


def test_every_clip_of_a_stream_is_seen_once_in_an_epoch_in_an_order_of_its_own(streamed, parquet, tmp_path):
    own = [*streamed("action", f"datasets:{parquet}", tmp_path / "run"), "--mirror", "true"]
    trainer = train("action", [*own[: own.index("--max_steps")], *own[own.index("--max_steps") + 2 :]])
    assert trainer.step == 5 and len(trainer.stage) == 10, "five rows, each of them mirrored as well"
    epochs = [[trainer.sampler.draw(e * 10 + i, 0).index for i in range(10)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]


def test_clips_that_are_streamed_take_no_more_of_the_disk_than_they_may(streamed, clips, tmp_path):
    train("action", streamed("action", clips, tmp_path / "all"))
    entries = list((tmp_path / "cache").glob("latents/*/*"))
    assert len(entries) == 5
    shutil.rmtree(tmp_path / "cache")
    train("action", streamed("action", clips, tmp_path / "some", "--cache_disk_gb", str(8_000 / 2**30)))
    kept = sum(file.stat().st_size for name in ("latents", "text") for file in tmp_path.glob(f"cache/{name}/*/*"))
    assert len(list((tmp_path / "cache").glob("latents/*/*"))) < 5 and 0 < kept < 12_000
    assert_same(tmp_path / "all", tmp_path / "some")


def test_shards_of_clips_become_shards_of_latents(model, clips, latents, tmp_path):
    assert main(encoding(model, clips, tmp_path / "again", "--mirror", "true")) == 0
    once, twice = TarShards(str(latents), tmp_path / "a"), TarShards(str(tmp_path / "again"), tmp_path / "b")
    assert len(twice) == 2 * len(once) == 10
    for index in range(5):
        mirrored, plain = twice[2 * index + 1], twice[2 * index]
        assert plain.files == once[index].files and plain.fields["action"] == once[index].fields["action"]
        assert mirrored.fields["mirrored"] and mirrored.files != plain.files


def test_a_clip_that_cannot_be_used_gives_its_place_to_the_next(streamed, clips, tmp_path, capsys):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    tar = folder / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    place = TarShards(str(folder), tmp_path / "seen")._members(1)[0][1]["mp4"][0]
    data[place + 9] ^= 1
    tar.write_bytes(data)
    own = streamed("action", folder, tmp_path / "run", "--max_skipped", "0.5")
    stage = train("action", own).stage
    assert [stage.rows[i].number for i in range(5)] == [1, 2, 4, 4, 5]
    assert "is damaged: it is not what its index says" in capsys.readouterr().out
    _until(2, lambda: train("action", streamed("action", folder, tmp_path / "parts", "--max_skipped", "0.5")))
    train("action", streamed("action", folder, tmp_path / "parts", "--max_skipped", "0.5"))
    assert_same(tmp_path / "run", tmp_path / "parts")


def test_a_share_of_shards_goes_on_and_names_what_it_leaves_out(model, dataset, tmp_path, capsys):
    folder, shards = tmp_path / "data", tmp_path / "shards"
    shutil.copytree(dataset, folder)
    (folder / "clip3.mp4").write_text("this is no video")
    assert main(encoding(model, folder / "clips.csv", shards, "--shard", "2/2")) == 0
    assert "share 2 of 2: 2 rows, 1 clips encoded, 0 were there, 1 left out" in capsys.readouterr().out
    assert "clip3.mp4" in (shards / "skipped-2-of-2.csv").read_text()
    assert main(encoding(model, folder / "clips.csv", shards)) == 0
    assert "share 1 of 1: 5 rows, 3 clips encoded, 1 were there, 0 left out" in capsys.readouterr().out
    assert len(TarShards(str(shards), tmp_path / "seen")) == 4


def test_latents_that_are_another_models_are_refused(streamed, latents, tmp_path):
    with pytest.raises(UserError, match="--num_frames 9, and this run has 5; encode it again"):
        train("action", streamed("action", latents, tmp_path / "short", "--num_frames", "5"))
    with pytest.raises(UserError, match="--cache_dtype float32, and this run has float16"):
        train("action", streamed("action", latents, tmp_path / "half", "--cache_dtype", "float16"))


def test_latents_that_do_not_say_what_they_are_are_refused(streamed, latents, tmp_path):
    folder = tmp_path / "latents"
    shutil.copytree(latents, folder)
    for file in folder.glob("*.index.json"):
        file.unlink()
    train("action", streamed("action", folder, tmp_path / "run"))  # each sample says it as well
    with pytest.raises(UserError, match="do not say that they were made as this run makes them"):
        train("action", streamed("action", folder, tmp_path / "short", "--num_frames", "5"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--encoding", "ahead"], "`python -m train encode --shards ADDRESS` does that"),
        (["--window_stride", "4"], "--window_stride has no effect: a sample of a stream is one clip"),
        (["--dataset_base_path", "."], "--dataset_base_path has no effect"),
        (["--mirror", "true"], "latents cannot be mirrored"),
    ],
)
def test_settings_of_tables_are_refused(streamed, latents, tmp_path, more, words):
    with pytest.raises(ConfigError, match=words):
        train("action", streamed("action", latents, tmp_path / "run", *more))


def test_a_table_has_no_limit_to_its_cache(run, tmp_path):
    with pytest.raises(ConfigError, match="--cache_disk_gb has no effect without a stream"):
        run("i2v", tmp_path / "run", "--cache_disk_gb", "3")


def test_a_stage_that_reads_tables_says_so(clips, tmp_path):
    own = ["--height", str(SIZE), "--width", str(SIZE), "--num_frames", str(NUM_FRAMES), "--max_steps", "1"]
    with pytest.raises(DataError, match="is a stream, and stage idm reads tables and manifests"):
        train("idm", ["--dataset_metadata_path", str(clips), "--output_path", str(tmp_path / "run"), *own])


def test_words_and_parts_of_a_video_are_read_as_those_of_a_table(streamed, dataset, clips, tmp_path):
    with open(dataset / "clips.csv", newline="") as file:
        rows = [row | {"start": "", "caption": row["prompt"]} for row in csv.DictReader(file)]
    for row in rows:
        del row["prompt"]
    table = tmp_path / "clips.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows))
    assert main(["shard", str(table), "--base", str(dataset), "--out", str(tmp_path / "shards")]) == 0
    one, two = TarShards(str(clips), tmp_path / "a"), TarShards(str(tmp_path / "shards"), tmp_path / "b")
    assert [s.fields["prompt"] for s in map(two.__getitem__, range(5))] == [one[i].fields["prompt"] for i in range(5)]
    assert np.array_equal(one[3].fields["action"], two[3].fields["action"])
