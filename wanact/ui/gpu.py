"""GPUs that are lent for the length of a call, as Hugging Face's ZeroGPU does. No effect anywhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wanact.flying.placement import Clip, gpu_seconds, size_of

if TYPE_CHECKING:
    from wanact.ui.pages.fly.desk import ClipForm, FlyDesk

LONGEST = 300  # more is refused to any visitor


def is_lent() -> bool:
    """Whether this process has a GPU only inside wrapped calls."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def on_gpu(work: Callable[..., Any], seconds: Callable[..., int]) -> Callable[..., Any]:
    """`work`, given a GPU for as long as `seconds` says; `work` itself where none is lent.

    Args:
        work: a function or generator function. It runs in a process of its own: what it changes is lost, and its
            arguments and results are pickled.
        seconds: from the same arguments, how long it may take; the visitor's budget is charged with it.
    """
    if not is_lent():
        return work
    import spaces  # pyright: ignore[reportMissingImports]  there on ZeroGPU only

    return spaces.GPU(duration=seconds)(work)


def clip_seconds(desk: FlyDesk) -> Callable[[ClipForm], int]:
    """How long drawing a clip may take, from what a visitor sends."""

    def seconds(form: ClipForm) -> int:
        defaults = desk.engine.defaults
        try:
            height, width = desk.read_size(form.size)
            num_steps = int(defaults["num_inference_steps"] if form.steps is None else form.steps)
            has_guidance = float(defaults["guidance_scale"] if form.guidance is None else form.guidance) > 1
        except (TypeError, ValueError, OverflowError):
            return 5  # it will be refused
        clip = Clip(height, width, defaults["num_frames"], branches=2 if has_guidance else 1)
        needed = gpu_seconds(size_of(desk.engine.pipe.components), clip, num_steps)
        return max(5, min(LONGEST, needed))

    return seconds
