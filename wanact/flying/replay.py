"""Fly a flight record again: the same frames on the same machine and build, or the same flight on another checkpoint.

record = FlightRecord.load("flight.json")
pipe.load_controller("runs/full")
frames = replay(pipe, record)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from wanact.flying.pipeline import OnFrames, OnStep, WanActPipeline
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError
from wanact.flying.stream import WanActStream


def replay(
    pipe: WanActPipeline,
    record: FlightRecord,
    on_frames: OnFrames | None = None,
    num_inference_steps: int | None = None,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Fly a record on the checkpoint that is loaded.

    A live flight needs a causal checkpoint and is flown step by step, as it was. A clip is drawn by any checkpoint; by
    the base without actions, which it does not take.

    Args:
        pipe: with the checkpoint loaded.
        record: what to fly.
        on_frames: called with frames as they come, uint8 [n, H, W, 3].
        num_inference_steps: instead of the record's.
        on_step: called after every denoising step of a clip.

    Returns:
        Frames, uint8 [F, H, W, 3], the first frame as the model sees it included.

    Raises:
        RequestError, OutOfMemory: if it cannot be flown here.
    """
    if record.kind == "live":
        return _replay_live(pipe, record, on_frames, num_inference_steps)
    request = replace(
        record.to_request(),
        track=record.track if pipe.controller is not None else None,
        num_inference_steps=num_inference_steps or record.num_inference_steps,
    )
    return pipe(request, on_step=on_step, on_frames=on_frames)


def resume(pipe: WanActPipeline, record: FlightRecord, num_latent_frames: int | None = None) -> WanActStream:
    """A stream that stands where a live flight stood after so many latent frames; it can be flown on from there.

    Raises:
        RequestError, FlightError: if it cannot be flown here, or is shorter than that.
    """
    record = record if num_latent_frames is None else record.until(num_latent_frames)
    stream = stream_of(pipe, record)
    for _ in fly_again(stream, record):
        pass
    return stream


def _replay_live(
    pipe: WanActPipeline,
    record: FlightRecord,
    on_frames: OnFrames | None,
    num_inference_steps: int | None,
) -> np.ndarray:
    stream = stream_of(pipe, record, num_inference_steps)
    with pipe.lock:
        pipe.load_controller(stream.checkpoint.path)
        frames = [pipe.decode(pipe.encode_image(record.image))]  # the picture as a clip would show it
    if on_frames is not None:
        on_frames(frames[0])

    for drawn in fly_again(stream, record):
        frames.append(drawn)
        if on_frames is not None:
            on_frames(drawn)
    return np.concatenate(frames)


def stream_of(pipe: WanActPipeline, record: FlightRecord, num_inference_steps: int | None = None) -> WanActStream:
    """A stream that stands where a live flight began; `fly_again` flies it.

    Raises:
        RequestError: if it cannot be flown here.
    """
    if record.kind != "live":
        raise RequestError("the record is of a clip, which cannot be flown on; fly its track live instead")
    return WanActStream(
        pipe,
        record.image,
        record.prompt,
        record.seed,
        num_inference_steps=num_inference_steps or record.num_inference_steps,
        height=record.image.height,
        width=record.image.width,
        rest=record.sampler.get("rest", "commit"),  # before there were rests, everything was committed
    )


def fly_again(stream: WanActStream, record: FlightRecord) -> Iterator[np.ndarray]:
    """Fly all of a record; words change and the flight is taken up anew and rests where they did and it was and did.

    Yields:
        Frames of each latent frame, uint8 [4, H, W, 3].
    """
    held = None if record.held is None else set(record.held)
    changes, taken_up = dict(record.prompt_changes), set(record.taken_up)
    for number in range(len(record.track) + 1):
        if number in changes:
            stream.prompt = changes[number]
        if number in taken_up:
            stream.prefill()
        if number < len(record.track):
            rests = None if held is None else number + 1 in held
            yield stream.step(record.track.magnitude[number], rests)
