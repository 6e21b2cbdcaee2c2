"""Prompts as the transformer reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel


def readable(prompt: str) -> str:
    """A prompt without control characters and lone surrogates, which no tokenizer has; line breaks become spaces."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", prompt).strip()


def cleaned(prompt: str) -> str:
    """What of a prompt reaches the tokenizer, in training and in flight: readable, without markup and double spaces."""
    return prompt_clean(readable(prompt))


def unread(tokenizer: Any, prompt: str, max_sequence_length: int) -> str:
    """The end of a prompt that is cut off because the text encoder reads only so many tokens; "" if it reads all."""
    text = cleaned(prompt)
    tokens = tokenizer(text, add_special_tokens=True, return_offsets_mapping=True)
    if len(tokens["input_ids"]) <= max_sequence_length:
        return ""
    begin, _ = tokens["offset_mapping"][max_sequence_length - 1]  # the last place that is read is the end mark's
    return text[begin:].strip()


@torch.no_grad()
def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: UMT5EncoderModel,
    prompts: Sequence[str],
    max_sequence_length: int,
) -> Tensor:
    """Text embeddings of several prompts, equal to those of diffusers' Wan pipelines.

    Args:
        prompts: any text; markup and runs of white space are cleaned away, what exceeds the length is cut off.
        max_sequence_length: text tokens S. The padding is zero but is attended to, so the length must be the same
            in training and in flight.

    Returns:
        [B, S, text_dim] in the encoder's dtype, zero beyond each prompt's own tokens.
    """
    batch = tokenizer(
        [cleaned(prompt) for prompt in prompts],
        padding="max_length",
        max_length=max_sequence_length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    ).to(text_encoder.device)
    embeds = text_encoder(batch.input_ids, batch.attention_mask).last_hidden_state
    lengths = batch.attention_mask.sum(dim=1, keepdim=True)
    is_text = torch.arange(max_sequence_length, device=embeds.device) < lengths  # [B, S]
    return embeds.masked_fill(~is_text.unsqueeze(-1), 0.0)
