import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from wanact.media.likeness import apart, gmsd, psnr_db, ssim


@pytest.fixture
def frames():
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(frame).resize((96, 64))) for frame in noise])


def blurred(frames, radius):
    return np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(radius))) for f in frames])


def test_equal_clips_are_as_alike_as_can_be(frames):
    assert (psnr_db(frames, frames) == 100).all() and np.allclose(ssim(frames, frames), 1)
    assert (gmsd(frames, frames) == 0).all()


def test_all_measures_order_blurs_by_their_strength(frames):
    little, much = blurred(frames, 1), blurred(frames, 4)
    assert (psnr_db(frames, little) > psnr_db(frames, much)).all()
    assert (ssim(frames, little) > ssim(frames, much)).all()
    assert (gmsd(frames, little) < gmsd(frames, much)).all()


def test_gmsd_sees_edges_and_not_brightness(frames):
    brighter = np.clip(frames.astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    same_contrast = np.clip(frames.astype(int) + 20, 0, 255).astype(np.uint8)
    assert (gmsd(frames, np.minimum(same_contrast, 255)) < 0.1).all()
    assert (gmsd(frames, brighter) > gmsd(frames, frames)).all()


def test_views_are_apart_by_what_they_show_and_not_by_blur_or_size():
    rng = np.random.default_rng(0)
    view = cv2.resize(rng.integers(0, 256, (6, 10, 3), np.uint8), (320, 192), interpolation=cv2.INTER_CUBIC)
    other = cv2.resize(rng.integers(0, 256, (6, 10, 3), np.uint8), (320, 192), interpolation=cv2.INTER_CUBIC)
    turned = [apart(np.roll(view, shift, axis=1), view) for shift in (2, 8, 24)]
    assert apart(view, view) == 0 and turned == sorted(turned)
    assert apart(cv2.GaussianBlur(view, (0, 0), 3), cv2.resize(view, (160, 96))) < turned[1]
    assert turned[2] < apart(other, view) <= 100
    assert apart(np.full_like(view, 90), np.full_like(view, 90)) == 0
