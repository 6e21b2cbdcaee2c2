import re

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_model import build_transformer
from wanact.models.overlay import Overlay, OverlayError
from wanact.weights.lora import convert_lora, is_adapter
from wanact.weights.names import ConvertError

LAYERS = {"blocks.0.self_attn.q": "blocks.0.attn1.to_q", "blocks.1.ffn.2": "blocks.1.ffn.net.2"}
INPUTS = {"blocks.0.self_attn.q": 48, "blocks.1.ffn.2": 64}
RANK = 4


def matrices() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(RANK, size, generator=generator), torch.randn(48, RANK, generator=generator))
        for name, size in INPUTS.items()
    }


def in_format(kind: str, alpha: float | None = None) -> dict[str, torch.Tensor]:
    state = {}
    for ours, (down, up) in matrices().items():
        theirs = LAYERS[ours]
        musubi = "lora_unet_" + ours.replace(".", "_")
        a, b, alpha_name = {
            "diffusers": (f"transformer.{theirs}.lora_A.weight", f"transformer.{theirs}.lora_B.weight", ""),
            "peft": (f"base_model.model.{theirs}.lora_A.weight", f"base_model.model.{theirs}.lora_B.weight", ""),
            "wan": (f"diffusion_model.{ours}.lora_A.weight", f"diffusion_model.{ours}.lora_B.weight", ""),
            "kohya": (
                f"diffusion_model.{ours}.lora_down.weight",
                f"diffusion_model.{ours}.lora_up.weight",
                f"diffusion_model.{ours}.alpha",
            ),
            "musubi": (f"{musubi}.lora_down.weight", f"{musubi}.lora_up.weight", f"{musubi}.alpha"),
            "diffsynth": (f"{ours}.lora_A.default.weight", f"{ours}.lora_B.default.weight", ""),
            "diffsynth in a pipeline": (
                f"pipe.dit.{ours}.lora_A.default.weight",
                f"pipe.dit.{ours}.lora_B.default.weight",
                "",
            ),
        }[kind]
        state |= {a: down, b: up}
        if alpha_name and alpha is not None:
            state[alpha_name] = torch.tensor(alpha)
    return state


FORMATS = ("diffusers", "peft", "wan", "kohya", "musubi", "diffsynth", "diffsynth in a pipeline")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_changes_the_same_layers_by_the_same(kind):
    alpha = 2.0 if kind in ("kohya", "musubi") else None
    given = in_format(kind, alpha)
    before = {name: tensor.clone() for name, tensor in given.items()}
    transformer = build_transformer()
    base = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    Overlay(transformer).apply(lora=convert_lora(given))
    for name, weight in transformer.state_dict().items():
        layer = next((ours for ours, theirs in LAYERS.items() if name == f"{theirs}.weight"), None)
        expected = base[name]
        if layer is not None:
            down, up = matrices()[layer]
            expected = expected + up @ down * ((alpha or RANK) / RANK)
        assert_close(weight, expected, msg=name)
    assert all(torch.equal(given[name], before[name]) for name in before), "what was given is not changed"


@pytest.mark.parametrize("target", ["original", "diffsynth"])
def test_a_round_trip_is_the_identity(target):
    state = in_format("diffusers")
    back = convert_lora(convert_lora(state, target))
    assert back.keys() == state.keys() and all(back[name] is state[name] for name in state)


def refusal(state: dict) -> str:
    with pytest.raises(ConvertError) as caught:
        convert_lora(state)
    return str(caught.value)


def test_a_lora_that_matches_nothing_is_refused():
    other = {name.replace("self_attn", "attn_image"): tensor for name, tensor in in_format("wan").items()}
    assert "blocks.0.attn_image.q.lora_A.weight" in refusal(other)
    assert "the LoRA holds no weights" in refusal({})
    state = in_format("wan")
    del state["diffusion_model.blocks.1.ffn.2.lora_B.weight"]
    assert "only a part of the pair for blocks.1.ffn.net.2" in refusal(state)
    state = in_format("wan") | {"diffusion_model.blocks.0.self_attn.q.lora_A.bias": torch.zeros(48)}
    assert "lora_A.bias are no weights of a LoRA" in refusal(state)
    state = in_format("wan") | {"diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.zeros(48, 3)}
    assert "multiplies (48, 3) with (4, 48)" in refusal(state)


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        ("lokr_w1", "LoKr"),
        ("hada_w1_a", "LoHa"),
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
    ],
)
def test_another_kind_of_adapter_is_refused_by_its_name(leaf, kind):
    state = {f"diffusion_model.blocks.0.self_attn.q.{leaf}": torch.zeros(48, 1)}
    assert is_adapter(state)
    assert f"holds a {kind}, which cannot be laid on here" in refusal(in_format("wan") | state)


def test_settings_that_mean_another_adapter_or_nothing_are_refused():
    for settings, says in (
        ({"peft_type": "LOHA"}, "the adapter is a LOHA"),
        ({"use_dora": True}, "holds a DoRA"),
        ({"fan_in_fan_out": True}, "transposed weights"),
        ({"lora_alpha": "eight"}, "lora_alpha is 'eight', expected a number"),
        ({"alpha_pattern": {"(": 2}}, "alpha_pattern is no regular expression"),
    ):
        with pytest.raises(ConvertError, match=re.escape(says)):
            convert_lora(in_format("wan"), settings=settings)


def test_several_adapters_in_one_file_are_not_mixed():
    state = in_format("diffsynth")
    state |= {name.replace(".default.", ".style."): tensor for name, tensor in state.items()}
    assert "holds 2 adapters (default, style); save one of them alone" in refusal(state)


def test_a_lora_for_a_deeper_transformer_is_refused():
    deeper = {name.replace("blocks.1.", "blocks.17."): tensor for name, tensor in in_format("wan").items()}
    with pytest.raises(OverlayError, match="changes blocks.17.ffn.net.2, which the transformer does not have"):
        Overlay(build_transformer()).apply(lora=convert_lora(deeper))


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="format 'gguf' is unknown"):
        convert_lora(in_format("wan"), "gguf")
