"""A published run flies as the one it came from, and holds nothing but what flies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from wanact.actions import PRESETS
from wanact.files import CheckpointError
from wanact.flying.pipeline import WanActPipeline
from wanact.runs import store
from wanact.runs.check import check_flight_files
from wanact.runs.publish import publish


def test_published_steps_hold_the_same_weights_and_verify(run, tmp_path):
    run("action", tmp_path / "run", "--max_steps", "3", "--save_steps", "1", "--save_full_state")
    written = publish(tmp_path / "run", tmp_path / "small", [1, 3], base_model="nano")
    assert [info.step for info in store.list_checkpoints(tmp_path / "small")] == [1, 3]
    for path in written:
        store.verify(path)
        ours = store.load_flight_weights(path)
        theirs = store.load_flight_weights(tmp_path / "run" / "checkpoints" / path.name)
        assert ours.config["base_model"] == "nano"
        assert all(torch.equal(value, theirs.controller[name]) for name, value in ours.controller.items())
        assert not list(path.glob("optimizer*")) and not list(path.glob("trainable*"))
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "small").rglob("*.json"))


def test_a_published_run_flies_alike_with_less_and_trains_on(run, model, tmp_path):
    """What its injection type never asks is left out, and nobody misses it."""
    flags = ["--max_steps", "2", "--learning_rate", "0.1", "--action_injection_type", "cross_attn_frame"]
    run("action", tmp_path / "run", *flags)
    publish(tmp_path / "run", tmp_path / "small")
    publish(tmp_path / "run", tmp_path / "half", dtype=torch.bfloat16)
    files = [store.resolve(tmp_path / name) / store.CONTROLLER for name in ("run", "small", "half")]
    assert files[0].stat().st_size > files[1].stat().st_size > files[2].stat().st_size
    for path in files:
        check_flight_files(path.parent, store.load_flight_weights(path.parent).config)
    pipe = WanActPipeline.from_model_dir(model)
    clips = []
    for name in ("run", "small"):
        pipe.load_controller(tmp_path / name)
        clips.append(pipe("a drone flies", Image.new("RGB", (48, 48), (90, 120, 60)), PRESETS["Forward"](2)))
    assert np.array_equal(*clips)
    run("action", tmp_path / "on", *flags, "--action_controller_checkpoint", str(files[1]))


def test_a_new_run_begins_with_the_weights_of_a_published_one(run, tmp_path):
    run("action", tmp_path / "run", "--max_steps", "2", "--export_dtype", "float32",
        "--trainable_models", "action_controller,transformer")  # fmt: skip
    publish(tmp_path / "run", tmp_path / "small", [2], base_model="nano")
    causal = run("causal", tmp_path / "causal", "--max_steps", "1", "--learning_rate", "1e-12",
                 "--init_from", str(tmp_path / "small"))  # fmt: skip
    published = store.load_flight_weights(tmp_path / "small")
    controller = causal.stage.controller
    assert controller.unused_parts.isdisjoint(name.partition(".")[0] for name in published.controller)
    for name, value in controller.used(controller.state_dict()).items():
        torch.testing.assert_close(value, published.controller[name])
    for name, value in causal.stage.transformer.state_dict().items():
        torch.testing.assert_close(value, published.transformer[name])


def test_a_step_that_is_not_there_is_named(run, tmp_path):
    run("action", tmp_path / "run", "--max_steps", "1")
    with pytest.raises(CheckpointError, match="7"):
        publish(tmp_path / "run", tmp_path / "small", [7])


def test_a_publication_that_fails_leaves_no_half_run_that_refuses_the_next(run, tmp_path):
    run("action", tmp_path / "run", "--max_steps", "2", "--save_steps", "1")
    (tmp_path / "run" / "log.jsonl").unlink()  # as in a run from the Hub
    damaged = tmp_path / "run" / "checkpoints" / store.step_name(2) / store.CONTROLLER
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError):
        publish(tmp_path / "run", tmp_path / "small")
    assert not (tmp_path / "small").exists()
    damaged.write_bytes(content)
    assert [path.name for path in publish(tmp_path / "run", tmp_path / "small")] == [store.step_name(s) for s in (1, 2)]
