"""What is seen in one clip: how the camera moved, how sharp and bright it is, where it is cut, and what it looks like.

All of it is measured from a small picture, once, and kept; see `sets.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from einops import rearrange
from PIL import Image

from wanact.data import camera
from wanact.errors import UserError
from wanact.media.footage import frames_of
from wanact.shapes import TEMPORAL_STRIDE, num_actions

MAX_FRAMES = 481  # half a minute: of a longer clip, what comes after is not looked at
FLOW_WIDTH, FLOW_STEP = 160, 4
SHARP_WIDTH = 640
THUMB_WIDTH = 208
SHEET_WIDTH, SHEET_COLUMNS, MAX_SHEET_FRAMES = 256, 9, 321

# Of neighbouring frames, a sixteenth of a second apart: how far the mean of their differences, in 40 x 24 cells and
# of 255, must be above zero and above what is usual around it for another scene to have begun.
CUT, CUT_OVER_USUAL, CUT_NEAR = 22.0, 5.0, 8
_CELLS = (40, 24)
_SIGNATURE = (9, 8)
COPY = 2.5  # of 255: mean difference of signatures below which two clips are the same pictures


@dataclass(frozen=True)
class Seen:
    """What is seen in a clip.

    Attributes:
        frames: pixel frames that were looked at.
        size: height and width of its pictures.
        camera: motion of the camera in each latent frame after the first, [N, 4]: ahead and right as parallax, yaw to
            the right and pitch up in degrees; see `wanact.data.camera`.
        cuts: frames at which another scene begins.
        sharpness: of the median frame, see `sharpness`.
        brightness: mean of all pixels, 0 to 1.
        signature: its first, middle and last frame in 9 x 8 grey cells each, bytes as hex.
        problem: why it could not be looked at; "" if it could.
    """

    frames: int = 0
    size: tuple[int, int] = (0, 0)
    camera: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    cuts: tuple[int, ...] = ()
    sharpness: float = 0.0
    brightness: float = 0.0
    signature: str = ""
    problem: str = ""

    @property
    def whole(self) -> np.ndarray:
        """Which latent frames lie within one scene, [N]."""
        first = TEMPORAL_STRIDE * np.arange(len(self.camera))
        is_whole = np.ones(len(self.camera), bool)
        for cut in self.cuts:
            is_whole &= ~((first < cut) & (cut <= first + TEMPORAL_STRIDE))
        return is_whole

    def to_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "size": list(self.size),
            "camera": self.camera.round(4).tolist(),
            "cuts": list(self.cuts),
            "sharpness": round(self.sharpness, 4),
            "brightness": round(self.brightness, 4),
            "signature": self.signature,
            "problem": self.problem,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Seen:
        return cls(
            int(content["frames"]),
            (int(content["size"][0]), int(content["size"][1])),
            np.array(content["camera"], np.float64).reshape(-1, 4),
            tuple(int(cut) for cut in content["cuts"]),
            float(content["sharpness"]),
            float(content["brightness"]),
            str(content["signature"]),
            str(content["problem"]),
        )


def look(path: Path, fps: float, start: int = 0, count: int | None = None) -> tuple[Seen, np.ndarray | None]:
    """What is seen in a clip, and a small picture of its first frame, uint8 [h, w, 3].

    Args:
        path: the video.
        fps: frames a second at which it is read.
        start: its first frame.
        count: how many; all up to `MAX_FRAMES` if not given.

    A clip that cannot be read is `Seen` with its problem and no picture.
    """
    try:
        return _look(_frames(path, fps, start, count))
    except (UserError, OSError) as error:
        return Seen(problem=str(error)), None


def _frames(path: Path, fps: float, start: int, count: int | None, most: int = MAX_FRAMES) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames_of(path, start, fps)):
        if number == min(count or most, most):
            return
        yield frame


def _look(frames: Iterator[np.ndarray]) -> tuple[Seen, np.ndarray | None]:
    small, cells, sharp, light, marks = [], [], [], [], []
    thumb, size = None, (0, 0)
    for frame in frames:
        if thumb is None:
            thumb, size = narrowed(frame, THUMB_WIDTH), frame.shape[:2]
        picture = narrowed(frame, FLOW_WIDTH)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small.append(picture)
        cells.append(cv2.resize(picture, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32))
        if len(small) % TEMPORAL_STRIDE == 1:
            sharp.append(sharpness(cv2.cvtColor(narrowed(frame, SHARP_WIDTH), cv2.COLOR_RGB2GRAY)))
        light.append(float(grey.mean()) / 255)
        marks.append(cv2.resize(grey, _SIGNATURE, interpolation=cv2.INTER_AREA))
    if thumb is None:
        return Seen(problem="it has no frame"), None
    count = num_actions(1 + TEMPORAL_STRIDE * ((len(small) - 1) // TEMPORAL_STRIDE))
    moved = np.zeros((0, 4))
    if count:
        clip = np.stack(small[: 1 + TEMPORAL_STRIDE * count])
        moved = camera.see(clip, width=FLOW_WIDTH, step=FLOW_STEP).camera
    signature = b"".join(marks[i].tobytes() for i in (0, len(marks) // 2, len(marks) - 1))
    seen = Seen(
        frames=len(small),
        size=(int(size[0]), int(size[1])),
        camera=moved,
        cuts=cuts_in(np.stack(cells)),
        sharpness=float(np.median(sharp)),
        brightness=float(np.mean(light)),
        signature=signature.hex(),
    )
    return seen, thumb


def sharpness(grey: np.ndarray) -> float:
    """How steep the steepest edges of a grey picture are: the share of an edge's height that lies between two
    neighbours. About 0.6 where nothing is blurred, whatever is to be seen; 0.33 after a Gaussian of one pixel, and a
    quarter where a straight slope is all there is."""
    picture = grey.astype(np.float32)
    steps, heights = [], []
    for turned in (picture, picture.T):
        step = np.abs(np.diff(turned, axis=1))
        around = np.ones((1, 5), np.uint8)
        height = cv2.dilate(turned, around) - cv2.erode(turned, around)
        steps.append(step.ravel())
        heights.append(np.maximum(height[:, :-1], height[:, 1:]).ravel())
    step, height = np.concatenate(steps), np.concatenate(heights)
    count = min(len(step), max(50, len(step) // 100))
    top = np.argpartition(step, -count)[-count:]
    return float((step[top] / (height[top] + 2)).mean())


def cuts_in(cells: np.ndarray) -> tuple[int, ...]:
    """Frames at which another scene begins, of pictures in few cells, [F, h, w, 3]: they differ by far more from the
    one before than those around them do, as no flight does."""
    apart = np.abs(np.diff(cells, axis=0)).mean(axis=(1, 2, 3))
    found = []
    for i, value in enumerate(apart):
        around = np.concatenate([apart[max(0, i - CUT_NEAR) : i], apart[i + 1 : i + 1 + CUT_NEAR]])
        usual = float(np.median(around)) if len(around) else 0.0
        if value > CUT and value > CUT_OVER_USUAL * usual:
            found.append(i + 1)
    return tuple(found)


def narrowed(frame: np.ndarray, width: int) -> np.ndarray:
    """A picture no wider than so many pixels."""
    if frame.shape[1] <= width:
        return frame
    height = max(8, round(frame.shape[0] * width / frame.shape[1]))
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def copies_in(signatures: list[str]) -> list[int | None]:
    """For each clip the number of an earlier one that shows the same, or None.

    Clips whose signatures share no half are not held against each other, so that thousands take a moment.
    """
    marks = [np.frombuffer(bytes.fromhex(one), np.uint8).astype(np.int16) for one in signatures]
    seen: dict[tuple[int, bytes], list[int]] = {}
    found: list[int | None] = []
    for number, mark in enumerate(marks):
        original = None
        keys = [(part, (mark[part::6] // 48).astype(np.uint8).tobytes()) for part in range(6)] if len(mark) else []
        for key in keys:
            for other in seen.get(key, ())[:50]:
                if original is None and np.abs(mark - marks[other]).mean() < COPY:
                    original = other
        for key in keys if original is None else ():
            seen.setdefault(key, []).append(number)
        found.append(original)
    return found


def sheet(path: Path, fps: float, start: int = 0, count: int | None = None) -> tuple[np.ndarray, int, tuple[int, int]]:
    """All frames of a clip in one picture, `SHEET_COLUMNS` a row; how many they are, and the size of each.

    Raises:
        VideoError: if it cannot be read.
    """
    most = MAX_SHEET_FRAMES
    small = [narrowed(frame, SHEET_WIDTH) for frame in _frames(path, fps, start, count, most)]
    if not small:
        raise UserError(f"{path.name} has no frame from {start / fps:g} s on")
    height, width = small[0].shape[:2]
    rows = -(-len(small) // SHEET_COLUMNS)
    whole = np.zeros((rows * height, SHEET_COLUMNS * width, 3), np.uint8)
    for number, frame in enumerate(small):
        row, column = divmod(number, SHEET_COLUMNS)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    return whole, len(small), (height, width)


def frames_of_sheet(path: Path, layout: dict[str, int]) -> np.ndarray:
    """The frames of a clip from the picture that holds them all, as it was written: uint8 [F, H, W, 3].

    Args:
        path: the picture.
        layout: count, height, width and columns of its frames.
    """
    with Image.open(path) as picture:
        whole = np.asarray(picture.convert("RGB"))
    tiles = rearrange(whole, "(r h) (k w) c -> (r k) h w c", h=layout["height"], w=layout["width"])
    return tiles[: layout["count"]]
