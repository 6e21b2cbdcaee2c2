"""`python -m train init`: a model directory to train from nothing, with a tokenizer learnt from the data's captions."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from wanact.errors import TakenError, UserError
from wanact.files import place, replacing_folder, write_json
from wanact.flow import SigmaGrid
from wanact.models import presets
from wanact.models.components import without_bars
from wanact.weights.layouts import METADATA
from wanact.weights.model_dir import check_defaults, load_part

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

# What a world that learns from the simulator can draw and cannot, in words for visitors.
DRAWS = (
    "This small world knows drawn landscapes from the air: hills, coasts, canyons, fields, cities. Of a photograph it "
    "keeps colours and rough shapes for a second or two; faces, things and rooms turn into land and sky."
)


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, so that any text has tokens, ending each caption as UMT5 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def read_captions(path: Path) -> list[str]:
    """The column `prompt` of a CSV.

    Raises:
        UserError: if it is damaged, or there is nothing to learn from.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            captions = [row.get("prompt") for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--captions {path} is damaged: {error}") from error
    if not any(captions):
        raise UserError(f"--captions {path} has no captions; expected a CSV with a column prompt")
    return [caption for caption in captions if caption]


def main(argv: list[str] | None = None) -> None:
    """Write a model directory with random weights (and a trained VAE, if one is given)."""
    parser = argparse.ArgumentParser(prog="python -m train init", description=main.__doc__)
    parser.add_argument("--preset", choices=sorted(presets.PRESETS), default="nano")
    parser.add_argument("--out", type=place, required=True, help="model directory to write")
    parser.add_argument("--captions", type=place, required=True, help="metadata file of the data: a CSV with prompt")
    parser.add_argument("--vae", type=place, help="folder of a trained VAE; random weights if not given")
    parser.add_argument("--vocab_size", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--num_inference_steps", type=int, default=8)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--flow_shift", type=float, default=3.0)
    grids = get_args(SigmaGrid)
    parser.add_argument("--sigma_grid", choices=grids, default="from_one", help="where denoising begins; wan: at 0.999")
    parser.add_argument("--max_sequence_length", type=int, default=32)
    args = parser.parse_args(argv)
    if args.out.exists():
        raise TakenError(f"{args.out} exists; name a new folder for --out")
    if args.vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"--vocab_size {args.vocab_size} must be at least {SMALLEST_VOCABULARY}: each byte is a token of its own"
        )
    names = "height width num_frames num_inference_steps guidance_scale flow_shift max_sequence_length".split()
    defaults = {name: getattr(args, name) for name in names}
    defaults |= {"fps": 16, "negative_prompt": "", "rest": "hold", "sigma_grid": args.sigma_grid}
    defaults |= {"text_to_video": False, "perturbed_layers": []}  # it is trained on what follows a first frame
    check_defaults(defaults, args.out / METADATA)
    tokenizer = train_tokenizer(read_captions(args.captions), args.vocab_size)
    torch.manual_seed(args.seed)
    vae = load_part("vae", args.vae) if args.vae else presets.random_vae(args.preset)
    pipeline = presets.pipeline_of(
        presets.random_transformer(args.preset),
        vae,
        presets.random_text_encoder(args.preset, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1),
        tokenizer,
        args.flow_shift,
        **presets.PRESETS[args.preset].get("scheduler", {}),
    )
    with replacing_folder(args.out, overwrite=False) as temporary:
        with without_bars():
            pipeline.save_pretrained(temporary)
        write_json(temporary / METADATA, {"name": args.preset, "draws": DRAWS, "defaults": defaults})
    print(f"{args.out}: {args.preset}, {sum(p.numel() for p in pipeline.transformer.parameters()):,} parameters")
