"""Still pictures under a moving camera: what the simulator does not show, so that a photograph survives the VAE.

Nothing is downloaded: dead leaves (Lee, Mumford & Huang 2001: occluding discs with sizes of a power law, the
statistics of natural images), power-law noise in colour, and the photographs that scikit-image ships.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from wanact.media.video import open_image

TRAINING_PHOTOGRAPHS = (
    "astronaut.png",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "grass.png",
    "gravel.png",
    "brick.png",
    "camera.png",
    "ihc.png",
)
HELD_OUT_PHOTOGRAPHS = ("coffee.png", "chelsea.png", "rocket.jpg")


def photographs(names: tuple[str, ...]) -> list[np.ndarray]:
    """The named photographs of scikit-image, uint8 [H, W, 3], scaled to at most 400 pixels on the shorter side."""
    import skimage

    pictures = []
    for name in names:
        picture = np.asarray(open_image(Path(skimage.__file__).parent / "data" / name))
        scale = min(1.0, 400 / min(picture.shape[:2]))
        pictures.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return pictures


def dead_leaves(rng: np.random.Generator, size: int = 320, leaves: int = 900) -> np.ndarray:
    """Occluding shaded discs and rectangles whose sizes follow a power law, uint8 [size, size, 3]."""
    image = np.full((size, size, 3), rng.uniform(40, 215, 3), np.float32)
    base = rng.uniform(30, 225, (6, 3))  # a palette, as real scenes have
    for _ in range(leaves):
        radius = min(5 / np.sqrt(rng.random() + 1e-3), size / 3)
        centre = rng.uniform(0, size, 2)
        colour = np.clip(base[rng.integers(6)] + rng.normal(0, 22, 3), 0, 255).tolist()
        if rng.random() < 0.7:
            cv2.circle(image, tuple(int(c) for c in centre), int(radius), colour, -1, cv2.LINE_AA)
        else:
            box = (tuple(centre), (radius * 2, radius * rng.uniform(0.5, 2)), float(rng.uniform(0, 180)))
            cv2.fillConvexPoly(image, cv2.boxPoints(box).astype(np.int32), colour, cv2.LINE_AA)
    shade = 1 + 0.12 * power_law_noise(rng, size, 1.2)[..., None]
    return np.clip(cv2.GaussianBlur(image * shade, (0, 0), 0.7), 0, 255).astype(np.uint8)


def power_law_noise(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Noise whose amplitude falls as frequency ** -exponent, unit deviation, [size, size]."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    spectrum = np.maximum(frequency, 1) ** -exponent * np.exp(2j * np.pi * rng.random(frequency.shape))
    field = np.fft.irfft2(spectrum, s=(size, size))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def clouds(rng: np.random.Generator, size: int = 320) -> np.ndarray:
    """Power-law noise in three correlated colours, uint8 [size, size, 3]."""
    exponent = rng.uniform(1.0, 1.8)
    common = power_law_noise(rng, size, exponent)
    colours = [0.8 * common + 0.5 * power_law_noise(rng, size, exponent) for _ in range(3)]
    return np.clip(rng.uniform(80, 175, 3) + 48 * np.stack(colours, -1), 0, 255).astype(np.uint8)


def picture_pool(seed: int, count: int = 64) -> list[np.ndarray]:
    """The training pictures: photographs, dead leaves and clouds."""
    rng = np.random.default_rng([seed, 31])
    synthetic = [dead_leaves(rng) if k % 3 else clouds(rng) for k in range(count)]
    return synthetic + photographs(TRAINING_PHOTOGRAPHS)


def moving_crop(picture: np.ndarray, rng: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """A camera that pans, zooms and turns over a picture, uint8 [num_frames, size, size, 3]."""
    height, width = picture.shape[:2]
    scale = rng.uniform(0.5, min(1.4, min(height, width) / size))
    at = rng.uniform(0.3, 0.7, 2) * (width, height)
    drift = rng.normal(0, 1.0, 2)
    zoom, turn = rng.normal(0, 0.006), np.radians(rng.normal(0, 0.35))
    frames = []
    for t in range(num_frames):
        s, a = scale * np.exp(zoom * t), turn * t
        matrix = np.array([[s * np.cos(a), -s * np.sin(a), 0], [s * np.sin(a), s * np.cos(a), 0]], np.float32)
        matrix[:, 2] = at + drift * t - matrix[:, :2] @ (size / 2, size / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frames.append(cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101))
    return np.stack(frames)
