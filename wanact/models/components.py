"""The five parts of a Wan model, each from its folder in diffusers' format or from weights in memory, and back.

Nothing is fetched and nothing is guessed: the configuration lies beside the weights, and weights that are missing are
an error instead of random numbers.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from wanact.errors import UserError
from wanact.files import pointer_problem, visible
from wanact.models.transformer import WanActTransformer3DModel
from wanact.models.vae import CLASSES as VAE_CLASSES
from wanact.models.vae import use_fast_operations

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
NETWORKS = ("transformer", "vae", "text_encoder")
PIPELINE_CLASS = "WanImageToVideoPipeline"

# What config.json calls each network of a Wan model, and what the original release calls its transformer.
CONFIG_CLASSES = {
    "transformer": WanTransformer3DModel.__name__,
    "vae": AutoencoderKLWan.__name__,
    "text_encoder": UMT5Config.model_type,
}
ORIGINAL_CLASS = "WanModel"

# What model_index.json of the diffusers layout says beside the components.
PIPELINE_INDEX = {
    "_class_name": PIPELINE_CLASS,
    "_diffusers_version": diffusers.__version__,
    "boundary_ratio": None,
    "expand_timesteps": True,
    **{optional: [None, None] for optional in ("image_encoder", "image_processor", "transformer_2")},
}

_Model = TypeVar("_Model", bound=ConfigMixin)
_ON_DISK: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}


class ComponentError(UserError):
    """A part that cannot be built from what lies in its folder; the message names the file and what is wrong."""


def load_component(part: str, folder: Path, dtype: torch.dtype) -> Any:
    """One part of a model from its folder, under diffusers' or transformers' own file names, on the CPU.

    Args:
        part: one of `PARTS`.
        folder: where its configuration and weights lie.
        dtype: of transformer and text encoder. The VAE stays float32: it is small and bfloat16 shows in flat skies.

    Raises:
        ComponentError: if the configuration is of another class, or weights are missing or left over.
        OSError, RuntimeError, ValueError: from the libraries, for missing or damaged files.
    """
    for file in sorted(visible(folder.iterdir())) if folder.is_dir() else ():
        problem = pointer_problem(file) if file.is_file() else None
        if problem:
            raise ComponentError(problem)
    with _without_marks(folder) as readable:
        try:
            return _LOADERS[part](readable, dtype)
        except Exception as error:
            if readable is folder or str(readable) not in str(error):
                raise
            raise ComponentError(str(error).replace(str(readable), str(folder))) from error


@contextlib.contextmanager
def _without_marks(folder: Path) -> Iterator[Path]:
    """The folder, or one of links in which no JSON file begins with a byte order mark, which the libraries refuse."""
    marked = [file for file in visible(folder.glob("*.json")) if file.read_bytes()[:3] == codecs.BOM_UTF8]
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="wanact-") as name:
        copy = Path(name) / folder.name
        copy.mkdir()
        for file in visible(folder.iterdir()):
            if file in marked:
                (copy / file.name).write_bytes(file.read_bytes().removeprefix(codecs.BOM_UTF8))
            else:
                os.symlink(file.resolve(), copy / file.name)
        yield copy


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """transformers' progress bars stay away meanwhile: of a model in five parts they show one."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def default_scheduler(flow_shift: float) -> UniPCMultistepScheduler:
    """The scheduler of Wan2.2-TI2V-5B."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)


def library_class(component: Any) -> list[str]:
    """How `model_index.json` names a component: its library and its class there."""
    if isinstance(component, WanTransformer3DModel):
        return ["diffusers", WanTransformer3DModel.__name__]
    return [type(component).__module__.split(".")[0], type(component).__name__]


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A component's configuration; ComponentError if it is missing or no JSON object."""
    file = folder / name
    if not file.is_file():
        raise ComponentError(f"{file} is missing")
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ComponentError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ComponentError(f"{file} must hold a JSON object")
    return config


def _load_diffusers_model(classes: Mapping[str, type[Any]], folder: Path, dtype: torch.dtype) -> Any:
    named = str(read_config(folder).get("_class_name"))
    if named not in classes:
        raise ComponentError(f"{folder / 'config.json'} is for {named}, expected {' or '.join(classes)}")
    model, info = classes[named].from_pretrained(folder, dtype=dtype, **_ON_DISK)
    _refuse_incomplete(str(folder), info["missing_keys"], info["unexpected_keys"])
    return model


def assemble(part: str, config: dict[str, Any], state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """A network from its configuration and weights, on the CPU; random numbers are never drawn for it.

    Args:
        part: transformer, vae or text_encoder.
        config: diffusers' (for the text encoder transformers') configuration.
        state: all weights under diffusers' names; read one by one, so that it may be lazy.
        dtype: of transformer and text encoder. The VAE, and what diffusers keeps so, stays float32.

    Raises:
        ComponentError: if weights are missing or left over.
    """
    if part == "text_encoder":
        given = {"config": UMT5Config.from_dict(config), "state_dict": dict(state)}
        text_encoder, info = _read_text_encoder(None, dtype, **given)
        _refuse_incomplete("the text encoder", info["missing_keys"], ())
        return text_encoder.eval()
    model = empty(part, config)
    require_same_names(part, model, state)
    keep = tuple(type(model)._keep_in_fp32_modules or ())
    exact = part == "vae"
    loaded = {}
    for name in state:
        kept = exact or any(word in keep for word in name.split("."))
        loaded[name] = state[name].to(torch.float32 if kept else dtype)
    model.load_state_dict(loaded, assign=True)
    if part == "vae":
        return use_fast_operations(model.eval())
    return model.eval()


def empty(part: str, config: dict[str, Any]) -> Any:
    """A network without weights, whose parameters are on the meta device; the transformer's tables are there."""
    with torch.device("meta"):
        if part == "text_encoder":
            return UMT5EncoderModel(UMT5Config.from_dict(config))
        if part == "vae":
            return from_config(VAE_CLASSES[config.get("_class_name", AutoencoderKLWan.__name__)], config)
        model = from_config(WanActTransformer3DModel, config)
    # Its tables are no weights, and nothing would fill them.
    rope = model.config
    p_t, p_h, p_w = rope.patch_size
    model.rope = type(model.rope)(rope.attention_head_dim, (p_t, p_h, p_w), rope.rope_max_seq_len)
    return model


def require_same_names(part: str, network: torch.nn.Module, weights: Iterable[str]) -> None:
    """Raise ComponentError unless the weights have the names of the network's, and none is left over."""
    ours, theirs = set(network.state_dict()), set(weights)
    _refuse_incomplete(f"the {part}", ours - theirs, theirs - ours)


def from_config(cls: type[_Model], config: Mapping[str, Any]) -> _Model:
    """What diffusers makes of a configuration, under its own class: it declares that it may return a tuple."""
    made = cls.from_config(dict(config))
    assert isinstance(made, cls), "a tuple is for callers who ask for unused arguments"
    return made


def _refuse_incomplete(where: str, missing: Any, unexpected: Any) -> None:
    for what, names in (("lack", sorted(missing)), ("hold unknown", sorted(unexpected))):
        if names:
            raise ComponentError(f"the weights of {where} {what} {names[0]} and {len(names) - 1} more")


def _load_transformer(folder: Path, dtype: torch.dtype) -> WanActTransformer3DModel:
    return _load_diffusers_model({WanTransformer3DModel.__name__: WanActTransformer3DModel}, folder, dtype)


def _load_vae(folder: Path, dtype: torch.dtype) -> Any:
    return use_fast_operations(_load_diffusers_model(VAE_CLASSES, folder, torch.float32))


def _read_text_encoder(
    folder: Path | None, dtype: torch.dtype, **given: Any
) -> tuple[UMT5EncoderModel, dict[str, Any]]:
    """The encoder and what was missing; transformers declares the encoder alone."""
    with without_bars():
        read = UMT5EncoderModel.from_pretrained(folder, dtype=dtype, **given, **_ON_DISK)
    return cast(tuple[UMT5EncoderModel, dict[str, Any]], read)


def _load_text_encoder(folder: Path, dtype: torch.dtype) -> UMT5EncoderModel:
    config = read_config(folder)
    if config.get("model_type") != UMT5Config.model_type:
        raise ComponentError(f"{folder / 'config.json'} is for {config.get('model_type')}, expected umt5")
    model, info = _read_text_encoder(folder, dtype)
    _refuse_incomplete(str(folder), info["missing_keys"], ())
    return model.eval()


def _load_tokenizer(folder: Path, dtype: torch.dtype) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _load_scheduler(folder: Path, dtype: torch.dtype) -> SchedulerMixin:
    config = read_config(folder, "scheduler_config.json")
    cls = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin) and issubclass(cls, ConfigMixin)):
        raise ComponentError(f"{folder / 'scheduler_config.json'} names no scheduler of diffusers")
    return from_config(cls, config)


_LOADERS: dict[str, Callable[[Path, torch.dtype], Any]] = {
    "transformer": _load_transformer,
    "vae": _load_vae,
    "text_encoder": _load_text_encoder,
    "tokenizer": _load_tokenizer,
    "scheduler": _load_scheduler,
}
