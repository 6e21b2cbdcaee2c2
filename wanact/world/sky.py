"""The sky of a simulated world as a panorama: gradient, sun or moon, clouds, and ridges on the far horizon."""

from __future__ import annotations

import cv2
import numpy as np

from wanact.world.palettes import Biome, TimeOfDay, Weather

COLUMNS, ROWS = 2048, 480  # azimuth 0..360 degrees, elevation 0..ELEVATION_DEG
ELEVATION_DEG = 50.0


def _wave(rng, count: int, lowest: int, highest: int) -> np.ndarray:
    """A wrapping line of noise over the azimuth, about -1..1."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    line = np.zeros(count)
    for k in range(lowest, highest + 1):
        line += np.sin(k * angle + rng.uniform(0, 2 * np.pi)) * rng.uniform(0.5, 1) / k
    return line / np.abs(line).max()


def haze_ring(time: TimeOfDay, weather: Weather, sun_azimuth: float) -> np.ndarray:
    """Colour of the horizon's haze for each azimuth, [COLUMNS, 3] float32."""
    azimuth = np.linspace(0, 2 * np.pi, COLUMNS, endpoint=False)
    away = np.angle(np.exp(1j * (azimuth - sun_azimuth)))
    towards = np.exp(-(away**2) / 0.8)[:, None]
    base = np.array(time.horizon, np.float32)
    if time.sun_elevation_deg < 10:  # opposite a low sun the horizon is cool
        base = base * (0.4 + 0.6 * towards) + 0.6 * (1 - towards) * np.array(time.middle, np.float32)
    grey = base.mean()
    base = base + weather.veil * 0.5 * (grey + (6 if time.is_dark else 12) - base)
    return np.clip(base + 0.45 * towards * np.array(time.glow, np.float32), 0, 255).astype(np.float32)


def _clouds(rng, time: TimeOfDay, weather: Weather, sky: np.ndarray, elevation: np.ndarray) -> None:
    """Paint cumulus banks of overlapping discs with flat feet, far ones first, in place."""
    step = 360.0 / COLUMNS
    for k in range(weather.clouds):
        nearness = (k + 1) / weather.clouds
        centre = rng.uniform(0, 360)
        foot = 2.5 + 15 * nearness**1.5 + rng.uniform(-1, 2)
        wide = rng.uniform(13, 24) * (0.6 + 0.7 * nearness)
        tall = wide * rng.uniform(0.22, 0.34)
        left = int((centre - wide * 1.4) / step)
        column = np.arange(left, left + int(2.8 * wide / step))
        row = np.flatnonzero((elevation > foot - 2) & (elevation < foot + 2.2 * tall))
        if not len(row):
            continue
        x, y = (column * step)[None], elevation[row][:, None]
        field = np.full((len(row), len(column)), -9.0)
        for _ in range(9):
            across = rng.uniform(-0.85, 0.85)
            radius = tall * rng.uniform(0.55, 1.0) * (1 - 0.6 * across**2)
            cx, cy = centre + across * wide, foot + radius * 0.45
            disc = 1 - np.hypot((x - cx) / 1.5, y - cy) / radius
            field = np.logaddexp(6 * field, 6 * disc) / 6
        alpha = np.clip(field / 0.32, 0, 1)
        alpha = alpha * alpha * (3 - 2 * alpha) * np.clip((y - foot) / (0.35 * tall) + 0.4, 0, 1)
        lit = np.clip((y - foot) / (1.3 * tall) + 0.25 * np.clip(field, 0, 1), 0, 1)
        lit = lit * lit * (3 - 2 * lit)
        shade, bright = np.array(time.cloud_shade, np.float32), np.array(time.cloud, np.float32)
        colour = shade + (bright - shade) * lit[..., None]
        fade = (0.7 + 0.25 * nearness) * (1 - 0.65 * weather.veil)
        grid = np.ix_(row, column % COLUMNS)
        sky[grid] = sky[grid] * (1 - fade * alpha[..., None]) + colour * fade * alpha[..., None]


def _ridges(rng, time: TimeOfDay, biome: Biome, sky: np.ndarray, elevation: np.ndarray, ring: np.ndarray) -> None:
    """Paint two far ridges whose feet are lost in haze, in place."""
    light = np.array(time.ambient, np.float32) + 0.45 * np.array(time.sun_colour, np.float32)
    low = elevation < 12
    whole, elevation = sky, elevation[low]
    sky = whole[low]
    for share, strength in ((1.0, 0.34), (0.55, 0.52)):
        line = biome.ridge_deg * share * (0.62 + 0.38 * _wave(rng, COLUMNS, 4, 22))
        cover = np.clip((line[None] - elevation[:, None]) / 0.16 + 0.5, 0, 1)
        rise = np.clip(elevation[:, None] / (line[None] + 0.4), 0, 1)  # clearer towards the top
        mix = (cover * strength * (0.25 + 0.75 * rise))[..., None]
        colour = np.array(biome.ridge, np.float32) * light
        hazy = sky * (1 - cover[..., None]) + ring[None] * cover[..., None]
        sky = hazy * (1 - mix) + colour * mix
    whole[low] = sky


def paint_sky(
    rng: np.random.Generator, biome: Biome, time: TimeOfDay, weather: Weather, sun_azimuth: float, ring: np.ndarray
) -> np.ndarray:
    """The panorama, [ROWS, COLUMNS, 3] float32; row 0 is the horizon."""
    elevation = np.linspace(0, ELEVATION_DEG, ROWS)
    azimuth = np.linspace(0, 360, COLUMNS, endpoint=False)
    up = (elevation / ELEVATION_DEG)[:, None, None]
    middle, zenith = np.array(time.middle, np.float32), np.array(time.zenith, np.float32)
    first, second = np.clip(up / 0.3, 0, 1), np.clip((up - 0.2) / 0.8, 0, 1)
    first, second = first**0.8, second * second * (3 - 2 * second)
    sky = ring[None] * (1 - first) + middle * first
    sky = sky * (1 - second) + zenith * second
    sky = (sky + weather.veil * 0.45 * (sky.mean(-1, keepdims=True) - sky)).astype(np.float32)

    across = (azimuth - np.degrees(sun_azimuth) + 180) % 360 - 180
    rise = elevation[:, None] - time.sun_elevation_deg
    far = np.hypot(across[None] * np.cos(np.radians(time.sun_elevation_deg)), rise)
    clear = 1 - 0.7 * weather.veil
    for size, share in ((26.0, 0.7), (9.0, 0.9), (4.5, 0.8)):
        sky += (clear * share * np.exp(-((far / size) ** 2)))[..., None] * np.array(time.glow, np.float32)
    if time.is_dark:
        for _ in range(46):
            _star(rng, sky, clear)
    _clouds(rng, time, weather, sky, elevation)
    disc = np.clip((time.disc_deg - far) / 0.35 + 0.5, 0, 1)[..., None] * (1 - 0.55 * weather.veil)
    sky[:] = sky * (1 - disc) + np.array(time.disc, np.float32) * disc
    _ridges(rng, time, biome, sky, elevation, ring)
    sky = np.clip(sky, 0, 255)
    padded = cv2.copyMakeBorder(sky, 0, 0, 8, 8, cv2.BORDER_WRAP)
    return np.ascontiguousarray(cv2.GaussianBlur(padded, (0, 0), 0.8)[:, 8:-8])


def _star(rng, sky: np.ndarray, clear: float) -> None:
    """One large soft star, in place."""
    row, column, size = int(rng.uniform(110, ROWS - 12)), int(rng.integers(COLUMNS)), rng.uniform(1.4, 2.2)
    span = np.arange(-6, 7)
    spot = np.exp(-(span[:, None] ** 2 + span[None] ** 2) / (2 * size**2))[..., None]
    grid = np.ix_(row + span, (column + span) % COLUMNS)
    sky[grid] += spot * clear * rng.uniform(60, 120) * np.array((0.9, 0.95, 1.0))
