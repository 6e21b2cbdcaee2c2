"""The five parts of a Wan model, each from its folder or files in diffusers' format, and back.

Nothing is fetched and nothing is guessed: the configuration lies beside the weights, and weights that are missing are
an error instead of random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, SchedulerMixin, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from wanact.models.transformer import WanActTransformer3DModel
from wanact.models.vae import use_fast_convolutions

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
PIPELINE_CLASS = "WanImageToVideoPipeline"

_ON_DISK = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}


class ComponentError(ValueError):
    """A part that cannot be built from what lies in its folder; the message names the file and what is wrong."""


def load_component(part: str, folder: Path, weights: Sequence[Path] | None, dtype: torch.dtype) -> Any:
    """One part of a model, on the CPU.

    Args:
        part: one of `PARTS`.
        folder: where its configuration lies.
        weights: .safetensors files that together hold its weights; None for those of the folder under diffusers' or
            transformers' own names.
        dtype: of transformer and text encoder. The VAE stays float32: it is small and bfloat16 shows in flat skies.

    Raises:
        ComponentError: if the configuration is of another class, or weights are missing or left over.
        OSError, RuntimeError, ValueError: from the libraries, for missing or damaged files.
    """
    return _LOADERS[part](folder, weights, dtype)


def default_scheduler(flow_shift: float) -> UniPCMultistepScheduler:
    """The scheduler of Wan2.2-TI2V-5B."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)


def library_class(component: Any) -> list[str]:
    """How `model_index.json` names a component: its library and its class there."""
    if isinstance(component, WanTransformer3DModel):
        return ["diffusers", WanTransformer3DModel.__name__]
    return [type(component).__module__.split(".")[0], type(component).__name__]


def _read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    file = folder / name
    if not file.is_file():
        raise ComponentError(f"{file} is missing")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ComponentError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ComponentError(f"{file} must hold a JSON object")
    return config


def _load_diffusers_model(cls: type, class_name: str, folder: Path, weights: Sequence[Path] | None, dtype) -> Any:
    config = _read_config(folder)
    if config.get("_class_name") != class_name:
        raise ComponentError(f"{folder / 'config.json'} is for {config.get('_class_name')}, expected {class_name}")
    if weights is not None:
        return _load_merged(cls, config, folder, weights, dtype)
    model, info = cls.from_pretrained(folder, dtype=dtype, **_ON_DISK)
    _refuse_incomplete(folder, info["missing_keys"], info["unexpected_keys"])
    return model


def _load_merged(cls: type, config: dict, folder: Path, weights: Sequence[Path], dtype: torch.dtype) -> Any:
    """A diffusers model from shards of any name, without an index beside them."""
    model = cls.from_config(config)
    names = set(model.state_dict())
    state = _merge(weights)
    _refuse_incomplete(folder, names - state.keys(), state.keys() - names)
    keep = tuple(cls._keep_in_fp32_modules or ())
    for name in state:
        kept = any(part in keep for part in name.split("."))
        state[name] = state[name].to(torch.float32 if kept else dtype)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _merge(weights: Sequence[Path]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for file in weights:
        state.update(load_file(file))
    return state


def _refuse_incomplete(folder: Path, missing: Any, unexpected: Any) -> None:
    for what, names in (("lack", sorted(missing)), ("hold unknown", sorted(unexpected))):
        if names:
            raise ComponentError(f"the weights of {folder} {what} {names[0]} and {len(names) - 1} more")


def _load_transformer(folder: Path, weights: Sequence[Path] | None, dtype: torch.dtype) -> WanActTransformer3DModel:
    return _load_diffusers_model(WanActTransformer3DModel, WanTransformer3DModel.__name__, folder, weights, dtype)


def _load_vae(folder: Path, weights: Sequence[Path] | None, dtype: torch.dtype) -> AutoencoderKLWan:
    vae = _load_diffusers_model(AutoencoderKLWan, AutoencoderKLWan.__name__, folder, weights, torch.float32)
    return use_fast_convolutions(vae)


def _load_text_encoder(folder: Path, weights: Sequence[Path] | None, dtype: torch.dtype) -> UMT5EncoderModel:
    config = _read_config(folder)
    if config.get("model_type") != UMT5Config.model_type:
        raise ComponentError(f"{folder / 'config.json'} is for {config.get('model_type')}, expected umt5")
    if weights is None:
        model, info = UMT5EncoderModel.from_pretrained(folder, dtype=dtype, **_ON_DISK)
    else:
        given = {"config": UMT5Config.from_dict(config), "state_dict": _merge(weights)}
        model, info = UMT5EncoderModel.from_pretrained(None, dtype=dtype, **given, **_ON_DISK)
    _refuse_incomplete(folder, info["missing_keys"], ())
    return model.eval()


def _load_tokenizer(folder: Path, weights: Sequence[Path] | None, dtype: torch.dtype) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _load_scheduler(folder: Path, weights: Sequence[Path] | None, dtype: torch.dtype) -> SchedulerMixin:
    config = _read_config(folder, "scheduler_config.json")
    cls = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise ComponentError(f"{folder / 'scheduler_config.json'} names no scheduler of diffusers")
    return cls.from_config(config)


_LOADERS: dict[str, Callable[[Path, Sequence[Path] | None, torch.dtype], Any]] = {
    "transformer": _load_transformer,
    "vae": _load_vae,
    "text_encoder": _load_text_encoder,
    "tokenizer": _load_tokenizer,
    "scheduler": _load_scheduler,
}
