"""The checkpoint store: whole or not there, found again, and never fooled by a damaged or hostile folder."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from wanact.files import CheckpointError, load_weights, write_json
from wanact.runs import store
from wanact.runs.index import RunIndex
from wanact.runs.ref import RUN_CONFIG


def save(run, step, loss=1.0, value=0.0, **metadata):
    def write(folder):
        save_file({"weight": torch.full((4,), value)}, folder / store.CONTROLLER)
        (folder / "extra").mkdir()
        (folder / "extra" / "note.txt").write_text("more")

    return store.write_checkpoint(run, step, write, {"loss": loss, **metadata})


def names(run):
    return sorted(p.name for p in (run / "checkpoints").iterdir() if not p.is_symlink())


def test_a_saved_checkpoint_is_listed_and_verifies(tmp_path):
    path = save(tmp_path, 552, loss=0.0385)
    (info,) = store.list_checkpoints(tmp_path)
    assert (info.step, info.loss, info.path, info.problem) == (552, 0.0385, path, None)
    assert info.is_latest and info.is_best and info.metadata["is_best"]
    assert set(info.metadata["files"]) == {store.CONTROLLER, "extra/note.txt"}
    store.verify(path)


def test_links_name_the_latest_the_best_and_step_and_loss(tmp_path):
    save(tmp_path, 1, loss=2.0)
    save(tmp_path, 2, loss=1.0)
    save(tmp_path, 3, loss=3.0)
    folder = tmp_path / "checkpoints"
    assert os.readlink(folder / "latest") == "step-000000003"
    assert os.readlink(folder / "checkpoint-best") == "step-000000002"
    readable = [p.name for p in folder.iterdir() if p.name.startswith("checkpoint-step2-loss1.0000-")]
    assert len(readable) == 1 and os.readlink(folder / readable[0]) == "step-000000002"
    assert [(i.is_latest, i.is_best) for i in store.list_checkpoints(tmp_path)] == [
        (False, False),
        (False, True),
        (True, False),
    ]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_a_loss_that_is_no_number_is_never_the_best(tmp_path, loss):
    save(tmp_path, 1, loss=loss)
    assert not store.list_checkpoints(tmp_path)[0].is_best


def test_order_is_the_order_of_saving_and_not_of_steps(tmp_path):
    for step in (10, 20, 15):
        save(tmp_path, step)
    assert [info.step for info in store.list_checkpoints(tmp_path)] == [10, 20, 15]
    assert store.resolve(tmp_path).name == "step-000000015"


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, value=1.0)
    path = save(tmp_path, 1, value=2.0)
    assert load_weights(path / store.CONTROLLER)["weight"][0] == 2.0
    assert names(tmp_path) == ["step-000000001"]


def test_a_save_that_fails_leaves_the_older_ones_and_no_rubbish(tmp_path):
    path = save(tmp_path, 1)

    def write(folder):
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError):
        store.write_checkpoint(tmp_path, 2, write, {})
    assert names(tmp_path) == ["step-000000001"]
    store.verify(path)


def test_what_a_killed_process_leaves_is_cleaned_and_a_replacement_is_undone(tmp_path):
    path = save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / ".saving-step-000000002").mkdir()
    (folder / ".deleting-step-000000000").mkdir()
    (tmp_path / f".{store.CONTROLLER}.0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / ".notes.json.0123456789abcdef.tmp").write_bytes(b"being written by a page")
    path.rename(folder / ".replaced-step-000000001")  # killed between the two renames of a replacement
    (folder / "checkpoint-step9-loss1.0-x").symlink_to("step-000000009")
    store.clean(tmp_path)
    assert names(tmp_path) == ["step-000000001"]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [".notes.json.0123456789abcdef.tmp"]
    store.verify(path)
    assert not (folder / "checkpoint-step9-loss1.0-x").is_symlink()


def damage(file, kind):
    data = file.read_bytes()
    if kind == "flipped":
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif kind == "truncated":
        file.write_bytes(data[:-1])
    elif kind == "emptied":
        file.write_bytes(b"")
    else:
        file.unlink()


@pytest.mark.parametrize("kind", ["flipped", "truncated", "emptied", "removed"])
@pytest.mark.parametrize("name", [store.CONTROLLER, "extra/note.txt", store.METADATA])
def test_every_damage_to_every_file_is_found_and_named(tmp_path, name, kind):
    path = save(tmp_path, 1)
    damage(path / name, kind)
    with pytest.raises(CheckpointError, match=name.rpartition("/")[2]):
        store.verify(path)


def test_every_bit_of_the_manifest_counts(tmp_path):
    path = save(tmp_path, 1)
    file = path / store.METADATA
    data = file.read_bytes()
    for i in range(0, len(data), 7):
        changed = bytes([data[i] ^ 1])
        if (data[i : i + 1] + changed).isspace():
            continue  # white space between tokens says nothing
        file.write_bytes(data[:i] + changed + data[i + 1 :])
        with pytest.raises(CheckpointError):
            store.verify(path)


def test_listing_finds_missing_and_shortened_files_without_reading_them(tmp_path):
    damage(save(tmp_path, 1) / store.CONTROLLER, "truncated")
    damage(save(tmp_path, 2) / store.CONTROLLER, "removed")
    problems = [info.problem for info in store.list_checkpoints(tmp_path)]
    assert "truncated" in problems[0] and "missing" in problems[1]
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        store.resolve(tmp_path)


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step, loss=abs(step - 2))
    store.prune(tmp_path, keep=3)
    assert names(tmp_path) == [f"step-{step:09d}" for step in (2, 5, 6, 7)]
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.is_symlink() and not p.exists()]


def test_pruning_keeps_the_last_two_that_verify(tmp_path):
    paths = {step: save(tmp_path, step, loss=step) for step in range(1, 7)}
    for step in (4, 5):
        damage(paths[step] / store.CONTROLLER, "flipped")
    store.prune(tmp_path, keep=1)
    # 1 is the best; 6 and 3 are the last that verify.
    assert names(tmp_path) == [f"step-{step:09d}" for step in (1, 3, 6)]


def test_pruning_a_small_number_still_leaves_two(tmp_path):
    for step in range(1, 5):
        save(tmp_path, step, loss=-step)
    store.prune(tmp_path, keep=1)
    assert names(tmp_path) == ["step-000000003", "step-000000004"]


def test_pruning_leaves_folders_of_others_alone(tmp_path):
    other = tmp_path / "checkpoints" / "checkpoint-epoch0-step100"
    other.mkdir(parents=True)
    for step in range(1, 5):
        save(tmp_path, step)
    store.prune(tmp_path, keep=1)
    assert other.is_dir()


def test_runs_are_listed_by_name_with_their_configuration(tmp_path):
    save(tmp_path / "b", 1)
    write_json(tmp_path / "b" / RUN_CONFIG, {"base_model": "nano"})
    save(tmp_path / "a", 2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").touch()
    runs = store.list_runs(tmp_path)
    assert [(run.name, run.config.get("base_model"), len(run.checkpoints)) for run in runs] == [
        ("a", None, 1),
        ("b", "nano", 1),
    ]
    assert store.list_runs(tmp_path / "nowhere") == []


def test_flight_weights_come_from_a_run_or_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    first = save(run, 1, value=1.0)
    save(run, 2, value=2.0)
    write_json(run / RUN_CONFIG, {"action_controller_config": {}})
    newest, older = store.load_flight_weights(run), store.load_flight_weights(first)
    assert (newest.step, newest.run, float(newest.controller["weight"][0])) == (2, "run", 2.0)
    assert (older.step, older.run, float(older.controller["weight"][0])) == (1, "run", 1.0)
    assert newest.lora is None and newest.transformer is None


def test_exported_files_alone_are_enough_to_fly(tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / store.CONTROLLER)
    write_json(tmp_path / RUN_CONFIG, {"action_controller_config": {}})
    weights = store.load_flight_weights(tmp_path)
    assert weights.step is None and "weight" in weights.controller


def test_a_controller_without_its_configuration_cannot_fly(tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / store.CONTROLLER)
    with pytest.raises(CheckpointError, match="action_controller_config"):
        store.load_flight_weights(tmp_path)


# Hostile folders


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    save(outside, 1)
    root = tmp_path / "runs"
    (root / "run" / "checkpoints").mkdir(parents=True)
    (root / "evil").symlink_to(outside)
    (root / "run" / "checkpoints" / "latest").symlink_to("../../../outside/checkpoints/step-000000001")
    (root / "run" / "checkpoints" / "step-000000001").symlink_to(outside / "checkpoints" / "step-000000001")
    assert [run.name for run in store.list_runs(root)] == ["run"]
    assert store.list_checkpoints(root / "run") == []
    with pytest.raises(CheckpointError, match="link out"):
        store.resolve(root / "run" / "checkpoints" / "latest")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    path = save(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    metadata = store.read_metadata(path)
    metadata["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    metadata["manifest_sha256"] = store._manifest_sum(metadata)
    write_json(path / store.METADATA, metadata)
    with pytest.raises(CheckpointError, match="leads out"):
        store.verify(path)


def test_weights_linked_from_elsewhere_do_not_fly(tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / "elsewhere.safetensors")
    run = tmp_path / "run"
    run.mkdir()
    (run / store.CONTROLLER).symlink_to(tmp_path / "elsewhere.safetensors")
    write_json(run / RUN_CONFIG, {"action_controller_config": {}})
    with pytest.raises(CheckpointError, match="link out"):
        store.load_flight_weights(run)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{{",
        struct.pack("<Q", 62) + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,9000000000]}}',
        struct.pack("<Q", 13) + b'{"w":{"a":1}}',
    ],
)
def test_a_hostile_safetensors_file_is_refused_with_its_name(tmp_path, content):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="bad.safetensors"):
        load_weights(file)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_pickle_is_refused_with_a_sentence_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"weight": Bomb()}, tmp_path / "torch.pt")
    for name in ("plain.pt", "torch.pt"):
        with pytest.raises(CheckpointError, match="a pickle can run code"):
            load_weights(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("text", ["[]", "{", "", "[" * 100_000, "\x00"])
def test_a_hostile_metadata_file_is_a_problem_and_not_a_crash(tmp_path, text):
    path = save(tmp_path, 1)
    (path / store.METADATA).write_text(text)
    (info,) = store.list_checkpoints(tmp_path)
    assert info.problem and store.METADATA in info.problem


def test_deeply_nested_metadata_of_another_program_says_nothing(tmp_path):
    path = save(tmp_path, 1)
    (path / store.METADATA).write_text('{"a":' * 400 + "0" + "}" * 400)
    (info,) = store.list_checkpoints(tmp_path)
    assert (info.step, info.problem, info.metadata) == (1, None, {})


def test_metadata_of_a_wrong_kind_is_a_problem_and_not_a_crash(tmp_path):
    path = save(tmp_path, 1)
    metadata = store.read_metadata(path) | {"files": {"x": 3}, "step": "many", "sequence": None}
    metadata["manifest_sha256"] = store._manifest_sum(metadata)
    write_json(path / store.METADATA, metadata)
    (info,) = store.list_checkpoints(tmp_path)
    assert info.problem


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": 10**400},
        {"loss": True},
        {"loss": float("nan")},
        {"timestamp": [[["deep"]]]},
        {"step": -(10**30)},
        {"sequence": 10**400},
        {"diverged": {"a": 1}},
        {"nested": json.loads("[" * 800 + "]" * 800)},
        *(
            {"files": {name: {"bytes": 1, "sha256": "0"}}}
            for name in ("", "a\0b", "a/\0b", "x" * 300, "a/" * 3000, "\ud800")
        ),
        {"files": {"a": {"bytes": -(10**400), "sha256": 3}}},
    ],
    ids=repr,
)
def test_hostile_metadata_with_sums_that_hold_neither_stops_a_listing_nor_a_resume(tmp_path, changed):
    sound, path = save(tmp_path, 1), save(tmp_path, 2)
    metadata = store.read_metadata(path) | changed
    metadata["manifest_sha256"] = store._manifest_sum(metadata)
    (path / store.METADATA).write_text(json.dumps(metadata))
    infos = store.list_checkpoints(tmp_path)
    assert {info.path for info in infos} == {sound, path}
    assert len(RunIndex([tmp_path]).entries()) == 2
    store.prune(tmp_path, keep=5)
    if "files" in changed:
        assert next(info for info in infos if info.path == path).problem
        with pytest.raises(CheckpointError):
            store.verify(path)


def test_a_half_written_log_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert store.read_log(tmp_path) == [{"step": 1}]
