"""`python -m train import`: a dataset from footage with camera poses."""

from __future__ import annotations

import argparse

from train.data.importers import IMPORTERS, import_footage
from wanact.files import place


def main(argv: list[str] | None = None) -> None:
    """Write clips.csv, clips and poses from footage whose camera is known."""
    kinds = "\n".join(f"  {kind:8} {reads}" for kind, (_, reads) in IMPORTERS.items())
    parser = argparse.ArgumentParser(
        prog="python -m train import",
        description=f"{main.__doc__}\n\nkinds:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=IMPORTERS, metavar="KIND", help=", ".join(IMPORTERS))
    parser.add_argument("source", type=place, help="folder to read")
    parser.add_argument("--out", type=place, required=True, help="folder to write")
    parser.add_argument("--num_frames", type=int, default=81, help="pixel frames of a clip, 4k+1")
    parser.add_argument("--fps", type=float, default=16.0, help="frames a second of the clips")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--path_units", type=float, help="length that is one clip's path; each clip's own if not given")
    args = parser.parse_args(argv)
    size = (args.height, args.width)
    options = {"num_frames": args.num_frames, "fps": args.fps, "size": size, "path_units": args.path_units}
    report = import_footage(args.kind, args.source, args.out, **options)
    print(f"{report.clips} clips, {report.seconds:.0f} seconds, {len(report.dropped)} left out (skipped.csv)")
    print("share of actions: " + ", ".join(f"{name} {share:.0%}" for name, share in report.share.items()))


if __name__ == "__main__":
    main()
