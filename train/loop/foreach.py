"""torch's operations on many tensors in one call: optimizers are built of them, but its stubs call them private."""

from __future__ import annotations

import torch
from torch import Tensor


def lerp(starts: list[Tensor], ends: list[Tensor], weight: float) -> tuple[Tensor, ...] | list[Tensor]:
    """Each start moved by this share of the way to its end."""
    return torch._foreach_lerp(starts, ends, weight)  # pyright: ignore[reportPrivateImportUsage]


def lerp_(starts: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """The same in place."""
    torch._foreach_lerp_(starts, ends, weight)  # pyright: ignore[reportPrivateImportUsage]


def mul_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Each multiplied by a number, in place."""
    torch._foreach_mul_(tensors, factor)  # pyright: ignore[reportPrivateImportUsage]
