"""Fine-tuned weights laid on a base model: whole or partial state_dicts, and LoRA.

Read in Wan's, diffusers' or DiffSynth's names from .safetensors, or from .pt files as Vidar, Self-Forcing and DiffSynth
write them. As with `load_state_dict(strict=False)` unknown names are passed over, but they are counted and named, and a
file of which nothing fits is an error.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wanact.files import CheckpointError, read_json
from wanact.models.overlay import Overlay, OverlayError
from wanact.weights.convert import key_map
from wanact.weights.files import WeightFiles
from wanact.weights.layouts import ModelDirError
from wanact.weights.lora import convert_lora, is_adapter, lora_file, lora_settings, passed_over, settings_beside
from wanact.weights.names import ConvertError, listing

# `vidarc.pt`, `self_forcing_causal.pt`, `wan-causal.safetensors`; not `noncausal`.
_CAUSAL = re.compile(r"(?<![a-z])(?:causal|vidarc)(?![a-z])")


@dataclass(frozen=True)
class MatchReport:
    """What a file of fine-tuned weights did.

    Attributes:
        file: its name.
        taken: the state_dict inside a .pt file that was taken, "" if it is one itself.
        kind: weights or LoRA.
        matched: how many tensors of the transformer it changed, and how many there are.
        unknown: names in the file that were passed over.
    """

    file: str
    taken: str
    kind: str
    matched: int
    total: int
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        taken = f" ({self.taken})" if self.taken else ""
        passed = f"; passed over {listing(self.unknown)}" if self.unknown else ""
        return f"{self.file}{taken}: {self.kind} for {self.matched} of {self.total} tensors of the transformer{passed}"


def lay_on(transformer: Any, path: str | os.PathLike, key: str | None = None) -> MatchReport:
    """Change a transformer for good by a file of fine-tuned weights or a LoRA.

    Args:
        transformer: `WanActTransformer3DModel`.
        path: the file; of a LoRA also a folder as peft and diffusers write it.
        key: which state_dict inside a .pt file, for example `generator`; None for the usual one.

    Raises:
        ModelDirError: if the file cannot be read, nothing in it fits, or a shape is another model's.
    """
    path = Path(path)
    overlay = Overlay(transformer)
    total = len(transformer.state_dict())
    try:
        file = lora_file(path)
        weights = WeightFiles([file], key)
        taken = ", ".join(weights.keys_taken.values())
        if is_adapter(weights):
            lora = convert_lora(weights, settings=lora_settings(file, weights))
            overlay.apply(lora=lora)
            overlay.keep()
            changed = sum(not name.endswith(".lora_A.weight") for name in lora)
            return MatchReport(path.name, taken, "LoRA", changed, total, passed_over(weights))
        state, unknown = read_weights(weights)
        overlay.apply(weights=state)
        overlay.keep()
    except (ConvertError, OverlayError) as error:
        raise ModelDirError(f"the fine-tuned weights of {path} cannot be used: {error}") from error
    return MatchReport(path.name, taken, "weights", len(state), total, unknown)


def files_of(path: Path) -> list[Path]:
    """What is read for a file or folder of fine-tuned weights: weights, and what is heard beside them.

    Raises:
        ModelDirError: if a folder holds no LoRA, or nothing is there.
    """
    if not path.exists():
        raise ModelDirError(f"the fine-tuned weights {path} are missing")
    try:
        file = lora_file(path)
    except ConvertError as error:
        raise ModelDirError(str(error)) from error
    said = [side_file(file)] if side_file(file).is_file() else []
    return [file, *settings_beside(file), *said]


def side_file(path: Path) -> Path:
    """What says beside a file of weights how they are flown: `vidarc.json` beside `vidarc.pt`."""
    return path.with_suffix(".json")


def said_causal(path: Path) -> Any:
    """What a file of weights says of drawing each latent frame from those before it.

    Returns:
        The settings that `causal_settings` takes, from the file beside it; else True or False, from its own name or
        header.

    Raises:
        ModelDirError: if the file beside it is damaged.
    """
    if path.suffix != ".json" and side_file(path).is_file():
        try:
            said = read_json(side_file(path))
        except CheckpointError as error:
            raise ModelDirError(f"how {path.name} is flown cannot be read: {error}") from error
        if "causal" in said:
            return said["causal"]
    return says_causal(path)


def says_causal(path: Path) -> bool:
    """Whether a file of weights says that each latent frame is drawn from those before it.

    It does by its name (`causal`, or Vidarc's own) or in its header; the weights themselves do not tell.
    """
    if _CAUSAL.search(path.name.lower()):
        return True
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    said = WeightFiles([path]).metadata
    return str(said.get("causal", "")).lower() in ("true", "1") or "causal" in said.get("model_class", "").lower()


def read_weights(weights: WeightFiles) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Those weights that are a transformer's, under diffusers' names, and the names that are not.

    Raises:
        ConvertError: if there are none.
    """
    plan = key_map("transformer", weights.shapes, partial=True, lenient=True)
    if not plan.names:
        raise ConvertError(
            f"none of its {len(weights)} names is the transformer's, for example {listing(plan.unknown)}"
        )
    return {new: weights[old] for old, new in plan.names.items()}, plan.unknown
