"""How alike two clips are, frame by frame, without any learned weights."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

EQUAL_DB = 100.0
_SMALL = (40, 24)  # width and height
_GMSD_C = 170.0 / 255**2  # of Xue et al., for values up to 1


def psnr_db(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame, [F]; equal frames count as 100 dB."""
    error = np.square(frames.astype(np.float32) - others).mean(axis=(1, 2, 3), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.minimum(10 * np.log10(255**2 / error), EQUAL_DB)


def ssim(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame, [F], with the Gaussian window of Wang et al. 2004."""
    from skimage.metrics import structural_similarity

    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(frames, others, strict=True)
    return np.array([structural_similarity(a, b, channel_axis=2, data_range=255, **window) for a, b in pairs])


def gmsd(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Gradient magnitude similarity deviation of each frame, [F]: 0 for equal ones, about 0.3 for unlike ones.

    A perceptual distance without learned features: how unevenly edges are kept over the picture.

    Source: Xue et al. 2014 (arXiv:1308.3052), eq. 4 to 7; Prewitt gradients of the halved grey picture.
    """
    return np.array([_gmsd(a, b) for a, b in zip(frames, others, strict=True)])


def colour_distance(frame: np.ndarray, other: np.ndarray) -> float:
    """How far apart the CIELAB histograms of two pictures are, uint8 [H, W, 3], of any sizes; where colours stand does
    not count.

    The earth mover's distance of each of the three coordinates, as a vector's length: in units of Delta E, of which
    about two are noticed.
    """
    a, b = colour_quantiles(frame), colour_quantiles(other)
    return float(np.linalg.norm(np.abs(a - b).mean(axis=0)))


def horizon(frame: np.ndarray) -> float:
    """How different above and below are: distance in CIELAB of the mean colours of a picture's upper and lower thirds,
    uint8 [H, W, 3]. Where a flight has dissolved, nothing is left of it."""
    lab = cv2.cvtColor(np.ascontiguousarray(frame, np.float32) / 255, cv2.COLOR_RGB2LAB)
    third = len(lab) // 3
    return float(np.linalg.norm(lab[:third].mean(axis=(0, 1)) - lab[-third:].mean(axis=(0, 1))))


@dataclass(frozen=True)
class Sight:
    """How much there is to see in a picture: its `horizon`, and the mean `gradient_length` of its brightness."""

    horizon: float
    detail: float

    @classmethod
    def of(cls, frame: np.ndarray) -> Sight:
        """Of a frame, uint8 [H, W, 3]."""
        return cls(horizon(frame), float(gradient_length(frame[None])[0]))

    def has_dissolved(self, first: Sight) -> bool:
        """Whether both are gone of what the flight began with.

        Held against flights of a minute on the bundled world, by eye: what still shows where the sky ends has a horizon
        above 20, or above 0.6 of the first; and the softest clear view has a quarter of the first picture's detail.
        """
        has_horizon = self.horizon > min(20.0, 0.6 * first.horizon)
        return not has_horizon and self.detail < 0.25 * first.detail


def apart(frame: np.ndarray, other: np.ndarray) -> float:
    """How far two views of a place are from each other, uint8 [H, W, 3] of any sizes: 0 for the same, and 100 for
    views that have no more in common than chance.

    The difference of the two, shrunk until blur does not count, as a share of what each has of its own: root mean
    square error over the root of both variances. On views of the simulator: 5 where one is blurred by three pixels of
    320, 11 where it is turned by one degree, 28 by three, 46 by twelve; 27 to 96 between places of a world.
    """
    a, b = (cv2.resize(view, _SMALL, interpolation=cv2.INTER_AREA).astype(np.float64) for view in (frame, other))
    own = a.var(axis=(0, 1)).mean() + b.var(axis=(0, 1)).mean()
    return float(min(100.0, 100 * np.sqrt(((a - b) ** 2).mean() / max(own, 1.0))))


def colour_quantiles(pixels: np.ndarray, count: int = 128) -> np.ndarray:
    """The histogram of L, a and b of a picture, as values that equal shares of its pixels are below, [count, 3]."""
    lab = cv2.cvtColor(np.ascontiguousarray(pixels, np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    return np.quantile(lab, (np.arange(count) + 0.5) / count, axis=0)


def gradient_length(frames: np.ndarray) -> np.ndarray:
    """Mean length of the Sobel gradient of each frame's brightness, [F]: how much there is to see."""
    lengths = []
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        lengths.append(np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)).mean())
    return np.array(lengths)


def blockiness(frames: np.ndarray, block: int = 16) -> float:
    """Mean step between neighbours on both sides of a grid over that inside its blocks: 1 where no grid shows.

    A picture of one block has no grid.
    """
    on, inside = [], []
    for axis in (1, 2):
        steps = np.abs(np.diff(frames.astype(np.float32), axis=axis))
        steps = steps.mean(axis=tuple(k for k in range(4) if k != axis))
        border = np.arange(1, len(steps) + 1) % block == 0
        on.append(steps[border])
        inside.append(steps[~border])
    if not sum(map(len, on)):
        return 1.0
    return float(np.concatenate(on).mean() / max(np.concatenate(inside).mean(), 1e-6))


def _gmsd(frame: np.ndarray, other: np.ndarray) -> float:
    a, b = _gradient(frame), _gradient(other)
    similarity = (2 * a * b + _GMSD_C) / (a**2 + b**2 + _GMSD_C)
    return float(similarity.std())


def _gradient(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    half = cv2.blur(grey, (2, 2))[::2, ::2]
    prewitt = np.array([[1, 0, -1]] * 3, np.float32) / 3
    across, down = cv2.filter2D(half, -1, prewitt), cv2.filter2D(half, -1, prewitt.T)
    return np.hypot(across, down)
