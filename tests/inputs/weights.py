"""Weights as people bring them: what is done with each file, beside what should be.

A LoRA is laid on the tiny transformer of the tests, here and by stock diffusers, and one forward pass is compared.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from wanact.errors import UserError

Line = tuple[str, str, str, bool]
Look = Callable[[Path], tuple[str, bool]]


def lines(folder: Path) -> Iterator[Line]:
    """One line for each file of the folder that is known here."""
    for name, (should, look) in _WEIGHTS.items():
        if (folder / name).exists():
            done, agrees = look(folder / name)
            yield name, done, should, agrees


def _pointer(path: Path) -> tuple[str, bool]:
    """Every reader of weights says the same of it."""
    from wanact.files import check_safetensors, load_weights
    from wanact.weights.files import WeightFiles
    from wanact.weights.lora import read_lora

    said = set()
    for read in (load_weights, check_safetensors, lambda file: WeightFiles([file]), read_lora):
        try:
            read(path)
            said.add("read")
        except UserError as error:
            said.add(str(error).replace(f"{path.parent}/", ""))
    return "; ".join(sorted(said)), said == {f"{path.name} is a Git LFS pointer; fetch the file with git lfs pull"}


def _as_stock(path: Path) -> tuple[str, bool]:
    from tests.tiny_model import build_transformer
    from tests.weights.test_lora_stock import TOLERANCE, forward, stock
    from wanact.models.transformer import WanActTransformer3DModel
    from wanact.weights.finetuned import lay_on

    base = build_transformer()
    ours = WanActTransformer3DModel(**dict(base.config.items())).eval()
    ours.load_state_dict(base.state_dict())
    try:
        report = lay_on(ours, path)
    except UserError as error:
        return str(error).replace(f"{path.parent}/", ""), False
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = float((forward(ours) - forward(stock(path))).abs().max())
    logging.disable(logging.NOTSET)
    moved = float((forward(ours) - forward(base)).abs().max())
    passed = f", {report.unknown[0]} passed over" if report.unknown else ""
    done = f"laid on {report.matched} weights{passed}; one forward pass is {error:.1e} from stock diffusers'"
    return f"{done} (it changes by {moved:.1e})", error < TOLERANCE and moved > 100 * TOLERANCE


_WEIGHTS: dict[str, tuple[str, Look]] = {
    "lfs_pointer.safetensors": ("“is a Git LFS pointer; fetch the file with git lfs pull”", _pointer),
    "diffusers_alpha_in_header.safetensors": ("the strength that diffusers gives it, alpha / rank", _as_stock),
    "with_bias_diffs.safetensors": ("loaded as stock diffusers does", _as_stock),
}
