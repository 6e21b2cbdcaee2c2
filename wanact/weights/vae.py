"""The VAE of Wan 2.2: names of `WanVAE_` (wan/modules/vae2_2.py), and diffusers'.

DiffSynth puts `model.` before the original names. The latents' means and deviations lie in the original code and not
among the weights; `LATENTS_MEAN` and `LATENTS_STD` are those of the release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from wanact.errors import UserError
from wanact.models.components import from_config
from wanact.models.presets import LATENTS_MEAN, LATENTS_STD, VAE
from wanact.weights.names import NameMap

_RESIDUAL = {
    "residual.0.*": "norm1.*",
    "residual.2.*": "conv1.*",
    "residual.3.*": "norm2.*",
    "residual.6.*": "conv2.*",
    "shortcut.*": "conv_shortcut.*",
}


def _side(side: str, down: str, block: str) -> dict[str, str]:
    """The encoder's or the decoder's names; `{n}` and `{m}` are the residual blocks of a stage."""
    count = "{n}" if side == "encoder" else "{m}"
    stage = f"{side}.{down}s.{{i}}.{down}s"
    resampler = f"{side}.{block}s.{{i}}.{down}r"
    middle = {"middle.0": "mid_block.resnets.0", "middle.2": "mid_block.resnets.1"}
    return {
        f"{side}.conv1.*": f"{side}.conv_in.*",
        f"{side}.head.0.*": f"{side}.norm_out.*",
        f"{side}.head.2.*": f"{side}.conv_out.*",
        **{f"{side}.{a}.{c}": f"{side}.{b}.{d}" for a, b in middle.items() for c, d in _RESIDUAL.items()},
        **{f"{side}.middle.1.{x}.*": f"{side}.mid_block.attentions.0.{x}.*" for x in ("norm", "to_qkv", "proj")},
        **{f"{stage}.{{j}}.{c}": f"{side}.{block}s.{{i}}.resnets.{{j}}.{d}" for c, d in _RESIDUAL.items()},
        f"{stage}.{count}.resample.1.*": f"{resampler}.resample.1.*",
        f"{stage}.{count}.time_conv.*": f"{resampler}.time_conv.*",
    }


NAMES = NameMap(
    {
        **_side("encoder", "downsample", "down_block"),
        **_side("decoder", "upsample", "up_block"),
        "conv1.*": "quant_conv.*",
        "conv2.*": "post_quant_conv.*",
    }
)

_RESNETS = {
    "n": r"encoder\.(?:downsamples\.\d+\.downsamples\.(\d+)\.residual|down_blocks\.\d+\.resnets\.(\d+))\.",
    "m": r"decoder\.(?:upsamples\.\d+\.upsamples\.(\d+)\.residual|up_blocks\.\d+\.resnets\.(\d+))\.",
}


def counts(names: Iterable[str]) -> dict[str, int]:
    """Residual blocks of a stage in encoder (n) and decoder (m), from names of either convention."""
    found: dict[str, int] = {}
    for name in names:
        for key, pattern in _RESNETS.items():
            if match := re.search(pattern, name):
                found[key] = max(found.get(key, 0), int(match[1] or match[2]) + 1)
    return {"n": 2, "m": 3} | found


def infer_config(shapes: Mapping[str, Sequence[int]], hints: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' configuration from the shapes of the weights (diffusers' names).

    Args:
        hints: `latents_mean` and `latents_std`, where they are not those of the release.

    Raises:
        KeyError: if a weight that it is read from is missing.
        ValueError: if the channels are those of no known patch size, or a hint is of another length.
    """
    base_dim, in_channels = shapes["encoder.conv_in.weight"][:2]
    patch_size = round((in_channels / 3) ** 0.5)
    if 3 * patch_size**2 != in_channels:
        raise UserError(f"{in_channels} input channels are not 3 * patch_size**2")
    num_stages = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down_blocks."))
    widths = [shapes[f"encoder.down_blocks.{stage}.resnets.0.conv1.weight"][0] for stage in range(num_stages)]
    temporal = [
        f"encoder.down_blocks.{stage}.downsampler.time_conv.weight" in shapes for stage in range(num_stages - 1)
    ]
    z_dim = shapes["post_quant_conv.weight"][0]
    config = VAE | {
        "base_dim": base_dim,
        "decoder_base_dim": shapes["decoder.norm_out.gamma"][0],
        "dim_mult": [width // base_dim for width in widths],
        "num_res_blocks": counts(shapes)["n"],
        "temperal_downsample": temporal,
        "z_dim": z_dim,
        "in_channels": in_channels,
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "patch_size": patch_size,
        "scale_factor_spatial": patch_size * 2 ** (num_stages - 1),
        "scale_factor_temporal": 2 ** sum(temporal),
    }
    if z_dim == len(LATENTS_MEAN):
        config |= {"latents_mean": list(LATENTS_MEAN), "latents_std": list(LATENTS_STD)}
    for name in ("latents_mean", "latents_std"):
        if name in hints:
            if not isinstance(hints[name], list) or len(hints[name]) != z_dim:
                raise UserError(f"{name} must be a list of {z_dim} numbers, one a channel")
            config[name] = hints[name]
    return config


def build(config: Mapping[str, Any]) -> AutoencoderKLWan:
    """An empty VAE; on the meta device if that is the default one."""
    return from_config(AutoencoderKLWan, config)
