import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.models.test_transformer import like
from tests.tiny_model import build_transformer
from wanact.models.overlay import Overlay, OverlayError
from wanact.models.transformer import WanActTransformer3DModel

LAYER = "blocks.1.attn1.to_q"


@pytest.fixture
def transformer() -> WanActTransformer3DModel:
    return like(build_transformer())


@pytest.fixture
def before(transformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in transformer.state_dict().items()}


def make_lora(width: int = 48, rank: int = 3, **alpha: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"transformer.{LAYER}.lora_A.weight": torch.randn(rank, width, generator=generator),
        f"transformer.{LAYER}.lora_B.weight": torch.randn(width, rank, generator=generator),
    }
    return lora | {f"transformer.{LAYER}.alpha": torch.tensor(value) for value in alpha.values()}


def assert_equal(transformer: WanActTransformer3DModel, expected: dict[str, Tensor]) -> None:
    assert_close(dict(transformer.state_dict()), expected, rtol=0, atol=0)


def test_partial_weights_of_half_precision_replace_and_go(transformer, before):
    overlay = Overlay(transformer)
    bias = torch.arange(before["proj_out.bias"].numel(), dtype=torch.bfloat16)
    overlay.apply(weights={"proj_out.bias": bias})
    assert_equal(transformer, before | {"proj_out.bias": bias.float()})
    overlay.remove()
    assert_equal(transformer, before)


def test_a_lora_adds_its_product_and_goes(transformer, before):
    overlay, lora = Overlay(transformer), make_lora()
    down, up = lora.values()
    overlay.apply(lora=lora)
    merged = before[f"{LAYER}.weight"] + up @ down
    assert_close(dict(transformer.state_dict()), before | {f"{LAYER}.weight": merged})
    overlay.remove()
    assert_equal(transformer, before)


def test_a_lora_lies_on_top_of_replaced_weights(transformer, before):
    overlay, lora = Overlay(transformer), make_lora()
    down, up = lora.values()
    given = {f"{LAYER}.weight": torch.zeros(48, 48)}
    overlay.apply(given, lora)
    assert_close(transformer.state_dict()[f"{LAYER}.weight"], up @ down)
    assert not given[f"{LAYER}.weight"].any(), "the caller's tensors are left alone"
    overlay.apply(lora=lora)
    assert_close(transformer.state_dict()[f"{LAYER}.weight"], before[f"{LAYER}.weight"] + up @ down)
    overlay.remove()
    assert_equal(transformer, before)


@pytest.mark.parametrize(
    ("weights", "lora", "says"),
    [
        ({"proj_out.bias": torch.zeros(3)}, None, r"proj_out.bias has shape \(3,\), the transformer's has"),
        ({"nose.weight": torch.zeros(3)}, None, "no weight nose.weight"),
        (None, {"diffusion_model.x.lora_A.weight": torch.zeros(3, 3)}, "has no name like transformer.LAYER"),
        (None, make_lora(width=40), "the LoRA does not fit"),
        (None, {k.replace("attn1", "attn7"): v for k, v in make_lora().items()}, "changes blocks.1.attn7.to_q"),
    ],
)
def test_what_does_not_fit_leaves_the_base(transformer, before, weights, lora, says):
    overlay = Overlay(transformer)
    overlay.apply(weights={"proj_out.bias": torch.zeros_like(before["proj_out.bias"])})
    with pytest.raises(OverlayError, match=says):
        overlay.apply(weights, lora)
    assert_equal(transformer, before)
