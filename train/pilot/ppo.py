"""PPO that goes on from any step: stable-baselines3's policy, rollout buffer and normaliser, stepped one by one.

Its own `learn` fills a whole rollout before anything can be saved. Here one call of `step` is one latent frame in every
environment, and an update follows where the rollout is full; between two steps everything lies in plain attributes.
What is random in a step or an update is seeded by its number, so that there is no generator to save beside those of the
environments.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import kl_divergence

from train.loop.seeding import derive_seed
from train.pilot.config import PilotConfig
from train.pilot.temperature import TemperatureController

RECENT = 100  # episodes that count as now


def _own_tensor(observation: Any) -> Any:
    """An observation in memory of torch's own, which is aligned.

    Kernels give other last bits on memory that is aligned otherwise, as NumPy's is by chance; so runs would differ.
    """
    if isinstance(observation, dict):
        return {key: _own_tensor(part) for key, part in observation.items()}
    return torch.from_numpy(np.asarray(observation)).clone()


class _Tempered(ActorCriticPolicy):
    """An actor-critic whose sticks deviate `temperature` times as far as its weights say."""

    temperature = 1.0

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        assert isinstance(self.action_dist, DiagGaussianDistribution), "sticks are continuous"
        return self.action_dist.proba_distribution(
            self.action_net(latent_pi), self.log_std + float(np.log(self.temperature))
        )


class TemperedPolicy(_Tempered):
    """For numbers."""


class TemperedPicturePolicy(_Tempered, ActorCriticCnnPolicy):
    """For pictures."""


class TemperedBothPolicy(_Tempered, MultiInputActorCriticPolicy):
    """For both."""


POLICIES = {"state": TemperedPolicy, "picture": TemperedPicturePolicy, "both": TemperedBothPolicy}


class PilotPPO(PPO):
    """PPO with AdamW over normalised environments, one step at a time.

    Args:
        env: the environments, normalised.
        config: every setting.

    Attributes:
        steps: latent frames flown in each environment.
        updates: how often the policy was updated.
        temperature: the controller of exploration.
        reference: the policy that a warm start gave, to stay near at first; None without.
        recent: success, return and length of the last episodes.
        since_update: successes since the update before.
    """

    policy: _Tempered

    def __init__(self, env: VecNormalize, config: PilotConfig):
        ppo = config.ppo
        torch.manual_seed(derive_seed(config.run.seed, "pilot", "weights"))
        kwargs: dict[str, Any] = {
            "net_arch": {"pi": list(ppo.hidden), "vf": list(ppo.hidden)},
            "log_std_init": ppo.initial_log_std,
            "optimizer_class": torch.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": ppo.weight_decay, "eps": 1e-5},
        }
        super().__init__(
            POLICIES[config.environment.observation],
            env,
            learning_rate=ppo.learning_rate,
            n_steps=ppo.rollout_len,
            batch_size=ppo.batch_size,
            n_epochs=ppo.num_epochs,
            gamma=ppo.gamma,
            gae_lambda=ppo.gae_lambda,
            clip_range=ppo.clip_range,
            target_kl=ppo.target_kl,
            vf_coef=ppo.value_coef,
            max_grad_norm=ppo.max_grad_norm,
            policy_kwargs=kwargs,
            device="cpu",
        )
        self.config = config
        self.steps = self.updates = 0
        self.temperature = TemperatureController.begin(config.temperature)
        self.reference: _Tempered | None = None
        self.recent: deque[tuple[bool, float, int]] = deque(maxlen=RECENT)
        self.since_update: list[bool] = []

    @property
    def normalizer(self) -> VecNormalize:
        assert isinstance(self.env, VecNormalize), "environments are normalised"
        return self.env

    @property
    def success(self) -> float | None:
        """Share of the last episodes that were done, None before the first has ended."""
        return sum(done for done, _, _ in self.recent) / len(self.recent) if self.recent else None

    # Settings that follow the counters

    def current_learning_rate(self) -> float:
        """Falls evenly with the steps."""
        ppo = self.config.ppo
        share = min(self.steps / ppo.total_steps, 1.0)
        return ppo.learning_rate + share * (ppo.final_learning_rate - ppo.learning_rate)

    def current_entropy_coef(self) -> float:
        """Rises with the updates, then stays: at first exploration is wide enough."""
        schedules = self.config.schedules
        return schedules.entropy_coef * min(1.0, (self.updates + 1) / max(schedules.entropy_warmup_updates, 1))

    def current_kl_coef(self) -> float:
        """Falls to 0 with the updates; 0 without a warm start."""
        if self.reference is None:
            return 0.0
        schedules = self.config.schedules
        return schedules.kl_coef * max(0.0, 1.0 - self.updates / max(schedules.kl_decay_updates, 1))

    # Flying

    def begin(self) -> None:
        """Reset the environments for the first step of a fresh training."""
        assert self.env is not None
        self.env.seed(derive_seed(self.config.run.seed, "pilot", "episodes") % 2**31)
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.env.num_envs, bool)
        self.rollout_buffer.reset()

    def step(self) -> bool:
        """One latent frame in every environment, and an update where the rollout is full; whether there was one."""
        assert self.env is not None and self._last_obs is not None, "call begin or load a checkpoint first"
        self.policy.set_training_mode(False)
        self.policy.temperature = self.temperature.current_temperature
        torch.manual_seed(derive_seed(self.config.run.seed, "pilot", "sticks", self.steps))
        with torch.no_grad():
            actions, values, log_probs = self.policy(_own_tensor(self._last_obs))
        sticks = actions.cpu().numpy()
        new_obs, rewards, dones, infos = self.env.step(np.clip(sticks, -1, 1))
        rewards = self._with_what_was_to_come(rewards, infos)
        self.rollout_buffer.add(
            self._last_obs,  # type: ignore[arg-type]
            sticks,
            rewards,
            self._last_episode_starts,  # type: ignore[arg-type]
            values,
            log_probs,
        )
        self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        self._note_episodes(infos)
        self.steps += 1
        self.num_timesteps += self.env.num_envs
        if not self.rollout_buffer.full:
            return False
        with torch.no_grad():
            last = self.policy.predict_values(_own_tensor(new_obs))  # type: ignore[arg-type]
        self.rollout_buffer.compute_returns_and_advantage(last_values=last, dones=dones)
        self.train()
        self.rollout_buffer.reset()
        return True

    def _with_what_was_to_come(self, rewards: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """An episode that was cut short by its time is worth what its last view promises."""
        for index, info in enumerate(infos):
            view = info.get("terminal_observation")
            if info.get("TimeLimit.truncated") and view is not None:
                seen = _own_tensor(
                    {key: part[None] for key, part in view.items()} if isinstance(view, dict) else view[None]
                )
                with torch.no_grad():
                    rewards[index] += self.gamma * float(self.policy.predict_values(seen)[0])
        return rewards

    def _note_episodes(self, infos: list[dict[str, Any]]) -> None:
        for info in infos:
            if "episode" in info:
                self.recent.append((bool(info["is_success"]), float(info["episode"]["r"]), int(info["episode"]["l"])))
                self.since_update.append(bool(info["is_success"]))

    # Learning

    def train(self) -> None:
        """Update the policy from the full rollout, then move the temperature."""
        self.policy.set_training_mode(True)
        np.random.seed(derive_seed(self.config.run.seed, "pilot", "minibatches", self.updates) % 2**32)
        for group in self.policy.optimizer.param_groups:
            group["lr"] = self.current_learning_rate()
        sums: dict[str, list[float]] = {}
        for _ in range(self.n_epochs):
            if not all(self._learn_from(samples, sums) for samples in self.rollout_buffer.get(self.batch_size)):
                break
        buffer = self.rollout_buffer
        self._record(sums, explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        success = sum(self.since_update) / len(self.since_update) if self.since_update else None
        self.temperature.update(success, self.config.temperature)
        self.since_update = []
        self.updates += 1
        self._n_updates += self.n_epochs
        if self.reference is not None and self.current_kl_coef() == 0:
            self.reference = None

    def _learn_from(self, samples: Any, sums: dict[str, list[float]]) -> bool:
        """One minibatch; False where the policy has moved far enough for this rollout."""
        clip = self.config.ppo.clip_range
        values, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        advantages = samples.advantages
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8) if len(advantages) > 1 else advantages
        log_ratio = log_prob - samples.old_log_prob
        ratio = log_ratio.exp()
        policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
        value_loss = torch.nn.functional.mse_loss(samples.returns, values.flatten())
        assert entropy is not None, "Gaussian sticks have an entropy"
        loss = policy_loss + self.vf_coef * value_loss - self.current_entropy_coef() * entropy.mean()
        measured = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy.mean()}
        if (weight := self.current_kl_coef()) > 0:
            measured["reference_kl"] = away = self._away_from_reference(samples.observations)
            loss = loss + weight * away
        with torch.no_grad():
            moved = float(((log_ratio.exp() - 1) - log_ratio).mean())
            measured["clip_fraction"] = ((ratio - 1).abs() > clip).float().mean()
        for name, value in (measured | {"approx_kl": moved, "loss": loss}).items():
            sums.setdefault(name, []).append(float(torch.as_tensor(value).detach()))
        if self.target_kl is not None and moved > 1.5 * self.target_kl:
            return False
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        return True

    def _away_from_reference(self, observations: Any) -> Tensor:
        """How far the policy is from the one that the warm start gave: its divergence, a sample's mean."""
        assert self.reference is not None
        with torch.no_grad():
            before = self.reference.get_distribution(observations).distribution
        now = self.policy.get_distribution(observations).distribution
        assert isinstance(before, TorchDistribution) and isinstance(now, TorchDistribution)
        return kl_divergence(before, now).sum(-1).mean()

    def keep_as_reference(self) -> None:
        """Stay near the policy as it is now, for a while."""
        self.policy.action_dist.distribution = None  # type: ignore[assignment]  # of the newest step; it has a graph
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.reference.temperature = 1.0

    def _record(self, sums: dict[str, list[float]], explained: float) -> None:
        for name, values in sums.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))
        self.logger.record("train/explained_variance", float(explained))
        self.logger.record("train/learning_rate", self.current_learning_rate())
        self.logger.record("train/entropy_coef", self.current_entropy_coef())
        self.logger.record("train/kl_coef", self.current_kl_coef())
        self.logger.record("train/std", float(self.policy.log_std.detach().exp().mean()))
        self.logger.record("temperature/current", self.temperature.current_temperature)
        self.logger.record("temperature/pulse_active", float(self.temperature.pulse_active))
        if self.recent:
            self.logger.record("rollout/success", float(self.success or 0.0))
            self.logger.record("rollout/return", float(np.mean([r for _, r, _ in self.recent])))
            self.logger.record("rollout/length", float(np.mean([n for _, _, n in self.recent])))
