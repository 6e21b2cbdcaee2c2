import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wanact.models.compiling import keep_apart_by_processor


class Block(nn.Module):
    def forward(self, x):
        return F.gelu(x) + x


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_code_for_another_processor_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    """PyTorch took it: loops in steps of sixteen numbers, built for vectors of eight."""
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    x = torch.linspace(-3, 3, 48)
    seen = []
    for capability in ("AVX512", "AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        torch._dynamo.reset()
        counters.clear()
        with torch.compiler.config.patch(cache_key_tag=""):
            keep_apart_by_processor()
            block = Block()
            block.compile(dynamic=False)
            torch.testing.assert_close(block(x), Block()(x))
        seen.append("hit" if counters["inductor"]["fxgraph_cache_hit"] else "miss")
    assert seen == ["miss", "miss", "hit"]


def test_a_tag_of_ones_own_stays():
    with torch.compiler.config.patch(cache_key_tag="mine "):
        for _ in range(2):
            keep_apart_by_processor()
        assert torch.compiler.config.cache_key_tag == "mine " + torch.backends.cpu.get_cpu_capability()
