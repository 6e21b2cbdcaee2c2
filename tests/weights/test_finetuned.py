import json

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from tests.models.test_transformer import like
from tests.tiny_model import build_transformer
from wanact.models.transformer import WanActTransformer3DModel
from wanact.weights.convert import convert
from wanact.weights.finetuned import files_of, lay_on
from wanact.weights.layouts import ModelDirError

HEADS = {"num_heads": 2}


@pytest.fixture
def transformer() -> WanActTransformer3DModel:
    return like(build_transformer())


@pytest.fixture(scope="module")
def other() -> dict[str, torch.Tensor]:
    """Another model's weights, under Wan's names."""
    return convert("transformer", build_transformer(seed=7).state_dict(), "original", hints=HEADS)


def assert_is_the_other(transformer) -> None:
    assert_close(dict(transformer.state_dict()), dict(build_transformer(seed=7).state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda s: s, ""),  # vidar.pt
        (lambda s: {"state_dict": s}, " (state_dict)"),
        (lambda s: {f"pipe.dit.{n}": t for n, t in s.items()}, ""),  # DiffSynth, whole pipeline
        (lambda s: {"generator": {f"model.{n}": t for n, t in s.items()}, "step": 3}, " (generator)"),  # Self-Forcing
        (
            lambda s: {
                "generator": {f"model.{n}": t + 1 for n, t in s.items()},
                "generator_ema": {f"model._fsdp_wrapped_module.{n}": t for n, t in s.items()},
            },
            " (generator_ema)",
        ),
    ],
)
def test_whole_checkpoints_of_other_trainers_replace_the_weights(transformer, other, tmp_path, wrap, taken):
    torch.save(wrap(other), tmp_path / "tuned.pt")
    report = lay_on(transformer, tmp_path / "tuned.pt")
    assert_is_the_other(transformer)
    count = len(other)
    assert str(report) == f"tuned.pt{taken}: weights for {count} of {count} tensors of the transformer"


def test_some_weights_leave_the_others(transformer, other, tmp_path):
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    some = {
        "blocks.1.ffn.0.bias": other["blocks.1.ffn.0.bias"].bfloat16(),
        "freqs": torch.zeros(3),
        "idm.w": torch.zeros(1),
    }
    save_file(some, tmp_path / "some.safetensors")
    report = lay_on(transformer, tmp_path / "some.safetensors")
    changed = other["blocks.1.ffn.0.bias"].bfloat16().float()
    assert_close(dict(transformer.state_dict()), before | {"blocks.1.ffn.net.0.proj.bias": changed}, rtol=0, atol=0)
    assert "weights for 1 of" in str(report) and str(report).endswith("passed over freqs, idm.w")


def test_the_state_dict_can_be_chosen(transformer, other, tmp_path):
    torch.save({"generator": other, "generator_ema": {n: t + 1 for n, t in other.items()}}, tmp_path / "sf.pt")
    assert "(generator)" in str(lay_on(transformer, tmp_path / "sf.pt", key="generator"))
    assert_is_the_other(transformer)


def test_a_lora_is_added_for_good(transformer, tmp_path):
    before = transformer.blocks[0].attn1.to_q.weight.clone()
    down, up = torch.randn(3, 48), torch.randn(48, 3)
    save_file(
        {"blocks.0.self_attn.q.lora_A.default.weight": down, "blocks.0.self_attn.q.lora_B.default.weight": up},
        tmp_path / "lora.safetensors",
    )
    assert "LoRA for 1 of" in str(lay_on(transformer, tmp_path / "lora.safetensors"))
    assert_close(transformer.blocks[0].attn1.to_q.weight, before + up @ down)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"motion.0.weight": torch.zeros(1)}, "none of its 1 names is the transformer's, for example motion.0.weight"),
        ({"head.head.bias": torch.zeros(5)}, r"proj_out.bias has shape \(5,\), the transformer's has \(192,\)"),
        ({"lora_unet_text_model.lora_down.weight": torch.zeros(1)}, "no weights of a LoRA for this transformer"),
    ],
)
def test_what_fits_nowhere_is_refused_and_changes_nothing(transformer, tmp_path, state, says):
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelDirError, match=f"w.safetensors cannot be used: .*{says}"):
        lay_on(transformer, tmp_path / "w.safetensors")
    assert_close(dict(transformer.state_dict()), before, rtol=0, atol=0)


def test_a_lora_is_as_strong_as_its_file_says_and_what_is_left_is_named(transformer, tmp_path):
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    down, up, bias = torch.randn(4, 48), torch.randn(48, 4), torch.randn(48)
    state = {f"transformer.blocks.0.attn1.to_q.lora_{side}.weight": t for side, t in (("A", down), ("B", up))}
    state |= {"blocks.1.ffn.2.diff_b": bias, "blocks.1.norm3.diff": torch.randn(48)}
    header = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 16})
    save_file(state, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": header})
    report = str(lay_on(transformer, tmp_path / "lora.safetensors"))
    expected = before | {
        "blocks.0.attn1.to_q.weight": before["blocks.0.attn1.to_q.weight"] + 4 * up @ down,
        "blocks.1.ffn.net.2.bias": before["blocks.1.ffn.net.2.bias"] + bias,
    }
    assert_close(dict(transformer.state_dict()), expected)
    assert "LoRA for 2 of" in report and report.endswith("passed over blocks.1.norm3.diff")


def test_pefts_folder_is_read_with_its_settings_and_both_are_its_identity(transformer, tmp_path):
    before = transformer.blocks[0].attn1.to_q.weight.clone()
    down, up = torch.randn(4, 48), torch.randn(48, 4)
    names = (f"base_model.model.blocks.0.attn1.to_q.lora_{side}.weight" for side in "AB")
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(dict(zip(names, (down, up), strict=True)), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 2}')
    assert files_of(folder) == [folder / "adapter_model.safetensors", folder / "adapter_config.json"]
    lay_on(transformer, folder)
    assert_close(transformer.blocks[0].attn1.to_q.weight, before + 0.5 * up @ down)
    with pytest.raises(ModelDirError, match=r"holds no LoRA \(.*; its adapters are in .*adapter"):
        files_of(tmp_path)
