"""Errors count for more where a body acts: the mask of an inverse dynamics model weights the flow-matching loss.

Equation 7 of Vidarc (arXiv:2512.17661): |(1 + eta U(x)) (v - target)|^2, where U is the mask of the true clip, averaged
to the latent grid. With eta 3 an error inside of it counts up to 16 times. Masks are read where clips are encoded and
lie beside the latents.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.cache import module_fingerprint
from train.loop.config import ConfigError, TrainConfig
from wanact.models.masked_idm import RELEASED, load_masked_idm
from wanact.runs.ref import CHECKPOINTS
from wanact.runs.store import resolve


class MaskReader:
    """Reads the masks of clips.

    Args:
        path: what `--idm` names: a file as Vidar's idm.pt, a folder that `train idm_mask` exported, or a run of it.
        size: of the latent grid, (h, w).
        device: where it computes.

    Raises:
        wanact.models.idm.IDMError: if it holds no mask.
    """

    def __init__(self, path: Path, size: tuple[int, int], device: torch.device) -> None:
        self._model = load_masked_idm(resolve(path) if (path / CHECKPOINTS).is_dir() else path).to(device)
        self._model.requires_grad_(False)
        self._size = size
        self.fingerprint = module_fingerprint(self._model)

    def read(self, frames: np.ndarray) -> Tensor:
        """Where the body acts in a clip uint8 [F, H, W, 3]: float16 [1, T, h, w] in 0..1."""
        return self._model.get_mask(frames, self._size).half()


def masks_of(config: TrainConfig, size: tuple[int, int], device: torch.device) -> MaskReader | None:
    """What reads masks for a run, or None if its loss needs none."""
    return MaskReader(idm_path(config), size, device) if config.loss.embodiment_aware else None


def idm_path(config: TrainConfig) -> Path:
    """What `--idm` names, or the idm.pt beside the weights that the run starts from.

    Raises:
        ConfigError: if there is none.
    """
    if config.loss.idm:
        path = Path(config.loss.idm)
        if not path.exists():
            raise ConfigError(f"--idm {path} is missing")
        return path
    start = config.checkpoint.init_from
    beside = Path(start).parent / RELEASED if start else None
    if beside is None or not beside.is_file():
        raise ConfigError(
            "--embodiment_aware needs --idm FILE: an idm.pt, or what `python -m train idm_mask` wrote"
            + (f"; there is none beside {start}" if start else "")
        )
    return beside
