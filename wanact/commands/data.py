"""`python -m wanact data`: what is wrong with a data set, in words, and marks beside it that mend it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wanact.actions import CHANNELS
from wanact.data import marks as marking
from wanact.data.sets import DataSet
from wanact.data.verdicts import Verdict, histograms
from wanact.errors import UserError
from wanact.files import place


def main(argv: list[str] | None = None) -> int:
    """Look at every clip of a data set, hold its actions against its pictures, and say what is wrong.

    The source is never changed: what is to be done stands in TABLE.marks.json beside it, and every training reads the
    table so.
    """
    args = _parser().parse_args(argv)
    data = DataSet(args.path)
    if _mark(data, args):
        print(f"{data.marks.path.name}: {marking.say(data.marks) or 'nothing is marked'}")
    _look(data, quiet=args.json)
    found = data.verdicts()
    for name in args.apply:
        verdict = next((one for one in found if one.name == name), None)
        if verdict is None:
            names = ", ".join(one.name for one in found) or "none"
            raise UserError(f"there is no verdict {name!r} on {data.name} now; those are: {names}")
        data.apply(verdict)
        print(f"{name}: {verdict.remedy}; kept in {data.marks.path.name}")
        found = data.verdicts()
    if args.json:
        print(json.dumps(_as_json(data, found), indent=2))
    else:
        _tell(data, found, args.path)
    return 1 if any(verdict.grave for verdict in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wanact data",
        description=main.__doc__,
        epilog="The exit status is 1 where a verdict is grave. docs/data.md says how each is found.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=place, metavar="DIR", help="folder with clips.csv, a table, or a manifest")
    parser.add_argument("--apply", nargs="+", default=[], metavar="VERDICT", help="mark what mends these verdicts")
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="CLIP", help="by number, or by its video")
    parser.add_argument("--take_back", nargs="+", default=[], metavar="CLIP", help="use clips that were left out")
    parser.add_argument("--caption", nargs=2, action="append", default=[], metavar=("CLIP", "WORDS"))
    parser.add_argument("--split", nargs=2, action="append", default=[], metavar=("CLIP", "SECONDS"))
    parser.add_argument("--forget_fixes", action="store_true", help="take actions as the table has them again")
    parser.add_argument("--forget_marks", action="store_true", help="take everything as the table has it again")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _mark(data: DataSet, args: argparse.Namespace) -> bool:
    """Do what the flags ask for; whether that was anything."""
    changes: list[tuple[str, dict[str, Any]]] = [(name, {"out": True}) for name in args.leave_out]
    changes += [(name, {"out": False}) for name in args.take_back]
    changes += [(name, {"prompt": words}) for name, words in args.caption]
    found = [(data.find(name), change) for name, change in changes]
    splits = [(data.find(name), _seconds(text)) for name, text in args.split]

    def change(marked: marking.Marks) -> marking.Marks:
        if args.forget_marks:
            marked = marking.Marks(marked.path)
        if args.forget_fixes:
            marked = marked.without_fixes()
        for clip, said in found:
            marked = marked.with_clip(clip.key, **said)
        for clip, seconds in splits:
            cuts = tuple(sorted({*marked.of_clip(clip.key).cuts, seconds}))
            marked = marked.with_clip(clip.key, cuts=cuts)
        return marked

    if not (found or splits or args.forget_fixes or args.forget_marks):
        return False
    data.mark(change)
    return True


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UserError(f"--split at {text!r}, expected seconds from the beginning of the video")
    return value


def _look(data: DataSet, quiet: bool) -> None:
    with tqdm(total=len(data), initial=data.num_seen, unit="clip", desc="looking", disable=quiet, leave=False) as bar:

        def tell(done: int, _: int) -> None:
            bar.update(done - bar.n)

        data.look(tell)


def _tell(data: DataSet, found: list[Verdict], path: Path) -> None:
    tracks = [axes for clip in data if (axes := data.axes(clip)) is not None]
    seconds = sum(seen.frames for clip in data if (seen := data.seen(clip)) is not None) / data.fps
    more = f" (the first of {data.total:,})" if data.total > len(data) else ""
    print(f"{data.name}: {len(data):,} clips{more}, {seconds:,.0f} s at {data.fps:g} frames a second")
    if marked := marking.say(data.marks):
        print(f"as {data.marks.path.name} has it: {marked}")
    print(f"\n{'channel':12} {'stands':>7} {'median':>8}   models have seen")
    for row in histograms(tracks):
        middle = "–" if row["median"] is None else f"{row['median']:.3g}"
        seen = f"{row['low']:g} to {row['high']:g}, median {row['middle']:g}"
        print(f"{CHANNELS[CHANNELS.index(row['channel'])]:12} {row['share']:>7.0%} {middle:>8}   {seen}")
    problems = [clip for clip in data if clip.problem and not data.marks.of_clip(clip.key).out]
    for clip in problems[:5]:
        print(f"\nrow {clip.number}: {clip.problem}", end="")
    if len(problems) > 5:
        print(f"\n... and {len(problems) - 5} more rows that cannot be used", end="")
    print("\n" if problems else "")
    if not found:
        print("Nothing is wrong that actions and pictures tell.")
    for verdict in found:
        print(f"{'!' if verdict.grave else '-'} {verdict.words}")
        if verdict.does:
            print(f"    python -m wanact data {path} --apply {verdict.name}    ({verdict.remedy})")


def _as_json(data: DataSet, found: list[Verdict]) -> dict[str, Any]:
    return {
        "name": data.name,
        "clips": len(data),
        "verdicts": [
            {"name": one.name, "grave": one.grave, "words": one.words, "remedy": one.remedy, "facts": one.facts}
            for one in found
        ],
    }
