import argparse
import time

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_model import DEFAULTS
from wanact.flying import pipeline
from wanact.flying.fastest import fastest_dtype
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.placement import (
    Clip,
    ModelSize,
    Placement,
    estimate,
    explain_shortage,
    gpu_seconds,
    is_out_of_memory,
    size_of,
    ways_to_fit,
)
from wanact.flying.placement_options import FitOptions, add_arguments, options_of
from wanact.models.transformer import WanActTransformer3DModel
from wanact.weights.model_dir import load_components

CPU = torch.device("cpu")
GB = 10**9
TI2V_5B = ModelSize(
    transformer=10 * GB,
    vae=int(2.8 * GB),
    text_encoder=int(11.4 * GB),
    layers=30,
    width=3072,
    ffn_width=14336,
    itemsize=2,
    decoder_dim=256,
    text_embedding=int(2.1 * GB),
)
SMALL, LARGE = Clip(480, 832, 81), Clip(704, 1280, 121)


def test_flags_and_options_say_the_same():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert options_of(parser.parse_args([])) == FitOptions()
    given = ["--offload", "group", "--fp8", "--attention", "sage", "--vae_tiling", "--compile", "--text_cache", "x"]
    given += ["--small_decoder", "tae.pth"]
    assert options_of(parser.parse_args(given)) == FitOptions("group", True, "sage", True, True, "x", "tae.pth")
    with pytest.raises(ValueError, match="offload is 'disk', expected one of none, model, group, sequential"):
        FitOptions(offload="disk")


def run(components, placement: Placement) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = torch.randn(1, 48, 3, 4, 6, generator=generator)
        text = torch.randn(1, 4, 32, generator=generator)
        with placement.using("transformer") as transformer:
            return transformer(latents.to(transformer.dtype), torch.tensor([500.0]), text.to(transformer.dtype)).sample


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_changes_no_bit(tiny_model_dir, offload):
    components = load_components(tiny_model_dir)
    expected = run(components, Placement(components, CPU, FitOptions()))
    placement = Placement(components, CPU, FitOptions(offload=offload))
    assert_close(run(components, placement), expected, rtol=0, atol=0)
    assert placement.prepares_text == (offload == "model")
    weight = components.transformer.blocks[0].attn1.to_q.weight
    with placement.changing_weights():
        weight.data = weight.data + 1
    assert not torch.equal(run(components, placement), expected), "what is replaced is what is brought back"
    with placement.changing_weights():
        weight.data = weight.data - 1
    assert_close(run(components, placement), expected)


def test_eight_bits_are_close_and_half_the_size(tiny_model_dir):
    components = load_components(tiny_model_dir)
    expected = run(components, Placement(components, CPU, FitOptions()))
    placement = Placement(components, CPU, FitOptions(fp8=True))
    assert components.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert components.transformer.blocks[0].scale_shift_table.dtype == torch.float32
    assert components.transformer.dtype == torch.float32
    softer = run(components, placement)
    assert softer.dtype == torch.float32 and not torch.equal(softer, expected)
    assert (softer - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("attention", ["flash", "flash3", "sage"])
def test_a_kernel_that_cannot_be_had_is_replaced_and_that_is_said(tiny_model_dir, attention):
    components = load_components(tiny_model_dir, parts=["transformer", "vae"])
    with pytest.warns(UserWarning, match=f"attention '{attention}' cannot be used, so native is"):
        placement = Placement(components, CPU, FitOptions(attention=attention))
    assert len(placement.notes) == 1
    run(components, placement)


def test_auto_takes_native_on_a_cpu_in_silence(tiny_model_dir, recwarn):
    components = load_components(tiny_model_dir, parts=["transformer", "vae"])
    assert Placement(components, CPU, FitOptions()).notes == []
    assert not [w for w in recwarn if "attention" in str(w.message)]


def test_less_memory_costs_something_each_time():
    needs = [
        estimate(TI2V_5B, SMALL, options)
        for options in (
            FitOptions(),
            FitOptions(text_cache="x"),
            FitOptions(offload="model", text_cache="x", vae_tiling=True),
            FitOptions(offload="group", text_cache="x", vae_tiling=True),
            FitOptions(offload="sequential", text_cache="x", vae_tiling=True),
        )
    ]
    assert needs == sorted(needs, reverse=True)
    assert estimate(TI2V_5B, SMALL) < estimate(TI2V_5B, LARGE)
    assert estimate(TI2V_5B, SMALL, FitOptions(fp8=True)) < estimate(TI2V_5B, SMALL)
    assert estimate(TI2V_5B, Clip(480, 832, 81, branches=1)) <= estimate(TI2V_5B, SMALL)


def test_the_size_of_a_loaded_model_is_counted(tiny_model_dir):
    components = load_components(tiny_model_dir)
    size = size_of(components)
    assert size.transformer == sum(p.numel() for p in components.transformer.parameters()) * 4
    assert (size.layers, size.width, size.ffn_width, size.decoder_dim) == (2, 48, 64, 8)
    Placement(components, CPU, FitOptions(fp8=True))
    assert size_of(components) == size, "whatever it is stored in now"


@pytest.mark.parametrize("available", [6, 8, 12, 16, 24])
@pytest.mark.parametrize("clip", [SMALL, LARGE])
def test_what_is_proposed_fits(available, clip):
    ways = ways_to_fit(TI2V_5B, clip, FitOptions(), available * GB)
    assert ways
    assert all(needed <= available * GB for _, needed in ways)


def test_a_shortage_is_explained_in_one_sentence():
    said = explain_shortage(TI2V_5B, SMALL, FitOptions(), 24 * GB)
    assert said.startswith("memory ran out: 832x480 with 81 frames needs about ")
    assert "the device has 24.0 GB" in said and "--text_cache DIR" in said and "\n" not in said
    assert "use a device with more memory" in explain_shortage(TI2V_5B, SMALL, FitOptions(), GB)


def test_only_running_out_of_memory_counts_as_that():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("memory"))


def test_the_tiny_defaults_fit_a_gigabyte(tiny_model_dir):
    clip = Clip(DEFAULTS["height"], DEFAULTS["width"], DEFAULTS["num_frames"])
    assert estimate(size_of(load_components(tiny_model_dir)), clip) < 0.1 * GB


def test_a_lent_gpu_is_asked_for_as_long_as_the_clip_takes():
    short = gpu_seconds(TI2V_5B, SMALL, 20)
    assert 20 < short < gpu_seconds(TI2V_5B, SMALL, 50) < gpu_seconds(TI2V_5B, LARGE, 50) < 1000
    nano = ModelSize(8_000_000, 20_000_000, 1_000_000, 6, 144, 432, 4, 48, latents_per_token=1)
    assert gpu_seconds(nano, Clip(96, 160, 81), 8) < 20


@pytest.mark.parametrize(("slow", "chosen"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_the_type_that_computes_faster_is_chosen(slow, chosen, tiny_model_dir, monkeypatch):
    forward = WanActTransformer3DModel.forward

    def delayed(self, *args, **kwargs):
        time.sleep(0.05 if self.dtype == slow else 0)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanActTransformer3DModel, "forward", delayed)
    transformer = load_components(tiny_model_dir, parts=["transformer"]).transformer
    assert fastest_dtype(transformer, 64, 96, 17) == chosen
    assert transformer.dtype == torch.float32


def test_types_that_are_as_fast_as_each_other_leave_the_exact_one(tiny_model_dir, monkeypatch):
    def even(self, *args, **kwargs):
        time.sleep(0.02)

    monkeypatch.setattr(WanActTransformer3DModel, "forward", even)
    transformer = load_components(tiny_model_dir, parts=["transformer"]).transformer
    assert fastest_dtype(transformer, 64, 96, 17) == torch.float32


def test_a_pipeline_computes_in_the_measured_type(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(pipeline, "fastest_dtype", lambda *_: torch.bfloat16)
    components = WanActPipeline.from_model_dir(tiny_model_dir, dtype="fastest").components
    assert components.transformer.dtype == components.text_encoder.dtype == torch.bfloat16
    assert components.vae.dtype == torch.float32
    assert WanActPipeline.from_model_dir(tiny_model_dir).components.transformer.dtype == torch.float32
