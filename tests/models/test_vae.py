"""Whole clips in one pass and streams equal diffusers' own chunked encode and decode."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.tiny_model import build_vae
from wanact.models import presets
from wanact.models import vae as wan_vae


@pytest.fixture(scope="module", params=["two-by-two patches, three stages", "four-by-four patches, two stages"])
def vae(request):
    if request.param.startswith("two"):
        return build_vae()
    torch.manual_seed(0)
    small = {"base_dim": 8, "decoder_base_dim": 8, "dim_mult": [1, 2, 2], "num_res_blocks": 1}
    patches = {"in_channels": 48, "out_channels": 48, "patch_size": 4, "temperal_downsample": [True, True]}
    vae = presets.random_vae("ti2v_5b", **small, **patches).eval()
    for parameter in vae.parameters():  # the residual branches start at zero: give them something to say
        parameter.data += 0.05 * torch.randn_like(parameter)
    return vae


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 13, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_encoding_in_one_pass_equals_diffusers(vae, video):
    with torch.no_grad():
        mean, log_variance = wan_vae.encode_moments(vae, video)
        expected = vae.encode(video).latent_dist
    torch.testing.assert_close(mean, expected.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(log_variance, expected.logvar, atol=1e-5, rtol=1e-4)


def test_decoding_in_one_pass_equals_diffusers(vae):
    latents = torch.randn(2, 48, 4, 2, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = vae.decode(wan_vae.denormalise(vae, latents)).sample
    torch.testing.assert_close(wan_vae.decode(vae, latents), expected, atol=1e-5, rtol=1e-4)


def test_streaming_decode_equals_diffusers(vae):
    latents = torch.randn(1, 48, 4, 2, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = vae.decode(wan_vae.denormalise(vae, latents)).sample
    chunks = list(wan_vae.iter_decode(vae, latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4]
    torch.testing.assert_close(torch.cat(chunks, 2), expected, atol=1e-5, rtol=0)


def test_two_streams_do_not_disturb_one_another(vae):
    latents = torch.randn(2, 1, 48, 3, 2, 4, generator=torch.Generator().manual_seed(4))
    alone = [torch.cat(list(wan_vae.iter_decode(vae, x)), 2) for x in latents]
    mixed = list(zip(wan_vae.iter_decode(vae, latents[0]), wan_vae.iter_decode(vae, latents[1]), strict=True))
    for k in range(2):
        assert torch.equal(torch.cat([pair[k] for pair in mixed], 2), alone[k])


def test_streaming_encode_equals_diffusers(vae, video):
    session = wan_vae.StreamingEncoder(vae)
    parts = [session.step(video[:, :, :1])] + [session.step(chunk) for chunk in video[:, :, 1:].split(4, 2)]
    with torch.no_grad():
        expected = wan_vae.normalise(vae, vae.encode(video).latent_dist.mode())
    torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-5, rtol=1e-4)


def test_the_first_frame_alone_is_the_first_latent_frame(vae, video):
    whole, first = wan_vae.encode(vae, video), wan_vae.encode(vae, video[:, :, :1])
    torch.testing.assert_close(whole[:, :, :1], first, atol=1e-5, rtol=1e-4)


def test_the_fast_operations_agree(vae):
    latents = torch.randn(1, 48, 2, 2, 4, generator=torch.Generator().manual_seed(5))
    fast = wan_vae.use_fast_operations(copy.deepcopy(vae))
    for _ in range(2):  # the second time with other weights
        torch.testing.assert_close(wan_vae.decode(fast, latents), wan_vae.decode(vae, latents), atol=1e-5, rtol=1e-5)
        for network in (vae, fast):
            network.load_state_dict({name: 1.01 * value for name, value in network.state_dict().items()})


def test_a_clip_of_the_wrong_length_is_refused(vae, video):
    with pytest.raises(ValueError, match="num_frames=12"):
        wan_vae.encode(vae, video[:, :, :12])


def test_the_first_frame_of_four_comes_before_the_others(vae):
    latents = torch.randn(1, 48, 3, 2, 4, generator=torch.Generator().manual_seed(6))
    whole = wan_vae.decode(vae, latents)
    session = wan_vae.StreamingDecoder(vae)
    pieces = [piece for frame in latents.split(1, 2) for piece in session.pieces(frame)]
    assert [piece.shape[2] for piece in pieces] == [1, 1, 3, 1, 3]
    torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=1e-5, rtol=1e-4)
