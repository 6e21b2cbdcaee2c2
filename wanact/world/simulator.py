"""A procedural drone world: seeded terrain, a pinhole camera, and eight actions whose motion is known exactly.

Terrain is a height map with a colour map (1 texel = 1 world unit, wrapping at the edges). Each image column is a
ray over the ground ("voxel space": Comanche, 1992): heights along it are projected, a running minimum gives what is
hidden, and the hit is refined between two samples. All columns are one numpy operation.

World axes are x, y and down (right-handed); a camera-to-world pose has the OpenCV camera axes right, down, forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wanact.actions import FULL_DEFLECTION, ActionTrack
from wanact.shapes import TEMPORAL_STRIDE, num_actions
from wanact.world.palettes import BIOMES, CAPTIONS, TIMES, WEATHERS, Biome, TimeOfDay
from wanact.world.poses import PATH_UNITS, actions_from_poses, pose_matrix

WORLD_SIZE = 1024
FIELD_OF_VIEW_DEG = 75.0
PITCH_LIMITS_DEG = (-38.0, 16.0)
FAR = 560.0
NUM_SLICES = 144

Pose = tuple[float, float, float, float, float]  # x, y, altitude, yaw, pitch in world units and radians


@dataclass
class World:
    """Maps of one world, [S, S] or [S, S, 3] float32; ``colour`` holds mip levels, each half as wide."""

    height: np.ndarray
    top: np.ndarray  # bool: texel belongs to a building
    colour: list[np.ndarray]
    cloud: np.ndarray
    time: TimeOfDay
    sun_azimuth: float
    visibility: float
    caption: str


@dataclass
class Clip:
    frames: np.ndarray  # uint8 [F, H, W, 3]
    track: ActionTrack  # what was flown, read from the poses
    poses: np.ndarray  # camera-to-world, OpenCV axes, [F, 4, 4]
    caption: str


def _noise(rng: np.random.Generator, exponent: float, size: int = WORLD_SIZE, lowest: float = 1.0) -> np.ndarray:
    """Wrapping noise with a power-law spectrum, zero mean and unit deviation."""
    fy, fx = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
    radius = np.maximum(np.hypot(fx, fy), 1e-6)
    amplitude = np.where(radius < lowest, 0, radius ** (-exponent))
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(radius.shape))
    field = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return (field - field.mean()) / field.std()


def _stamp_trees(rng, height, colour, land, biome: Biome) -> None:
    """Round crowns, in clumps, on land below the peaks."""
    clump = _noise(rng, 1.6, lowest=4)
    y, x = rng.integers(0, WORLD_SIZE, (2, biome.trees * 6))
    keep = land[y, x] & (clump[y, x] > 0.4)
    y, x = y[keep][: biome.trees * 3], x[keep][: biome.trees * 3]
    tint = np.array(biome.tree_colour, np.float32)
    for cy, cx, radius, shade in zip(y, x, rng.integers(2, 5, len(y)), rng.uniform(0.8, 1.25, len(y)), strict=True):
        span = np.arange(-radius, radius + 1)
        distance = (span[:, None] ** 2 + span[None] ** 2) / (radius + 0.5) ** 2
        rows, cols = (cy + span) % WORLD_SIZE, (cx + span) % WORLD_SIZE
        grid = np.ix_(rows, cols)
        crown = np.clip(1 - distance, 0, 1)
        height[grid] += crown * radius * 1.5
        cover = (distance < 1)[..., None]
        colour[grid] = np.where(cover, tint * shade * (0.85 + 0.3 * crown[..., None]), colour[grid])


def _stamp_buildings(rng, height, colour, top, land, biome: Biome) -> None:
    """Boxes on land, on a loose grid so that streets stay open; the city grows towers in its middle."""
    town = rng.integers(0, WORLD_SIZE, (6 if biome.buildings > 100 else 3, 2))
    for _ in range(biome.buildings * 3):
        centre = town[rng.integers(len(town))] + rng.normal(0, 95, 2)
        cy, cx = (np.round(centre / 22) * 22 + rng.integers(-2, 3, 2)).astype(int) % WORLD_SIZE
        if not land[cy, cx] or top[cy, cx]:
            continue
        half_y, half_x = rng.integers(4, 9, 2)
        grid = np.ix_(
            np.arange(cy - half_y, cy + half_y) % WORLD_SIZE, np.arange(cx - half_x, cx + half_x) % WORLD_SIZE
        )
        tall = biome.buildings > 100 and rng.random() < 0.35
        ground = height[cy, cx]
        height[grid] = ground + (rng.uniform(26, 52) if tall else rng.uniform(7, 18))
        roof = np.array(biome.building_colours[rng.integers(len(biome.building_colours))], np.float32)
        colour[grid] = roof * rng.uniform(0.85, 1.15)
        top[grid] = True


def make_world(seed: int, biome: str | None = None, time: str | None = None) -> World:
    """The world of this seed: biome, hour, weather, terrain, plants, buildings, light and shadow.

    Args:
        seed: the same seed makes the same world.
        biome, time: names as in palettes.py to have instead of the seed's own.
    """
    rng = np.random.default_rng([seed, 20])
    drawn = BIOMES[rng.integers(len(BIOMES))], TIMES[rng.choice(len(TIMES), p=(0.36, 0.28, 0.24, 0.12))]
    biomes, times = {option.name: option for option in BIOMES}, {option.name: option for option in TIMES}
    return _build_world(rng, biomes[biome] if biome else drawn[0], times[time] if time else drawn[1])


def _build_world(rng: np.random.Generator, biome: Biome, time: TimeOfDay) -> World:
    weather, visibility = WEATHERS[rng.integers(len(WEATHERS))]
    size = WORLD_SIZE

    relief = _noise(rng, biome.smoothness, lowest=3)
    height = biome.roughness * (0.42 * relief + 0.10 * np.abs(_noise(rng, biome.smoothness - 0.5, lowest=3)))
    water_line = np.quantile(height, biome.water_share)
    land = height > water_line
    level = np.clip((height - water_line) / (np.quantile(height, 0.985) - water_line), 0, 1)
    level = np.clip(level + 0.07 * _noise(rng, 1.1, lowest=4), 0, 1)
    stops = np.linspace(0, 1, len(biome.land))
    colour = np.stack([np.interp(level, stops, [c[k] for c in biome.land]) for k in range(3)], -1).astype(np.float32)
    colour *= 1 + 0.10 * np.clip(_noise(rng, 0.95, lowest=10), -2, 2)[..., None]
    if biome.field_contrast:
        patch = 48
        tints = rng.uniform(
            1 - biome.field_contrast, 1 + biome.field_contrast, (size // patch + 2, size // patch + 2, 3)
        )
        row, col = np.arange(size) // patch, np.arange(size) // patch
        colour *= (0.35 + 0.65 * tints[np.ix_(row, col)] ** (1.0, 0.8, 1.1)).astype(np.float32)
    height = np.maximum(height, water_line).astype(np.float32)
    ripple = 1 + 0.09 * _noise(rng, 0.8, lowest=20)
    colour[~land] = (np.array(biome.water, np.float32) * ripple[..., None])[~land]
    beach = (~land) & (np.roll(land, 3, 0) | np.roll(land, -3, 0) | np.roll(land, 3, 1) | np.roll(land, -3, 1))
    colour[beach] = colour[beach] * 0.7 + 0.3 * np.array((210, 222, 214), np.float32)

    top = np.zeros((size, size), bool)
    _stamp_trees(rng, height, colour, land, biome)
    _stamp_buildings(rng, height, colour, top, land, biome)

    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(time.sun_elevation_deg)
    slope_y, slope_x = (
        (np.roll(height, -1, 0) - np.roll(height, 1, 0)) / 2,
        (np.roll(height, -1, 1) - np.roll(height, 1, 1)) / 2,
    )
    slope_y, slope_x = np.clip(slope_y, -1.5, 1.5), np.clip(slope_x, -1.5, 1.5)
    sun = np.array((np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)))
    facing = np.clip((-slope_x * sun[0] - slope_y * sun[1] + sun[2]) / np.sqrt(1 + slope_x**2 + slope_y**2), 0, 1)
    lit = np.ones((size, size), np.float32)
    for reach in (3, 6, 10, 15, 22, 32):  # soft shadows: taller ground towards the sun
        shift = (-int(round(reach * np.sin(azimuth))), -int(round(reach * np.cos(azimuth))))
        blocked = np.roll(height, shift, (0, 1)) - reach * np.tan(elevation) - height
        lit = np.minimum(lit, np.clip(1 - blocked / 3, 0.25, 1))
    light = (np.array(time.ambient) + np.array(time.sun_colour) * (1.25 * facing * lit)[..., None]).astype(np.float32)
    colour = np.clip(colour * light, 0, 255)
    reflection = np.array(time.horizon, np.float32) * 0.55 + np.array(time.zenith, np.float32) * 0.45
    colour[~land & ~top] = 0.62 * colour[~land & ~top] + 0.38 * reflection

    mips = [colour]
    for _ in range(3):
        c = mips[-1]
        mips.append((c[::2, ::2] + c[1::2, ::2] + c[::2, 1::2] + c[1::2, 1::2]) / 4)
    caption = CAPTIONS[rng.integers(len(CAPTIONS))].format(biome=biome.name, time=time.name, weather=weather)
    return World(
        height,
        top,
        mips,
        _noise(rng, 1.5, size=256, lowest=2),
        time,
        azimuth,
        visibility,
        caption[0].upper() + caption[1:],
    )


def _bilinear(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wrapping bilinear look-up; x and y in texels."""
    size = grid.shape[0]
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    x0, y0 = x0.astype(np.int32) & (size - 1), y0.astype(np.int32) & (size - 1)
    x1, y1 = (x0 + 1) & (size - 1), (y0 + 1) & (size - 1)
    if grid.ndim == 3:
        fx, fy = fx[..., None], fy[..., None]
    return (grid[y0, x0] * (1 - fx) + grid[y0, x1] * fx) * (1 - fy) + (grid[y1, x0] * (1 - fx) + grid[y1, x1] * fx) * fy


def _sky(world: World, azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Sky colour in these directions (radians): gradient, clouds, glow round the sun."""
    time = world.time
    up = np.clip(elevation / 0.55, 0, 1)[..., None] ** 0.7
    sky = np.array(time.horizon, np.float32) * (1 - up) + np.array(time.zenith, np.float32) * up
    cloud = _bilinear(world.cloud, azimuth * (256 / (2 * np.pi)), elevation * 150)
    cover = np.clip(cloud - 0.35, 0, 1)[..., None] * np.clip(elevation * 6, 0, 1)[..., None] * 0.55
    bright = np.array(time.horizon, np.float32) * 0.5 + 118 * np.array(time.sun_colour, np.float32) + 20
    sky = sky * (1 - cover) + bright * cover
    away = np.angle(np.exp(1j * (azimuth - world.sun_azimuth)))
    glow = np.exp(-(away**2 + (elevation - np.radians(time.sun_elevation_deg)) ** 2) / 0.06)[..., None]
    return sky + glow * 90 * np.array(time.sun_colour, np.float32)


def render(world: World, pose: Pose, height: int, width: int) -> np.ndarray:
    """One frame, uint8 [H, W, 3], from (x, y, altitude, yaw, pitch) in world units and radians.

    The pitched pinhole image and the image on a vertical plane through the same centre are related by a homography:
    occlusion is solved on the vertical plane, where every ray of a column stays over one line of ground, and each
    pixel then looks up its own ray there.
    """
    x, y, altitude, yaw, pitch = pose
    focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    u = ((np.arange(width) + 0.5 - width / 2) / focal)[None]
    v = ((np.arange(height) + 0.5 - height / 2) / focal)[:, None]
    ahead = np.cos(pitch) + v * np.sin(pitch)  # horizontal forward part of the pixel's ray
    plane_u = (u / ahead).astype(np.float32)
    plane_v = (np.broadcast_to((v * np.cos(pitch) - np.sin(pitch)) / ahead, plane_u.shape)).astype(np.float32)

    half_u = float(np.abs(plane_u).max())
    columns = int(np.ceil(half_u * focal * 2))
    low_v, high_v = float(plane_v.min()), float(plane_v.max())
    rows = int(np.ceil((high_v - low_v) * focal)) + 1
    depth = np.geomspace(4.0, FAR, NUM_SLICES).astype(np.float32)
    column_u = np.linspace(-half_u, half_u, columns, dtype=np.float32)
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    ground_x = np.float32(x) + depth[:, None] * (cos - sin * column_u)
    ground_y = np.float32(y) + depth[:, None] * (sin + cos * column_u)
    ground = _bilinear(world.height, ground_x, ground_y)  # [D, columns]
    projected = (altitude - ground) / depth[:, None]  # plane v of each sample
    skyline = np.minimum.accumulate(projected, axis=0)
    row = np.clip(np.ceil((skyline - low_v) * focal), 0, rows).astype(np.int64)
    counts = np.bincount((row * columns + np.arange(columns)).ravel(), minlength=(rows + 1) * columns)
    first = NUM_SLICES - np.cumsum(counts.reshape(rows + 1, columns), axis=0)[:rows]  # first slice seen at each row

    pick_row = np.clip(np.rint((plane_v - low_v) * focal), 0, rows - 1).astype(np.int32)
    pick_col = np.clip(np.rint((plane_u + half_u) / (2 * half_u) * (columns - 1)), 0, columns - 1).astype(np.int32)
    hit = first[pick_row, pick_col]
    is_sky = hit >= NUM_SLICES
    hit = np.clip(hit, 1, NUM_SLICES - 1)
    above = altitude - plane_v * depth[hit - 1] - ground[hit - 1, pick_col]
    below = altitude - plane_v * depth[hit] - ground[hit, pick_col]
    share = np.clip(above / np.maximum(above - below, 1e-3), 0, 1)
    distance = depth[hit - 1] + share * (depth[hit] - depth[hit - 1])

    wx, wy = x + distance * (cos - sin * plane_u), y + distance * (sin + cos * plane_u)
    footprint = np.clip(np.log2(np.maximum(distance / focal, 1e-3) * 2.2), 0, len(world.colour) - 1.001)
    level = footprint.astype(np.int32)
    image = np.empty((height, width, 3), np.float32)
    for k in np.unique(level):
        at = level == k
        blend = (footprint[at] - k)[:, None].astype(np.float32)
        fine = _bilinear(world.colour[k], wx[at] / 2**k, wy[at] / 2**k)
        coarse = _bilinear(world.colour[k + 1], wx[at] / 2 ** (k + 1), wy[at] / 2 ** (k + 1))
        image[at] = fine * (1 - blend) + coarse * blend

    ix, iy = (
        (ground_x[hit, pick_col].astype(np.int32) % WORLD_SIZE),
        (ground_y[hit, pick_col].astype(np.int32) % WORLD_SIZE),
    )
    ray_height = altitude - plane_v * distance
    drop = world.height[iy, ix] - ray_height
    wall = world.top[iy, ix] & (drop > 1.0)
    if wall.any():
        floors = 0.5 + 0.5 * np.sin(drop[wall] * (2 * np.pi / 5.5))
        bays = 0.5 + 0.5 * np.sin((wx[wall] + wy[wall]) * (2 * np.pi / 5.0))
        contrast = np.clip(1.2 - distance[wall] / 170, 0, 1)
        window = (floors * bays * contrast)[:, None]
        face = image[wall] * 0.72
        glass = np.array((255, 214, 140) if world.time.name == "at night" else (70, 86, 108), np.float32)
        image[wall] = face * (1 - 0.7 * window) + glass * 0.7 * window

    haze = (1 - np.exp(-((distance / (FAR * 0.62 * world.visibility)) ** 1.6)))[..., None]
    haze = np.maximum(haze, np.clip((distance / FAR - 0.82) / 0.18, 0, 1)[..., None])
    image = image * (1 - haze) + np.array(world.time.horizon, np.float32) * haze
    azimuth = yaw + np.arctan(plane_u)
    elevation = np.arctan2(-plane_v, np.sqrt(1 + plane_u**2))
    sky = _sky(world, azimuth, np.maximum(elevation, 0))
    image = np.where(is_sky[..., None], sky, image)
    return np.clip(image, 0, 255).astype(np.uint8)


def random_commands(rng: np.random.Generator, count: int) -> np.ndarray:
    """Stick positions [count, 4] in [-1, 1]: forward, right, yaw right, pitch up; each held for two to eight frames."""
    commands = np.zeros((count, 4), np.float32)
    step = 0
    while step < count:
        stick = np.zeros(4, np.float32)
        chosen = rng.random(4) < (0.55, 0.33, 0.45, 0.30)
        if rng.random() < 0.35:  # one channel alone, as a key press is
            chosen = np.arange(4) == rng.choice(4)
        sign = np.where(rng.random(4) < (0.5, 0.5, 0.5, 0.5), 1, -1)
        amplitude = np.where(rng.random(4) < 0.5, 1.0, rng.uniform(0.35, 1.1, 4))
        stick[chosen] = (sign * amplitude)[chosen]
        hold = int(rng.integers(2, 9))
        commands[step : step + hold] = stick
        step += hold
    return commands


def fly(
    world: World,
    rng: np.random.Generator,
    num_frames: int = 81,
    height: int = 96,
    width: int = 160,
    track: ActionTrack | None = None,
) -> Clip:
    """Fly one clip from a random place: along ``track``, or by random sticks.

    The drone has inertia (it follows the stick within about a latent frame), keeps its height and climbs over what
    comes near. The clip's track is read from the poses, so it says what happened rather than what was asked.
    """
    poses = fly_poses(world, rng, num_frames, track)
    frames = np.stack([render(world, pose, height, width) for pose in poses])
    matrices = np.stack([pose_matrix(pose) for pose in poses])
    return Clip(frames, actions_from_poses(matrices), matrices, world.caption)


def fly_poses(world: World, rng: np.random.Generator, num_frames: int, track: ActionTrack | None = None) -> list[Pose]:
    """The poses of a flight, see fly."""
    steps = num_actions(num_frames)
    full = np.array(FULL_DEFLECTION, np.float32)[1::2]
    if track is None:
        commands = random_commands(rng, steps) * full
    else:
        track.require_length(num_frames)
        m = track.magnitude
        commands = np.stack([m[:, 0] - m[:, 1], m[:, 3] - m[:, 2], m[:, 5] - m[:, 4], m[:, 6] - m[:, 7]], 1)
    x, y = rng.uniform(0, WORLD_SIZE, 2)
    yaw, pitch = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(-20, -4) if track is None else -12)
    altitude = max(_ground_near(world, x, y, 26) + rng.uniform(18, 46), 0.8 * _ground_near(world, x, y, 100) + 12)
    low, high = np.radians(PITCH_LIMITS_DEG)
    velocity = commands[:1].sum(0) / TEMPORAL_STRIDE  # none, where there is one frame
    climb = 0.0
    poses = [(x, y, altitude, yaw, pitch)]
    for step in range(steps):
        for _ in range(TEMPORAL_STRIDE):
            velocity = velocity + 0.6 * (commands[step] / TEMPORAL_STRIDE - velocity)
            ahead, right = velocity[:2] * PATH_UNITS
            yaw += np.radians(velocity[2])
            pitch = float(np.clip(pitch + np.radians(velocity[3]), low, high))
            x += ahead * np.cos(yaw) - right * np.sin(yaw)
            y += ahead * np.sin(yaw) + right * np.cos(yaw)
            wanted = max(
                _ground_near(world, x + 8 * ahead * np.cos(yaw), y + 8 * ahead * np.sin(yaw), 10) + 9 - altitude, 0
            )
            climb += 0.3 * (min(0.12 * wanted, 1.6) - climb)
            altitude = max(altitude + climb, _ground_near(world, x, y, 3) + 3)
            poses.append((x, y, altitude, yaw, pitch))
    return poses


def _ground_near(world: World, x: float, y: float, radius: int) -> float:
    span = np.arange(-radius, radius + 1, max(1, radius // 4))
    return float(world.height[np.ix_((int(y) + span) % WORLD_SIZE, (int(x) + span) % WORLD_SIZE)].max())
