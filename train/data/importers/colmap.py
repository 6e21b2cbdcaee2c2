"""COLMAP's sparse models, text and binary: where each picture was taken.

An image holds the world-to-camera rotation and translation, in OpenCV axes, at a scale of its own. Pictures have no
times: the number in a picture's name counts frames, so that those which COLMAP left out leave a gap.

Source: https://colmap.github.io/format.html; read by pycolmap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import camera_poses
from train.data.importers.trajectory import Trajectory, library

ASSUMED_FPS = 16.0  # at which frames were taken from the video; --source_fps is another
LONGEST_GAP = 3  # frames that may be missing between two


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each model below the source; pictures lie in `images` there, or beside the model."""
    models = sorted({file.parent for kind in ("bin", "txt") for file in source.rglob(f"images.{kind}")})
    for number, model in enumerate(models, start=1):
        name = str(model.relative_to(source)) if model != source else source.name
        try:
            yield _model(library("pycolmap", "colmap").Reconstruction(str(model)), model, source)
        except (ValueError, RuntimeError, OSError) as error:
            yield Skipped(number, name, f"the model cannot be used: {str(error).splitlines()[0]}")


def _model(reconstruction: Any, model: Path, source: Path) -> Trajectory:
    images = [image for image in reconstruction.images.values() if _is_placed(image)]
    numbers = {image.name: _number(image.name) for image in images}
    images.sort(key=lambda image: (numbers[image.name], image.name))
    folder = _folder([image.name for image in images], model, source)
    matrices = np.array([np.asarray(_world_to_camera(image).matrix()) for image in images])
    if len(matrices) < 2:
        raise ValueError(f"{len(matrices)} pictures have a place, expected at least 2")
    rotations = matrices[:, :, :3].transpose(0, 2, 1)
    poses = camera_poses(rotations, -(rotations @ matrices[:, :, 3:])[:, :, 0])
    frames = np.array([numbers[image.name] for image in images])
    frames = (frames - frames[0]) // max(1, math.gcd(*np.diff(frames).tolist()))
    times = frames / ASSUMED_FPS
    pictures = tuple(folder / image.name for image in images)
    gap = (LONGEST_GAP + 0.5) / ASSUMED_FPS
    return Trajectory(folder, times, poses, "", pictures, times, ASSUMED_FPS, longest_gap=gap)


def _is_placed(image: Any) -> bool:
    return bool(getattr(image, "has_pose", True))


def _world_to_camera(image: Any) -> Any:
    """A property before pycolmap 3.12, a method since."""
    return image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world


def _number(name: str) -> int:
    """The last number of a picture's name."""
    found = re.findall(r"\d+", Path(name).stem)
    if not found:
        raise ValueError(f"{name} has no number, which would say when it was taken")
    return int(found[-1])


def _folder(names: list[str], model: Path, source: Path) -> Path:
    for folder in (source / "images", *(parent / "images" for parent in (model, *model.parents[:3])), source, model):
        if names and all((folder / name).is_file() for name in names):
            return folder
    raise ValueError(f"its pictures ({names[0] if names else 'none'}, ...) are missing; put them into images")
