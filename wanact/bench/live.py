"""The speed card of a live flight: frames per second, and whether they are still the same after minutes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from PIL import Image

from wanact import shapes
from wanact.actions import FULL_DEFLECTION, NUM_CHANNELS, OPPOSITE
from wanact.bench.memory import held_memory_mb
from wanact.bench.versus import PROMPT
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream

HELD = 8  # latent frames that a key of the flight is held
ENDS = 0.1  # of the flight, compared at both ends


def bench_live(
    pipe: WanActPipeline,
    seconds: float,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    image: Image.Image | None = None,
) -> dict[str, Any]:
    """Fly for a while with keys held at random, as fast as it goes.

    Args:
        pipe: with a causal checkpoint loaded.
        seconds: how long, after the first latent frames.
        height, width, steps: None for the checkpoint's own.
        image: the first frame; noise if None.

    Returns:
        `fps`, `first_frame_ms` from the start of a flight to its first four frames, `step_ms_p50` and `step_ms_p95` of
        a latent frame, the shares of it that transformer and decoder were busy, `memory_growth_mb` from
        the first tenth to the end, and `sharpness_ratio` and `colour_shift` of the last tenth's frames against the
        first's.
    """
    size = (height or pipe.defaults["height"], width or pipe.defaults["width"])
    rng = np.random.default_rng(0)
    image = image or Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
    begin = time.perf_counter()
    flight = WanActStream(pipe, image, PROMPT, height=size[0], width=size[1], num_inference_steps=steps, rest="commit")
    flight.step(np.zeros(NUM_CHANNELS))
    first = time.perf_counter() - begin
    for _ in range(3):
        flight.step(np.zeros(NUM_CHANNELS))
    drawn = _Overlapped(flight)
    decoding = drawn.step(np.zeros(NUM_CHANNELS))
    spent, parts, looks, memory = [], [], [], []
    begin, action = time.perf_counter(), np.zeros(NUM_CHANNELS)
    while time.perf_counter() - begin < seconds or len(spent) < 2:
        if len(spent) % HELD == 0:
            action = _random_keys(rng)
        start = time.perf_counter()
        following = drawn.step(action)
        frames, decoding = decoding(), following
        spent.append(time.perf_counter() - start)
        parts.append(dict(flight.timings))
        looks.append(_look(frames[-1]))
        memory.append(held_memory_mb())
    drawn.close()
    total = sum(spent)
    ends = max(1, round(len(spent) * ENDS))
    sharpness, colour = (np.array([look[i] for look in looks]) for i in (0, 1))
    return {
        "fps": shapes.TEMPORAL_STRIDE * len(spent) / total,
        "first_frame_ms": 1000 * first,
        "step_ms_p50": 1000 * statistics.median(spent),
        "step_ms_p95": 1000 * float(np.quantile(spent, 0.95)),
        "share_transformer": sum(part["transformer"] for part in parts) / total,
        "share_decoder": sum(part["decoder"] for part in parts) / total,
        "memory_growth_mb": memory[-1] - memory[min(ends, len(memory) - 1)],
        "sharpness_ratio": float(sharpness[-ends:].mean() / max(sharpness[:ends].mean(), 1e-9)),
        "colour_shift": float(np.abs(colour[-ends:].mean(axis=0) - colour[:ends].mean(axis=0)).max()),
        "latent_frames": len(spent),
        "seconds": total,
        "height": size[0],
        "width": size[1],
        "num_inference_steps": flight.num_inference_steps,
        "window": flight.window,
        "checkpoint": f"{pipe.checkpoint.run}, step {pipe.checkpoint.step}" if pipe.checkpoint else None,
    }


class _Overlapped:
    """Steps of a flight whose frames are decoded in the background, while the next latent frame is drawn already.

    More frames a second for one latent frame more between a key and what is seen of it. On a CPU both would want the
    same cores, so there one comes after the other.
    """

    def __init__(self, flight: WanActStream):
        self.flight = flight
        self._background = None if flight.pipe.device.type == "cpu" else ThreadPoolExecutor(1, "decoder")

    def step(self, action: np.ndarray) -> Callable[[], np.ndarray]:
        """As the flight's `step`; what gives the frames, once they are asked for."""
        pieces = self.flight.draw(action)
        if self._background is not None:
            return self._background.submit(_all_of, pieces).result
        frames = _all_of(pieces)
        return lambda: frames

    def close(self) -> None:
        """Wait for what is still decoded."""
        if self._background is not None:
            self._background.shutdown()


def _all_of(pieces: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(pieces))


def format_live(result: dict[str, Any]) -> str:
    """The result as a table for people."""
    lines = [
        f"{result['seconds']:.0f} s of flight at {result['height']}x{result['width']}, "
        f"{result['num_inference_steps']} steps a latent frame, window {result['window']}, {result['checkpoint']}",
        f"frames per second    {result['fps']:8.1f}",
        f"first frames         {result['first_frame_ms']:8.0f} ms",
        f"a latent frame       {result['step_ms_p50']:8.1f} ms, 95% within {result['step_ms_p95']:.1f} ms",
        f"  transformer        {result['share_transformer']:8.0%}",
        f"  decoder            {result['share_decoder']:8.0%}",
        f"memory growth        {result['memory_growth_mb']:8.1f} MB",
        f"sharpness at the end {result['sharpness_ratio']:8.2f} of that at the start",
        f"colour shift         {result['colour_shift']:8.3f} of 1",
    ]
    return "\n".join(lines)


def _random_keys(rng: np.random.Generator) -> np.ndarray:
    """One or two keys held, never opposite ones."""
    held = np.zeros(NUM_CHANNELS)
    for channel in rng.choice(NUM_CHANNELS, size=rng.integers(1, 3), replace=False):
        if not held[OPPOSITE[channel]]:
            held[channel] = 1
    return held * np.array(FULL_DEFLECTION)


def _look(frame: np.ndarray) -> tuple[float, np.ndarray]:
    """Sharpness, the mean absolute Laplacian of brightness, and mean colour, both of 1."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean()), frame.reshape(-1, 3).mean(axis=0) / 255
