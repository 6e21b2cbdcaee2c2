import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController
from wanact.models.injection import INJECTION_TYPES

B, T, H, W, D, N = 2, 4, 2, 3, 32, 4

PLAN_NAMES = {
    "action_embed.0.weight": (D, 16),
    "action_embed.0.bias": (D,),
    "action_embed.2.weight": (D, D),
    "action_embed.2.bias": (D,),
    "temporal_pos_embed": (1, 20, D),
    "q_proj.weight": (D, D),
    "k_proj.weight": (D, D),
    "v_proj.weight": (D, D),
    "o_proj.weight": (D, D),
    "action_to_tmod.weight": (6 * D, D),
    "action_to_residual.weight": (D, D),
    "q_norm.weight": (D // N,),
    "k_norm.weight": (D // N,),
    "output_scale": (3,),
}


def make(injection_type: str, **config) -> WanActionController:
    torch.manual_seed(0)
    config = {"hidden_size": D, "num_heads": N, "num_layers": 3, "initial_scale": 1.0} | config
    return WanActionController(injection_type=injection_type, **config)


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(B, T * H * W, D, generator=torch.Generator().manual_seed(seed))


def actions(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    binary = (torch.rand(B, T - 1, 8, generator=generator) < 0.5).float()
    return binary, binary * torch.rand(B, T - 1, 8, generator=generator)


def frames(x: Tensor) -> Tensor:
    return x.unflatten(1, (T, -1))


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_the_state_dict_has_the_plans_names(injection_type):
    shapes = {name: tuple(value.shape) for name, value in make(injection_type).state_dict().items()}
    extra = {"channel_embed": (8, 3, D)} if injection_type == "cross_attn_channels" else {}
    assert shapes == PLAN_NAMES | extra


def test_the_5b_model_has_the_plans_sizes():
    with torch.device("meta"):
        model = WanActionController(**ACTION_CONTROLLER_CONFIGS["wan_ti2v_5b"])
    assert model.temporal_pos_embed.shape == (1, 20, 3072)
    assert model.q_norm.weight.shape == (128,) and model.q_norm.eps == 1e-5
    assert model.output_scale.shape == (30,)


def test_named_configurations_differ_where_their_names_say():
    configs = ACTION_CONTROLLER_CONFIGS
    assert configs["wan_ti2v_5b_sparse"]["inject_layers"] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert configs["wan_ti2v_5b_adaln"]["injection_type"] == "adaln_tmod"
    assert configs["wan_ti2v_5b_add"]["injection_type"] == "add_residual"
    assert all(config["initial_scale"] == 0.01 for name, config in configs.items() if "5b" in name)


def test_it_saves_and_loads(tmp_path):
    model = make("cross_attn_channels", inject_layers=[0, 2])
    model.save_pretrained(tmp_path)
    again = WanActionController.from_pretrained(tmp_path)
    assert again.inject_layers == {0, 2}
    assert_close(again(tokens(), *actions(), T, H, W, 0), model(tokens(), *actions(), T, H, W, 0))


@pytest.mark.parametrize("injection_type", ["cross_attn_frame", "add_residual", "cross_attn_channels"])
def test_each_frame_feels_its_own_action_only(injection_type):
    model, x, (binary, magnitude) = make(injection_type), tokens(), actions()
    changed = magnitude.clone()
    changed[:, 1] += 1.0  # the action of latent frame 2
    before, after = (frames(model(x, binary, m, T, H, W, 0)) for m in (magnitude, changed))
    assert torch.equal(before[:, [0, 1, 3]], after[:, [0, 1, 3]])
    assert not torch.allclose(before[:, 2], after[:, 2])
    assert torch.equal(before[:, 0], frames(x)[:, 0]), "the first frame takes no action"


def test_modulation_is_aligned_with_the_frames():
    model, (binary, magnitude) = make("adaln_tmod"), actions()
    modulation = torch.randn(B, T, 6, D, generator=torch.Generator().manual_seed(2))
    action_emb = model.build_action_emb(binary, magnitude)
    out = model.modulate(modulation, model.prepare(action_emb), block_idx=1)
    assert torch.equal(out[:, 0], modulation[:, 0])
    assert_close(out[:, 1:], modulation[:, 1:] + model.action_tmod(action_emb))
    assert torch.equal(model(tokens(), binary, magnitude, T, H, W, 1), tokens()), "tokens stay as they are"


def test_a_softmax_over_one_key_needs_no_attention():
    """Attention written out, with q and k, gives what the controller computes once per clip without them."""
    model, x = make("cross_attn_frame"), tokens()
    action_emb = model.build_action_emb(*actions())

    def heads(y: Tensor) -> Tensor:
        return y.unflatten(-1, (N, -1)).movedim(-2, 2)  # [B, T-1, N, *, K]

    query = model.q_norm(heads(model.q_proj(frames(x)[:, 1:])))
    key, value = model.k_norm(heads(model.k_proj(action_emb[:, :, None]))), heads(model.v_proj(action_emb[:, :, None]))
    weights = (query @ key.mT / (D // N) ** 0.5).softmax(-1)
    attended = model.o_proj((weights @ value).movedim(2, -2).flatten(-2))
    expected = torch.cat([frames(x)[:, :1], frames(x)[:, 1:] + attended], dim=1).flatten(1, 2)
    assert_close(model.apply_action(x, action_emb, T, H, W, 0), expected)


def test_channel_tokens_that_are_alike_reduce_to_one_key():
    channels, single = make("cross_attn_channels"), make("cross_attn_frame")
    with torch.no_grad():
        channels.channel_embed.zero_()
    single.load_state_dict({k: v for k, v in channels.state_dict().items() if k != "channel_embed"})
    assert_close(channels(tokens(), *actions(), T, H, W, 0), single(tokens(), *actions(), T, H, W, 0))


def test_sparse_layers_are_left_alone():
    model = make("add_residual", inject_layers=[0, 2])
    assert [model.should_inject(i) for i in range(3)] == [True, False, True]
    assert torch.equal(model(tokens(), *actions(), T, H, W, 1), tokens())
    assert not torch.equal(model(tokens(), *actions(), T, H, W, 2), tokens())


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_every_trainable_parameter_gets_a_gradient(injection_type):
    model = make(injection_type).requires_grad_(False).requires_grad_(True)
    x = tokens().requires_grad_()
    prepared = model.prepare(model.build_action_emb(*actions()))
    out = (
        model.inject(x, prepared, 0).square().sum()
        + model.modulate(x[:, :T, None].expand(-1, -1, 6, -1), prepared, 0).square().sum()
    )
    out.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


def test_unknown_types_and_layers_are_refused():
    with pytest.raises(ValueError, match="'telepathy' is unknown; choose one of cross_attn_frame"):
        make("telepathy")
    with pytest.raises(ValueError, match=r"\[3\] are outside the transformer's layers 0 to 2"):
        make("add_residual", inject_layers=[1, 3])
    with pytest.raises(ValueError, match="hidden_size=32 must be a multiple of num_heads=5"):
        make("add_residual", num_heads=5)


def test_misshapen_actions_are_refused():
    model = make("add_residual")
    with pytest.raises(ValueError, match=r"must both be \[B, T-1, 8\]"):
        model.build_action_emb(torch.zeros(1, 3, 7), torch.zeros(1, 3, 7))
    with pytest.raises(ValueError, match="21 actions, but this controller was built for 20"):
        model.build_action_emb(torch.zeros(1, 21, 8), torch.zeros(1, 21, 8))
    with pytest.raises(ValueError, match="3 actions, but a clip of 5 latent frames needs 4"):
        model(torch.zeros(1, 30, D), torch.zeros(1, 3, 8), torch.zeros(1, 3, 8), 5, H, W, 0)
