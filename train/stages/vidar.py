"""Vidar and Vidarc: the plan's two stages, which are the base model's and the causal one with the paper's settings.

`vidar` trains the whole transformer on clips and words, `vidarc` makes it causal, and both end with one file of weights
in Wan's names. What the paper has in its table 5 is usual here (`usual`); sizes and rates of the data are the data's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.loop.config import ConfigError, TrainConfig
from train.loop.seeding import Draw
from train.stages.causal import CausalStage
from train.stages.i2v import CONTROLLER_SETTINGS, LORA_SETTINGS, I2VStage
from wanact.flying.rollout import Sampler
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import TRANSFORMER

# AdamW as in the paper's table 5, and checkpoints to go on from, of which the plan's files say nothing.
USUAL = {
    **{"learning_rate": 2e-5, "lr_warmup_steps": 200, "weight_decay": 0.1},
    **{"save_steps": 500, "save_full_state": True, "max_checkpoints": 2},
}

WHOLE = "the whole transformer is trained here; `python -m train i2v` trains a LoRA"


class VidarStage(I2VStage):
    """Train the whole transformer on clips and words: flow matching, no actions."""

    name = "vidar"
    usual = USUAL
    refuses = I2VStage.refuses | dict.fromkeys(("lora_base_model", "frozen_layers", *LORA_SETTINGS), WHOLE)

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        _require_transformer(config)


class VidarcStage(CausalStage):
    """Train the whole transformer to draw each latent frame from those before it; a controller with it, if asked for.

    `--trainable_models transformer,action_controller` steers by actions, as in stage `causal`.
    """

    name = "vidarc"
    usual = USUAL
    default_models = "transformer"
    usual_sampler: Sampler = "unipc"  # of Vidarc's own command, with guidance

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.needs_actions = "action_controller" in self.chosen

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        _require_transformer(config)
        if "action_controller" in (config.model.trainable_models or ""):
            return
        for name in CONTROLLER_SETTINGS:
            if name in config.given:
                raise ConfigError(f"--{name} has no effect without --trainable_models transformer,action_controller")

    def build(self) -> None:
        super().build()
        if self.flight_window < self.settings.window:
            self.processes.print(
                f"a flight will remember {self.flight_window} latent frames and not {self.settings.window}: clips of "
                f"{self._longest} show no longer history; --num_frames gives longer ones"
            )

    def conditions(self, draws: list[Draw], frames: int) -> dict[str, Tensor]:
        return super().conditions(draws, frames) if self.needs_actions else {}

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        if self.needs_actions:
            return super().export(weights)
        dtype = getattr(torch, self.config.checkpoint.export_dtype)
        prefix = "transformer."
        own = {n.removeprefix(prefix): v.to(dtype) for n, v in weights.items() if n.startswith(prefix)}
        return {TRANSFORMER: own}

    def export_config(self) -> tuple[str, dict[str, Any]]:
        if self.needs_actions:
            return super().export_config()
        return RUN_CONFIG, self.run_config() | self.causal_config()

    @property
    def flight_window(self) -> int:
        """No longer than what training shows: from the first latent frame to the newest it is one more."""
        return max(1, min(self.settings.window, self._longest - 2))

    @property
    def _longest(self) -> int:
        """Latent frames of the longest clip that is trained on."""
        return max(self.choices or [self.num_latent_frames])

    @property
    def _guidance(self) -> float:
        if self.settings.flight_guidance is not None or self.settings.is_few_steps:
            return super()._guidance  # few steps have the teacher's guidance in them, or none
        return float(self.defaults["guidance_scale"])


def _require_transformer(config: TrainConfig) -> None:
    chosen = config.model.trainable_models
    if chosen and "transformer" not in chosen.split(","):
        raise ConfigError(f"--trainable_models {chosen} leaves out the transformer, which this stage trains whole")
