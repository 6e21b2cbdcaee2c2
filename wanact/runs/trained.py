"""What another trainer's step folder holds, as weights to fly with.

The plan's trainer leaves `trainable_full.safetensors` and `trainable.safetensors` in its step folders, the trained
weights of all networks in one file, and the files that are flown in the run's folder alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from wanact.runs.store import CONTROLLER, LORA, TRANSFORMER

FILES = ("trainable_full.safetensors", "trainable.safetensors")

_BEFORE = ("module", "pipe", "action_controller")

Value = TypeVar("Value")


def trained_file(folder: Path) -> Path | None:
    """The trained weights of a step folder, under the fullest names that it has; None if there are none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def networks(names: Iterable[str]) -> set[str]:
    """Which of the exported files these trained weights stand for."""
    return set(split(dict.fromkeys(names)))


def split(weights: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Trained weights by the exported file that they stand for; what belongs to no network is left out.

    The controller's names lose what trainers put before them. Names that start like the controller's and are not its
    own are kept with it, so that who checks it can name them.
    """
    from wanact.weights import controller, lora, transformer  # brings diffusers: not for who only lists runs
    from wanact.weights.names import bare_name

    found: dict[str, dict[str, Value]] = {}
    for name, value in weights.items():
        if lora.is_adapter([name]):
            found.setdefault(LORA, {})[name] = value
        elif bare_name(name, controller.NAMES.to_original) or ".action_controller." in f".{name}":
            found.setdefault(CONTROLLER, {})[_bare(name)] = value
        elif bare_name(name, transformer.NAMES.to_diffusers) or bare_name(name, transformer.NAMES.to_original):
            found.setdefault(TRANSFORMER, {})[name] = value
    return found


def _bare(name: str) -> str:
    first, dot, rest = name.partition(".")
    return _bare(rest) if dot and first in _BEFORE else name
