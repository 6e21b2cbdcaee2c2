"""LoRA of the transformer in the formats that trainers write, and the one that is loaded here.

Read, told apart name by name:

- diffusers and peft: `transformer.blocks.0.attn1.to_q.lora_A.weight`, also under `base_model.model.`, with an adapter's
  name before `.weight`, or in diffusers' former words `to_q.lora.down.weight`;
- Wan's names: `diffusion_model.blocks.0.self_attn.q.lora_A.weight`;
- kohya's words: `diffusion_model.blocks.0.self_attn.q.lora_down.weight` with an `alpha`;
- musubi: `lora_unet_blocks_0_self_attn_q.lora_down.weight` with an `alpha`;
- DiffSynth: `blocks.0.self_attn.q.lora_A.default.weight`, also under `pipe.dit.`.

How strong a LoRA is stands beside its pairs of matrices: in `alpha` tensors, in the file's header where diffusers saves
it, or in peft's adapter_config.json. All are heard, and what is given on has them multiplied in, so that the product of
a pair is what is added. Differences of biases (`diff_b`) are added as they are, as stock diffusers does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from wanact.files import CheckpointError, number, parse_json, read_json, read_model
from wanact.weights.files import WeightFiles
from wanact.weights.names import ConvertError, bare_name, listing
from wanact.weights.transformer import NAMES

PREFIX = "transformer."

# Where peft keeps an adapter; and how diffusers calls the file, and we.
ADAPTER_CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors", "lora.safetensors")

_HEADER = "lora_adapter_metadata"  # diffusers' name in a safetensors header

_SIDES = {"lora_A": "A", "lora_down": "A", "lora.down": "A", "lora_B": "B", "lora_up": "B", "lora.up": "B"}
_ENTRY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<side>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.(?P<adapter>\w+))?\.(?P<leaf>weight|bias)"
    r"|(?P<alpha>alpha)|(?P<diff>diff|diff_b))"
)
_MUSUBI = "lora_unet_"

# Adapters of other kinds, by what is in their names. What they add is no product of two matrices.
_OTHER_KINDS = {
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "boft_": "BOFT",
    "glora_": "GLoRA",
    "ia3_": "IA3",
}
_MARKS = ("lora_", "lora.down", "lora.up", *_OTHER_KINDS)

_OUTPUT = {
    "diffusers": PREFIX + "{module}.lora_{side}.weight",
    "original": "diffusion_model.{module}.lora_{side}.weight",
    "diffsynth": "{module}.lora_{side}.default.weight",
}
_BIAS_OUTPUT = {"diffusers": PREFIX + "{module}.lora_B.bias", "original": "diffusion_model.{module}.diff_b"}


class _Settings(BaseModel):
    """What counts of peft's LoraConfig, with its defaults."""

    model_config = ConfigDict(extra="ignore")

    peft_type: Annotated[str, Field(max_length=40)] = "LORA"
    lora_alpha: Annotated[float, number()] = 8
    alpha_pattern: dict[str, Annotated[float, number()]] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False


@dataclass
class _Found:
    """What a file holds, by diffusers' name of the layer that is changed.

    Attributes:
        pairs: down (A) and up (B) matrices.
        alphas: from tensors of that name.
        biases: what is added to the layer's bias.
        spelled: the layer's name as the file has it.
    """

    pairs: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether these are names of a LoRA, or of another adapter, and not of weights."""
    return any(mark in name or name.endswith((".diff", ".diff_b")) for name in names for mark in _MARKS)


def read_lora(path: Path, otherwise: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """A LoRA under diffusers' names, as strong as its file or folder says.

    Args:
        path: a file, or a folder as peft and diffusers write it.
        otherwise: peft's settings, which count where neither file nor folder says how strong it is.

    Raises:
        ConvertError: if there is none that can be read here; the message names the file, and what it holds instead.
    """
    file = lora_file(path)
    weights = WeightFiles([file])
    settings = lora_settings(file, weights)
    if settings is None and not any(name.endswith(".alpha") for name in weights):
        settings = otherwise
    try:
        return convert_lora(weights, settings=settings)
    except ConvertError as error:
        raise ConvertError(f"{file}: {error}") from error


def lora_file(path: Path) -> Path:
    """The weights of a LoRA: the file itself, or the one in a folder as peft and diffusers write it.

    Raises:
        ConvertError: if the folder holds none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        named = sorted(item.name for item in path.iterdir() if (item / ADAPTER_CONFIG).is_file())
        hint = f"; its adapters are in {listing([str(path / name) for name in named])}" if named else ""
        raise ConvertError(f"{path} holds no LoRA ({', '.join(FILES)}){hint}")
    return found


def lora_settings(file: Path, weights: WeightFiles) -> dict[str, Any] | None:
    """What stands beside the tensors of a LoRA: peft's settings in the file's header or beside it, None without.

    Raises:
        ConvertError: if they are damaged.
    """
    try:
        if _HEADER in weights.metadata:
            packed = parse_json(file, weights.metadata[_HEADER].encode())
            return {name.removeprefix(PREFIX): value for name, value in packed.items() if name.startswith(PREFIX)}
        for beside in settings_beside(file):
            return read_json(beside)
    except CheckpointError as error:
        raise ConvertError(str(error)) from error
    return None


def settings_beside(file: Path) -> list[Path]:
    """peft's settings of an adapter that lies where peft writes it; none for any other file."""
    beside = file.with_name(ADAPTER_CONFIG)
    return [beside] if file.name.startswith("adapter_model.") and beside.is_file() else []


def convert_lora(
    state: Mapping[str, Tensor], target: str = "diffusers", *, settings: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """A LoRA under the names of `target`; the tensors given are not changed.

    Its strength is multiplied into the up matrix, which is then a new tensor, float32; all others stay the same.

    Args:
        state: pairs of matrices in any of the formats above, and what is added to biases.
        target: diffusers (`transformer.` names), original (`diffusion_model.` names) or diffsynth.
        settings: peft's, from `lora_settings`.

    Raises:
        ConvertError: if a name is of no known format, one of a pair is missing, there is no pair at all, or the adapter
            is of another kind than LoRA.
    """
    if target not in _OUTPUT:
        raise ValueError(f"format {target!r} is unknown; choose one of {', '.join(_OUTPUT)}")
    strengths = None if settings is None else _checked(settings)
    found = _read(state)
    if found.biases and target not in _BIAS_OUTPUT:
        raise ConvertError(f"the LoRA changes {len(found.biases)} biases, for which {target} has no names")
    converted: dict[str, Tensor] = {}
    for module in dict.fromkeys([*found.pairs, *found.biases]):
        name = module if target == "diffusers" else _original(module)
        names = (module, found.spelled[module])
        if module in found.pairs:
            down, up = found.pairs[module]["A"], found.pairs[module]["B"]
            if down.ndim < 2 or not len(down) or up.shape[1:] != down.shape[:1]:
                raise ConvertError(f"the LoRA of {module} multiplies {tuple(up.shape)} with {tuple(down.shape)}")
            strength = found.alphas[module] / len(down) if module in found.alphas else 1.0
            strength *= 1.0 if strengths is None else _strength(strengths, names, len(down))
            converted[_OUTPUT[target].format(module=name, side="A")] = down
            converted[_OUTPUT[target].format(module=name, side="B")] = up if strength == 1.0 else up.float() * strength
        if module in found.biases:
            bias = found.biases[module]
            if strengths is not None and module in found.pairs:  # peft scales the bias of an up matrix like the matrix
                bias = bias.float() * _strength(strengths, names, len(found.pairs[module]["A"]))
            converted[_BIAS_OUTPUT[target].format(module=name)] = bias
    return converted


def _checked(settings: Mapping[str, Any]) -> _Settings:
    read = read_model(
        _Settings, dict(settings), lambda problem: ConvertError(f"in the settings of the LoRA, {problem}")
    )
    if read.peft_type != "LORA":
        raise ConvertError(f"the adapter is a {read.peft_type}; only LoRA is known here")
    if read.use_dora:
        raise ConvertError(_other_kind("DoRA"))
    if read.fan_in_fan_out:
        raise ConvertError("the LoRA is for layers with transposed weights (fan_in_fan_out), which Wan does not have")
    return read


def _strength(settings: _Settings, names: Sequence[str], rank: int) -> float:
    """What peft multiplies a layer's product by. The layer goes by its name in the file or in diffusers."""
    from peft.utils.other import get_pattern_key

    alphas = settings.alpha_pattern or {}
    try:
        matching = next((key for key in (get_pattern_key(list(alphas), name) for name in names) if key in alphas), None)
    except re.error as error:
        raise ConvertError(f"in the settings of the LoRA, alpha_pattern is no regular expression: {error}") from error
    alpha = settings.lora_alpha if matching is None else alphas[matching]
    return alpha / (math.sqrt(rank) if settings.use_rslora else rank)


def _read(state: Mapping[str, Tensor]) -> _Found:
    found = _Found()
    adapters: dict[str, None] = {}
    unknown = []
    left = set(passed_over(state))
    for name in state:
        if name in left:
            continue
        kind = next((kind for mark, kind in _OTHER_KINDS.items() if mark in name), None)
        if kind is not None:
            raise ConvertError(_other_kind(kind))
        match = _ENTRY.fullmatch(name)
        module = _module(match["module"]) if match else None
        if match is None or module is None or (match["side"] and _SIDES[match["side"]] + match["leaf"] == "Abias"):
            unknown.append(name)
            continue
        found.spelled.setdefault(module, match["module"])
        if match["adapter"]:
            adapters.setdefault(match["adapter"])
        _put(found, module, match, state[name])
    if unknown:
        raise ConvertError(f"{listing(unknown)} are no weights of a LoRA for this transformer")
    if len(adapters) > 1:
        raise ConvertError(
            f"the file holds {len(adapters)} adapters ({listing(list(adapters))}); save one of them alone"
        )
    halves = [module for module, pair in found.pairs.items() if len(pair) != 2]
    halves += [module for module in found.alphas if module not in found.pairs]
    if halves:
        raise ConvertError(f"the LoRA has only a part of the pair for {listing(halves)}")
    if not found.pairs and not found.biases:
        raise ConvertError("the LoRA holds no weights")
    return found


def _put(found: _Found, module: str, match: re.Match[str], tensor: Tensor) -> None:
    if match["alpha"]:
        if tensor.numel() != 1:
            raise ConvertError(f"the alpha of {module} in the LoRA has {tensor.numel()} numbers, expected one")
        found.alphas[module] = float(tensor)
    elif match["diff"] == "diff":  # of the head: a whole difference is a pair with the identity as its up matrix
        found.pairs[module] = {"A": tensor, "B": torch.eye(len(tensor), dtype=tensor.dtype)}
    elif match["diff"] or match["leaf"] == "bias":
        found.biases[module] = tensor
    else:
        found.pairs.setdefault(module, {})[_SIDES[match["side"]]] = tensor


def passed_over(names: Iterable[str]) -> tuple[str, ...]:
    """Differences that stock diffusers leaves out, and so do we.

    Those are all of norms and of the patch embedding, whole weights (`diff`) but for the head's, and the bias of the
    time projection where its weight is not changed.
    """
    names = list(names)
    has_time = any("time_projection." in name and name.endswith(".weight") for name in names)

    def is_left(name: str) -> bool:
        module, _, kind = name.rpartition(".")
        if kind not in ("diff", "diff_b"):
            return False
        return (
            "norm" in module
            or module.endswith("patch_embedding")
            or (kind == "diff" and not module.endswith("head.head"))
            or ("time_projection" in module and not has_time)
        )

    return tuple(name for name in names if is_left(name))


def _other_kind(kind: str) -> str:
    return f"the file holds a {kind}, which cannot be laid on here; only LoRA, pairs of lora_A and lora_B, is known"


def _module(name: str) -> str | None:
    """diffusers' name of a layer in any of the formats."""
    if name.startswith(_MUSUBI):
        return _from_musubi(name.removeprefix(_MUSUBI).removeprefix("_"))
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
