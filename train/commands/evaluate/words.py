"""Whether what a prompt draws looks like what it says, of nine biomes and four times of day."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from train.commands.evaluate.grid import draw_grid
from train.commands.evaluate.picture import Place
from train.commands.evaluate.tables import add_common, checkpoint_named, print_table, write_numbers
from wanact.actions import ActionTrack
from wanact.files import place
from wanact.flying.pipeline import WanActPipeline
from wanact.media.likeness import colour_quantiles
from wanact.shapes import num_actions
from wanact.world import palettes, simulator

SEED = 950_000  # of the first world whose views are what words are compared with
BANDS = 3  # of a picture: sky, middle, ground
QUANTILES = 8  # of each coordinate of colour in a band
BLURS = (1, 3)  # pixels, between which texture is measured
SHRINKAGE = 0.2  # of the scatter within a class towards its diagonal: there are few views

Said = tuple[str, str]  # biome and time of day


def add(commands: Any) -> None:
    parser = add_common(commands.add_parser("words", help="whether a prompt draws what it says"), _evaluate)
    parser.add_argument("--run", dest="checkpoint", metavar="RUN[@STEP]", help="the base if not given")
    parser.add_argument("--worlds", type=int, default=3, help="of each biome and time, whose views are known")
    parser.add_argument("--views", type=int, default=4, help="of each of these worlds")
    parser.add_argument(
        "--num_frames",
        type=int,
        help="of each clip, whose first is looked at; 1 where first frames are drawn by themselves",
    )
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if not given")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--json", type=place, help="file for the numbers")
    parser.add_argument("--sheet", type=place, metavar="PNG", help="picture of everything that was drawn")


def statistics(picture: np.ndarray) -> np.ndarray:
    """Colour and texture of a picture's bands, uint8 [H, W, 3] -> [BANDS * (3 * QUANTILES + len(BLURS))].

    Colour: quantiles of L, a and b. Texture: log deviation of the brightness from itself blurred, at each blur.
    """
    values = []
    for band in np.array_split(picture, BANDS):
        values.append(colour_quantiles(band, QUANTILES).ravel())
        grey = cv2.cvtColor(np.ascontiguousarray(band), cv2.COLOR_RGB2GRAY).astype(np.float32)
        values.append([10 * np.log(1 + (grey - cv2.GaussianBlur(grey, (0, 0), blur)).std()) for blur in BLURS])
    return np.concatenate(values)


@dataclass(frozen=True)
class Known:
    """Views of which it is known what they show: the nearest class is told by the mean of its views.

    Attributes:
        classes: biome and time of each class.
        means: of the classes' statistics, made white, [classes, n].
        whiten: what makes them so: views of one class then scatter alike in all directions, [n, n].
    """

    classes: tuple[Said, ...]
    means: np.ndarray
    whiten: np.ndarray

    @classmethod
    def of(cls, views: Mapping[Said, Sequence[np.ndarray]]) -> Known:
        """From at least two views of each class, uint8 [H, W, 3]."""
        values = {said: np.stack([statistics(view) for view in seen]) for said, seen in views.items()}
        means = np.stack([seen.mean(axis=0) for seen in values.values()])
        around = np.concatenate([seen - seen.mean(axis=0) for seen in values.values()])
        scatter = around.T @ around / max(len(around) - len(views), 1)
        spread = np.diag(np.diag(scatter))
        scatter = (1 - SHRINKAGE) * scatter + SHRINKAGE * spread + 0.01 * np.eye(len(scatter))
        whiten = np.linalg.inv(np.linalg.cholesky(scatter)).T
        return cls(tuple(views), means @ whiten, whiten)

    def nearest(self, picture: np.ndarray) -> Said:
        """What a picture looks like."""
        away = np.linalg.norm(self.means - statistics(picture) @ self.whiten, axis=1)
        return self.classes[int(away.argmin())]


def agreement(said: Iterable[Said], seen: Iterable[Said]) -> dict[str, float]:
    """Shares in which both biome and time are what was said, and each alone."""
    pairs = list(zip(said, seen, strict=True))
    return {
        "exact": float(np.mean([a == b for a, b in pairs])),
        "biome": float(np.mean([a[0] == b[0] for a, b in pairs])),
        "time": float(np.mean([a[1] == b[1] for a, b in pairs])),
    }


def everything() -> list[Said]:
    """Each biome at each time of day."""
    return [(b.name, t.name) for b, t in itertools.product(palettes.BIOMES, palettes.TIMES)]


def views(said: Said, seeds: Iterable[int], count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """The simulator's own views, `count` in the world of each seed, uint8 [H, W, 3]."""
    seen = []
    for seed in seeds:
        place = Place(simulator.make_world(seed, *said), seed, *size)
        seen += [place.see(ActionTrack.zeros(1), [0], start=start)[0] for start in range(count)]
    return seen


def prompt_of(said: Said) -> str:
    """A caption, as the worlds have them, in clear air."""
    biome = next(biome for biome in palettes.BIOMES if biome.name == said[0])
    caption = palettes.CAPTIONS[0].format(biome=said[0], landmark=biome.landmarks[0], time=said[1], weather="clear air")
    return caption[0].upper() + caption[1:]


def _evaluate(args: argparse.Namespace) -> None:
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    pipe.load_controller(None if args.checkpoint is None else checkpoint_named(args.checkpoint))
    size = (pipe.defaults["height"], pipe.defaults["width"])
    draws_pictures = pipe.causal is not None or pipe.components.places is not None
    frames = args.num_frames or (1 if draws_pictures else pipe.defaults["num_frames"])
    settings = {"num_frames": frames, "num_inference_steps": args.steps, "guidance_scale": args.guidance}
    track = None if pipe.controller is None else ActionTrack.zeros(num_actions(frames))
    said = everything()

    known, held_out, step = {}, [], args.worlds + 1
    for number, one in enumerate(tqdm(said, desc="the simulator's views")):
        seeds = range(SEED + number * step, SEED + (number + 1) * step)
        known[one] = views(one, seeds[:-1], args.views, size)
        held_out += views(one, seeds[-1:], 1, size)
    classes = Known.of(known)
    drawn = [
        pipe(prompt_of(one), None, track, seed=args.seed + number, **settings)[0]
        for number, one in enumerate(tqdm(said, desc="prompts"))
    ]
    seen = [classes.nearest(picture) for picture in drawn]
    result = agreement(said, seen) | {
        "chance": 1 / len(said),
        "chance_biome": 1 / len({biome for biome, _ in said}),
        "chance_time": 1 / len({time for _, time in said}),
        "simulator": agreement(said, map(classes.nearest, held_out)),
        "prompts": {prompt_of(a): f"{b[0]} {b[1]}" for a, b in zip(said, seen, strict=True)},
        "checkpoint": "base" if pipe.checkpoint is None else pipe.checkpoint.id,
        "height": size[0],
        "width": size[1],
        **settings,
    }
    write_numbers(args.json, result)
    if args.sheet is not None:
        draw_words(said, drawn).save(args.sheet)
    _print(result)


def draw_words(said: Sequence[Said], drawn: Sequence[np.ndarray]) -> Image.Image:
    """What was drawn: a biome a row, a time a column."""
    times = list(dict.fromkeys(time for _, time in said))
    rows: dict[str, list[np.ndarray]] = {}
    for (biome, _), picture in zip(said, drawn, strict=True):
        rows.setdefault(biome, []).append(picture)
    return draw_grid({biome: np.stack(row) for biome, row in rows.items()}, range(len(times)), labels=times)


def _print(result: dict[str, Any]) -> None:
    names = ("exact", "biome", "time")
    chance = (result["chance"], result["chance_biome"], result["chance_time"])
    print(f"\n{result['checkpoint']}: share of {len(result['prompts'])} prompts whose first frame looks as they say")
    rows = [
        ("drawn", *(result[name] for name in names)),
        ("chance", *chance),
        ("the simulator's own views, held out", *(result["simulator"][name] for name in names)),
    ]
    print_table(("", *names), rows)
