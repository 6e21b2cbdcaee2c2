"""Clips of any origin as a player shows them: what is on the screen, upright, in sRGB, at the size that is asked for.

A video passes through one of FFmpeg's filter graphs, which hears what the file says beside its pixels: time stamps,
display matrix, pixel aspect, fields, colour matrix and range, HDR transfer. What cannot be honoured is refused with its
reason, and damage is named with the second at which it happens.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import numpy as np
from av.filter import Graph
from av.stream import Disposition
from PIL import Image

from wanact.media.video import ImageError, VideoError, fit_image, open_image

Fit = Literal["crop", "pad"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff")  # of a folder that is a clip
ANIMATIONS = (".gif", ".webp", ".png", ".apng")  # what imageio reads; FFmpeg reads the rest
MAX_GAP = 0.25  # seconds without a frame: four frames of a clip would stand still while its actions go on
JITTER = 0.002  # seconds that time stamps may come late: some containers round them to milliseconds
THREADS = 2  # of a decoder: each holds several frames, and clips are read side by side

# Numbers of ISO/IEC 23091-2, which FFmpeg uses; PyAV has names for some of them only.
_MATRIX_709, _UNSPECIFIED, _MATRIX_601, _MATRIX_2020, _MATRIX_IPT = 1, 2, 6, 9, 15
_LINEAR, _PQ, _HLG = 8, 16, 18
_WIDE_PRIMARIES = (9, 11, 12)  # BT.2020, DCI-P3, Display P3
_LFS = b"version https://git-lfs.github.com/spec/"
_SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"


def read_video(
    path: str | os.PathLike,
    num_frames: int | None = None,
    start: int = 0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit = "crop",
) -> np.ndarray:
    """Frames of a clip, from `start` on, all or exactly `num_frames` of them: uint8 [F, H, W, 3].

    Args:
        path: a video, an animated GIF, WebP or PNG, or a folder of pictures in the order of their names.
        num_frames: how many; all if not given.
        start: the first of them, counted in frames of the result.
        fps: frames a second, taken by their time stamps; the file's own frames, one by one, if not given. A folder of
            pictures has no time: its pictures are the frames.
        size: height and width that they are made to fit; their own if not given.
        fit: how a clip of another shape is made to fit: cut, or padded with black.

    Raises:
        VideoError: if the file is missing, damaged, holds no video, fewer frames than asked for, or what is no flat
            picture on an ordinary screen.
    """
    found = itertools.islice(frames_of(path, start, fps, size, fit), num_frames)
    first = next(found, None)
    count = 0
    if first is not None and num_frames is None:
        return np.stack([first, *found])
    if first is not None and num_frames is not None:
        frames = np.empty((num_frames, *first.shape), np.uint8)  # filled in place: a clip is never there twice
        for frame in itertools.chain([first], found):
            frames[count] = frame
            count += 1
        if count == num_frames:
            return frames
    held = start + count if count else num_frames_of(path, fps)
    wanted = f"{num_frames} frames" if num_frames is not None else "a frame"
    rate = "" if fps is None else f" at {fps:g} a second"
    raise VideoError(f"{path} has {held} frames{rate}, but {wanted} from frame {start} were asked for")


def frames_of(
    path: str | os.PathLike,
    start: int = 0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit = "crop",
) -> Iterator[np.ndarray]:
    """One frame after the other, uint8 [H, W, 3]; arguments and errors are those of `read_video`."""
    path = Path(path)
    if path.is_dir():
        yield from _pictures(path, start, fps, size, fit)
        return
    wanted = _Wanted(fps, start, size, fit)
    try:
        if path.suffix.lower() in ANIMATIONS:
            yield from _through_graph(_animation(path), wanted, path)
        else:
            with _opened(path) as container:
                stream = _track(container, path)
                aspect = stream.sample_aspect_ratio or Fraction(1)
                yield from _through_graph(_decoded(container, stream, wanted, path), wanted, path, aspect)
    except (OSError, av.error.FFmpegError) as error:
        raise _unreadable(path, error) from error


def num_frames_of(path: str | os.PathLike, fps: float | None = None) -> int:
    """How many frames `read_video` gives of a clip, from what the file says of its length.

    Raises:
        VideoError: if it is missing, damaged or holds no video.
    """
    path = Path(path)
    if path.is_dir():
        return len(picture_files(path))
    try:
        if path.suffix.lower() in ANIMATIONS:
            frames: list[Any] = list(_animation(path))
            seconds = float((frames[-1].pts + frames[-1].duration) * frames[-1].time_base)
            return len(frames) if fps is None else _frames_in(seconds, fps)
        with _opened(path) as container:
            stream = _track(container, path)
            seconds = _seconds(container, stream)
            if fps is None:
                return stream.frames or round(seconds * float(stream.average_rate or 0))
            return _frames_in(seconds, fps)
    except (OSError, av.error.FFmpegError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | av.error.FFmpegError) -> VideoError:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return VideoError(f"{path} is a Git LFS pointer; fetch the file with git lfs pull")
    return VideoError(f"{path} cannot be read: {error.strerror or error}")


def is_as_written(path: str | os.PathLike, fps: float) -> bool:
    """Whether a clip is one that `write_mp4` wrote without loss at this rate: each frame is read as it was drawn."""
    path = Path(path)
    if path.suffix.lower() != ".mp4" or not path.is_file():
        return False
    try:
        with _opened(path) as container:
            tracks = container.streams.video
            return len(tracks) == 1 and tracks[0].pix_fmt == "gbrp" and tracks[0].average_rate == fps
    except (OSError, av.error.FFmpegError):
        return False  # reading it will say what is wrong


def _frames_in(seconds: float, fps: float) -> int:
    """Multiples of 1/fps at which something is on the screen."""
    return math.floor((seconds - JITTER) * fps + 1)


# Pictures


def picture_files(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of their names, 2 before 10; what systems leave beside them is none."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    if not files:
        raise VideoError(f"{folder} is a folder without pictures")
    return sorted(files, key=lambda file: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", file.name)])


def _pictures(
    folder: Path, start: int, fps: float | None, size: tuple[int, int] | None, fit: Fit
) -> Iterator[np.ndarray]:
    first: tuple[int, int] | None = None
    for number, file in enumerate(picture_files(folder)):
        if number < start:
            continue
        try:
            picture = open_image(file)
        except ImageError as error:
            raise VideoError(f"{folder}: {error}") from error
        if first is not None and picture.size != first:
            when = f" ({number / fps:.2f} s)" if fps else ""
            was, becomes = (f"{width}x{height}" for width, height in (first, picture.size))
            raise VideoError(f"{folder} changes at {file.name}{when}: its size was {was} and becomes {becomes}")
        first = picture.size
        yield np.asarray(picture if size is None else fit_image(picture, *size, fit))


def _animation(path: Path) -> Iterator[av.VideoFrame]:
    """Frames of an animated picture, laid on white, with their times in milliseconds."""
    import imageio.v3 as iio

    time = 0
    try:
        opened: Any = iio.imopen(path, "r", plugin="pillow")
        with opened as file:
            for index, pixels in enumerate(file.iter(mode="RGBA")):
                picture = Image.fromarray(pixels)
                flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
                frame = av.VideoFrame.from_image(flat)
                # Browsers show frames that claim no time, or 10 ms, for a tenth of a second.
                milliseconds = round(float(file.metadata(index=index).get("duration") or 0))
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                frame.duration = milliseconds if milliseconds > 10 else 100
                time += frame.duration
                yield frame
    except (ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path} cannot be read as an animated picture: {error}") from error


# Videos


@dataclass(frozen=True)
class _Wanted:
    fps: float | None
    start: int  # in frames of the result
    size: tuple[int, int] | None
    fit: Fit

    @property
    def begin(self) -> float:
        """Seconds after the file's first frame."""
        return self.start / self.fps if self.fps else 0.0


def _opened(path: Path) -> Any:
    return av.open(str(path.absolute()))  # absolute: FFmpeg takes "a:b.mp4" for a protocol


def _track(container: Any, path: Path) -> Any:
    """The video track that ffmpeg would take: no attached picture, of several the largest."""
    tracks = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    flights = [stream for stream in tracks if stream.frames != 1] or tracks
    if not flights:
        raise VideoError(f"{path} holds no video")

    best = max(flights, key=lambda s: (s.width * s.height, bool(s.disposition & Disposition.default)))
    best.codec_context.thread_type, best.codec_context.thread_count = "AUTO", THREADS
    if len(flights) > 1:
        warnings.warn(
            f"{path} holds {len(flights)} videos; track {best.index} is read ({best.width}x{best.height})", stacklevel=2
        )
    return best


def _seconds(container: Any, stream: Any) -> float:
    """Length of a track by what the file says, or by its packets where it says nothing."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska's own
    if tag:
        hours, minutes, seconds = tag.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
    return float((max(ends, default=0) - (stream.start_time or 0)) * stream.time_base)


def _decoded(container: Any, stream: Any, wanted: _Wanted, path: Path, seek: bool = True) -> Iterator[av.VideoFrame]:
    """Sound frames of a track with rising times that begin at 0, from a key frame before `wanted.begin` on."""
    step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    watch = _Watch(path, step, float((stream.start_time or 0) * stream.time_base), wanted)
    sought = seek and wanted.begin > step and stream.start_time is not None
    if sought:
        container.seek(math.floor((watch.base + wanted.begin) / stream.time_base), stream=stream)
    for frame, torn in _raw(container, stream, watch):
        if sought and not frame.key_frame:
            continue  # it leans on frames before the one that was sought
        if sought and watch.seconds(frame) > wanted.begin + 1e-3:
            break
        sought = False
        if watch.accepts(frame, torn):
            yield frame
    watch.end()
    if sought:  # formats without an index find no key frame, or a later one
        with _opened(path) as again:
            yield from _decoded(again, _track(again, path), wanted, path, seek=False)


def _raw(container: Any, stream: Any, watch: _Watch) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Frames as they are decoded, and whether they or what they came from are known to be damaged."""
    torn: set[int] = set()
    for packet in container.demux(stream):
        if packet.is_corrupt and packet.pts is not None:
            torn.add(packet.pts)
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            raise watch.damage(watch.next) from error
        for frame in frames:
            yield frame, frame.is_corrupt or frame.pts in torn


class _Watch:
    """Looks at decoded frames one by one; raises VideoError where the clip cannot be used.

    Args:
        path: named in messages.
        step: seconds between frames, by what the file says.
        base: time stamp that counts as 0.
        wanted: what is asked for; times are not checked where nothing is taken by them.
    """

    def __init__(self, path: Path, step: float, base: float, wanted: _Wanted) -> None:
        self.path, self.step, self.base, self.wanted = path, step, base, wanted
        self.last: float | None = None
        self.kind: _Kind | None = None
        self.torn: float | None = None

    @property
    def next(self) -> float:
        """When the next frame is due."""
        return 0.0 if self.last is None else self.last + self.step

    def seconds(self, frame: av.VideoFrame) -> float:
        return self.next if frame.time is None else frame.time - self.base

    def accepts(self, frame: Any, torn: bool) -> bool:
        """Check a frame and set its time; False for one behind a damaged one.

        Damage is reported at the next key frame: two recordings in one file look torn where they meet, and their sizes
        say better what is wrong.
        """
        seconds, kind = self.seconds(frame), _Kind.of(frame)
        if self.kind is not None and kind != self.kind:
            raise VideoError(f"{self.path} changes at {max(seconds, self.next):.2f} s: {self.kind.change(kind)}")
        if self.torn is not None and frame.key_frame:
            raise self.damage(self.torn)
        self.kind = kind
        if torn and self.torn is None:
            self.torn = seconds
        if self.torn is None and self.wanted.fps is not None:
            self._check_time(seconds)
        self.last = max(seconds, self.next) if self.torn is not None else seconds
        frame.pts = round(seconds / frame.time_base)
        frame.duration = frame.duration or round(self.step / frame.time_base)
        return self.torn is None

    def _check_time(self, seconds: float) -> None:
        if self.last is not None and seconds < self.last - 1e-3:
            raise VideoError(f"{self.path} has time stamps that run back, from {self.last:.2f} s to {seconds:.2f} s")
        if seconds - max(self.last or 0.0, self.wanted.begin) > MAX_GAP:
            ends = f"{self.last or 0.0:.2f} s and {seconds:.2f} s"
            raise VideoError(f"{self.path} has a gap: there is no frame between {ends}")

    def end(self) -> None:
        if self.torn is not None:
            raise self.damage(self.torn)

    def damage(self, seconds: float) -> VideoError:
        return VideoError(f"{self.path} is damaged at {max(seconds, 0):.2f} s")


def _through_graph(
    frames: Iterator[av.VideoFrame], wanted: _Wanted, path: Path, aspect: Fraction = Fraction(1)
) -> Iterator[np.ndarray]:
    """What becomes of decoded frames: in time, upright, in sRGB, fitted."""
    graph = None
    skipped = 0 if wanted.fps else wanted.start
    for frame in frames:
        if graph is None:
            graph = _graph(frame, wanted, path, aspect)
        graph.push(frame)
        for shown in _pulled(graph):
            if skipped:
                skipped -= 1
                continue
            yield shown
    if graph is not None:
        graph.push(None)
        yield from itertools.islice(_pulled(graph), skipped, None)


def _pulled(graph: Any) -> Iterator[np.ndarray]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield frame.to_ndarray()


@dataclass(frozen=True)
class _Kind:
    """What a filter graph is made for: it must stay the same over a clip."""

    width: int
    height: int
    format: str
    matrix: int
    limited: int
    transfer: int
    primaries: int
    interlaced: bool

    @classmethod
    def of(cls, frame: av.VideoFrame) -> _Kind:
        colour = (int(frame.color_range), int(frame.color_trc), int(frame.color_primaries))
        return cls(frame.width, frame.height, frame.format.name, _matrix(frame), *colour, frame.interlaced_frame)

    def change(self, other: _Kind) -> str:
        """The first thing in which another kind differs, in words."""
        if (self.width, self.height) != (other.width, other.height):
            return f"its size was {self.width}x{self.height} and becomes {other.width}x{other.height}"
        name = next(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))
        return f"its {name} was {getattr(self, name)} and becomes {getattr(other, name)}"


def _matrix(frame: av.VideoFrame) -> int:
    """Colour matrix of a frame; where the file is silent, the one that players take."""
    matrix = int(frame.colorspace)
    if matrix != _UNSPECIFIED:
        return matrix
    if int(frame.color_primaries) in _WIDE_PRIMARIES[:1]:
        return _MATRIX_2020
    return _MATRIX_709 if frame.width >= 1280 or frame.height > 576 else _MATRIX_601


def _graph(frame: av.VideoFrame, wanted: _Wanted, path: Path, aspect: Fraction) -> Any:
    """The filters from a file's frames to those of a clip."""
    kind = _Kind.of(frame)
    _refuse(frame, kind, path)
    turns, upright = _turns(frame, path)
    scaled, framing = _fitting(kind, aspect, upright, wanted)
    filters = [("bwdif", "mode=send_frame:deint=interlaced")] if kind.interlaced else []
    if wanted.fps is not None:
        # The frame that is on the screen at k/fps: with this shift, rounding to the nearest k picks it.
        rate = Fraction(wanted.fps).limit_denominator(1001)
        filters += [
            ("settb", "AVTB"),
            ("setpts", f"PTS+{0.5 / wanted.fps - JITTER:.9f}/TB"),
            ("fps", f"fps={rate}:round=near:start_time={wanted.begin:.9f}"),
        ]
    filters.append(("scale", f"w={scaled[0]}:h={scaled[1]}:flags={_SCALING}"))
    light = _light(frame, kind)
    if light:
        filters += [("format", "gbrp16le"), ("scale", light)]  # from RGB: of YCbCr it takes another matrix
    filters += [("format", "rgb24"), *turns, *framing]
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{kind.width}x{kind.height}",
        pix_fmt=kind.format,
        time_base=str(frame.time_base),
        pixel_aspect="1/1",
        colorspace=str(kind.matrix),
        range=str(kind.limited),
    )
    graph.link_nodes(source, *(graph.add(*node) for node in filters), graph.add("buffersink")).configure()
    return graph


def _refuse(frame: av.VideoFrame, kind: _Kind, path: Path) -> None:
    """Raise VideoError for pictures that no filter at hand turns into what a player shows."""
    data = frame.side_data
    if kind.matrix == _MATRIX_IPT or ("DOVI_METADATA" in data and kind.transfer == _UNSPECIFIED):
        raise VideoError(f"{path} is Dolby Vision without an ordinary picture beside it; export it as HDR10 or SDR")
    if kind.matrix not in (0, 1, 2, 4, 5, 6, 7, 9):
        raise VideoError(f"{path} has colours (matrix {kind.matrix}) that cannot be converted; export it as BT.709")
    if "SPHERICAL" in data:
        raise VideoError(f"{path} is a panorama of 360 degrees, no flat picture; export the view that the drone flies")
    if "STEREO3D" in data and int.from_bytes(bytes(data["STEREO3D"])[:4], "little"):
        raise VideoError(f"{path} is stereoscopic; export the picture of one eye")


def _light(frame: av.VideoFrame, kind: _Kind) -> str:
    """What brings high dynamic range and wide gamuts to sRGB; "" for ordinary pictures.

    As players do, highlights are rolled off below what the picture was mastered for; HLG has 1000 cd/m2. PQ that says
    nothing of it might reach 10,000 cd/m2, which would leave it dark: its reference white (203 cd/m2) becomes white.

    Source: ITU-R BT.2408; libswscale/cms.c.
    """
    mastered = kind.transfer == _HLG or "MASTERING_DISPLAY_METADATA" in frame.side_data
    if kind.transfer in (_PQ, _HLG, _LINEAR):
        intent = "perceptual" if mastered else "relative_colorimetric"
        return f"out_transfer=iec61966-2-1:out_primaries=bt709:intent={intent}"
    return "out_primaries=bt709" if kind.primaries in _WIDE_PRIMARIES else ""


def _turns(frame: av.VideoFrame, path: Path) -> tuple[list[tuple[str, str]], bool]:
    """Filters that the display matrix asks for, and whether height and width stay what they are."""
    if "DISPLAYMATRIX" not in frame.side_data:
        return [], True
    a, b, _, c, d, *_ = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32).tolist()
    straight, across = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, across) > 0.02 * max(straight, across):
        raise VideoError(
            f"{path} is to be shown turned by {frame.rotation} degrees; only quarter turns can be honoured"
        )
    if straight > across:
        return [(name, "") for name, flipped in (("hflip", a < 0), ("vflip", d < 0)) if flipped], True
    direction = {(True, False): "clock", (False, True): "cclock", (True, True): "cclock_flip"}
    return [("transpose", f"dir={direction.get((b > 0, c > 0), 'clock_flip')}")], False


def _fitting(
    kind: _Kind, aspect: Fraction, upright: bool, wanted: _Wanted
) -> tuple[tuple[int, int], list[tuple[str, str]]]:
    """Width and height to scale to before a picture is turned, and what cuts or pads it afterwards."""
    width, height = kind.width * max(aspect, 1), kind.height / min(aspect, 1)
    if wanted.size is None:
        return (round(width), round(height)), []
    target_height, target_width = wanted.size
    across, down = (target_width, target_height) if upright else (target_height, target_width)
    if wanted.fit == "crop":
        factor = max(across / width, down / height)
        scaled = (max(across, round(width * factor)), max(down, round(height * factor)))
        return scaled, [("crop", f"{target_width}:{target_height}")] if scaled != (across, down) else []
    factor = min(across / width, down / height)
    scaled = (min(across, max(1, round(width * factor))), min(down, max(1, round(height * factor))))
    padding = f"{target_width}:{target_height}:(ow-iw)/2:(oh-ih)/2:black"
    return scaled, [("pad", padding)] if scaled != (across, down) else []
