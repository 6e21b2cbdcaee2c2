"""How actions reach the transformer: one class an injection type, and the table of them all.

A new type is a class here (or in a file of its own that is named in the table) and its test. It says which of the parts
that every controller has it trains, makes those that are its own, prepares what all layers take their share of once a
clip, and adds that share in a layer: to the layer's time modulation, to its tokens, or to both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from wanact.models.controller import WanActionController

# Parts that are there under every type, used or not, so that every checkpoint has the same names.
COMMON_PARTS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"),
    *("action_to_tmod", "action_to_residual"),
)


class Injection:
    """Base of the injection types, which hold no state: parameters are the controller's. Override what differs.

    Attributes:
        name: in configurations.
        uses: those of `COMMON_PARTS` that receive a gradient under this type; the others stay frozen.
        own_parts: attributes of the controller that `make` sets, parameters or modules.
        frame_dim: the dimension of the latent frames in what `prepare` returns.
    """

    name: ClassVar[str]
    uses: ClassVar[tuple[str, ...]] = ()
    own_parts: ClassVar[tuple[str, ...]] = ()
    frame_dim: ClassVar[int] = 1

    def make(self, controller: WanActionController, action_dim: int, hidden_size: int) -> None:
        """Give the controller `own_parts`, at the end of its construction."""

    def embed(self, controller: WanActionController, emb: Tensor, binary: Tensor, magnitude: Tensor) -> Tensor:
        """Action embeddings of this type, from those of all types [B, T-1, D] and the actions [B, T-1, A]."""
        return emb

    def prepare(self, controller: WanActionController, action_emb: Tensor) -> Tensor:
        """What all layers take their share of. Zeros must mean nothing: latent frame 0, which has no action, has them.

        Args:
            action_emb: from `embed`.
        """
        raise NotImplementedError

    def modulate(self, controller: WanActionController, modulation: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        """Time modulation [B, n, 6, D] of a layer with its share of the actions; n is 1, T or L."""
        return modulation

    def inject(self, controller: WanActionController, tokens: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        """Tokens [B, L, D] after a layer, frame after frame, with its share of the actions."""
        return tokens


class _Residual(Injection):
    """Adds one vector a latent frame to all of its tokens: what is prepared is [B, T, D]."""

    def inject(self, controller: WanActionController, tokens: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        out = tokens.unflatten(1, (prepared.shape[1], -1)) + (scale * prepared).unsqueeze(2)
        return out.flatten(1, 2).type_as(tokens)


class CrossAttnFrame(_Residual):
    """Every token of a latent frame attends to its own frame's action.

    That is one key, whose softmax is always 1, so the attention's output is `o_proj(v_proj(action))`, computed once a
    clip, and q and k never receive a gradient.
    """

    name = "cross_attn_frame"
    uses = ("v_proj", "o_proj")

    def prepare(self, controller: WanActionController, action_emb: Tensor) -> Tensor:
        return controller.drop(controller.o_proj(controller.v_proj(action_emb)))


class AdaLNTmod(Injection):
    """The action is projected to the six terms of the time modulation, [B, T, 6, D], and added there."""

    name = "adaln_tmod"
    uses = ("action_to_tmod",)

    def prepare(self, controller: WanActionController, action_emb: Tensor) -> Tensor:
        return controller.drop(controller.action_tmod(action_emb))

    def modulate(self, controller: WanActionController, modulation: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        delta = prepared * scale
        T = delta.shape[1]
        if modulation.shape[1] in (1, T):
            return modulation + delta
        return (modulation.unflatten(1, (T, -1)) + delta.unsqueeze(2)).flatten(1, 2)


class AddResidual(_Residual):
    """The action is projected to the width of the tokens and added after the layer."""

    name = "add_residual"
    uses = ("action_to_residual",)

    def prepare(self, controller: WanActionController, action_emb: Tensor) -> Tensor:
        return controller.drop(controller.action_to_residual(action_emb))


class CrossAttnChannels(Injection):
    """Every token attends to eight keys of its frame, one a channel: `cross_attn_frame` with something to choose from.

    Embeddings are one vector a channel, [B, T-1, A, D]; what is prepared are keys and values, [2, B, T, A, D].
    """

    name = "cross_attn_channels"
    uses = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
    own_parts = ("channel_embed",)
    frame_dim = 2

    def make(self, controller: WanActionController, action_dim: int, hidden_size: int) -> None:
        # What tells the eight keys apart: for each channel a constant, and what its binary and magnitude weigh.
        controller.channel_embed = nn.Parameter(torch.randn(action_dim, 3, hidden_size) * 0.02)

    def embed(self, controller: WanActionController, emb: Tensor, binary: Tensor, magnitude: Tensor) -> Tensor:
        terms = torch.stack([torch.ones_like(binary), binary, magnitude], dim=-1)  # [B, T-1, A, 3]
        return emb.unsqueeze(2) + torch.einsum("btai,aid->btad", terms, controller.channel_embed)

    def prepare(self, controller: WanActionController, action_emb: Tensor) -> Tensor:
        key = rearrange(controller.k_proj(action_emb), "b t a (n k) -> b t a n k", n=controller.num_heads)
        return torch.stack([controller.k_norm(key).flatten(-2), controller.v_proj(action_emb)])

    def inject(self, controller: WanActionController, tokens: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        frames = tokens.unflatten(1, (prepared.shape[2], -1))
        out = frames + scale * controller.drop(self._attend(controller, frames, *prepared))
        return out.flatten(1, 2).type_as(tokens)

    def _attend(self, controller: WanActionController, frames: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of [B, T, hw, D] tokens to keys and values [B or 1, T, A, D] of their own frame."""
        B, T = frames.shape[:2]
        query = rearrange(controller.q_proj(frames), "b t p (n k) -> b t p n k", n=controller.num_heads)
        query = rearrange(controller.q_norm(query), "b t p n k -> (b t) n p k")
        key, value = (
            rearrange(x.expand(B, -1, -1, -1), "b t a (n k) -> (b t) n a k", n=controller.num_heads).type_as(query)
            for x in (key, value)
        )
        out = F.scaled_dot_product_attention(query, key, value)
        return controller.o_proj(rearrange(out, "(b t) n p k -> b t p (n k)", b=B, t=T))


INJECTION_TYPES: dict[str, Injection] = {
    kind.name: kind for kind in (CrossAttnFrame(), AdaLNTmod(), AddResidual(), CrossAttnChannels())
}
