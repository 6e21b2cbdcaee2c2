"""Muon turns matrices, AdamW does the rest, and rates follow their schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.loop.config import ConfigError, OptimConfig, parse
from train.loop.dist import Processes
from train.loop.optim import Muon, build_optimizer, is_matrix, learning_rate, orthogonalise
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage


def seeded(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(3, 12, 40), (2, 40, 12), (1, 16, 16)])
def test_orthogonalise_keeps_directions_and_evens_out_sizes(shape):
    matrices = seeded(*shape)
    result = orthogonalise(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(result, u @ vh, atol=0.35 if shape[1] == shape[2] else 0.05, rtol=0)
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.3
    assert values.median() > 0.9


def test_matrices_are_linear_maps_and_not_gains_biases_or_tables():
    named = {"conv.weight": (8, 4, 3, 3, 3), "linear.weight": (8, 4)}
    others = {"norm.gamma": (8, 1, 1, 1), "linear.bias": (8,), "table": (1, 6, 8), "shared.weight": (50, 8)}
    assert all(is_matrix(name, torch.empty(shape)) for name, shape in named.items())
    assert not any(is_matrix(name, torch.empty(shape)) for name, shape in others.items())


def test_muon_moves_a_kernel_by_an_orthogonal_matrix_of_adams_size():
    kernel = nn.Parameter(seeded(8, 4, 3, 3, 3))
    before = kernel.detach().clone()
    kernel.grad = seeded(8, 4, 3, 3, 3) * 1e-3  # its size does not matter, only its direction
    Muon([{"params": [kernel], "muon": True}], lr=0.1).step()
    moved = (kernel.detach() - before).reshape(8, -1)
    values = torch.linalg.svdvals(moved)
    torch.testing.assert_close(values, torch.full_like(values, 0.1 * 0.2 * 108**0.5), rtol=0.1, atol=0)


def test_muon_in_bfloat16_moves_a_matrix_nearly_as_in_float32():
    """What it computes in is told by the run's precision; weights and momentum stay in float32."""
    config = OptimConfig(optimizer="muon", learning_rate=0.1, weight_decay=0.0)
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.zeros(16, 48))
        optimizer = build_optimizer({"weight": weight}, config, dtype=dtype)
        weight.grad = seeded(16, 48)
        optimizer.step()
        moved[dtype] = weight.detach()
    off = moved[torch.bfloat16] - moved[torch.float32]
    assert 0 < off.norm() < 0.03 * moved[torch.float32].norm()


def test_what_is_no_matrix_moves_as_under_adamw():
    own, other = (nn.Parameter(seeded(16)) for _ in range(2))
    config = OptimConfig(optimizer="muon", learning_rate=0.01, adam_beta2=0.95)
    ours = build_optimizer({"norm.weight": own}, config)
    theirs = torch.optim.AdamW([other], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(4):
        own.grad = other.grad = seeded(16) * (step + 1)
        ours.step()
        theirs.step()
    torch.testing.assert_close(own, other)


def test_muon_descends():
    target = seeded(12, 12)
    weight = nn.Parameter(torch.zeros(12, 12))
    optimizer = build_optimizer({"weight": weight}, OptimConfig(optimizer="muon", weight_decay=0.0))
    losses = []
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 0.3 * (1 - step / 60)
        loss = (weight - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_rates_warm_up_and_come_down_on_a_line_or_a_cosine():
    config = OptimConfig(learning_rate=1.0, lr_min_lr=0.01, lr_warmup_ratio=0.1, lr_schedule="linear")
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    in_steps = OptimConfig(learning_rate=1.0, lr_min_lr=0.01, lr_warmup_steps=10, lr_schedule="linear")
    assert [learning_rate(step, 100, in_steps) for step in range(100)] == rates
    falls = [a - b for a, b in zip(rates[10:], rates[11:], strict=False)]
    assert max(falls) == pytest.approx(min(falls))
    cosine = OptimConfig(learning_rate=1.0, lr_warmup_ratio=0.0)
    assert learning_rate(50, 101, cosine) == pytest.approx(0.5)


def test_muon_and_sharding_exclude_each_other():
    with pytest.raises(ConfigError, match="--optimizer muon needs whole matrices"):
        parse("action", ["--optimizer", "muon", "--fsdp"])


@pytest.mark.parametrize(("first", "second"), [("muon", "adamw"), ("adamw", "muon")])
def test_a_run_goes_on_under_another_optimizer_with_what_both_keep(first, second, tmp_path, capsys):
    def train(optimizer, steps):
        flags = [f"--output_path={tmp_path}", "--save_full_state", f"--max_steps={steps}", f"--optimizer={optimizer}"]
        config, processes = parse("synthetic", flags), Processes("no")
        trainer = Trainer(config, SyntheticStage(config, processes.device), processes)
        trainer.run()
        return trainer

    train(first, 3)
    trainer = train(second, 5)
    assert trainer.step == 5 and "the state of 2 of 4 parameters is another optimizer's" in capsys.readouterr().out
    states = trainer.optimizers["main"].state
    counted = {name: int(states[p]["step"]) for name, p in trainer.parameters.items() if "step" in states[p]}
    assert {name: n for name, n in counted.items() if name.endswith("bias")} == {
        "network.0.bias": 5, "network.2.bias": 5}, "AdamW's of vectors, which both have, goes on"  # fmt: skip
    assert all(n == 2 for name, n in counted.items() if name.endswith("weight"))
