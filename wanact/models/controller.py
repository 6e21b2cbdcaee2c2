"""The action controller: eight drone controls a latent frame, turned into what the transformer adds to itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor

from wanact.errors import UserError

# For each injection type, the parts of the controller that never receive a gradient under it. They are there all the
# same, so that every checkpoint has the same names. With one key a frame the softmax is always 1, hence q and k.
UNUSED_PARTS = {
    "cross_attn_frame": ("q_proj", "k_proj", "q_norm", "k_norm", "action_to_tmod", "action_to_residual"),
    "adaln_tmod": ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "action_to_residual"),
    "add_residual": ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "action_to_tmod"),
    "cross_attn_channels": ("action_to_tmod", "action_to_residual"),
}
INJECTION_TYPES = tuple(UNUSED_PARTS)

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
        "hidden_size": 144,
        "num_heads": 3,
        "num_layers": 6,
        "initial_scale": 1.0,
        "injection_type": "adaln_tmod",
    },
}


class WanActionController(ModelMixin, ConfigMixin):
    """Steers a Wan transformer with one action per latent frame; latent frame 0 is the first frame and takes none.

    One controller serves all layers; `output_scale[i]` is what layer i takes of it. In four ways:

    - `cross_attn_frame`: every token of a latent frame attends to its own frame's action. That is one key, whose
      softmax is always 1, so the attention's output is `o_proj(v_proj(action))`, computed once per clip.
    - `adaln_tmod`: the action is projected to the six terms of the time modulation and added there, layer i
      receiving `output_scale[i]` times the projection.
    - `add_residual`: the action is projected to the width of the tokens and added after the layer.
    - `cross_attn_channels`: every token attends to eight keys of its frame, one a channel: `cross_attn_frame` with
      something to choose between. Only this type has the parameter `channel_embed`.

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
        if injection_type not in INJECTION_TYPES:
            raise UserError(f"injection_type={injection_type!r} is unknown; choose one of {', '.join(INJECTION_TYPES)}")
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of num_heads={num_heads}")
        layers = list(range(num_layers)) if inject_layers is None else inject_layers
        outside = [i for i in layers if not 0 <= i < num_layers]
        if outside:
            raise UserError(f"inject_layers {outside} are outside the transformer's layers 0 to {num_layers - 1}")

        self.injection_type = injection_type
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
        if injection_type == "cross_attn_channels":
            # What tells the eight keys apart: for each channel a constant, and what its binary and magnitude weigh.
            self.channel_embed = nn.Parameter(torch.randn(action_dim, 3, D) * 0.02)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        for name in UNUSED_PARTS[self.injection_type]:
            getattr(self, name).requires_grad_(False)

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
            [B, T-1, D]; for `cross_attn_channels` one vector a channel, [B, T-1, A, D].

        Raises:
            ValueError: if the two differ in shape, have not A channels, or are longer than the positions.
        """
        A, limit = self.config.action_dim, self.config.num_latent_frames
        if action_binary.shape != action_magnitude.shape or action_binary.shape[-1] != A:
            raise ValueError(
                f"action_binary {tuple(action_binary.shape)} and action_magnitude {tuple(action_magnitude.shape)} "
                f"must both be [B, T-1, {A}]"
            )
        if action_binary.ndim == 2:
            action_binary, action_magnitude = action_binary[None], action_magnitude[None]
        num_actions = action_binary.shape[1]
        if first is None and num_actions > limit:
            raise UserError(f"the track has {num_actions} actions, but this controller was built for {limit} at most")

        weight = self.action_embed[0].weight
        binary, magnitude = (x.to(weight.device, weight.dtype) for x in (action_binary, action_magnitude))
        emb = self.action_embed(torch.cat([binary, magnitude], dim=-1))
        if first is None:
            emb = emb + self.temporal_pos_embed[:, :num_actions]
        else:
            places = [min(place, limit - 1) for place in range(first, first + num_actions)]
            emb = emb + self.temporal_pos_embed[:, places]
        if self.injection_type != "cross_attn_channels":
            return emb
        terms = torch.stack([torch.ones_like(binary), binary, magnitude], dim=-1)  # [B, T-1, A, 3]
        return emb.unsqueeze(2) + torch.einsum("btai,aid->btad", terms, self.channel_embed)

    def action_tmod(self, action_emb: Tensor) -> Tensor:
        """The six modulation terms of every action, before the layer's scale: [B, T-1, D] -> [B, T-1, 6, D]."""
        return self.action_to_tmod(action_emb).unflatten(-1, (6, -1))

    def prepare(self, action_emb: Tensor, with_first: bool = True) -> Tensor:
        """What all layers take their share of, computed once per clip.

        Args:
            action_emb: from `build_action_emb`.
            with_first: whether latent frame 0, which has no action, stands before the frames that have one.

        Returns:
            `adaln_tmod`: modulation terms [B, T, 6, D]; `cross_attn_frame` and `add_residual`: residuals [B, T, D];
            `cross_attn_channels`: keys and values [2, B, T, A, D]. All are zero at latent frame 0, which makes it take
            nothing.
        """
        front = int(with_first)
        if self.injection_type == "cross_attn_channels":
            key = rearrange(self.k_proj(action_emb), "b t a (n k) -> b t a n k", n=self.num_heads)
            keys_values = torch.stack([self.k_norm(key).flatten(-2), self.v_proj(action_emb)])
            return F.pad(keys_values, (0, 0, 0, 0, front, 0))
        if self.injection_type == "adaln_tmod":
            return F.pad(self.drop(self.action_tmod(action_emb)), (0, 0, 0, 0, front, 0))
        if self.injection_type == "add_residual":
            residual = self.action_to_residual(action_emb)
        else:
            residual = self.o_proj(self.v_proj(action_emb))
        return F.pad(self.drop(residual), (0, 0, front, 0))

    def modulate(self, modulation: Tensor, prepared: Tensor, block_idx: int) -> Tensor:
        """Time modulation of one layer with its actions added; unchanged for the other injection types.

        Args:
            modulation: [B, n, 6, D], where n is 1, the T latent frames or the L tokens.
            prepared: from `prepare`, [B or 1, T, 6, D].
            block_idx: the layer.

        Returns:
            [B, T, 6, D], or [B, L, 6, D] if it came per token.
        """
        if self.injection_type != "adaln_tmod" or not self.should_inject(block_idx):
            return modulation
        delta = prepared * self.output_scale[block_idx]
        T = delta.shape[1]
        if modulation.shape[1] in (1, T):
            return modulation + delta
        return (modulation.unflatten(1, (T, -1)) + delta.unsqueeze(2)).flatten(1, 2)

    def inject(self, hidden_states: Tensor, prepared: Tensor, block_idx: int) -> Tensor:
        """Tokens after one layer with their frames' actions added; unchanged for `adaln_tmod`.

        Args:
            hidden_states: [B, L, D], frame after frame.
            prepared: from `prepare`, for the same clip.
            block_idx: the layer.
        """
        if self.injection_type == "adaln_tmod" or not self.should_inject(block_idx):
            return hidden_states
        scale = self.output_scale[block_idx]
        if self.injection_type == "cross_attn_channels":
            frames = hidden_states.unflatten(1, (prepared.shape[2], -1))
            out = frames + scale * self.drop(self._attend_to_channels(frames, *prepared))
        else:
            out = hidden_states.unflatten(1, (prepared.shape[1], -1)) + (scale * prepared).unsqueeze(2)
        return out.flatten(1, 2).type_as(hidden_states)

    def _attend_to_channels(self, frames: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of [B, T, hw, D] tokens to keys and values [B or 1, T, A, D] of their own frame."""
        B, T = frames.shape[:2]
        query = rearrange(self.q_proj(frames), "b t p (n k) -> b t p n k", n=self.num_heads)
        query = rearrange(self.q_norm(query), "b t p n k -> (b t) n p k")
        key, value = (
            rearrange(x.expand(B, -1, -1, -1), "b t a (n k) -> (b t) n a k", n=self.num_heads).type_as(query)
            for x in (key, value)
        )
        out = F.scaled_dot_product_attention(query, key, value)
        return self.o_proj(rearrange(out, "(b t) n p k -> b t p (n k)", b=B, t=T))

    def apply_action(self, hidden_states: Tensor, action_emb: Tensor, t: int, h: int, w: int, block_idx: int) -> Tensor:
        """`inject` from the action embedding itself: one layer's tokens [B, t*h*w, D] with their actions added.

        The transformer calls `prepare` once and `inject` in every layer instead; the result is the same.

        Raises:
            ValueError: if the tokens are not t*h*w, or the actions not t-1.
        """
        if hidden_states.shape[1] != t * h * w:
            raise ValueError(f"{hidden_states.shape[1]} tokens are not t*h*w = {t}*{h}*{w} = {t * h * w}")
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
