"""Checkpoints of other trainers and of earlier layouts, as far as they can be continued."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wanact.checkpoints import CheckpointError

if TYPE_CHECKING:
    from train.resume import Loaded


def is_legacy(path: Path) -> bool:
    return False


def load(path: Path, shapes: dict[str, torch.Size]) -> Loaded:
    raise CheckpointError(f"{path} holds nothing to continue from")
