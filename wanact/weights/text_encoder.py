"""UMT5: names of Wan's own `T5Encoder` (wan/modules/t5.py), which DiffSynth uses too, and transformers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import UMT5Config, UMT5EncoderModel

from wanact.weights.names import NameMap

NAMES = NameMap(
    {
        "token_embedding.*": "shared.*",
        "norm.*": "encoder.final_layer_norm.*",
        "blocks.{i}.norm1.*": "encoder.block.{i}.layer.0.layer_norm.*",
        **{f"blocks.{{i}}.attn.{x}.*": f"encoder.block.{{i}}.layer.0.SelfAttention.{x}.*" for x in "qkvo"},
        "blocks.{i}.pos_embedding.embedding.*": "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.*",
        "blocks.{i}.norm2.*": "encoder.block.{i}.layer.1.layer_norm.*",
        "blocks.{i}.ffn.gate.0.*": "encoder.block.{i}.layer.1.DenseReluDense.wi_0.*",
        "blocks.{i}.ffn.fc1.*": "encoder.block.{i}.layer.1.DenseReluDense.wi_1.*",
        "blocks.{i}.ffn.fc2.*": "encoder.block.{i}.layer.1.DenseReluDense.wo.*",
    }
)

# A second name of the same tensor, which some versions of transformers write and some do not.
ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}


def infer_config(shapes: Mapping[str, Sequence[int]], hints: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' configuration from the shapes of the weights (transformers' names).

    Raises:
        KeyError: if a weight that it is read from is missing.
    """
    vocab_size, d_model = shapes["shared.weight"]
    buckets, num_heads = shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    return {
        "model_type": UMT5Config.model_type,
        "architectures": [UMT5EncoderModel.__name__],
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // num_heads,
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        "num_layers": 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.block.")),
        "num_heads": num_heads,
        "relative_attention_num_buckets": buckets,
        **{key: value for key, value in hints.items() if key not in ("model_type", "architectures")},
    }


def build(config: Mapping[str, Any]) -> UMT5EncoderModel:
    """An empty text encoder; on the meta device if that is the default one."""
    return UMT5EncoderModel(UMT5Config.from_dict(dict(config)))
