"""Models of a known size with random weights: speed does not ask what is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from wanact.flying.pipeline import WanActPipeline
from wanact.flying.placement_options import NOTHING_SPECIAL, FitOptions
from wanact.models import presets
from wanact.models.components import assemble, default_scheduler
from wanact.weights.model_dir import DEFAULTS, Components

# What a clip of each size is by default; the 5B model's is DEFAULTS.
SETTINGS: dict[str, dict[str, Any]] = {
    "ti2v_5b": {},
    "nano": {
        "height": 96,
        "width": 160,
        "num_inference_steps": 8,
        "guidance_scale": 2.0,
        "flow_shift": 3.0,
        "sigma_grid": "from_one",
        "max_sequence_length": 32,
    },
}

# The text encoder is one thin layer: its own 5.7 B parameters would take longer to draw than a clip.
THIN = {"num_layers": 1, "num_heads": 1, "d_kv": 64, "d_ff": 64, "dropout_rate": 0.0, "pad_token_id": 0}


def random_pipeline(
    preset: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    fit: FitOptions = NOTHING_SPECIAL,
    seed: int = 0,
) -> WanActPipeline:
    """A pipeline of one of `presets.PRESETS` that draws noise at the speed of the real one.

    Args:
        preset: ti2v_5b or nano.
        device, dtype, fit: as in `WanActPipeline.from_model_dir`. A cache of prompts is left out: there is no encoder
            worth dropping.
    """
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    start = torch.device("cpu") if fit.offload != "none" else device
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    with _drawing_in(dtype), start:
        transformer = presets.random_transformer(preset)
        vae = presets.random_vae(preset)
        encoder = presets.random_text_encoder(preset, vocab_size=len(tokenizer), eos_token_id=1, **THIN)
    components = Components(
        transformer=assemble("transformer", dict(transformer.config), transformer.state_dict(), dtype).to(start),
        vae=assemble("vae", dict(vae.config) | {"_class_name": type(vae).__name__}, vae.state_dict(), dtype),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        scheduler=default_scheduler(SETTINGS[preset].get("flow_shift", DEFAULTS["flow_shift"])),
        metadata={"name": f"random {preset}", "defaults": DEFAULTS | SETTINGS[preset]},
        path=Path(f"random-{preset}"),
    )
    return WanActPipeline(components, device, replace(fit, text_cache=None))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text has tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


class _drawing_in:
    """Random weights in this type from the start, so that no copy in float32 is ever there."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(self.before)
