"""The list of checkpoints: thousands at little cost, what is on disk and nothing else, and nothing hostile flies."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from tests.ui.conftest import write_run
from wanact.files import CheckpointError, load_weights, read_json
from wanact.runs import index as run_index
from wanact.runs import store
from wanact.runs.index import RunIndex
from wanact.runs.ref import RUN_CONFIG


def states(index):
    return {entry.id: entry.state for entry in index.entries()}


def controller_of(run, step=200):
    return run / "checkpoints" / store.step_name(step) / store.CONTROLLER


def test_runs_of_several_folders_stand_side_by_side_and_same_names_apart(tmp_path):
    write_run(tmp_path / "a" / "drone", steps=(1,))
    write_run(tmp_path / "b" / "drone", steps=(2,))
    write_run(tmp_path / "b" / "other", steps=(3,))
    alone = write_run(tmp_path / "alone", steps=(4,))
    index = RunIndex([tmp_path / "a", tmp_path / "b", alone, tmp_path / "nowhere"])
    assert [(run.name, [entry.step for entry in run.entries]) for run in index.runs()] == [
        ("drone", [1]),
        ("drone~2", [2]),
        ("other", [3]),
        ("alone", [4]),
    ]
    assert index.find("drone~2/step-000000002").path.is_relative_to(tmp_path / "b")


def test_metadata_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    run = write_run(tmp_path / "drone", steps=(1, 2, 3))
    index, read = RunIndex([tmp_path]), []
    original = store.read_metadata
    monkeypatch.setattr(store, "read_metadata", lambda path, **how: read.append(path.name) or original(path, **how))
    assert len(index.entries()) == 3 and len(read) == 3
    assert len(index.entries()) == 3 and len(read) == 3, "nothing changed, so nothing is read"
    write_run(tmp_path / "late", steps=(9,))
    assert len(index.entries()) == 4 and read[3:] == ["step-000000009"]
    file = run / "checkpoints" / "step-000000002" / store.METADATA
    file.write_text(file.read_text().replace('"loss"', '"less"'))
    assert states(index)["drone/step-000000002"] == "damaged" and read[4:] == ["step-000000002"]


@pytest.mark.parametrize("links", ["kept", "lost", "stale"])
def test_best_and_latest_are_what_the_metadata_says(tmp_path, links):
    run = write_run(tmp_path / "drone", steps=(400, 200))  # the loss rises, so the first is the best
    for link in (p for p in (run / "checkpoints").iterdir() if p.is_symlink() and links != "kept"):
        link.unlink()
    if links == "stale":  # a process was killed before it moved them
        (run / "checkpoints" / "latest").symlink_to("step-000000400")
        (run / "checkpoints" / "checkpoint-best").symlink_to("step-000000200")
    index = RunIndex([tmp_path])
    expected = [(400, True, False), (200, False, True)]
    assert [(e.step, e.is_best, e.is_latest) for e in index.entries()] == expected
    assert [(i.step, i.is_best, i.is_latest) for i in store.list_checkpoints(run)] == expected
    write_run(tmp_path / "x" / "drone", steps=(800,))
    os.replace(tmp_path / "x" / "drone" / "checkpoints" / "step-000000800", run / "checkpoints" / "step-000000800")
    assert [entry.step for entry in index.entries() if entry.is_best] == [800], "its loss is lower"


def test_older_layouts_follow_their_links(tmp_path):
    folder = tmp_path / "old" / "checkpoints"
    for step in (100, 200):
        (folder / f"checkpoint-epoch0-step{step}").mkdir(parents=True)
        save_file({"weight": torch.ones(1)}, folder / f"checkpoint-epoch0-step{step}" / store.CONTROLLER)
    (folder / "latest").symlink_to("checkpoint-epoch0-step100")
    assert [(e.step, e.is_latest) for e in RunIndex([tmp_path]).entries()] == [(100, True), (200, False)]
    assert [(i.step, i.is_latest) for i in store.list_checkpoints(tmp_path / "old")] == [(100, True), (200, False)]


def test_verifying_reads_sums_shapes_and_values_and_is_remembered(tmp_path, monkeypatch):
    write_run(tmp_path / "drone", steps=(200,))
    index = RunIndex([tmp_path])
    (entry,) = index.entries()
    assert entry.state == "whole" and index.verify(entry).state == "verified"
    assert states(index) == {entry.id: "verified"}
    monkeypatch.setattr(run_index, "check_flight_files", lambda *_: pytest.fail("it was read already"))
    index.verify(index.entries()[0])


def test_the_background_verifies_everything_small(tmp_path):
    write_run(tmp_path / "drone", steps=(1, 2))
    bad = controller_of(write_run(tmp_path / "bad", steps=(200,)))
    bad.write_bytes(bad.read_bytes()[:-1] + b"\x40")
    index = RunIndex([tmp_path])
    index.verify_in_background()
    index._verifier.join(60)
    assert sorted(states(index).values()) == ["damaged", "verified", "verified"]
    (damaged,) = [entry for entry in index.entries() if entry.state == "damaged"]
    assert "checksum" in damaged.problem and str(tmp_path) not in damaged.problem and "\n" not in damaged.problem


def test_an_older_layout_is_listed_with_the_loss_in_its_name(tmp_path):
    folder = tmp_path / "old" / "checkpoints" / "checkpoint-step552-loss0.0385-20251130_014518"
    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(1)}, folder / "trainable.safetensors")
    (entry,) = RunIndex([tmp_path]).entries()
    assert (entry.step, entry.loss, entry.state) == (552, 0.0385, "weightless")
    assert "not flown" in entry.problem and entry.saved_at


# Hostile folders: one sentence each, listed but not flyable


def rewrite(run, step=200, config=None, **weights):
    """Weights of a checkpoint changed with sums that hold again."""
    file = controller_of(run, step)
    content = load_weights(file)
    content.update(weights)
    if config is not None:
        (run / RUN_CONFIG).write_text(json.dumps(config))
    folder = file.parent
    store.write_checkpoint(run, step, lambda to: save_file(content, to / store.CONTROLLER), {"loss": 1.0})
    return folder


def huge_header(run):
    rewrite_raw(run, struct.pack("<Q", 10 * 2**30) + b"{" * 100)


def rewrite_raw(run, data, step=200):
    store.write_checkpoint(run, step, lambda to: (to / store.CONTROLLER).write_bytes(data), {"loss": 1.0})


def nan_weights(run):
    rewrite(run, **{"output_scale": torch.full((2,), float("nan"))})


def wrong_shape(run):
    rewrite(run, **{"output_scale": torch.ones(7)})


def endless_config(run):
    config = read_json(run / RUN_CONFIG)
    config["action_controller_config"]["num_layers"] = 10**12
    rewrite(run, config=config)


def pickled(run):
    rewrite_raw(run, b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n.")


def huge_metadata(run):
    file = controller_of(run).parent / store.METADATA
    file.write_bytes(b'{"note": "' + b"x" * (5 * 2**20) + b'"}')


def linked_weights(run):
    outside = run.parent.parent / "secret.safetensors"
    save_file({"weight": torch.ones(1)}, outside)
    file = controller_of(run)
    file.unlink()
    file.symlink_to(outside)


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (huge_header, "header does not fit"),
        (nan_weights, "NaN"),
        (wrong_shape, r"shape \(7,\)"),
        (endless_config, "num_layers"),
        (pickled, "safetensors"),
        (huge_metadata, "larger than 4 MB"),
        (linked_weights, "leads out"),
    ],
)
def test_hostile_checkpoints_are_listed_with_one_sentence_and_do_not_fly(tmp_path, attack, says):
    root = tmp_path / "runs"
    attack(write_run(root / "evil", steps=(200,)))
    index = RunIndex([root])
    entry = index.verify(index.find("evil/step-000000200"))
    assert entry.state == "damaged" and not entry.flyable
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(entry.problem)
    assert len(entry.problem) < 400 and "\n" not in entry.problem and str(tmp_path) not in entry.problem
    assert [e.state for e in index.entries()] == ["damaged"], "the verdict stays"


def test_links_out_of_the_folder_are_listed_and_never_opened(tmp_path, monkeypatch):
    write_run(tmp_path / "outside", steps=(1,))
    root = tmp_path / "runs"
    run = write_run(root / "run", steps=(2,))
    (root / "evil").symlink_to(tmp_path / "outside")
    (run / "checkpoints" / "step-000000009").symlink_to(tmp_path / "outside" / "checkpoints" / "step-000000001")
    (run / "checkpoints" / "latest").unlink()
    (run / "checkpoints" / "latest").symlink_to(tmp_path / "outside" / "checkpoints" / "step-000000001")
    opened, original = [], store.read_metadata
    monkeypatch.setattr(store, "read_metadata", lambda path, **how: opened.append(path) or original(path, **how))
    index = RunIndex([root])
    evil, run = index.runs()
    assert evil.entries == [] and "not followed" in evil.problem
    assert [(e.step, e.state) for e in run.entries] == [(9, "damaged"), (2, "whole")]
    assert "link out of the run" in run.entries[0].problem and run.entries[1].is_latest, "the run's own newest"
    assert all(path.resolve().is_relative_to(root) for path in opened)


@pytest.mark.parametrize("wanted", ["../run/step-000000002", "run/../run/step-000000002", "/etc/passwd", "", None, 3])
def test_ids_are_names_and_never_paths(tmp_path, wanted):
    write_run(tmp_path / "run", steps=(2,))
    with pytest.raises(CheckpointError, match="is not there any more"):
        RunIndex([tmp_path]).find(wanted)
