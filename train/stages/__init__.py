"""One file a stage; `train/loop/stage.py` says what a stage is, and here each has its name on the command line."""

from __future__ import annotations

from importlib import import_module

from train.loop.stage import Stage
from wanact.errors import UserError

# Stage name -> "module:class". The module is imported when the stage is asked for.
STAGES = {
    "i2v": "train.stages.i2v:I2VStage",
    "action": "train.stages.action:ActionStage",
    "causal": "train.stages.causal:CausalStage",
    "vae": "train.stages.vae:VAEStage",
    "idm": "train.stages.idm:IDMStage",
}


def stage_class(name: str) -> type[Stage]:
    """Class of a stage by its command-line name.

    Raises:
        ValueError: for a name that is no stage.
    """
    if name not in STAGES:
        raise UserError(f"stage {name!r} is unknown; stages are {', '.join(STAGES)}")
    module, _, attribute = STAGES[name].partition(":")
    return getattr(import_module(module), attribute)
