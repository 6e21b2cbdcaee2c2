"""Footage with camera poses becomes a dataset: one file a format, and one core for what is the same for all.

A format's module has `read(source)`, which yields a `Trajectory` for each video it finds, or says why not. From there
on poses are camera-to-world in OpenCV axes, brought under the video's clock and cut into clips whose actions the plan's
rule reads from the poses at latent frames.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from train.data.csv import DataError, Skipped, write_skipped
from train.data.importers.trajectory import Trajectory, Unposed
from train.data.importers.turning import RATE, NoMatch, clock_difference
from wanact.actions import CHANNELS, ActionTrack
from wanact.media.video import VideoError, write_mp4
from wanact.shapes import num_latent_frames
from wanact.world.poses import actions_from_poses

__all__ = ["IMPORTERS", "Report", "Trajectory", "Unposed", "import_footage"]

# What stands after `python -m train import` -> its module and what it reads; the next format is one more line.
IMPORTERS = {
    "sekai": ("train.data.importers.sekai", "NAME.mp4 with NAME.npz, `extrinsic` [F, 4, 4]"),
    "tartanair": ("train.data.importers.tartanair", "image_left with pose_left.txt, image_lcam_front with its own"),
    "midair": ("train.data.importers.midair", "sensor_records.hdf5 beside color_left"),
    "uavflow": ("train.data.importers.uavflow", "folders with log.json and pictures"),
    "openfly": ("train.data.importers.openfly", "JSON lists with image_path, index_list, pos and yaw"),
    "colmap": ("train.data.importers.colmap", "a sparse model, text or binary, and its images"),
    "tum": ("train.data.importers.tum", "NAME.mp4 beside NAME.txt with lines `seconds tx ty tz qx qy qz qw`"),
    "kitti": ("train.data.importers.kitti", "NAME.mp4 beside NAME.txt with 12 numbers a line, or KITTI's own folders"),
    "airsim": ("train.data.importers.airsim", "airsim_rec.txt beside images"),
    "dji": ("train.data.importers.dji", "NAME.MP4 beside NAME.SRT, or beside a CSV of AirData or DJI's log viewers"),
    "ulog": ("train.data.importers.ulog", "NAME.mp4 beside NAME.ulg of PX4"),
    "tlog": ("train.data.importers.mavlink", "NAME.mp4 beside NAME.tlog of MAVLink"),
    "bin": ("train.data.importers.mavlink", "NAME.mp4 beside NAME.bin of ArduPilot"),
    "litchi": ("train.data.importers.litchi", "NAME.mp4 beside NAME.csv of waypoints: a plan, not a log"),
    "video": ("train.data.importers.video", "videos alone: every action is estimated from pictures"),
}

SIZE_FOR_TURNING = (72, 128)  # height and width at which a video is looked through to align it
LEAST_PATH = 0.1  # of a recording's longest clip: a clip that hovers is not scaled up until its jitter is a flight


@dataclass
class Report:
    """What was imported: clips, their seconds, how often each channel stands, and what was left out.

    Attributes:
        kind: the format.
        share: of actions in which a channel stands.
        path_units: what counts as one clip's path, for each clip, in the source's unit of length.
        offsets: seconds by which the log's clock is ahead of its video's, for each video where it was looked for, and
            how well they match.
        remarks: what must be known of the poses of a source, as that they are a plan.
        estimated: where actions are read from pictures alone, the error of what reads them; None elsewhere.
        dropped: videos and pieces of them that gave no clip.
    """

    kind: str = ""
    clips: int = 0
    seconds: float = 0.0
    share: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHANNELS, 0.0))
    path_units: dict[str, float] = field(default_factory=dict)
    offsets: dict[str, dict[str, float]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    estimated: dict[str, Any] | None = None
    dropped: list[Skipped] = field(default_factory=list)

    def add(self, track: ActionTrack, seconds: float) -> None:
        on = (track.magnitude > 0).mean(0)
        for name, share in zip(CHANNELS, on, strict=True):
            self.share[name] += (float(share) - self.share[name]) / (self.clips + 1)
        self.clips += 1
        self.seconds += seconds


@dataclass(frozen=True)
class Cut:
    """How footage is cut into clips.

    Attributes:
        num_frames: pixel frames of a clip, 4k+1.
        fps: frames a second of the clips; frames are taken by their time stamps.
        size: height and width of the clips, cut to fit.
        path_units: length that counts as one clip's path; None takes each clip's own, so that its path is 1.
        source_fps: frames a second of a format that has no times; None takes what its data set is said to have.
        offset: seconds by which logs are ahead of their videos; None looks for it where clocks differ.
        smooth_s: deviation of the Gaussian that places are averaged with over time; 0 leaves them.
    """

    num_frames: int = 81
    fps: float = 16.0
    size: tuple[int, int] = (480, 832)
    path_units: float | None = None
    source_fps: float | None = None
    offset: float | None = None
    smooth_s: float = 0.0

    def __post_init__(self) -> None:
        num_latent_frames(self.num_frames)
        for name in ("fps", "path_units", "source_fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise DataError(f"--{name} {value:g} must be above 0")
        if not 0 <= self.smooth_s < math.inf:
            raise DataError(f"--smooth {self.smooth_s:g} must be 0 or more seconds")


def import_footage(kind: str, source: Path, out: Path, cut: Cut | None = None, **settings: Any) -> Report:
    """Write clips.csv, the clips, their poses, skipped.csv and report.json.

    Args:
        kind: one of `IMPORTERS`.
        source: folder or file to read.
        out: folder to write; clips that are there are written anew.
        cut: how footage is cut.
        settings: of a Cut, in place of one.

    Raises:
        DataError: if the source holds nothing of the kind, or a library that the format needs is missing.
    """
    cut = cut or Cut(**settings)
    if not source.exists():
        raise DataError(f"{source} does not exist; name the folder of the footage")
    report, rows = Report(kind), []
    (out / "videos").mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(import_module(IMPORTERS[kind][0]).read(source), start=1):
        if isinstance(found, Skipped):
            report.dropped.append(found)
            continue
        name = found.video.name
        try:
            for clip in _clips(found, cut, number, report):
                path = f"videos/{_stem(found, source)}-{clip.part:03d}.mp4"
                write_mp4(clip.frames, out / path, cut.fps, lossless=True)
                (out / path).with_suffix(".json").write_text(json.dumps(clip.notes | {"source": name}))
                row = {"video": path, "prompt": found.prompt, "action": clip.track.to_json()}
                rows.append(row | ({"estimated": "from pictures"} if isinstance(found, Unposed) else {}))
                if clip.path_units is not None:
                    report.path_units[path] = clip.path_units
                report.add(clip.track, cut.num_frames / cut.fps)
        except (VideoError, NoMatch) as error:
            report.dropped.append(Skipped(number, name, str(error)))
    if not rows:
        reasons = "; ".join(f"{item.video}: {item.reason}" for item in report.dropped[:3]) or "no video was found"
        raise DataError(f"{source} gave no clip of {cut.num_frames} frames ({reasons})")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(out / "clips.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    write_skipped(out / "skipped.csv", report.dropped)
    (out / "report.json").write_text(json.dumps(asdict(report), indent=2))
    return report


def _stem(found: Trajectory | Unposed, source: Path) -> str:
    """A name for the clips of a video that no other video of the source has."""
    try:
        inside = found.video.relative_to(source).with_suffix("")
    except ValueError:
        inside = Path(found.video.stem)
    return "-".join(inside.parts) or found.video.stem or "clip"


@dataclass(frozen=True)
class Clip:
    """One clip, its actions, and what is kept beside it."""

    part: int
    frames: np.ndarray
    track: ActionTrack
    notes: dict[str, Any]
    path_units: float | None = None


def _clips(found: Trajectory | Unposed, cut: Cut, number: int, report: Report) -> Iterator[Clip]:
    if isinstance(found, Unposed):
        report.estimated = found.error
        yield from _estimated_clips(found, cut, number, report)
        return
    found = _under_the_videos_clock(_prepared(found, cut), cut, report)
    if found.remark:
        report.remarks[found.video.name] = found.remark
    yield from _posed_clips(found, cut, number, report)


def _prepared(found: Trajectory, cut: Cut) -> Trajectory:
    if cut.source_fps is not None:
        found = found.at_rate(cut.source_fps)
    return found.smoothed(cut.smooth_s) if cut.smooth_s else found


def _under_the_videos_clock(found: Trajectory, cut: Cut, report: Report) -> Trajectory:
    if cut.offset is not None:
        return found.later(cut.offset)
    if not found.slack:
        return found
    frames = found.frames(0, RATE, SIZE_FOR_TURNING)
    offset, match = clock_difference(found, frames, found.slack)
    report.offsets[found.video.name] = {"seconds": round(offset, 4), "correlation": round(match, 4)}
    noted = found.notes | {"offset_s": round(offset, 4), "offset_correlation": round(match, 4)}
    return replace(found.later(offset), notes=noted)


def _posed_clips(found: Trajectory, cut: Cut, number: int, report: Report) -> Iterator[Clip]:
    """Clips that video and poses both cover."""
    first = max(0, math.ceil(found.seconds[0] * cut.fps - 1e-6))
    frames_covered = int(found.seconds[-1] * cut.fps + 1e-6) + 1 - first
    times = (first + np.arange(max(0, frames_covered // cut.num_frames) * cut.num_frames)) / cut.fps
    parts = times.reshape(-1, cut.num_frames)
    poses = [found.at(part) for part in parts]
    paths = [float(np.linalg.norm(np.diff(part[:, :3, 3], axis=0), axis=1).sum()) for part in poses]
    least = LEAST_PATH * max(paths, default=0.0)
    source = found.frames(first, cut.fps, cut.size)
    for index, (part, part_poses, path) in enumerate(zip(parts, poses, paths, strict=True)):
        frames = _take(source, cut.num_frames)
        if frames is None:
            break
        gap = found.gap_in(part[0], part[-1])
        if gap > found.longest_gap:
            reason = f"{part[0]:.1f} to {part[-1]:.1f} s: the log says nothing for {gap:.1f} s"
            report.dropped.append(Skipped(number, found.video.name, reason))
            continue
        units = cut.path_units or max(path, least) or 1.0
        notes = found.notes | {"poses": part_poses.round(6).tolist(), "path_units": units, "first_s": float(part[0])}
        notes |= {"remark": found.remark} if found.remark else {}
        yield Clip(index, frames, actions_from_poses(part_poses, units), notes, units)
    left = frames_covered - parts.size
    if left > 0:
        reason = f"{left} frames at the end are fewer than the {cut.num_frames} of a clip"
        report.dropped.append(Skipped(number, found.video.name, reason))


def _estimated_clips(found: Unposed, cut: Cut, number: int, report: Report) -> Iterator[Clip]:
    """Clips whose actions are read from their own pictures."""
    source, index = found.frames(0, cut.fps, cut.size), 0
    while (frames := _take(source, cut.num_frames)) is not None:
        track, notes = found.read(frames)
        first = index * cut.num_frames / cut.fps
        refused = notes.get("refused")
        if refused:
            reason = f"{first:.1f} to {first + (cut.num_frames - 1) / cut.fps:.1f} s: {refused}"
            report.dropped.append(Skipped(number, found.video.name, reason))
        else:
            yield Clip(index, frames, track, notes | {"estimated": found.error, "first_s": first})
        index += 1


def _take(source: Iterator[np.ndarray], count: int) -> np.ndarray | None:
    """The next frames [count, H, W, 3], or None if there are fewer."""
    frames: np.ndarray | None = None
    for index in range(count):
        frame = next(source, None)
        if frame is None:
            return None
        if frames is None:
            frames = np.empty((count, *frame.shape), np.uint8)  # filled in place: a clip is never there twice
        frames[index] = frame
    return frames
