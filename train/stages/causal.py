"""The causal world: a frame sees only what was before it, as a live flight needs.

Teacher forcing: one pass sees the clean clip and the noisy one, and every noisy frame sees itself and the clean frames
before it, which is what the flight will show it (`FrameView.teacher_forcing`). Every frame has a noise level of its
own. A flight sees three things that a clip from its start never shows, and options bring each into training:

- Frames far from the first one. `--late_share` of the steps take the first frame and then frames from the middle.
- Frames that the network has drawn itself, with its errors. `--own_history` of the steps replace the clean clip by one
  that the network draws, frame by frame and from its own history, out of the true clip under noise. The frames to be
  predicted stay true, so that errors are corrected rather than handed on (resampling, Guo et al. 2025,
  arXiv:2512.15702). `--history_noise` is the cheaper half of it.
- Few steps. `--student_steps` N teaches the velocities whose N steps end where many small ones of `--teacher_run` end:
  a flow map between the levels of a flight (progressive distillation, Salimans & Ho 2022, arXiv:2202.00512).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.loop.config import ConfigError, flag
from train.loop.seeding import Draw
from train.loop.stage import StepLoss
from train.stages.action import ActionStage
from train.stages.losses import flow_matching_loss
from wanact import flow
from wanact.files import load_weights
from wanact.flying.rollout import CausalRollout, CausalSettings
from wanact.models.controller import WanActionController
from wanact.models.kv_cache import FrameView
from wanact.models.transformer import WanActTransformer3DModel
from wanact.runs.store import CONTROLLER, TRANSFORMER, resolve

REDRAW_STEPS = 2  # that draw a frame of the network's own history
WARM_UP = 3  # frames after the first that only serve as history where a clip begins in the middle


@dataclass
class CausalOptions:
    """What a frame sees, and how many steps draw it."""

    _argument_group_name = "causal"

    window: int = flag(default=20, help="latent frames that a frame sees besides itself and the first")
    history_noise: float = flag(default=0.0, help="what a frame sees is blurred by noise up to this sigma")
    own_history: float = flag(default=0.0, help="share of steps whose history the network has drawn itself")
    late_share: float = flag(default=0.0, help="share of steps that go on from the middle of a clip")
    flight_steps: int | None = flag(
        default=None, help="steps that draw a latent frame of a flight; by default as many as a clip takes"
    )
    student_steps: int | None = flag(default=None, help="learn to draw a frame in so many steps, from --teacher_run")
    teacher_run: str | None = flag(default=None, help="causal run or checkpoint whose flights the student repeats")
    teacher_steps: int = flag(default=2, help="steps of the teacher for each of the student's")

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"--window {self.window} must be at least 1")
        if not 0 <= self.history_noise < 1:
            raise ConfigError(f"--history_noise {self.history_noise:g} must be at least 0 and below 1")
        for name in ("own_history", "late_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name} {getattr(self, name):g} must be at least 0 and at most 1")
        for name in ("flight_steps", "student_steps", "teacher_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} must be at least 1")
        if (self.student_steps is None) != (self.teacher_run is None):
            raise ConfigError("--student_steps and --teacher_run go together: a student needs a teacher")
        if self.flight_steps and self.student_steps:
            raise ConfigError("--flight_steps has no effect on a student, which flies with its --student_steps")


class CausalStage(ActionStage):
    """Train transformer and controller to draw each latent frame from those before it."""

    name = "causal"
    default_models = "action_controller,transformer"
    options = CausalOptions
    refuses = ActionStage.refuses | {
        "loss_weighting": "every frame has its own noise level here, and none is weighted",
        "first_frame_dropout": "every frame follows the first",
    }

    def build(self) -> None:
        super().build()
        self.settings: CausalOptions = self.config.stage
        self.teacher = self._load_teacher() if self.settings.teacher_run else None

    def _load_teacher(self) -> tuple[WanActTransformer3DModel, WanActionController]:
        assert self.settings.teacher_run is not None, "asked before this is called"
        folder = resolve(Path(self.settings.teacher_run))
        teacher = copy.deepcopy((self.transformer, self.controller))
        for network, file in zip(teacher, (TRANSFORMER, CONTROLLER), strict=True):
            network.load_state_dict(load_weights(folder / file))
            network.eval().requires_grad_(False)
        return teacher

    # Data

    def load(self, draws: list[Draw]) -> dict[str, Any]:
        """As for other flow stages, but sigma is [B, T].

        Beside it: `sigma_next` [B, T], where a student's step ends; `history_sigma` [B, T] and `history_noise` like
        the latents; `own_sigma` [B, 1], empty if this step's history is the data's; `late`, actions before the first.
        """
        frames, late = self._prefix(draws[0]), self._late(draws[0])
        batch = super().load(draws)
        if late:
            rows = [self.latents[draw.index]["latents"] for draw in draws]
            segments = [torch.cat([row[:, :1], row[:, late + 1 : late + frames]], dim=1) for row in rows]
            batch["latents"] = torch.stack(segments).float()
            whole = self.conditions(draws, late + frames)
            batch |= {name: value[:, late:] for name, value in whole.items()}
        shape = batch["latents"].shape[1:]

        def per_frame(purpose: str) -> Tensor:
            return torch.stack([torch.rand(shape[1], generator=draw.generator(purpose)) for draw in draws])

        sigma = sigma_next = self.sigmas.sigma(per_frame("frame_sigma"))
        if self.settings.student_steps:
            step = (per_frame("student_step") * self.settings.student_steps).long()
            sigma, sigma_next = self._grid[step], self._grid[step + 1]
        history_sigma = per_frame("history_sigma") * self.settings.history_noise
        for level in (sigma, sigma_next, history_sigma):
            level[:, 0] = 0.0
        noise = torch.stack([torch.randn(shape, generator=draw.generator("history")) for draw in draws])
        own = float(torch.rand((), generator=draws[0].step_generator("own_history"))) < self.settings.own_history
        own_sigma = torch.stack([torch.rand(1, generator=draw.generator("own_sigma")) for draw in draws])
        return batch | {
            "sigma": sigma,
            "sigma_next": sigma_next,
            "history_sigma": history_sigma,
            "history_noise": noise,
            "own_sigma": own_sigma if own else own_sigma[:0],
            "late": torch.tensor(self._place(draws[0]) if late else 0),
        }

    def _late(self, draw: Draw) -> int:
        """Latent frames that this step's clips leave out after the first: one number for the whole step."""
        most = self.num_latent_frames - self._prefix(draw)
        generator = draw.step_generator("late")
        late = float(torch.rand((), generator=generator)) < self.settings.late_share
        return int(torch.randint(1, most + 1, (), generator=generator)) if late and most > 0 else 0

    def _start(self, draw: Draw, frames: int) -> int:
        return 0 if self._late(draw) else super()._start(draw, frames)

    def _place(self, draw: Draw) -> int:
        """Place of such a clip's first action among the controller's: where it was, or beyond them all."""
        beyond = float(torch.rand((), generator=draw.step_generator("place"))) < 0.5
        return self.controller.config.num_latent_frames if beyond else self._late(draw)

    # Loss

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        latents, noise = batch["latents"], batch["noise"]
        context = self._context(batch)
        history, history_sigma = self._history(batch, context)
        noisy = flow.interpolate(latents, noise, _per_frame(batch["sigma"]))
        both = torch.cat([history, noisy], dim=2)
        timestep = 1000.0 * torch.cat([history_sigma, batch["sigma"]], dim=1)
        with self._offload():
            velocity = self.predict(both, timestep, context, batch)
        counted = torch.ones(len(latents), 1, latents.shape[2], 1, 1, device=latents.device)
        counted[:, :, : 1 + (min(WARM_UP, latents.shape[2] - 2) if batch["late"] else 0)] = 0
        weight = flow.loss_weight(batch["sigma"], self.prediction)
        if self.teacher is None:
            loss = flow_matching_loss(velocity, latents, noise, counted, weight)
        else:  # the velocity that leads where the teacher goes stands in for noise - latents
            target = self._teach(both, history_sigma, context, batch)
            loss = flow_matching_loss(velocity, torch.zeros_like(target), target, counted, weight)
        return StepLoss(loss, {"velocity_error": loss.detach()})

    def predict(
        self,
        both: Tensor,
        timestep: Tensor,
        context: Tensor,
        batch: dict[str, Any],
        networks: tuple[WanActTransformer3DModel, WanActionController] | None = None,
    ) -> Tensor:
        """Velocity [B, C, T, h, w] of the noisy clip that follows the clean one in `both`, [B, C, 2T, h, w]."""
        T = both.shape[2] // 2
        transformer, controller = networks or (self.transformer, self.controller)
        actions, late = (batch["binary"], batch["magnitude"]), int(batch.get("late", 0))
        prepared = transformer.prepare_actions(actions, controller, len(both), T, first=late or None)
        output = transformer(
            both,
            timestep,
            context,
            return_dict=False,
            actions=torch.cat([prepared, prepared], dim=controller.injection.frame_dim),
            controller=controller,
            view=FrameView.teacher_forcing(T, self.settings.window),
        )[0][:, :, T:]
        return self.velocity(output, both[:, :, T:], timestep[:, T:])

    @torch.no_grad()
    def _history(self, batch: dict[str, Any], context: Tensor) -> tuple[Tensor, Tensor]:
        """What the frames see, [B, C, T, h, w], and the noise in it that the network is told of, [B, T]."""
        latents, noise, sigma = batch["latents"], batch["history_noise"], batch["history_sigma"]
        if not len(batch["own_sigma"]):
            return flow.interpolate(latents, noise, _per_frame(sigma)), sigma
        first, level, late = latents[:, :, :1], batch["own_sigma"], int(batch["late"])
        rollout = CausalRollout(
            self.transformer, self.controller, context, first, [], self._settings, late, self.prediction
        )
        frames = [first]
        for t in range(1, latents.shape[2]):
            noisy = flow.interpolate(latents[:, :, t : t + 1], noise[:, :, t : t + 1], _per_frame(level))
            action = (batch["binary"][:, t - 1 : t], batch["magnitude"][:, t - 1 : t])
            frames.append(rollout.redraw(noisy, level, action, REDRAW_STEPS))
        return torch.cat(frames, dim=2), torch.zeros_like(sigma)

    @torch.no_grad()
    def _teach(self, both: Tensor, history_sigma: Tensor, context: Tensor, batch: dict[str, Any]) -> Tensor:
        """Velocity [B, C, T, h, w] of the straight way from each frame's level to where the teacher's steps end."""
        T, count = both.shape[2] // 2, self.settings.teacher_steps
        history, start = both[:, :, :T], both[:, :, T:]
        length = (batch["sigma"] - batch["sigma_next"]) / count
        moved = start
        for step in range(count):
            timestep = 1000.0 * torch.cat([history_sigma, batch["sigma"] - step * length], dim=1)
            both = torch.cat([history, moved], dim=2)
            moved = moved - _per_frame(length) * self.predict(both, timestep, context, batch, self.teacher).float()
        return (start - moved) / _per_frame(count * length).clamp_min(1e-6)  # the first frame's does not count

    # Results

    def _sample_latents(self, index: int) -> Tensor:
        """Flown, not denoised as a whole."""
        draw = Draw(index, index, 0, self.config.optim.seed, "sample")
        first = self.latents[index]["latents"][None, :, :1].float().to(self.device)
        batch = self.conditions([draw], self.num_latent_frames) | self._prompt_batch([self.prompt_of_row[index]])
        batch = {name: value.to(self.device) for name, value in batch.items()}
        noise = draw.generator("noise")
        steps = self.config.log.sample_inference_steps or self._settings.num_inference_steps
        with torch.no_grad(), self.processes.autocast():
            rollout = CausalRollout(
                self.transformer,
                self.controller,
                self._context(batch),
                first,
                self.inference_sigmas(steps).tolist(),
                self._settings,
                prediction=self.prediction,
            )
            frames = rollout.clip(
                (batch["binary"], batch["magnitude"]),
                self.num_latent_frames - 1,
                lambda: torch.randn(first.shape, generator=noise).to(self.device),
            )
            return torch.cat([first, *frames], dim=2)

    @property
    def _settings(self) -> CausalSettings:
        steps = self.settings.student_steps or self.settings.flight_steps or self.defaults["num_inference_steps"]
        return CausalSettings(self.settings.window, steps)

    @property
    def _grid(self) -> Tensor:
        """Noise levels of the student's steps, down to 0."""
        return self.inference_sigmas(self.settings.student_steps or 1)

    def export_config(self) -> tuple[str, dict[str, Any]]:
        name, config = super().export_config()
        return name, config | {"causal": asdict(self._settings)}


def _per_frame(values: Tensor) -> Tensor:
    """[B, T] -> [B, 1, T, 1, 1]; [B, 1] stands for all frames."""
    return values[:, None, :, None, None]
