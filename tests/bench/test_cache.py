"""The memory of a flight, counted without flying: it is what a real cache of the same size takes."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from wanact.bench.cache import bench_cache
from wanact.commands import bench
from wanact.models import presets
from wanact.models.kv_cache import KVCache


def test_counted_memory_is_that_of_a_real_cache():
    (row,) = bench_cache("nano", sizes=[(64, 96)], windows=[3])
    transformer = presets.random_transformer("nano").to(torch.bfloat16)
    cache = KVCache(transformer, (4, 6), window=3)
    real = sum(part.numel() * 2 for part in (cache.keys, cache.values, cache._first_keys))
    assert row["keys_values_gb"] * 1e9 == pytest.approx(real)
    assert real == KVCache.num_bytes(transformer, row["tokens"], 3)


def test_a_flight_of_the_5b_model_takes_the_memory_that_was_measured(capsys, tmp_path, monkeypatch):
    """144 MB a latent frame at 480x832."""
    monkeypatch.setattr(bench, "bench_cache", partial(bench_cache, sizes=[(480, 832)], windows=[9]))
    bench.main(["cache", "--json", str(tmp_path / "cache.json")])
    assert "480x832, 390 tokens a latent frame, window  9: 1.65 GB" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "cache.json").read_text())["flights"]
    assert row["latent_frame_mb"] == pytest.approx(2 * 30 * 390 * 3072 * 2 / 1e6)
