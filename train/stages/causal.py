"""The causal world: a frame sees only what was before it, as a live flight needs.

Teacher forcing: one pass sees the clean clip and the noisy one, and every noisy frame sees itself and the clean frames
before it, which is what the flight will show it (`FrameView.teacher_forcing`). Every frame has a noise level of its
own. The history a flight has drawn itself is never quite clean; `--history_noise` blurs the clean frames as well, and
says so to the network by their timestep.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.hf_argparser import HfArg

from train.config import ConfigError, TrainConfig
from train.losses import flow_matching_loss
from train.stages import Draw, StepLoss
from train.stages.action import ActionStage
from wanact import flow
from wanact.models.kv_cache import FrameView
from wanact.rollout import CausalRollout, CausalSettings


@dataclass
class CausalOptions:
    """What a frame sees."""

    _argument_group_name = "causal"

    window: int = HfArg(default=20, help="latent frames that a frame sees besides itself and the first")
    history_noise: float = HfArg(default=0.0, help="what a frame sees is blurred by noise up to this sigma")

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"--window {self.window} must be at least 1")
        if not 0 <= self.history_noise < 1:
            raise ConfigError(f"--history_noise {self.history_noise:g} must be at least 0 and below 1")


class CausalStage(ActionStage):
    """Train transformer and controller to draw each latent frame from those before it."""

    name = "causal"
    default_models = "action_controller,transformer"
    options = CausalOptions

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        if config.loss.loss_weighting != "none":
            raise ConfigError("--loss_weighting: every frame has its own noise level here, and none is weighted")

    def load(self, draws: list[Draw]) -> dict[str, Any]:
        """As for other flow stages, but sigma is [B, T]; and `history_sigma` [B, T], `history_noise` like latents."""
        batch = super().load(draws)
        shape = batch["latents"].shape[1:]

        def per_frame(purpose: str) -> Tensor:
            return torch.stack([torch.rand(shape[1], generator=draw.generator(purpose)) for draw in draws])

        sigma = self.sigmas.sigma(per_frame("frame_sigma"))
        history_sigma = per_frame("history_sigma") * self.config.stage.history_noise
        sigma[:, 0] = history_sigma[:, 0] = 0.0
        noise = torch.stack([torch.randn(shape, generator=draw.generator("history")) for draw in draws])
        return batch | {"sigma": sigma, "history_sigma": history_sigma, "history_noise": noise}

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        latents, noise = batch["latents"], batch["noise"]
        T = latents.shape[2]

        def blurred(noise: Tensor, sigma: Tensor) -> Tensor:
            return flow.interpolate(latents, noise, sigma[:, None, :, None, None])

        history = blurred(batch["history_noise"], batch["history_sigma"])
        both = torch.cat([history, blurred(noise, batch["sigma"])], dim=2)
        timestep = 1000.0 * torch.cat([batch["history_sigma"], batch["sigma"]], dim=1)
        with self._offload():
            velocity = self.predict(both, timestep, self._context(batch), batch)[:, :, T:]
        counted = torch.ones(len(latents), 1, T, 1, 1, device=latents.device)
        counted[:, :, 0] = 0
        loss = flow_matching_loss(velocity, latents, noise, counted)
        return StepLoss(loss, {"velocity_error": loss.detach()})

    def predict(self, noisy: Tensor, timestep: Tensor, context: Tensor, batch: dict[str, Any]) -> Tensor:
        """Velocity [B, C, 2T, h, w] of the clean clip and the noisy one after it."""
        T = noisy.shape[2] // 2
        actions = (batch["binary"], batch["magnitude"])
        prepared = self.transformer.prepare_actions(actions, self.controller, len(noisy), T)
        frames = 2 if prepared.ndim == 5 else 1  # keys and values lie before the batch
        return self.transformer(
            noisy,
            timestep,
            context,
            return_dict=False,
            actions=torch.cat([prepared, prepared], dim=frames),
            controller=self.controller,
            view=FrameView.teacher_forcing(T, self.config.stage.window),
        )[0]

    def _sample_latents(self, index: int) -> Tensor:
        """Flown, not denoised as a whole."""
        draw = Draw(index, index, 0, self.config.optim.seed, "sample")
        first = self.latents[index]["latents"][None, :, :1].float().to(self.device)
        batch = self.conditions([draw], self.num_latent_frames) | self._prompt_batch([self.prompt_of_row[index]])
        batch = {name: value.to(self.device) for name, value in batch.items()}
        noise = draw.generator("noise")
        with torch.no_grad(), self.processes.autocast():
            rollout = CausalRollout(
                self.transformer,
                self.controller,
                self._context(batch),
                first,
                flow.inference_sigmas(self._settings.num_inference_steps, self.defaults["flow_shift"]).tolist(),
                self._settings,
            )
            frames = rollout.clip(
                (batch["binary"], batch["magnitude"]),
                self.num_latent_frames - 1,
                lambda: torch.randn(first.shape, generator=noise).to(self.device),
            )
            return torch.cat([first, *frames], dim=2)

    @property
    def _settings(self) -> CausalSettings:
        steps = self.config.log.sample_inference_steps or self.defaults["num_inference_steps"]
        return CausalSettings(self.config.stage.window, steps)

    def export_config(self) -> tuple[str, dict[str, Any]]:
        name, config = super().export_config()
        return name, config | {"causal": asdict(self._settings)}
