"""The inverse dynamics model with a mask: Vidar's network to the letter, and a mask through which alone it reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wanact.models.idm import IDMError
from wanact.models.masked_idm import (
    PRESETS,
    MaskedIDMConfig,
    MaskedInverseDynamics,
    config_of,
    huber_and_mask,
    load_masked_idm,
    motion_features,
    preset,
    resized,
)

TINY = MaskedIDMConfig(
    action_dim=3, height=32, width=32, mask_channels=4, mask_depth=2, channels=4, blocks=(1, 2, 1, 1)
)


def built(config=TINY, seed=0):
    torch.manual_seed(seed)
    model = MaskedInverseDynamics(config)
    for name, buffer in model.named_buffers():  # as after training
        if name.endswith(("mean", "var", "std")):
            low, high = (-0.05, 0.05) if name.endswith("mean") else (0.01, 0.05)
            buffer.uniform_(low, high)
    for begins_at_zero in (model.model.mask_model.out, model.model.resnet_model.fc):
        begins_at_zero.reset_parameters()
    return model.eval()


def released_shapes():
    """Names and shapes of `model_state_dict` in Vidar's idm.pt, written down from how its networks are described."""
    shapes = {"train_mean": (14,), "train_std": (14,)}

    def norm(name, channels):
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def double(name, wide, middle, out):
        shapes.update({f"{name}.0.weight": (middle, wide, 3, 3), f"{name}.3.weight": (out, middle, 3, 3)})
        norm(f"{name}.1", middle)
        norm(f"{name}.4", out)

    unet, reader = "model.mask_model", "model.resnet_model"
    double(f"{unet}.in_conv", 3, 64, 64)
    for i, (wide, out) in enumerate([(64, 128), (128, 256), (256, 512), (512, 1024), (1024, 1024)]):
        double(f"{unet}.downs.{i}.1", wide, out, out)
    for i, (wide, out) in enumerate([(2048, 512), (1024, 256), (512, 128), (256, 64), (128, 64)]):
        double(f"{unet}.ups.{i}.conv", wide, wide // 2, out)
    shapes |= {f"{unet}.out.weight": (1, 64, 1, 1), f"{unet}.out.bias": (1,)}
    shapes |= {f"{reader}.conv1.0.weight": (64, 3, 7, 7), f"{reader}.fc.weight": (14, 2048), f"{reader}.fc.bias": (14,)}
    norm(f"{reader}.conv1.1", 64)
    wide = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
        for block in range(blocks):
            name = f"{reader}.layer{stage}.{block}.residual_function"
            shapes |= {f"{name}.0.weight": (width, wide, 1, 1), f"{name}.2.weight": (width, width, 3, 3)}
            shapes[f"{name}.5.weight"] = (4 * width, width, 1, 1)
            for index, channels in ((1, width), (3, width), (6, 4 * width)):
                norm(f"{name}.{index}", channels)
            if not block:
                short = f"{reader}.layer{stage}.0.shortcut"
                shapes[f"{short}.0.weight"] = (4 * width, wide, 1, 1)
                norm(f"{short}.1", 4 * width)
            wide = 4 * width
    return shapes


def test_vidars_network_has_its_names_shapes_and_92_million_parameters():
    with torch.device("meta"):
        model = MaskedInverseDynamics(PRESETS["vidar"])
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == released_shapes()
    assert sum(parameter.numel() for parameter in model.parameters()) == 92_713_423
    assert config_of(model.state_dict()) == PRESETS["vidar"]


@pytest.mark.parametrize("inner_relu", [False, True])
def test_a_released_file_is_read_through_model_state_dict(tmp_path, inner_relu):
    model = built(replace(TINY, height=518, width=518, inner_relu=inner_relu))
    torch.save({"model_state_dict": model.state_dict(), "step": 7, "optimizer": {"lr": 1e-4}}, tmp_path / "idm.pt")
    loaded = load_masked_idm(tmp_path / "idm.pt")
    assert loaded.config == model.config and not loaded.training
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for one, other in zip(model(pictures), loaded(pictures), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("action_dim", [4, 8, 14])
def test_what_is_saved_is_loaded_whole(tmp_path, action_dim):
    model = built(replace(preset("small", action_dim), height=32, width=64))
    model.save(tmp_path, {"trained_on": "blobs"})
    loaded = load_masked_idm(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)
    assert loaded.config == model.config
    assert torch.equal(loaded.get_mask(frames, (3, 4)), model.get_mask(frames, (3, 4)))
    assert load_masked_idm(tmp_path / "idm.pt").config == model.config
    released = torch.load(tmp_path / "idm.pt", weights_only=True)["model_state_dict"]
    assert all(torch.equal(released[name], value) for name, value in model.state_dict().items())


def test_what_is_no_model_is_named(tmp_path):
    torch.save({"model_state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("nothing")
    state = built().state_dict()
    torch.save({"model_state_dict": {n: v for n, v in state.items() if "fc.bias" not in n}}, tmp_path / "part.pt")
    (tmp_path / "config.json").write_text('{"idm": {}}')
    for name, words in (
        ("other.pt", "has no weights of"),
        ("text.pt", "is no inverse"),
        ("part.pt", "fc.bias"),
        ("missing.pt", "is no inverse"),
        ("", "holds no mask; `python -m train idm_mask`"),
    ):
        with pytest.raises(IDMError, match=words) as error:
            load_masked_idm(tmp_path / name)
        assert "\n" not in str(error.value)


def test_nothing_is_read_outside_of_the_mask_and_the_mask_learns_all_the_same():
    model, generator = built(), torch.Generator().manual_seed(0)
    out = model.model.mask_model.out
    with torch.no_grad():
        out.weight.zero_()
        out.bias.fill_(-3.0)
    one, other = (model(50 * torch.randn(1, 3, 32, 32, generator=generator))[0] for _ in range(2))
    assert torch.equal(one, other)
    with torch.no_grad():
        out.bias.fill_(3.0)
    one, other = (model(50 * torch.randn(1, 3, 32, 32, generator=generator))[0] for _ in range(2))
    assert not torch.equal(one, other)
    answer, mask = model(50 * torch.randn(1, 3, 32, 32, generator=generator))
    answer.sum().backward()
    assert out.bias.grad.abs() > 0 and float(mask.detach().min()) == pytest.approx((1 + np.tanh(3)) / 2)


def test_a_latent_frame_has_the_mean_mask_of_its_own_pictures():
    model = built()
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    pictures = torch.from_numpy(frames)[:, None].float() / 255
    each = torch.cat([model(model.as_input(picture[None]))[1] for picture in pictures]).detach()[:, 0]
    found = model.get_mask(frames, (2, 4))
    cells = each.unflatten(1, (2, 16)).unflatten(3, (4, 8)).mean(dim=(2, 4))
    assert found.shape == (1, 3, 2, 4) and 0 <= float(found.min()) <= float(found.max()) <= 1
    wanted = torch.stack([cells[0], cells[1:5].mean(0), cells[5:9].mean(0)])
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.get_mask(frames[:1], (2, 4))[0, 0], found[0, 0], atol=1e-5, rtol=1e-5)


def test_of_a_drone_the_first_latent_frame_has_the_mask_of_the_second():
    torch.manual_seed(0)
    model = MaskedInverseDynamics(replace(preset("small", 4), height=32, width=64)).eval()
    model.model.mask_model.out.reset_parameters()
    frames = np.random.default_rng(0).integers(0, 255, (13, 32, 64, 3), dtype=np.uint8)
    found = model.get_mask(frames, (2, 4))
    assert found.shape == (1, 4, 2, 4) and torch.equal(found[0, 0], found[0, 1])
    assert not torch.equal(found[0, 1], found[0, 2])


@pytest.mark.parametrize("contrast", [1.0, 0.5])
def test_motion_is_told_in_pixels_whatever_the_contrast(contrast):
    down, across = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def seen(dx, dy):
        return torch.sin((across - dx) / 4) + torch.sin((down - dy) / 3) + torch.sin((across + down - dx - dy) / 5)

    frames = contrast * torch.stack([seen(0.5 * t, -0.25 * t) for t in range(5)])
    features = motion_features(frames[None]).unflatten(1, (5, 4))[0, :, :, 8:-8, 8:-8]
    sideways, downwards, share, lean = (kind.mean() for kind in features[:4])
    # change = -(slope across) dx - (slope down) dy
    assert float(sideways) == pytest.approx(float(-0.5 * share + 0.25 * lean), abs=0.02)
    assert float(downwards) == pytest.approx(float(-0.5 * lean + 0.25 * (1 - share)), abs=0.02)


def test_what_is_seen_is_as_exact_in_bfloat16_training():
    model = built(replace(preset("small", 4), height=32, width=64))
    frames = torch.rand(2, 5, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.as_input(frames)
    assert seen.dtype == torch.float32 and torch.equal(seen, model.as_input(frames))


def test_the_reader_begins_with_the_whole_picture():
    model = MaskedInverseDynamics(replace(preset("small", 4), height=32, width=64))
    frames = torch.rand(4, 5, 32, 64, 3, generator=torch.Generator().manual_seed(0))
    mask = model(model.as_input(frames))[1]
    assert float(mask.detach().min()) == float(mask.detach().max()) > 0.5


def test_the_loss_is_hubers_of_deviations_and_the_mean_of_the_mask():
    answer, target, std = torch.tensor([[1.0, 8.0]]), torch.tensor([[0.5, 0.0]]), torch.tensor([1.0, 2.0])
    mask = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    huber = (0.5 * 0.5**2 + (4 - 0.5)) / 2
    assert float(huber_and_mask(answer, target, mask, std, 3e-3)) == pytest.approx(huber + 3e-3 * 0.5)


def test_squeezing_keeps_what_is_flat_and_does_nothing_where_sizes_agree():
    frames = np.full((2, 50, 70, 3), 93, np.uint8)
    assert resized(frames, 50, 70) is frames
    assert resized(frames, 32, 32).shape == (2, 32, 32, 3) and (resized(frames, 32, 32) == 93).all()
