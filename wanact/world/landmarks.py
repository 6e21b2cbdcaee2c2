"""Landmarks: a few large solids a world, each of analytic parts that a ray meets exactly.

A part is a row of numbers, so that all parts of a world are one array that compiled code reads; its columns are
named below. Parts stand upright and may be turned about the vertical.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KIND, X, Y, BOTTOM, TOP, A0, B0, A1, B1, COS, SIN, RED, GREEN, BLUE, PATTERN, PERIOD, RED2, GREEN2, BLUE2, REACH = (
    range(20)
)
COLUMNS = 20
BOX, CONE, ELLIPSOID, ARCH = range(4)  # A0, B0 at the bottom and A1, B1 at the top: half sides, radii; ring and tube
PLAIN, BANDS, FLOORS, STRATA, LAMP, WINDOWS = range(6)

STONE, ROOF, WHITE, RED_PAINT, DARK = (190, 182, 168), (150, 66, 58), (244, 240, 230), (204, 56, 44), (70, 74, 88)
LIGHT = (255, 214, 130)


@dataclass(frozen=True)
class Site:
    """Where a landmark may stand: what it asks of the ground, and how far the ground is levelled for it."""

    wants: str  # "high", "flat", "shore" or "sea"
    level: float  # radius that is levelled, world units
    least: float  # least height of the levelled ground above the water


def part(
    kind: int,
    at: tuple[float, float],
    bottom: float,
    top: float,
    base: tuple[float, float],
    tip: tuple[float, float] | None = None,
    colour: tuple[float, float, float] = STONE,
    yaw: float = 0.0,
    pattern: int = PLAIN,
    period: float = 1.0,
    colour2: tuple[float, float, float] = DARK,
) -> np.ndarray:
    """One part's row. ``base`` and ``tip`` are half sides or radii at the bottom and at the top."""
    tip = base if tip is None else tip
    if kind == ARCH:
        wide = (top - bottom) / 2 * 1.3
        reach = 1.3 * wide
    else:
        wide = max(np.hypot(*base), np.hypot(*tip)) if kind == BOX else max(*base, *tip)
        reach = float(np.hypot(wide, (top - bottom) / 2))
    return np.array([kind, *at, bottom, top, *base, *tip, np.cos(yaw), np.sin(yaw), *colour, pattern, period, *colour2,
                     reach])  # fmt: skip


def _stone_tower(rng, x, y, z):
    r, h = rng.uniform(9, 11), rng.uniform(48, 62)
    return [
        part(CONE, (x, y), z - 8, z + h, (r + 2, r + 2), (r, r), pattern=WINDOWS, period=22, colour2=DARK),
        part(CONE, (x, y), z + h, z + h + 7, (r + 3.5, r + 3.5), colour=(206, 198, 182)),
        part(CONE, (x, y), z + h + 7, z + h + 29, (r + 4.5, r + 4.5), (0.0, 0.0), colour=(72, 92, 138)),
    ]


def _windmill(rng, x, y, z):
    yaw, h = rng.uniform(0, 2 * np.pi), rng.uniform(34, 40)
    nose = (x + 11.5 * np.cos(yaw), y + 11.5 * np.sin(yaw))
    sail, hub = (236, 222, 190), z + h - 2
    return [
        part(CONE, (x, y), z - 6, z + h, (12, 12), (8, 8), WHITE, pattern=WINDOWS, period=24),
        part(CONE, (x, y), z + h, z + h + 12, (10, 10), (0.5, 0.5), ROOF),
        part(BOX, nose, hub - 30, hub + 30, (0.9, 3.4), colour=sail, yaw=yaw),
        part(BOX, nose, hub - 3.4, hub + 3.4, (0.9, 30), colour=sail, yaw=yaw),
        part(ELLIPSOID, nose, hub - 4, hub + 4, (4, 4), colour=ROOF),
    ]


def _lighthouse(rng, x, y, z):
    h = rng.uniform(56, 68)
    return [
        part(CONE, (x, y), z - 8, z + 5, (17, 17), (14, 14), colour=(168, 162, 156)),
        part(CONE, (x, y), z + 5, z + h, (10, 10), (6.5, 6.5), WHITE, pattern=BANDS, period=26, colour2=RED_PAINT),
        part(CONE, (x, y), z + h, z + h + 3, (9.5, 9.5), colour=DARK),
        part(CONE, (x, y), z + h + 3, z + h + 12, (5.5, 5.5), colour=LIGHT, pattern=LAMP),
        part(CONE, (x, y), z + h + 12, z + h + 21, (8, 8), (0.0, 0.0), RED_PAINT),
    ]


def _pyramids(rng, x, y, z):
    yaw, parts = rng.uniform(0, np.pi), []
    for along, half in ((0, rng.uniform(54, 66)), (118, rng.uniform(36, 44)), (-100, rng.uniform(24, 30))):
        at = (x + along * np.cos(yaw + 0.6), y + along * np.sin(yaw + 0.6))
        parts.append(part(BOX, at, z - 14, z + 1.25 * half, (half * 1.15, half * 1.15), (0.0, 0.0), (230, 190, 128),
                          yaw, STRATA, 30, (204, 156, 98)))  # fmt: skip
    return parts


def _obelisk(rng, x, y, z):
    yaw, h = rng.uniform(0, np.pi), rng.uniform(62, 76)
    return [
        part(BOX, (x, y), z - 8, z + 6, (16, 16), colour=(206, 166, 116), yaw=yaw),
        part(BOX, (x, y), z + 6, z + h, (8.5, 8.5), (5.5, 5.5), (234, 206, 158), yaw),
        part(BOX, (x, y), z + h, z + h + 9, (5.5, 5.5), (0.0, 0.0), (250, 208, 96), yaw),
    ]


def _cabin(rng, x, y, z):
    yaw = rng.uniform(0, np.pi)
    chimney = (x + 8 * np.cos(yaw) - 6 * np.sin(yaw), y + 8 * np.sin(yaw) + 6 * np.cos(yaw))
    return [
        part(BOX, (x, y), z - 8, z + 14, (19, 13), colour=(178, 58, 46), yaw=yaw, pattern=WINDOWS, period=14),
        part(BOX, (x, y), z + 14, z + 30, (22, 17), (22, 0), (246, 248, 252), yaw),
        part(BOX, chimney, z + 14, z + 36, (3, 3), colour=(120, 100, 96), yaw=yaw),
    ]


def _rock_arch(rng, x, y, z, colour, strata):
    yaw, size = rng.uniform(0, np.pi), rng.uniform(0.9, 1.15)
    along = np.array((np.cos(yaw), np.sin(yaw))) * 31 * size
    left, right = tuple(np.array((x, y)) - along), tuple(np.array((x, y)) + along)
    rock = {"colour": colour, "pattern": STRATA, "period": 34, "colour2": strata}
    wide, neck = 27 * size, 13.5 * size
    return [
        part(ARCH, (x, y), z - 18 * size, z + 44 * size, (31 * size, 11 * size), yaw=yaw, **rock),
        part(CONE, left, z - 26, z + 24 * size, (wide, wide), (neck, neck), **rock),
        part(CONE, right, z - 26, z + 30 * size, (wide * 1.15, wide * 1.15), (neck, neck), **rock),
    ]


def _sea_arch(rng, x, y, z):
    return _rock_arch(rng, x, y, z, (214, 196, 160), (184, 168, 140))


def _canyon_arch(rng, x, y, z):
    return _rock_arch(rng, x, y, z, (222, 128, 80), (184, 84, 54))


def _spires(rng, x, y, z, colour, strata, tip):
    parts = []
    for k, angle in enumerate(rng.uniform(0, 2 * np.pi) + np.array((0, 2.2, 4.3))):
        far, h, r = (0, 17, 24)[k], (82, 58, 40)[k] * rng.uniform(0.9, 1.1), (12, 10, 9)[k]
        at = (x + far * np.cos(angle), y + far * np.sin(angle))
        parts.append(part(CONE, at, z - 14, z + h, (r * 1.5, r * 1.5), (r * tip, r * tip), colour, 0, STRATA, 24,
                          strata))  # fmt: skip
        if tip > 0.3:
            parts.append(part(ELLIPSOID, at, z + h - 7, z + h + 9, (r * 0.85, r * 0.85), None, (206, 120, 78)))
    return parts


def _rock_spires(rng, x, y, z):
    return _spires(rng, x, y, z, (222, 132, 84), (180, 80, 52), 0.5)


def _black_spires(rng, x, y, z):
    return _spires(rng, x, y, z, (118, 112, 134), (92, 84, 106), 0.1)


def _pagoda(rng, x, y, z):
    yaw, parts = rng.uniform(0, np.pi), []
    for k in range(4):
        half, low = 15 - 2.6 * k, z + 15 * k
        parts.append(part(BOX, (x, y), low - (8 if k == 0 else 0), low + 9, (half * 0.72, half * 0.72), None,
                          (232, 216, 182), yaw, WINDOWS, 15))  # fmt: skip
        parts.append(part(BOX, (x, y), low + 8, low + 16, (half * 1.25, half * 1.25), (half * 0.5, half * 0.5),
                          (176, 48, 40), yaw))  # fmt: skip
    parts.append(part(CONE, (x, y), z + 60, z + 78, (1.8, 1.8), (0.6, 0.6), (232, 186, 84)))
    return parts


def _gate(rng, x, y, z):
    yaw, red = rng.uniform(0, np.pi), (214, 64, 38)
    along = np.array((-np.sin(yaw), np.cos(yaw)))
    posts = [tuple(np.array((x, y)) + s * 22 * along) for s in (-1, 1)]
    return [
        part(CONE, posts[0], z - 8, z + 44, (4.2, 4.2), (3.4, 3.4), red),
        part(CONE, posts[1], z - 8, z + 44, (4.2, 4.2), (3.4, 3.4), red),
        part(BOX, (x, y), z + 30, z + 35, (2.6, 27), None, red, yaw),
        part(BOX, (x, y), z + 43, z + 50, (3.6, 33), (4.2, 36), (60, 44, 50), yaw),
    ]


def _bridge(rng, x, y, z):
    yaw, deck = rng.uniform(0, np.pi), 26.0
    along = np.array((np.cos(yaw), np.sin(yaw)))
    ends = [tuple(np.array((x, y)) + s * 118 * along) for s in (-1, 1)]
    return [
        part(BOX, (x, y), deck - 3, deck + 3, (132, 10), None, (186, 178, 168), yaw),
        part(ARCH, (x, y), deck - 92, deck + 92, (88, 3.2), None, (222, 74, 52), yaw),
        part(BOX, ends[0], -40, deck + 4, (16, 13), None, (168, 158, 148), yaw),
        part(BOX, ends[1], -40, deck + 4, (16, 13), None, (168, 158, 148), yaw),
    ]


def _needle(rng, x, y, z):
    return [
        part(CONE, (x, y), z - 8, z + 96, (13, 13), (4.5, 4.5), (226, 226, 222)),
        part(CONE, (x, y), z + 84, z + 92, (8, 8), (19, 19), (206, 210, 214)),
        part(CONE, (x, y), z + 92, z + 99, (19, 19), (16, 16), LIGHT, pattern=LAMP),
        part(CONE, (x, y), z + 99, z + 106, (16, 16), (5, 5), (206, 96, 70)),
        part(CONE, (x, y), z + 106, z + 146, (2.2, 2.2), (0.8, 0.8), (226, 226, 222)),
    ]


def _barn(rng, x, y, z):
    yaw = rng.uniform(0, np.pi)
    silo = (x + 30 * np.cos(yaw), y + 30 * np.sin(yaw))
    return [
        part(BOX, (x, y), z - 6, z + 16, (22, 14), None, (196, 58, 44), yaw, WINDOWS, 16, WHITE),
        part(BOX, (x, y), z + 16, z + 31, (24, 17), (24, 0), (96, 84, 90), yaw),
        part(CONE, silo, z - 6, z + 38, (8, 8), None, (226, 222, 212)),
        part(ELLIPSOID, silo, z + 30, z + 46, (8, 8), None, (150, 158, 170)),
    ]


Builder = Callable[[np.random.Generator, float, float, float], list[np.ndarray]]
LANDMARKS: dict[str, tuple[Site, tuple[Builder, ...]]] = {
    "a windmill": (Site("high", 40, 4), (_windmill,)),
    "a stone tower": (Site("high", 36, 4), (_stone_tower,)),
    "pyramids": (Site("flat", 190, 6), (_pyramids,)),
    "a stone obelisk": (Site("flat", 40, 4), (_obelisk,)),
    "a red cabin": (Site("flat", 46, 5), (_cabin,)),
    "a lighthouse": (Site("shore", 34, 9), (_lighthouse,)),
    "a rock arch": (Site("shore", 0, -9), (_sea_arch, _canyon_arch)),
    "rock spires": (Site("flat", 50, 3), (_rock_spires,)),
    "black spires": (Site("shore", 50, 2), (_black_spires,)),
    "a red pagoda": (Site("high", 40, 5), (_pagoda,)),
    "a red gate": (Site("shore", 40, 3), (_gate,)),
    "a red bridge": (Site("sea", 0, -40), (_bridge,)),
    "a needle tower": (Site("flat", 40, 4), (_needle,)),
    "a red barn": (Site("flat", 60, 4), (_barn,)),
}


def build(name: str, rng: np.random.Generator, x: float, y: float, z: float, is_canyon: bool = False) -> np.ndarray:
    """Parts of a named landmark on ground of height z, [n, COLUMNS]."""
    builders = LANDMARKS[name][1]
    return np.stack((builders[-1] if is_canyon else builders[0])(rng, x, y, z))


def outlines(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half sides of every part's outline along and across it, [n, 2], and which are round, [n].

    An outline is what a part's widest level covers; of a round part it is a circle of the larger half side.
    """
    half = np.maximum(parts[:, [A0, B0]], parts[:, [A1, B1]])
    arch = parts[:, KIND] == ARCH
    half[arch, 0] += 1.6 * half[arch, 1]
    half[arch, 1] *= 1.6
    return half, np.isin(parts[:, KIND], (CONE, ELLIPSOID))


def clearance(parts: np.ndarray, x: float, y: float, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal distance from a point to every part's outline, and the way out; negative inside.

    Args:
        parts: [n, COLUMNS]; see `outlines`.
        x, y: the point; the world wraps after ``size``.

    Returns:
        Distances [n] and unit vectors [n, 2] that point from the part to the point.
    """
    dx = (x - parts[:, X] + size / 2) % size - size / 2
    dy = (y - parts[:, Y] + size / 2) % size - size / 2
    cos, sin = parts[:, COS], parts[:, SIN]
    local = np.stack([dx * cos + dy * sin, dy * cos - dx * sin], 1)
    half, round_ = outlines(parts)
    radius = half.max(1)
    over = np.abs(local) - half
    outside = np.hypot(*np.maximum(over, 0).T)
    box = np.where(outside > 0, outside, over.max(1))
    nearest = np.clip(local, -half, half)
    away = local - nearest
    axis = np.eye(2)[over.argmax(1)] * np.where(local >= 0, 1, -1)
    away = np.where(outside[:, None] > 0, away / np.maximum(outside, 1e-9)[:, None], axis)
    far = np.hypot(dx, dy)
    circle = local / np.maximum(far, 1e-9)[:, None]
    distance = np.where(round_, far - radius, box)
    away = np.where(round_[:, None], circle, away)
    turned = np.stack([away[:, 0] * cos - away[:, 1] * sin, away[:, 0] * sin + away[:, 1] * cos], 1)
    return distance, turned
