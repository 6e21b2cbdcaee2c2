"""The network that flies: numbers about a task in, four sticks out. Needs torch alone; training it is `train.pilot`'s.

Names of weights are those of stable-baselines3's actor-critic, so that a checkpoint is read as it was trained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wanact.files import CheckpointError, load_weights, read_json

WEIGHTS, NORMALIZER, CONFIG = "pilot.safetensors", "normalizer.safetensors", "pilot.json"
MAX_WIDTH = 4096
_LAYER = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")


@dataclass(frozen=True)
class Normalizer:
    """What observations are brought to mean 0 and variance 1 with."""

    mean: np.ndarray
    variance: np.ndarray
    limit: float = 10.0
    epsilon: float = 1e-8

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        scaled = (observation - self.mean) / np.sqrt(self.variance + self.epsilon)
        return np.clip(scaled, -self.limit, self.limit).astype(np.float32)


class Pilot(nn.Module):
    """A trained pilot, as it flies: without noise.

    Args:
        weights: of an actor-critic whose observation is numbers.
        normalizer: of the observations, None where they were not normalised.

    Raises:
        CheckpointError: if the weights are no such network.
    """

    def __init__(self, weights: Mapping[str, Tensor], normalizer: Normalizer | None = None):
        super().__init__()
        numbers = sorted(int(match[1]) for name in weights if (match := _LAYER.fullmatch(name)))
        if not numbers or "action_net.weight" not in weights or "action_net.bias" not in weights:
            raise CheckpointError("these weights are no pilot's: they have no mlp_extractor.policy_net and action_net")
        layers: list[nn.Module] = []
        sizes: list[tuple[int, int]] = []
        for name in (*(f"mlp_extractor.policy_net.{number}" for number in numbers), "action_net"):
            weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
            if bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1] or max(weight.shape) > MAX_WIDTH:
                raise CheckpointError(
                    f"the pilot's {name} has shape {tuple(weight.shape)}, expected a layer of numbers"
                )
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers += [layer, nn.Tanh()]
            sizes.append((weight.shape[0], weight.shape[1]))
        self.network = nn.Sequential(*layers[:-1])
        if any(before[0] != after[1] for before, after in zip(sizes, sizes[1:], strict=False)) or sizes[-1][0] != 4:
            raise CheckpointError(f"the pilot's layers do not follow each other: {sizes}")
        self.size, self.normalizer = sizes[0][1], normalizer
        self.eval()

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """Sticks [4] in [-1, 1] for one observation [size], as `wanact.world.tasks.observe` gives it."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        answer = self.network(torch.from_numpy(np.asarray(observation, np.float32))[None])[0]
        return answer.clamp(-1, 1).numpy().astype(np.float64)


def load_pilot(checkpoint: Path) -> Pilot:
    """The pilot of a checkpoint's folder; `wanact.runs.store.verify` says whether it is whole.

    Raises:
        CheckpointError: if a file is missing or damaged, or it flies by what it sees.
    """
    config: dict[str, Any] = read_json(checkpoint / CONFIG)
    if config.get("observation") != "state":
        raise CheckpointError(f"{checkpoint} flies by {config.get('observation')!r}; only state pilots are flown here")
    normalizer = load_weights(checkpoint / NORMALIZER)
    try:
        mean, variance = normalizer["observation.mean"].numpy(), normalizer["observation.variance"].numpy()
    except KeyError as error:
        raise CheckpointError(f"{checkpoint / NORMALIZER} has no {error.args[0]}") from error
    return Pilot(load_weights(checkpoint / WEIGHTS), Normalizer(mean, variance))
