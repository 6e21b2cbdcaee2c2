"""LoRA of the transformer in the formats that trainers write, and the one that is loaded here.

Read, told apart name by name:

- diffusers and peft: `transformer.blocks.0.attn1.to_q.lora_A.weight`, also under `base_model.model.`;
- Wan's names: `diffusion_model.blocks.0.self_attn.q.lora_A.weight`;
- kohya's words: `diffusion_model.blocks.0.self_attn.q.lora_down.weight` with an `alpha`;
- musubi: `lora_unet_blocks_0_self_attn_q.lora_down.weight` with an `alpha`;
- DiffSynth: `blocks.0.self_attn.q.lora_A.default.weight`, also under `pipe.dit.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from wanact.weights.names import ConvertError, bare_name, listing
from wanact.weights.transformer import NAMES

PREFIX = "transformer."

_SIDES = {"lora_A": "A", "lora_down": "A", "lora_B": "B", "lora_up": "B"}
_ENTRY = re.compile(
    r"(?P<module>.+)\.(?:(?P<side>lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|(?P<alpha>alpha))"
)
_MUSUBI = "lora_unet_"

_OUTPUT = {
    "diffusers": PREFIX + "{module}.lora_{side}.weight",
    "original": "diffusion_model.{module}.lora_{side}.weight",
    "diffsynth": "{module}.lora_{side}.default.weight",
}


def convert_lora(state: Mapping[str, Tensor], target: str = "diffusers") -> dict[str, Tensor]:
    """A LoRA under the names of `target`; the tensors given are not changed.

    An `alpha` is multiplied into the up matrix, which is then a new tensor; all others stay the same.

    Args:
        state: pairs of matrices in any of the formats above.
        target: diffusers (`transformer.` names), original (`diffusion_model.` names) or diffsynth.

    Raises:
        ConvertError: if a name is of no known format, one of a pair is missing, or there is no pair at all.
    """
    if target not in _OUTPUT:
        raise ValueError(f"format {target!r} is unknown; choose one of {', '.join(_OUTPUT)}")
    sides, alphas = _read(state)
    converted: dict[str, Tensor] = {}
    for module, pair in sides.items():
        name = module if target == "diffusers" else _original(module)
        down, up = pair["A"], pair["B"]
        if up.shape[-1] != down.shape[0]:
            raise ConvertError(f"the LoRA of {module} multiplies {tuple(up.shape)} with {tuple(down.shape)}")
        if module in alphas:
            up = up * (alphas[module] / down.shape[0])
        for side, matrix in (("A", down), ("B", up)):
            converted[_OUTPUT[target].format(module=name, side=side)] = matrix
    return converted


def _read(state: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Pairs of matrices and alphas, by diffusers' name of the layer they change."""
    sides: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for name, tensor in state.items():
        match = _ENTRY.fullmatch(name)
        module = _module(match["module"]) if match else None
        if match is None or module is None:
            unknown.append(name)
        elif match["alpha"]:
            alphas[module] = float(tensor)
        else:
            sides.setdefault(module, {})[_SIDES[match["side"]]] = tensor
    if unknown:
        raise ConvertError(f"{listing(unknown)} are no weights of a LoRA for this transformer")
    halves = [module for module, pair in sides.items() if len(pair) != 2] + [m for m in alphas if m not in sides]
    if halves:
        raise ConvertError(f"the LoRA has only a part of the pair for {listing(halves)}")
    if not sides:
        raise ConvertError("the LoRA holds no weights")
    return sides, alphas


def _module(name: str) -> str | None:
    """diffusers' name of a layer in any of the formats."""
    if name.startswith(_MUSUBI):
        return _from_musubi(name.removeprefix(_MUSUBI))
    return bare_name(name, _either)


def _either(name: str) -> str | None:
    weight = NAMES.to_diffusers(f"{name}.weight") or (f"{name}.weight" if NAMES.to_original(f"{name}.weight") else None)
    return None if weight is None else weight.removesuffix(".weight")


def _original(module: str) -> str:
    return str(NAMES.to_original(f"{module}.weight")).removesuffix(".weight")


def _from_musubi(name: str) -> str | None:
    """`blocks_0_self_attn_q`: the dots of either convention's name have become underscores."""
    for ours, theirs in NAMES.modules():
        for pattern in (ours, theirs):
            match = re.fullmatch(pattern.replace(".", "_").replace("{i}", r"(\d+)"), name)
            if match:
                return theirs.replace("{i}", match[1]) if match.groups() else theirs
    return None
