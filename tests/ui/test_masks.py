"""The overlay of masks: which run's network reads them, what a page is told, and what is never read."""

from __future__ import annotations

import base64
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ui.test_data import looked_at  # noqa: F401  a fixture
from wanact.actions import channel_track
from wanact.data.sets import DataSet
from wanact.errors import UserError
from wanact.models.masked_idm import MaskedIDMConfig, MaskedInverseDynamics
from wanact.runs.index import RunIndex
from wanact.runs.store import write_checkpoint
from wanact.ui import masks
from wanact.ui.engine import Engine
from wanact.ui.masks import CELLS, Masks
from wanact.ui.pages.compare.desk import CompareDesk
from wanact.ui.pages.data.desk import DataDesk, DataMessage

TINY = MaskedIDMConfig(
    action_dim=4, frames=5, height=48, width=80, mask_channels=4, mask_depth=2, channels=4, blocks=(1, 1, 1, 1)
)


def write_mask_run(run, step=900, bias=0.0):
    """A run of `train idm_mask`, whose untrained network looks everywhere alike: above a bias of 0 more than less."""
    torch.manual_seed(1)
    network = MaskedInverseDynamics(TINY).eval()
    torch.nn.init.zeros_(network.model.mask_model.out.weight)
    torch.nn.init.constant_(network.model.mask_model.out.bias, bias)
    write_checkpoint(run, step, network.save, {"loss": 0.1})
    return run


def greys(read):
    """The masks of an answer, [T, rows, columns] in 0..1."""
    picture = Image.open(io.BytesIO(base64.b64decode(read["strip"].partition(",")[2])))
    return np.asarray(picture).reshape(read["count"], read["rows"], read["columns"]) / 255


def test_the_newest_network_among_the_runs_reads_a_clip(tmp_path):
    write_mask_run(tmp_path / "first", bias=-3.0)
    write_mask_run(tmp_path / "second", step=1200, bias=3.0)
    reader = Masks(RunIndex([tmp_path]))
    assert "second" in reader.told()["by"] and "1,200" in reader.told()["by"]
    frames = np.random.default_rng(0).integers(0, 256, (15, 32, 48, 3), np.uint8)
    seen = greys(reader.read(frames))
    assert seen.shape == (4, *CELLS) and seen.min() > 0.95, "15 frames are 13 and two that are no latent frame"
    write_mask_run(tmp_path / "second", step=1800, bias=-3.0)
    assert greys(reader.read(frames)).max() < 0.05, "a step that is saved meanwhile is read"


def test_without_a_network_there_is_one_sentence(tmp_path, engine):
    assert Masks(RunIndex([tmp_path])).told() == {"problem": masks.NONE}
    with pytest.raises(UserError, match="idm_mask"):
        engine.masks.read(np.zeros((5, 32, 48, 3), np.uint8))


def test_a_damaged_or_large_network_is_not_read(tmp_path, monkeypatch):
    run = write_mask_run(tmp_path / "runs" / "masks")
    reader, frames = Masks(RunIndex([tmp_path / "runs"])), np.zeros((5, 32, 48, 3), np.uint8)
    with pytest.raises(UserError, match="too short"):
        reader.read(frames[:4])
    monkeypatch.setattr(masks, "MOST_PARAMETERS", 100)
    with pytest.raises(UserError, match="M parameters"):
        reader.read(frames)
    monkeypatch.undo()
    weights = run / "checkpoints" / "step-000000900" / "idm.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError) as told:
        reader.read(frames)
    assert str(tmp_path) not in str(told.value)


def test_the_data_page_reads_the_masks_of_a_clip(pipe, runs_root, looked_at, tmp_path):  # noqa: F811
    folder = shutil.copytree(looked_at, tmp_path / "lakes", copy_function=shutil.copy2)
    write_mask_run(tmp_path / "more" / "masks", bias=3.0)
    desk = DataDesk(Engine(pipe, [runs_root, tmp_path / "more"]), [DataSet(folder)], looks=False)
    clip = desk.open_data(DataMessage())["columns"]["id"][0]
    answer = desk.show_data_clip(DataMessage(id=clip))
    assert answer["masks"]["by"].startswith("masks")
    read = desk.mask_data_clip(DataMessage(id=clip))
    assert read["count"] == len(answer["axes"]) + 1 and greys(read).min() > 0.95


def test_lanes_of_compare_carry_the_masks_of_their_clips(pipe, runs_root, picture, tmp_path):
    write_mask_run(tmp_path / "masks", bias=3.0)
    desk = CompareDesk(Engine(pipe, [runs_root, tmp_path]))
    plan = channel_track("forward", desk.engine.num_actions).to_list()
    lanes = [{"checkpoint": "drone/step-000000200"}, {"checkpoint": "base"}]
    *_, state = desk.compare(str(picture), "a lake", plan, lanes, size="64 × 32")
    assert state.masks["by"].startswith("masks")
    assert [lane.masks["count"] for lane in state.lanes] == [desk.engine.num_actions + 1] * 2
    assert greys(state.lanes[0].masks).min() > 0.95
