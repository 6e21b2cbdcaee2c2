"""The action controller, whose names are the same everywhere but for what trainers put before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wanact.models.controller import WanActionController
from wanact.weights.names import NameMap

_MODULES = ("action_embed.0", "action_embed.2", "action_to_tmod", "action_to_residual", "q_norm", "k_norm")
_NAMES = (
    *(f"{module}.*" for module in (*_MODULES, *(f"{x}_proj" for x in "qkvo"))),
    "temporal_pos_embed",
    "output_scale",
    "channel_embed",
)
NAMES = NameMap({name: name for name in _NAMES})


def infer_config(shapes: Mapping[str, Sequence[int]], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The controller's arguments as far as shapes tell them.

    Args:
        hints: `action_controller_config` of the run; the weights tell neither the layers that are steered nor how.

    Raises:
        KeyError: if a weight that it is read from is missing.
    """
    hidden_size, inputs = shapes["action_embed.0.weight"]
    qk_norm = "q_norm.weight" in shapes
    told = {
        "action_dim": inputs // 2,
        "hidden_size": hidden_size,
        "num_latent_frames": shapes["temporal_pos_embed"][1],
        "num_layers": shapes["output_scale"][0],
        "qk_norm": qk_norm,
    }
    if qk_norm:
        told["num_heads"] = hidden_size // shapes["q_norm.weight"][0]
    if "channel_embed" in shapes:
        told["injection_type"] = "cross_attn_channels"
    return dict(hints) | told


def build(config: Mapping[str, Any]) -> WanActionController:
    """An empty controller; on the meta device if that is the default one."""
    return WanActionController(**config)
