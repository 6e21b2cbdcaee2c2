"""The order of the data is a function of seed and epoch, and the position a counter."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from train.loop.sampler import StepSampler
from train.loop.seeding import Draw, derive_seed


def sampler(**changes):
    settings = {"num_rows": 5, "repeat": 1, "seed": 0, "stage": "s", "batch_size": 1, "accumulation": 1}
    return StepSampler(**{**settings, "num_processes": 1, **changes})


def step_rows(sampler, position):
    rounds = range(sampler.accumulation)
    return [d for r in rounds for p in range(sampler.num_processes) for d in sampler.micro_batch(position, 0, r, p)]


@pytest.mark.parametrize("repeat", [1, 3])
def test_every_epoch_holds_every_row_as_often_as_asked(repeat):
    s = sampler(repeat=repeat)
    for epoch in range(3):
        rows = [s.draw(epoch * s.epoch_length + i, 0).index for i in range(s.epoch_length)]
        assert Counter(rows) == dict.fromkeys(range(5), repeat)


def test_epochs_and_seeds_differ_in_order_but_not_from_run_to_run():
    def order(seed, epoch):
        s = sampler(num_rows=50, seed=seed)
        return [s.draw(epoch * 50 + i, 0).index for i in range(50)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_a_step_holds_the_same_samples_however_it_is_divided():
    divisions = [(1, 4, 1), (1, 2, 2), (2, 2, 1), (4, 1, 1), (2, 1, 2)]
    steps = [step_rows(sampler(batch_size=b, accumulation=a, num_processes=p), 7) for b, a, p in divisions]
    assert all(sorted(step, key=lambda d: d.position) == steps[0] for step in steps)


def test_randomness_belongs_to_the_sample_and_to_its_purpose():
    draw = Draw(index=3, position=17, step=4, seed=0, stage="action")
    noise = torch.randn(4, generator=draw.generator("noise"))
    assert torch.equal(noise, torch.randn(4, generator=draw.generator("noise")))
    for other in (Draw(3, 18, 4, 0, "action"), Draw(3, 17, 4, 1, "action"), Draw(3, 17, 4, 0, "i2v")):
        assert not torch.equal(noise, torch.randn(4, generator=other.generator("noise")))
    assert not torch.equal(noise, torch.randn(4, generator=draw.generator("sigma")))
    # The row does not matter: the same noise meets whatever stands at this position.
    assert torch.equal(noise, torch.randn(4, generator=Draw(1, 17, 4, 0, "action").generator("noise")))


def test_seeds_depend_on_every_part_and_on_their_order():
    seeds = [derive_seed(*parts) for parts in ((1, 2), (2, 1), (12,), ("1", "2", ""), (1, 2, 3))]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
