"""Draws a world: a ray for each pixel over the height map, against the landmarks' solids, and once more off the water.

Compiled by numba on first use and kept in its cache. Pixels whose neighbours differ in colour are drawn again with
several rays, so that edges are smooth. Colours are 0..255 until the end; lengths are world units.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from wanact.world.painted import landmarks as lm
from wanact.world.painted.sky import COLUMNS as SKY_COLUMNS
from wanact.world.painted.sky import ELEVATION_DEG, ROWS
from wanact.world.painted.terrain import MAP_SIZE, TEXEL, WORLD_SIZE

KIND, X, Y, BOTTOM, TOP, A0, B0, A1, B1, COS, SIN = range(11)
RED, PATTERN, PERIOD, RED2, REACH = lm.RED, lm.PATTERN, lm.PERIOD, lm.RED2, lm.REACH
BOX, CONE, ELLIPSOID = lm.BOX, lm.CONE, lm.ELLIPSOID
BANDS, FLOORS, STRATA, LAMP, WINDOWS = lm.BANDS, lm.FLOORS, lm.STRATA, lm.LAMP, lm.WINDOWS
MASK = MAP_SIZE - 1
NEAR, FAR = 0.5, 900.0
NEAR_SKY = 0.62 * FAR  # from here on things turn into the sky behind them
TILE = 16
BLOCK_TEXELS = 16
BLOCK = BLOCK_TEXELS * TEXEL
BLOCK_MASK = MAP_SIZE // BLOCK_TEXELS - 1
EDGE = 9.0  # a difference between neighbours that is drawn again
SKY_RADIAN = ROWS / math.radians(ELEVATION_DEG)
# Offsets of an edge pixel's further rays: a pentagon a little wider than the pixel, turned so that no two share a line.
TURNS = 0.3 + 2 * np.pi / 5 * np.arange(5)
GRID = 0.56 * np.stack([np.cos(TURNS), np.sin(TURNS)], 1)
jit = njit(cache=True, error_model="numpy")


@jit
def _texel(x, y):
    x, y = x / TEXEL, y / TEXEL
    fx, fy = math.floor(x), math.floor(y)
    x0, y0 = int(fx) & MASK, int(fy) & MASK
    return x0, y0, (x0 + 1) & MASK, (y0 + 1) & MASK, x - fx, y - fy


@jit
def _height(height, x, y):
    x0, y0, x1, y1, fx, fy = _texel(x, y)
    low = height[y0, x0] * (1 - fx) + height[y0, x1] * fx
    return low * (1 - fy) + (height[y1, x0] * (1 - fx) + height[y1, x1] * fx) * fy


@jit
def _march(height, bounds, highest, ox, oy, oz, dx, dy, dz, start, end, pace):
    """Where a ray (unit direction) meets the ground, or -1.

    Steps are as long as the steepest and the highest ground nearby allow: see `bound`.
    """
    t = before = start
    gap_before = 1.0
    flat = math.hypot(dx, dy)
    while t < end:
        z = oz + t * dz
        if dz >= 0 and z > highest:
            return -1.0
        x, y = ox + t * dx, oy + t * dy
        gap = z - _height(height, x, y)
        if gap <= 0:
            low, high, above, below = before, t, gap_before, gap
            for _ in range(5):
                share = min(max(above / (above - below), 0.1), 0.9)
                middle = low + share * (high - low)
                gap = oz + middle * dz - _height(height, ox + middle * dx, oy + middle * dy)
                if gap <= 0:
                    high, below = middle, gap
                else:
                    low, above = middle, gap
            return low + (high - low) * above / (above - below)
        before, gap_before = t, gap
        i, j = int(math.floor(y / BLOCK)) & BLOCK_MASK, int(math.floor(x / BLOCK)) & BLOCK_MASK
        step = min(gap / max(bounds[1, i, j] * flat - dz, 1e-3), BLOCK)
        over = z - bounds[2, i, j]
        if over > 0:
            step = max(step, min(4 * BLOCK, over / max(-dz, 1e-6)))
        over = z - bounds[0, i, j]
        if over > 0:
            step = max(step, min(BLOCK, over / max(-dz, 1e-6)))
        t += max(step, pace * (0.3 + 0.007 * t))
    return -1.0


def bound(height):
    """For each block of ground: the highest and the steepest ground within a block of it, the highest within four."""
    count = MAP_SIZE // BLOCK_TEXELS
    rise = np.hypot(np.roll(height, -1, 0) - height, np.roll(height, -1, 1) - height) / TEXEL

    def blocks(field):
        return field.reshape(count, BLOCK_TEXELS, count, BLOCK_TEXELS).max((1, 3))

    def widen(field, reach):
        for axis in (0, 1):
            field = np.max([np.roll(field, k, axis) for k in range(-reach, reach + 1)], 0)
        return field

    top = widen(blocks(height), 1)
    steep = np.minimum(1.1 * widen(blocks(rise), 1), 3.5)
    return np.stack([top, steep, widen(top, 3)]).astype(np.float64)


@jit
def _cone(p, ox, oy, oz, dx, dy, dz):
    height = p[TOP] - p[BOTTOM]
    k = (p[A1] - p[A0]) / height
    x, y, r = ox - p[X], oy - p[Y], p[A0] + k * (oz - p[BOTTOM])
    a = dx * dx + dy * dy - k * k * dz * dz
    b = x * dx + y * dy - k * dz * r
    c = x * x + y * y - r * r
    best = 1e9
    d = b * b - a * c
    if d >= 0 and abs(a) > 1e-12:
        root = math.sqrt(d)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            z = oz + t * dz
            if t > NEAR and t < best and p[BOTTOM] <= z <= p[TOP]:
                best = t
    if abs(dz) > 1e-9:
        for top in (True, False):
            z, radius = (p[TOP], p[A1]) if top else (p[BOTTOM], p[A0])
            t = (z - oz) / dz
            if NEAR < t < best and (x + t * dx) ** 2 + (y + t * dy) ** 2 <= radius * radius:
                best = t
    return best


@jit
def _box(p, ox, oy, oz, dx, dy, dz):
    """Entry into the six planes of a box that may taper."""
    height = p[TOP] - p[BOTTOM]
    x, y = ox - p[X], oy - p[Y]
    lx, ly = x * p[COS] + y * p[SIN], y * p[COS] - x * p[SIN]
    ux, uy = dx * p[COS] + dy * p[SIN], dy * p[COS] - dx * p[SIN]
    enter, leave = -1e9, 1e9
    for plane in range(6):
        if plane < 2:
            k = (p[A1] - p[A0]) / height
            sign = 1.0 if plane == 0 else -1.0
            value = sign * lx - p[A0] - k * (oz - p[BOTTOM])
            rate = sign * ux - k * dz
        elif plane < 4:
            k = (p[B1] - p[B0]) / height
            sign = 1.0 if plane == 2 else -1.0
            value = sign * ly - p[B0] - k * (oz - p[BOTTOM])
            rate = sign * uy - k * dz
        elif plane == 4:
            value, rate = oz - p[TOP], dz
        else:
            value, rate = p[BOTTOM] - oz, -dz
        if abs(rate) < 1e-12:
            if value > 0:
                return 1e9
        elif rate < 0:
            enter = max(enter, -value / rate)
        else:
            leave = min(leave, -value / rate)
    return enter if NEAR < enter <= leave else 1e9


@jit
def _ellipsoid(p, ox, oy, oz, dx, dy, dz):
    h = (p[TOP] - p[BOTTOM]) / 2
    x, y = ox - p[X], oy - p[Y]
    lx, ly = (x * p[COS] + y * p[SIN]) / p[A0], (y * p[COS] - x * p[SIN]) / p[B0]
    ux, uy = (dx * p[COS] + dy * p[SIN]) / p[A0], (dy * p[COS] - dx * p[SIN]) / p[B0]
    lz, uz = (oz - p[BOTTOM] - h) / h, dz / h
    a, b, c = ux * ux + uy * uy + uz * uz, lx * ux + ly * uy + lz * uz, lx * lx + ly * ly + lz * lz - 1
    d = b * b - a * c
    if d < 0:
        return 1e9
    t = (-b - math.sqrt(d)) / a
    return t if t > NEAR else 1e9


@jit
def _arch_gap(p, x, y, z):
    """Signed gap to an upright ring of radius A0 whose tube is B0 thick at the top and more at its feet."""
    x, y, z = x - p[X], y - p[Y], z - (p[TOP] + p[BOTTOM]) / 2
    lx, ly = x * p[COS] + y * p[SIN], y * p[COS] - x * p[SIN]
    thick = p[B0] * (1.3 - 0.4 * min(max(z / p[A0], -1.0), 1.0))
    return math.hypot(math.hypot(lx, z) - p[A0], ly) - thick


@jit
def _arch(p, ox, oy, oz, dx, dy, dz):
    cx, cy, cz = p[X] - ox, p[Y] - oy, (p[TOP] + p[BOTTOM]) / 2 - oz
    middle = cx * dx + cy * dy + cz * dz
    apart = cx * cx + cy * cy + cz * cz - middle * middle
    reach = p[A0] + 1.7 * p[B0]
    if apart > reach * reach:
        return 1e9
    half = math.sqrt(reach * reach - apart)
    t, end = max(middle - half, NEAR), middle + half
    for _ in range(96):
        gap = _arch_gap(p, ox + t * dx, oy + t * dy, oz + t * dz)
        if gap < 0.01 + 2e-5 * t:
            return t
        t += 0.9 * gap
        if t > end:
            return 1e9
    return 1e9


@jit
def meet(p, ox, oy, oz, dx, dy, dz):
    """Distance at which a ray (unit direction) enters a part, or 1e9."""
    kind = int(p[KIND])
    if kind == BOX:
        return _box(p, ox, oy, oz, dx, dy, dz)
    if kind == CONE:
        return _cone(p, ox, oy, oz, dx, dy, dz)
    if kind == ELLIPSOID:
        return _ellipsoid(p, ox, oy, oz, dx, dy, dz)
    return _arch(p, ox, oy, oz, dx, dy, dz)


@jit
def _normal(p, x, y, z):
    """Outward normal of a part at a point on it."""
    kind = int(p[KIND])
    height = p[TOP] - p[BOTTOM]
    lx, ly = (x - p[X]) * p[COS] + (y - p[Y]) * p[SIN], (y - p[Y]) * p[COS] - (x - p[X]) * p[SIN]
    if kind == CONE:
        k = (p[A1] - p[A0]) / height
        far = max(math.hypot(lx, ly), 1e-9)
        radius = p[A0] + k * (z - p[BOTTOM])
        if z > p[TOP] - 0.02 and far < radius - 0.02:
            return 0.0, 0.0, 1.0
        if z < p[BOTTOM] + 0.02 and far < radius - 0.02:
            return 0.0, 0.0, -1.0
        nx, ny, nz = lx / far, ly / far, -k
    elif kind == BOX:
        s = (z - p[BOTTOM]) / height
        kx, ky = (p[A1] - p[A0]) / height, (p[B1] - p[B0]) / height
        gx = (abs(lx) - p[A0] - (p[A1] - p[A0]) * s) / math.sqrt(1 + kx * kx)
        gy = (abs(ly) - p[B0] - (p[B1] - p[B0]) * s) / math.sqrt(1 + ky * ky)
        gt, gb = z - p[TOP], p[BOTTOM] - z
        if gt >= gx and gt >= gy and gt >= gb:
            return 0.0, 0.0, 1.0
        if gb >= gx and gb >= gy:
            return 0.0, 0.0, -1.0
        if gx >= gy:
            nx, ny, nz = (1.0 if lx > 0 else -1.0), 0.0, -kx
        else:
            nx, ny, nz = 0.0, (1.0 if ly > 0 else -1.0), -ky
    elif kind == ELLIPSOID:
        h = height / 2
        nx, ny, nz = lx / p[A0] ** 2, ly / p[B0] ** 2, (z - p[BOTTOM] - h) / h**2
    else:
        e = 0.05
        gap = _arch_gap(p, x, y, z)
        nx, ny, nz = _arch_gap(p, x + e, y, z) - gap, _arch_gap(p, x, y + e, z) - gap, _arch_gap(p, x, y, z + e) - gap
        size = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
        return nx / size, ny / size, nz / size
    size = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    return (nx * p[COS] - ny * p[SIN]) / size, (nx * p[SIN] + ny * p[COS]) / size, nz / size


@jit
def _soft(low, high, value):
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@jit
def _sky_colour(sky, azimuth, elevation):
    u = azimuth * (SKY_COLUMNS / (2 * math.pi))
    v = min(max(elevation * SKY_RADIAN, 0.0), ROWS - 1.001)
    fu, fv = math.floor(u), math.floor(v)
    x0, y0 = int(fu) % SKY_COLUMNS, int(fv)
    x1, u, v = (x0 + 1) % SKY_COLUMNS, u - fu, v - fv
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    y1 = y0 + 1
    return (
        sky[y0, x0, 0] * a + sky[y0, x1, 0] * b + sky[y1, x0, 0] * c + sky[y1, x1, 0] * d,
        sky[y0, x0, 1] * a + sky[y0, x1, 1] * b + sky[y1, x0, 1] * c + sky[y1, x1, 1] * d,
        sky[y0, x0, 2] * a + sky[y0, x1, 2] * b + sky[y1, x0, 2] * c + sky[y1, x1, 2] * d,
    )


@jit
def _lit_ground(mips, x, y, level):
    """Colour of the ground, averaged over about 2**level texels."""
    level = min(max(level, 0.0), len(mips) - 1.001)
    k = int(level)
    blend = level - k
    r = g = b = 0.0
    for pick in range(2):
        share = 1 - blend if pick == 0 else blend
        if share <= 0:
            continue
        m = mips[k + pick]
        size = m.shape[0]
        scale = size / WORLD_SIZE
        u, v = x * scale - 0.5 + 0.5 * scale * TEXEL, y * scale - 0.5 + 0.5 * scale * TEXEL
        fu, fv = math.floor(u), math.floor(v)
        x0, y0 = int(fu) & (size - 1), int(fv) & (size - 1)
        x1, y1 = (x0 + 1) & (size - 1), (y0 + 1) & (size - 1)
        u, v = u - fu, v - fv
        wa, wb, wc, wd = share * (1 - u) * (1 - v), share * u * (1 - v), share * (1 - u) * v, share * u * v
        r += m[y0, x0, 0] * wa + m[y0, x1, 0] * wb + m[y1, x0, 0] * wc + m[y1, x1, 0] * wd
        g += m[y0, x0, 1] * wa + m[y0, x1, 1] * wb + m[y1, x0, 1] * wc + m[y1, x1, 1] * wd
        b += m[y0, x0, 2] * wa + m[y0, x1, 2] * wb + m[y1, x0, 2] * wc + m[y1, x1, 2] * wd
    return r, g, b


@jit
def _haze(air, z, dz, far):
    """Share of the view that haze takes on a way from height z: its density falls with height."""
    density, layer = air[0], air[1]
    fall = dz / layer
    way = far if abs(fall * far) < 1e-4 else (1 - math.exp(-min(fall * far, 60.0))) / fall
    return 1 - math.exp(-min(density * math.exp(-z / layer) * way, 60.0))


@jit
def _part_colour(p, look, x, y, z, nx, ny, nz, far):
    """Colour of a part at a point: its pattern, lit by sun and sky; lamps and windows glow in the dark."""
    r, g, b = p[RED], p[RED + 1], p[RED + 2]
    pattern, period = int(p[PATTERN]), p[PERIOD]
    glow = 0.0
    dark = look[9]
    if pattern == LAMP:
        glow = 0.5 + 0.5 * dark
    elif pattern != 0 and nz < 0.7:
        fade = _soft(6.0, 16.0, period / far * 208)  # a pattern finer than it can be seen is left out
        along = (z - p[BOTTOM]) / period
        part = along - math.floor(along)
        share = 0.0
        if pattern == BANDS:
            share = 1.0 if part > 0.5 else 0.0
        elif pattern == STRATA:
            share = 0.5 + 0.5 * math.sin(2 * math.pi * along)
        elif pattern == FLOORS:
            if z - p[BOTTOM] > 12 and z < p[TOP] - 3:
                share = fade * _soft(0.3, 0.42, part) * (1 - _soft(0.78, 0.9, part))
                glow = 0.55 * dark * share
                share *= 0.4
        elif pattern == WINDOWS:
            lx, ly = (x - p[X]) * p[COS] + (y - p[Y]) * p[SIN], (y - p[Y]) * p[COS] - (x - p[X]) * p[SIN]
            if p[KIND] == CONE:
                opening = abs(math.sin(2 * math.atan2(ly, lx))) < 0.36
            else:
                wide, side = (p[B0], ly) if abs(lx) / p[A0] > abs(ly) / p[B0] else (p[A0], lx)
                opening = 0.2 < abs(side) / wide < 0.62
            if opening and 0.45 < part < 0.8 and z > p[BOTTOM] + 8:
                share = 0.9 * fade
                glow = dark * share
        r, g, b = r + share * (p[RED2] - r), g + share * (p[RED2 + 1] - g), b + share * (p[RED2 + 2] - b)
    facing = max(0.16 + 0.84 * (nx * look[0] + ny * look[1] + nz * look[2]), 0.0) * 1.1
    sky = (1.08 + 0.22 * nz) * (0.78 + 0.22 * _soft(-4.0, 26.0, z - p[BOTTOM]))
    if glow > 0:
        warm = 1.0 if pattern != LAMP else 1.05
        r = r * (1 - glow) * (look[3] * sky + look[6] * facing) + glow * 255 * warm
        g = g * (1 - glow) * (look[4] * sky + look[7] * facing) + glow * 206 * warm
        b = b * (1 - glow) * (look[5] * sky + look[8] * facing) + glow * 120 * warm
        return r, g, b
    return (
        r * (look[3] * sky + look[6] * facing),
        g * (look[4] * sky + look[7] * facing),
        b * (look[5] * sky + look[8] * facing),
    )


@jit
def _see(scene, parts, listed, count, ox, oy, oz, dx, dy, dz, start, pace, focal, wet):
    """What a ray sees: colour, distance (1e9 for the sky), and what: -2 sky, -1 ground, -3 water, else a part."""
    height, bounds, mips, sky, ring, look, air, water, highest = scene
    azimuth = math.atan2(dy, dx)
    end = FAR
    what = -2
    if wet and dz < 0:
        sea = -oz / dz
        if sea < end:
            end, what = sea, -3
    best = 1e9
    for k in range(count):
        p = parts[listed[k]]
        x, y, z = p[X] - ox, p[Y] - oy, (p[TOP] + p[BOTTOM]) / 2 - oz
        along = x * dx + y * dy + z * dz
        if x * x + y * y + z * z - along * along > p[REACH] * p[REACH]:
            continue
        t = meet(p, ox, oy, oz, dx, dy, dz)
        if t < best:
            best = t
            chosen = listed[k]
    if best < end:
        end, what = best, chosen
    t = _march(height, bounds, highest, ox, oy, oz, dx, dy, dz, start, end, pace)
    if t >= 0:
        end, what = t, -1
    place = int(azimuth * (SKY_COLUMNS / (2 * math.pi))) % SKY_COLUMNS
    hr, hg, hb = ring[place, 0], ring[place, 1], ring[place, 2]
    sr = sg = sb = 0.0
    if what == -2 or end > NEAR_SKY:
        sr, sg, sb = _sky_colour(sky, azimuth, math.atan2(dz, math.hypot(dx, dy)))
    if what == -2:
        share = 0.9 * _haze(air, oz, max(dz, 0.004), 4000.0)
        # A layer seen from above has no upper edge in the picture, and the sky above it stays the sky.
        share *= 1 - _soft(0.0, 0.5, dz)
        return sr + share * (hr - sr), sg + share * (hg - sg), sb + share * (hb - sb), 1e9, what
    x, y, z = ox + end * dx, oy + end * dy, oz + end * dz
    if what == -1:
        e = TEXEL
        nx = (_height(height, x - e, y) - _height(height, x + e, y)) / (2 * e)
        ny = (_height(height, x, y - e) - _height(height, x, y + e)) / (2 * e)
        steep = max(-(dx * nx + dy * ny + dz) / math.sqrt(1 + nx * nx + ny * ny), 0.08)
        level = math.log2(max(end / focal / TEXEL / math.sqrt(steep) * 1.4, 1e-3))
        r, g, b = _lit_ground(mips, x, y, level)
        if z < 2.4 and wet:  # a wet, pale edge of the water
            edge = (1 - _soft(0.3, 2.4, z)) * 0.4
            r, g, b = r + edge * (water[6] - r), g + edge * (water[7] - g), b + edge * (water[8] - b)
    elif what == -3:
        depth = max(-_height(height, x, y), 0.0)
        shallow = math.exp(-depth / 7.0)
        r = water[3] + shallow * (water[0] - water[3])
        g = water[4] + shallow * (water[1] - water[4])
        b = water[5] + shallow * (water[2] - water[5])
        edge = (1 - _soft(0.0, 1.6, depth)) * 0.4
        r, g, b = r + edge * (water[6] - r), g + edge * (water[7] - g), b + edge * (water[8] - b)
    else:
        p = parts[what]
        nx, ny, nz = _normal(p, x, y, z)
        r, g, b = _part_colour(p, look, x, y, z, nx, ny, nz, end * 208 / focal)
    share = _haze(air, oz, dz, end)
    r, g, b = r + share * (hr - r), g + share * (hg - g), b + share * (hb - b)
    if end > NEAR_SKY:  # nothing appears or goes at the end of the view
        share = 0.9 * _haze(air, oz, max(dz, 0.004), 4000.0) * (1 - _soft(0.0, 0.5, dz))
        sr, sg, sb = sr + share * (hr - sr), sg + share * (hg - sg), sb + share * (hb - sb)
        share = _soft(NEAR_SKY, 0.99 * FAR, end)
        r, g, b = r + share * (sr - r), g + share * (sg - g), b + share * (sb - b)
    return r, g, b, end, what


@jit
def _halo(parts, listed, count, ox, oy, oz, dx, dy, dz, end):
    """Glow of the lamps that a ray passes near, before what it ends at."""
    glow = 0.0
    for k in range(count):
        p = parts[listed[k]]
        if p[PATTERN] != LAMP:
            continue
        x, y, z = p[X] - ox, p[Y] - oy, (p[TOP] + p[BOTTOM]) / 2 - oz
        along = x * dx + y * dy + z * dz
        apart = max(x * x + y * y + z * z - along * along, 0.0)
        if along > 0 and along < end + 12:
            glow += math.exp(-apart / 500.0) * 0.55 + math.exp(-apart / 90.0) * 0.35
    return min(glow, 1.0)


@jit
def _pixel(scene, parts, seen, num_seen, mirrored, num_mirrored, eye, axes, focal, u, v, start):
    """Colour of the ray through a place of the picture (in focal lengths), with what the water reflects there."""
    dx = axes[0, 0] * u + axes[0, 1] * v + axes[0, 2]
    dy = axes[1, 0] * u + axes[1, 1] * v + axes[1, 2]
    dz = axes[2, 0] * u + axes[2, 1] * v + axes[2, 2]
    size = math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / size, dy / size, dz / size
    r, g, b, far, what = _see(scene, parts, seen, num_seen, eye[0], eye[1], eye[2], dx, dy, dz, start, 1.0, focal, True)
    if scene[5][9] > 0:
        glow = _halo(parts, seen, num_seen, eye[0], eye[1], eye[2], dx, dy, dz, far)
        r, g, b = r + glow * 0.8 * (255 - r), g + glow * 0.8 * (212 - g), b + glow * 0.8 * (132 - b)
    if what == -3 and far < 0.99 * FAR:
        x, y = eye[0] + far * dx, eye[1] + far * dy
        mr, mg, mb, _, _ = _see(scene, parts, mirrored, num_mirrored, x, y, 0.02, dx, dy, -dz, 1.0, 3.0, focal, False)
        graze = 1 - min(-dz, 1.0)
        mirror = 0.10 + 0.72 * graze**4
        mirror *= 1 - _haze(scene[6], eye[2], dz, far)
        mirror *= 1 - _soft(NEAR_SKY, 0.99 * FAR, far)
        r, g, b = r + mirror * (mr - r), g + mirror * (mg - g), b + mirror * (mb - b)
    return r, g, b, far, far / size, what


@jit
def _list_parts(parts, eye, axes, focal, height, width, flip):
    """For each tile of the picture, the parts that it may show: (lists, counts)."""
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    lists = np.empty((rows, columns, max(len(parts), 1)), np.int32)
    counts = np.zeros((rows, columns), np.int32)
    for k in range(len(parts)):
        p = parts[k]
        middle = (p[TOP] + p[BOTTOM]) / 2
        x, y, z = p[X] - eye[0], p[Y] - eye[1], (-middle if flip else middle) - eye[2]
        r = p[REACH] * 1.02 + 0.5
        if p[PATTERN] == LAMP:
            r += 50  # and its halo
        if math.sqrt(x * x + y * y + z * z) - r > FAR:
            continue
        right = axes[0, 0] * x + axes[1, 0] * y + axes[2, 0] * z
        down = axes[0, 1] * x + axes[1, 1] * y + axes[2, 1] * z
        ahead = axes[0, 2] * x + axes[1, 2] * y + axes[2, 2] * z
        if ahead < -r:
            continue
        c0, c1, r0, r1 = 0, columns - 1, 0, rows - 1
        if ahead > r + 0.5:
            near, away = ahead - r, ahead + r
            left, rightmost = right - r, right + r
            u0 = left / (near if left < 0 else away)
            u1 = rightmost / (near if rightmost > 0 else away)
            upper, lower = down - r, down + r
            v0 = upper / (near if upper < 0 else away)
            v1 = lower / (near if lower > 0 else away)
            c0 = max(int(math.floor((u0 * focal + width / 2 - 1.5) / TILE)), 0)
            c1 = min(int(math.floor((u1 * focal + width / 2 + 1.5) / TILE)), columns - 1)
            r0 = max(int(math.floor((v0 * focal + height / 2 - 1.5) / TILE)), 0)
            r1 = min(int(math.floor((v1 * focal + height / 2 + 1.5) / TILE)), rows - 1)
        for row in range(r0, r1 + 1):
            for column in range(c0, c1 + 1):
                lists[row, column, counts[row, column]] = k
                counts[row, column] += 1
    return lists, counts


@jit
def draw(scene, parts, eye, axes, focal, height, width):
    """The picture as uint8 [height, width, 3] and the depth along the view, infinite for the sky.

    Args:
        scene: (heights, bounds, mips, sky, ring, look, air, water, highest) of the world.
        parts: of the landmarks, already moved to the copy of the wrapping world that is nearest to the eye.
        eye: x, y, altitude.
        axes: columns are the camera's right, down and forward in the world (x, y, up).
        focal: focal length in pixels.
    """
    seen, num_seen = _list_parts(parts, eye, axes, focal, height, width, False)
    mirrored, num_mirrored = _list_parts(parts, eye, axes, focal, height, width, True)
    image = np.empty((height, width, 3), np.float32)
    depth = np.empty((height, width), np.float64)
    ways = np.empty((height, width), np.float64)
    for row in range(height):
        for column in range(width):
            i, j = row // TILE, column // TILE
            u, v = (column + 0.5 - width / 2) / focal, (row + 0.5 - height / 2) / focal
            r, g, b, far, deep, what = _pixel(scene, parts, seen[i, j], num_seen[i, j], mirrored[i, j],
                                              num_mirrored[i, j], eye, axes, focal, u, v, NEAR)  # fmt: skip
            image[row, column, 0], image[row, column, 1], image[row, column, 2] = r, g, b
            ways[row, column] = far
            depth[row, column] = deep if what != -2 else np.inf
    edge = np.zeros((height, width), np.bool_)
    for row in range(height):
        for column in range(width):
            for way in range(2):
                y, x = row + (way == 0), column + (way == 1)
                if y < height and x < width:
                    apart = 0.0
                    for k in range(3):
                        apart = max(apart, abs(image[row, column, k] - image[y, x, k]))
                    if apart > EDGE:
                        edge[row, column] = edge[y, x] = True
    out = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            r, g, b = image[row, column, 0], image[row, column, 1], image[row, column, 2]
            if edge[row, column]:
                i, j = row // TILE, column // TILE
                start = 1e9  # the ground is not much nearer than what the neighbours see
                for y in range(max(row - 1, 0), min(row + 2, height)):
                    for x in range(max(column - 1, 0), min(column + 2, width)):
                        start = min(start, ways[y, x])
                start = max(min(0.85 * start - 1, 0.8 * FAR), NEAR)
                r, g, b = min(r, 255.0) / 6, min(g, 255.0) / 6, min(b, 255.0) / 6
                for k in range(5):
                    u = (column + 0.5 + GRID[k, 0] - width / 2) / focal
                    v = (row + 0.5 + GRID[k, 1] - height / 2) / focal
                    cr, cg, cb, _, _, _ = _pixel(scene, parts, seen[i, j], num_seen[i, j], mirrored[i, j],
                                              num_mirrored[i, j], eye, axes, focal, u, v, start)  # fmt: skip
                    r, g, b = r + min(cr, 255.0) / 6, g + min(cg, 255.0) / 6, b + min(cb, 255.0) / 6
            out[row, column, 0] = np.uint8(min(max(r, 0.0), 255.0) + 0.499)
            out[row, column, 1] = np.uint8(min(max(g, 0.0), 255.0) + 0.499)
            out[row, column, 2] = np.uint8(min(max(b, 0.0), 255.0) + 0.499)
    return out, depth


@jit
def cast_shadows(height, parts, sx, sy, sz, longest):
    """Where landmarks stand between the ground and the sun, 0 or 1 for each texel of the height map."""
    size = height.shape[0]
    shadow = np.zeros((size, size), np.float32)
    flat = math.hypot(sx, sy)
    for k in range(len(parts)):
        p = parts[k]
        reach = p[REACH]
        length = min((p[TOP] - p[BOTTOM] + 30) * flat / sz, longest)
        x0, x1 = p[X], p[X] - sx / flat * length
        y0, y1 = p[Y], p[Y] - sy / flat * length
        for row in range(int((min(y0, y1) - reach) / TEXEL), int((max(y0, y1) + reach) / TEXEL) + 1):
            for column in range(int((min(x0, x1) - reach) / TEXEL), int((max(x0, x1) + reach) / TEXEL) + 1):
                x, y = column * TEXEL, row * TEXEL
                across = abs((x - x0) * sy - (y - y0) * sx) / flat
                if across > reach:
                    continue
                z = max(height[row & MASK, column & MASK], 0.0)
                if shadow[row & MASK, column & MASK] < 1 and meet(p, x, y, z, sx, sy, sz) < 1e8:
                    shadow[row & MASK, column & MASK] = 1
    return shadow
