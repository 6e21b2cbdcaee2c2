"""`python -m train import`: a dataset from footage with camera poses."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from train.data.csv import DataError
from train.data.importers import IMPORTERS, Cut, Report, import_footage
from wanact.actions import CHANNELS
from wanact.files import place


def main(argv: list[str] | None = None) -> int:
    """Write clips.csv, clips and poses from footage whose camera is known."""
    args = _parser().parse_args(argv)
    if args.selftest:
        return _selftest()
    if args.kind is None or args.source is None or args.out is None:
        raise DataError("name a KIND, a SOURCE and --out DIR; python -m train import --help lists the kinds")
    cut = Cut(
        num_frames=args.num_frames,
        fps=args.fps,
        size=(args.height, args.width),
        path_units=args.path_units,
        source_fps=args.source_fps,
        offset=args.offset,
        smooth_s=args.smooth,
    )
    _tell(import_footage(args.kind, args.source, args.out, cut))
    return 0


def _parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {kind:10} {reads}" for kind, (_, reads) in IMPORTERS.items())
    parser = argparse.ArgumentParser(
        prog="python -m train import",
        description=f"{main.__doc__}\n\nkinds:\n{kinds}\n\ndocs/footage.md has a recipe for each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", nargs="?", choices=IMPORTERS, metavar="KIND", help=", ".join(IMPORTERS))
    parser.add_argument("source", nargs="?", type=place, metavar="SOURCE", help="folder to read")
    parser.add_argument("--out", type=place, metavar="DIR", help="folder to write")
    parser.add_argument("--num_frames", type=int, default=81, help="pixel frames of a clip, 4k+1")
    parser.add_argument("--fps", type=float, default=16.0, help="frames a second of the clips")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--path_units", type=float, help="length that is one clip's path; each clip's own if not given")
    parser.add_argument("--source_fps", type=float, help="frames a second of footage whose format has no times")
    parser.add_argument("--offset", type=float, help="seconds that logs are ahead of their videos; found if not given")
    parser.add_argument("--smooth", type=float, default=0.0, help="seconds over which places are averaged; 0 is not")
    parser.add_argument("--selftest", action="store_true", help="fly every format's round trip and print its errors")
    return parser


def _tell(report: Report) -> None:
    print(f"{report.clips} clips, {report.seconds:.0f} seconds, {len(report.dropped)} left out (skipped.csv)")
    print("share of actions: " + ", ".join(f"{name} {share:.0%}" for name, share in report.share.items()))
    for video, found in report.offsets.items():
        print(f"{video}: the log is {found['seconds']:+.2f} s ahead (correlation {found['correlation']:.2f})")
    for remark in dict.fromkeys(report.remarks.values()):
        print(f"note: {remark}")
    if report.estimated is not None:
        print(f"note: every action is estimated from pictures; {report.estimated['says']}")


def _selftest() -> int:
    """Print the largest error of each channel for every format; 1 if one is larger than its rounding explains."""
    from train.data.importers import selftest

    world = selftest.simulator.make_world(3)
    print("largest error of a channel, simulator -> format -> importer -> actions; translation in clip paths, rotation")
    print("in degrees a latent frame; - is what a format cannot say")
    print(f"{'format':16} " + " ".join(f"{name:>10}" for name in CHANNELS))
    failed = []
    for name in selftest.FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                errors = selftest.round_trip(name, world, Path(folder))
            except DataError as error:
                print(f"{name:16} {error}")
                failed.append(name)
                continue
        lacking = selftest.lacking(name)
        cells = ("-" if channel in lacking else f"{value:.5f}" for channel, value in zip(CHANNELS, errors, strict=True))
        print(f"{name:16} " + " ".join(f"{cell:>10}" for cell in cells))
        if not selftest.is_within(name, errors):
            failed.append(name)
    _print_estimated(selftest.video_errors())
    print("all within what their rounding explains" if not failed else f"not as flown: {', '.join(failed)}")
    return 1 if failed else 0


def _print_estimated(error: dict[str, Any]) -> None:
    """The mean error of actions that are read from pictures, which no format gives exactly."""
    mean = list(error["mean"].values())
    cells = (f"{value:.5f}" for value in (mean[0], mean[0], mean[1], mean[1], mean[2], mean[2], mean[3], mean[3]))
    print(f"{'video, mean':16} " + " ".join(f"{cell:>10}" for cell in cells))
    print(f"video has no poses: {error['says']}")


if __name__ == "__main__":
    main()
