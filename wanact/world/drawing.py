"""Draws a world: a ray for each pixel over the height map, against the landmarks' solids, and once more off the water.

The picture is drawn in tiles, and a tile's rays go together through each pass: solids, ground, colour, reflection.
Pixels whose neighbours differ in colour are drawn again with several rays, so that edges are smooth. Colours are
0..255 until the end; lengths are world units. Compiled by numba on first use and kept in its cache, which does not see
changes of other files: what is compiled together stands here together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from wanact.world import landmarks as lm
from wanact.world.sky import COLUMNS as SKY_COLUMNS
from wanact.world.sky import ELEVATION_DEG, ROWS
from wanact.world.terrain import MAP_SIZE, MIPS, TEXEL, WORLD_SIZE

KIND, X, Y, BOTTOM, TOP, A0, B0, A1, B1, COS, SIN = range(11)
RED, PATTERN, PERIOD, RED2, REACH = lm.RED, lm.PATTERN, lm.PERIOD, lm.RED2, lm.REACH
BOX, CONE, ELLIPSOID, ARCH = lm.BOX, lm.CONE, lm.ELLIPSOID, lm.ARCH
BANDS, FLOORS, STRATA, LAMP, WINDOWS = lm.BANDS, lm.FLOORS, lm.STRATA, lm.LAMP, lm.WINDOWS
SKY, GROUND, WATER = -2, -1, -3  # what a ray may end at, beside parts
MASK = MAP_SIZE - 1
NEAR, FAR = 0.5, 900.0
NEAR_SKY = 0.62 * FAR  # from here on things turn into the sky behind them
NOWHERE = 1e9
TILE = 8
BLOCK_TEXELS = 16
BLOCK = BLOCK_TEXELS * TEXEL
BLOCK_MASK = MAP_SIZE // BLOCK_TEXELS - 1
EDGE, STRONG = 9.0, 30.0  # differences between neighbours that are drawn again, with a few rays or with many
SKY_RADIAN = ROWS / math.radians(ELEVATION_DEG)
SKY_TURN = SKY_COLUMNS / (2 * math.pi)
# Offsets of an edge pixel's further rays, about as wide together as the pixel. Few: a pentagon, turned so that no two
# share a line. Many: a sunflower, turned so that an upright or a level edge meets no three of them at once as it moves.
TURNS = 0.3 + 2 * np.pi / 5 * np.arange(5)
FEW = 0.56 * np.stack([np.cos(TURNS), np.sin(TURNS)], 1)
TURNS = 0.95 + np.pi * (3 - math.sqrt(5)) * np.arange(1, 12)
MANY = 0.74 * np.sqrt(np.arange(1, 12) / 11.5)[:, None] * np.stack([np.cos(TURNS), np.sin(TURNS)], 1)
# A picture takes tens of milliseconds, in which other threads go on.
jit = njit(cache=True, error_model="numpy", nogil=True)
inlined = njit(cache=True, error_model="numpy", nogil=True, forceinline=True)


class Scene(NamedTuple):
    """What is drawn: see World."""

    height: np.ndarray
    bounds: np.ndarray
    highest: float
    colour: np.ndarray  # all mips, one after the other, [n, 3]
    sky: np.ndarray
    ring: np.ndarray
    look: np.ndarray
    air: np.ndarray
    water: np.ndarray
    parts: np.ndarray  # moved to the copy of the wrapping world that is nearest to the eye


class Rays(NamedTuple):
    """Rays from one point, a column for each."""

    dx: np.ndarray  # unit directions
    dy: np.ndarray
    dz: np.ndarray
    past: np.ndarray  # where the way begins that counts: 0, or the water that reflects the ray
    way: np.ndarray  # distance at which the ray ends
    what: np.ndarray  # it ends at: SKY, GROUND, WATER, or the number of a part
    red: np.ndarray
    green: np.ndarray
    blue: np.ndarray
    at: np.ndarray  # from here on scratch of the march
    before: np.ndarray
    gap: np.ndarray
    below: np.ndarray
    active: np.ndarray
    found: np.ndarray
    source: np.ndarray  # of a reflection: the number of the ray that met the water


class Lists(NamedTuple):
    """The parts that each tile may show: those of tile k are parts[begin[k] : begin[k + 1]]."""

    parts: np.ndarray
    begin: np.ndarray


@jit
def _make_rays(count):
    x, i = np.empty((12, count)), np.empty((4, count), np.int64)
    return Rays(x[0], x[1], x[2], x[3], x[4], i[0], x[5], x[6], x[7], x[8], x[9], x[10], x[11], i[1], i[2], i[3])


# The ground


@inlined
def _height(height, x, y):
    x, y = x / TEXEL, y / TEXEL
    fx, fy = math.floor(x), math.floor(y)
    x0, y0 = int(fx) & MASK, int(fy) & MASK
    x1, y1 = (x0 + 1) & MASK, (y0 + 1) & MASK
    fx, fy = x - fx, y - fy
    low = height[y0, x0] * (1 - fx) + height[y0, x1] * fx
    return low * (1 - fy) + (height[y1, x0] * (1 - fx) + height[y1, x1] * fx) * fy


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
    return np.stack([top, steep, widen(top, 3)], -1).astype(np.float64)


@inlined
def _block(x, y):
    return int(math.floor(y / BLOCK)) & BLOCK_MASK, int(math.floor(x / BLOCK)) & BLOCK_MASK


@jit
def _clear(scene, ox, oy, oz, dx, dy, dz, spread, t):
    """How far all rays of a cone are in clear air, from where they are so: `spread` is its radius at distance 1."""
    height, bounds = scene.height, scene.bounds
    flat = math.sqrt(dx * dx + dy * dy)
    while t < FAR:
        z, wide = oz + t * dz, t * spread
        if dz >= spread and z - wide > scene.highest:
            return FAR
        if wide > 0.5 * BLOCK:
            return t
        x, y = ox + t * dx, oy + t * dy
        i, j = _block(x, y)
        step = 0.0
        over = z - wide - bounds[i, j, 2]
        if over > 0:
            step = min(4 * BLOCK - wide, over / max(spread - dz, 1e-6))
        over = z - wide - bounds[i, j, 0]
        if over > 0:
            step = max(step, min(BLOCK - wide, over / max(spread - dz, 1e-6)))
        steep = bounds[i, j, 1]
        gap = z - _height(height, x, y) - wide * (1 + steep)
        if gap > 0:
            step = max(step, min(BLOCK - wide, gap / max(steep * flat - dz + spread * (1 + steep), 1e-3)))
        if step < 0.3 + 0.007 * t:
            return t
        t += step
    return FAR


@jit
def _meet_ground(scene, ox, oy, oz, rays, count, pace):
    """End the rays at the ground where it is nearer than what they meet so far. They begin at `rays.at`.

    Steps are as long as the steepest and the highest ground nearby allow, see `bound`. All rays take a step each, then
    the next: so a processor works on several at a time.
    """
    height, bounds, highest = scene.height, scene.bounds, scene.highest
    dxs, dys, dzs, past, way, what = rays.dx, rays.dy, rays.dz, rays.past, rays.way, rays.what
    at, before, gap_before, gap_below, active, found = (
        rays.at,
        rays.before,
        rays.gap,
        rays.below,
        rays.active,
        rays.found,
    )
    num_active = num_found = 0
    for i in range(count):
        if at[i] < way[i] and (dzs[i] < 0 or oz + at[i] * dzs[i] <= highest):
            before[i], gap_before[i] = at[i], 1.0
            active[num_active] = i
            num_active += 1
    while num_active > 0:
        left = 0
        for k in range(num_active):
            i = active[k]
            t, dz = at[i], dzs[i]
            z, x, y = oz + t * dz, ox + t * dxs[i], oy + t * dys[i]
            gap = z - _height(height, x, y)
            if gap <= 0:
                gap_below[i] = gap
                found[num_found] = i
                num_found += 1
                continue
            before[i], gap_before[i] = t, gap
            t_before = t
            i0, j0 = _block(x, y)
            flat = math.sqrt(1 - dz * dz)
            step = min(gap / max(bounds[i0, j0, 1] * flat - dz, 1e-3), BLOCK)
            fall = 1 / max(-dz, 1e-6)
            step = max(step, min(4 * BLOCK, (z - bounds[i0, j0, 2]) * fall))
            step = max(step, min(BLOCK, (z - bounds[i0, j0, 0]) * fall))
            t += max(step, pace * (0.3 + 0.007 * (t - past[i])))
            if t_before < way[i] and (dz < 0 or oz + t * dz <= highest):
                at[i] = min(t, way[i])  # what a ray ends at may stand in the ground
                active[left] = i
                left += 1
        num_active = left
    for _ in range(5):
        for k in range(num_found):
            i = found[k]
            low, high, above, under = before[i], at[i], gap_before[i], gap_below[i]
            share = min(max(above / (above - under), 0.1), 0.9)
            t = low + share * (high - low)
            gap = oz + t * dzs[i] - _height(height, ox + t * dxs[i], oy + t * dys[i])
            is_under = gap <= 0
            before[i], gap_before[i] = (low if is_under else t), (above if is_under else gap)
            at[i], gap_below[i] = (t if is_under else high), (gap if is_under else under)
    for k in range(num_found):
        i = found[k]
        way[i] = before[i] + (at[i] - before[i]) * gap_before[i] / (gap_before[i] - gap_below[i])
        what[i] = GROUND


# Solids. They meet a ray (unit direction) at a distance beyond `least`, or NOWHERE. Written without branches, so that
# loops over rays run on several at a time.


@inlined
def _cone(parts, k, ox, oy, oz, dx, dy, dz, least):
    bottom, top, low, high = parts[k, BOTTOM], parts[k, TOP], parts[k, A0], parts[k, A1]
    slope = (high - low) / (top - bottom)
    x, y, r = ox - parts[k, X], oy - parts[k, Y], low + slope * (oz - bottom)
    a = dx * dx + dy * dy - slope * slope * dz * dz
    b = x * dx + y * dy - slope * dz * r
    c = x * x + y * y - r * r
    d = b * b - a * c
    root = math.sqrt(max(d, 0.0))
    t, u = (-b - root) / a, (-b + root) / a
    z, v = oz + t * dz, oz + u * dz
    best = t if (d >= 0) & (t > least) & (z >= bottom) & (z <= top) else NOWHERE
    best = u if (d >= 0) & (u > least) & (u < best) & (v >= bottom) & (v <= top) else best
    t = (top - oz) / dz
    u, v = x + t * dx, y + t * dy
    best = t if (t > least) & (t < best) & (u * u + v * v <= high * high) else best
    t = (bottom - oz) / dz
    u, v = x + t * dx, y + t * dy
    best = t if (t > least) & (t < best) & (u * u + v * v <= low * low) else best
    return best


@inlined
def _plane(value, rate, enter, leave):
    t = -value / rate
    return (t if (rate < 0) & (t > enter) else enter), (t if (rate >= 0) & (t < leave) else leave)


@inlined
def _box(parts, k, ox, oy, oz, dx, dy, dz, least):
    """Entry into the six planes of a box that may taper."""
    bottom, top, cos, sin = parts[k, BOTTOM], parts[k, TOP], parts[k, COS], parts[k, SIN]
    x, y, z = ox - parts[k, X], oy - parts[k, Y], oz - bottom
    lx, ly = x * cos + y * sin, y * cos - x * sin
    ux, uy = dx * cos + dy * sin, dy * cos - dx * sin
    kx, ky = (parts[k, A1] - parts[k, A0]) / (top - bottom), (parts[k, B1] - parts[k, B0]) / (top - bottom)
    half_x, half_y = parts[k, A0] + kx * z, parts[k, B0] + ky * z
    enter, leave = _plane(oz - top, dz, -NOWHERE, NOWHERE)
    enter, leave = _plane(-z, -dz, enter, leave)
    enter, leave = _plane(lx - half_x, ux - kx * dz, enter, leave)
    enter, leave = _plane(-lx - half_x, -ux - kx * dz, enter, leave)
    enter, leave = _plane(ly - half_y, uy - ky * dz, enter, leave)
    enter, leave = _plane(-ly - half_y, -uy - ky * dz, enter, leave)
    return enter if (enter > least) & (enter <= leave) else NOWHERE


@inlined
def _ellipsoid(parts, k, ox, oy, oz, dx, dy, dz, least):
    cos, sin, wide, deep = parts[k, COS], parts[k, SIN], parts[k, A0], parts[k, B0]
    h = (parts[k, TOP] - parts[k, BOTTOM]) / 2
    x, y = ox - parts[k, X], oy - parts[k, Y]
    lx, ly, lz = (x * cos + y * sin) / wide, (y * cos - x * sin) / deep, (oz - parts[k, BOTTOM] - h) / h
    ux, uy, uz = (dx * cos + dy * sin) / wide, (dy * cos - dx * sin) / deep, dz / h
    a, b, c = ux * ux + uy * uy + uz * uz, lx * ux + ly * uy + lz * uz, lx * lx + ly * ly + lz * lz - 1
    d = b * b - a * c
    t = (-b - math.sqrt(max(d, 0.0))) / a
    return t if (d >= 0) & (t > least) else NOWHERE


@inlined
def _arch_gap(parts, k, x, y, z):
    """Signed gap to an upright ring of radius A0 whose tube is B0 thick at the top and more at its feet."""
    x, y, z = x - parts[k, X], y - parts[k, Y], z - (parts[k, TOP] + parts[k, BOTTOM]) / 2
    lx, ly = x * parts[k, COS] + y * parts[k, SIN], y * parts[k, COS] - x * parts[k, SIN]
    thick = parts[k, B0] * (1.3 - 0.4 * min(max(z / parts[k, A0], -1.0), 1.0))
    off = math.sqrt(lx * lx + z * z) - parts[k, A0]
    return math.sqrt(off * off + ly * ly) - thick


@jit
def _arch(parts, k, ox, oy, oz, dx, dy, dz, least):
    cx, cy, cz = parts[k, X] - ox, parts[k, Y] - oy, (parts[k, TOP] + parts[k, BOTTOM]) / 2 - oz
    thick = 1.7 * parts[k, B0]
    reach = parts[k, A0] + thick
    middle = cx * dx + cy * dy + cz * dz
    apart = cx * cx + cy * cy + cz * cz - middle * middle
    if apart > reach * reach:
        return NOWHERE
    half = math.sqrt(reach * reach - apart)
    t, end = max(middle - half, least), middle + half
    # The ring lies between two upright planes.
    ly, uy = cy * parts[k, COS] - cx * parts[k, SIN], dy * parts[k, COS] - dx * parts[k, SIN]
    if abs(uy) > 1e-9:
        t, end = max(t, (ly - thick * np.sign(uy)) / uy), min(end, (ly + thick * np.sign(uy)) / uy)
    for _ in range(96):
        if t > end:
            return NOWHERE
        gap = _arch_gap(parts, k, ox + t * dx, oy + t * dy, oz + t * dz)
        if gap < 0.01 + 2e-5 * t:
            return t
        t += 0.9 * gap
    return NOWHERE


@jit
def meet(parts, k, ox, oy, oz, dx, dy, dz):
    """Distance at which a ray (unit direction) enters a part, or NOWHERE."""
    kind = int(parts[k, KIND])
    if kind == BOX:
        return _box(parts, k, ox, oy, oz, dx, dy, dz, NEAR)
    if kind == CONE:
        return _cone(parts, k, ox, oy, oz, dx, dy, dz, NEAR)
    if kind == ELLIPSOID:
        return _ellipsoid(parts, k, ox, oy, oz, dx, dy, dz, NEAR)
    return _arch(parts, k, ox, oy, oz, dx, dy, dz, NEAR)


@jit
def _meet_parts(parts, lists, tile, ox, oy, oz, rays, count):
    """End the rays at the nearest of a tile's parts where one is nearer than what they meet so far."""
    dx, dy, dz, past, way, what = rays.dx, rays.dy, rays.dz, rays.past, rays.way, rays.what
    for m in range(lists.begin[tile], lists.begin[tile + 1]):
        k = lists.parts[m]
        kind = int(parts[k, KIND])
        if kind == BOX:
            for i in range(count):
                t = _box(parts, k, ox, oy, oz, dx[i], dy[i], dz[i], past[i] + NEAR)
                nearer = t < way[i]
                way[i], what[i] = (t if nearer else way[i]), (k if nearer else what[i])
        elif kind == CONE:
            for i in range(count):
                t = _cone(parts, k, ox, oy, oz, dx[i], dy[i], dz[i], past[i] + NEAR)
                nearer = t < way[i]
                way[i], what[i] = (t if nearer else way[i]), (k if nearer else what[i])
        elif kind == ELLIPSOID:
            for i in range(count):
                t = _ellipsoid(parts, k, ox, oy, oz, dx[i], dy[i], dz[i], past[i] + NEAR)
                nearer = t < way[i]
                way[i], what[i] = (t if nearer else way[i]), (k if nearer else what[i])
        else:
            for i in range(count):
                t = _arch(parts, k, ox, oy, oz, dx[i], dy[i], dz[i], past[i] + NEAR)
                if t < way[i]:
                    way[i], what[i] = t, k


@jit
def _normal(parts, k, x, y, z):
    """Outward normal of a part at a point on it."""
    kind = int(parts[k, KIND])
    bottom, top, cos, sin = parts[k, BOTTOM], parts[k, TOP], parts[k, COS], parts[k, SIN]
    a0, b0, a1, b1 = parts[k, A0], parts[k, B0], parts[k, A1], parts[k, B1]
    height = top - bottom
    lx, ly = x - parts[k, X], y - parts[k, Y]
    lx, ly = lx * cos + ly * sin, ly * cos - lx * sin
    if kind == CONE:
        slope = (a1 - a0) / height
        far = max(math.sqrt(lx * lx + ly * ly), 1e-9)
        radius = a0 + slope * (z - bottom)
        if z > top - 0.02 and far < radius - 0.02:
            return 0.0, 0.0, 1.0
        if z < bottom + 0.02 and far < radius - 0.02:
            return 0.0, 0.0, -1.0
        nx, ny, nz = lx / far, ly / far, -slope
    elif kind == BOX:
        s = (z - bottom) / height
        kx, ky = (a1 - a0) / height, (b1 - b0) / height
        gx = (abs(lx) - a0 - (a1 - a0) * s) / math.sqrt(1 + kx * kx)
        gy = (abs(ly) - b0 - (b1 - b0) * s) / math.sqrt(1 + ky * ky)
        gt, gb = z - top, bottom - z
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
        nx, ny, nz = lx / a0**2, ly / b0**2, (z - bottom - h) / h**2
    else:
        e = 0.05
        gap = _arch_gap(parts, k, x, y, z)
        nx, ny = _arch_gap(parts, k, x + e, y, z) - gap, _arch_gap(parts, k, x, y + e, z) - gap
        nz = _arch_gap(parts, k, x, y, z + e) - gap
        size = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
        return nx / size, ny / size, nz / size
    size = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    return (nx * cos - ny * sin) / size, (nx * sin + ny * cos) / size, nz / size


# Colour


@inlined
def _soft(low, high, value):
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@inlined
def _angle(y, x):
    """atan2 to 2e-8: Abramowitz and Stegun 4.4.49."""
    ax, ay = abs(x), abs(y)
    q = min(ax, ay) / max(max(ax, ay), 1e-300)
    s = q * q
    a = ((0.0028662257 * s - 0.0161657367) * s + 0.0429096138) * s - 0.0752896400
    a = (((a * s + 0.1065626393) * s - 0.1420889944) * s + 0.1999355085) * s - 0.3333314528
    a = q + q * s * a
    a = math.pi / 2 - a if ay > ax else a
    a = math.pi - a if x < 0 else a
    return -a if y < 0 else a


@inlined
def _sky_colour(sky, azimuth, elevation):
    u = azimuth * SKY_TURN
    v = min(max(elevation * SKY_RADIAN, 0.0), ROWS - 1.001)
    fu, fv = math.floor(u), math.floor(v)
    x0, y0 = int(fu) & (SKY_COLUMNS - 1), int(fv)
    x1, u, v = (x0 + 1) & (SKY_COLUMNS - 1), u - fu, v - fv
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    y1 = y0 + 1
    return (
        sky[y0, x0, 0] * a + sky[y0, x1, 0] * b + sky[y1, x0, 0] * c + sky[y1, x1, 0] * d,
        sky[y0, x0, 1] * a + sky[y0, x1, 1] * b + sky[y1, x0, 1] * c + sky[y1, x1, 1] * d,
        sky[y0, x0, 2] * a + sky[y0, x1, 2] * b + sky[y1, x0, 2] * c + sky[y1, x1, 2] * d,
    )


@inlined
def _texel(mips, x, y, level):
    """Colour of the ground in one of its mips."""
    size = MAP_SIZE >> level
    first = (4 * MAP_SIZE * MAP_SIZE - 4 * size * size) // 3
    scale = size / WORLD_SIZE
    u, v = x * scale - 0.5 + 0.5 * scale * TEXEL, y * scale - 0.5 + 0.5 * scale * TEXEL
    fu, fv = math.floor(u), math.floor(v)
    x0, y0 = int(fu) & (size - 1), int(fv) & (size - 1)
    x1, y1 = (x0 + 1) & (size - 1), (y0 + 1) & (size - 1)
    u, v = u - fu, v - fv
    wa, wb, wc, wd = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    a, b, c, d = first + y0 * size + x0, first + y0 * size + x1, first + y1 * size + x0, first + y1 * size + x1
    return (
        mips[a, 0] * wa + mips[b, 0] * wb + mips[c, 0] * wc + mips[d, 0] * wd,
        mips[a, 1] * wa + mips[b, 1] * wb + mips[c, 1] * wc + mips[d, 1] * wd,
        mips[a, 2] * wa + mips[b, 2] * wb + mips[c, 2] * wc + mips[d, 2] * wd,
    )


@inlined
def _lit_ground(mips, height, x, y, dx, dy, dz, size):
    """Colour of the ground, averaged over what a pixel covers: `size` across the view, in texels."""
    if size * size < 0.08:  # under any slant
        return _texel(mips, x, y, 0)
    e = TEXEL
    nx = (_height(height, x - e, y) - _height(height, x + e, y)) / (2 * e)
    ny = (_height(height, x, y - e) - _height(height, x, y + e)) / (2 * e)
    steep = max(-(dx * nx + dy * ny + dz) / math.sqrt(1 + nx * nx + ny * ny), 0.08)
    level = math.log2(size / math.sqrt(steep))
    if level <= 0:
        return _texel(mips, x, y, 0)
    level = min(level, MIPS - 1.001)
    k = int(level)
    blend = level - k
    r, g, b = _texel(mips, x, y, k)
    r2, g2, b2 = _texel(mips, x, y, k + 1)
    return r + blend * (r2 - r), g + blend * (g2 - g), b + blend * (b2 - b)


@inlined
def _haze(thick, layer, dz, far):
    """Share of the view that haze takes on a way: its density falls with height."""
    fall = dz / layer
    way = far if abs(fall * far) < 1e-4 else (1 - math.exp(-min(fall * far, 60.0))) / fall
    return 1 - math.exp(-min(thick * way, 60.0))


@jit
def _part_colour(parts, k, look, x, y, z, far):
    """Colour of a part at a point: its pattern, lit by sun and sky; lamps and windows glow in the dark."""
    nx, ny, nz = _normal(parts, k, x, y, z)
    bottom, top = parts[k, BOTTOM], parts[k, TOP]
    r, g, b = parts[k, RED], parts[k, RED + 1], parts[k, RED + 2]
    pattern, period = int(parts[k, PATTERN]), parts[k, PERIOD]
    glow = 0.0
    dark = look[9]
    if pattern == LAMP:
        glow = 0.5 + 0.5 * dark
    elif pattern != 0 and nz < 0.7:
        fade = _soft(6.0, 16.0, period / far * 208)  # a pattern finer than it can be seen is left out
        along = (z - bottom) / period
        part = along - math.floor(along)
        share = 0.0
        if pattern == BANDS:
            share = 1.0 if part > 0.5 else 0.0
        elif pattern == STRATA:
            share = 0.5 + 0.5 * math.sin(2 * math.pi * along)
        elif pattern == FLOORS:
            if z - bottom > 12 and z < top - 3:
                share = fade * _soft(0.3, 0.42, part) * (1 - _soft(0.78, 0.9, part))
                glow = 0.55 * dark * share
                share *= 0.4
        elif pattern == WINDOWS:
            lx, ly = x - parts[k, X], y - parts[k, Y]
            lx, ly = lx * parts[k, COS] + ly * parts[k, SIN], ly * parts[k, COS] - lx * parts[k, SIN]
            if parts[k, KIND] == CONE:
                opening = abs(math.sin(2 * math.atan2(ly, lx))) < 0.36
            else:
                a, b_ = parts[k, A0], parts[k, B0]
                wide, side = (b_, ly) if abs(lx) / a > abs(ly) / b_ else (a, lx)
                opening = 0.2 < abs(side) / wide < 0.62
            if opening and 0.45 < part < 0.8 and z > bottom + 8:
                share = 0.9 * fade
                glow = dark * share
        r, g, b = (
            r + share * (parts[k, RED2] - r),
            g + share * (parts[k, RED2 + 1] - g),
            b + share * (parts[k, RED2 + 2] - b),
        )
    facing = max(0.16 + 0.84 * (nx * look[0] + ny * look[1] + nz * look[2]), 0.0) * 1.1
    sky = (1.08 + 0.22 * nz) * (0.78 + 0.22 * _soft(-4.0, 26.0, z - bottom))
    r, g, b = (
        r * (look[3] * sky + look[6] * facing),
        g * (look[4] * sky + look[7] * facing),
        b * (look[5] * sky + look[8] * facing),
    )
    warm = 1.0 if pattern != LAMP else 1.05
    return r * (1 - glow) + glow * 255 * warm, g * (1 - glow) + glow * 206 * warm, b * (1 - glow) + glow * 120 * warm


@jit
def _colour(scene, ox, oy, oz, level, rays, count, focal, wet):
    """Colours of what the rays end at, through the air from height `level`."""
    height, mips, sky, parts = scene.height, scene.colour, scene.sky, scene.parts
    look, water, ring, layer = scene.look, scene.water, scene.ring, scene.air[1]
    dxs, dys, dzs, past, ways, whats = rays.dx, rays.dy, rays.dz, rays.past, rays.way, rays.what
    red, green, blue = rays.red, rays.green, rays.blue
    thick = scene.air[0] * math.exp(-level / layer)
    for i in range(count):
        dx, dy, dz, what = dxs[i], dys[i], dzs[i], whats[i]
        azimuth = _angle(dy, dx)
        place = int(azimuth * SKY_TURN) & (SKY_COLUMNS - 1)
        hr, hg, hb = ring[place, 0], ring[place, 1], ring[place, 2]
        way = ways[i]
        end = way - past[i]
        r = g = b = sr = sg = sb = 0.0
        if what == SKY or end > NEAR_SKY:
            sr, sg, sb = _sky_colour(sky, azimuth, _angle(dz, math.sqrt(dx * dx + dy * dy)))
            # A layer seen from above has no upper edge in the picture, and the sky above it stays the sky.
            if dz < 0.5:
                share = 0.9 * _haze(thick, layer, max(dz, 0.004), 4000.0) * (1 - _soft(0.0, 0.5, dz))
                sr, sg, sb = sr + share * (hr - sr), sg + share * (hg - sg), sb + share * (hb - sb)
        if what == SKY:
            red[i], green[i], blue[i] = sr, sg, sb
            continue
        x, y, z = ox + way * dx, oy + way * dy, oz + way * dz
        if what == GROUND:
            r, g, b = _lit_ground(mips, height, x, y, dx, dy, dz, end / focal / TEXEL * 1.4)
            if z < 2.4 and wet:  # a wet, pale edge of the water
                edge = (1 - _soft(0.3, 2.4, z)) * 0.4
                r, g, b = r + edge * (water[6] - r), g + edge * (water[7] - g), b + edge * (water[8] - b)
        elif what == WATER:
            depth = max(-_height(height, x, y), 0.0)
            shallow = math.exp(-depth / 7.0)
            r = water[3] + shallow * (water[0] - water[3])
            g = water[4] + shallow * (water[1] - water[4])
            b = water[5] + shallow * (water[2] - water[5])
            edge = (1 - _soft(0.0, 1.6, depth)) * 0.4
            r, g, b = r + edge * (water[6] - r), g + edge * (water[7] - g), b + edge * (water[8] - b)
        else:
            r, g, b = _part_colour(parts, what, look, x, y, z, end * 208 / focal)
        share = _haze(thick, layer, dz, end)
        r, g, b = r + share * (hr - r), g + share * (hg - g), b + share * (hb - b)
        if end > NEAR_SKY:  # nothing appears or goes at the end of the view
            share = _soft(NEAR_SKY, 0.99 * FAR, end)
            r, g, b = r + share * (sr - r), g + share * (sg - g), b + share * (sb - b)
        red[i], green[i], blue[i] = r, g, b


@jit
def _halo(parts, lists, tile, ox, oy, oz, rays, count):
    """Add the glow of the lamps that rays pass near, before what they end at."""
    for i in range(count):
        dx, dy, dz = rays.dx[i], rays.dy[i], rays.dz[i]
        end = rays.way[i] if rays.what[i] != SKY else NOWHERE
        glow = 0.0
        for m in range(lists.begin[tile], lists.begin[tile + 1]):
            k = lists.parts[m]
            if parts[k, PATTERN] != LAMP:
                continue
            x, y, z = parts[k, X] - ox, parts[k, Y] - oy, (parts[k, TOP] + parts[k, BOTTOM]) / 2 - oz
            along = x * dx + y * dy + z * dz
            apart = max(x * x + y * y + z * z - along * along, 0.0)
            if along > 0 and along < end + 12:
                glow += math.exp(-apart / 500.0) * 0.55 + math.exp(-apart / 90.0) * 0.35
        glow = 0.8 * min(glow, 1.0)
        rays.red[i] += glow * (255 - rays.red[i])
        rays.green[i] += glow * (212 - rays.green[i])
        rays.blue[i] += glow * (132 - rays.blue[i])


# The picture


@jit
def _look_along(scene, seen, mirrored, tile, ox, oy, oz, rays, count, mirror, focal):
    """Where the rays end and their colours, with what the water reflects. They begin at `rays.at`."""
    for i in range(count):
        rays.past[i] = 0.0
        sea = -oz / rays.dz[i] if rays.dz[i] < 0 else FAR
        rays.way[i], rays.what[i] = (sea, WATER) if sea < FAR else (FAR, SKY)
    _meet_parts(scene.parts, seen, tile, ox, oy, oz, rays, count)
    _meet_ground(scene, ox, oy, oz, rays, count, 1.0)
    _colour(scene, ox, oy, oz, oz, rays, count, focal, True)
    if scene.look[9] > 0:
        _halo(scene.parts, seen, tile, ox, oy, oz, rays, count)
    wet = 0
    for i in range(count):
        if rays.what[i] == WATER and rays.way[i] < 0.99 * FAR:
            way = rays.way[i]
            mirror.dx[wet], mirror.dy[wet], mirror.dz[wet] = rays.dx[i], rays.dy[i], -rays.dz[i]
            mirror.past[wet], mirror.at[wet], mirror.way[wet], mirror.what[wet] = way, way + 1.0, way + FAR, SKY
            mirror.source[wet] = i
            wet += 1
    if wet == 0:
        return
    low = 0.02 - oz  # the eye below the water that sees the same
    _meet_parts(scene.parts, mirrored, tile, ox, oy, low, mirror, wet)
    _meet_ground(scene, ox, oy, low, mirror, wet, 3.0)
    _colour(scene, ox, oy, low, 0.02, mirror, wet, focal, False)
    layer = scene.air[1]
    thick = scene.air[0] * math.exp(-oz / layer)
    for k in range(wet):
        i = mirror.source[k]
        dz, far = rays.dz[i], rays.way[i]
        graze = 1 - min(-dz, 1.0)
        share = (0.10 + 0.72 * graze**4) * (1 - _haze(thick, layer, dz, far)) * (1 - _soft(NEAR_SKY, 0.99 * FAR, far))
        rays.red[i] += share * (mirror.red[k] - rays.red[i])
        rays.green[i] += share * (mirror.green[k] - rays.green[i])
        rays.blue[i] += share * (mirror.blue[k] - rays.blue[i])


@jit
def _span(parts, k, eye, axes, focal, height, width, flip, dark):
    """Rows and columns of the tiles that may show a part: first and last row, first and last column."""
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    low, high = parts[k, BOTTOM], parts[k, TOP]
    x, y, z = parts[k, X] - eye[0], parts[k, Y] - eye[1], (low + high) / 2
    z = (-z if flip else z) - eye[2]
    halo = 50.0 if parts[k, PATTERN] == LAMP and dark else 0.0
    r = parts[k, REACH] * 1.02 + 0.5 + halo
    if math.sqrt(x * x + y * y + z * z) - r > FAR:
        return 0, -1, 0, -1
    half_x, half_y = max(parts[k, A0], parts[k, A1]), max(parts[k, B0], parts[k, B1])
    half_z = (high - low) / 2
    if parts[k, KIND] == ARCH:
        half_x, half_y, half_z = half_x + 1.7 * half_y, 1.7 * half_y, half_z + 1.7 * half_y
    elif parts[k, KIND] == CONE:
        half_y = half_x
    half_x, half_y, half_z = half_x + halo, half_y + halo, half_z + halo
    left, right, upper, lower = 1e9, -1e9, 1e9, -1e9
    behind = 0
    for corner in range(8):
        lx = half_x if corner & 1 else -half_x
        ly = half_y if corner & 2 else -half_y
        cx = x + lx * parts[k, COS] - ly * parts[k, SIN]
        cy = y + lx * parts[k, SIN] + ly * parts[k, COS]
        cz = z + (half_z if corner & 4 else -half_z)
        ahead = axes[0, 2] * cx + axes[1, 2] * cy + axes[2, 2] * cz
        if ahead < 0.1:
            behind += 1
            continue
        u = (axes[0, 0] * cx + axes[1, 0] * cy + axes[2, 0] * cz) / ahead
        v = (axes[0, 1] * cx + axes[1, 1] * cy + axes[2, 1] * cz) / ahead
        left, right, upper, lower = min(left, u), max(right, u), min(upper, v), max(lower, v)
    if behind == 8:
        return 0, -1, 0, -1
    if behind:
        return 0, rows - 1, 0, columns - 1
    return (
        max(int(math.floor((max(upper * focal, -1e6) + height / 2 - 1.5) / TILE)), 0),
        min(int(math.floor((min(lower * focal, 1e6) + height / 2 + 1.5) / TILE)), rows - 1),
        max(int(math.floor((max(left * focal, -1e6) + width / 2 - 1.5) / TILE)), 0),
        min(int(math.floor((min(right * focal, 1e6) + width / 2 + 1.5) / TILE)), columns - 1),
    )


@jit
def _list_parts(parts, eye, axes, focal, height, width, flip, dark):
    """The parts that each tile may show, in the picture or where the water mirrors them (`flip`)."""
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
    spans = np.empty((len(parts), 4), np.int64)
    begin = np.zeros(rows * columns + 1, np.int64)
    for k in range(len(parts)):
        r0, r1, c0, c1 = _span(parts, k, eye, axes, focal, height, width, flip, dark)
        spans[k, 0], spans[k, 1], spans[k, 2], spans[k, 3] = r0, r1, c0, c1
        for row in range(r0, r1 + 1):
            for column in range(c0, c1 + 1):
                begin[row * columns + column + 1] += 1
    for tile in range(rows * columns):
        begin[tile + 1] += begin[tile]
    listed, fill = np.empty(begin[-1], np.int64), begin.copy()
    for k in range(len(parts)):
        for row in range(spans[k, 0], spans[k, 1] + 1):
            for column in range(spans[k, 2], spans[k, 3] + 1):
                listed[fill[row * columns + column]] = k
                fill[row * columns + column] += 1
    return Lists(listed, begin)


@inlined
def _aim(axes, u, v, rays, i):
    """Send a ray through a place of the picture (in focal lengths); returns the depth of distance 1."""
    dx = axes[0, 0] * u + axes[0, 1] * v + axes[0, 2]
    dy = axes[1, 0] * u + axes[1, 1] * v + axes[1, 2]
    dz = axes[2, 0] * u + axes[2, 1] * v + axes[2, 2]
    scale = 1 / math.sqrt(1 + u * u + v * v)
    rays.dx[i], rays.dy[i], rays.dz[i] = dx * scale, dy * scale, dz * scale
    return scale


@jit
def _contrast(image):
    """How much each pixel differs from its neighbours, in the colour that differs most, [height, width]."""
    height, width, _ = image.shape
    contrast = np.zeros((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            for way in range(2):
                y, x = row + (way == 0), column + (way == 1)
                if y < height and x < width:
                    apart = np.float32(0)
                    for k in range(3):
                        apart = max(apart, abs(image[row, column, k] - image[y, x, k]))
                    contrast[row, column] = max(contrast[row, column], apart)
                    contrast[y, x] = max(contrast[y, x], apart)
    return contrast


@jit
def _smooth_edges(
    scene, seen, mirrored, tile, box, ox, oy, oz, axes, focal, image, contrast, ways, clear, rays, mirror
):
    """Draw the pixels of a tile again that differ from their neighbours, each as the mean of several rays."""
    height, width, _ = image.shape
    top, down, left, right = box
    count = 0
    for row in range(top, down):
        for column in range(left, right):
            if contrast[row, column] <= EDGE:
                continue
            start = NOWHERE  # the ground is not much nearer than what the neighbours see
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    start = min(start, ways[y, x])
            start = max(min(0.85 * start - 1, 0.8 * FAR), clear)
            offsets = MANY if contrast[row, column] > STRONG else FEW
            for k in range(len(offsets)):
                u = (column + 0.5 + offsets[k, 0] - width / 2) / focal
                v = (row + 0.5 + offsets[k, 1] - height / 2) / focal
                _aim(axes, u, v, rays, count)
                rays.at[count] = start
                count += 1
    if count == 0:
        return
    _look_along(scene, seen, mirrored, tile, ox, oy, oz, rays, count, mirror, focal)
    i = 0
    for row in range(top, down):
        for column in range(left, right):
            if contrast[row, column] <= EDGE:
                continue
            more = len(MANY) if contrast[row, column] > STRONG else len(FEW)
            r, g, b = (
                min(image[row, column, 0], 255.0),
                min(image[row, column, 1], 255.0),
                min(image[row, column, 2], 255.0),
            )
            for k in range(i, i + more):
                r, g, b = r + min(rays.red[k], 255.0), g + min(rays.green[k], 255.0), b + min(rays.blue[k], 255.0)
            image[row, column, 0], image[row, column, 1] = r / (1 + more), g / (1 + more)
            image[row, column, 2] = b / (1 + more)
            i += more


@jit
def draw(scene, eye, axes, focal, height, width):
    """The picture as uint8 [height, width, 3] and the depth along the view, infinite for the sky.

    Args:
        scene: what there is.
        eye: x, y, altitude.
        axes: columns are the camera's right, down and forward in the world (x, y, up).
        focal: focal length in pixels.
    """
    ox, oy, oz = eye[0], eye[1], eye[2]
    dark = scene.look[9] > 0
    seen = _list_parts(scene.parts, eye, axes, focal, height, width, False, dark)
    mirrored = _list_parts(scene.parts, eye, axes, focal, height, width, True, dark)
    image = np.empty((height, width, 3), np.float32)
    depth = np.empty((height, width), np.float64)
    ways = np.empty((height, width), np.float64)
    columns = (width + TILE - 1) // TILE
    clear = np.empty(len(seen.begin) - 1)
    rays, mirror = _make_rays(TILE * TILE * len(MANY)), _make_rays(TILE * TILE * len(MANY))
    spread = (math.sqrt(0.5) * TILE + 0.8) / focal
    for tile in range(len(clear)):
        top, left = tile // columns * TILE, tile % columns * TILE
        down, right = min(top + TILE, height), min(left + TILE, width)
        _aim(axes, (left + TILE / 2 - width / 2) / focal, (top + TILE / 2 - height / 2) / focal, rays, 0)
        clear[tile] = _clear(scene, ox, oy, oz, rays.dx[0], rays.dy[0], rays.dz[0], spread, NEAR)
        count = 0
        for row in range(top, down):
            for column in range(left, right):
                u, v = (column + 0.5 - width / 2) / focal, (row + 0.5 - height / 2) / focal
                depth[row, column] = _aim(axes, u, v, rays, count)
                rays.at[count] = clear[tile]
                count += 1
        _look_along(scene, seen, mirrored, tile, ox, oy, oz, rays, count, mirror, focal)
        i = 0
        for row in range(top, down):
            for column in range(left, right):
                image[row, column, 0], image[row, column, 1] = rays.red[i], rays.green[i]
                image[row, column, 2] = rays.blue[i]
                ways[row, column] = rays.way[i] if rays.what[i] != SKY else NOWHERE
                depth[row, column] = depth[row, column] * rays.way[i] if rays.what[i] != SKY else np.inf
                i += 1
    contrast = _contrast(image)
    for tile in range(len(clear)):
        top, left = tile // columns * TILE, tile % columns * TILE
        box = (top, min(top + TILE, height), left, min(left + TILE, width))
        _smooth_edges(scene, seen, mirrored, tile, box, ox, oy, oz, axes, focal, image, contrast, ways, clear[tile],
                      rays, mirror)  # fmt: skip
    out = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            for k in range(3):
                out[row, column, k] = np.uint8(min(max(image[row, column, k], 0.0), 255.0) + 0.499)
    return out, depth


@jit
def cast_shadows(height, parts, sx, sy, sz, longest):
    """Where landmarks stand between the ground and the sun, 0 or 1 for each texel of the height map."""
    size = height.shape[0]
    shadow = np.zeros((size, size), np.float32)
    flat = math.hypot(sx, sy)
    for k in range(len(parts)):
        reach = parts[k, REACH]
        length = min((parts[k, TOP] - parts[k, BOTTOM] + 30) * flat / sz, longest)
        x0, x1 = parts[k, X], parts[k, X] - sx / flat * length
        y0, y1 = parts[k, Y], parts[k, Y] - sy / flat * length
        for row in range(int((min(y0, y1) - reach) / TEXEL), int((max(y0, y1) + reach) / TEXEL) + 1):
            for column in range(int((min(x0, x1) - reach) / TEXEL), int((max(x0, x1) + reach) / TEXEL) + 1):
                x, y = column * TEXEL, row * TEXEL
                across = abs((x - x0) * sy - (y - y0) * sx) / flat
                if across > reach:
                    continue
                z = max(height[row & MASK, column & MASK], 0.0)
                if shadow[row & MASK, column & MASK] < 1 and meet(parts, k, x, y, z, sx, sy, sz) < 1e8:
                    shadow[row & MASK, column & MASK] = 1
    return shadow
