"""The action controller, whose names are the same everywhere but for what trainers put before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wanact.models.controller import WanActionController
from wanact.models.injection import INJECTION_TYPES
from wanact.weights.names import NameMap

_MODULES = ("action_embed.0", "action_embed.2", "action_to_tmod", "action_to_residual", "q_norm", "k_norm")
_NAMES = (
    *(f"{module}.*" for module in (*_MODULES, *(f"{x}_proj" for x in "qkvo"))),
    "temporal_pos_embed",
    "output_scale",
)


class _Names(NameMap):
    """The common parts' names, and those of the parts that injection types have of their own."""

    def __init__(self) -> None:
        super().__init__({name: name for name in _NAMES})

    def to_diffusers(self, name: str, counts: Mapping[str, int] | None = None) -> str | None:
        return name if _part_of(name) in _own_parts() else super().to_diffusers(name, counts)

    def to_original(self, name: str, counts: Mapping[str, int] | None = None) -> str | None:
        return name if _part_of(name) in _own_parts() else super().to_original(name, counts)


def _part_of(name: str) -> str:
    return name.partition(".")[0]


def _own_parts() -> set[str]:
    return {part for kind in INJECTION_TYPES.values() for part in kind.own_parts}


NAMES = _Names()


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
    parts = {_part_of(name) for name in shapes}
    kinds = [kind.name for kind in INJECTION_TYPES.values() if kind.own_parts and parts.issuperset(kind.own_parts)]
    if kinds and hints.get("injection_type") not in kinds:
        told["injection_type"] = kinds[0]
    return dict(hints) | told


def build(config: Mapping[str, Any]) -> WanActionController:
    """An empty controller; on the meta device if that is the default one."""
    return WanActionController(**config)
