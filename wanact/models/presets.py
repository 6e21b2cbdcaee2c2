"""The sizes we know by name, and models of such a size with random weights.

`ti2v_5b` is Wan2.2-TI2V-5B; `nano` has the same transformer at about a thousandth of its parameters, and an autoencoder
of its own kind.
"""

from __future__ import annotations

from typing import Any, Literal

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import nn
from transformers import PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from wanact.models.lapped import AutoencoderLapped

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

# Of Wan2.2's VAE. They lie in its code (wan/modules/vae2_2.py), not among its weights.
LATENTS_MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
LATENTS_STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)

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
            "latents_mean": list(LATENTS_MEAN),
            "latents_std": list(LATENTS_STD),
        },
        "text_encoder": {"vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
    },
    # The bundled world, at 192x320: patches of 2x2 latents as in the 5B, 60 tokens a latent frame. It predicts
    # velocities, too: one that predicts clean latents learns coarse things a little sooner and fine ones far later.
    "nano": {
        "transformer": {
            "num_attention_heads": 6,
            "attention_head_dim": 64,
            "num_layers": 8,
            "ffn_dim": 1152,
            "text_dim": 96,
            "freq_dim": 128,
        },
        "vae": {"_class_name": AutoencoderLapped.__name__, "width": 64, "depth": 4, "smooth_seams": True},
        "text_encoder": {"d_model": 96, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0},
    },
}


def random_transformer(preset: str, **changes: Any) -> WanTransformer3DModel:
    """An untrained transformer of this size; draw order follows torch's global seed."""
    return WanTransformer3DModel(**TRANSFORMER | PRESETS[preset]["transformer"] | changes)


def random_vae(preset: str, **changes: Any) -> AutoencoderKLWan | AutoencoderLapped:
    """An untrained VAE of this size.

    Residual branches start at zero: an AutoencoderKLWan starts as a shallow linear map, an AutoencoderLapped as
    windowed cosines that decode smooth pictures well.
    """
    config = PRESETS[preset]["vae"] | changes
    if config.get("_class_name") == AutoencoderLapped.__name__:
        return AutoencoderLapped(**{name: value for name, value in config.items() if name != "_class_name"})
    vae = AutoencoderKLWan(**VAE | config)
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
    vae: AutoencoderKLWan | AutoencoderLapped,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    flow_shift: float,
    prediction_type: Literal["flow_prediction", "sample"] = "flow_prediction",
) -> WanImageToVideoPipeline:
    """Stock diffusers' pipeline around these parts: `save_pretrained` writes a model directory."""
    scheduler = UniPCMultistepScheduler(prediction_type=prediction_type, use_flow_sigmas=True, flow_shift=flow_shift)
    parts: dict[str, Any] = {  # it takes more classes than it declares
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "vae": vae,
        "scheduler": scheduler,
        "transformer": transformer,
    }
    return WanImageToVideoPipeline(**parts, expand_timesteps=True)
