"""The noise levels that are trained, their weights, the error, and the rate."""

from __future__ import annotations

import pytest
import torch

from train.loop.config import OptimConfig
from train.loop.optim import learning_rate
from train.stages.losses import SigmaSampler, flow_matching_loss
from wanact.flow import shift_sigmas

UNIFORM = torch.linspace(0, 1, 10_001)[:-1]


def test_a_perfect_velocity_has_no_loss_and_the_first_frame_does_not_count():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 3, 2, 2, generator=generator) for _ in range(2))
    mask = torch.ones(2, 1, 3, 1, 1)
    mask[:, :, 0] = 0
    velocity = noise - latents
    velocity[:, :, 0] = 1e3
    assert torch.equal(flow_matching_loss(velocity, latents, noise, mask), torch.zeros(2))
    velocity[1, :, 1:] += 2.0
    torch.testing.assert_close(flow_matching_loss(velocity, latents, noise, mask), torch.tensor([0.0, 4.0]))


def test_a_sample_without_a_frame_that_counts_is_an_error():
    x = torch.zeros(1, 4, 1, 2, 2)
    with pytest.raises(ValueError, match="no latent frame"):
        flow_matching_loss(x, x, x, torch.zeros(1, 1, 1, 1, 1))


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_boundaries_cut_the_schedule_as_in_inference(sampling):
    # DiffSynth counts from noise: the first 40% of the schedule are the highest sigmas.
    sampler = SigmaSampler(sampling, shift=5.0, min_boundary=0.0, max_boundary=0.4)
    sigma = sampler.sigma(UNIFORM)
    low = float(shift_sigmas(torch.tensor(0.6), 5.0))
    assert low - 1e-6 <= float(sigma.min()) < low + 0.01
    assert 0.99 < float(sigma.max()) <= 1.0


def test_the_uniform_density_is_flat_before_the_shift():
    sigma = SigmaSampler("uniform", shift=1.0).sigma(UNIFORM)
    torch.testing.assert_close(sigma, UNIFORM)


def test_the_logit_normal_density_is_that_of_a_normal_variable_through_a_sigmoid():
    sigma = SigmaSampler("logit_normal", mean=0.4, std=0.7).sigma(UNIFORM[1:])
    logits = torch.logit(sigma.double())
    assert float(logits.mean()) == pytest.approx(0.4, abs=2e-3)
    assert float(logits.std()) == pytest.approx(0.7, abs=2e-3)


def test_the_bell_weighs_the_middle_most_and_one_on_average():
    sampler = SigmaSampler(weighting="bell")
    sigma = torch.linspace(0, 1, 1001)
    weight = sampler.weight(sigma)
    assert float(weight.mean()) == pytest.approx(1.0, abs=2e-3)
    assert int(weight.argmax()) == 500 and float(weight[0]) == pytest.approx(0, abs=1e-6)
    assert torch.equal(SigmaSampler().weight(sigma), torch.ones_like(sigma))


def test_the_rate_rises_linearly_and_falls_as_a_cosine_to_its_minimum():
    config = OptimConfig(learning_rate=1e-3, lr_warmup_ratio=0.1, lr_min_lr=1e-4)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * i for i in range(1, 11)])
    assert rates[10] == pytest.approx(1e-3) and rates[-1] == pytest.approx(1e-4)
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))
    assert rates[54] == pytest.approx((1e-3 + 1e-4) / 2, rel=0.02)
