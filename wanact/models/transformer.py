"""The action-conditioned Wan transformer: diffusers' own, with modulation per frame and room for a controller."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanTransformer3DModel,
    WanTransformerBlock,
    _get_qkv_projections,
)
from diffusers.utils.peft_utils import apply_lora_scale
from einops import rearrange
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from wanact.errors import UserError
from wanact.models import flex
from wanact.models.controller import WanActionController, require_actions
from wanact.models.kv_cache import FrameView, KVCache, LayerMemory, TransformerConfig
from wanact.models.rotary import Rotation, rotate

Actions = tuple[Tensor, Tensor]  # binary and scaled magnitude, both [B, T-1, A]


@dataclass(frozen=True)
class PreparedText:
    """What every layer's cross-attention reads of a prompt: the same in every step of a clip, so computed once.

    Attributes:
        first: the first token of the embeddings, [B, 1, text_dim]; its type is the one of computation.
        keys_values: for each layer, normalised keys and values, both [B, S, N, K].
    """

    first: Tensor
    keys_values: list[tuple[Tensor, Tensor]]


QUERIES_A_PIECE = 1024  # tokens


class WanActAttnProcessor(WanAttnProcessor):
    """The stock attention with a faster rotary embedding, and with keys and values that are there already: those of
    prepared text, and those that a flight remembers.

    Attributes:
        between_pieces: if set, long queries are attended for in pieces, and it is called between them.
    """

    between_pieces: Callable[[], object] | None = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor] | LayerMemory | None = None,
        attention_mask: Tensor | BlockMask | FrameView | None = None,
        rotary_emb: Rotation | None = None,
    ) -> Tensor:
        memory = encoder_hidden_states if isinstance(encoder_hidden_states, LayerMemory) else None
        if isinstance(encoder_hidden_states, tuple):
            key, value = encoder_hidden_states
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        elif rotary_emb is None:  # cross-attention, where the stock one has nothing to improve
            assert not isinstance(encoder_hidden_states, LayerMemory), "only self-attention has a past"
            assert attention_mask is None or isinstance(attention_mask, Tensor), "only self-attention is between frames"
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, None)
        else:
            read = encoder_hidden_states if isinstance(encoder_hidden_states, Tensor) else hidden_states
            query, key, value = _get_qkv_projections(attn, hidden_states, read)
            query, key = attn.norm_q(query), attn.norm_k(key)
            query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, value))
            query, key = rotate(query, rotary_emb), rotate(key, rotary_emb)
            if memory is not None:
                key, value = memory.with_newest(key, value)
        if isinstance(attention_mask, FrameView):
            out = _frame_by_frame(query, key, value, attention_mask)
        elif isinstance(attention_mask, BlockMask):
            out = flex.attend(query, key, value, attention_mask)
        elif torch.is_grad_enabled() and query.dtype == torch.bfloat16 and query.device.type == "cpu":
            out = _two_products(query, key, value, attention_mask)
        else:
            out = self._attend(query, key, value, attention_mask)
        out = out.flatten(2, 3).type_as(query)
        return attn.to_out[1](attn.to_out[0](out))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What [B, L, N, K] queries find; each on its own, so that pieces of them find the same."""
        whole = self.between_pieces is None or mask is not None or query.shape[1] < 2 * QUERIES_A_PIECE
        found = []
        for piece in [query] if whole else query.split(QUERIES_A_PIECE, dim=1):
            found.append(
                dispatch_attention_fn(
                    piece,
                    key,
                    value,
                    attn_mask=mask,
                    dropout_p=0.0,
                    is_causal=False,
                    backend=self._attention_backend,
                    parallel_config=self._parallel_config,
                )
            )
            if self.between_pieces is not None and not whole:
                self.between_pieces()
        return found[0] if whole else torch.cat(found, dim=1)


def _two_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention [B, L, N, K] as it is written: with gradients in bf16 on a CPU 1.7 times as fast as torch's kernel."""
    query, key, value = (x.transpose(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2)


def _frame_by_frame(query: Tensor, key: Tensor, value: Tensor, view: FrameView) -> Tensor:
    """Attention [B, L, N, K] in which each frame's queries meet only the keys that they see: 2 to 3 times as fast.

    Of a clip that is trained on with its clean frames beside it they see a quarter.
    """
    size = query.shape[1] // len(view.positions)
    keys, values = key.split(size, dim=1), value.split(size, dim=1)
    found = []
    for piece, row in zip(query.split(size, dim=1), view.visible, strict=True):
        seen = row.nonzero().flatten().tolist()
        seen_keys, seen_values = (torch.cat([parts[frame] for frame in seen], dim=1) for parts in (keys, values))
        found.append(_two_products(piece, seen_keys, seen_values, None))
    return torch.cat(found, dim=1)


def _itself(attn: WanAttention, hidden_states: Tensor) -> Tensor:
    """What self-attention finds [B, L, D] where every token sees itself alone: its own value."""
    _, _, value = _get_qkv_projections(attn, hidden_states, hidden_states)
    return attn.to_out[1](attn.to_out[0](value))


class WanActBlock(WanTransformerBlock):
    """A Wan block, parameter for parameter, whose modulation may be one value per frame and which takes actions.

    The actions enter inside the block, not between blocks, because step caches that skip blocks (FirstBlockCache)
    compare and reuse whole block outputs.
    """

    layer: int  # set by the transformer

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, Tensor],
        temb: Tensor,
        rotary_emb: Rotation,
        action: Tensor | None = None,
        controller: WanActionController | None = None,
        seen: Tensor | BlockMask | FrameView | LayerMemory | None = None,
        last_is_perturbed: bool = False,
    ) -> Tensor:
        """
        Args:
            hidden_states: video tokens, [B, L, D].
            encoder_hidden_states: text tokens [B, S, D], or this layer's keys and values of them.
            temb: time modulation [B, n, 6, D]; n is 1, the T latent frames or the L tokens.
            rotary_emb: cosines and sines, [1, L, 1, K] each.
            action: what `controller.prepare` returned for this clip.
            controller: decides whether and how this layer is steered.
            seen: which tokens see which, [L, L] or by blocks, or which frames; or what is remembered of earlier
                frames. None: everything sees everything.
            last_is_perturbed: whether each token of the last sample sees itself alone.
        """
        modulation = self.scale_shift_table.unsqueeze(0) + temb.float()  # [B, n, 6, D]
        if controller is not None:
            assert action is not None, "the transformer passes both or neither"
            modulation = controller.modulate(modulation, action, self.layer)
        n = modulation.shape[1]
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.unsqueeze(3).unbind(2)  # [B, n, 1, D]

        def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return (x.unflatten(1, (n, -1)) * (1 + scale) + shift).flatten(1, 2).type_as(hidden_states)

        def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
            return (x.float() + (update.unflatten(1, (n, -1)) * gate).flatten(1, 2)).type_as(x)

        x = hidden_states
        memory, mask = (seen, None) if isinstance(seen, LayerMemory) else (None, seen)
        normed = modulate(self.norm1(x.float()), scale, shift)
        attended = self.attn1(normed, memory, mask, rotary_emb)
        if last_is_perturbed:
            attended = torch.cat([attended[:-1], _itself(self.attn1, normed[-1:])])
        x = add_gated(x, attended, gate)

        attended = self.attn2(self.norm2(x.float()).type_as(x), encoder_hidden_states, None, None)
        x = x + attended

        update = self.ffn(modulate(self.norm3(x.float()), ff_scale, ff_shift))
        x = add_gated(x, update.float(), ff_gate)
        return x if controller is None or action is None else controller.inject(x, action, self.layer)


TransformerBlockRegistry.register(WanActBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class WanActTransformer3DModel(WanTransformer3DModel):
    """`WanTransformer3DModel` that takes actions. It has no parameters of its own and saves as the stock class.

    Without actions it equals the stock model bit for bit. The controller stays a model of its own: parameters added
    here would be left on the meta device by `from_pretrained` of a base that lacks them.
    """

    config: TransformerConfig
    blocks: Sequence[WanActBlock]  # an nn.ModuleList, whose elements have no type
    _gradient_checkpointing_func: Callable[..., Tensor]  # there as soon as it is enabled

    _no_split_modules = ["WanActBlock"]
    _repeated_blocks = ["WanActBlock"]

    @functools.wraps(WanTransformer3DModel.__init__)  # the configuration is read from this signature
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for layer, block in enumerate(self.blocks):
            # The same module under another forward: building the blocks anew would initialise 5 B parameters twice.
            block.__class__ = WanActBlock
            for attention in (block.attn1, block.attn2):  # diffusers' union of processors lists none of Wan's
                attention.set_processor(WanActAttnProcessor())  # pyright: ignore[reportArgumentType]
            block.layer = layer

    def to_json_string(self) -> str:
        config = json.loads(super().to_json_string())
        config["_class_name"] = WanTransformer3DModel.__name__
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | PreparedText,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        actions: Actions | Tensor | None = None,
        controller: WanActionController | None = None,
        view: FrameView | KVCache | None = None,
        perturbed_layers: Collection[int] = (),
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predicted velocity.

        Args:
            hidden_states: noisy latents, [B, C, T, h, w].
            timestep: 0..1000; one a sample [B], one a latent frame [B, T], or one a token [B, L] as the stock
                pipeline passes them. Per frame equals per token and takes h*w times less memory.
            encoder_hidden_states: text embeddings [B, S, text_dim], or what `prepare_text` made of them.
            encoder_hidden_states_image: image embeddings of the 2.1 image-to-video models.
            return_dict: whether to return an output object or a tuple.
            attention_kwargs: `scale` for LoRA layers; `actions` and `controller` are also taken from here, which is
                the way through the stock pipeline.
            actions: (binary, magnitude), both [B or 1, T-1, A], the magnitude already scaled, or what
                `prepare_actions` made of them. Ignored without a controller, as the controller is without actions.
            controller: of this transformer's width and number of layers.
            view: which latent frames see which; or the cache of a flight whose next frame alone is passed (T is 1),
                with what `prepare_frame_action` made of its action. None: every frame sees every frame.
            perturbed_layers: in which every token of the last sample sees itself alone. That sample is what guidance
                leads away from (perturbed-attention guidance, Ahn et al. 2024, arXiv:2403.17377): what a network says
                that does not look around.

        Returns:
            Velocity [B, C, T, h, w].

        Raises:
            ValueError: if the timestep has another shape, the track another length than the clip, or the controller
                was made for another transformer.
        """
        attention_kwargs = attention_kwargs or {}
        actions = attention_kwargs.get("actions", actions)
        controller = attention_kwargs.get("controller", controller)

        p_t, p_h, p_w = self.config.patch_size
        T, h, w = (size // p for size, p in zip(hidden_states.shape[2:], (p_t, p_h, p_w), strict=True))
        action = None
        if actions is None or controller is None:
            controller = None
        elif isinstance(actions, Tensor):
            action = actions
        else:
            action = self.prepare_actions(actions, controller, batch_size=hidden_states.shape[0], num_latent_frames=T)

        rotary_emb, mask = self._placed(hidden_states, view, h * w)
        x = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()  # [B, L, D]
        text = encoder_hidden_states.first if isinstance(encoder_hidden_states, PreparedText) else encoder_hidden_states
        temb, modulation, context = self._embed_conditions(timestep, text, encoder_hidden_states_image, T, h * w)

        prepared = isinstance(encoder_hidden_states, PreparedText)
        for layer, block in enumerate(self.blocks):
            read = encoder_hidden_states.keys_values[layer] if prepared else context
            seen = view.layer(layer) if isinstance(view, KVCache) else mask
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(
                    block, x, read, modulation, rotary_emb, action, controller, seen, layer in perturbed_layers
                )
            else:
                x = block(x, read, modulation, rotary_emb, action, controller, seen, layer in perturbed_layers)

        table = self.scale_shift_table.unsqueeze(0).to(temb.device)
        shift, scale = (table + temb.unsqueeze(2)).to(x.device).unsqueeze(3).unbind(2)  # [B, n, 1, D]
        normed = self.norm_out(x.float()).unflatten(1, (shift.shape[1], -1))
        x = self.proj_out((normed * (1 + scale) + shift).flatten(1, 2).type_as(x))
        velocity = rearrange(
            x, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", t=T, h=h, w=w, pt=p_t, ph=p_h, pw=p_w
        )
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _placed(
        self, latents: Tensor, view: FrameView | KVCache | None, frame_tokens: int
    ) -> tuple[Rotation, Tensor | BlockMask | FrameView | None]:
        """Where the tokens stand, and which see which: rotation, and a mask or, where that is faster, the view."""
        if view is None:
            return self.rope(latents), None
        if isinstance(view, KVCache):
            if latents.shape[2] != 1 or frame_tokens != view.frame_tokens:
                raise ValueError(
                    f"a cache of frames of {view.frame_tokens} tokens takes one frame at a time, "
                    f"got {latents.shape[2]} of {frame_tokens}"
                )
            return view.rotation, None
        if len(view.positions) != latents.shape[2]:
            raise ValueError(f"the view is of {len(view.positions)} latent frames, the latents are {latents.shape[2]}")
        places = torch.tensor(view.positions, device=latents.device)
        whole = latents[:1, :, :1].expand(-1, -1, max(view.positions) + 1, -1, -1)  # only its shape counts
        cos, sin = (part.unflatten(1, (-1, frame_tokens))[:, places].flatten(1, 2) for part in self.rope(whole))
        if view.kernel == "auto" and torch.is_grad_enabled() and latents.device.type == "cpu":
            return (cos, sin), view
        return (cos, sin), view.mask(frame_tokens, latents.device, self.config.attention_head_dim)

    def _embed_conditions(
        self, timestep: Tensor, text: Tensor, image: Tensor | None, num_latent_frames: int, frame_tokens: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Time embedding [B, n, D], time modulation [B, n, 6, D] and context [B, S, D]."""
        lengths = (1, num_latent_frames, num_latent_frames * frame_tokens)
        if timestep.ndim == 2 and timestep.shape[1] not in lengths:
            raise ValueError(
                f"timestep of shape {tuple(timestep.shape)} must be [B], [B, {lengths[1]}] with one value a latent "
                f"frame, or [B, {lengths[2]}] with one a token"
            )
        per_sample = timestep.ndim == 1  # embedded without the extra dimension, as the stock model does
        temb, modulation, text, image = self.condition_embedder(
            timestep.flatten(), text, image, timestep_seq_len=None if per_sample else timestep.shape[1]
        )
        if per_sample:
            temb, modulation = temb.unsqueeze(1), modulation.unsqueeze(1)
        context = text if image is None else torch.cat([image, text], dim=1)
        return temb, modulation.unflatten(2, (6, -1)), context

    def check_controller(self, controller: WanActionController) -> None:
        """Raise ValueError unless the controller was made for a transformer of this width and number of layers."""
        width = self.config.num_attention_heads * self.config.attention_head_dim
        theirs, ours = (controller.config.hidden_size, controller.config.num_layers), (width, len(self.blocks))
        if theirs != ours:
            raise UserError(
                f"the controller was made for a transformer of width {theirs[0]} with {theirs[1]} layers, "
                f"this one has width {ours[0]} and {ours[1]} layers"
            )

    def prepare_text(self, encoder_hidden_states: Tensor) -> PreparedText:
        """Keys and values that the layers read of text embeddings [B, S, text_dim], for all steps of a clip.

        Passing them to `forward` in place of the embeddings gives the same result. They take 2*B*S*D numbers a layer.
        """
        context = self.condition_embedder.text_embedder(encoder_hidden_states)
        keys_values = []
        for block in self.blocks:
            attn = block.attn2
            _, key, value = _get_qkv_projections(attn, context[:, :0], context)
            key, value = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_k(key), value))
            keys_values.append((key, value))
        return PreparedText(encoder_hidden_states[:, :1], keys_values)

    def prepare_actions(
        self,
        actions: Actions,
        controller: WanActionController,
        batch_size: int,
        num_latent_frames: int,
        first: int | None = None,
    ) -> Tensor:
        """What the layers take their share of, for all steps of a clip; `forward` takes it in place of the actions.

        `first` is the place of the first action in a flight without end; None for the actions of a clip.

        Raises:
            ValueError: if the track has another length than the clip, or the controller is for another transformer.
        """
        self.check_controller(controller)
        action_emb = controller.build_action_emb(*actions, first=first)
        if action_emb.shape[0] not in (1, batch_size):
            raise ValueError(f"there are tracks for {action_emb.shape[0]} clips, but {batch_size} clips")
        require_actions(action_emb.shape[1], num_latent_frames)
        return controller.prepare(action_emb)

    def prepare_frame_action(self, action: Actions, controller: WanActionController, frame: int) -> Tensor:
        """As `prepare_actions`, for one latent frame of a flight.

        Args:
            action: (binary, magnitude) of the frame, both [B or 1, 1, A].
            frame: its number from 1, since frame 0 takes no action. Beyond the controller's positions the last holds.
        """
        self.check_controller(controller)
        return controller.prepare(controller.build_action_emb(*action, first=frame - 1), with_first=False)

    # Frame by frame

    @torch.no_grad()
    def prefill(
        self,
        latents: Tensor,
        context: Tensor | PreparedText,
        kv_cache: KVCache | None = None,
        *,
        window: int | None = None,
        actions: Sequence[Tensor | None] | None = None,
        controller: WanActionController | None = None,
    ) -> KVCache:
        """Remember latent frames that are known: each passes once, clean, at t = 0, and sees those before it.

        Args:
            latents: [B, C, T, h, w]; observed ones in closed loop.
            context: text embeddings [B or 1, S, text_dim], or what `prepare_text` made of them; kept for
                `forward_with_cache`.
            kv_cache: goes on from its last frame; None begins one.
            window: latent frames that a new cache remembers beside the first; as many as there are if not given.
            actions: what `prepare_frame_action` made for each frame; None for one that takes none.
            controller: that prepared them.
        """
        count = latents.shape[2]
        if kv_cache is None:
            kv_cache = KVCache(self, (latents.shape[3], latents.shape[4]), window or max(1, count), len(latents))
        kv_cache.context = context
        clean = torch.zeros(1, 1, device=latents.device)
        for frame, action in enumerate(actions or [None] * count):
            self._next_frame(latents[:, :, frame : frame + 1], clean, kv_cache, context, action, controller)
            kv_cache.commit()
        return kv_cache

    def forward_with_cache(
        self,
        noisy: Tensor,
        timestep: Tensor,
        kv_cache: KVCache,
        clean: Tensor | None = None,
        *,
        action: Tensor | None = None,
        controller: WanActionController | None = None,
    ) -> tuple[Tensor, KVCache]:
        """Output for the latent frame that comes next, with a gradient through this frame alone.

        Args:
            noisy: [B, C, 1, h, w].
            timestep: 0..1000, [B or 1, 1].
            kv_cache: of `prefill`.
            clean: what is remembered of this frame, the truth or an estimate, like `noisy`; None leaves no trace.
            action, controller: as for `prefill`, of this frame.

        Returns:
            The output [B, C, 1, h, w], a velocity in Wan's own models, and the cache.
        """
        output = self._next_frame(noisy, timestep, kv_cache, kv_cache.context, action, controller)
        if clean is not None:
            self.prefill(clean, kv_cache.context, kv_cache, actions=[action], controller=controller)
        return output, kv_cache

    def _next_frame(
        self,
        latent: Tensor,
        timestep: Tensor,
        kv_cache: KVCache,
        context: Tensor | PreparedText,
        action: Tensor | None,
        controller: WanActionController | None,
    ) -> Tensor:
        return self(
            latent,
            timestep,
            context,
            return_dict=False,
            actions=action,
            controller=None if action is None else controller,
            view=kv_cache,
        )[0]
