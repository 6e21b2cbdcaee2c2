import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import FirstBlockCacheConfig, WanImageToVideoPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from tests.tiny_model import LATENT_CHANNELS, TEXT_DIM, build_transformer
from wanact.models.controller import WanActionController
from wanact.models.injection import INJECTION_TYPES
from wanact.models.kv_cache import FrameView
from wanact.models.rotary import rotate
from wanact.models.transformer import WanActTransformer3DModel, _frame_by_frame, _two_products

B, T, H, W = 2, 5, 4, 6
TOKENS = (H // 2) * (W // 2)


@pytest.fixture
def stock() -> WanTransformer3DModel:
    return build_transformer()


@pytest.fixture
def ours(stock) -> WanActTransformer3DModel:
    return like(stock)


def like(stock: WanTransformer3DModel) -> WanActTransformer3DModel:
    ours = WanActTransformer3DModel.from_config(stock.config).eval()
    ours.load_state_dict(stock.state_dict())
    return ours


def make_controller(injection_type: str, initial_scale: float = 1.0, **config) -> WanActionController:
    torch.manual_seed(1)
    config = {"hidden_size": 48, "num_heads": 2, "num_layers": 2} | config
    return WanActionController(injection_type=injection_type, initial_scale=initial_scale, **config)


def make_inputs(seed: int = 0, batch: int = B) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, LATENT_CHANNELS, T, H, W, generator=generator),
        "timestep": torch.tensor([[0.0] + [700.0] * (T - 1)]).expand(batch, -1),
        "encoder_hidden_states": torch.randn(batch, 7, TEXT_DIM, generator=generator),
    }


def make_actions(seed: int = 0, batch: int = B, num_actions: int = T - 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(batch, num_actions, 8, generator=generator) * 5
    binary = (torch.rand(batch, num_actions, 8, generator=generator) < 0.5).float()
    return binary, magnitude * binary


def per_token(timestep: Tensor) -> Tensor:
    return timestep.repeat_interleave(TOKENS, dim=1)


@torch.no_grad()
def run(model, inputs: dict[str, Tensor], **kwargs) -> Tensor:
    return model(**inputs, **kwargs).sample


def test_it_adds_no_parameters(stock, ours):
    assert ours.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_size", [24, 48])
@pytest.mark.parametrize("batch", [1, B])
def test_without_actions_it_equals_stock_bit_for_bit(dtype, head_size, batch):
    """Where both run the same kernels on the same shapes: a timestep a token, as stock has it, or one a sample."""
    config = dict(build_transformer().config) | {"attention_head_dim": head_size}
    stock = WanTransformer3DModel.from_config(config).eval()
    ours = like(stock).to(dtype)
    stock = stock.to(dtype)
    inputs = {name: x if name == "timestep" else x.to(dtype) for name, x in make_inputs(batch=batch).items()}
    for timestep in (per_token(inputs["timestep"]), torch.tensor([500.0, 20.0])[:batch]):
        same = inputs | {"timestep": timestep}
        assert torch.equal(run(ours, same), run(stock, same)), f"timestep of shape {tuple(timestep.shape)}"


@pytest.mark.parametrize("batch", [1, B])
def test_a_timestep_a_frame_is_as_exact_as_one_a_token(stock, ours, batch):
    """Fewer rows go through the time embedding, where another kernel may round otherwise: float64 is the judge."""
    inputs = make_inputs(batch=batch)
    theirs = inputs | {"timestep": per_token(inputs["timestep"])}
    a_token, a_frame = run(stock, theirs), run(ours, inputs)
    exact = run(stock.double(), {name: x.double() for name, x in theirs.items()})
    assert_close(a_frame.double(), exact, rtol=0, atol=2 * float((a_token - exact).abs().max()))


def test_gradients_equal_those_of_stock(stock, ours):
    inputs = make_inputs()
    ours(**inputs).sample.square().mean().backward()
    stock(**inputs | {"timestep": per_token(inputs["timestep"])}).sample.square().mean().backward()
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("size", [24, 48])
def test_the_fast_rotary_embedding_equals_the_stock_formula(size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 3, size, generator=generator)
    cos, sin = torch.randn(2, 1, 6, 1, size, generator=generator).unbind(0)
    expected = torch.empty_like(x)
    expected[..., 0::2] = x[..., 0::2] * cos[..., 0::2] - x[..., 1::2] * sin[..., 1::2]
    expected[..., 1::2] = x[..., 0::2] * sin[..., 1::2] + x[..., 1::2] * cos[..., 0::2]
    assert torch.equal(rotate(x, (cos, sin)), expected)


def stock_clip(pipe: WanImageToVideoPipeline, **kwargs) -> np.ndarray:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    generator = torch.Generator().manual_seed(0)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 96, "num_frames": 5, "num_inference_steps": 2, "max_sequence_length": 16}
    return pipe(image, "a lake at noon", generator=generator, output_type="np", **size, **kwargs).frames[0]


def test_it_flies_in_the_stock_pipeline(tiny_model_dir):
    pipe = WanImageToVideoPipeline.from_pretrained(tiny_model_dir)
    expected = stock_clip(pipe)
    pipe.register_modules(transformer=WanActTransformer3DModel.from_pretrained(tiny_model_dir / "transformer"))
    assert np.array_equal(stock_clip(pipe), expected)

    steering = {"actions": make_actions(batch=1, num_actions=1), "controller": make_controller("adaln_tmod")}
    steered = stock_clip(pipe, attention_kwargs=steering)
    assert not np.allclose(steered, expected)


def test_it_saves_and_loads_as_the_stock_class(ours, tmp_path):
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "WanTransformer3DModel"
    inputs = make_inputs()
    expected = run(ours, inputs)
    assert torch.equal(run(WanActTransformer3DModel.from_pretrained(tmp_path), inputs), expected)
    stock = WanTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(run(stock, inputs | {"timestep": per_token(inputs["timestep"])}), expected)


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_a_scale_of_zero_is_an_exact_no_op(ours, injection_type):
    inputs = make_inputs()
    steered = run(ours, inputs, actions=make_actions(), controller=make_controller(injection_type, initial_scale=0.0))
    assert torch.equal(steered, run(ours, inputs))


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_actions_steer_from_either_door(ours, injection_type):
    inputs, actions, controller = make_inputs(), make_actions(), make_controller(injection_type)
    steered = run(ours, inputs, actions=actions, controller=controller)
    assert not torch.allclose(steered, run(ours, inputs), atol=1e-3)
    door = {"actions": actions, "controller": controller}
    assert torch.equal(run(ours, inputs, attention_kwargs=door), steered)


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
@pytest.mark.parametrize("form", ["frame", "token", "sample"])
def test_actions_do_the_same_under_every_form_of_timestep(ours, injection_type, form):
    inputs, actions, controller = make_inputs(), make_actions(), make_controller(injection_type)
    same = torch.full((B, T), 300.0)
    timestep = {"frame": same, "token": per_token(same), "sample": same[:, 0]}[form]
    steered = run(ours, inputs | {"timestep": timestep}, actions=actions, controller=controller)
    assert_close(steered, run(ours, inputs | {"timestep": same}, actions=actions, controller=controller))


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_one_track_serves_both_branches_of_guidance(ours, injection_type):
    inputs, (binary, magnitude), controller = make_inputs(), make_actions(batch=1), make_controller(injection_type)
    twice = (binary.expand(B, -1, -1), magnitude.expand(B, -1, -1))
    shared = run(ours, inputs, actions=(binary, magnitude), controller=controller)
    assert_close(shared, run(ours, inputs, actions=twice, controller=controller))


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_checkpointing_keeps_the_gradients(ours, injection_type):
    controller, inputs, actions = make_controller(injection_type), make_inputs(), make_actions()
    gradients = []
    for enable in (ours.disable_gradient_checkpointing, ours.enable_gradient_checkpointing):
        enable()
        controller.zero_grad()
        ours(**inputs, actions=actions, controller=controller).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in controller.parameters() if p.requires_grad])
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("num_actions", [T - 2, T, 20])
def test_a_track_of_another_length_is_refused(ours, num_actions):
    with pytest.raises(ValueError, match=rf"{num_actions} actions.*needs {T - 1}"):
        run(
            ours, make_inputs(), actions=make_actions(num_actions=num_actions), controller=make_controller("adaln_tmod")
        )


def test_a_controller_for_another_transformer_is_refused(ours):
    with pytest.raises(ValueError, match="width 48 with 3 layers.*width 48 and 2 layers"):
        run(ours, make_inputs(), actions=make_actions(), controller=make_controller("add_residual", num_layers=3))


def test_tracks_for_another_batch_are_refused(ours):
    with pytest.raises(ValueError, match="3 clips, but 2 clips"):
        run(ours, make_inputs(), actions=make_actions(batch=3), controller=make_controller("add_residual"))


def test_a_timestep_of_odd_length_is_refused(ours):
    with pytest.raises(ValueError, match=r"\(2, 4\) must be \[B\]"):
        run(ours, make_inputs() | {"timestep": torch.zeros(B, 4)})


def test_step_caches_know_the_block(ours):
    inputs = make_inputs()
    expected = run(ours, inputs, actions=make_actions(), controller=make_controller("add_residual"))
    ours.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with ours.cache_context("cond"):
        cached = run(ours, inputs, actions=make_actions(), controller=make_controller("add_residual"))
    assert_close(cached, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_what_is_prepared_once_a_clip_changes_nothing(ours, injection_type, dtype):
    ours, controller = ours.to(dtype), make_controller(injection_type).to(dtype)
    inputs, actions = make_inputs(), make_actions()
    inputs = {name: x if name == "timestep" else x.to(dtype) for name, x in inputs.items()}
    with torch.no_grad():
        expected = ours(**inputs, actions=actions, controller=controller).sample
        prepared = ours.prepare_actions(actions, controller, batch_size=B, num_latent_frames=T)
        text = ours.prepare_text(inputs["encoder_hidden_states"])
        again = ours(**inputs | {"encoder_hidden_states": text}, actions=prepared, controller=controller).sample
    assert_close(again, expected, rtol=0, atol=0)


def test_the_text_is_read_once_a_clip(ours):
    inputs = make_inputs()
    text = ours.prepare_text(inputs["encoder_hidden_states"])
    with torch.no_grad():
        for block in ours.blocks:
            block.attn2.to_k.weight.fill_(torch.nan)
            block.attn2.to_v.weight.fill_(torch.nan)
        ours.condition_embedder.text_embedder.linear_2.weight.fill_(torch.nan)
        assert ours(**inputs | {"encoder_hidden_states": text}).sample.isfinite().all()


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention_in_training_is_torchs(mask):
    """Two products instead of torch's kernel: the same values and gradients."""
    inputs = [torch.randn(2, 7, 3, 8, requires_grad=True) for _ in range(3)]
    allowed = torch.ones(7, 7).tril().bool()
    bias = {None: None, "bool": allowed, "float": torch.where(allowed, 0.3, -torch.inf)}[mask]
    ours = _two_products(*inputs, bias)
    torchs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs), attn_mask=bias).transpose(1, 2)
    assert_close(ours, torchs, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(ours)
    for own, other in zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, torchs)), strict=True):
        assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view", [FrameView.causal(4, window=1), FrameView.teacher_forcing(3)])
def test_attention_frame_by_frame_is_that_under_the_mask(view):
    size = 5
    inputs = [torch.randn(2, size * len(view.positions), 3, 8, requires_grad=True) for _ in range(3)]
    ways = _frame_by_frame(*inputs, view), _two_products(*inputs, view.attention_mask(size))
    assert_close(*ways, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(ways[0])
    for own, other in zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in ways), strict=True):
        assert_close(own, other, rtol=1e-4, atol=1e-5)


class Alone(WanAttnProcessor):
    """diffusers' attention under a mask by which each token of the last sample sees itself alone."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        batch, length, _ = hidden_states.shape
        mask = torch.ones(batch, 1, length, length, dtype=torch.bool)
        mask[-1] = torch.eye(length, dtype=torch.bool)
        return super().__call__(attn, hidden_states, encoder_hidden_states, mask, rotary_emb)


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_last_sample_does_not_look_around_in_perturbed_layers(stock, ours, layers, batch):
    inputs = make_inputs(batch=batch)
    for layer in layers:
        stock.blocks[layer].attn1.set_processor(Alone())
    perturbed, plain = run(ours, inputs, perturbed_layers=layers), run(ours, inputs)
    expected = run(stock, inputs | {"timestep": per_token(inputs["timestep"])})
    assert_close(perturbed, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(perturbed[:-1], plain[:-1]) and not torch.allclose(perturbed[-1], plain[-1], atol=1e-3)
    assert torch.equal(run(ours, inputs, perturbed_layers=()), plain)
