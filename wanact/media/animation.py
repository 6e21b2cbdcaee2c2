"""Clips as animated pictures, for places that take no video."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.filter import Graph

GIF_TICKS = 100  # a second: a GIF's frames last whole hundredths
GIF_FRAME_TICKS = 2  # browsers show for a tenth of a second what is said to last less
GIF_WIDTH = 480  # pixels; larger ones take megabytes and many seconds


def write_animation(frames: np.ndarray, path: str | os.PathLike, fps: float) -> None:
    """Write frames, uint8 [F, H, W, 3], as .gif or .webp that plays for ever; the file appears whole or not at all.

    A GIF has 256 colours, chosen for the clip, is halved until it is at most 480 pixels wide, and keeps the clip's
    length although its frames last whole hundredths of a second.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path)
    encode = {".gif": _encode_gif, ".webp": _encode_webp}[path.suffix.lower()]
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    try:
        os.close(handle)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from a web server's other user
        encode(frames, temporary, fps)
        os.replace(temporary, path)
    except av.error.FFmpegError as error:
        raise OSError(error.errno, f"the clip {path.name} was not written: {error.strerror}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _encode_gif(frames: np.ndarray, path: str, fps: float) -> None:
    height, width = frames.shape[1:3]
    factor = 2 ** max(0, int(np.ceil(np.log2(width / GIF_WIDTH))))
    graph = Graph()
    shape = {"video_size": f"{width}x{height}", "pix_fmt": "rgb24", "pixel_aspect": "1/1"}
    source = graph.add("buffer", time_base=f"1/{GIF_TICKS}", **shape)
    scale = graph.add("scale", f"w={width // factor}:h={height // factor}:flags=area")
    both, palette = graph.add("split"), graph.add("palettegen")
    painted, sink = graph.add("paletteuse", "dither=bayer:bayer_scale=4"), graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(both)
    both.link_to(palette, 0, 0)
    both.link_to(painted, 1, 0)
    palette.link_to(painted, 0, 1)
    painted.link_to(sink)
    graph.configure()
    step = max(1, int(np.ceil(GIF_FRAME_TICKS * fps / GIF_TICKS)))  # of a fast clip every so many frames are shown
    frames = frames[::step]
    times = np.rint(GIF_TICKS * step / fps * np.arange(len(frames) + 1)).astype(int)
    for index, pixels in enumerate(frames):
        frame = _frame(pixels)
        frame.pts, frame.time_base = int(times[index]), Fraction(1, GIF_TICKS)
        frame.duration = int(times[index + 1] - times[index])
        graph.push(frame)
    graph.push(None)
    with av.open(path, "w", format="gif") as container:
        stream: Any = container.add_stream("gif", rate=GIF_TICKS)
        stream.width, stream.height, stream.pix_fmt = width // factor, height // factor, "pal8"
        for _ in frames:
            container.mux(stream.encode(graph.pull()))
        container.mux(stream.encode(None))


def _encode_webp(frames: np.ndarray, path: str, fps: float) -> None:
    with av.open(path, "w", format="webp", options={"loop": "0"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream(
            "libwebp_anim", rate=rate, options={"quality": "85", "compression_level": "1"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(_frame(pixels)))
        container.mux(stream.encode(None))


def _frame(pixels: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
