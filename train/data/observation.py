"""The unified observation: three cameras of a robot as one picture, 640 wide and 720 high, for a model of 640 x 736.

The front camera, 640 x 480, stands above the left and the right one, 320 x 240 each. `--fit pad` adds eight black rows
above and below, without scaling, and `without_padding` takes them away again. A single camera is letterboxed by the
same flag.
"""

from __future__ import annotations

import numpy as np

from wanact.errors import UserError

HEIGHT, WIDTH = 720, 640
FRONT, SIDE = (480, 640), (240, 320)
PADDED = 736  # the next multiple of 32


def unified(front: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Three views as one: uint8 [F, 480, 640, 3] and twice [F, 240, 320, 3] -> [F, 720, 640, 3]."""
    for name, frames, size in (("front", front, FRONT), ("left", left, SIDE), ("right", right, SIDE)):
        if frames.shape[1:3] != size or len(frames) != len(front):
            raise UserError(
                f"the {name} view is {frames.shape[0]} x {frames.shape[2]} x {frames.shape[1]}, "
                f"expected {len(front)} frames of {size[1]} x {size[0]}"
            )
    return np.concatenate([front, np.concatenate([left, right], axis=2)], axis=1)


def views(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Front, left and right of a unified picture, padded or not; the inverse of `unified`."""
    frames = without_padding(frames, HEIGHT, WIDTH)
    below = frames[:, FRONT[0] :]
    return frames[:, : FRONT[0]], below[:, :, : SIDE[1]], below[:, :, SIDE[1] :]


def without_padding(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inside [F, height, width, 3] of frames that `--fit pad` only padded."""
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    if min(top, left) < 0:
        raise UserError(f"frames of {frames.shape[2]} x {frames.shape[1]} hold no picture of {width} x {height}")
    return frames[:, top : top + height, left : left + width]
