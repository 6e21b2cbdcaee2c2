"""A clip as an animated picture plays as the clip does."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wanact.media.animation import write_animation
from wanact.media.footage import num_frames_of, read_video


def moving(count: int, height: int, width: int) -> np.ndarray:
    """Soft colours with a bright bar that moves two pixels a frame."""
    across, down = np.meshgrid(np.linspace(40, 160, width), np.linspace(40, 160, height))
    still = np.stack([across, down, np.full_like(across, 90)], axis=-1).astype(np.uint8)
    frames = np.repeat(still[None], count, axis=0)
    for index, frame in enumerate(frames):
        frame[:, 2 * index : 2 * index + 6] = 240
    return frames


@pytest.mark.parametrize("form", ["gif", "webp"])
@pytest.mark.parametrize("fps", [16, 24])
def test_an_animation_is_the_clip_at_the_clips_speed(tmp_path, form, fps):
    frames, path = moving(13, 64, 96), tmp_path / f"clip.{form}"
    write_animation(frames, path, fps)
    again = read_video(path)
    assert again.shape == frames.shape and np.abs(again.astype(int) - frames).mean() < 8
    timed = read_video(path, 12, fps=fps)
    assert np.abs(timed.astype(int) - frames[:12]).mean() < 8, "no frame is early or late"
    assert abs(num_frames_of(path, 100) - 100 * 13 / fps) <= 10
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_large_gifs_are_halved(tmp_path):
    write_animation(moving(2, 128, 832), tmp_path / "clip.gif", 16)
    assert read_video(tmp_path / "clip.gif").shape == (2, 64, 416, 3)


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        write_animation(moving(2, 32, 32), tmp_path / "gone" / "clip.gif", 16)
    assert not list(tmp_path.iterdir())
