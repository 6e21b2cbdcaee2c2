"""What people see: the model beside the simulator that flies the same track from the same frame."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from train.commands.evaluate.grid import draw_grid
from train.commands.evaluate.tables import add_common, checkpoint_named, print_table, write_numbers
from wanact.actions import CHANNELS, FULL_DEFLECTION, NUM_CHANNELS, OPPOSITE, PRESETS, ActionTrack, channel_track
from wanact.control_card.live import HOLD, OUTWARD, fly_held
from wanact.files import place
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream
from wanact.media.likeness import blockiness, colour_distance, gradient_length, horizon, psnr_db
from wanact.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, num_actions, num_pixel_frames
from wanact.weights.model_dir import Rest
from wanact.world import simulator

SEED = 940_000  # of the first world; no training and no other measure sees these
FRAMES = (0, 16, 40, 80)  # of a clip, that are compared
SECONDS = (10, 30, 60)  # of a live flight


def _out_and_back(num_actions: int) -> ActionTrack:
    half = num_actions // 2
    turns = channel_track("yaw_right", half).magnitude, channel_track("yaw_left", num_actions - half).magnitude
    return ActionTrack(np.concatenate(turns))


# Pitch as in the grid: full deflection meets the limit of 38 degrees after half of a clip.
TRACKS: dict[str, Callable[[int], ActionTrack]] = {
    "hover": ActionTrack.zeros,
    "forward": partial(channel_track, "forward"),
    "yaw": partial(channel_track, "yaw_right"),
    "pitch": partial(channel_track, "pitch_down", fraction=0.4),
    "sideways": partial(channel_track, "right"),
    "fly_through": PRESETS["Fly-through"],
    "out_and_back": _out_and_back,
}
BY_PSNR = ("hover", "out_and_back", "live_hover")  # where the truth comes back, so that the worst is told by decibels

# What is held in a live flight, and for how many latent frames; over and over. Pitch comes back to where it was.
KEYS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("forward",), 14),
    (("forward", "yaw_right"), 8),
    (("pitch_down",), 4),
    (("forward",), 10),
    (("pitch_up",), 4),
    ((), 6),
    (("yaw_left",), 12),
    (("left", "forward"), 8),
    (("back",), 6),
    (("right",), 10),
    (("forward", "yaw_left"), 8),
    ((), 2),
)


def add(commands: Any) -> None:
    parser = add_common(commands.add_parser("picture", help="what people see, beside the simulator"), _evaluate)
    parser.add_argument(
        "--run", dest="checkpoint", metavar="RUN[@STEP]", help="run or checkpoint; the base if not given"
    )
    parser.add_argument("--worlds", type=int, default=8, help="held-out worlds")
    parser.add_argument("--seed", type=int, default=SEED, help="of the first world")
    parser.add_argument("--num_frames", type=int, default=81, help="of each clip")
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS, help="of live flights, that are compared")
    parser.add_argument("--steps", type=int, help="denoising steps of clips; the model's own if not given")
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own if not given")
    parser.add_argument("--json", type=place, help="file for the numbers")
    parser.add_argument(
        "--frames", type=place, metavar="DIR", help="folder for pictures of the worst cases, and of all live flights"
    )


@dataclass(frozen=True)
class Place:
    """Where all flights of one world begin.

    Attributes:
        world: what the simulator made of the seed.
        height, width: of its pictures.
    """

    world: simulator.World
    seed: int
    height: int
    width: int

    def see(self, track: ActionTrack, numbers: Iterable[int], start: int = 0) -> np.ndarray:
        """The frames of these numbers of a flight along the track, uint8 [n, H, W, 3]; `start` is another place."""
        rng = np.random.default_rng([self.seed, start])
        poses = simulator.fly_poses(self.world, rng, num_pixel_frames(len(track) + 1), track)
        return np.stack([simulator.render(self.world, poses[n], self.height, self.width) for n in numbers])

    @property
    def first_frame(self) -> np.ndarray:
        return self.see(ActionTrack.zeros(1), [0])[0]


def compare(drawn: np.ndarray, truth: np.ndarray, grid: int) -> dict[str, float]:
    """What is seen in a picture beside the true one, uint8 [H, W, 3].

    Args:
        drawn, truth: the pictures.
        grid: pixels that a token covers.

    Returns:
        `sharpness`: mean Sobel length over the truth's; `blockiness`, and that of the truth: steps across the token
        grid over those inside it; `colour`: distance of the CIELAB histograms; `horizon`, and that of the truth: how
        far the colours of the upper and the lower third are apart; `psnr_db`.
    """
    lengths = gradient_length(np.stack([drawn, truth]))
    return {
        "sharpness": float(lengths[0] / max(lengths[1], 1e-6)),
        "blockiness": blockiness(drawn[None], grid),
        "blockiness_truth": blockiness(truth[None], grid),
        "colour": colour_distance(drawn, truth),
        "horizon": horizon(drawn),
        "horizon_truth": horizon(truth),
        "psnr_db": float(psnr_db(drawn[None], truth[None])[0]),
    }


@dataclass
class Measured:
    """What was seen along one track: in every world, at every moment.

    Attributes:
        name: of the track.
        moments: what they are called: frame numbers, or seconds.
        worlds: a world each: what `compare` gave, moment by moment.
        pictures: of each world its seed, and the true and the drawn ones.
    """

    name: str
    moments: Sequence[int]
    worlds: list[list[dict[str, float]]] = field(default_factory=list)
    pictures: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, seed: int, truth: np.ndarray, drawn: np.ndarray, grid: int) -> None:
        """One world more: its pictures at these moments, uint8 [n, H, W, 3]."""
        self.worlds.append([compare(a, b, grid) for a, b in zip(drawn, truth, strict=True)])
        self.pictures.append((seed, truth, drawn))

    @property
    def worst(self) -> int:
        """Which of the worlds looks worst in the end."""
        lasts = [world[-1] for world in self.worlds]
        if self.name in BY_PSNR:
            return int(np.argmin([last["psnr_db"] for last in lasts]))
        return int(np.argmax([abs(np.log(max(last["sharpness"], 1e-6))) for last in lasts]))

    def values(self, measure: str) -> np.ndarray:
        """[worlds, moments]."""
        return np.array([[seen[measure] for seen in world] for world in self.worlds])

    def by_moment(self, measure: str, reduce: Callable[..., np.ndarray] = np.mean) -> dict[str, float]:
        """The mean over worlds, or another of them, for each moment."""
        reduced = reduce(self.values(measure), axis=0)
        return {str(moment): round(float(value), 4) for moment, value in zip(self.moments, reduced, strict=True)}

    def summary(self) -> dict[str, Any]:
        """Of a clip: by frame, and `psnr_db` of the last."""
        decibels = self.by_moment("psnr_db")
        return {
            "sharpness": self.by_moment("sharpness"),
            "sharpness_least": self.by_moment("sharpness", np.min),
            "sharpness_most": self.by_moment("sharpness", np.max),
            "blockiness": round(float(self.values("blockiness").mean()), 4),
            "blockiness_truth": round(float(self.values("blockiness_truth").mean()), 4),
            "colour": self.by_moment("colour"),
            "psnr_db": decibels[str(self.moments[-1])],
            "psnr_by_frame_db": decibels,
        }

    def summary_by_moment(self) -> dict[str, dict[str, float]]:
        """Of a live flight: all measures of each moment, and the least and the most sharpness of any world."""
        measures = {name: self.by_moment(name) for name in self.worlds[0][0]}
        measures["sharpness_least"] = self.by_moment("sharpness", np.min)
        measures["sharpness_most"] = self.by_moment("sharpness", np.max)
        return {str(m): {name: values[str(m)] for name, values in measures.items()} for m in self.moments}

    def draw_worst(self, folder: Path, unit: str = "") -> None:
        """A picture of the worst world, the truth above."""
        seed, truth, drawn = self.pictures[self.worst]
        self._draw({"truth": truth, "drawn": drawn}, unit).save(folder / f"{self.name}-world{seed}.png")

    def draw_all(self, folder: Path, unit: str = "") -> None:
        """A picture of every world, the truth above what was drawn."""
        rows = {}
        for seed, truth, drawn in self.pictures:
            rows |= {str(seed): truth, f"{seed} drawn": drawn}
        self._draw(rows, unit).save(folder / f"{self.name}-all.png")

    def _draw(self, rows: dict[str, np.ndarray], unit: str) -> Image.Image:
        labels = [f"{moment} {unit}" if unit else f"frame {moment}" for moment in self.moments]
        return draw_grid(rows, range(len(self.moments)), labels=labels)


def _evaluate(args: argparse.Namespace) -> None:
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    pipe.load_controller(None if args.checkpoint is None else checkpoint_named(args.checkpoint))
    size = (pipe.defaults["height"], pipe.defaults["width"])
    settings = {"num_frames": args.num_frames, "num_inference_steps": args.steps, "guidance_scale": args.guidance}
    look = Look(pipe, args.num_frames, args.seconds, settings)
    own_steps = pipe.defaults["num_inference_steps"] if pipe.causal is None else pipe.causal.num_inference_steps
    for seed in tqdm(range(args.seed, args.seed + args.worlds), desc="worlds"):
        look.add(Place(simulator.make_world(seed), seed, *size))
        result = look.summary() | {
            "checkpoint": "base" if pipe.checkpoint is None else pipe.checkpoint.id,
            "worlds": len(look.detail),
            "seeds": [args.seed, seed],
            "height": size[0],
            "width": size[1],
            "num_frames": args.num_frames,
            "num_inference_steps": args.steps or own_steps,
            "guidance_scale": args.guidance or pipe.defaults["guidance_scale"],
        }
        write_numbers(args.json, result)  # after each, so that a stopped measurement keeps what it has
    print_picture(result)
    if args.frames is not None:
        args.frames.mkdir(parents=True, exist_ok=True)
        look.draw_worst(args.frames)


class Look:
    """Measures of a model, world by world.

    Args:
        pipe: with the checkpoint loaded; live flights are measured if it is causal.
        num_frames: of each clip.
        seconds: of live flights, that are compared; the last is their length.
        settings: of clips.
    """

    def __init__(self, pipe: WanActPipeline, num_frames: int, seconds: Sequence[int], settings: dict[str, Any]):
        self.pipe, self.settings = pipe, settings
        self.grid = SPATIAL_STRIDE * pipe.components.transformer.config.patch_size[1]
        self.numbers = [number for number in FRAMES if number < num_frames]
        self.num_actions = num_actions(num_frames)
        self.seconds = sorted(seconds)
        self.tracks = {name: Measured(name, self.numbers) for name in TRACKS}
        self.live = Measured("live", self.seconds)
        self.elsewhere = Measured("live_elsewhere", self.seconds)  # another true flight, by the same keys
        self.hover: dict[Rest, Measured] = {rest: Measured("live_hover", self.seconds) for rest in self._rests()}
        self.returns: dict[str, list[tuple[float, float]]] = {}
        self.detail: list[float] = []
        self.two_views: list[float] = []

    def _rests(self) -> list[Rest]:
        """The model's own rest first, and none."""
        own: Rest = self.pipe.defaults["rest"]
        return [own] if own == "commit" else [own, "commit"]

    def add(self, place: Place) -> None:
        """One world more."""
        image = Image.fromarray(place.first_frame)
        self.two_views.append(colour_distance(np.asarray(image), place.see(ActionTrack.zeros(1), [0], start=1)[0]))
        self._add_clips(place, image)
        if self.pipe.causal is not None:
            self._add_live(place, image)

    def _add_clips(self, place: Place, image: Image.Image) -> None:
        pipe, clip = self.pipe, None
        for name, make in TRACKS.items():
            track = make(self.num_actions)
            if clip is None or pipe.controller is not None:  # without a controller all tracks are the same clip
                flown = None if pipe.controller is None else track
                clip = pipe(place.world.caption, image, flown, seed=_noise_seed(place), **self.settings)
            self.tracks[name].add(place.seed, place.see(track, self.numbers), clip[self.numbers], self.grid)
            if name == "hover":
                lengths = gradient_length(np.stack([clip[0], np.asarray(image)]))
                self.detail.append(float(lengths[0] / max(lengths[1], 1e-6)))

    def _add_live(self, place: Place, image: Image.Image) -> None:
        def begin(rest: Rest | None = None) -> WanActStream:
            return WanActStream(self.pipe, image, place.world.caption, _noise_seed(place), rest=rest)

        fps = self.pipe.defaults["fps"]
        numbers = [round(second * fps / TEMPORAL_STRIDE) * TEMPORAL_STRIDE for second in self.seconds]
        count = numbers[-1] // TEMPORAL_STRIDE
        track = key_track(count)
        truth = place.see(track, numbers)
        self.live.add(place.seed, truth, fly_live(begin(), track, numbers), self.grid)
        self.elsewhere.add(place.seed, truth, place.see(track, numbers, start=1), self.grid)
        still = ActionTrack.zeros(count)
        truth = place.see(still, numbers)
        for rest, measured in self.hover.items():
            measured.add(place.seed, truth, fly_live(begin(rest), still, numbers), self.grid)
        for out in OUTWARD:
            held = [out] * HOLD + [OPPOSITE[out]] * HOLD
            frames = fly_held(begin(), held, None)
            flown = ActionTrack(np.eye(NUM_CHANNELS)[held] * np.array(FULL_DEFLECTION))
            ends = np.stack([frames[-1], place.see(flown, [len(frames) - 1])[0]])
            decibels = psnr_db(np.repeat(frames[:1], 2, axis=0), ends)
            pair = f"{CHANNELS[out]}, {CHANNELS[OPPOSITE[out]]}"
            self.returns.setdefault(pair, []).append((float(decibels[0]), float(decibels[1])))

    def summary(self) -> dict[str, Any]:
        """All numbers as plain values."""
        result: dict[str, Any] = {
            "tracks": {name: track.summary() for name, track in self.tracks.items()},
            "detail_frame0": round(float(np.mean(self.detail)), 4),
            "detail_frame0_worst": round(min(self.detail), 4),
            "colour_two_views": round(float(np.mean(self.two_views)), 4),
        }
        if not self.live.worlds:
            return result
        own, last = next(iter(self.hover)), self.seconds[-1]
        hover = {rest: measured.by_moment("psnr_db") for rest, measured in self.hover.items()}
        pairs = {pair: np.array(values) for pair, values in self.returns.items()}
        live = self.live.summary_by_moment()
        for moment, value in self.elsewhere.by_moment("sharpness").items():
            live[moment]["sharpness_two_views"] = value
        return result | {
            "live": live,
            f"hover_{last}s_psnr_db": hover[own][str(last)],
            "hover_psnr_db": hover,
            "rest": own,
            "out_and_back_psnr_db": {pair: round(float(v[:, 0].mean()), 4) for pair, v in pairs.items()},
            "out_and_back_least_db": {pair: round(float(v[:, 0].min()), 4) for pair, v in pairs.items()},
            "out_and_back_simulator_db": {pair: round(float(v[:, 1].mean()), 4) for pair, v in pairs.items()},
        }

    def draw_worst(self, folder: Path) -> None:
        """A picture of the worst world of every track."""
        for track in self.tracks.values():
            track.draw_worst(folder)
        if self.live.worlds:
            self.live.draw_worst(folder, "s")
            self.live.draw_all(folder, "s")
            for rest, measured in self.hover.items():
                measured.name = f"live_hover_{rest}"
                measured.draw_worst(folder, "s")


def _noise_seed(place: Place) -> int:
    return place.seed % 1000


def key_track(count: int) -> ActionTrack:
    """The fixed list of keys as a track, over and over."""
    magnitude = np.zeros((sum(length for _, length in KEYS), NUM_CHANNELS), np.float32)
    start = 0
    for held, length in KEYS:
        for channel in map(CHANNELS.index, held):
            magnitude[start : start + length, channel] = FULL_DEFLECTION[channel]
        start += length
    return ActionTrack(np.resize(magnitude, (count, NUM_CHANNELS)))


def fly_live(flight: Any, track: ActionTrack, numbers: Sequence[int]) -> np.ndarray:
    """The frames of these numbers of a live flight along the track, uint8 [n, H, W, 3]; a minute is not kept."""
    kept = {0: np.asarray(flight.image)}
    for step, action in enumerate(track.magnitude):
        frames = flight.step(action)
        first = 1 + step * TEMPORAL_STRIDE
        kept |= {first + k: frame for k, frame in enumerate(frames) if first + k in numbers}
    return np.stack([kept[number] for number in numbers])


def print_picture(result: dict[str, Any]) -> None:
    """For people: sharpness and colour by frame, blocks, decibels to the truth."""
    size = f"{result['width']} x {result['height']}"
    print(f"\n{result['checkpoint']}: {result['worlds']} worlds from {result['seeds'][0]}, {size}", end="")
    print(f", {result['num_frames']} frames, {result['num_inference_steps']} steps")
    print("Sharpness is the truth's share of gradient: 1 is as sharp. Blockiness is 1 where no grid shows.\n")
    tracks = result["tracks"]
    moments = list(tracks["hover"]["sharpness"])
    rows = [
        (name, *t["sharpness"].values(), t["blockiness"], t["blockiness_truth"], t["colour"][moments[-1]], t["psnr_db"])
        for name, t in tracks.items()
    ]
    header = [f"sharp. {moment}" for moment in moments]
    print_table(("clips", *header, "blocks", "truth's", f"colour {moments[-1]}", f"dB {moments[-1]}"), rows)
    print(f"\nfirst frame's detail: {result['detail_frame0']:.3f} (worst {result['detail_frame0_worst']:.3f})")
    print(f"colour: two views of one world differ by {result['colour_two_views']:.2f}")
    if "live" not in result:
        print("no live flights: the checkpoint is not causal")
        return
    columns = ("sharpness", "sharpness_least", "sharpness_most", "sharpness_two_views", "blockiness")
    columns += ("blockiness_truth", "colour", "horizon", "horizon_truth")
    print()
    print_table(("live", *columns), [(f"{s} s", *(m[c] for c in columns)) for s, m in result["live"].items()])
    print()
    hover = result["hover_psnr_db"]
    seconds = next(iter(hover.values()))
    rows = [(f"hover, rest={rest}", *values.values()) for rest, values in hover.items()]
    print_table(("dB to the truth", *(f"{second} s" for second in seconds)), rows)
    print()
    pairs = result["out_and_back_psnr_db"]
    others = (result["out_and_back_least_db"], result["out_and_back_simulator_db"])
    rows = [(pair, value, *(other[pair] for other in others)) for pair, value in pairs.items()]
    print_table((f"out and back ({HOLD} + {HOLD}), dB to the start", "mean", "least", "simulator"), rows)
