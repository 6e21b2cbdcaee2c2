import pytest
import torch
from diffusers import WanImageToVideoPipeline
from torch.testing import assert_close

from wanact.models.text import encode_prompts

PROMPTS = ["a lake at noon,\n  fog &amp; snow", "", "a drone flies over snowy mountains at dusk " * 5]


@pytest.fixture(scope="module")
def stock(tiny_model_dir) -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline.from_pretrained(tiny_model_dir)


@torch.no_grad()
def test_it_equals_stock_diffusers(stock):
    expected, _ = stock.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=16)
    assert_close(encode_prompts(stock.tokenizer, stock.text_encoder, PROMPTS, 16), expected, rtol=0, atol=0)


def test_padding_is_zero_and_changes_no_word(stock):
    short, long = (encode_prompts(stock.tokenizer, stock.text_encoder, ["a lake"], length) for length in (8, 16))
    assert_close(short, long[:, :8])
    assert not long[:, 8:].any() and short[:, 0].any()
