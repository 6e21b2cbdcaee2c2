"""What the simulated worlds look like: biomes, hours, weather, and captions that name them. Colours are 0..255."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Biome:
    name: str
    land: tuple[tuple[int, int, int], ...]  # colours from the water line to the peaks
    water: tuple[int, int, int]
    roughness: float  # height of the hills, world units
    smoothness: float  # exponent of the height spectrum: larger is smoother
    water_share: float
    trees: int
    tree_colour: tuple[int, int, int]
    buildings: int
    building_colours: tuple[tuple[int, int, int], ...] = ((205, 190, 170),)
    field_contrast: float = 0.0  # a patchwork of fields


@dataclass(frozen=True)
class TimeOfDay:
    name: str
    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    sun_colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    sun_elevation_deg: float


BIOMES = (
    Biome(
        name="green hills",
        land=((182, 172, 120), (104, 146, 66), (72, 118, 52), (112, 116, 82)),
        water=(52, 96, 132),
        roughness=52,
        smoothness=2.5,
        water_share=0.16,
        trees=900,
        tree_colour=(44, 84, 40),
        buildings=14,
    ),
    Biome(
        name="a sandy desert",
        land=((222, 194, 142), (208, 172, 116), (190, 146, 92), (168, 120, 80)),
        water=(72, 132, 140),
        roughness=44,
        smoothness=2.7,
        water_share=0.03,
        trees=60,
        tree_colour=(96, 112, 62),
        buildings=8,
        building_colours=((214, 186, 148), (188, 150, 110)),
    ),
    Biome(
        name="snowy mountains",
        land=((120, 128, 120), (176, 184, 190), (222, 228, 236), (246, 248, 252)),
        water=(60, 92, 122),
        roughness=92,
        smoothness=2.35,
        water_share=0.1,
        trees=700,
        tree_colour=(46, 70, 62),
        buildings=6,
        building_colours=((120, 78, 60), (92, 82, 76)),
    ),
    Biome(
        name="a tropical coast",
        land=((228, 212, 164), (120, 164, 78), (62, 128, 62), (88, 120, 76)),
        water=(34, 134, 152),
        roughness=46,
        smoothness=2.5,
        water_share=0.46,
        trees=900,
        tree_colour=(38, 100, 50),
        buildings=14,
        building_colours=((240, 236, 226), (216, 120, 84)),
    ),
    Biome(
        name="an autumn forest",
        land=((150, 128, 84), (178, 128, 58), (158, 92, 46), (132, 108, 82)),
        water=(56, 82, 104),
        roughness=56,
        smoothness=2.5,
        water_share=0.12,
        trees=1800,
        tree_colour=(176, 92, 40),
        buildings=6,
        building_colours=((140, 96, 76),),
    ),
    Biome(
        name="a city",
        land=((150, 150, 144), (138, 140, 136), (126, 132, 122), (112, 122, 104)),
        water=(58, 92, 116),
        roughness=14,
        smoothness=2.8,
        water_share=0.1,
        trees=300,
        tree_colour=(64, 98, 58),
        buildings=330,
        building_colours=((198, 190, 180), (152, 160, 172), (176, 132, 112), (120, 126, 136), (222, 214, 198)),
    ),
    Biome(
        name="a red canyon",
        land=((206, 142, 96), (186, 104, 66), (162, 82, 54), (214, 156, 116)),
        water=(84, 118, 112),
        roughness=84,
        smoothness=2.4,
        water_share=0.08,
        trees=120,
        tree_colour=(104, 108, 60),
        buildings=4,
        building_colours=((196, 150, 118),),
    ),
    Biome(
        name="farmland",
        land=((176, 164, 112), (142, 158, 82), (120, 142, 70), (118, 128, 84)),
        water=(70, 108, 130),
        roughness=20,
        smoothness=2.8,
        water_share=0.08,
        trees=420,
        tree_colour=(58, 92, 48),
        buildings=46,
        building_colours=((196, 84, 66), (228, 220, 204)),
        field_contrast=0.35,
    ),
    Biome(
        name="a volcanic island",
        land=((70, 66, 64), (82, 76, 72), (96, 104, 72), (118, 82, 70)),
        water=(36, 84, 110),
        roughness=78,
        smoothness=2.45,
        water_share=0.34,
        trees=260,
        tree_colour=(66, 88, 52),
        buildings=4,
        building_colours=((90, 84, 80),),
    ),
)

TIMES = (
    TimeOfDay(
        name="at noon",
        zenith=(88, 144, 212),
        horizon=(196, 216, 232),
        sun_colour=(0.74, 0.72, 0.66),
        ambient=(0.44, 0.47, 0.52),
        sun_elevation_deg=58,
    ),
    TimeOfDay(
        name="in the morning",
        zenith=(116, 158, 206),
        horizon=(232, 222, 206),
        sun_colour=(0.8, 0.7, 0.54),
        ambient=(0.4, 0.43, 0.5),
        sun_elevation_deg=28,
    ),
    TimeOfDay(
        name="at dusk",
        zenith=(78, 88, 142),
        horizon=(240, 172, 122),
        sun_colour=(0.86, 0.52, 0.3),
        ambient=(0.34, 0.33, 0.42),
        sun_elevation_deg=12,
    ),
    TimeOfDay(
        name="at night",
        zenith=(20, 28, 56),
        horizon=(52, 62, 92),
        sun_colour=(0.26, 0.3, 0.4),
        ambient=(0.3, 0.34, 0.44),
        sun_elevation_deg=40,
    ),
)

WEATHERS = (("clear air", 1.7), ("light haze", 1.15), ("fog", 0.7))
CAPTIONS = (
    "A drone flies over {biome} {time}, {weather}.",
    "Aerial view of {biome} {time}, {weather}.",
    "{biome} {time} seen from a drone, {weather}.",
    "Flying above {biome} {time} with {weather}.",
)
