import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny_model import build_transformer, build_vae
from wanact.bench.roofline import Rates, Work, decode_work, measure_rates, step_work
from wanact.flying.placement import Clip
from wanact.models.presets import PRESETS, TRANSFORMER
from wanact.models.transformer import WanActTransformer3DModel
from wanact.models.vae import decode_raw

CLIP = Clip(64, 96, 9)


def test_a_step_counts_what_a_step_does():
    transformer = WanActTransformer3DModel.from_config(build_transformer().config)
    counted = step_work(transformer, CLIP, text_length=7)
    text = transformer.prepare_text(torch.zeros(2, 7, 32))
    # The CPU's own attention is not counted, its plain one is.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        transformer(torch.zeros(2, 48, 3, 4, 6), torch.zeros(2, 3), text)
    assert counted.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    weights = sum(p.numel() * 4 for p in transformer.parameters())
    assert weights < counted.bytes < 40 * weights


def test_decoding_counts_what_decoding_does():
    vae = build_vae()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decode_raw(vae, torch.zeros(1, 48, 3, 4, 6))
    assert decode_work(vae, CLIP).flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_5b_model_is_counted_without_a_weight_in_memory():
    with torch.device("meta"):
        transformer = WanActTransformer3DModel(**TRANSFORMER | PRESETS["ti2v_5b"]["transformer"])
    work = step_work(transformer, Clip(480, 832, 81), text_length=512)
    tokens, parameters = 2 * 8190, 4.9e9
    assert work.flops == pytest.approx(2 * tokens * parameters, rel=0.35), "two operations a weight and token, and more"
    larger = step_work(transformer, Clip(704, 1280, 81), text_length=512)
    assert larger.flops > work.flops * 2


def test_the_floor_is_the_slower_of_the_two():
    rates = Rates(bytes_per_second=100.0, flops_per_second=1000.0)
    assert rates.seconds(Work(flops=500, bytes=10)) == 0.5
    assert rates.seconds(Work(flops=500, bytes=200)) == 2.0


def test_a_device_has_rates():
    rates = measure_rates(torch.device("cpu"), torch.float32, seconds=0.01)
    assert rates.bytes_per_second > 1e6 and rates.flops_per_second > 1e6
