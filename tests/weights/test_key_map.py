import pytest
import torch
from torch.testing import assert_close

from tests import original_wan, tiny_model
from wanact.models.components import assemble
from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController
from wanact.models.presets import LATENTS_MEAN, PRESETS, TRANSFORMER, VAE
from wanact.models.vae import decode_raw, encode_moments
from wanact.weights.convert import convert, expected_shapes, key_map
from wanact.weights.names import ConvertError

RELEASE = {
    "transformer": TRANSFORMER | PRESETS["ti2v_5b"]["transformer"],
    "vae": VAE | PRESETS["ti2v_5b"]["vae"],
    "text_encoder": PRESETS["ti2v_5b"]["text_encoder"],
}
TINY = {
    "transformer": tiny_model.build_transformer,
    "vae": tiny_model.build_vae,
    "text_encoder": lambda: tiny_model.build_text_encoder(40),
}
HINTS = {"transformer": {"num_heads": 2}, "vae": {}, "text_encoder": {}}


def original_release(part: str) -> torch.nn.Module:
    """The 5B release as the original code builds it, on the meta device."""
    with torch.device("meta"):
        if part == "transformer":
            return original_wan.WanModel(3072, 14336, 256, 4096, 48, 24, 30)
        if part == "vae":
            return original_wan.WanVAE(160, 256, 48, [1, 2, 4, 4], 2, [False, True, True])
        return original_wan.T5Encoder(256384, 4096, 4096, 10240, 64, 24)


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With no weight at zero or one, so that a swap shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.15, generator=generator)
    return module.eval()


@pytest.mark.parametrize(("part", "count"), [("transformer", 825), ("vae", 196), ("text_encoder", 242)])
def test_every_weight_of_the_5b_release_has_its_place(part, count):
    original = shapes_of(original_release(part))
    plan = key_map(part, original)
    expected = expected_shapes(part, RELEASE[part])
    assert len(original) == len(plan.names) == len(expected) == count
    assert {plan.names[name]: shape for name, shape in original.items()} == expected
    assert plan.source == "original"
    assert {key: plan.config[key] for key in RELEASE[part]} == RELEASE[part], (
        "the configuration is read from the shapes"
    )
    back = key_map(part, expected, "original", config=RELEASE[part])
    assert {new: old for old, new in back.names.items()} == plan.names


@pytest.mark.parametrize("part", TINY)
@pytest.mark.parametrize("through", ["original", "diffsynth"])
def test_a_round_trip_is_the_identity(part, through):
    state = TINY[part]().state_dict()
    state.pop("encoder.embed_tokens.weight", None)
    there = convert(part, state, through, hints=HINTS[part])
    assert there.keys().isdisjoint(state.keys() - {"patch_embedding.weight", "patch_embedding.bias"})
    back = convert(part, there, hints=HINTS[part])
    assert back.keys() == state.keys()
    assert all(back[name] is state[name] for name in state), "nothing is copied"


def test_the_transformer_means_the_same_under_both_names():
    original = randomised(original_wan.WanModel(48, 64, 32, 32, 48, 2, 2))
    plan = key_map("transformer", shapes_of(original), hints={"num_heads": 2})
    state = convert("transformer", original.state_dict(), hints={"num_heads": 2})
    ours = assemble("transformer", plan.config, state, torch.float32)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 48, 3, 4, 6, generator=generator)
    text = torch.randn(1, 5, 32, generator=generator)
    timestep = torch.tensor([0.0, 700.0, 300.0])
    with torch.no_grad():
        theirs = original(latents, timestep.repeat_interleave(6)[None], text)
        assert_close(ours(latents, timestep[None], text).sample, theirs, rtol=1e-4, atol=1e-5)


def test_the_text_encoder_means_the_same_under_both_names():
    original = randomised(original_wan.T5Encoder(40, 32, 24, 64, 2, 2))
    plan = key_map("text_encoder", shapes_of(original))
    ours = assemble("text_encoder", plan.config, convert("text_encoder", original.state_dict()), torch.float32)
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        assert_close(ours(ids).last_hidden_state, original(ids), rtol=1e-4, atol=1e-5)


def test_the_vae_means_the_same_under_both_names():
    original = randomised(original_wan.WanVAE(8, 8, 48, [1, 2, 4, 4], 1, [False, True, True]))
    plan = key_map("vae", shapes_of(original))
    ours = assemble("vae", plan.config, convert("vae", original.state_dict()), torch.float32)
    frame = torch.rand(1, 3, 1, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = encode_moments(ours, frame)[0]
        assert_close(latents, original.encode(frame), rtol=1e-4, atol=1e-5)
        assert_close(decode_raw(ours, latents), original.decode(latents), rtol=1e-4, atol=1e-5)
    assert ours.config.latents_mean == list(LATENTS_MEAN), "which lie in the original code"


@pytest.mark.parametrize("before", ["pipe.dit.", "model.", "module.model.", "model._fsdp_wrapped_module."])
def test_what_trainers_put_before_names_is_taken_off(before):
    state = convert("transformer", tiny_model.build_transformer().state_dict(), "original", hints=HINTS["transformer"])
    wrapped = {before + name.replace("blocks.1.", "blocks.1._orig_mod."): tensor for name, tensor in state.items()}
    assert convert("transformer", wrapped, "original", hints=HINTS["transformer"]).keys() == state.keys()


def test_diffsynth_puts_model_before_the_names_of_the_vae():
    state = convert("vae", tiny_model.build_vae().state_dict(), "diffsynth")
    assert "model.encoder.conv1.weight" in state and "model.conv2.bias" in state
    assert key_map("vae", {name: tuple(t.shape) for name, t in state.items()}).source == "diffsynth"


def test_a_second_name_of_the_same_tensor_is_left_out():
    state = tiny_model.build_text_encoder(40).state_dict()
    assert {"shared.weight", "encoder.embed_tokens.weight"} <= state.keys()
    assert len(convert("text_encoder", state, "original")) == len(state) - 1
    del state["shared.weight"]
    assert "token_embedding.weight" in convert("text_encoder", state, "original")


def test_a_controller_keeps_its_names():
    config = ACTION_CONTROLLER_CONFIGS["nano"]
    state = WanActionController(**config).state_dict()
    found = convert("controller", {f"pipe.action_controller.{name}": t for name, t in state.items()}, hints=config)
    assert found.keys() == state.keys()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    told = key_map("controller", shapes).config
    assert {key: told[key] for key in told} == {key: config[key] for key in told}


def refusal(part: str, state: dict, **kwargs) -> str:
    with pytest.raises(ConvertError) as caught:
        convert(part, state, hints=HINTS.get(part), **kwargs)
    return str(caught.value)


def test_every_name_and_shape_is_accounted_for():
    state = tiny_model.build_transformer().state_dict()
    unknown = state | {f"blocks.0.motion.{i}": torch.zeros(1) for i in range(5)}
    said = refusal("transformer", unknown)
    assert said == (
        "blocks.0.motion.0, blocks.0.motion.1, blocks.0.motion.2 and 2 more belong to no transformer that is known here"
    )
    missing = {name: t for name, t in state.items() if not name.startswith("blocks.0.attn2")}
    assert refusal("transformer", missing).startswith("the weights of the transformer lack blocks.0.attn2.")
    assert "patch_embedding.weight" in refusal("transformer", {"proj_out.bias": state["proj_out.bias"]})
    wrong = state | {"blocks.1.attn1.to_q.bias": torch.zeros(7)}
    assert "blocks.1.attn1.to_q.bias of the transformer has shape (7,), expected (48,)" in refusal("transformer", wrong)
    assert "belong to no vae" in refusal("vae", state)
    twice = state | {"blocks.0.self_attn.q.bias": torch.zeros(48)}
    assert "self_attn.q.bias" in refusal("transformer", twice)
    assert "is there twice" in refusal("transformer", state | {"model.proj_out.bias": torch.zeros(192)})


def test_a_width_that_no_release_has_needs_its_number_of_heads():
    with pytest.raises(ConvertError, match="config.json must tell num_heads"):
        convert("transformer", tiny_model.build_transformer().state_dict())


def test_a_part_of_the_weights_converts_when_that_is_said():
    state = {"blocks.1.self_attn.q.weight": torch.ones(48, 48), "head.modulation": torch.ones(1, 2, 48)}
    assert convert("transformer", state, partial=True).keys() == {"blocks.1.attn1.to_q.weight", "scale_shift_table"}


def test_parts_and_formats_have_names():
    with pytest.raises(ValueError, match="part 'wing' is unknown"):
        convert("wing", {})
    with pytest.raises(ValueError, match="format 'gguf' is unknown"):
        convert("vae", {}, "gguf")
