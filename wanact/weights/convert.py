"""Weights between the original Wan2.2 code, diffusers and DiffSynth, every name accounted for.

    convert("transformer", state, "diffusers")     # from whatever `state` is in
    convert_lora(state, "diffusers")

Converting renames and nothing else: no tensor is reshaped, cast or copied. Everything goes through diffusers' names.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wanact.weights import controller, text_encoder, transformer, vae
from wanact.weights.names import ConvertError, NameMap, bare_name, listing

ORIGINAL, DIFFUSERS, DIFFSYNTH = FORMATS = ("original", "diffusers", "diffsynth")

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class _Part:
    """What is known of one network."""

    names: NameMap
    infer_config: Callable[[Shapes, Mapping[str, Any]], dict[str, Any]]
    build: Callable[[Mapping[str, Any]], torch.nn.Module]
    counts: Callable[[Iterable[str]], dict[str, int]] = lambda names: {}
    aliases: Mapping[str, str] = field(default_factory=dict)
    diffsynth_prefix: str = ""


PARTS = {
    "transformer": _Part(transformer.NAMES, transformer.infer_config, transformer.build),
    "vae": _Part(vae.NAMES, vae.infer_config, vae.build, vae.counts, diffsynth_prefix="model."),
    "text_encoder": _Part(
        text_encoder.NAMES, text_encoder.infer_config, text_encoder.build, aliases=text_encoder.ALIASES
    ),
    "controller": _Part(controller.NAMES, controller.infer_config, controller.build),
}


@dataclass(frozen=True)
class KeyMap:
    """How one network's weights are renamed.

    Attributes:
        names: name as found -> name wanted. Second names of a tensor that is there already are left out.
        config: diffusers' (transformers') configuration; None if the weights are only a part of the network.
        source: the convention they were found in.
        unknown: names that are none of this network's; only a lenient reading has any.
    """

    names: dict[str, str]
    config: dict[str, Any] | None
    source: str
    unknown: tuple[str, ...] = ()


def key_map(
    part: str,
    shapes: Shapes,
    target: str = DIFFUSERS,
    *,
    config: Mapping[str, Any] | None = None,
    hints: Mapping[str, Any] | None = None,
    partial: bool = False,
    lenient: bool = False,
) -> KeyMap:
    """Plan a conversion from names and shapes alone, without a weight in memory.

    Args:
        part: transformer, vae, text_encoder or controller.
        shapes: shape of every weight by name, in any of the conventions, with or without what trainers put before
            names (`pipe.dit.`, `model.`, `_fsdp_wrapped_module.`, ...).
        target: original, diffusers or diffsynth.
        config: diffusers' configuration; None to read it from the shapes.
        hints: what shapes do not tell: `num_heads`, `latents_mean`, `latents_std`, ...
        partial: whether weights may be missing.
        lenient: whether unknown names are set aside instead of refused.

    Raises:
        ConvertError: if a name is unknown, or one is missing, or a shape is not that of the network.
    """
    kind, target = _known_part(part), _known_format(target)
    source, found, unknown = _to_diffusers(part, kind, shapes)
    if unknown and not lenient:
        raise ConvertError(f"{listing(unknown)} belong to no {part} that is known here")
    ours = {name: tuple(shapes[old]) for old, name in found.items()}
    if config is None and not partial:
        try:
            config = kind.infer_config(ours, hints or {})
        except KeyError as error:
            raise ConvertError(
                f"the weights lack {error.args[0]}, so this is no {part} or only a piece of one"
            ) from error
        except (ValueError, ZeroDivisionError) as error:
            raise ConvertError(f"the size of the {part} cannot be told from its weights: {error}") from error
    if config is not None:
        _compare(part, ours, expected_shapes(part, config), partial)
    names = _from_diffusers(kind, found, target)
    return KeyMap(names, None if config is None else dict(config), source, unknown)


def convert(
    part: str,
    state: Mapping[str, Tensor],
    target: str = DIFFUSERS,
    *,
    config: Mapping[str, Any] | None = None,
    hints: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> dict[str, Tensor]:
    """The same tensors under the names of `target`; arguments and errors as in `key_map`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    plan = key_map(part, shapes, target, config=config, hints=hints, partial=partial)
    return {new: state[old] for old, new in plan.names.items()}


def expected_shapes(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a network by diffusers' name; nothing is allocated."""
    return dict(_expected_shapes(part, json.dumps(dict(config), sort_keys=True, default=list)))


@functools.lru_cache(maxsize=16)
def _expected_shapes(part: str, config: str) -> dict[str, tuple[int, ...]]:
    kind = _known_part(part)
    with torch.device("meta"):
        state = kind.build(json.loads(config)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in kind.aliases}


def _to_diffusers(part: str, kind: _Part, shapes: Shapes) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """The convention that the names are in, each name's name in diffusers, and names that are not the network's."""
    counts = kind.counts(shapes)

    def from_original(name: str) -> str | None:
        return kind.names.to_diffusers(name, counts)

    def from_diffusers(name: str) -> str | None:
        return name if name in kind.aliases or kind.names.to_original(name, counts) else None

    readings = []
    for source, translate in ((ORIGINAL, from_original), (DIFFUSERS, from_diffusers)):
        found = {old: bare_name(old, translate) for old in shapes}
        readings.append((sum(name is None for name in found.values()), source, found))
    _, source, found = min(readings, key=lambda reading: reading[0])
    unknown = tuple(old for old, name in found.items() if name is None)
    found = {old: name for old, name in found.items() if name is not None}
    if kind.diffsynth_prefix and source == ORIGINAL and all(old.startswith(kind.diffsynth_prefix) for old in shapes):
        source = DIFFSYNTH
    names = set(found.values())
    found = {old: kind.aliases.get(name, name) for old, name in found.items() if kind.aliases.get(name) not in names}
    names.clear()
    for old, name in found.items():
        if name in names:
            raise ConvertError(f"{old} is there twice, under two names of the {part}")
        names.add(name)
    return source, found, unknown


def _from_diffusers(kind: _Part, found: dict[str, str], target: str) -> dict[str, str]:
    if target == DIFFUSERS:
        return found
    counts = kind.counts(found.values())
    prefix = kind.diffsynth_prefix if target == DIFFSYNTH else ""
    return {old: f"{prefix}{kind.names.to_original(name, counts)}" for old, name in found.items()}


def _compare(part: str, ours: Shapes, expected: Shapes, partial: bool) -> None:
    missing = [] if partial else [name for name in expected if name not in ours]
    extra = [name for name in ours if name not in expected]
    for what, names in (("lack", missing), ("hold unknown", extra)):
        if names:
            raise ConvertError(f"the weights of the {part} {what} {listing(names)}")
    for name, shape in ours.items():
        if tuple(shape) != tuple(expected[name]):
            raise ConvertError(f"{name} of the {part} has shape {tuple(shape)}, expected {tuple(expected[name])}")


def _known_part(part: str) -> _Part:
    if part not in PARTS:
        raise ValueError(f"part {part!r} is unknown; choose one of {', '.join(PARTS)}")
    return PARTS[part]


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is unknown; choose one of {', '.join(FORMATS)}")
    return name
