import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch.testing import assert_close

from wanact import flow
from wanact.errors import UserError


@pytest.fixture
def latents_and_noise():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 3, 2, 2, generator=generator), torch.randn(2, 4, 3, 2, 2, generator=generator)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 4, 20, 50])
@pytest.mark.parametrize("grid, first", [("wan", 1 - 1 / 1000), ("from_one", 1.0)])
def test_inference_sigmas_match_diffusers_given_that_grid(num_steps, shift, grid, first):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(first, 0, num_steps + 1)[:-1])
    assert_close(flow.inference_sigmas(num_steps, shift, grid), scheduler.sigmas.float())


@pytest.mark.parametrize("num_steps", [1, 2, 8, 20, 50])
@pytest.mark.parametrize(
    "scheduler",
    [
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        FlowMatchEulerDiscreteScheduler(shift=5.0),
    ],
)
def test_a_scheduler_gets_the_steps_of_wans_own_solver(scheduler, num_steps):
    flow.set_steps(scheduler, num_steps, "wan")
    # wan/utils/fm_solvers_unipc.py: between the first and the last of a thousand training steps.
    alphas = np.linspace(1, 1 / 1000, 1000)[::-1]
    training = 1.0 - alphas
    unshifted = np.linspace(training[0], training[-1], num_steps + 1)[:-1]
    sigmas = 5.0 * unshifted / (1 + 4.0 * unshifted)
    assert_close(scheduler.sigmas.double(), torch.from_numpy(np.append(sigmas, 0.0)), rtol=0, atol=1e-6)
    assert_close(scheduler.timesteps.double(), torch.from_numpy(sigmas * 1000), rtol=0, atol=1.0)
    if num_steps == 50:
        assert round(float(scheduler.sigmas[-2]), 4) == 0.0925  # diffusers' own grid ends at 0.0968


def test_a_scheduler_keeps_its_own_grid_where_it_was_trained_on_it():
    ours, theirs = (UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0) for _ in range(2))
    flow.set_steps(ours, 50, "from_one")
    theirs.set_timesteps(50)
    assert torch.equal(ours.sigmas, theirs.sigmas) and round(float(ours.sigmas[-2]), 4) == 0.0968


def test_shifting_keeps_the_ends_and_the_order():
    sigmas = flow.shift_sigmas(torch.linspace(0, 1, 50), 5.0)
    assert sigmas[0] == 0
    assert sigmas[-1] == 1
    assert (sigmas.diff() > 0).all()


def test_shifting_back_undoes_a_shift():
    sigmas = torch.linspace(0, 1, 50)
    assert_close(flow.shift_sigmas(flow.shift_sigmas(sigmas, 5.0), 1 / 5.0), sigmas)


def test_interpolation_runs_from_latents_to_noise(latents_and_noise):
    latents, noise = latents_and_noise
    assert_close(flow.interpolate(latents, noise, 0.0), latents)
    assert_close(flow.interpolate(latents, noise, 1.0), noise)


def test_velocity_is_the_slope_of_the_interpolation(latents_and_noise):
    latents, noise = latents_and_noise
    sigma = torch.tensor(0.3, requires_grad=True)
    _, slope = torch.func.jvp(lambda s: flow.interpolate(latents, noise, s), (sigma,), (torch.tensor(1.0),))
    assert_close(flow.velocity_target(latents, noise), slope)


def test_velocity_has_the_sign_of_the_formula_in_the_papers_time(latents_and_noise):
    # With t = 1 - sigma, x_t = t * data + (1 - t) * noise and the target is data - noise, read backwards in time.
    latents, noise = latents_and_noise
    forward_in_t = latents - noise
    assert_close(flow.velocity_target(latents, noise), -forward_in_t)


def test_a_perfect_velocity_leads_to_the_data_in_any_number_of_steps(latents_and_noise):
    latents, noise = latents_and_noise
    velocity = flow.velocity_target(latents, noise)
    for num_steps in (1, 3, 7):
        sigmas = flow.inference_sigmas(num_steps, 5.0)
        sample = flow.interpolate(latents, noise, sigmas[0])
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
            sample = flow.euler_step(sample, velocity, sigma, sigma_next)
        assert_close(sample, latents, atol=1e-5, rtol=0)


def test_each_latent_frame_can_have_its_own_sigma(latents_and_noise):
    latents, noise = latents_and_noise
    sigma = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1, 1)
    mixed = flow.interpolate(latents, noise, sigma)
    assert_close(mixed[:, :, 0], latents[:, :, 0])
    assert_close(mixed[:, :, 2], noise[:, :, 2])


@pytest.mark.parametrize(("num_steps", "shift", "message"), [(0, 5.0, "num_steps=0"), (4, 0.0, "shift=0.0")])
def test_useless_settings_are_refused(num_steps, shift, message):
    with pytest.raises(ValueError, match=message):
        flow.inference_sigmas(num_steps, shift)


def test_clean_latents_and_velocity_are_two_words_for_the_same(latents_and_noise):
    data, noise = latents_and_noise
    for sigma in (0.05, 0.5, 1.0):
        noisy = flow.interpolate(data, noise, sigma)
        velocity = flow.velocity_of(data, noisy, sigma, "sample")
        assert_close(velocity, flow.velocity_target(data, noise), atol=1e-4, rtol=1e-4)
        assert flow.velocity_of(velocity, noisy, sigma, "flow_prediction") is velocity
        assert_close(flow.euler_step(noisy, velocity, sigma, 0.0), data, atol=1e-4, rtol=1e-4)


def test_the_scheduler_says_what_is_predicted():
    for kind in ("flow_prediction", "sample"):
        assert flow.prediction_of(UniPCMultistepScheduler(prediction_type=kind)) == kind
    with pytest.raises(UserError, match="prediction_type 'epsilon' cannot be flown"):
        flow.prediction_of(UniPCMultistepScheduler(prediction_type="epsilon"))


def test_clean_latents_are_weighed_as_if_sigma_were_never_small():
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0])
    assert_close(flow.loss_weight(sigma, "sample"), torch.tensor([0.01, 1.0, 1.0, 1.0]))
    assert (flow.loss_weight(sigma, "flow_prediction") == 1).all()
