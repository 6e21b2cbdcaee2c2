"""The sizes we know by name, and models of such a size with random weights.

`ti2v_5b` is Wan2.2-TI2V-5B; `nano` has the same classes and options at about a thousandth of its parameters.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from torch import nn
from transformers import PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

TRANSFORMER = {
    "patch_size": [1, 2, 2],
    "in_channels": 48,
    "out_channels": 48,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
}
VAE = {
    "z_dim": 48,
    "is_residual": True,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 48,  # statistics of the trained VAE replace these
    "latents_std": [1.0] * 48,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ti2v_5b": {
        "transformer": {
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "num_layers": 30,
            "ffn_dim": 14336,
            "text_dim": 4096,
            "freq_dim": 256,
        },
        "vae": {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "temperal_downsample": [False, True, True],
        },
        "text_encoder": {"vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
    },
    # Pixels go into the VAE as 4x4 patches instead of 2x2: one stage less at the highest resolution, where a CPU
    # spends most of its time.
    "nano": {
        "transformer": {
            "num_attention_heads": 4,
            "attention_head_dim": 48,
            "num_layers": 8,
            "ffn_dim": 768,
            "text_dim": 64,
            "freq_dim": 128,
        },
        "vae": {
            "base_dim": 48,
            "decoder_base_dim": 48,
            "dim_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "in_channels": 48,
            "out_channels": 48,
            "patch_size": 4,
            "temperal_downsample": [True, True],
        },
        "text_encoder": {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0},
    },
}


def random_transformer(preset: str, **changes: Any) -> WanTransformer3DModel:
    """An untrained transformer of this size; draw order follows torch's global seed."""
    return WanTransformer3DModel(**TRANSFORMER | PRESETS[preset]["transformer"] | changes)


def random_vae(preset: str, **changes: Any) -> AutoencoderKLWan:
    """An untrained VAE of this size. Residual branches start at zero, so that it starts as a shallow linear map."""
    vae = AutoencoderKLWan(**VAE | PRESETS[preset]["vae"] | changes)
    for name, module in vae.named_modules():
        if name.endswith(".conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return vae


def random_text_encoder(preset: str, **changes: Any) -> UMT5EncoderModel:
    """An untrained UMT5 encoder of this size."""
    return UMT5EncoderModel(UMT5Config(**PRESETS[preset]["text_encoder"] | changes))


def pipeline_of(
    transformer: nn.Module,
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    flow_shift: float,
) -> WanImageToVideoPipeline:
    """Stock diffusers' pipeline around these parts: `save_pretrained` writes a model directory."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)
    return WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=transformer,
        expand_timesteps=True,
    )
