"""How a large model is made to fit: options and their flags. Without torch, so that `--help` is quick."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields
from typing import Literal, get_args

from wanact.errors import UserError
from wanact.models.attention import Attention

Offload = Literal["none", "model", "group", "sequential"]


@dataclass(frozen=True)
class FitOptions:
    """How a model is made to fit.

    Attributes:
        offload: what waits in the CPU's memory: nothing; the networks that are not at work (model); all layers but the
            block at work (group); all layers but the one at work (sequential). Each takes less memory and more time.
        fp8: keep the transformer's linear layers in 8 bits and compute in the usual type: half the memory, softer.
        attention: kernel; auto takes the fastest there is. One that is missing is replaced by native, with a warning.
        vae_tiling: encode and decode large frames in tiles: a fraction of the memory, faint seams.
        compile: compile the transformer's block; the first clip then takes minutes.
        text_cache: folder of prompt embeddings; the text encoder is then loaded for new prompts only.
        small_decoder: weights of TAEHV for this VAE; previews then show what is being drawn in colour.
    """

    offload: Offload = "none"
    fp8: bool = False
    attention: Attention = "auto"
    vae_tiling: bool = False
    compile: bool = False
    text_cache: str | None = None
    small_decoder: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("offload", get_args(Offload)), ("attention", get_args(Attention))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")


NOTHING_SPECIAL = FitOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `FitOptions`."""
    group = parser.add_argument_group("fitting a large model")
    group.add_argument(
        "--offload", choices=get_args(Offload), default="none", help="what waits in the CPU's memory; less GPU memory"
    )
    group.add_argument("--fp8", action="store_true", help="the transformer's weights in 8 bits")
    attention = os.environ.get("WANACT_ATTENTION") or "auto"  # a Space sets it
    group.add_argument("--attention", choices=get_args(Attention), default=attention, help="attention kernel")
    group.add_argument("--vae_tiling", action="store_true", help="encode and decode large frames in tiles")
    group.add_argument("--compile", action="store_true", help="compile the transformer's block")
    group.add_argument(
        "--text_cache", metavar="DIR", help="keep prompt embeddings there, and the text encoder out of memory"
    )
    group.add_argument("--small_decoder", metavar="FILE", help="TAEHV's weights, for previews while a clip is drawn")


def options_of(args: argparse.Namespace) -> FitOptions:
    """What the flags of `add_arguments` say."""
    return FitOptions(**{f.name: getattr(args, f.name) for f in fields(FitOptions)})
