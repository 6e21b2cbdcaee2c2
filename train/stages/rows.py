"""Which rows of a dataset a run learns from: those that can be read. The others are named, counted and left out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from train.data import csv, streams
from train.data.cache import ahead, key_of
from train.loop.config import TrainConfig
from train.loop.dist import Processes
from wanact.actions import Mended
from wanact.data import episodes, marks
from wanact.media.footage import picture_files

Read = TypeVar("Read")
Kept = TypeVar("Kept")
Place = tuple[int, int, bool]  # number of a row in its file, first frame of the clip, and whether it is mirrored


# Settings of stages that read clips as they lie, without a model directory's defaults: which rows, and in what shape.
CLIP_SETTINGS = (
    *("dataset_base_path", "dataset_metadata_path", "max_rows"),
    *("height", "width", "num_frames", "fps", "window_stride", "fit"),
)


@dataclass
class RowReader:
    """Reads every row of the metadata file once, before the first step.

    Attributes:
        config: where the rows are, and how many of them may be left out.
        processes: of which the main one writes skipped.csv.
        num_frames: frames of a training clip.
        needs_actions: whether a row without actions cannot be used.
        mirror: read every row twice: as it is, and with its actions mirrored.
        shared: whether the processes share the rows out and tell each other what they kept, or each reads all of them.
        clip_bytes: size of a clip, so that not too many are held at once.
        title: of the bar that shows how far it is.
    """

    config: TrainConfig
    processes: Processes
    num_frames: int
    needs_actions: bool = False
    mirror: bool = False
    shared: bool = False
    clip_bytes: int = 0
    title: str = "reading clips"

    def read(self, load: Callable[[csv.Row, bool], Read], keep: Callable[[csv.Row, Read], Kept]) -> list[Kept]:
        """What was kept of the usable rows, in the order of the file; a row's mirror image follows it.

        Args:
            load: reads the files of a row, in a thread and a little ahead; told whether the row is mirrored. A
                ValueError or OSError from it leaves the row out.
            keep: what to keep of a row and of what was loaded; called in the caller's thread, in the order of the file.

        Raises:
            train.data.csv.DataError: if more rows than `--max_skipped` cannot be used, or none can.
        """
        processes = self.processes
        records = read_records(self.config, self.needs_actions)
        marked = self._say_what_is_marked()
        clips = list(self._clips(records))
        mine = clips[processes.rank :: processes.count] if self.shared else clips
        ways = (False, True) if self.mirror else (False,)
        items: list[tuple[Place, Any]] = [((*place, mirrored), record) for place, record in mine for mirrored in ways]
        kept: dict[Place, Kept] = {}
        skipped: dict[tuple[int, int], csv.Skipped] = {}  # by row and first frame
        mended: list[Mended] = []
        bar = tqdm(total=len(items), desc=self.title, unit="clip", disable=not processes.is_main, mininterval=2.0)
        loaded = ahead(lambda item: self._load(load, *item), items, self._workers, self.clip_bytes)
        for (place, record), result in loaded:
            bar.update(1)
            number, start, mirrored = place
            if not isinstance(result, Exception):
                kept[place] = keep(*result)
                if not mirrored and result[0].mended:
                    mended.append(result[0].mended)
            elif (number, start) not in skipped:  # a clip and its mirror image are said once
                name = str(record.get("video")) if isinstance(record, dict) else ""
                part = f"clip from {start / self.config.data.fps:.2f} s: " if start else ""
                skipped[number, start] = csv.Skipped(number, name, f"{part}{result}")
                if self.shared or processes.is_main:
                    print(f"skipped row {number} ({name}): {part}{result}", flush=True)
            del result  # a clip may take 100 MB, and the next is waited for
        bar.close()
        self._say_what_was_mended(mended, records)
        # Half of a mirrored pair would tilt what is learnt to one side: a clip is kept both ways or not at all.
        whole = {place: entry for place, entry in kept.items() if place[:2] not in skipped}
        used = min(len(records), self.config.data.max_rows or len(records))
        used -= sum(isinstance(record, csv.LeftOut) for record in itertools.islice(records, used)) if marked else 0
        return self._all(whole, list(skipped.values()), len(clips), used)

    def _say_what_was_mended(self, mended: list[Mended], records: Sequence[Any]) -> None:
        """One line for all rows: of flags that differ from magnitudes, and of first frames that are left alone."""
        if self.shared:
            mended = [entry for part in self.processes.gather(mended) for entry in part]
        if mended:
            self.processes.print(f"in the actions of {len(mended)} rows, {sum(mended, Mended())}")
        images = sum(bool(record.get("input_image")) for record in records if isinstance(record, dict))
        if images and "input_image" not in self.config.data.file_keys():
            self.processes.print(
                f"the input_image of {images} rows is left alone; --data_file_keys video,input_image uses it"
            )

    def _say_what_is_marked(self) -> bool:
        said = marks.of(Path(self.config.data.dataset_metadata_path))
        if words := marks.say(said):
            self.processes.print(f"as {said.path.name} has it: {words}")
        return bool(said)

    @property
    def _workers(self) -> int:
        return self.config.data.dataset_num_workers

    def _clips(self, records: Sequence[Any]) -> Iterator[tuple[tuple[int, int], Any]]:
        """Number of a row and first frame of a clip for each clip, with the row: several of long videos.

        A function of the files alone, so that all processes and every resume see the same clips in the same order.
        """
        data = self.config.data
        base = Path(data.dataset_base_path)

        def windows(record: Any) -> list[int]:
            return csv.windows(record, base, self.num_frames, data.fps, data.window_stride)

        used = itertools.islice(records, data.max_rows)
        for number, (record, starts) in enumerate(ahead(windows, used, self._workers), start=1):
            if isinstance(record, csv.LeftOut):
                continue
            if isinstance(starts, Exception):
                yield (number, 0), csv.RowError(str(starts))
            else:
                later = record | {"input_image": None} if len(starts) > 1 else record  # it belongs to the first
                yield from (((number, start), record if start == starts[0] else later) for start in starts)

    def _load(self, load: Callable[[csv.Row, bool], Read], place: Place, record: Any) -> tuple[csv.Row, Read]:
        number, start, mirrored = place
        base = Path(self.config.data.dataset_base_path)
        keys = self.config.data.file_keys()
        row = csv.parse_row(record, number, base, self.num_frames, self.needs_actions, keys, start)
        if mirrored and row.track is not None:
            row = replace(row, track=row.track.mirrored())
        return row, load(row, mirrored)

    def _all(self, kept: dict[Place, Kept], skipped: list[csv.Skipped], total: int, rows: int) -> list[Kept]:
        """What all processes kept, once it is known what they left out and whether that is little enough."""
        processes, limit = self.processes, self.config.data.max_skipped
        if self.shared:
            kept = {place: entry for part in processes.gather(kept) for place, entry in part.items()}
            skipped = sorted((s for part in processes.gather(skipped) for s in part), key=lambda s: s.row)
        if processes.is_main:
            csv.write_skipped(Path(self.config.checkpoint.output_path) / "skipped.csv", skipped)
        what = "rows" if total == rows else "clips"
        if len(skipped) > limit * total or not kept:
            raise csv.DataError(
                f"{len(skipped)} of {total} {what} cannot be used, more than --max_skipped {limit:g}; "
                f"skipped.csv lists them, the first is: {skipped[0].reason}"
            )
        if skipped:
            processes.print(f"{len(skipped)} of {total} {what} are left out; skipped.csv lists them")
        if total != rows:
            processes.print(f"{rows} rows give {len(kept)} clips")
        return [kept[place] for place in sorted(kept)]


def read_records(config: TrainConfig, needs_actions: bool) -> Sequence[Any]:
    """The raw rows that `--dataset_metadata_path` lists: of a table, or of a manifest of episodes."""
    address = config.data.dataset_metadata_path
    if streams.is_stream(address):
        raise csv.DataError(
            f"--dataset_metadata_path {address} is a stream, and stage {config.stage_name} reads tables and manifests; "
            "streams are for i2v, action, causal, vidar and vidarc"
        )
    path = Path(address)
    if episodes.is_manifest(path):
        return episodes.Manifest(path, config.data.fps)
    return csv.read_records(path, needs_actions)


def files_fingerprint(rows: Iterable[csv.Row]) -> str:
    """Changes when the files of these rows or their order change; told by names, sizes and where clips begin."""
    told = [(row.video.name, _size(row.video), *([row.start] if row.start else [])) for row in rows]
    return hashlib.sha256(key_of(told).encode()).hexdigest()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in picture_files(path)) if path.is_dir() else path.stat().st_size
