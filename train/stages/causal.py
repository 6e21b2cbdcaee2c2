"""The causal world: a frame sees only what was before it, as a live flight needs.

Teacher forcing: one pass sees the clean clip and the noisy one, and every noisy frame sees itself and the clean frames
before it, which is what the flight will show it (`FrameView.teacher_forcing`). Every frame has a noise level of its
own. A flight sees four things that a clip from its start never shows, and options bring each into training:

- Frames far from the first one. `--late_share` of the steps take the first frame and then frames from the middle.
- Frames that the network has drawn itself, with its errors. `--own_history` of the steps replace the clean clip by one
  that the network draws, frame by frame and from its own history, out of the true clip under noise. The frames to be
  predicted stay true, so that errors are corrected rather than handed on (resampling, Guo et al. 2025,
  arXiv:2512.15702). `--history_noise` is the cheaper half of it.
- Long histories. `--chunk_size` N predicts N frames of a step's clip, at any place in it, and what goes before them is
  history alone: every length of the cache that clips of this length have, and no more tokens for it.
- A beginning nearer than noise. `--draft_noise` adds the noise that a frame is drawn from to a draft of it: the last
  picture, moved as the camera moves (`wanact.flying.draft`).
- Few steps. `--student_steps` N teaches the velocities whose N steps end where many small ones of `--teacher_run` end:
  a flow map between the levels of a flight (progressive distillation, Salimans & Ho 2022, arXiv:2202.00512). With
  `--flight_sampler consistency` each of the N levels leads to the end, where the teacher's steps from it do.

`self_forcing.py` has what learns from rollouts instead of one pass.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train.loop import resume
from train.loop.config import ConfigError, TrainConfig, flag
from train.loop.seeding import Draw, derive_seed
from train.loop.stage import StepLoss
from train.stages.action import ActionStage
from train.stages.losses import flow_matching_loss
from train.stages.self_forcing import (
    CRITIC,
    GENERATOR,
    MATCHING_SETTINGS,
    MATCHING_STEPS,
    SCORE_SIGMAS,
    Predicted,
    Score,
    SelfForcingOptions,
    at_level,
    drawn_clip,
    frame_noise,
    matching_loss,
    predicted_velocities,
)
from wanact import flow
from wanact.errors import UserError
from wanact.files import CheckpointError, load_weights
from wanact.flying.draft import Drafter, DraftSettings
from wanact.flying.request import MAX_GUIDANCE
from wanact.flying.rollout import CausalRollout, CausalSettings, Sampler, says_causal
from wanact.models.controller import WanActionController, controller_of
from wanact.models.kv_cache import FrameView, Kernel, RolloutCache
from wanact.models.transformer import Actions, WanActTransformer3DModel
from wanact.runs.ref import read_config
from wanact.runs.store import CONTROLLER, TRANSFORMER, resolve
from wanact.weights.finetuned import said_causal

CRITIC_CONTROLLER = "critic_controller"
REDRAW_STEPS = 2  # that draw a frame of the network's own history
WARM_UP = 3  # frames after the first that only serve as history where a clip begins in the middle


@dataclass
class CausalOptions(SelfForcingOptions):
    """What a frame sees, and how many steps draw it."""

    _argument_group_name = "causal"

    window: int = flag(default=20, help="latent frames that a frame sees besides itself and the first")
    history_noise: float = flag(default=0.0, help="what a frame sees is blurred by noise up to this sigma")
    own_history: float = flag(default=0.0, help="share of steps whose history the network has drawn itself")
    late_share: float = flag(default=0.0, help="share of steps that go on from the middle of a clip")
    chunk_size: int | None = flag(
        default=None, help="latent frames that a step predicts, anywhere in its clip; all but the first if not given"
    )
    causal_attention: Kernel = flag(
        default="auto", help="flex masks by blocks, dense token by token; auto is flex on a GPU"
    )
    flight_sampler: Sampler | None = flag(
        default=None, help="draws a flight's latent frames: euler, consistency or unipc; the stage's own if not given"
    )
    flight_guidance: float | None = flag(
        default=None, help="classifier-free guidance of flights, 1 for none; the stage's own if not given"
    )
    flight_steps: int | None = flag(
        default=None, help="steps that draw a latent frame of a flight; by default as many as a clip takes"
    )
    student_steps: int | None = flag(default=None, help="learn to draw a frame in so many steps, from --teacher_run")
    teacher_run: str | None = flag(default=None, help="causal run or checkpoint whose flights the student repeats")
    teacher_steps: int = flag(default=2, help="steps of the teacher for each of the student's")
    draft_noise: float | None = flag(
        default=None, help="draw frames from drafts with so much noise, not from noise alone (a lapped autoencoder's)"
    )
    draft_sees: bool = flag(
        default=False, help="drafts see how near things are, by the model directory's network (stage nearness)"
    )
    draft_trust: float = flag(
        default=0.0, help="share of a draft that stays where it knows what is there; the rest is learned the more"
    )
    draft_mirrors: bool = flag(
        default=False, help="drafts mirror what was seen for what comes into view at the sides, instead of noise"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ConfigError(f"--window {self.window} must be at least 1")
        if not 0 <= self.history_noise < 1:
            raise ConfigError(f"--history_noise {self.history_noise:g} must be at least 0 and below 1")
        for name in ("own_history", "late_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name} {getattr(self, name):g} must be at least 0 and at most 1")
        for name in ("chunk_size", "flight_steps", "student_steps", "teacher_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} must be at least 1")
        if (self.student_steps is None) != (self.teacher_run is None):
            raise ConfigError("--student_steps and --teacher_run go together: a student needs a teacher")
        if self.flight_guidance is not None and not 1 <= self.flight_guidance <= MAX_GUIDANCE:
            raise ConfigError(f"--flight_guidance {self.flight_guidance:g} must be from 1 to {MAX_GUIDANCE:g}")
        if self.draft_noise is not None and not 0 <= self.draft_noise <= 1:
            raise ConfigError(f"--draft_noise {self.draft_noise:g} must be from 0 to 1")
        for name in ("draft_sees", "draft_trust", "draft_mirrors"):
            if getattr(self, name) and self.draft_noise is None:
                raise ConfigError(f"--{name} has no effect without --draft_noise")
        if not 0 <= self.draft_trust < 1:
            raise ConfigError(f"--draft_trust {self.draft_trust:g} must be at least 0 and below 1")
        if self.draft_noise is not None and self.teacher_run:
            raise ConfigError("--draft_noise is for a run of its own; a student draws from what its teacher draws from")
        if self.flight_steps and self.student_steps:
            raise ConfigError("--flight_steps has no effect on a student, which flies with its --student_steps")
        if self.is_few_steps and self.flight_sampler == "unipc":
            raise ConfigError("--flight_sampler unipc is no sampler of few steps; choose euler or consistency")
        if self.distribution_matching and self.draft_noise is not None:
            raise ConfigError(
                "--draft_noise has no effect beside --distribution_matching, whose clips are drawn from noise alone"
            )
        for name in ("own_history", "history_noise", "student_steps"):
            if self.rolls_out and getattr(self, name):
                rolls = "distribution_matching" if self.distribution_matching else "commit"
                raise ConfigError(f"--{name} has no effect beside --{rolls}, whose rollouts have their own history")
        if self.distribution_matching and self.late_share:
            raise ConfigError("--late_share cuts clips, and --distribution_matching compares whole ones; leave it out")
        if self.distribution_matching and (self.flight_guidance or 1.0) > 1:
            raise ConfigError(
                f"--flight_guidance {self.flight_guidance:g} has no effect on --distribution_matching, which learns "
                "clips that are guided already by --real_guidance"
            )

    @property
    def is_few_steps(self) -> bool:
        """Whether what is trained draws a frame in the steps that it was trained for."""
        return self.student_steps is not None or self.distribution_matching


Networks = tuple[WanActTransformer3DModel, WanActionController | None]


class CausalStage(ActionStage):
    """Train transformer and controller to draw each latent frame from those before it."""

    name = "causal"
    default_models = "action_controller,transformer"
    is_masked = True
    options = CausalOptions
    usual_sampler: Sampler = "euler"
    refuses = ActionStage.refuses | {
        "loss_weighting": "every frame has its own noise level here, and none is weighted",
        "first_frame_dropout": "every frame follows the first",
    }

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.settings: CausalOptions = config.stage
        if self.settings.distribution_matching:
            self.phases = (CRITIC, GENERATOR)  # the critic first: it has learned what it judges
            self.starts_itself = (CRITIC, CRITIC_CONTROLLER)

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        super().check(config)
        settings: CausalOptions = config.stage
        if not settings.distribution_matching:
            for name in MATCHING_SETTINGS:
                if name in config.given:
                    raise ConfigError(f"--{name} has no effect without --distribution_matching true")
            return
        trained = config.model.trainable_models or cls.default_models
        if "text_encoder" in trained:
            raise ConfigError("--distribution_matching: the text encoder serves three networks and stays as it is")
        if config.loss.embodiment_aware:
            raise ConfigError(
                "--embodiment_aware: clips that are drawn have no mask; --distribution_matching has no eta"
            )
        if not config.checkpoint.init_from:
            raise ConfigError(
                "--distribution_matching goes on from a causal student of few steps (--student_steps): give it as "
                "--init_from (--pt_dir)"
            )
        if not config.checkpoint.save_full_state:
            raise ConfigError("--distribution_matching needs --save_full_state true: a critic is no critic without it")
        if "action_controller" in trained and not settings.real_run:
            raise ConfigError(
                "--distribution_matching with a controller needs --real_run, whose whole clips obey actions; the model "
                "directory's obey none"
            )
        if settings.real_run and _draws_frame_by_frame(Path(settings.real_run)):
            raise ConfigError(f"--real_run {settings.real_run} draws frame by frame; give one that draws whole clips")

    def build(self) -> None:
        super().build()
        self.teacher = self._load_teacher() if self.settings.teacher_run else None
        self.drafter = self._make_drafter()
        if self.settings.distribution_matching:
            self._build_scores()

    def _make_drafter(self) -> Drafter | None:
        settings = self._settings.draft
        if settings is None or self.controller is None:
            return None
        parts = self.load_parts("vae")
        return Drafter(parts.vae.eval(), settings, self.config.model.action_magnitude_scale, parts.nearness)

    def _build_scores(self) -> None:
        """The critic, which is trained, and the real score, which it starts from."""
        critic = self.load_parts("transformer", trained=True).transformer
        controller = None if self.controller is None else controller_of(self.controller_settings).to(self.device)
        real = self.load_parts("transformer", sharded=False).transformer
        if self.settings.real_run:
            self._load_real(critic, controller)
            real.load_state_dict(critic.state_dict())
        frozen = None if controller is None else copy.deepcopy(controller).eval().requires_grad_(False)
        self.real = Score(real.eval(), frozen, self.prediction)
        self.critic = Score(critic.requires_grad_(True), controller, self.prediction)
        self.modules[CRITIC] = critic
        if controller is not None:
            self.modules[CRITIC_CONTROLLER] = controller.train()

    def _load_real(self, transformer: WanActTransformer3DModel, controller: WanActionController | None) -> None:
        """Put the weights of `--real_run` in; a run that trained a controller alone leaves the transformer as it is."""
        assert self.settings.real_run is not None, "asked before this is called"
        path = Path(self.settings.real_run)
        if not path.exists():
            raise ConfigError(f"--real_run {path} is missing")
        held = {f"transformer.{name}": value for name, value in transformer.state_dict(keep_vars=True).items()}
        if controller is not None:
            self._require_same_steering(path)
            used = {name: value for name, value in controller.named_parameters() if value.requires_grad}
            held |= {f"action_controller.{name}": value for name, value in used.items()}
        weights = resume.init_weights(path, {name: value.shape for name, value in held.items()}, "--real_run")
        in_whole = any(name.startswith("transformer.") for name in weights)
        for name in held:
            if name not in weights and (in_whole or not name.startswith("transformer.")):
                raise CheckpointError(f"--real_run {path} has no {name}, by which clips are drawn here")
        with torch.no_grad():
            for name, value in weights.items():
                held[name].copy_(value)

    def _require_same_steering(self, path: Path) -> None:
        said, own = read_config(path).get("action_controller_config"), self.controller_settings["injection_type"]
        if isinstance(said, dict) and said.get("injection_type", own) != own:
            raise CheckpointError(
                f"--real_run {path} is steered by {said['injection_type']}, this run by {own}; give it the same "
                "--action_injection_type"
            )

    def networks(self) -> list[tuple[WanActTransformer3DModel, bool]]:
        whole = [self.critic, self.real] if self.settings.distribution_matching else []
        return [*super().networks(), *((score.transformer, False) for score in whole)]

    def shard_units(self) -> list[nn.Module]:
        own = [*self.critic.transformer.blocks] if self.settings.distribution_matching else []
        return [*super().shard_units(), *own]

    # Phases

    def phase_modules(self, phase: str) -> list[str]:
        if phase == "main":
            return super().phase_modules(phase)
        return [name for name in self.modules if (name in self.starts_itself) == (phase == CRITIC)]

    def runs(self, phase: str, step: int) -> bool:
        return phase != GENERATOR or (step + 1) % self.settings.generator_every == 0

    def rate_factor(self, phase: str) -> float:
        return self.settings.critic_rate if phase == CRITIC else 1.0

    def averaged_modules(self) -> list[str]:
        return [name for name in self.modules if name not in self.starts_itself]

    @property
    def reads_in_parts(self) -> bool:
        return self.settings.teacher_run is None  # a teacher begins as a copy

    def _load_teacher(self) -> Networks:
        assert self.settings.teacher_run is not None, "asked before this is called"
        folder = resolve(Path(self.settings.teacher_run))
        teacher = copy.deepcopy((self.transformer, self.controller))
        for network, file in zip(teacher, (TRANSFORMER, CONTROLLER), strict=True):
            if network is None:
                continue
            weights = load_weights(folder / file)
            network.load_state_dict(network.whole(weights) if isinstance(network, WanActionController) else weights)
            network.eval().requires_grad_(False)
        return teacher

    # Data

    def load(self, draws: list[Draw]) -> dict[str, Any]:
        """As for other flow stages, but sigma is [B, T].

        Beside it: `sigma_next` [B, T], where a student's step ends; `history_sigma` [B, T] and `history_noise` like
        the latents; `own_sigma` [B, 1], empty if this step's history is the data's; `late`, actions before the first;
        `predicted`, the first latent frame that is predicted and the one after the last. For distribution matching
        what `_matching_draws` gives.
        """
        frames, late = self._prefix(draws[0]), self._late(draws[0])
        batch = super().load(draws)
        if late:
            rows = [self.latents[draw.index]["latents"] for draw in draws]
            segments = [torch.cat([row[:, :1], row[:, late + 1 : late + frames]], dim=1) for row in rows]
            batch["latents"] = torch.stack(segments).float()
            batch |= self.emphasis(draws, frames, late)
            whole = self.conditions(draws, late + frames)
            batch |= {name: value[:, late:] for name, value in whole.items()}
        shape = batch["latents"].shape[1:]

        def per_frame(purpose: str) -> Tensor:
            return torch.stack([torch.rand(shape[1], generator=draw.generator(purpose)) for draw in draws])

        sigma = sigma_next = self.sigmas.sigma(per_frame("frame_sigma"))
        if self.settings.student_steps:
            step = (per_frame("student_step") * self.settings.student_steps).long()
            sigma = self._grid[step]
            sigma_next = torch.zeros_like(sigma) if self._to_the_end else self._grid[step + 1]
        history_sigma = per_frame("history_sigma") * self.settings.history_noise
        for level in (sigma, sigma_next, history_sigma):
            level[:, 0] = 0.0
        noise = torch.stack([torch.randn(shape, generator=draw.generator("history")) for draw in draws])
        own = float(torch.rand((), generator=draws[0].step_generator("own_history"))) < self.settings.own_history
        own_sigma = torch.stack([torch.rand(1, generator=draw.generator("own_sigma")) for draw in draws])
        if self.settings.distribution_matching:
            batch |= self._matching_draws(draws, shape)
        return (
            batch
            | {
                "predicted": self._predicted(draws[0], shape[1], bool(late)),
                "sigma": sigma,
                "sigma_next": sigma_next,
                "history_sigma": history_sigma,
                "history_noise": noise,
                "own_sigma": own_sigma if own else own_sigma[:0],
                "late": torch.tensor(self._place(draws[0]) if late else 0),
            }
            | self._beginnings(draws, frames, late)
        )

    def _beginnings(self, draws: list[Draw], frames: int, late: int) -> dict[str, Tensor]:
        """The camera's `place` in each sample's first frame, [B, 4], for drafts; nothing without."""
        if self.drafter is None:
            return {}
        place = self.drafter.start(len(draws), "cpu")
        for number, draw in enumerate(draws):
            track = self.rows[draw.index].track
            assert track is not None, "this stage reads rows with their actions"
            before = late + self._start(draw, frames)
            _, magnitude = track.with_length(max(before, 1)).to_model(self.config.model.action_magnitude_scale)
            for action in torch.from_numpy(magnitude)[:before]:
                own = slice(number, number + 1)
                place[own] = self.drafter.moved(place[own], action[None, None])
        return {"place": place}

    def _matching_draws(self, draws: list[Draw], shape: torch.Size) -> dict[str, Any]:
        """What belongs to each phase: noise of the scores, like the latents, and its level [B]; seeds of the rollouts'
        noise; and the step that the frames of this step's rollouts end with, the same for all samples."""
        drawn: dict[str, Any] = {}
        for phase in self.phases:
            own = [draw.generator(f"{phase}_score") for draw in draws]
            uniform = torch.stack([torch.rand((), generator=generator) for generator in own])
            shared, steps = draws[0].step_generator(f"{phase}_last_step"), self._settings.num_inference_steps
            drawn |= {
                f"{phase}_sigma": self.sigmas.sigma(uniform).clamp(*SCORE_SIGMAS),
                f"{phase}_noise": torch.stack([torch.randn(shape, generator=generator) for generator in own]),
                f"{phase}_seeds": [derive_seed(d.seed, d.stage, d.position, f"{phase}_rollout") for d in draws],
                f"{phase}_last_step": int(torch.randint(steps, (), generator=shared)),
            }
        return drawn

    def _predicted(self, draw: Draw, frames: int, late: bool) -> tuple[int, int]:
        """The chunk of this step: one for the whole step."""
        size = self.settings.chunk_size
        if size is None or size >= frames:
            return 0, frames
        last = frames - size
        first = min(_uncounted(frames, late), last)
        start = int(torch.randint(first, last + 1, (), generator=draw.step_generator("chunk")))
        return start, start + size

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
        if self.controller is None:
            return self._late(draw)
        beyond = float(torch.rand((), generator=draw.step_generator("place"))) < 0.5
        return self.controller.config.num_latent_frames if beyond else self._late(draw)

    # Loss

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        if phase != "main":
            return self._matching_loss(batch, phase)
        start, stop = batch["predicted"]
        context = self._context(batch)
        latents, sigma = batch["latents"][:, :, start:stop], batch["sigma"][:, start:stop]
        frames = batch["latents"].shape[2]
        counted = torch.ones(len(latents), 1, frames, 1, 1, device=latents.device)
        counted[:, :, : _uncounted(frames, bool(batch["late"]))] = 0
        counted, weight = counted[:, :, start:stop], flow.loss_weight(sigma, self.prediction)
        emphasis = batch["emphasis"][:, :, start:stop] if "emphasis" in batch else None
        if self.settings.commit:
            velocity, noise, shows = self._rolled_out(batch, context)
            loss = flow_matching_loss(velocity, latents, noise, counted, weight, _times(emphasis, shows))
            return StepLoss(loss, {"velocity_error": loss.detach()})
        history, history_sigma, source, shows = self._history(batch, context)
        emphasis = _times(emphasis, None if shows is None else shows[:, :, start:stop])
        noise = source[:, :, start:stop]
        noisy = flow.interpolate(latents, noise, _per_frame(sigma))
        both = torch.cat([history[:, :, :stop], noisy], dim=2)
        timestep = 1000.0 * torch.cat([history_sigma[:, :stop], sigma], dim=1)
        with self._offload():
            velocity = self.predict(both, timestep, context, batch)
        if self.teacher is None:
            loss = flow_matching_loss(velocity, latents, noise, counted, weight, emphasis)
        else:  # the velocity that leads where the teacher goes stands in for noise - latents
            target = self._teach(both, timestep, context, batch)
            loss = flow_matching_loss(velocity, torch.zeros_like(target), target, counted, weight, emphasis)
        return StepLoss(loss, {"velocity_error": loss.detach()})

    def _rolled_out(self, batch: dict[str, Any], context: Tensor) -> Predicted:
        """The predicted frames, each after what the rollout has remembered."""
        (start, stop), commit = batch["predicted"], self.settings.commit
        assert commit is not None, "asked before this is called"
        latents = batch["latents"][:, :, :stop]
        rollout = self._rollout(batch, context, self.drafter)
        with self._offload():
            return predicted_velocities(
                rollout,
                latents,
                batch["noise"][:, :, start:stop],
                batch["sigma"][:, start:stop],
                lambda frame: self._action(batch, frame),
                start,
                commit,
                self.settings.grad_frames,
                given=_uncounted(batch["latents"].shape[2], bool(batch["late"])),
            )

    def _matching_loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        """The critic learns what the network draws; the network goes where the real score differs from the critic."""
        start, stop = batch["predicted"]
        learns, start = phase == GENERATOR, max(1, start)
        context = self._context(batch)
        latents = batch["latents"]
        with torch.set_grad_enabled(learns), self._offload():
            clip = drawn_clip(
                self._rollout(batch, context),
                latents[:, :, :start],
                stop,
                lambda frame: self._action(batch, frame),
                frame_noise(batch[f"{phase}_seeds"], latents[0, :, :1].shape, latents.device),
                batch[f"{phase}_last_step"],
                self.settings.grad_frames,
            )
        counted = torch.zeros(len(clip), 1, stop, 1, 1, device=clip.device)
        counted[:, :, max(start, stop - (self.settings.grad_frames or stop)) if learns else start :] = 1
        noise, sigma = batch[f"{phase}_noise"][:, :, :stop], batch[f"{phase}_sigma"]
        noisy = at_level(clip.detach(), noise, sigma)
        actions = None
        if self.controller is not None:
            actions = batch["binary"][:, : stop - 1], batch["magnitude"][:, : stop - 1]
        if not learns:
            velocity = self.critic.velocity(noisy, sigma, context, actions)
            weight = flow.loss_weight(sigma, self.prediction)[:, None].expand(-1, stop)
            return StepLoss(flow_matching_loss(velocity, clip, noise, counted, weight))
        with torch.no_grad():
            without = self._prompt_batch([self.no_prompt])["context"].to(context).expand_as(context)
            asked = (noisy, sigma, context, actions, without)
            real = self.real.clean(*asked, self.settings.real_guidance)
            fake = self.critic.clean(*asked, self.settings.fake_guidance)
        loss, step = matching_loss(clip, real, fake, counted)
        return StepLoss(loss, {"matching_step": step})

    def _rollout(self, batch: dict[str, Any], context: Tensor, drafter: Drafter | None = None) -> CausalRollout:
        """A flight from the first frame, whose frames may be learned from."""
        # Once for all passes; FSDP gathers weights where `forward` is called, and nowhere else.
        text = context if self.processes.sharded else self.transformer.prepare_text(context)
        return CausalRollout(
            self.transformer,
            self.controller,
            text,
            batch["latents"][:, :, :1],
            self.inference_sigmas(self._settings.num_inference_steps).tolist(),
            self._settings,
            int(batch["late"]),
            self.prediction,
            drafter=drafter,
            cache=RolloutCache,
            place=None if drafter is None else batch["place"],
        )

    def predict(
        self,
        both: Tensor,
        timestep: Tensor,
        context: Tensor,
        batch: dict[str, Any],
        networks: Networks | None = None,
    ) -> Tensor:
        """Velocity of the noisy frames [B, C, n, h, w], a chunk or all, that follow the clean ones in `both`."""
        start, stop = batch["predicted"]
        transformer, controller = networks or (self.transformer, self.controller)
        actions = None
        if controller is not None:
            late = int(batch["late"]) or None
            track = batch["binary"][:, : stop - 1], batch["magnitude"][:, : stop - 1]
            prepared = transformer.prepare_actions(track, controller, len(both), stop, first=late)
            dim = controller.injection.frame_dim
            actions = torch.cat([prepared, prepared.narrow(dim, start, stop - start)], dim=dim)
        view = FrameView.teacher_forcing(stop, self.settings.window, range(start, stop), self.settings.causal_attention)
        output = transformer(
            both, timestep, context, return_dict=False, actions=actions, controller=controller, view=view
        )[0][:, :, stop:]
        return self.velocity(output, both[:, :, stop:], timestep[:, stop:])

    @torch.no_grad()
    def _history(self, batch: dict[str, Any], context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What the frames see, [B, C, T, h, w], the noise in it that the network is told of, [B, T], what they are
        drawn from, [B, C, T, h, w]: noise, or noise on their drafts; and how much of what is drawn will be seen,
        [B, 1, T, h, w], None for all of it."""
        latents, noise, sigma = batch["latents"], batch["history_noise"], batch["history_sigma"]
        if not len(batch["own_sigma"]):
            history = flow.interpolate(latents, noise, _per_frame(sigma))
            return history, sigma, *self._drafted(batch, history)
        first, level, late = latents[:, :, :1], batch["own_sigma"], int(batch["late"])
        rollout = CausalRollout(
            *(self.transformer, self.controller, context, first, [], self._settings, late, self.prediction),
            drafter=self.drafter,
            place=None if self.drafter is None else batch["place"],
        )
        frames, sources, shows = [first], [batch["noise"][:, :, :1]], [torch.ones_like(first[:, :1])]
        for t in range(1, latents.shape[2]):
            true, action = latents[:, :, t : t + 1], self._action(batch, t)
            source, other = noise[:, :, t : t + 1], batch["noise"][:, :, t : t + 1]
            if self.drafter is not None:
                if t < _uncounted(latents.shape[2], bool(late)):  # no picture leads there, and it does not count
                    rollout.commit(true, action)
                    frames.append(true)
                    sources.append(other)
                    shows.append(shows[0])
                    continue
                draft = rollout.draft(action)
                source, other = draft.under(source), draft.under(other)
                shows.append(1 - draft.latent_stays)
            sources.append(other)
            noisy = flow.interpolate(true, source, _per_frame(level))
            frames.append(rollout.redraw(noisy, level, action, REDRAW_STEPS))
        drafted = None if self.drafter is None else torch.cat(shows, dim=2)
        return torch.cat(frames, dim=2), torch.zeros_like(sigma), torch.cat(sources, dim=2), drafted

    def _drafted(self, batch: dict[str, Any], history: Tensor) -> tuple[Tensor, Tensor | None]:
        """What frames are drawn from that follow this history, [B, C, T, h, w], and how much of them will be seen."""
        if self.drafter is None:
            return batch["noise"], None
        sources, place = [batch["noise"][:, :, :1]], batch["place"]
        shows = [torch.ones_like(history[:, :1, :1])]
        for t in range(1, history.shape[2]):
            magnitude = batch["magnitude"][:, t - 1 : t]
            last = self.drafter.sight(self.drafter.picture(history[:, :, t - 1 : t]), place)
            draft = self.drafter(last, magnitude)
            sources.append(draft.under(batch["noise"][:, :, t : t + 1]))
            shows.append(1 - draft.latent_stays)
            place = self.drafter.moved(place, magnitude)
        return torch.cat(sources, dim=2), torch.cat(shows, dim=2)

    def _action(self, batch: dict[str, Any], frame: int) -> Actions | None:
        """What leads to a latent frame; None where nothing steers."""
        if self.controller is None:
            return None
        return batch["binary"][:, frame - 1 : frame], batch["magnitude"][:, frame - 1 : frame]

    @torch.no_grad()
    def _teach(self, both: Tensor, timestep: Tensor, context: Tensor, batch: dict[str, Any]) -> Tensor:
        """Velocity [B, C, n, h, w] of the straight way from each frame's level to where the teacher's steps end."""
        (first, stop), count = batch["predicted"], self.settings.teacher_steps
        if self._to_the_end:  # as many small steps as the student's would take together
            count *= self.settings.student_steps or 1
        sigma, sigma_next = batch["sigma"][:, first:stop], batch["sigma_next"][:, first:stop]
        history, start = both[:, :, :stop], both[:, :, stop:]
        length = (sigma - sigma_next) / count
        moved = start
        for step in range(count):
            times = torch.cat([timestep[:, :stop], 1000.0 * (sigma - step * length)], dim=1)
            both = torch.cat([history, moved], dim=2)
            moved = moved - _per_frame(length) * self.predict(both, times, context, batch, self.teacher).float()
        return (start - moved) / _per_frame(count * length).clamp_min(1e-6)  # the first frame's does not count

    def self_check(self) -> list[str]:
        """That no frame's velocity knows what comes after it."""
        batch = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in self.load([Draw(0, 0, 0, self.config.optim.seed, "check")]).items()
        }
        start, stop = batch["predicted"]
        both = torch.cat([batch["latents"][:, :, :stop], batch["noise"][:, :, start:stop]], dim=2)
        later = both.clone()
        later[:, :, stop - 1] += 1.0
        later[:, :, -1] += 1.0
        timestep = 1000.0 * torch.cat([batch["history_sigma"][:, :stop] * 0, batch["sigma"][:, start:stop]], dim=1)
        with torch.no_grad(), self.processes.autocast():
            context = self._context(batch)
            one, other = (self.predict(latents, timestep, context, batch) for latents in (both, later))
        before = stop - start - 1
        if not torch.equal(one[:, :, :before], other[:, :, :before]):
            raise UserError("--checks: a latent frame's velocity depends on one that comes after it")
        return [f"{before} latent frames do not know the one after them"]

    # Results

    def _sample_latents(self, index: int) -> Tensor:
        """Flown, not denoised as a whole."""
        draw = Draw(index, index, 0, self.config.optim.seed, "sample")
        first = self.latents[index]["latents"][None, :, :1].float().to(self.device)
        batch = self.conditions([draw], self.num_latent_frames) | self._prompt_batch([self.prompt_of_row[index]])
        batch = {name: value.to(self.device) for name, value in batch.items()}
        empty = {name: value.to(self.device) for name, value in self._prompt_batch([self.no_prompt]).items()}
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
                negative=self._context(empty),
                drafter=self.drafter,
            )
            frames = rollout.clip(
                None if self.controller is None else (batch["binary"], batch["magnitude"]),
                self.num_latent_frames - 1,
                lambda: torch.randn(first.shape, generator=noise).to(self.device),
            )
            return torch.cat([first, *frames], dim=2)

    @property
    def _settings(self) -> CausalSettings:
        own, sampler = self.settings, self.usual_sampler
        steps = own.student_steps or own.flight_steps or self.defaults["num_inference_steps"]
        draft = (
            None
            if own.draft_noise is None
            else DraftSettings(own.draft_noise, sees=own.draft_sees, trust=own.draft_trust, mirrors=own.draft_mirrors)
        )
        if own.distribution_matching:
            steps, sampler = own.flight_steps or MATCHING_STEPS, "consistency"
        elif own.student_steps:
            sampler = "euler"
        return CausalSettings(self.flight_window, steps, own.flight_sampler or sampler, self._guidance, draft)

    @property
    def flight_window(self) -> int:
        """Latent frames that a flight remembers beside the first."""
        return self.settings.window

    @property
    def _guidance(self) -> float:
        return float(self.settings.flight_guidance or 1.0)

    @property
    def _to_the_end(self) -> bool:
        """Whether each step of a student goes to the end, as its flights do before noise is added anew."""
        return self.settings.flight_sampler == "consistency"

    @property
    def _grid(self) -> Tensor:
        """Noise levels of the student's steps, down to 0."""
        return self.inference_sigmas(self.settings.student_steps or 1)

    def export_config(self) -> tuple[str, dict[str, Any]]:
        name, config = super().export_config()
        return name, config | self.causal_config()

    def causal_config(self) -> dict[str, Any]:
        """What a run says of how it is flown."""
        return {"causal": self._settings.said()}


def _draws_frame_by_frame(path: Path) -> bool:
    """Whether a run, checkpoint or file of weights says that it is causal."""
    if path.is_file():
        return bool(said_causal(path))
    return says_causal(read_config(path))


def _per_frame(values: Tensor) -> Tensor:
    """[B, T] -> [B, 1, T, 1, 1]; [B, 1] stands for all frames."""
    return values[:, None, :, None, None]


def _times(emphasis: Tensor | None, shows: Tensor | None) -> Tensor | None:
    """What errors count for, where it is said twice."""
    if emphasis is None or shows is None:
        return shows if emphasis is None else emphasis
    return emphasis * shows


def _uncounted(frames: int, late: bool) -> int:
    """Frames at a clip's beginning that are history alone: the first, and a few where it goes on from the middle."""
    return 1 + (min(WARM_UP, frames - 2) if late else 0)
