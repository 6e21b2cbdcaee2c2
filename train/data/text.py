"""Prompts as the transformer sees them: token ids, and embeddings padded with zeros.

Padding is attended to by the transformer, so the padded length must be the one of inference. The text encoder itself
masks padding, so that it may run on the longest prompt of a batch instead.

`wanact.models.text.encode_prompts` does the same in one go for flying; here ids and embeddings part, so that a text
encoder that is trained sees ids, and the cache holds no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wanact.models.text import cleaned


def tokenise(tokenizer: Any, prompts: Sequence[str], max_length: int) -> list[Tensor]:
    """Token ids of every prompt, end mark included, cut at `max_length`: int64 [n] each, not padded."""
    encoded = tokenizer(
        [cleaned(prompt) for prompt in prompts],
        max_length=max_length,
        truncation=True,
        padding=False,
        add_special_tokens=True,
    )
    return [torch.tensor(ids, dtype=torch.int64) for ids in encoded["input_ids"]]


def pad_ids(ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids of a batch and their mask, [B, S] each, padded with 0 to the longest."""
    lengths = torch.tensor([len(row) for row in ids])
    padded = nn.utils.rnn.pad_sequence(list(ids), batch_first=True)
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()


def embed(text_encoder: nn.Module, ids: Tensor, mask: Tensor, length: int) -> Tensor:
    """Prompt embeddings [B, length, D], zero behind the prompt; differentiable in the text encoder."""
    embedding = text_encoder(ids, mask).last_hidden_state * mask[..., None]
    return nn.functional.pad(embedding, (0, 0, 0, length - embedding.shape[1]))


def pad_embeddings(embeddings: Sequence[Tensor], length: int) -> Tensor:
    """Cached embeddings [n, D] of a batch as [B, length, D], zero behind each prompt."""
    return torch.stack([nn.functional.pad(e, (0, 0, 0, length - e.shape[0])) for e in embeddings])
