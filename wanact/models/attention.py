"""Which attention kernel a transformer computes with: one that is installed and works here, else torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # flags are read without torch, so that `--help` is quick
    import torch

Attention = Literal["auto", "native", "flash", "flash3", "sage", "flash_hub", "flash3_hub"]

# diffusers' names, and what `auto` tries, the fastest first. Those of the Hub are prebuilt, and fetched by `kernels`.
BACKENDS = {
    "native": "native",
    "flash": "flash",
    "flash3": "_flash_3",
    "sage": "sage",
    "flash_hub": "flash_hub",
    "flash3_hub": "_flash_3_hub",
}
AUTO = ("flash3", "flash")
WITH_GRADIENTS = ("flash", "flash_hub")
FLASH3_CAPABILITY = (9, 0)  # Hopper; FlashAttention 3 has no kernels for anything else


def choose_attention(
    transformer: Any,
    wanted: Attention,
    device: torch.device,
    dtype: torch.dtype | None = None,
    for_training: bool = False,
    is_masked: bool = False,
) -> str | None:
    """Set the attention kernel.

    Args:
        transformer: as of diffusers.
        wanted: a kernel, or "auto" for the fastest that can be had.
        device: where it computes.
        dtype: of the computation; the weights' if not given.
        for_training: gradients are needed.
        is_masked: not every frame sees every frame, as where a causal checkpoint is trained.

    Returns:
        None, or a sentence that says why the one that was asked for is not the one in use.
    """
    import torch

    dtype = dtype or transformer.dtype
    fits = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if wanted == "auto":
        names = [name for name in AUTO if fits and not is_masked and (not for_training or name in WITH_GRADIENTS)]
        if "flash3" in names and torch.cuda.get_device_capability(device) != FLASH3_CAPABILITY:
            names.remove("flash3")
        any(_problem(transformer, name) is None for name in names)
        return None
    if wanted == "native":
        _problem(transformer, wanted)
        return None
    if is_masked:
        problem = "it takes no mask, and not every frame sees every frame here"
    elif for_training and wanted not in WITH_GRADIENTS:
        problem = f"it has no gradients; {' and '.join(WITH_GRADIENTS)} have"
    elif not fits:
        problem = f"it needs a CUDA device and a 16-bit type, here are {device.type} and {dtype}"
    else:
        problem = _problem(transformer, wanted)
    return None if problem is None else f"attention {wanted!r} cannot be used, so native is: {problem}"


def _problem(transformer: Any, name: str) -> str | None:
    """Set a kernel; the reason if it cannot be had."""
    try:
        transformer.set_attention_backend(BACKENDS[name])
    except Exception as error:  # of packages that others built, and of what fetches them
        return " ".join(str(error).split())
    return None
