"""One file a stage; `train/loop/stage.py` says what a stage is, and here each has its name on the command line."""

from __future__ import annotations

from importlib import import_module

from train.loop.config import SECTIONS, ConfigError, TrainConfig
from train.loop.stage import Stage
from wanact.errors import UserError

# Stage name -> ("module:class", what it is for). The module is imported when the stage is asked for.
STAGES = {
    "i2v": ("train.stages.i2v:I2VStage", "train the base model or a LoRA"),
    "action": ("train.stages.action:ActionStage", "train the action controller"),
    "causal": (
        "train.stages.causal:CausalStage",
        "train a model that draws each latent frame from those before it, for live flight",
    ),
    "vidar": ("train.stages.vidar:VidarStage", "train the whole base model, as Vidar is (stage 1)"),
    "vidarc": ("train.stages.vidar:VidarcStage", "make it causal, as Vidarc is (stage 2), with or without actions"),
    "vae": ("train.stages.vae:VAEStage", "train a VAE"),
    "idm": ("train.stages.idm:IDMStage", "train an inverse dynamics model: from frames to actions"),
    "nearness": (
        "train.stages.nearness:NearnessStage",
        "train a network that sees how near everything is, for drafts of latent frames",
    ),
    "idm_mask": ("train.stages.idm_mask:IDMMaskStage", "train one with a mask of where the actions show (idm.pt)"),
}


def stage_class(name: str) -> type[Stage]:
    """Class of a stage by its command-line name.

    Raises:
        ValueError: for a name that is no stage.
    """
    if name not in STAGES:
        raise UserError(f"stage {name!r} is unknown; stages are {', '.join(STAGES)}")
    module, _, attribute = STAGES[name][0].partition(":")
    return getattr(import_module(module), attribute)


def refuse_unused(stage: type[Stage], config: TrainConfig) -> None:
    """Raise ConfigError for a setting that was given and has no effect in this stage; emptied flags are let through."""
    used = stage.used_settings()
    for section in SECTIONS:
        for name, value in vars(getattr(config, section)).items():
            if name in used or name not in config.given or value in (None, ""):
                continue
            users = [other for other in STAGES if name in stage_class(other).used_settings()]
            where = f", only in {', '.join(users)}" if users else ""
            why = f": {stage.refuses[name]}" if name in stage.refuses else ""
            raise ConfigError(f"--{name} has no effect in stage {stage.name}{where}{why}")
