import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ui.conftest import write_run
from wanact.files import CheckpointError
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
    assert not list(__import__("pathlib").Path(kept._folder.name).iterdir())


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
