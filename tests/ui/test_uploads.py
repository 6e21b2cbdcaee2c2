import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ui.conftest import write_run
from wanact.errors import UserError
from wanact.files import CheckpointError
from wanact.flying import pipeline
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import CONTROLLER
from wanact.ui import uploads
from wanact.ui.pages.fly.desk import FlyForm
from wanact.ui.uploads import Uploads


@pytest.fixture
def files(tmp_path):
    """What a visitor chooses: weights and their configuration."""
    run = write_run(tmp_path / "mine", steps=(7,))
    weights = run / "checkpoints" / "step-000000007" / CONTROLLER
    return [("best one.safetensors", weights), (RUN_CONFIG, run / RUN_CONFIG)]


def test_an_uploaded_checkpoint_flies_and_only_its_id_finds_it(engine, desk, request_fields, files):
    upload = engine.uploads.add(files)
    assert upload.id not in str(engine.checkpoints()) and upload.label == "upload · best one.safetensors"
    flight = desk.read_flight(FlyForm(**request_fields | {"checkpoint": upload.id}))
    *_, frames = engine.fly(flight)
    assert frames.shape == (17, 32, 64, 3)
    for guess in ("upload/", "upload/" + "a" * 22, upload.id[:-1], "upload/../" + upload.id.partition("/")[2]):
        with pytest.raises(CheckpointError, match="not kept"):
            engine.find(guess)


def damaged(path, content):
    path.write_bytes(content)
    return path


def changed(tmp_path, weights, **tensors):
    path = tmp_path / "changed.safetensors"
    save_file(load_file(weights) | tensors, path)
    return path


def test_what_cannot_be_flown_is_refused_in_one_sentence_and_leaves_nothing(tmp_path, files):
    (name, weights), config = files
    narrow = json.loads(config[1].read_text())
    narrow["action_controller_config"]["hidden_size"] = 96
    (tmp_path / "narrow.json").write_text(json.dumps(narrow))
    (tmp_path / "endless.json").write_text('{"a": ' * 50_000)
    header = struct.pack("<Q", 10 * 2**30) + b"{}"
    attacks = {
        "missing": [(name, weights)],
        "no weights": [config],
        "neither": [("run.pt", weights), config],
        "does not fit": [(name, damaged(tmp_path / "huge", header)), config],
        "NaN": [(name, changed(tmp_path, weights, output_scale=torch.full((2,), torch.nan))), config],
        "hidden_size|shape": [(name, weights), (RUN_CONFIG, tmp_path / "narrow.json")],
        "not valid JSON": [(name, weights), (RUN_CONFIG, tmp_path / "endless.json")],
        "same kind": [(name, weights), ("other.safetensors", weights), config],
        "5 files": [config] * 5,
    }
    kept = Uploads(width=48, num_layers=2)
    for says, chosen in attacks.items():
        with pytest.raises(CheckpointError, match=says) as caught:
            kept.add(chosen)
        assert str(tmp_path) not in str(caught.value) and "wanact-uploads" not in str(caught.value), says
    assert not list(Path(kept._folder.name).iterdir())


def test_weights_for_another_base_are_refused(files):
    with pytest.raises(CheckpointError, match="another base model: 48 wide with 2 layers, this one is 144 wide with 6"):
        Uploads(width=144, num_layers=6).add(files)


def test_uploads_expire_and_the_oldest_give_way(files, monkeypatch):
    kept = Uploads()
    monkeypatch.setattr(uploads, "MAX_KEPT", 2)
    first, second, third = (kept.add(files) for _ in range(3))
    assert kept.find(first.id) is None and not first.path.exists()
    assert kept.find(second.id) is second and kept.find(third.id) is third
    monkeypatch.setattr(uploads, "KEEP_S", -1.0)
    assert kept.find(third.id) is None and not third.path.exists()
    shutil.rmtree(kept._folder.name, ignore_errors=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"causal": {"window": 100_000, "num_inference_steps": 2}}, "window is 100000, expected .* to 1024"),
        ({"causal": {"window": 10**400, "num_inference_steps": 2}}, "window is .*, expected"),
        ({"causal": {"window": True, "num_inference_steps": 2}}, "window is True"),
        ({"causal": {"window": 8, "num_inference_steps": 10**9}}, "num_inference_steps is 1000000000, expected"),
        ({"causal": {"window": 8, "num_inference_steps": 2, "sampler": ["euler"] * 1000}}, "sampler is"),
        ({"causal": "three"}, "causal settings"),
        ({"action_magnitude_scale": [1e308] * 8}, r"action_magnitude_scale.0 is 1e\+308"),
        ({"action_magnitude_scale": [float("nan")] * 8}, "action_magnitude_scale.0 is nan"),
        ({"action_magnitude_scale": [1.0] * 9}, "action_magnitude_scale is"),
        ({"action_controller_config": {"num_layers": 10**400}}, "num_layers"),
        ({"action_controller_config": {"num_latent_frames": 10**6}}, "num_latent_frames"),
        ({"action_controller_config": {"initial_scale": 10**400}}, "no action controller"),
        ({"action_controller_config": {"dropout": 1e308}}, "no action controller"),
        ({"action_controller_config": {"inject_layers": [10**400]}}, "no action controller"),
    ],
)
def test_every_number_of_a_configuration_is_held_against_what_the_model_can_use(engine, files, tmp_path, change, says):
    (name, weights), (_, path) = files
    content = json.loads(path.read_text())
    for key, value in change.items():
        content[key] = content[key] | value if key == "action_controller_config" else value
    own = tmp_path / "own.json"
    own.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says) as caught:
        engine.uploads.add([(name, weights), (RUN_CONFIG, own)])
    assert isinstance(caught.value, UserError) and len(str(caught.value)) < 400


def test_a_window_that_no_memory_holds_is_refused_before_it_is_taken(engine, files, tmp_path, monkeypatch):
    (name, weights), (_, path) = files
    monkeypatch.setattr(pipeline, "free_memory", lambda _: 10_000)
    content = json.loads(path.read_text()) | {"causal": {"window": 1000, "num_inference_steps": 2}}
    own = tmp_path / "own.json"
    own.write_text(json.dumps(content))
    with pytest.raises(pipeline.OutOfMemory, match="remembers 1000 latent frames needs"):
        engine.uploads.add([(name, weights), (RUN_CONFIG, own)])


def test_uploads_have_so_many_bytes_together_and_the_oldest_leave(files, monkeypatch):
    kept = Uploads()
    first = kept.add(files)
    monkeypatch.setattr(uploads, "MAX_KEPT_BYTES", 2 * first.num_bytes)
    second, third = kept.add(files), kept.add(files)
    assert [kept.find(one.id) is one for one in (first, second, third)] == [False, True, True]
    assert not first.path.exists()


def test_a_full_disk_takes_the_oldest_first_and_is_then_one_sentence(files, monkeypatch):
    kept = Uploads()
    first, second = kept.add(files), kept.add(files)
    free = iter([0, 10**12])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free, 0)))
    third = kept.add(files)
    assert kept.find(first.id) is None and kept.find(second.id) is second and kept.find(third.id) is third
    with pytest.raises(CheckpointError, match="disk is full"):
        kept.add(files)
    assert not list(Path(kept._folder.name).iterdir())
