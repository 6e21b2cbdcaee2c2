"""A Wan2.2-TI2V-5B in everything but size, with random weights: what the tests fly and train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

LATENT_CHANNELS = 48
TEXT_DIM = 32

CAPTIONS = [
    "a drone flies over snowy mountains at dusk",
    "green hills and a lake at noon, fog in the valley",
    "a desert town with white houses in the evening sun",
]

DEFAULTS = {
    "height": 64,
    "width": 96,
    "num_frames": 17,
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "fps": 16,
    "flow_shift": 5.0,
    "max_sequence_length": 16,
    "negative_prompt": "",
    "rest": "draw",
}


def build_vae(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    return AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        # Neither 0 nor 1, so that forgetting to normalise shows.
        latents_mean=torch.linspace(-0.2, 0.2, LATENT_CHANNELS).tolist(),
        latents_std=torch.linspace(0.5, 1.5, LATENT_CHANNELS).tolist(),
    ).eval()


def build_transformer(seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    ).eval()


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def build_text_encoder(vocab_size: int, seed: int = 0) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config).eval()


def build_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=DEFAULTS["flow_shift"]
    )


def build_pipeline(seed: int = 0) -> WanImageToVideoPipeline:
    """Stock diffusers on the tiny components."""
    tokenizer = build_tokenizer()
    return WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer), seed),
        vae=build_vae(seed),
        scheduler=build_scheduler(),
        transformer=build_transformer(seed),
        expand_timesteps=True,
    )


def on_wans_grid(pipeline: DiffusionPipeline) -> None:
    """Let a stock pipeline denoise from 1 - 1/1000, as Wan's own solver does."""
    set_timesteps = pipeline.scheduler.set_timesteps

    def from_below_one(num_inference_steps=None, device=None):
        set_timesteps(sigmas=np.linspace(1 - 1 / 1000, 0, num_inference_steps + 1)[:-1], device=device)

    pipeline.scheduler.set_timesteps = from_below_one


def save_model_dir(path: Path, seed: int = 0, **defaults: object) -> Path:
    """Write a tiny model directory in the diffusers layout with its metadata.json.

    Args:
        path: the directory, made if missing.
        seed: another seed gives other weights.
        defaults: replace single entries of metadata.json's defaults.
    """
    build_pipeline(seed).save_pretrained(path)
    generator = torch.Generator().manual_seed(seed)
    rgb_weight = torch.randn(LATENT_CHANNELS, 3, generator=generator) * 0.1
    metadata = {
        "name": "tiny",
        "defaults": DEFAULTS | defaults,
        "latent_rgb": {"weight": rgb_weight.tolist(), "bias": [0.0, 0.0, 0.0]},
    }
    (path / "metadata.json").write_text(json.dumps(metadata, indent=2))
    return path
