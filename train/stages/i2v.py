"""Image to video: the base model itself, in full or by a LoRA, from clips and captions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.loop.config import ConfigError, TrainConfig, named_in
from train.loop.legacy import ADAPTER, from_lora
from train.loop.seeding import derive_seed
from train.stages.flow import NO_LORA_CONFIG, FlowStage
from wanact.files import CheckpointError
from wanact.models.compiling import keep_apart_by_processor
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import LORA, TRANSFORMER

# Wan's and DiffSynth's names of a block's layers, and diffusers' for the same.
LORA_TARGETS = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}


LORA_SETTINGS = ("lora_target_modules", "lora_rank", "lora_checkpoint")
CONTROLLER_SETTINGS = (
    *("action_controller_config", "action_injection_type", "action_initial_scale", "action_controller_checkpoint"),
    *("action_magnitude_scale", "action_dropout"),
)


class I2VStage(FlowStage):
    """Train the transformer, with or without its text encoder, or a LoRA of it."""

    name = "i2v"
    refuses = dict.fromkeys(CONTROLLER_SETTINGS, "there is no controller")

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        for name in LORA_SETTINGS:
            if name in config.given and not uses_lora(config):
                raise ConfigError(f"--{name} has no effect without --lora_base_model transformer")
        if uses_lora(config) and config.model.trainable_models:
            raise ConfigError(
                "--lora_base_model trains a LoRA and nothing else; leave --trainable_models out, or train in full"
            )
        if config.model.frozen_layers:
            _check_frozen(config)
        if uses_lora(config) and config.checkpoint.export_model_dir:
            raise ConfigError(
                "--export_model_dir writes no LoRA; `python -m train merge-lora` makes a model directory of one"
            )

    def build(self) -> None:
        lora = uses_lora(self.config)
        trained = "transformer" in self.chosen and not lora
        self.transformer = self.load_transformer(trained)
        if lora:
            self._add_lora()
        elif trained:
            self.transformer.requires_grad_(True)
            self._freeze_layers()
        if lora or trained:
            self.modules["transformer"] = self.transformer
        if self.text_trained:
            encoder = self.load_parts("text_encoder", trained=True).text_encoder
            self.modules["text_encoder"] = encoder.requires_grad_(True)
        if self.config.model.compile_blocks:
            self._compile_blocks()

    def _freeze_layers(self) -> None:
        """Hold layers still that are named whole or by their last names: attn2, condition_embedder.text_embedder."""
        for layer in named_in(self.config.model.frozen_layers):
            modules = [m for name, m in self.transformer.named_modules() if f".{name}".endswith(f".{layer}")]
            if not modules:
                raise ConfigError(f"--frozen_layers {layer} is no layer of the transformer: attn1, attn2, ffn, ...")
            for module in modules:
                module.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.transformer.parameters()):
            raise ConfigError(f"--frozen_layers {self.config.model.frozen_layers} leaves nothing to train")

    def _compile_blocks(self) -> None:
        if self.processes.sharded:
            raise ConfigError("--compile_blocks compiles whole blocks and --fsdp splits them; leave one of them out")
        keep_apart_by_processor()
        for block in self.transformer.blocks:
            block.compile(dynamic=False)  # in place: parameters keep their names

    def _add_lora(self) -> None:
        from peft import LoraConfig

        model = self.config.model
        targets = lora_targets(model.lora_target_modules)
        with seeded(self.config.optim.seed, "lora"):
            self.transformer.add_adapter(
                LoraConfig(r=model.lora_rank, lora_alpha=model.lora_rank, target_modules=targets), ADAPTER
            )
        for name, parameter in self.transformer.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            if ".lora_" in name:
                parameter.data = parameter.data.float()
        if model.lora_checkpoint:
            self._load_lora(Path(model.lora_checkpoint))

    def _load_lora(self, path: Path) -> None:
        loaded = {name.removeprefix("transformer."): value for name, value in from_lora(path).items()}
        own = {name: p for name, p in self.transformer.named_parameters() if ".lora_" in name}
        wrong = [n for n in own if n not in loaded or loaded[n].shape != own[n].shape] or [
            n for n in loaded if n not in own
        ]
        if wrong:
            raise CheckpointError(
                f"--lora_checkpoint {path} does not fit rank {self.config.model.lora_rank} of "
                f"{self.config.model.lora_target_modules}: {wrong[0]}"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(loaded[name])

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        prefix = "transformer."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if uses_lora(self.config):
            return {LORA: {f"transformer.{name.replace(f'.{ADAPTER}.', '.')}": value for name, value in own.items()}}
        if not own:
            return {}
        dtype = getattr(torch, self.config.checkpoint.export_dtype)
        frozen = {n: p.detach().cpu() for n, p in self.transformer.named_parameters() if not p.requires_grad}
        return {TRANSFORMER: {name: value.to(dtype) for name, value in (frozen | own).items()}}

    def export_config(self) -> tuple[str, dict[str, Any]]:
        return RUN_CONFIG, self.run_config() | {"lora": lora_config(self.config)}


def _check_frozen(config: TrainConfig) -> None:
    if uses_lora(config):
        raise ConfigError("--frozen_layers has no effect on a LoRA; --lora_target_modules names what it changes")
    if "transformer" not in named_in(config.model.trainable_models or I2VStage.default_models):
        raise ConfigError("--frozen_layers has no effect where the transformer is not trained")
    if config.shard.fsdp:
        raise ConfigError("--frozen_layers: --fsdp splits what is trained alike; leave one of them out")
    if config.checkpoint.init_from:
        raise ConfigError("--frozen_layers keeps the model directory's layers, and --init_from brings others")


def uses_lora(config: TrainConfig) -> bool:
    return bool(config.model.lora_base_model)


def lora_targets(names: str) -> list[str]:
    """Layers that get an adapter, in diffusers' names, from either spelling."""
    targets = [LORA_TARGETS.get(name, name) for name in named_in(names)]
    if not targets:
        raise ConfigError("--lora_target_modules names no layer")
    return targets


def lora_config(config: TrainConfig) -> dict[str, Any]:
    """What action_train_config.json says of the LoRA, with layers in Wan's names as the plan's trainer has them."""
    if not uses_lora(config):
        return NO_LORA_CONFIG
    ours = {theirs: name for name, theirs in LORA_TARGETS.items()}
    targets = lora_targets(config.model.lora_target_modules)
    return {
        "lora_base_model": "dit",
        "lora_target_modules": ",".join(ours.get(name, name) for name in targets),
        "lora_rank": config.model.lora_rank,
        "lora_alpha": config.model.lora_rank,
    }


@contextlib.contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Draw initial weights from a seed, for libraries that take no generator; the global state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, purpose))
        yield
