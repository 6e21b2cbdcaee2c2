"""`python -m train shard`: the clips of a table as shards (.tar), for data that outgrows a disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from train.commands.encode import count_of, share_of
from train.data import csv, streams
from train.data.shards import ShardWriter, write_skipped_beside
from train.stages.streamed import raw_samples
from wanact.data import episodes
from wanact.errors import UserError
from wanact.files import expanded, place


def main(argv: list[str] | None = None) -> int:
    """Write the rows of a table, or the episodes of a manifest, as shards: each clip as it is, with its words and
    actions beside it. A shard that is there is passed over, so that it goes on where it was when it is run again."""
    parser = argparse.ArgumentParser(prog="python -m train shard", description=main.__doc__)
    parser.add_argument("table", type=place, metavar="TABLE", help="CSV, JSON or JSONL, or a manifest of episodes")
    parser.add_argument(
        "--base", type=place, help="folder that its paths are relative to; the table's own if not given"
    )
    parser.add_argument("--out", required=True, metavar="ADDRESS", help="folder to write into: a local one, s3://...")
    parser.add_argument("--rows_per_shard", type=count_of, default=256, help="rows in each shard")
    parser.add_argument(
        "--shard", type=share_of, default=(1, 1), metavar="i/n", help="the i-th of n shares of the work"
    )
    args = parser.parse_args(argv)
    if streams.is_stream(str(args.table)):
        raise UserError(f"{args.table} is no table; give a CSV, JSON or JSONL file, or a manifest of episodes")
    is_manifest = episodes.is_manifest(args.table)
    records: Any = episodes.Manifest(args.table) if is_manifest else csv.read_records(args.table)
    base, skipped = args.base or args.table.parent, []
    writer = ShardWriter(expanded(args.out), args.rows_per_shard)
    (part, parts), made, found = args.shard, 0, 0

    def leave_out(number: int, video: str, error: Exception) -> None:
        print(f"skipped row {number} ({video}): {error}", flush=True)
        skipped.append(csv.Skipped(number, video, str(error)))

    for number, rows in writer.shards_of(len(records), part - 1, parts):
        there = writer.samples_in(number, rows)
        if there is None:
            own = ((row + 1, records[row]) for row in rows)
            made += writer.write(number, rows, raw_samples(own, Path(base), leave_out))
        found += there or 0
    write_skipped_beside(writer.address, f"skipped-{part}-of-{parts}.csv", skipped)
    print(f"share {part} of {parts}: {made} clips written, {found} were there, {len(skipped)} left out")
    return 0
