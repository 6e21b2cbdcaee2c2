import pytest
import torch
from torch.testing import assert_close

from wanact.models.small_decoder import SmallDecoder


@pytest.fixture
def decoder() -> SmallDecoder:
    torch.manual_seed(0)
    return SmallDecoder(latent_channels=48, patch_size=2).eval()


def make_latents(num_latent_frames: int) -> torch.Tensor:
    return torch.randn(1, 48, num_latent_frames, 2, 3, generator=torch.Generator().manual_seed(0))


def test_frames_have_the_size_of_the_vaes(decoder):
    video = decoder.decode(make_latents(3))
    assert video.shape == (1, 3, 9, 32, 48)
    assert video.min() >= -1 and video.max() <= 1


def test_it_is_causal(decoder):
    latents = make_latents(4)
    assert_close(decoder.decode(latents[:, :, :2]), decoder.decode(latents)[:, :, :5])


def test_the_decoder_is_told_from_its_weights(decoder):
    state = decoder.state_dict() | {"encoder.0.weight": torch.zeros(3)}
    names = [name for name in state if name.endswith("weight")]
    # The places of taew2_2.pth: three memory blocks, upsampling, growth in time and a convolution, three times.
    assert {"decoder.1.weight", "decoder.3.conv.0.weight", "decoder.7.conv.weight", "decoder.8.weight"} <= set(names)
    assert {"decoder.13.conv.weight", "decoder.17.conv.4.weight", "decoder.20.weight", "decoder.22.weight"} <= set(
        names
    )
    assert state["decoder.13.conv.weight"].shape == (256, 128, 1, 1) and state["decoder.22.bias"].shape == (12,)
    again = SmallDecoder.from_state(state)
    assert_close(again.decode(make_latents(2)), decoder.decode(make_latents(2)), rtol=0, atol=0)


@pytest.mark.parametrize("damage", [lambda s: {}, lambda s: {n: t for n, t in s.items() if "8." not in n}])
def test_other_weights_are_refused(decoder, damage):
    with pytest.raises(ValueError, match="no weights of a small decoder"):
        SmallDecoder.from_state(damage(decoder.state_dict()))
