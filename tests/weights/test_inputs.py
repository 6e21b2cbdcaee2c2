"""The files of `python -m tests.inputs`, made here: each is read as it should be, and a line says so."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from tests.inputs import weights

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9999999\n".format("0" * 64)


def pair(module: str, words: tuple[str, str], inputs: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(inputs)
    down, up = torch.randn(4, inputs, generator=generator), torch.randn(48, 4, generator=generator)
    return {f"{module}.{words[0]}.weight": down, f"{module}.{words[1]}.weight": up}


def test_every_file_of_weights_is_read_as_it_should_be(tmp_path):
    (tmp_path / "lfs_pointer.safetensors").write_text(POINTER)
    words = ("lora_A", "lora_B")
    state = pair("transformer.blocks.0.attn1.to_q", words, 48) | pair("transformer.blocks.1.ffn.net.2", words, 64)
    header = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.target_modules": ["to_q"]})
    file = tmp_path / "diffusers_alpha_in_header.safetensors"
    save_file(state, file, metadata={"format": "pt", "lora_adapter_metadata": header})
    layer, words = "diffusion_model.blocks.0.self_attn.q", ("lora_down", "lora_up")
    state = pair(layer, words, 48) | pair("diffusion_model.blocks.1.ffn.2", words, 64)
    state |= {f"{layer}.alpha": torch.tensor(2.0), "diffusion_model.blocks.1.ffn.2.alpha": torch.tensor(2.0)}
    state |= {f"{layer}.diff_b": torch.randn(48), "diffusion_model.blocks.0.norm3.diff": torch.randn(48)}
    save_file(state, tmp_path / "with_bias_diffs.safetensors")
    found = list(weights.lines(tmp_path))
    assert len(found) == 3
    assert all(agrees for *_, agrees in found), found
