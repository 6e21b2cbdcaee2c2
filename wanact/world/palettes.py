"""What the simulated worlds look like: biomes, hours, weather, and captions that name them. Colours are 0..255."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Biome:
    name: str
    shape: str  # of the ground: a function of terrain.py
    land: tuple[Colour, ...]  # colours from the water line to the peaks
    steep: Colour  # where the ground is too steep for what grows or lies on it
    shallow: Colour
    deep: Colour
    relief: float  # height of the hills, world units
    water_share: float
    landmarks: tuple[str, ...]  # kinds, of landmarks.py; a world has one or two of them
    accents: tuple[Colour, ...] = ()  # of clumps of trees, fields or lava
    ridge: Colour = (96, 116, 132)  # what stands on the far horizon
    ridge_deg: float = 4.0


@dataclass(frozen=True)
class TimeOfDay:
    name: str
    zenith: Colour
    middle: Colour
    horizon: Colour
    glow: Colour  # added round the sun
    disc: Colour
    disc_deg: float
    sun_colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    sun_elevation_deg: float
    cloud: Colour
    cloud_shade: Colour
    is_dark: bool = False


@dataclass(frozen=True)
class Weather:
    name: str
    density: float  # haze a world unit, at the water line
    layer: float  # height at which haze is 1/e of that, world units
    clouds: int
    veil: float  # how much of the sun and of the sky's blue the air takes


BIOMES = (
    Biome(
        name="green hills",
        shape="hills",
        land=((206, 196, 128), (132, 182, 72), (98, 160, 66), (152, 186, 88)),
        steep=(112, 132, 78),
        shallow=(92, 168, 172),
        deep=(38, 98, 142),
        relief=62,
        water_share=0.2,
        landmarks=("a windmill", "a stone tower"),
        accents=((62, 122, 56), (84, 142, 58)),
        ridge=(92, 128, 130),
        ridge_deg=3.2,
    ),
    Biome(
        name="a sandy desert",
        shape="dunes",
        land=((236, 204, 144), (232, 190, 122), (238, 198, 132), (246, 214, 156)),
        steep=(212, 158, 98),
        shallow=(110, 190, 178),
        deep=(46, 138, 146),
        relief=46,
        water_share=0.03,
        landmarks=("pyramids", "a stone obelisk"),
        ridge=(190, 142, 118),
        ridge_deg=2.2,
    ),
    Biome(
        name="snowy mountains",
        shape="peaks",
        land=((176, 192, 204), (226, 234, 242), (244, 248, 252), (252, 253, 255)),
        steep=(138, 152, 184),
        shallow=(128, 178, 200),
        deep=(44, 88, 130),
        relief=190,
        water_share=0.16,
        landmarks=("a stone tower", "a red cabin"),
        ridge=(150, 172, 204),
        ridge_deg=8.5,
    ),
    Biome(
        name="a tropical coast",
        shape="islands",
        land=((248, 232, 184), (122, 190, 82), (56, 152, 74), (74, 160, 84)),
        steep=(132, 132, 104),
        shallow=(96, 226, 212),
        deep=(14, 124, 172),
        relief=90,
        water_share=0.6,
        landmarks=("a lighthouse", "a rock arch"),
        accents=((40, 128, 66), (72, 158, 62)),
        ridge=(88, 150, 160),
        ridge_deg=2.6,
    ),
    Biome(
        name="an autumn forest",
        shape="hills",
        land=((198, 168, 104), (196, 142, 60), (188, 118, 52), (170, 112, 70)),
        steep=(130, 98, 76),
        shallow=(104, 140, 140),
        deep=(44, 74, 104),
        relief=70,
        water_share=0.2,
        landmarks=("a red pagoda", "a red gate"),
        accents=((222, 120, 34), (196, 68, 38), (236, 174, 54), (150, 62, 44)),
        ridge=(132, 112, 128),
        ridge_deg=4.6,
    ),
    Biome(
        name="a city",
        shape="plain",
        land=((186, 188, 182), (168, 174, 172), (156, 170, 156), (136, 164, 128)),
        steep=(140, 146, 138),
        shallow=(96, 150, 168),
        deep=(44, 92, 128),
        relief=16,
        water_share=0.2,
        landmarks=("a red bridge", "a needle tower"),
        accents=((240, 222, 190), (112, 166, 190), (222, 126, 92), (110, 132, 172), (244, 238, 224), (232, 178, 104)),
        ridge=(120, 136, 156),
        ridge_deg=2.4,
    ),
    Biome(
        name="a red canyon",
        shape="mesas",
        land=((228, 158, 104), (206, 110, 68), (184, 82, 52), (232, 152, 98)),
        steep=(176, 76, 50),
        shallow=(120, 170, 150),
        deep=(58, 118, 122),
        relief=120,
        water_share=0.12,
        landmarks=("a rock arch", "rock spires"),
        ridge=(176, 98, 84),
        ridge_deg=5.0,
    ),
    Biome(
        name="farmland",
        shape="plain",
        land=((200, 186, 120), (160, 178, 88), (148, 172, 84), (160, 168, 96)),
        steep=(130, 142, 84),
        shallow=(110, 168, 178),
        deep=(60, 116, 150),
        relief=26,
        water_share=0.1,
        landmarks=("a red barn", "a windmill"),
        accents=((236, 204, 92), (120, 166, 66), (196, 152, 92), (168, 196, 96), (214, 186, 118), (92, 142, 70)),
        ridge=(116, 140, 148),
        ridge_deg=1.8,
    ),
    Biome(
        name="a volcanic island",
        shape="volcano",
        land=((58, 56, 64), (78, 76, 80), (88, 80, 82), (112, 78, 74)),
        steep=(62, 54, 60),
        shallow=(70, 150, 150),
        deep=(18, 66, 100),
        relief=150,
        water_share=0.45,
        landmarks=("black spires", "a lighthouse"),
        accents=((255, 112, 30), (96, 120, 62)),
        ridge=(90, 92, 112),
        ridge_deg=5.5,
    ),
)

TIMES = (
    TimeOfDay(
        name="at noon",
        zenith=(46, 118, 210),
        middle=(110, 178, 236),
        horizon=(204, 230, 244),
        glow=(60, 60, 50),
        disc=(255, 255, 244),
        disc_deg=2.2,
        sun_colour=(0.74, 0.70, 0.60),
        ambient=(0.40, 0.46, 0.56),
        sun_elevation_deg=48,
        cloud=(255, 255, 255),
        cloud_shade=(190, 210, 234),
    ),
    TimeOfDay(
        name="in the morning",
        zenith=(104, 160, 216),
        middle=(186, 206, 222),
        horizon=(255, 226, 190),
        glow=(74, 56, 18),
        disc=(255, 250, 222),
        disc_deg=2.4,
        sun_colour=(0.88, 0.68, 0.42),
        ambient=(0.36, 0.40, 0.50),
        sun_elevation_deg=12,
        cloud=(255, 244, 226),
        cloud_shade=(222, 190, 190),
    ),
    TimeOfDay(
        name="at dusk",
        zenith=(44, 56, 132),
        middle=(150, 104, 158),
        horizon=(255, 158, 92),
        glow=(80, 56, 10),
        disc=(255, 232, 160),
        disc_deg=3.0,
        sun_colour=(0.98, 0.50, 0.24),
        ambient=(0.33, 0.31, 0.47),
        sun_elevation_deg=7.5,
        cloud=(255, 156, 112),
        cloud_shade=(116, 74, 130),
    ),
    TimeOfDay(
        name="at night",
        zenith=(12, 20, 56),
        middle=(28, 48, 100),
        horizon=(66, 98, 150),
        glow=(40, 52, 70),
        disc=(240, 244, 252),
        disc_deg=2.6,
        sun_colour=(0.26, 0.33, 0.48),
        ambient=(0.21, 0.27, 0.43),
        sun_elevation_deg=12,
        cloud=(92, 120, 172),
        cloud_shade=(34, 50, 98),
        is_dark=True,
    ),
)

WEATHERS = (
    Weather("clear air", density=0.0013, layer=110, clouds=16, veil=0.0),
    Weather("light haze", density=0.0032, layer=62, clouds=12, veil=0.25),
    Weather("fog", density=0.016, layer=30, clouds=4, veil=0.5),
)

CAPTIONS = (
    "A drone flies over {biome} with {landmark} {time}, {weather}.",
    "Aerial view of {biome} with {landmark} {time}, {weather}.",
    "{biome} with {landmark} {time} seen from a drone, {weather}.",
    "Flying above {biome} with {landmark} {time}, {weather}.",
)
