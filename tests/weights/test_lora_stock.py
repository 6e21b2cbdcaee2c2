"""A LoRA changes a forward pass as stock diffusers and peft change it, in every convention that trainers write.

python -m tests.weights.test_lora_stock     # prints the largest difference of each
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny_model import build_pipeline, build_transformer
from wanact.models.overlay import Overlay
from wanact.weights.lora import read_lora
from wanact.weights.transformer import NAMES

TOLERANCE = 1e-5
RANK = 4
LAYERS = [
    *(f"attn{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ffn.net.0.proj", "ffn.net.2"),
]
Case = Callable[[Path], tuple[Path, Callable[[], Any]]]


def forward(transformer: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 48, 3, 4, 4, generator=generator)
    context = torch.randn(1, 8, 32, generator=generator)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500.0]), context, return_dict=False)[0]


def stock(path: Path | dict[str, Tensor], metadata: dict[str, Any] | None = None) -> WanTransformer3DModel:
    """The tiny transformer with a LoRA that stock diffusers has loaded; what it ignores counts as a mistake here."""
    pipeline = build_pipeline()
    if metadata is None:
        # Else what a file lacks (a bias here, none there) is left on the meta device.
        pipeline.load_lora_weights(path, low_cpu_mem_usage=False)
    else:
        pipeline.transformer.load_lora_adapter(path, prefix="transformer", metadata=metadata)
    assert pipeline.transformer.peft_config, "stock diffusers has loaded nothing"
    return pipeline.transformer


def adapted(**settings: Any) -> tuple[WanTransformer3DModel, dict[str, Tensor]]:
    """A transformer that wears a random adapter of these settings, and the adapter's weights as peft names them."""
    transformer = build_transformer()
    transformer.add_adapter(LoraConfig(r=RANK, target_modules=LAYERS, init_lora_weights=False, **settings), "default")
    shake(transformer)
    return transformer, get_peft_model_state_dict(transformer)


def shake(network: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


def pairs(names: Callable[[str], str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """A layer's name in some convention, down and up matrix, of every layer of the tiny transformer."""
    generator = torch.Generator().manual_seed(2)
    shapes = {name: tensor.shape for name, tensor in build_transformer().state_dict().items()}
    for block in range(2):
        for layer in LAYERS:
            module = f"blocks.{block}.{layer}"
            out, into = shapes[f"{module}.weight"]
            down, up = torch.randn(RANK, into, generator=generator), torch.randn(out, RANK, generator=generator)
            yield names(module), down * 0.2, up * 0.2


def wan_name(module: str) -> str:
    return str(NAMES.to_original(f"{module}.weight")).removesuffix(".weight")


def written(folder: Path, state: dict[str, Tensor], **metadata: str) -> Path:
    path = folder / "lora.safetensors"
    save_file(state, path, metadata=metadata or None)
    return path


# Each writes a file or folder, and says what stock diffusers or peft makes of it.


def diffusers(folder: Path):
    state = {f"transformer.{n}.lora_{side}.weight": t for n, a, b in pairs(str) for side, t in (("A", a), ("B", b))}
    path = written(folder, state)
    return path, lambda: stock(path)


def diffusers_former_words(folder: Path):
    words = (("down", 1), ("up", 2))
    layers = [pair for pair in pairs(str) if "attn" in pair[0]]
    path = written(folder, {f"transformer.{p[0]}.lora.{word}.weight": p[i] for p in layers for word, i in words})
    return path, lambda: stock(path)


def diffusers_header(settings: dict[str, Any]) -> Case:
    def case(folder: Path):
        transformer, state = adapted(**settings)
        WanImageToVideoPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=state,
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
        return folder, lambda: stock(folder)

    return case


def wan(folder: Path):
    state = {
        f"diffusion_model.{n}.lora_{side}.weight": t for n, a, b in pairs(wan_name) for side, t in (("A", a), ("B", b))
    }
    path = written(folder, state)
    return path, lambda: stock(path)


def kohya_state(alpha: float) -> dict[str, Tensor]:
    state = {}
    for name, down, up in pairs(wan_name):
        state[f"diffusion_model.{name}.lora_down.weight"] = down
        state[f"diffusion_model.{name}.lora_up.weight"] = up
        state[f"diffusion_model.{name}.alpha"] = torch.tensor(alpha)
    return state


def kohya(folder: Path):
    path = written(folder, kohya_state(2.0))
    return path, lambda: stock(path)


def differences(folder: Path):
    """As extracted from distilled models: biases, the head as a whole, norms that stock diffusers leaves out."""
    generator = torch.Generator().manual_seed(3)
    weights = build_transformer().state_dict()
    state = kohya_state(1.0)

    def random(name: str) -> Tensor:
        return torch.randn(weights[name].shape, generator=generator) * 0.1

    state |= {
        f"diffusion_model.{wan_name(f'blocks.{block}.{layer}')}.diff_b": random(f"blocks.{block}.{layer}.bias")
        for block in range(2)
        for layer in LAYERS
    }
    state["diffusion_model.head.head.diff"] = random("proj_out.weight")
    state["diffusion_model.head.head.diff_b"] = random("proj_out.bias")
    state["diffusion_model.time_projection.1.diff_b"] = random("condition_embedder.time_proj.bias")
    state["diffusion_model.blocks.0.norm3.diff"] = random("blocks.0.norm2.weight")
    state["diffusion_model.blocks.0.norm3.diff_b"] = random("blocks.0.norm2.bias")
    state["diffusion_model.blocks.0.self_attn.norm_q.diff"] = random("blocks.0.attn1.norm_q.weight")
    state["diffusion_model.patch_embedding.diff_b"] = random("patch_embedding.bias")
    path = written(folder, state)
    return path, lambda: stock(path)


def musubi(folder: Path):
    state = {}
    for name, down, up in pairs(lambda module: "lora_unet_" + wan_name(module).replace(".", "_")):
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    path = written(folder, state)
    return path, lambda: stock(path)


def peft_folder(settings: dict[str, Any], name: str = "default") -> Case:
    def case(folder: Path):
        config = LoraConfig(r=RANK, target_modules=LAYERS, init_lora_weights=False, **settings)
        model = get_peft_model(build_transformer(), config, adapter_name=name)
        shake(model)
        model.save_pretrained(folder)
        where = folder if name == "default" else folder / name
        return where, lambda: PeftModel.from_pretrained(build_transformer(), where).base_model.model

    return case


def peft_file(folder: Path):
    """The file inside peft's folder, named itself."""
    where, load = peft_folder({"lora_alpha": 16})(folder)
    return where / "adapter_model.safetensors", load


def named(adapter: str, prefix: str) -> Case:
    """Names that stock diffusers takes only without the adapter's: DiffSynth's, and peft's inside a network."""

    def case(folder: Path):
        plain = {f"{n}.lora_{side}": t for n, a, b in pairs(wan_name) for side, t in (("A", a), ("B", b))}
        path = written(folder, {f"{prefix}{n}.{adapter}.weight": t for n, t in plain.items()})
        return path, lambda: stock({f"diffusion_model.{n}.weight": t for n, t in plain.items()})

    return case


PATTERNS = {"lora_alpha": 16, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"blocks.1.ffn.net.2": 3, "to_v": 1}}
CASES: dict[str, Case] = {
    "diffusers": diffusers,
    "diffusers, lora.down and lora.up": diffusers_former_words,
    "diffusers, alpha in the header": diffusers_header({"lora_alpha": 16}),
    "diffusers, patterns in the header": diffusers_header(PATTERNS),
    "diffusers, rslora in the header": diffusers_header({"lora_alpha": 16, "use_rslora": True}),
    "diffusers, biases and alpha": diffusers_header({"lora_alpha": 16, "lora_bias": True}),
    "Wan's names": wan,
    "kohya": kohya,
    "kohya with diff and diff_b": differences,
    "musubi": musubi,
    "peft's folder": peft_folder({"lora_alpha": 16}),
    "peft's folder, patterns": peft_folder(PATTERNS),
    "peft's folder, rslora": peft_folder({"lora_alpha": 16, "use_rslora": True}),
    "peft's folder, biases": peft_folder({"lora_alpha": 16, "lora_bias": True}),
    "peft's folder of a named adapter": peft_folder({"lora_alpha": 16}, "style"),
    "peft's file": peft_file,
    "DiffSynth": named("default", ""),
    "DiffSynth, in a pipeline": named("default", "pipe.dit."),
    "a named adapter": named("style", "base_model.model."),
}


def difference(case: Case, folder: Path) -> tuple[float, float]:
    """Largest difference of one forward pass to stock, and how far the LoRA moves it from the base."""
    path, load = case(folder)
    ours = build_transformer()
    base = forward(ours)
    Overlay(ours).apply(lora=read_lora(path))
    moved = forward(ours)
    return float((moved - forward(load())).abs().max()), float((moved - base).abs().max())


@pytest.mark.parametrize("name", CASES)
def test_one_forward_pass_is_that_of_stock(name, tmp_path):
    error, moved = difference(CASES[name], tmp_path)
    assert error < TOLERANCE
    assert moved > 1e-2, "the LoRA does something"


def test_a_header_that_names_one_layer_counts_for_all(tmp_path):
    """As in a file that diffusers wrote of an adapter whose layers were added to by hand."""
    state = load_file(diffusers(tmp_path)[0])
    header = '{"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.target_modules": ["to_q"]}'
    path = written(tmp_path, state, lora_adapter_metadata=header)
    ours = build_transformer()
    Overlay(ours).apply(lora=read_lora(path))
    assert (forward(ours) - forward(stock(path))).abs().max() < TOLERANCE


def main() -> int:
    """Print the largest difference of every convention; 1 if one is not below the tolerance."""
    errors = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            error, moved = difference(case, Path(folder))
        errors.append(error)
        print(f"{name:36} largest difference {error:.1e}, of a change of {moved:.1e}")
    print(f"largest of all {max(errors):.1e}, below {TOLERANCE:g}: {max(errors) < TOLERANCE}")
    return int(max(errors) >= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
