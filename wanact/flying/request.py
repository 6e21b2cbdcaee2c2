"""What a clip is asked for: checked, and filled up with the model's defaults, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel

from wanact import shapes
from wanact.actions import ActionTrack
from wanact.errors import UserError
from wanact.files import number, read_model, whole
from wanact.media import video
from wanact.models.text import readable

MAX_PROMPT_CHARACTERS = 10_000
MAX_SEED = 2**31 - 1  # as in a flight record
MAX_STEPS = 1000
MAX_GUIDANCE = 30.0
MAX_SIDE = 4096
MAX_PIXELS = 1280 * 1280

Picture = Image.Image | str | os.PathLike | bytes


class RequestError(UserError):
    """A clip that cannot be drawn as asked; the message is one sentence for the person who asked."""


@dataclass(frozen=True)
class ClipRequest:
    """What a clip is asked for, unchecked; None stands for the model's default.

    Args:
        prompt: what is seen; up to 10,000 characters, of which the text encoder reads the first tokens.
        image: the first frame, of any size and mode; None draws it too, from the words alone.
        track: the actions, one for each latent frame after the first; None flies without a controller.
        negative_prompt: what guidance leads away from.
        height, width: in pixels, multiples of 32.
        num_frames: in pixels, 4k+1.
        num_inference_steps: denoising steps; of every latent frame, with a causal checkpoint.
        guidance_scale: classifier-free guidance; 1 is none, and takes half the time. Actions reach both branches. A
            causal checkpoint is drawn without, unless its settings have guidance.
        seed: 0 to 2**31 - 1.
        fit: whether the image is cropped or padded to the clip's shape.
    """

    prompt: str
    image: Picture | None
    track: ActionTrack | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    fit: Literal["crop", "pad"] = "crop"


@dataclass(frozen=True)
class Request:
    """A checked request, with the model's defaults filled in and the first frame fitted.

    `perturbed_layers` is the model's alone: in which what guidance leads away from does not look around.
    """

    prompt: str
    negative_prompt: str
    image: Image.Image | None
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    height: int
    width: int
    track: ActionTrack | None = None
    perturbed_layers: tuple[int, ...] = ()

    @property
    def num_latent_frames(self) -> int:
        return shapes.num_latent_frames(self.num_frames)


class _Numbers(BaseModel):
    height: Annotated[int, whole(shapes.SIZE_MULTIPLE, MAX_SIDE, floats=True)]
    width: Annotated[int, whole(shapes.SIZE_MULTIPLE, MAX_SIDE, floats=True)]
    num_frames: Annotated[int, whole(1, floats=True)]
    guidance_scale: Annotated[float, number(1, MAX_GUIDANCE)]
    num_inference_steps: Annotated[int, whole(1, MAX_STEPS, floats=True)]
    seed: Annotated[int, whole(0, MAX_SEED, floats=True)]


def check_request(
    defaults: Mapping[str, Any],
    max_frames: int,
    asked: ClipRequest,
) -> Request:
    """A request that can be drawn.

    Args:
        defaults: of the model.
        max_frames: longest clip the model can place in time, in pixel frames.
        asked: what is asked for.

    Raises:
        RequestError, ImageError, ActionError: naming what cannot be used, and what could be.
    """

    def given(name: str) -> Any:
        value = getattr(asked, name)
        return defaults[name] if value is None else value

    settings = {name: asked.seed if name == "seed" else given(name) for name in _Numbers.model_fields}
    numbers = read_model(_Numbers, settings, RequestError)
    height, width, num_frames = numbers.height, numbers.width, numbers.num_frames
    if num_frames > max_frames:
        raise RequestError(f"num_frames is {num_frames}, expected a whole number from 1 to {max_frames}")
    try:
        shapes.check_size(height, width)
        shapes.num_latent_frames(num_frames)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if height * width > MAX_PIXELS:
        raise RequestError(f"{width} x {height} is larger than the {MAX_PIXELS / 1e6:.1f} megapixels of a clip")
    image = None if asked.image is None else video.fit_image(video.open_image(asked.image), height, width, asked.fit)
    request = Request(
        prompt=clean_prompt(asked.prompt, "prompt"),
        negative_prompt=clean_prompt(given("negative_prompt"), "negative prompt"),
        image=image,
        num_frames=num_frames,
        num_inference_steps=numbers.num_inference_steps,
        guidance_scale=numbers.guidance_scale,
        seed=numbers.seed,
        height=height,
        width=width,
        track=asked.track,
        perturbed_layers=tuple(defaults.get("perturbed_layers", ())),
    )
    if request.track is not None:
        request.track.require_length(num_frames)
    return request


def clean_prompt(prompt: str, name: str = "prompt") -> str:
    """A prompt without control characters and lone surrogates, which no tokenizer has; line breaks become spaces.

    Raises:
        RequestError: if it is no text or longer than 10,000 characters.
    """
    if not isinstance(prompt, str):
        raise RequestError(f"the {name} is {type(prompt).__name__}, expected text")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RequestError(
            f"the {name} has {len(prompt):,} characters, at most {MAX_PROMPT_CHARACTERS:,} are taken; shorten it"
        )
    return readable(prompt)
