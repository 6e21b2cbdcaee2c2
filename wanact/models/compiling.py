"""What torch compiles is kept on disk, and taken from there by the next run: on the same kind of processor alone."""

from __future__ import annotations

import torch


def keep_apart_by_processor() -> None:
    """Take no compiled code from the cache that was written for a CPU with other vector instructions.

    The loops of a kernel's source step by the width of a vector, and the key of PyTorch's cache names neither (2.13).
    Source for AVX-512 that is found there and built for AVX2 computes half of each vector, and the rest is what lay
    in memory before: losses become nan. It takes a home folder or an image that machines share, or
    ATEN_CPU_CAPABILITY.
    """
    tag = torch.backends.cpu.get_cpu_capability()
    config = torch.compiler.config
    if tag not in config.cache_key_tag:  # whoever runs this may have set one
        config.cache_key_tag += tag
