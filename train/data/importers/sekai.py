"""Sekai's camera release: NAME.npz with `extrinsic` [F, 4, 4] for NAME.mp4, one matrix a frame.

Matrices are camera-to-world in OpenCV axes; in each video places are scaled so that no coordinate exceeds 1, so they
are not metres, and two videos do not compare.

Source: the maintainer's answer in https://github.com/Lixsp11/sekai-codebase/issues/15; keys as in the released archives
(`intrinsic` [3, 3] normalised, `extrinsic` [F, 4, 4]). The data set is for research alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import camera_poses
from train.data.importers.tables import Table
from train.data.importers.trajectory import Trajectory, frame_rate, videos_in
from wanact.media.footage import num_frames_of
from wanact.media.video import VideoError

MOST_MISSING = 2  # poses that may be missing at a video's end, or frames


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each video with the archive of its name, wherever in the source either lies; captions from a CSV there."""
    archives = {file.stem: file for file in source.rglob("*.npz")}
    captions = _captions(source)
    for number, video in enumerate(videos_in(source), start=1):
        file = archives.get(video.stem)
        if file is None:
            yield Skipped(number, video.name, f"{video.stem}.npz with its camera is missing")
            continue
        try:
            poses = _extrinsics(file)
            fps, count = frame_rate(video), num_frames_of(video)
            if abs(count - len(poses)) > MOST_MISSING:
                raise ValueError(f"{len(poses)} matrices for a video of {count} frames, expected one a frame")
            yield Trajectory(video, np.arange(len(poses)) / fps, poses, captions.get(video.stem, ""))
        except (OSError, ValueError, KeyError, VideoError) as error:
            yield Skipped(number, video.name, f"{file.name} cannot be used: {error}")


def _extrinsics(file: Path) -> np.ndarray:
    with np.load(file, allow_pickle=False) as archive:
        key = next((name for name in ("extrinsic", "extrinsics") if name in archive), None)
        if key is None:
            raise ValueError(f"it has {', '.join(archive.files)}, expected extrinsic")
        matrices = np.asarray(archive[key], np.float64)
    if matrices.ndim != 3 or matrices.shape[1:] not in ((4, 4), (3, 4)):
        raise ValueError(f"{key} has shape {matrices.shape}, expected (F, 4, 4)")
    return camera_poses(matrices[:, :3, :3], matrices[:, :3, 3])


def _captions(source: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(source.rglob("*.csv")):
        table = Table(file)
        names, captions = table.find("videoFile", "video", "clip", "name"), table.find("caption", "prompt", "text")
        if names and captions:
            found |= {
                Path(name).stem: text for name, text in zip(table.texts(names), table.texts(captions), strict=True)
            }
    return found
