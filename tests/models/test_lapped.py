"""The lapped autoencoder: whole clips and streams are one, groups do not see one another, and diffusers takes it."""

from __future__ import annotations

import pytest
import torch

from tests import tiny_model
from wanact.models import lapped, stock
from wanact.models import vae as wan_vae
from wanact.models.lapped import AutoencoderLapped

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def vae() -> AutoencoderLapped:
    """With a network that has something to say, and statistics of latents that are not 0 and 1."""
    torch.manual_seed(0)
    mean, std = torch.linspace(-0.2, 0.2, 48).tolist(), [0.7] * 48
    vae = AutoencoderLapped(width=8, depth=2, latents_mean=mean, latents_std=std).eval()
    torch.nn.init.normal_(vae.correction.weight, std=0.05)
    return vae


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 13, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def smooth_picture(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """A ramp in each colour, [1, 3, 1, H, W]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([0.5 * x + 0.3 * y, 0.2 * x - 0.6 * y, -0.4 * x])[None, :, None]


def psnr(again: torch.Tensor, truth: torch.Tensor) -> float:
    return (10 * torch.log10(4 / (again - truth).square().mean())).item()


def test_the_border_filter_is_orthogonal_and_leaves_what_is_flat():
    border = lapped.border_filter()
    torch.testing.assert_close(border @ border.T, torch.eye(16, dtype=torch.float64))
    overlap = border[:, 16:] @ border[:, :16].T  # a block with the next one
    torch.testing.assert_close(overlap, torch.zeros_like(overlap))
    torch.testing.assert_close(border.sum(dim=1), torch.ones(16, dtype=torch.float64))


def test_what_latents_can_say_is_read_back():
    """The transform is a rotation of what it keeps, also at the picture's edges."""
    latents = torch.randn(1, 48, 3, 4, generator=torch.Generator().manual_seed(2))
    vae = AutoencoderLapped(width=1, depth=0)
    with torch.no_grad():
        again = vae.analyse(vae.synthesise(latents, refine=False))
    torch.testing.assert_close(again, latents, atol=1e-4, rtol=0)


def test_steps_between_the_squares_of_the_network_are_halved(video):
    """And nothing else: pixels that do not lie at a border of two squares stay, and so does every pair's sum."""
    torch.manual_seed(0)
    plain = AutoencoderLapped(width=8, depth=1).eval()
    torch.nn.init.normal_(plain.correction.weight, std=0.05)
    seamless = AutoencoderLapped(width=8, depth=1, smooth_seams=True).eval()
    seamless.load_state_dict(plain.state_dict())
    with torch.no_grad():
        latents = plain.encode(video).latent_dist.mode()[:, :, 0]
        without = plain.synthesise(latents, refine=False)
        before, after = plain.synthesise(latents) - without, seamless.synthesise(latents) - without
    torch.testing.assert_close(_inside(after), _inside(before))
    assert before.abs().max() > 0.1
    rows = [3, 4, 7, 8]
    columns = [1, 2, 5, 6]  # away from the other borders
    a, b = before[:, :, rows][..., columns], after[:, :, rows][..., columns]
    torch.testing.assert_close(b[:, :, 1::2] - b[:, :, ::2], 0.5 * (a[:, :, 1::2] - a[:, :, ::2]))
    torch.testing.assert_close(b[:, :, 1::2] + b[:, :, ::2], a[:, :, 1::2] + a[:, :, ::2])


def _inside(values: torch.Tensor) -> torch.Tensor:
    """Pixels that no border of two squares touches."""
    y, x = (torch.tensor([k for k in range(size) if k % 4 in (1, 2)]) for size in values.shape[-2:])
    return values[:, :, y][..., x]


def test_smooth_pictures_survive_without_training():
    vae = AutoencoderLapped(width=8, depth=1)
    clip = smooth_picture().expand(-1, -1, 5, -1, -1)
    assert psnr(wan_vae.decode(vae, wan_vae.encode(vae, clip)), clip) > 40


def test_streaming_encode_equals_the_whole_clip(vae, video):
    session = wan_vae.StreamingEncoder(vae)
    parts = [session.step(video[:, :, :1])] + [session.step(chunk) for chunk in video[:, :, 1:].split(4, 2)]
    torch.testing.assert_close(torch.cat(parts, 2), wan_vae.encode(vae, video), atol=1e-5, rtol=1e-5)


def test_streaming_decode_equals_the_whole_clip(vae):
    latents = torch.randn(1, 48, 4, 4, 6, generator=torch.Generator().manual_seed(3))
    chunks = list(wan_vae.iter_decode(vae, latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4]
    torch.testing.assert_close(torch.cat(chunks, 2), wan_vae.decode(vae, latents), atol=1e-5, rtol=1e-5)


def test_a_fork_goes_on_from_where_it_was_taken(vae):
    latents = torch.randn(1, 48, 2, 4, 6, generator=torch.Generator().manual_seed(4))
    session = wan_vae.StreamingDecoder(vae)
    before = session.fork()
    session.step(latents[:, :, :1])
    assert before.step(latents[:, :, :1]).shape[2] == 1
    assert session.fork().step(latents[:, :, 1:]).shape[2] == 4


def test_the_first_frame_alone_is_the_first_latent_frame(vae, video):
    whole, first = wan_vae.encode(vae, video), wan_vae.encode(vae, video[:, :, :1])
    torch.testing.assert_close(whole[:, :, :1], first, atol=1e-5, rtol=1e-5)
    again = wan_vae.decode(vae, whole)
    torch.testing.assert_close(again[:, :, :1], wan_vae.decode(vae, first), atol=1e-5, rtol=1e-5)


def test_a_group_knows_nothing_of_the_others(vae, video):
    other = video.clone()
    other[:, :, 5:9] = 0.3
    changed = (wan_vae.encode(vae, video) - wan_vae.encode(vae, other)).abs().amax(dim=(0, 1, 3, 4)) > 1e-3
    assert changed.tolist() == [False, False, True, False]


def test_latents_of_a_drone_that_hovers_stay_as_they_are(vae, video):
    latents = wan_vae.encode(vae, video[:, :, :1].expand(-1, -1, 13, -1, -1))
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents), atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_it_is_the_same(vae, video, tmp_path):
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderLapped.from_pretrained(tmp_path)
    assert loaded.config.latents_mean == vae.config.latents_mean
    assert loaded.config.latents_std == vae.config.latents_std
    assert torch.equal(wan_vae.encode(loaded, video), wan_vae.encode(vae, video))


def test_it_answers_as_diffusers_asks(vae, video):
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        torch.testing.assert_close(posterior.mode(), wan_vae.encode_moments(vae, video)[0])
        drawn = posterior.sample(torch.Generator().manual_seed(0))
        torch.testing.assert_close(drawn, posterior.mode(), atol=1e-5, rtol=1e-5)
        again = vae.decode(posterior.mode()).sample
        assert torch.equal(vae.decode(posterior.mode(), return_dict=False)[0], again)
        assert torch.equal(vae(video).sample, again)
    assert again.shape == video.shape
    assert again.abs().max() <= 1


def test_other_scale_factors_are_refused():
    with pytest.raises(ValueError, match="expected 16 and 4"):
        AutoencoderLapped(scale_factor_spatial=8)


def test_gradients_reach_every_parameter(vae, video):
    loss = wan_vae.decode_raw(vae, wan_vae.encode_moments(vae, video)[0]).square().mean()
    gradients = torch.autograd.grad(loss, list(vae.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_stock_diffusers_flies_with_it(vae):
    tokenizer = tiny_model.build_tokenizer()
    pipeline = stock.stock_pipeline(
        tiny_model.build_transformer(),
        vae,
        tiny_model.build_text_encoder(len(tokenizer)),
        tokenizer,
        tiny_model.build_scheduler(),
    )
    assert type(pipeline.vae) is AutoencoderLapped
    first = smooth_picture()
    frames = pipeline(
        image=pipeline.video_processor.postprocess_video(first, output_type="pil")[0][0],
        prompt="hills",
        height=HEIGHT,
        width=WIDTH,
        num_frames=9,
        num_inference_steps=2,
        guidance_scale=1.0,
        max_sequence_length=16,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).frames
    assert frames.shape == (1, 9, 3, HEIGHT, WIDTH)
    assert psnr(2 * frames[:, 0] - 1, wan_vae.decode(vae, wan_vae.encode(vae, first))[:, :, 0]) > 30
