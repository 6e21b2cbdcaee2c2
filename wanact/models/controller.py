"""The action controller: eight drone controls a latent frame, turned into what the transformer adds to itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from wanact.errors import UserError
from wanact.models.injection import COMMON_PARTS, INJECTION_TYPES

_TI2V_5B = dict(
    action_dim=8,
    hidden_size=3072,
    num_heads=24,
    num_latent_frames=20,
    num_layers=30,
    inject_layers=None,
    qk_norm=True,
    initial_scale=0.01,
    injection_type="cross_attn_frame",
)
ACTION_CONTROLLER_CONFIGS: dict[str, dict[str, Any]] = {
    "wan_ti2v_5b": _TI2V_5B,
    "wan_ti2v_5b_sparse": {**_TI2V_5B, "inject_layers": list(range(0, 30, 3))},
    "wan_ti2v_5b_adaln": {**_TI2V_5B, "injection_type": "adaln_tmod"},
    "wan_ti2v_5b_add": {**_TI2V_5B, "injection_type": "add_residual"},
    "nano": {
        **_TI2V_5B,
        "hidden_size": 384,
        "num_heads": 6,
        "num_layers": 8,
        "initial_scale": 1.0,
        "injection_type": "adaln_tmod",
    },
}


class ControllerConfig(Protocol):
    """What a controller keeps of its arguments, in a dict whose keys are attributes too."""

    action_dim: int
    num_latent_frames: int
    hidden_size: int
    num_layers: int


class WanActionController(ModelMixin, ConfigMixin):
    """Steers a Wan transformer with one action per latent frame; latent frame 0 is the first frame and takes none.

    One controller serves all layers; `output_scale[i]` is what layer i takes of it. How an action reaches a layer is
    said by the injection type, a class of `wanact.models.injection`.

    Args:
        action_dim: channels A of an action; the network reads 2A numbers, binary and scaled magnitude.
        hidden_size: width D of the transformer it steers.
        num_heads: heads N of its attention.
        num_latent_frames: longest track the positions cover.
        inject_layers: layers that are steered; None for all.
        num_layers: layers of the transformer it steers.
        qk_norm: whether queries and keys are RMS-normalised per head.
        dropout: on what is injected, before the scale.
        initial_scale: of `output_scale`; 0 is an exact no-op.
        injection_type: one of `INJECTION_TYPES`.

    Raises:
        ValueError: for an unknown injection type, a width that the heads do not divide, or a layer out of range.
    """

    config: ControllerConfig

    if TYPE_CHECKING:

        def to(self, *args: Any, **kwargs: Any) -> WanActionController: ...  # lost where diffusers wraps it

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        action_dim: int = 8,
        hidden_size: int = 3072,
        num_heads: int = 24,
        num_latent_frames: int = 20,
        inject_layers: list[int] | None = None,
        num_layers: int = 30,
        qk_norm: bool = True,
        dropout: float = 0.0,
        initial_scale: float = 0.01,
        injection_type: str = "cross_attn_frame",
    ):
        super().__init__()
        require_injection(injection_type)
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of num_heads={num_heads}")
        layers = list(range(num_layers)) if inject_layers is None else inject_layers
        outside = [i for i in layers if not 0 <= i < num_layers]
        if outside:
            raise UserError(f"inject_layers {outside} are outside the transformer's layers 0 to {num_layers - 1}")

        self.injection_type = injection_type
        self.injection = INJECTION_TYPES[injection_type]
        self.inject_layers = frozenset(layers)
        self.num_heads = num_heads

        D, K = hidden_size, hidden_size // num_heads
        self.action_embed = nn.Sequential(nn.Linear(2 * action_dim, D), nn.SiLU(), nn.Linear(D, D))
        self.temporal_pos_embed = nn.Parameter(torch.randn(1, num_latent_frames, D) * 0.02)
        self.q_proj = nn.Linear(D, D, bias=False)
        self.k_proj = nn.Linear(D, D, bias=False)
        self.v_proj = nn.Linear(D, D, bias=False)
        self.o_proj = nn.Linear(D, D, bias=False)
        self.action_to_tmod = nn.Linear(D, 6 * D, bias=False)
        self.action_to_residual = nn.Linear(D, D, bias=False)
        self.q_norm = nn.RMSNorm(K, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(K, eps=1e-5) if qk_norm else nn.Identity()
        self.output_scale = nn.Parameter(torch.full((num_layers,), float(initial_scale)))
        self.drop = nn.Dropout(dropout)  # under the name `dropout` diffusers would find the configuration value
        self.injection.make(self, action_dim, D)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        for name in self.unused_parts:
            getattr(self, name).requires_grad_(False)

    @property
    def unused_parts(self) -> frozenset[str]:
        """What this injection type never asks; the names are there all the same, so that types can be changed."""
        return frozenset(COMMON_PARTS) - frozenset(self.injection.uses)

    def whole(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights with those of `unused_parts` as they are here where a file leaves them out, as published runs do."""
        own = {name: value for name, value in self.state_dict().items() if name.partition(".")[0] in self.unused_parts}
        return own | weights

    def used(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights without those of `unused_parts`."""
        return {name: value for name, value in weights.items() if name.partition(".")[0] not in self.unused_parts}

    def requires_grad_(self, requires_grad: bool = True) -> WanActionController:
        """As for any module, but the parts this injection type never uses stay frozen: DDP waits for no gradient."""
        super().requires_grad_(requires_grad)
        self._freeze_unused()
        return self

    def should_inject(self, block_idx: int) -> bool:
        return block_idx in self.inject_layers

    def build_action_emb(self, action_binary: Tensor, action_magnitude: Tensor, first: int | None = None) -> Tensor:
        """Actions as vectors of the transformer's width.

        Args:
            action_binary: 1 where a channel is active, [B, T-1, A]; without a batch, [T-1, A].
            action_magnitude: magnitudes times the run's `action_magnitude_scale`, same shape.
            first: place of the first of these actions in a flight without end, whose actions beyond the positions all
                take the last one; None for the actions of a clip.

        Returns:
            [B, T-1, D], or what the injection type makes of them.

        Raises:
            ValueError: if the two differ in shape, have not A channels, or are longer than the positions.
        """
        A, limit = self.config.action_dim, self.config.num_latent_frames
        if action_binary.shape != action_magnitude.shape or action_binary.shape[-1] != A:
            raise UserError(
                f"action_binary {tuple(action_binary.shape)} and action_magnitude {tuple(action_magnitude.shape)} "
                f"must both be [B, T-1, {A}]"
            )
        if action_binary.ndim == 2:
            action_binary, action_magnitude = action_binary[None], action_magnitude[None]
        num_actions = action_binary.shape[1]
        if first is None and num_actions > limit:
            raise UserError(f"the track has {num_actions} actions, but this controller was built for {limit} at most")

        weight = cast(nn.Linear, self.action_embed[0]).weight
        binary, magnitude = (x.to(weight.device, weight.dtype) for x in (action_binary, action_magnitude))
        emb = self.action_embed(torch.cat([binary, magnitude], dim=-1))
        if first is None:
            emb = emb + self.temporal_pos_embed[:, :num_actions]
        else:
            places = [min(place, limit - 1) for place in range(first, first + num_actions)]
            emb = emb + self.temporal_pos_embed[:, places]
        return self.injection.embed(self, emb, binary, magnitude)

    def action_tmod(self, action_emb: Tensor) -> Tensor:
        """The six modulation terms of every action, before the layer's scale: [B, T-1, D] -> [B, T-1, 6, D]."""
        return self.action_to_tmod(action_emb).unflatten(-1, (6, -1))

    def prepare(self, action_emb: Tensor, with_first: bool = True) -> Tensor:
        """What all layers take their share of, computed once per clip.

        Args:
            action_emb: from `build_action_emb`.
            with_first: whether latent frame 0, which has no action, stands before the frames that have one.

        Returns:
            What the injection type prepares, zero at latent frame 0, which makes it take nothing.
        """
        prepared = self.injection.prepare(self, action_emb)
        behind = prepared.ndim - 1 - self.injection.frame_dim
        return F.pad(prepared, (*(0, 0) * behind, int(with_first), 0))

    def modulate(self, modulation: Tensor, prepared: Tensor, block_idx: int) -> Tensor:
        """Time modulation of one layer with its actions added; unchanged if they reach the tokens instead.

        Args:
            modulation: [B, n, 6, D], where n is 1, the T latent frames or the L tokens.
            prepared: from `prepare`.
            block_idx: the layer.

        Returns:
            [B, T, 6, D], or [B, L, 6, D] if it came per token.
        """
        if not self.should_inject(block_idx):
            return modulation
        return self.injection.modulate(self, modulation, prepared, self.output_scale[block_idx])

    def inject(self, hidden_states: Tensor, prepared: Tensor, block_idx: int) -> Tensor:
        """Tokens after one layer with their frames' actions added; unchanged if they reach the modulation instead.

        Args:
            hidden_states: [B, L, D], frame after frame.
            prepared: from `prepare`, for the same clip.
            block_idx: the layer.
        """
        if not self.should_inject(block_idx):
            return hidden_states
        return self.injection.inject(self, hidden_states, prepared, self.output_scale[block_idx])

    def apply_action(self, hidden_states: Tensor, action_emb: Tensor, t: int, h: int, w: int, block_idx: int) -> Tensor:
        """`inject` from the action embedding itself: one layer's tokens [B, t*h*w, D] with their actions added.

        The transformer calls `prepare` once and `inject` in every layer instead; the result is the same.

        Raises:
            ValueError: if the tokens are not t*h*w, or the actions not t-1.
        """
        if hidden_states.shape[1] != t * h * w:
            raise UserError(f"{hidden_states.shape[1]} tokens are not t*h*w = {t}*{h}*{w} = {t * h * w}")
        require_actions(action_emb.shape[1], t)
        return self.inject(hidden_states, self.prepare(action_emb), block_idx)

    def forward(
        self,
        hidden_states: Tensor,
        action_binary: Tensor,
        action_magnitude: Tensor,
        t: int,
        h: int,
        w: int,
        block_idx: int,
    ) -> Tensor:
        """One layer's tokens with their actions added, from the actions: `apply_action(build_action_emb(...))`."""
        action_emb = self.build_action_emb(action_binary, action_magnitude)
        return self.apply_action(hidden_states, action_emb, t, h, w, block_idx)


def controller_of(settings: Mapping[str, Any]) -> WanActionController:
    """A controller from the `action_controller_config` of a run, which may be another program's.

    Raises:
        UserError: for an injection type or a setting that no controller has here, by its name, and as the constructor.
    """
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    require_injection(settings.get("injection_type", "cross_attn_frame"))
    known = inspect.signature(WanActionController.__init__).parameters
    unknown = [name for name in settings if name not in known or name == "self"]
    if unknown:
        raise UserError(f"action_controller_config says {unknown[0]}, which no action controller has here")
    return WanActionController(**settings)


def require_injection(name: Any) -> None:
    """Raise UserError unless there is an injection type of this name."""
    if not isinstance(name, str) or name not in INJECTION_TYPES:
        raise UserError(f"injection_type={name!r} is unknown; choose one of {', '.join(INJECTION_TYPES)}")


def require_actions(num_actions: int, num_latent_frames: int) -> None:
    """Check that a track fits a clip.

    Raises:
        ValueError: naming the actions there are and the actions the clip needs, one for each latent frame but the
            first.
    """
    if num_actions != num_latent_frames - 1:
        raise UserError(
            f"the track has {num_actions} actions, but a clip of {num_latent_frames} latent frames "
            f"needs {num_latent_frames - 1}: one for each latent frame after the first"
        )
