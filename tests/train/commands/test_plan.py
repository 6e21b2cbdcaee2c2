"""`train plan`: what a run takes is counted before it is started, and a run takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.train.conftest import CONTROLLER
from train.commands.plan import main
from train.loop.config import ConfigError
from train.loop.seeding import Draw

CONFIGS = Path(__file__).parents[3] / "train" / "configs" / "vidar"


@pytest.fixture
def counted(tmp_path, capsys):
    """Sizes in bytes of a planned run by row, and all that was counted: `counted("vidar", "--fsdp")`."""

    def count(*argv: str) -> tuple[dict[str, int], dict]:
        main([*argv, "--json", str(tmp_path / "plan.json")])
        content = json.loads((tmp_path / "plan.json").read_text())
        assert content["clip"] in capsys.readouterr().out
        return {row["what"]: row["size"] for row in content["rows"]}, content

    return count


def saved_bytes(stage) -> int:
    """What the way back of one micro-batch needs beside the weights."""
    weights = {p.untyped_storage().data_ptr() for m in stage.modules.values() for p in m.parameters()}
    storages = {}

    def see(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    batch = stage.load([Draw(i, i, 0, 0, "plan") for i in range(2)])
    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        loss = stage.loss(batch, "main").loss
    size = sum(storage.nbytes() for storage in storages.values())
    assert loss.grad_fn is not None
    return size


def test_a_run_takes_what_was_planned(run, model, counted, tmp_path):
    flags = ("--batch_size", "2", "--mixed_precision", "no", "--ema_decay", "0.9")
    trainer = run("vidar", tmp_path / "run", "--max_steps", "1", *flags)
    rows, _ = counted("vidar", "--model_dir", str(model), *flags)
    weights = sum(p.numel() * p.element_size() for p in trainer.parameters.values())
    states = [tensor for state in trainer.optimizers["main"].state.values() for tensor in state.values()]
    assert rows["weights, transformer"] == rows["gradients, transformer"] == weights
    assert rows["average of the weights, transformer"] == sum(t.numel() * 4 for t in trainer.ema.values())
    assert rows["state of adamw, transformer"] == sum(t.numel() * t.element_size() for t in states if t.ndim)
    planned = rows["activations of the blocks"] + rows["before and behind the blocks"]
    assert planned == pytest.approx(saved_bytes(trainer.stage), rel=0.1)


def test_two_gpus_hold_half_of_the_5b_model_and_whole_gradients(counted):
    """The plan's own file: its gradients are added up over eight forwards before they are split."""
    files = ("vidarc_causal.yaml", "vidarc_2xh200.yaml", "vidar_data.yaml")
    configs = [token for file in files for token in ("--config", str(CONFIGS / file))]
    rows, content = counted(*configs, "--processes", "2", "--size", "ti2v_5b")
    numbers = 4_999_787_712
    assert rows["weights, transformer"] == numbers * 4 // 2
    assert rows["state of adamw, transformer"] == numbers * 8 // 2
    assert rows["gradients, transformer"] == numbers * 4
    tokens = 8 * (21 + 8) * 460  # eight of the sixteen clips, clean frames and a chunk
    assert rows["inputs of the blocks, which checkpointing keeps"] == tokens * 3072 * 2 * 30
    assert content["total"] == sum(rows.values()) and content["saving"] == numbers * 12 // 2


def test_offloading_moves_what_is_split_and_one_forward_splits_gradients_too(model, counted):
    flags = ("vidarc", "--model_dir", str(model), "--fsdp", "--processes", "4", "--cpu_offload", "true")
    rows, content = counted(*flags, "--sharding_strategy", "HYBRID_SHARD", "--processes_per_machine", "2")
    assert rows["gradients, transformer"] == rows["weights, transformer"]
    places = {row["what"]: row["where"] for row in content["rows"]}
    assert places["weights, transformer"] == places["state of adamw, transformer"] == "host"
    whole, _ = counted("vidarc", "--model_dir", str(model))
    assert rows["weights, transformer"] == whole["weights, transformer"] // 2


def test_a_rollout_takes_the_frames_that_have_a_gradient(model, counted):
    flags = ("vidarc", "--model_dir", str(model), "--commit", "own", "--use_gradient_checkpointing", "true")
    some, more = (counted(*flags, "--grad_frames", count)[0] for count in ("1", "2"))
    kept = "inputs of the blocks, which checkpointing keeps"
    assert 2 * some[kept] == more[kept] and some["inside of one block, computed again"] > 0


def test_a_critic_and_what_is_frozen_are_counted(model, counted):
    rows, _ = counted("vidarc", "--model_dir", str(model), "--distribution_matching", "true", "--pt_dir", "student")
    assert rows["weights, critic"] == rows["weights, transformer"] == 2 * rows["not trained, the real score"]
    flags = ("--action_controller_config", CONTROLLER, "--student_steps", "2", "--teacher_run", "teacher")
    rows, _ = counted("causal", "--model_dir", str(model), *flags)
    assert "not trained, the teacher's controller" in rows


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["vae"], "stage vae is small and not counted"),
        (["vidar", "--model_dir", "nowhere"], "nowhere is not there; give --model_dir, or --size ti2v_5b"),
        (["vidar", "--size", "nano", "--processes", "0"], "--processes 0 must be at least 1"),
    ],
)
def test_what_cannot_be_counted_is_said(argv, sentence):
    with pytest.raises(ConfigError, match=sentence):
        main(argv)
