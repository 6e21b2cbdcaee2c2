"""Images and clips in and out: what a visitor uploads, what the model takes, what the browser plays."""

from __future__ import annotations

import errno
import io
import itertools
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal

import av
import av.error
import cv2
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import rearrange
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from wanact.errors import UserError

JPEG_QUALITY = 88  # of frames that are sent one by one
MAX_IMAGE_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 64 * 2**20
MAX_DECODED_PIXELS = 25_000_000  # of a picture that is made small: about 200 MB while it is

# Formats that Pillow decodes itself: no EPS or PDF, which would start other programs.
IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")


_SRGB = ImageCms.createProfile("sRGB")


class ImageError(UserError):
    """An image that cannot be used; the message is one sentence for the person who chose it."""


class VideoError(UserError):
    """A clip that cannot be read; the message names the file."""


def open_image(
    source: str | os.PathLike | bytes | IO[bytes] | Image.Image,
    max_pixels: int = MAX_IMAGE_PIXELS,
    max_bytes: int = MAX_IMAGE_BYTES,
    longest_side: int | None = None,
) -> Image.Image:
    """Read any picture as upright RGB with 8 bits a channel.

    EXIF orientation is applied, transparency laid on white, 16-bit and float scaled to 8 bits, CMYK and
    palettes converted, and of an animation the first frame is taken.

    Args:
        source: a file, its content, or a picture.
        max_pixels, max_bytes: of the file.
        longest_side: make it no larger than this, and take memory for little more: what a JPEG holds is decoded at a
            half, a quarter or an eighth, and of what has to be decoded whole fewer pixels are read.

    Raises:
        ImageError: if it is empty, too large, damaged or no image.
    """
    if isinstance(source, Image.Image):
        return _no_longer(_to_rgb(_within(source, max_pixels)), longest_side)
    name = _name_of(source)
    data = _read_bytes(source, name, max_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            Image.init()
            image = Image.open(io.BytesIO(data), formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more than the {max_pixels / 1e6:g} megapixels that are read") from error
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile input
        raise ImageError(f"{name} is not an image that can be read; use a PNG, JPEG or WebP file") from error
    _within(image, max_pixels, name)
    if longest_side is not None:
        _draft(image, longest_side, name)
    try:
        return _no_longer(_to_rgb(image, longest_side), longest_side)
    except Exception as error:
        raise ImageError(f"{name} is damaged; please export it again") from error


def _name_of(source: Any) -> str:
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(path).name if isinstance(path, str | os.PathLike) else "the image"


def _read_bytes(source: Any, name: str, max_bytes: int) -> bytes:
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                data = file.read(max_bytes + 1)
        else:
            data = source if isinstance(source, bytes) else source.read(max_bytes + 1)
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {error.strerror or error}") from error
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    if len(data) > max_bytes:
        raise ImageError(f"{name} is larger than the {max_bytes / 2**20:g} MB that are read; make it smaller first")
    return data


def _within(image: Image.Image, max_pixels: int, name: str = "the image") -> Image.Image:
    width, height = image.size
    if width * height > max_pixels or width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels, at most {max_pixels / 1e6:g} megapixels are read")
    return image


def _draft(image: Image.Image, longest_side: int, name: str) -> None:
    """Have a JPEG decoded smaller, but not below twice the side that is wanted.

    Raises:
        ImageError: if too many pixels are left.
    """
    width, height = image.size
    image.draft(None, (2 * longest_side, 2 * longest_side))
    # A progressive JPEG keeps all of its coefficients while it is decoded, at whatever size.
    decoded = width * height if image.info.get("progressive") else image.width * image.height
    if decoded > MAX_DECODED_PIXELS:
        raise ImageError(
            f"{name} is {width} x {height} pixels; of its kind at most {MAX_DECODED_PIXELS / 1e6:g} megapixels are "
            "read, so make it smaller first, or save it as a JPEG that is not progressive"
        )


def _no_longer(image: Image.Image, longest_side: int | None) -> Image.Image:
    if longest_side is not None:
        image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return image


def _reduced(image: Image.Image, longest_side: int) -> Image.Image:
    """Fewer pixels before anything is converted, which takes several times their memory; twice the side is left."""
    factor = max(image.size) // (2 * longest_side)
    if factor < 2:
        return image
    info = image.info
    if image.mode.startswith("I;"):
        image = Image.fromarray(np.asarray(image)[::factor, ::factor])
    else:
        if "transparency" in info or image.mode in ("PA", "La"):
            image = image.convert("RGBA")
        elif image.mode in ("P", "1"):
            image = image.convert("RGB" if image.mode == "P" else "L")
        image = image.reduce(factor)
    image.info = {key: value for key, value in info.items() if key != "transparency"}
    return image


def _to_rgb(image: Image.Image, longest_side: int | None = None) -> Image.Image:
    if getattr(image, "is_animated", False):
        image.seek(0)
    image.load()
    if longest_side is not None:
        image = _reduced(image, longest_side)
    image = _to_srgb(ImageOps.exif_transpose(image))
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8bit(np.asarray(image, np.float64))).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours of the profile that a photograph carries (Display P3 of phones, Adobe RGB, a printer's CMYK) in sRGB.

    A profile that is damaged or for another kind of picture is left alone, as browsers do.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if converted is None:
        return image
    converted.info.pop("icc_profile", None)
    return converted


def _to_8bit(values: np.ndarray) -> np.ndarray:
    """Grey values of unknown depth to uint8: floats up to 1, 16-bit and 32-bit integers."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    largest = values.max()
    full_scale = next((scale for scale in (1.0, 255.0, 65535.0) if largest <= scale), largest)
    return np.rint(np.clip(values / full_scale, 0, 1) * 255).astype(np.uint8)


def fit_image(
    image: Image.Image, height: int, width: int, mode: Literal["crop", "pad"] = "crop", crop: float = 0.5
) -> Image.Image:
    """Resize to exactly `height` x `width` without distortion: cut the edges off, or add black bars.

    Args:
        image: of any shape.
        height, width: in pixels.
        mode: which of the two.
        crop: the share of what is cut off that goes at the left, or at the top.
    """
    if mode == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS, centering=(crop, crop))
    if mode != "pad":
        raise ValueError(f'mode="{mode}" must be "crop" or "pad"')
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def to_tensor(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 frames [F, H, W, 3] as the model takes them: [3, F, H, W], float32 in [-1, 1]."""
    frames = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, expected uint8 [F, H, W, 3]")
    return rearrange(frames, "f h w c -> c f h w").float() / 127.5 - 1


def to_uint8(video: Tensor) -> np.ndarray:
    """A video [3, F, H, W] in [-1, 1] as frames [F, H, W, 3], rounded; values outside are clamped."""
    if video.ndim != 4 or video.shape[0] != 3:
        raise ValueError(f"video has shape {tuple(video.shape)}, expected [3, F, H, W]")
    frames = rearrange(video.detach().float(), "c f h w -> f h w c")
    return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def write_mp4(
    frames: np.ndarray | Iterable[np.ndarray],
    path: str | os.PathLike,
    fps: float | Fraction = 16,
    lossless: bool = False,
) -> None:
    """Write frames as H.264 that any browser plays; the file appears whole or not at all.

    Args:
        frames: uint8 [F, H, W, 3], or one by one [H, W, 3]; height and width even unless lossless.
        path: where the clip goes; an older file there is replaced.
        fps: frames per second.
        lossless: keep every bit (RGB, for training data; browsers do not play it).

    Raises:
        OSError: if it cannot be written; `strerror` is one sentence, and a full disk is named as such.
    """
    first, frames = _peek(frames)
    if not lossless and (first.shape[0] % 2 or first.shape[1] % 2):
        raise UserError(f"frames are {first.shape[0]} x {first.shape[1]}, height and width must be even")
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".mp4", dir=path.parent)
        os.close(handle)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the clip from a web server's other user
        _encode(frames, temporary, Fraction(fps).limit_denominator(1001), lossless)
        os.replace(temporary, path)
    except (OSError, av.error.FFmpegError) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and try again"
        else:
            reason = error.strerror or str(error)
        raise OSError(error.errno, f"the clip {path.name} was not written: {reason}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _peek(frames: np.ndarray | Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first frame, and all of them."""
    if isinstance(frames, np.ndarray) and frames.ndim != 4:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 [F, H, W, 3] with F above 0")
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None or first.ndim != 3 or first.shape[-1] != 3 or first.dtype != np.uint8:
        found = "none" if first is None else f"{first.dtype} {first.shape}"
        raise ValueError(f"frames are {found}, expected uint8 [F, H, W, 3] with F above 0")
    return first, itertools.chain([first], iterator)


def _encode(frames: Iterator[np.ndarray], path: str, fps: Fraction, lossless: bool) -> None:
    first = next(frames)
    # A key frame at least every half second, so that two clips can be scrubbed side by side.
    options = {"preset": "veryfast", "g": str(max(1, round(fps / 2)))}
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if lossless:
            stream = container.add_stream("libx264rgb", rate=fps, options=options | {"qp": "0"})
            stream.pix_fmt = "rgb24"
        else:
            stream = container.add_stream("libx264", rate=fps, options=options | {"crf": "16"})
            stream.pix_fmt = "yuv420p"
            # Without these tags browsers guess the colour matrix from the height.
            stream.codec_context.colorspace = Colorspace.ITU709
            stream.codec_context.color_range = ColorRange.MPEG
            stream.codec_context.color_primaries = ColorPrimaries.BT709
            stream.codec_context.color_trc = ColorTrc.BT709
        stream.height, stream.width = first.shape[:2]
        for pixels in itertools.chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if not lossless:
                frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame, uint8 [H, W, 3], as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise OSError(f"a frame of {frame.shape[1]} x {frame.shape[0]} pixels could not be encoded")
    return data.tobytes()


def decode_jpeg(data: bytes) -> np.ndarray:
    """The frame [H, W, 3] of a JPEG."""
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert frame is not None, "our own JPEG"
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
