"""Measure what checkpoints do with the controls.

    python -m wanact card RUN                 # every kept step; RUN@552, RUN@best and RUN@latest name one
    python -m wanact card RUN --base --out DIR
    python -m wanact card --validate --json FILE

Cards are kept as JSON in RUN/control_card, where the pages find them, and are not measured twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wanact.control_card.card import BASE, CURVES, FULL_CARD, ControlCard, card_path, keep_card, read_card
from wanact.control_card.curves import draw_curves
from wanact.control_card.fly import NUM_FRAMES, measure_card, num_clips
from wanact.control_card.picture import draw_card
from wanact.control_card.probes import FirstFrame, fixed_first_frames, own_first_frames
from wanact.errors import UserError
from wanact.files import CheckpointError, place, write_json
from wanact.flying.pipeline import WanActPipeline
from wanact.models.idm import load_idm
from wanact.runs import store
from wanact.runs.ref import CHECKPOINTS, is_in_run, split_name

NANO = Path(__file__).resolve().parents[2] / "assets" / "nano"
QUICK = (2, 1)  # first frames, dose frames
NORMAL = (FULL_CARD, 2)
VALIDATION = (FULL_CARD, 4)


def main(argv: list[str] | None = None) -> int:
    """Measure what checkpoints do with the controls; returns the exit status."""
    args = _parser().parse_args(argv)
    if not args.runs and not args.validate:
        print("error: name a run to measure, or give --validate", file=sys.stderr)
        return 2
    result = _validate(args) if args.validate else {}
    if args.runs:
        result["cards"] = [card.to_json() for card in _measure(args)]
    if args.json is not None:
        write_json(args.json, result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wanact card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN[@STEP]", help="a run (all its steps), or one step of it")
    parser.add_argument("--model_dir", type=place, default=NANO, help="the base model")
    parser.add_argument("--base", action="store_true", help="measure the base model too, which takes no actions")
    parser.add_argument("--out", type=place, help="folder for cards and pictures instead of RUN/control_card")
    parser.add_argument("--json", type=place, help="file for all numbers")
    parser.add_argument("--validate", action="store_true", help="hold the measuring to the simulator's exact motion")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    parser.add_argument("--quick", action="store_true", help="2 first frames and doses from 1: a quick card")
    parser.add_argument("--first_frames", type=int, help=f"where flights begin: {NORMAL[0]}, of 12")
    parser.add_argument("--dose_frames", type=int, help=f"how many of them at five magnitudes: {NORMAL[1]}")
    parser.add_argument("--images", type=place, nargs="+", default=[], help="first frames of your own instead")
    parser.add_argument("--prompt", default="", help="what they show")
    parser.add_argument("--num_frames", type=int, default=NUM_FRAMES, help="of a held channel")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if not given")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale; 1 is none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _starts(args: argparse.Namespace) -> tuple[list[FirstFrame], int]:
    usual = VALIDATION if args.validate and not args.runs else QUICK if args.quick else NORMAL
    if args.images:
        starts = own_first_frames(args.images, args.prompt)[: args.first_frames]
    else:
        starts = fixed_first_frames(usual[0] if args.first_frames is None else args.first_frames)
    doses = usual[1] if args.dose_frames is None else args.dose_frames
    return starts, min(doses, len(starts))


def _validate(args: argparse.Namespace) -> dict[str, Any]:
    from wanact.control_card.truth import validate

    starts, doses = _starts(args)
    if doses < 1:
        raise UserError("--validate measures gains: it needs --dose_frames of at least 1")
    result = validate(starts, doses, load_idm())
    seen = result["simulator"]
    print(
        f"simulator: least sign accuracy {seen['min_sign_accuracy']:.1%}, largest gain error "
        f"{seen['max_gain_error']:.1%}, largest lag error {seen['max_lag_error']:g} latent frames; "
        f"shuffled: {result['shuffled']['mean_sign_accuracy']:.1%}"
    )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        settings = {"first_frames": len(starts), "dose_frames": doses, "num_frames": NUM_FRAMES}
        card = ControlCard({"run": "simulator", "step": None}, {"name": "exact flights"}, settings, seen["card"])
        draw_card(card).save(args.out / "simulator.png")
    return result


def _measure(args: argparse.Namespace) -> list[ControlCard]:
    """The cards of everything that was named, measured or found, and pictures of them."""
    pipe = WanActPipeline.from_model_dir(args.model_dir, args.device)
    idm, (starts, doses), fingerprint = load_idm(), _starts(args), pipe.fingerprint()
    cards = []
    for name in args.runs:
        run, found = chosen(name)
        folder = args.out / run.name if args.out is not None else None
        places: list[tuple[Path | None, Path]] = [
            (path, folder / card_path(run, step).name if folder else card_path(run, step)) for path, step in found
        ]
        if args.base:
            places.insert(0, (None, (folder or card_path(run, None).parent) / BASE))
        of_run = []
        for path, file in places:
            card = None if args.again else _by_todays_name(read_card(file), pipe)
            if card is None or not _serves(card, args, fingerprint, len(starts), doses):
                pipe.load_controller(path)
                card = _measure_one(pipe, args, starts, doses, idm, f"{run.name} {file.stem}")
                if not keep_card(card, file):
                    print(f"{file} is a fuller card and stays; remove it to keep this one")
            of_run.append(card)
            if folder is not None:
                draw_card(card).save(file.with_suffix(".png"))
        if folder is not None and len(of_run) > 1:
            draw_curves(of_run).save(folder / "curves.png")
        cards += of_run
    _print(cards)
    return cards


def _measure_one(
    pipe: WanActPipeline, args: argparse.Namespace, starts: Sequence[FirstFrame], doses: int, idm: Any, name: str
) -> ControlCard:
    with tqdm(desc=name, unit="clip", total=num_clips(len(starts), doses)) as bar:

        def show(done: int, total: int) -> None:
            bar.update(done - bar.n)

        return measure_card(pipe, starts, doses, args.num_frames, args.steps, args.guidance, idm=idm, on_clip=show)


def _by_todays_name(card: ControlCard | None, pipe: WanActPipeline) -> ControlCard | None:
    """A card whose model may be recorded by its former fingerprint, by the one of today."""
    if card is None or not pipe.is_recorded_as(card.model.get("fingerprint")):
        return card
    return replace(card, model=card.model | {"fingerprint": pipe.fingerprint()})


def _serves(card: ControlCard, args: argparse.Namespace, fingerprint: str, first_frames: int, doses: int) -> bool:
    """Whether a card that lies there was measured as is asked for now; where a quick one is, a fuller one is better."""
    wanted = {"first_frames": first_frames, "dose_frames": doses, "num_frames": args.num_frames}
    same = all(card.settings.get(name) == value for name, value in wanted.items())
    fuller = args.quick and card.is_fuller_than(ControlCard({}, {"fingerprint": fingerprint}, wanted, {}))
    steps = args.steps is None or card.settings.get("num_inference_steps") == args.steps
    return (same or fuller) and steps and not args.images and card.model.get("fingerprint") == fingerprint


def chosen(name: str) -> tuple[Path, list[tuple[Path, int | None]]]:
    """The run that RUN[@STEP] names, and folder and step of what is to be measured.

    Raises:
        CheckpointError: if there is no such run or step.
    """
    path, which = split_name(name)
    if is_in_run(path) or not (path / CHECKPOINTS).is_dir():
        ref = store.ref_of(folder := store.resolve(path))
        return ref.run_dir.resolve(), [(folder, ref.step)]
    sound = [info for info in store.list_checkpoints(path) if info.problem is None]
    wanted = [info for info in sound if which in (None, "all") or info.is_named(which)]
    if not wanted:
        there = ", ".join(str(info.step) for info in sound) or "none"
        raise CheckpointError(f"{path} has no sound checkpoint {which!r}; its steps are {there}")
    return path.resolve(), [(info.path, info.step) for info in sorted(wanted, key=lambda info: info.step)]


def _print(cards: Sequence[ControlCard]) -> None:
    width = max((len(card.title) for card in cards), default=10)
    print(f"{'':{width}}  " + "  ".join(f"{name:>13}" for name in CURVES))
    for card in cards:
        values = [card.number(name) for name in CURVES]
        row = "  ".join(f"{'-' if v is None else f'{v:.3f}':>13}" for v in values)
        print(f"{card.title:{width}}  {row}  {'quick, ' if card.is_quick else ''}{card.of_what}")
