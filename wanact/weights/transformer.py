"""The transformer: names of Wan's own `WanModel` (wan/modules/model.py), which DiffSynth uses too, and diffusers'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wanact.errors import UserError
from wanact.models.components import from_config
from wanact.models.presets import TRANSFORMER
from wanact.models.transformer import WanActTransformer3DModel
from wanact.weights.names import NameMap

HEAD_DIM = 128  # of every released Wan; the weights do not tell it

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}

NAMES = NameMap(
    {
        "patch_embedding.*": "patch_embedding.*",
        "text_embedding.0.*": "condition_embedder.text_embedder.linear_1.*",
        "text_embedding.2.*": "condition_embedder.text_embedder.linear_2.*",
        "time_embedding.0.*": "condition_embedder.time_embedder.linear_1.*",
        "time_embedding.2.*": "condition_embedder.time_embedder.linear_2.*",
        "time_projection.1.*": "condition_embedder.time_proj.*",
        **{f"blocks.{{i}}.self_attn.{ours}.*": f"blocks.{{i}}.attn1.{theirs}.*" for ours, theirs in _ATTENTION.items()},
        **{
            f"blocks.{{i}}.cross_attn.{ours}.*": f"blocks.{{i}}.attn2.{theirs}.*" for ours, theirs in _ATTENTION.items()
        },
        # Wan runs its norms in the order 1, 3, 2; diffusers numbers them as they run. Only this one has weights.
        "blocks.{i}.norm3.*": "blocks.{i}.norm2.*",
        "blocks.{i}.ffn.0.*": "blocks.{i}.ffn.net.0.proj.*",
        "blocks.{i}.ffn.2.*": "blocks.{i}.ffn.net.2.*",
        "blocks.{i}.modulation": "blocks.{i}.scale_shift_table",
        "head.head.*": "proj_out.*",
        "head.modulation": "scale_shift_table",
    }
)


def infer_config(shapes: Mapping[str, Sequence[int]], hints: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' configuration from the shapes of the weights (diffusers' names) and the original config.json.

    Raises:
        KeyError: if a weight that it is read from is missing.
        ValueError: if the number of heads is not told and cannot be guessed.
    """
    width, in_channels, *patch_size = shapes["patch_embedding.weight"]
    num_heads = hints.get("num_heads") or hints.get("num_attention_heads")
    if num_heads is None:
        if width % HEAD_DIM:
            raise UserError(f"a width of {width} is no multiple of {HEAD_DIM}, so config.json must tell num_heads")
        num_heads = width // HEAD_DIM
    return TRANSFORMER | {
        "patch_size": list(patch_size),
        "in_channels": in_channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch_size),
        "num_attention_heads": int(num_heads),
        "attention_head_dim": width // int(num_heads),
        "num_layers": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "eps": float(hints.get("eps", TRANSFORMER["eps"])),
    }


def original_config(config: Mapping[str, Any], text_len: int = 512) -> dict[str, Any]:
    """The config.json that the original release has beside its shards."""
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.33.0",
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "eps": config["eps"],
        "ffn_dim": config["ffn_dim"],
        "freq_dim": config["freq_dim"],
        "in_dim": config["in_channels"],
        "model_type": "ti2v",
        "num_heads": config["num_attention_heads"],
        "num_layers": config["num_layers"],
        "out_dim": config["out_channels"],
        "text_len": text_len,
    }


def build(config: Mapping[str, Any]) -> WanActTransformer3DModel:
    """An empty transformer; on the meta device if that is the default one."""
    return from_config(WanActTransformer3DModel, config)
