"""The networks of Wan 2.2 as its own code builds them, small: a second implementation that names are held against.

After wan/modules/model.py, vae2_2.py and t5.py of github.com/Wan-Video/Wan2.2 (Apache-2.0): the module tree gives the
original names, and `forward` their meaning. The VAE is written for a single frame.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# The transformer


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x: Tensor, context: Tensor, freqs: Tensor | None = None) -> Tensor:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = (rearrange(t, "b l (n c) -> b n l c", n=self.num_heads) for t in (q, k, v))
        if freqs is not None:
            q, k = (self._rotate(t, freqs) for t in (q, k))
        return self.o(rearrange(F.scaled_dot_product_attention(q, k, v), "b n l c -> b l (n c)"))

    @staticmethod
    def _rotate(x: Tensor, freqs: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * freqs).flatten(-2).float()


class Block(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.self_attn = Attention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, 1e-6)
        self.cross_attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor, freqs: Tensor, context: Tensor) -> Tensor:
        e = (self.modulation.unsqueeze(0) + e).unbind(2)
        y = self.norm1(x) * (1 + e[1]) + e[0]
        x = x + self.self_attn(y, y, freqs) * e[2]
        x = x + self.cross_attn(self.norm3(x), context)
        return x + self.ffn(self.norm2(x) * (1 + e[4]) + e[3]) * e[5]


class Head(nn.Module):
    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.head = nn.Linear(dim, out_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation.unsqueeze(0) + e.unsqueeze(2)).unbind(2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class WanModel(nn.Module):
    def __init__(
        self, dim: int, ffn_dim: int, freq_dim: int, text_dim: int, in_dim: int, num_heads: int, num_layers: int
    ):
        super().__init__()
        self.freq_dim, self.head_dim = freq_dim, dim // num_heads
        self.patch_embedding = nn.Conv3d(in_dim, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, ffn_dim, num_heads) for _ in range(num_layers))
        self.head = Head(dim, 4 * in_dim)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Latents [B, C, T, h, w], one timestep a token [B, L], text [B, S, text_dim] -> velocity."""
        x = self.patch_embedding(x)
        T, h, w = x.shape[2:]
        freqs = self._frequencies(T, h, w)
        half = self.freq_dim // 2
        angles = t.double()[..., None] * torch.pow(10000, -torch.arange(half).double() / half)
        e = self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).float())  # [B, L, D]
        e0 = self.time_projection(e).unflatten(2, (6, -1))
        context = self.text_embedding(context)
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, e0, freqs, context)
        return rearrange(self.head(x, e), "b (t h w) (p q c) -> b c t (h p) (w q)", t=T, h=h, w=w, p=2, q=2)

    def _frequencies(self, T: int, h: int, w: int) -> Tensor:
        d = self.head_dim
        tables = []
        for size, dim in ((T, d - 4 * (d // 6)), (h, 2 * (d // 6)), (w, 2 * (d // 6))):
            angles = torch.outer(torch.arange(size), 1 / torch.pow(10000, torch.arange(0, dim, 2).double() / dim))
            tables.append(torch.polar(torch.ones_like(angles), angles))
        time, row, column = tables
        grid = (
            time[:, None, None].expand(T, h, w, -1),
            row[None, :, None].expand(T, h, w, -1),
            column[None, None, :].expand(T, h, w, -1),
        )
        return torch.cat(grid, dim=-1).reshape(T * h * w, -1)


# The text encoder


class T5LayerNorm(RMSNorm):
    pass


class T5Attention(nn.Module):
    def __init__(self, dim: int, dim_attn: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(dim, dim_attn, bias=False) for _ in range(3))
        self.o = nn.Linear(dim_attn, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (rearrange(f(x), "b l (n c) -> b n l c", n=self.num_heads) for f in (self.q, self.k, self.v))
        attention = (q @ k.transpose(-1, -2) + bias).softmax(-1)  # T5 does not scale
        return self.o(rearrange(attention @ v, "b n l c -> b l (n c)"))


class T5FeedForward(nn.Module):
    def __init__(self, dim: int, dim_ffn: int):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, dim_ffn, bias=False), nn.GELU(approximate="tanh"))
        self.fc1 = nn.Linear(dim, dim_ffn, bias=False)
        self.fc2 = nn.Linear(dim_ffn, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x) * self.gate(x))


class T5RelativeEmbedding(nn.Module):
    def __init__(self, num_buckets: int, num_heads: int):
        super().__init__()
        self.num_buckets = num_buckets
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def forward(self, length: int) -> Tensor:
        position = torch.arange(length)
        distance = position[None] - position[:, None]
        buckets = self.num_buckets // 2
        exact = buckets // 2
        near = distance.abs()
        far = exact + (torch.log(near.float() / exact) / math.log(128 / exact) * (buckets - exact)).long()
        bucket = (distance > 0) * buckets + torch.where(near < exact, near, far.clamp(max=buckets - 1))
        return self.embedding(bucket).permute(2, 0, 1)[None]


class T5Block(nn.Module):
    def __init__(self, dim: int, dim_attn: int, dim_ffn: int, num_heads: int, num_buckets: int):
        super().__init__()
        self.norm1, self.attn = T5LayerNorm(dim), T5Attention(dim, dim_attn, num_heads)
        self.norm2, self.ffn = T5LayerNorm(dim), T5FeedForward(dim, dim_ffn)
        self.pos_embedding = T5RelativeEmbedding(num_buckets, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.pos_embedding(x.shape[1]))
        return x + self.ffn(self.norm2(x))


class T5Encoder(nn.Module):
    def __init__(self, vocab: int, dim: int, dim_attn: int, dim_ffn: int, num_heads: int, num_layers: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(T5Block(dim, dim_attn, dim_ffn, num_heads, 32) for _ in range(num_layers))
        self.norm = T5LayerNorm(dim)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


# The VAE


class CausalConv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        time, height, width = self.padding
        x = F.pad(x, (width, width, height, height, 2 * time, 0))
        return F.conv3d(x, self.weight, self.bias, self.stride)


class ChannelNorm(nn.Module):
    def __init__(self, dim: int, images: bool):
        super().__init__()
        self.scale, self.gamma = dim**0.5, nn.Parameter(torch.ones(dim, *(1,) * (2 if images else 3)))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale * self.gamma


class ResidualBlock(nn.Module):
    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(in_dim, images=False),
            nn.SiLU(),
            CausalConv3d(in_dim, out_dim, 3, padding=1),
            ChannelNorm(out_dim, images=False),
            nn.SiLU(),
            nn.Dropout(0.0),
            CausalConv3d(out_dim, out_dim, 3, padding=1),
        )
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class AttentionBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.norm = ChannelNorm(dim, images=True)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        frame = x[:, :, 0]
        h, w = frame.shape[2:]
        qkv = self.to_qkv(self.norm(frame)).flatten(2).transpose(1, 2)
        out = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        return x + self.proj(rearrange(out, "b (h w) c -> b c h w", h=h, w=w)).unsqueeze(2)


class Resample(nn.Module):
    """A single frame passes the spatial part only; `time_conv` starts with the second chunk."""

    def __init__(self, dim: int, up: bool, temporal: bool):
        super().__init__()
        if up:
            self.resample = nn.Sequential(
                nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(dim, dim, 3, padding=1)
            )
        else:
            self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        if temporal:
            self.time_conv = CausalConv3d(dim, dim * (2 if up else 1), (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x[:, :, 0]).unsqueeze(2)


class Stage(nn.Module):
    def __init__(self, in_dim: int, out_dim: int, blocks: int, up: bool, last: bool, temporal: bool):
        super().__init__()
        self.up, self.last, self.temporal, self.out_dim = up, last, temporal, out_dim
        layers: list[nn.Module] = [ResidualBlock(in_dim if i == 0 else out_dim, out_dim) for i in range(blocks)]
        if not last:
            layers.append(Resample(out_dim, up, temporal))
        setattr(self, "upsamples" if up else "downsamples", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        y = (self.upsamples if self.up else self.downsamples)(x)
        if self.up:
            return y if self.last else y + self._repeat(x)
        return y + self._average(x)

    def _average(self, x: Tensor) -> Tensor:
        time, space = (2 if self.temporal else 1), (1 if self.last else 2)
        x = F.pad(x, (0, 0, 0, 0, time - 1, 0))
        x = rearrange(x, "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=time, j=space, k=space)
        return x.unflatten(1, (self.out_dim, -1)).mean(2)

    def _repeat(self, x: Tensor) -> Tensor:
        time = 2 if self.temporal else 1
        x = x.repeat_interleave(self.out_dim * time * 4 // x.shape[1], dim=1)
        x = rearrange(x, "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=time, j=2, k=2)
        return x[:, :, time - 1 :]


def _middle(dim: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(dim, dim), AttentionBlock(dim), ResidualBlock(dim, dim))


class Coder(nn.Module):
    """The encoder (`up=False`) or the decoder."""

    def __init__(self, dims: list[int], in_dim: int, out_dim: int, blocks: int, temporal: list[bool], up: bool):
        super().__init__()
        self.up = up
        self.conv1 = CausalConv3d(in_dim, dims[0], 3, padding=1)
        last = len(dims) - 2
        stages = [
            Stage(a, b, blocks, up, i == last, i < last and temporal[i]) for i, (a, b) in enumerate(pairwise(dims))
        ]
        setattr(self, "upsamples" if up else "downsamples", nn.Sequential(*stages))
        self.middle = _middle(dims[0] if up else dims[-1])
        self.head = nn.Sequential(
            ChannelNorm(dims[-1], images=False), nn.SiLU(), CausalConv3d(dims[-1], out_dim, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.upsamples(self.middle(x)) if self.up else self.middle(self.downsamples(x))
        return self.head(x)


class WanVAE(nn.Module):
    def __init__(
        self, dim: int, dec_dim: int, z_dim: int, dim_mult: list[int], num_res_blocks: int, temporal: list[bool]
    ):
        super().__init__()
        up = [dec_dim * m for m in (dim_mult[-1], *dim_mult[::-1])]
        self.encoder = Coder([dim * m for m in (1, *dim_mult)], 12, 2 * z_dim, num_res_blocks, temporal, up=False)
        self.conv1 = CausalConv3d(z_dim * 2, z_dim * 2, 1)
        self.conv2 = CausalConv3d(z_dim, z_dim, 1)
        self.decoder = Coder(up, z_dim, 12, num_res_blocks + 1, temporal[::-1], up=True)

    def encode(self, frame: Tensor) -> Tensor:
        """One frame [B, 3, 1, H, W] -> raw latents [B, C, 1, h, w], the distribution's mode."""
        x = rearrange(frame, "b c f (h q) (w r) -> b (c r q) f h w", q=2, r=2)
        return self.conv1(self.encoder(x)).chunk(2, dim=1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, 1, h, w] -> one frame [B, 3, 1, H, W], not clamped."""
        return rearrange(self.decoder(self.conv2(latents)), "b (c r q) f h w -> b c f (h q) (w r)", q=2, r=2)
