"""A simulated world and how one is made from a seed: biome, hour, weather, ground, landmarks, light and sky."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wanact.errors import UserError
from wanact.world import landmarks, terrain
from wanact.world.palettes import BIOMES, CAPTIONS, TIMES, WEATHERS, Biome, TimeOfDay, Weather
from wanact.world.sky import haze_ring, paint_sky
from wanact.world.terrain import MAP_SIZE, TEXEL, WORLD_SIZE

GRID = 5  # landmarks stand one to a cell of a loose grid of this many cells a side
CITY_BLOCK = 80.0


@dataclass
class World:
    """Maps of one world, and the solids that stand in it."""

    height: np.ndarray  # above the water line, [MAP_SIZE, MAP_SIZE] float32, a texel every TEXEL world units
    colour: np.ndarray  # the lit ground and its halvings, see terrain.mips, 0..255
    sky: np.ndarray  # panorama, see sky.py
    haze: np.ndarray  # colour of haze for each azimuth
    parts: np.ndarray  # of landmarks and buildings, [n, landmarks.COLUMNS]
    places: np.ndarray  # where a landmark stands: x, y, height of its top, [m, 3]
    look: np.ndarray  # direction of the sun, light of the sky, light of the sun, 1 at night
    air: np.ndarray  # density of the haze at the water line, and its layer
    water: np.ndarray  # lit colours: shallow, deep, foam, [9]
    caption: str
    biome: str = ""
    time: str = ""
    weather: str = ""
    landmark: str = ""
    highest: float = field(init=False)
    bounds: np.ndarray = field(init=False)  # for drawing, see drawing.bound

    def __post_init__(self) -> None:
        from wanact.world.drawing import bound  # numba is a slow import

        self.highest = float(self.height.max())
        self.bounds = bound(self.height)


def _choose(kind: str, options: tuple, name: str | None, drawn: int):
    """The option of this name, or the drawn one; names may leave out "a" and "at"."""
    if name is None:
        return options[drawn]
    for option in options:
        if name == option.name or name == option.name.split(" ", 1)[-1] or name == option.name.split()[-1]:
            return option
    raise UserError(f"{kind}={name!r} is not one of {', '.join(option.name for option in options)}")


def make_world(seed: int, biome: str | None = None, time: str | None = None, weather: str | None = None) -> World:
    """The world of this seed.

    Args:
        seed: the same seed makes the same world.
        biome, time, weather: names as in palettes.py to have instead of the seed's own.

    Raises:
        UserError: if there is no biome, time or weather of that name.
    """
    rng = np.random.default_rng([seed, 20])
    drawn = (
        int(rng.integers(len(BIOMES))),
        int(rng.choice(len(TIMES), p=(0.3, 0.25, 0.27, 0.18))),
        int(rng.choice(3, p=(0.45, 0.35, 0.2))),
    )
    biome_ = _choose("biome", BIOMES, biome, drawn[0])
    time_ = _choose("time", TIMES, time, drawn[1])
    weather_ = _choose("weather", WEATHERS, weather, drawn[2])
    kind, words = int(rng.integers(len(biome_.landmarks))), int(rng.integers(len(CAPTIONS)))
    azimuth = rng.uniform(0, 2 * np.pi)

    ground, plants, stones, air = (np.random.default_rng([seed, k]) for k in (21, 22, 23, 24))
    height = terrain.make_heights(ground, biome_)
    parts, places = _stand_landmarks(stones, height, biome_, kind)
    colour = terrain.paint(plants, height, biome_)
    keep_off = _keep_off(height, places)
    if biome_.name == "an autumn forest":
        terrain.plant_trees(plants, height, colour, biome_, 0.6, keep_off)
    elif biome_.name in ("green hills", "a tropical coast"):
        terrain.plant_trees(plants, height, colour, biome_, 0.22, keep_off)
    if biome_.name == "a city":
        parts = np.concatenate([parts, _build_city(stones, height, biome_, places)])

    elevation = np.radians(time_.sun_elevation_deg)
    sun = np.array((np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)))
    lit = _light_ground(plants, height, colour, biome_, time_, weather_, parts, sun)
    ring = haze_ring(time_, weather_, azimuth)
    name = biome_.landmarks[kind]
    caption = CAPTIONS[words].format(biome=biome_.name, landmark=name, time=time_.name, weather=weather_.name)
    return World(
        height=height,
        colour=terrain.mips(lit),
        sky=paint_sky(air, biome_, time_, weather_, azimuth, ring),
        haze=ring,
        parts=parts,
        places=places,
        look=_look(sun, time_, weather_),
        air=np.array((weather_.density, weather_.layer)),
        water=_water(biome_, time_, weather_),
        caption=caption[0].upper() + caption[1:],
        biome=biome_.name,
        time=time_.name,
        weather=weather_.name,
        landmark=name,
    )


def _look(sun: np.ndarray, time: TimeOfDay, weather: Weather) -> np.ndarray:
    ambient = np.array(time.ambient) * (1.0 + 0.35 * weather.veil)
    direct = np.array(time.sun_colour) * (1 - 0.55 * weather.veil)
    return np.array((*sun, *ambient, *direct, float(time.is_dark)))


def _water(biome: Biome, time: TimeOfDay, weather: Weather) -> np.ndarray:
    bright = np.array(time.ambient) + 0.55 * np.array(time.sun_colour) * (1 - 0.4 * weather.veil)
    return np.concatenate([np.array(c) * bright for c in (biome.shallow, biome.deep, (236, 240, 236))])


def _light_ground(rng, height, colour, biome, time, weather, parts, sun) -> np.ndarray:
    from wanact.world.drawing import cast_shadows  # numba is a slow import

    x, y, z = sun
    blocked = cast_shadows(height, parts, x, y, z, 260.0)
    lit = colour * terrain.light(height, sun, time, blocked, weather.veil)
    if biome.shape == "volcano":
        glow = terrain.lava(rng, height)[..., None]
        lit = lit * (1 - glow) + np.array(biome.accents[0], np.float32) * glow
    return np.clip(lit, 0, 255)


def _keep_off(height: np.ndarray, places: np.ndarray) -> np.ndarray:
    """1 where a landmark stands and round it, 0 elsewhere: no tree hides it."""
    taken = np.zeros_like(height)
    span = np.arange(-34, 35)
    disc = (np.hypot(*np.meshgrid(span, span)) < 31).astype(np.float32)
    for x, y, _ in places:
        grid = np.ix_((int(y / TEXEL) + span) % MAP_SIZE, (int(x / TEXEL) + span) % MAP_SIZE)
        taken[grid] = np.maximum(taken[grid], disc)
    return taken


def _fitness(site: landmarks.Site, height: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How well places suit a landmark, [n]: larger is better."""
    here = terrain.sample(height, x, y)
    ring = np.stack([terrain.sample(height, x + 60 * np.cos(a), y + 60 * np.sin(a)) for a in np.arange(8) * np.pi / 4])
    uneven = ring.std(0) + np.abs(ring.mean(0) - here)
    if site.wants == "high":
        return np.where(here > 3, here - ring.mean(0) + 0.2 * here - 0.2 * np.maximum(here - 90, 0), here - 100)
    if site.wants == "flat":
        return np.where(here > 3, -uneven, here - 200)
    if site.wants == "shore":
        return -np.abs(here - 3) - 30 * np.abs((ring > 0).mean(0) - 0.5) - 0.3 * uneven
    return -here - 10 * (ring > 0).mean(0)


def _stand_landmarks(rng, height: np.ndarray, biome: Biome, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose places on a loose grid, level the ground there (in place) and build: parts and places."""
    cell = WORLD_SIZE / GRID
    parts, places = [], []
    for row in range(GRID):
        for column in range(GRID):
            other = (row + column) % 3 == 2  # every third is the biome's other kind
            name = biome.landmarks[(kind + other) % len(biome.landmarks)]
            site = landmarks.LANDMARKS[name][0]
            x = (column + rng.uniform(0.15, 0.85, 24)) * cell
            y = (row + rng.uniform(0.15, 0.85, 24)) * cell
            best = int(np.argmax(_fitness(site, height, x, y)))
            x, y = float(x[best]), float(y[best])
            if name == "pyramids" and (row + column) % 2:
                continue
            z = max(float(terrain.sample(height, x, y)), site.least)
            if site.level:
                terrain.level_ground(height, x, y, site.level, z)
            elif site.wants == "shore":
                z = max(z, -6.0)
            built = landmarks.build(name, rng, x, y, z, biome.shape == "mesas")
            parts.append(built)
            places.append((x, y, built[:, landmarks.TOP].max()))
    return np.concatenate(parts), np.array(places)


def _build_city(rng, height: np.ndarray, biome: Biome, places: np.ndarray) -> np.ndarray:
    """Clean boxes on a street grid, in districts, tallest in their middles."""
    count = int(WORLD_SIZE / CITY_BLOCK)
    block = WORLD_SIZE / count
    district = terrain.noise(rng, 2.4, 2, 8)
    parts = []
    for row in range(count):
        for column in range(count):
            x, y = (column + 0.5) * block, (row + 0.5) * block
            dense = float(terrain.sample(district, x, y))
            ground = [float(terrain.sample(height, x + dx, y + dy)) for dx in (-18, 18) for dy in (-18, 18)]
            draw, tall, half, tone = (
                rng.random(),
                rng.random(),
                rng.uniform(14, 20, 2),
                rng.integers(len(biome.accents)),
            )
            near = np.abs((places[:, :2] - (x, y) + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2).max(1).min()
            if min(ground) < 2 or draw > 0.5 + 0.2 * dense or near < 72:
                continue
            rise = 22 + 26 * tall + 46 * max(dense, 0) * tall
            low = min(ground)
            colour = biome.accents[tone]
            parts.append(landmarks.part(landmarks.BOX, (x, y), low - 4, low + rise, tuple(half), None, colour, 0,
                                        landmarks.FLOORS, 20, (86, 106, 136)))  # fmt: skip
            if rise > 58:
                parts.append(landmarks.part(landmarks.BOX, (x, y), low + rise, low + rise * 1.28, tuple(half * 0.6),
                                            None, colour, 0))  # fmt: skip
    return np.stack(parts) if parts else np.zeros((0, landmarks.COLUMNS))
