"""The action controller: eight drone controls a latent frame, on a frozen or a trained base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.loop import resume
from train.loop.config import ConfigError, TrainConfig
from train.loop.legacy import refuse_unknown_injection
from train.loop.seeding import Draw
from train.stages.flow import FlowStage, draw_fraction
from train.stages.i2v import LORA_SETTINGS, seeded
from wanact.files import CheckpointError, load_weights
from wanact.models.controller import ACTION_CONTROLLER_CONFIGS, WanActionController, controller_of
from wanact.models.injection import INJECTION_TYPES
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import CONTROLLER, TRANSFORMER
from wanact.weights.convert import convert
from wanact.weights.names import ConvertError

NO_LORA = (
    "a LoRA is not for action training, since learned together with the controller it would hide how much each of them "
    "does, and the controller could not be used without it; train the LoRA with `python -m train i2v`, merge it with "
    "`python -m train merge-lora`, and train the controller on that"
)


class ActionStage(FlowStage):
    """Train the controller; with `--trainable_models action_controller,transformer` the transformer as well."""

    name = "action"
    refuses = dict.fromkeys(("lora_base_model", *LORA_SETTINGS), NO_LORA) | {
        "compile_blocks": "each layer takes actions in its own way",
        "frozen_layers": "`python -m train i2v` holds layers still",
    }
    needs_actions = True
    known_models = ("action_controller", "transformer", "text_encoder")
    controller: WanActionController | None = None  # where nothing steers
    default_models = "action_controller"

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        controller_config(config)
        trained = config.model.trainable_models or cls.default_models
        if config.checkpoint.export_model_dir and not {"transformer", "text_encoder"} & set(trained.split(",")):
            raise ConfigError("--export_model_dir: nothing of the model directory is trained here, only the controller")

    def build(self) -> None:
        trained = "transformer" in self.chosen
        self.transformer = self.load_transformer(trained)
        if self.needs_actions:
            self._add_controller()
        if trained:
            self.modules["transformer"] = self.transformer.requires_grad_(True)
        if self.text_trained:
            encoder = self.load_parts("text_encoder", trained=True).text_encoder
            self.modules["text_encoder"] = encoder.requires_grad_(True)

    def _add_controller(self) -> None:
        settings = controller_config(self.config, self.transformer.config)
        with seeded(self.config.optim.seed, "action_controller"):
            controller = controller_of(settings)
        if self.config.model.action_controller_checkpoint:
            _load_controller(controller, Path(self.config.model.action_controller_checkpoint))
        # Parts that are not trained are exported all the same, as they are now.
        self._initial = {name: value.clone() for name, value in controller.state_dict().items()}
        self.controller = controller.to(self.device).train().requires_grad_("action_controller" in self.chosen)
        self.controller_settings = settings
        if "action_controller" in self.chosen:
            self.modules["action_controller"] = self.controller

    def conditions(self, draws: list[Draw], frames: int) -> dict[str, Tensor]:
        binary, magnitude = zip(*(self._controls(draw, frames) for draw in draws), strict=True)
        return {"binary": torch.from_numpy(np.stack(binary)), "magnitude": torch.from_numpy(np.stack(magnitude))}

    def _controls(self, draw: Draw, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Flags and scaled magnitudes [frames - 1, 8] of a sample; all zero where its actions are dropped."""
        track = self.rows[draw.index].track
        assert track is not None, "this stage reads rows with their actions"
        start = self._start(draw, frames)
        track = track.with_length(start + frames - 1)
        binary, magnitude = (x[start:] for x in track.to_model(self.config.model.action_magnitude_scale))
        kept = draw_fraction(draw, "action") >= self.config.loss.action_dropout
        return (binary, magnitude) if kept else (binary * 0, magnitude * 0)

    def predict(self, noisy: Tensor, timestep: Tensor, context: Tensor, batch: dict[str, Any]) -> Tensor:
        actions = (batch["binary"], batch["magnitude"])
        output = self.transformer(
            noisy, timestep, context, return_dict=False, actions=actions, controller=self.controller
        )[0]
        return self.velocity(output, noisy, timestep)

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        prefix = "action_controller."
        trained = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        files = {CONTROLLER: self._initial | trained}
        base = {n.removeprefix("transformer."): v for n, v in weights.items() if n.startswith("transformer.")}
        if base:
            dtype = getattr(torch, self.config.checkpoint.export_dtype)
            files[TRANSFORMER] = {name: value.to(dtype) for name, value in base.items()}
        return files

    def export_config(self) -> tuple[str, dict[str, Any]]:
        return RUN_CONFIG, self.run_config() | {
            "action_controller_config": self.controller_settings,
            "action_magnitude_scale": list(self.config.model.action_magnitude_scale),
            "injection_type": self.controller_settings["injection_type"],
        }


def controller_config(config: TrainConfig, transformer: Any = None) -> dict[str, Any]:
    """Arguments of the controller: a named configuration or a JSON object, and the flags over it.

    Args:
        transformer: configuration of the transformer, which must agree in width and layers; None to check names only.

    Raises:
        ConfigError: for an unknown name, or a controller that does not fit the transformer.
    """
    model = config.model
    name = model.action_controller_config
    if name is None:
        name = "wan_ti2v_5b" if transformer is None or transformer.num_layers == 30 else "nano"
    if name.lstrip().startswith("{"):
        try:
            settings = json.loads(name)
        except ValueError as error:
            raise ConfigError(f"--action_controller_config is not valid JSON: {error}") from error
    elif name in ACTION_CONTROLLER_CONFIGS:
        settings = dict(ACTION_CONTROLLER_CONFIGS[name])
    else:
        raise ConfigError(
            f"--action_controller_config {name!r} is unknown; choose from {', '.join(ACTION_CONTROLLER_CONFIGS)} "
            "or give a JSON object"
        )
    if model.action_injection_type is not None:
        if model.action_injection_type not in INJECTION_TYPES:
            raise ConfigError(
                f"--action_injection_type {model.action_injection_type!r} is unknown; "
                f"choose from {', '.join(INJECTION_TYPES)}"
            )
        settings["injection_type"] = model.action_injection_type
    if model.action_initial_scale is not None:
        settings["initial_scale"] = model.action_initial_scale
    if transformer is not None:
        width = transformer.num_attention_heads * transformer.attention_head_dim
        theirs = (settings.get("hidden_size"), settings.get("num_layers"))
        if theirs != (width, transformer.num_layers):
            raise ConfigError(
                f"--action_controller_config {name} is for a transformer of width {theirs[0]} and "
                f"{theirs[1]} layers; the model directory's has {width} and {transformer.num_layers}"
            )
    return settings


def _load_controller(controller: WanActionController, path: Path) -> None:
    refuse_unknown_injection(path)
    flag = f"--action_controller_checkpoint {path}"
    try:
        weights = controller.whole(convert("controller", load_weights(path), partial=True))
    except ConvertError as error:
        raise CheckpointError(f"{flag} is no action controller that is known here: {error}") from error
    problem = resume.mismatch(weights, {name: value.shape for name, value in controller.state_dict().items()})
    if problem:
        raise CheckpointError(f"{flag} does not fit: {problem}")
    controller.load_state_dict(weights)
