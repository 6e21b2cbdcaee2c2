"""The ground of a simulated world: its heights, its colours and the light on it, as wrapping maps.

A texel is TEXEL world units wide. The water line is height 0 and the ground goes on below it, so that shallows show.
Everything is smooth over several texels: forms are large, and there is no grain.
"""

from __future__ import annotations

import cv2
import numpy as np

from wanact.world.palettes import Biome, TimeOfDay

WORLD_SIZE = 2048  # world units after which it wraps
TEXEL = 2.0
MAP_SIZE = int(WORLD_SIZE / TEXEL)
MIPS = 6


def noise(rng: np.random.Generator, exponent: float, lowest: float = 1.0, highest: float = 40.0) -> np.ndarray:
    """Wrapping noise with a power-law spectrum, zero mean and unit deviation, [MAP_SIZE, MAP_SIZE] float32."""
    size = MAP_SIZE
    fy, fx = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
    radius = np.maximum(np.hypot(fx, fy), 1e-6)
    amplitude = np.where(radius < lowest, 0, radius ** (-exponent)) * np.exp(-((radius / highest) ** 2))
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(radius.shape))
    field = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return (field - field.mean()) / field.std()


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur that wraps; sigma in texels."""
    pad = int(np.ceil(3 * sigma)) + 1
    padded = cv2.copyMakeBorder(field.astype(np.float32), pad, pad, pad, pad, cv2.BORDER_WRAP)
    return cv2.GaussianBlur(padded, (0, 0), sigma)[pad:-pad, pad:-pad]


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def sample(field: np.ndarray, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """Wrapping bilinear look-up in a map; x and y in world units."""
    x, y = np.asarray(x) / TEXEL, np.asarray(y) / TEXEL
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    x0, y0 = x0.astype(np.int64) % MAP_SIZE, y0.astype(np.int64) % MAP_SIZE
    x1, y1 = (x0 + 1) % MAP_SIZE, (y0 + 1) % MAP_SIZE
    return (field[y0, x0] * (1 - fx) + field[y0, x1] * fx) * (1 - fy) + (
        field[y1, x0] * (1 - fx) + field[y1, x1] * fx
    ) * fy


def _water_at_zero(height: np.ndarray, share: float) -> np.ndarray:
    return height - np.quantile(height[::4, ::4], share).astype(np.float32)


def _hills(rng, biome: Biome) -> np.ndarray:
    field = noise(rng, 2.6, 3, 26)
    return _water_at_zero(biome.relief * (0.5 * field + 0.12 * field * np.abs(field)), biome.water_share)


def _plain(rng, biome: Biome) -> np.ndarray:
    river = np.abs(noise(rng, 2.6, 2, 12))
    height = biome.relief * (0.35 * noise(rng, 2.6, 3, 16) + 1.3 * smoothstep(0, 0.9, river))
    return _water_at_zero(height, biome.water_share)


def _dunes(rng, biome: Biome) -> np.ndarray:
    y, x = np.mgrid[:MAP_SIZE, :MAP_SIZE].astype(np.float32) / MAP_SIZE
    warp = 0.055 * noise(rng, 2.4, 2, 14)
    phase = (5 * x + 13 * y + 13 * warp) % 1
    crest = np.where(phase < 0.7, phase / 0.7, (1 - phase) / 0.3)  # a long windward slope and a short lee
    crest = blur(crest * crest * (3 - 2 * crest), 2.5)
    swell = noise(rng, 2.6, 2, 10)
    height = biome.relief * (0.55 * crest * smoothstep(-1.2, 1.0, swell) + 0.5 * swell)
    return _water_at_zero(height, biome.water_share)


def _peaks(rng, biome: Biome) -> np.ndarray:
    ridge = 1 - np.abs(noise(rng, 2.2, 3, 26)) / 1.6
    broad = smoothstep(-1.3, 1.5, noise(rng, 2.6, 2, 8))
    height = biome.relief * np.clip(ridge, 0, 1) ** 1.5 * (0.25 + broad) + 0.12 * biome.relief * noise(rng, 2.4, 4, 24)
    return _water_at_zero(blur(height, 2.2), biome.water_share)


def _islands(rng, biome: Biome) -> np.ndarray:
    field = noise(rng, 2.3, 3, 22)
    field -= np.quantile(field[::4, ::4], biome.water_share)
    land = np.where(field > 0, 0.10 * field + 0.55 * np.maximum(field - 0.22, 0) ** 1.1, 0.35 * field)
    return (biome.relief * blur(land, 2.0)).astype(np.float32)


def _mesas(rng, biome: Biome) -> np.ndarray:
    field = noise(rng, 2.4, 3, 24) * 0.9 + 0.1
    steps = 0.12 * field
    for level, share in ((-0.25, 0.34), (0.45, 0.34), (1.15, 0.3)):
        steps = steps + share * smoothstep(level - 0.13, level + 0.13, field)
    height = biome.relief * blur(steps, 1.5)
    return _water_at_zero(height, biome.water_share)


def _volcano(rng, biome: Biome) -> np.ndarray:
    y, x = np.mgrid[:MAP_SIZE, :MAP_SIZE].astype(np.float32) * TEXEL
    height = 17 * noise(rng, 2.5, 3, 22) - 16
    warp = 1 + 0.10 * noise(rng, 2.5, 4, 20)
    half = WORLD_SIZE / 2
    for k in range(9):
        cx = (k % 3 + rng.uniform(0.25, 0.75)) * WORLD_SIZE / 3
        cy = (k // 3 + rng.uniform(0.25, 0.75)) * WORLD_SIZE / 3
        far = np.hypot((x - cx + half) % WORLD_SIZE - half, (y - cy + half) % WORLD_SIZE - half) * warp
        size = rng.uniform(0.6, 1.0)
        cone = biome.relief * size * (1.35 * np.exp(-far / (120 * size)) - 0.12)
        rim = biome.relief * size * 0.82
        crater = rim - 0.5 * np.maximum(cone - rim, 0)
        height = np.maximum(height, np.where(cone > rim, crater, cone))
    return blur(height, 2.5)


SHAPES = {
    "hills": _hills,
    "plain": _plain,
    "dunes": _dunes,
    "peaks": _peaks,
    "islands": _islands,
    "mesas": _mesas,
    "volcano": _volcano,
}


def make_heights(rng: np.random.Generator, biome: Biome) -> np.ndarray:
    """Heights above the water line, [MAP_SIZE, MAP_SIZE] float32."""
    return np.ascontiguousarray(SHAPES[biome.shape](rng, biome), np.float32)


def level_ground(height: np.ndarray, x: float, y: float, radius: float, level: float) -> None:
    """Bring the ground round a place to a level, softly, in place."""
    reach = int(np.ceil(1.8 * radius / TEXEL))
    span = np.arange(-reach, reach + 1)
    column, row = int(round(x / TEXEL)), int(round(y / TEXEL))
    grid = np.ix_((row + span) % MAP_SIZE, (column + span) % MAP_SIZE)
    far = np.hypot(*np.meshgrid(span, span)) * TEXEL
    share = 1 - smoothstep(0.55 * radius, 1.75 * radius, far)
    height[grid] = height[grid] * (1 - share) + level * share


def slopes(height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rise per world unit along x and along y."""
    along_x = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) / (2 * TEXEL)
    along_y = (np.roll(height, -1, 0) - np.roll(height, 1, 0)) / (2 * TEXEL)
    return along_x, along_y


def plant_trees(rng, height: np.ndarray, colour: np.ndarray, biome: Biome, share: float, keep_off: np.ndarray) -> None:
    """Woods of large round crowns, in place: each crown a dome of 25 to 40 units with a colour of its own."""
    cell = 16  # texels
    count = MAP_SIZE // cell
    row, column = np.divmod(np.arange(count * count), count)
    wood = noise(rng, 2.4, 4, 20)
    slope_x, slope_y = slopes(height)
    steep = np.hypot(slope_x, slope_y)
    cy = (row + rng.uniform(0.1, 0.9, row.size)) * cell
    cx = (column + rng.uniform(0.1, 0.9, row.size)) * cell
    iy, ix = cy.astype(int) % MAP_SIZE, cx.astype(int) % MAP_SIZE
    limit = np.quantile(wood[::8, ::8], 1 - share)
    grows = (wood[iy, ix] > limit) & (height[iy, ix] > 4) & (steep[iy, ix] < 0.9) & (keep_off[iy, ix] < 0.1)
    drift = 0.6 * smoothstep(-1, 1, noise(rng, 2.0, 6, 30))[iy, ix] + 0.4 * rng.random(row.size)
    tint = np.array(biome.accents, np.float32)[
        np.minimum(drift * len(biome.accents), len(biome.accents) - 1).astype(int)
    ]
    crown, leaves = np.zeros_like(height), np.zeros_like(colour)
    for k in np.flatnonzero(grows):
        radius = rng.uniform(6.5, 10.5)
        reach = int(radius) + 1
        span = np.arange(-reach, reach + 1)
        far = ((span[:, None] + iy[k] - cy[k]) ** 2 + (span[None] + ix[k] - cx[k]) ** 2) / radius**2
        dome = np.clip(1 - far, 0, 1) ** 0.8 * radius * 1.2
        grid = np.ix_((iy[k] + span) % MAP_SIZE, (ix[k] + span) % MAP_SIZE)
        higher = dome > crown[grid]
        crown[grid] = np.where(higher, dome, crown[grid])
        leaves[grid] = np.where(higher[..., None], tint[k], leaves[grid])
    height += blur(crown, 2.2)
    leafy = (crown > 0.6).astype(np.float32)
    covered = blur(leafy, 2.0)[..., None]
    leaves = np.stack([blur(leaves[..., k] * leafy, 2.0) for k in range(3)], -1) / np.maximum(covered, 1e-3)
    covered = smoothstep(0.2, 0.8, covered)
    colour[:] = colour * (1 - covered) + leaves * covered


def _fields(rng, biome: Biome) -> np.ndarray:
    """A patchwork of large fields, turned against the axes, with edges a few texels soft."""
    y, x = np.mgrid[:MAP_SIZE, :MAP_SIZE].astype(np.float32)
    warp_x, warp_y = 26 * noise(rng, 2.6, 1, 6), 26 * noise(rng, 2.6, 1, 6)
    u = (x * 12 + y * 4) / MAP_SIZE + warp_x * 0.008
    v = (y * 16 - x * 4) / MAP_SIZE + warp_y * 0.008
    kind = rng.integers(0, len(biome.accents), (64, 64))
    colour = np.array(biome.accents, np.float32)[kind[np.floor(u).astype(int) % 16, np.floor(v).astype(int) % 16]]
    return np.stack([blur(colour[..., k], 1.2) for k in range(3)], -1)


def paint(rng, height: np.ndarray, biome: Biome) -> np.ndarray:
    """Colour of the ground, [MAP_SIZE, MAP_SIZE, 3]: bands from beach to peak, steep rock, patches, strata, lava."""
    top = max(float(np.quantile(height[::4, ::4], 0.985)), 1.0)
    drift = 0.10 * noise(rng, 2.0, 4, 22)
    level = np.clip(height / top + drift * smoothstep(2, 14, height), 0, 1)
    stops = np.array((0.0, 0.16, 0.5, 1.0)) if biome.shape != "islands" else np.array((0.04, 0.16, 0.5, 1.0))
    colour = np.stack([np.interp(level, stops, [c[k] for c in biome.land]) for k in range(3)], -1).astype(np.float32)
    if biome.shape == "mesas":
        band = 0.5 + 0.5 * np.sin((height + 3 * drift) * (2 * np.pi / 38))
        dark, light = np.array(biome.land[2], np.float32), np.array((236, 164, 110), np.float32)
        colour = 0.55 * colour + 0.45 * (dark + (light - dark) * band[..., None])
    slope_x, slope_y = slopes(blur(height, 1.0))
    steep = np.hypot(slope_x, slope_y)
    if biome.name == "farmland":
        on_land = smoothstep(3, 7, height)[..., None]
        colour = colour * (1 - on_land) + _fields(rng, biome) * on_land
    first, most = {"mesas": (0.62, 0.35), "peaks": (0.95, 0.75)}.get(biome.shape, (0.62, 0.9))
    cover = smoothstep(first, first + 0.45, steep)[..., None] * most
    colour = colour * (1 - cover) + np.array(biome.steep, np.float32) * cover
    if biome.shape in ("hills", "plain", "islands") and biome.name != "farmland":
        patch = smoothstep(0.2, 0.9, noise(rng, 2.2, 5, 24))[..., None] * smoothstep(4, 12, height)[..., None]
        colour *= 1 - 0.12 * patch
    if biome.shape == "volcano":
        moss = (
            smoothstep(0.0, 0.8, noise(rng, 2.2, 4, 24)) * smoothstep(3, 10, height) * (1 - smoothstep(40, 80, height))
        )
        moss = (moss * (1 - smoothstep(0.5, 0.9, steep)))[..., None]
        colour = colour * (1 - moss) + np.array(biome.accents[1], np.float32) * moss
    return colour


def lava(rng, height: np.ndarray) -> np.ndarray:
    """Where craters and a few broad streams glow, 0..1."""
    stream = np.exp(-((noise(rng, 2.6, 3, 12) / 0.16) ** 2)) * smoothstep(48, 80, height)
    crater = smoothstep(0.5, 3.0, blur(height, 12) - height) * smoothstep(45, 65, height)
    return blur(np.maximum(stream, crater), 2.0)


def light(height: np.ndarray, sun: np.ndarray, time: TimeOfDay, blocked: np.ndarray, veil: float) -> np.ndarray:
    """What the ground receives from sun and sky, [MAP_SIZE, MAP_SIZE, 3].

    Args:
        height: of the ground.
        sun: unit vector towards it; x, y, up.
        time: its colour, and the sky's.
        blocked: 0..1, the shadows of landmarks.
        veil: the share of the direct light that the air takes and gives back from everywhere.
    """
    slope_x, slope_y = slopes(np.maximum(height, 0))
    facing = np.clip((sun[2] - slope_x * sun[0] - slope_y * sun[1]) / np.sqrt(1 + slope_x**2 + slope_y**2), 0, 1)
    facing = np.maximum(facing, 0.75 * sun[2])  # flat ground keeps some of a low sun
    facing = facing / (0.35 + 0.65 * max(sun[2], 0.42))
    shadow = blocked
    ground = np.maximum(height, 0)
    tangent = sun[2] / np.hypot(sun[0], sun[1])
    for reach in (4, 8, 14, 22, 32, 46, 64, 90):
        far = reach * TEXEL
        if far * tangent > 220:
            break
        shift = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
        shift[:, 2] = (-sun[0] / np.hypot(sun[0], sun[1]) * reach, -sun[1] / np.hypot(sun[0], sun[1]) * reach)
        towards = cv2.warpAffine(ground, shift, (MAP_SIZE, MAP_SIZE), borderMode=cv2.BORDER_WRAP)
        shadow = np.maximum(shadow, smoothstep(-0.04, 0.10, (towards - ground) / far - tangent))
    shadow = blur(shadow, 1.6)
    hollow = np.clip((blur(height, 9) - height) / 22, -0.6, 1)  # valleys get less of the sky
    sky = np.array(time.ambient, np.float32) * (1 - 0.22 * hollow)[..., None] * (1 + 0.35 * veil)
    direct = np.array(time.sun_colour, np.float32) * (1 - 0.55 * veil)
    return sky + direct * (facing * (1 - 0.85 * shadow))[..., None]


def mips(colour: np.ndarray) -> np.ndarray:
    """The map and its halvings, smoothed so that they do not shimmer: MIPS maps one after the other, [n, 3] float32."""
    levels: list[np.ndarray] = [np.ascontiguousarray(colour, np.float32)]
    for _ in range(MIPS - 1):
        c = levels[-1]
        levels.append((c[::2, ::2] + c[1::2, ::2] + c[::2, 1::2] + c[1::2, 1::2]) / 4)
    return np.concatenate([c.reshape(-1, 3) for c in levels])
