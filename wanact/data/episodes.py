"""Episodes: a folder for each recording and a manifest that lists them, read by line however many there are.

    DIR/manifest.jsonl            one object a line; or manifest.json, a list, or an object with `episodes`
    DIR/episodes/ep_0001/
        video.mp4                 or front.mp4, left.mp4 and right.mp4, which are seen as one picture
        actions.npy               (T, n), one row for each frame of the video
        instruction.txt           what is done, "" if nobody says

What is the same for all episodes stands in the manifest's object, or in a first line without `episode`: `fps` (10
unless said), and `actions`, which says what a row of actions.npy is:

- `rates`: what was done between the frame before and this one, in the units of a track, an amount a latent frame of
  four. The eight channels of a drone, or its four signed axes (ahead, right, yaw right, pitch up); so are 8 and 4
  columns understood where nothing is said.
- `states`: where the joints stand at this frame; 14 numbers of two arms, or any others.

What is marked of an episode (`wanact.data.marks`) stands in `manifest.jsonl.marks.json`, under its name.

Other than a table, a manifest is never held as a whole: of a million episodes the places of their lines take 8 MB.
"""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from wanact.actions import NUM_CHANNELS, ActionTrack
from wanact.data import marks
from wanact.data.tables import DataError, RowError
from wanact.files import replacing, write_text
from wanact.shapes import TEMPORAL_STRIDE

FPS = 10.0
EPISODES, VIDEO, ACTIONS, INSTRUCTION = "episodes", "video.mp4", "actions.npy", "instruction.txt"
CAMERAS = ("front.mp4", "left.mp4", "right.mp4")
AXES = 4
MOST_MEASURED = 10_000  # episodes whose actions a run's statistics are taken from, spread over all of them

Kind = Literal["rates", "states"]


def is_manifest(path: Path) -> bool:
    """Whether a file of metadata lists episodes: it is called manifest.json or manifest.jsonl."""
    return path.name in ("manifest.json", "manifest.jsonl")


@dataclass(frozen=True)
class Actions:
    """What was done in one episode.

    Attributes:
        values: [T, n], one row for each frame.
        fps: frames a second.
        kind: what a row is; see above.
    """

    values: np.ndarray
    fps: float
    kind: Kind

    def track(self, fps: float) -> ActionTrack:
        """One action for each latent frame of the whole episode after the first, where it is read at `fps`.

        What is done between two latent frames is added up, so that another rate flies the same path, and what goes
        there and back within one of them cancels.

        Raises:
            RowError: if these are no controls of a drone.
        """
        axes = self._axes()
        done = np.cumsum(axes[1:] / TEMPORAL_STRIDE, axis=0)
        done = np.concatenate([np.zeros((1, AXES)), done])  # up to each frame
        step = TEMPORAL_STRIDE * self.fps / fps  # frames of the episode in a latent frame
        places = np.arange(int((len(axes) - 1) / step + 1e-6) + 1) * step
        at = np.stack([np.interp(places, np.arange(len(axes)), done[:, i]) for i in range(AXES)], axis=1)
        return ActionTrack.from_axes(np.diff(at, axis=0).round(9))

    def _axes(self) -> np.ndarray:
        count = self.values.shape[1]
        if self.kind != "rates" or count not in (NUM_CHANNELS, AXES):
            raise RowError(
                f"its {ACTIONS} holds {count} {self.kind} a frame, but the controller takes the {NUM_CHANNELS} "
                f"channels of a drone or its {AXES} axes"
            )
        values = self.values.astype(np.float64)
        if count == AXES:
            return values
        return values[:, [0, 3, 5, 6]] - values[:, [1, 2, 4, 7]]

    def at(self, frames: np.ndarray, fps: float) -> np.ndarray:
        """States at these frames of the episode read at `fps`, straight lines between the known ones: [len, n]."""
        places = np.asarray(frames) * self.fps / fps
        if len(places) and places.max() > len(self.values) - 1 + 1e-6:
            raise RowError(f"its {ACTIONS} has {len(self.values)} rows, and frame {frames.max()} has none")
        known = np.arange(len(self.values))
        columns = [np.interp(places, known, column) for column in self.values.T.astype(np.float64)]
        return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Episode:
    """One line of a manifest; its files are read when they are asked for.

    Attributes:
        name: of its folder.
        folder: where its files lie.
        fps: frames a second of its actions.
        kind: what its actions are, or None if nobody says.
        num_frames: as the manifest has it, or None.
    """

    name: str
    folder: Path
    fps: float
    kind: Kind | None
    num_frames: int | None

    @property
    def video(self) -> Path:
        """Its picture, or the front camera of three."""
        front = self.folder / CAMERAS[0]
        return front if front.is_file() and not (self.folder / VIDEO).is_file() else self.folder / VIDEO

    @property
    def views(self) -> tuple[Path, ...]:
        """The other two cameras, if there are three."""
        return tuple(self.folder / name for name in CAMERAS[1:]) if self.video.name == CAMERAS[0] else ()

    def instruction(self) -> str:
        """What is done in it; "" if nobody says."""
        try:
            return (self.folder / INSTRUCTION).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise RowError(f"{INSTRUCTION} is not UTF-8") from error

    def actions(self) -> Actions:
        """What was done in it.

        Raises:
            RowError: if the file is missing, damaged, or no table of finite numbers.
        """
        try:
            values = np.load(self.folder / ACTIONS, allow_pickle=False)
        except FileNotFoundError as error:
            raise RowError(f"{ACTIONS} is missing") from error
        except (ValueError, EOFError, OSError) as error:
            raise RowError(f"{ACTIONS} cannot be read: {error}") from error
        if values.ndim != 2 or not len(values) or values.dtype.kind not in "iuf":
            raise RowError(f"{ACTIONS} is {values.dtype} {values.shape}, expected numbers (T, n)")
        if not np.isfinite(values).all():
            raise RowError(f"{ACTIONS} holds NaN or infinity in row {np.argwhere(~np.isfinite(values))[0][0]}")
        kind = self.kind or ("rates" if values.shape[1] in (NUM_CHANNELS, AXES) else "states")
        return Actions(values, self.fps, kind)

    def length(self, fps: float) -> int:
        """Frames of it at `fps`: as the manifest says, or as many as its actions have rows."""
        count = self.num_frames
        if count is None:
            try:
                count = len(np.load(self.folder / ACTIONS, mmap_mode="r", allow_pickle=False))
            except (ValueError, EOFError, OSError, TypeError) as error:
                raise RowError(f"{ACTIONS} cannot be read: {error}") from error
        return int((count - 1) * fps / self.fps + 1e-6) + 1

    def record(self, fps: float) -> dict[str, Any]:
        """As a row of a table; words and actions are read when the row is checked."""
        return {
            "video": str(self.video),
            "views": self.views,
            "prompt": self.instruction,
            "action": lambda: self.actions().track(fps),
            "states": lambda frames: self.actions().at(frames, fps),
        }


class Manifest(Sequence[Any]):
    """The episodes of a manifest as rows of a table, each read from its line when it is asked for.

    Args:
        path: manifest.json or manifest.jsonl; episodes lie in `episodes/` beside it.
        fps: rate at which a run reads them; None for their own.

    Raises:
        DataError: if it cannot be read, or lists nothing.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self.path = path
        self._listed: list[Any] = []
        self._lines = array("q")  # where the line of each episode begins
        try:
            head = self._read_lines() if path.suffix == ".jsonl" else self._read_whole()
        except OSError as error:
            raise DataError(f"--dataset_metadata_path {path} cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, json.JSONDecodeError, RowError) as error:
            raise DataError(f"--dataset_metadata_path {path} is damaged: {error}") from error
        self.own_fps: float
        self.kind: Kind | None
        self.own_fps, self.kind = _checked_head(path, head)
        self.fps = self.own_fps if fps is None else fps
        self.marks = marks.of(path).at_rate(self.fps / self.own_fps)
        if not len(self):
            raise DataError(f"{path} lists no episode")

    def _read_lines(self) -> dict[str, Any]:
        with open(self.path, "rb") as file:
            place = 0
            for line in file:
                if line.strip():
                    self._lines.append(place)
                place += len(line)
        first = self._entry(0) if self._lines else None
        if not isinstance(first, dict) or "episode" in first:
            return {}
        self._lines.pop(0)
        return first

    def _read_whole(self) -> dict[str, Any]:
        content = json.loads(self.path.read_text(encoding="utf-8"))
        head = content if isinstance(content, dict) else {EPISODES: content}
        listed = head.get(EPISODES)
        if not isinstance(listed, list):
            raise DataError(f"{self.path} must hold a list of episodes, or an object with `episodes`")
        self._listed = listed
        return head

    def __len__(self) -> int:
        return len(self._listed) or len(self._lines)

    def __getitem__(self, index: Any) -> dict[str, Any] | RowError:
        """A row as it is marked, or why its line is none."""
        try:
            episode = self.episode(index)
            return self.marks.apply(episode.name, episode.record(self.fps))
        except RowError as error:
            return error

    def __iter__(self) -> Iterator[dict[str, Any] | RowError]:
        return (self[i] for i in range(len(self)))

    def episode(self, index: int) -> Episode:
        """One of the episodes.

        Raises:
            RowError: if its line is no episode.
        """
        entry = self._entry(index)
        name = entry if isinstance(entry, str) else entry.get("episode") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise RowError("is no episode: expected its folder's name, or an object with `episode`")
        count = entry.get("num_frames") if isinstance(entry, dict) else None
        if count is not None and (not isinstance(count, int) or count < 1):
            raise RowError(f"num_frames is {count!r}, expected a whole number above 0")
        folder = self.path.parent / EPISODES / name
        return Episode(name, folder, self.own_fps, self.kind, count)

    def _entry(self, index: int) -> Any:
        if self._listed:
            return self._listed[index]
        with open(self.path, "rb") as file:
            file.seek(self._lines[index])
            try:
                return json.loads(file.readline())
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise RowError(f"is not valid JSON: {error}") from error


def _checked_head(path: Path, head: dict[str, Any]) -> tuple[float, Kind | None]:
    fps, kind = head.get("fps", FPS), head.get("actions")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1000:
        raise DataError(f"{path} has fps {fps!r}, expected frames a second")
    if kind not in (None, *get_args(Kind)):
        raise DataError(f"{path} has actions {kind!r}, expected rates or states")
    return float(fps), cast("Kind | None", kind)


@dataclass(frozen=True)
class Statistics:
    """Of actions: mean, standard deviation, least and most of each of the n numbers, over `rows` frames."""

    rows: int
    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def statistics(manifest: Manifest) -> Statistics:
    """Of the actions of at most `MOST_MEASURED` episodes, evenly spread; what cannot be read is passed over.

    Raises:
        DataError: if none can be read, or two episodes have different n.

    Source: sums are joined as in Chan et al. 1979, so that large means cost no digits.
    """
    count, mean, squares = 0, np.zeros(0), np.zeros(0)
    low, high = np.zeros(0), np.zeros(0)
    for index in np.unique(np.linspace(0, len(manifest) - 1, min(len(manifest), MOST_MEASURED)).astype(int)):
        try:
            values = manifest.episode(int(index)).actions().values.astype(np.float64)
        except RowError:
            continue
        if count and values.shape[1] != len(mean):
            raise DataError(f"{manifest.path}: episodes have {len(mean)} and {values.shape[1]} actions a frame")
        own, far = values.mean(axis=0), (values.min(axis=0), values.max(axis=0))
        own_squares = np.square(values - own).sum(axis=0)
        if not count:
            mean, squares, low, high = own * 0, own * 0, *far
        delta, total = own - mean, count + len(values)
        squares = squares + own_squares + np.square(delta) * count * len(values) / total
        mean, count = mean + delta * len(values) / total, total
        low, high = np.minimum(low, far[0]), np.maximum(high, far[1])
    if not count:
        raise DataError(f"{manifest.path}: no episode has actions that can be read")
    return Statistics(count, mean.tolist(), np.sqrt(squares / count).tolist(), low.tolist(), high.tolist())


def expanded(track: ActionTrack) -> np.ndarray:
    """A track as actions.npy holds it: one row for each frame, float32 [4 N + 1, 8]; the first frame does nothing."""
    rows = np.repeat(track.magnitude, TEMPORAL_STRIDE, axis=0)
    return np.concatenate([np.zeros((1, NUM_CHANNELS), np.float32), rows])


def folder_of(number: int) -> str:
    """Where an episode lies beside its manifest, counted from 1."""
    return f"{EPISODES}/ep_{number:04d}"


def write_actions(folder: Path, track: ActionTrack, instruction: str) -> None:
    """Write what belongs to an episode's video, each file whole or not at all."""
    content = io.BytesIO()
    np.save(content, expanded(track))
    with replacing(folder / ACTIONS) as temporary:
        temporary.write_bytes(content.getvalue())
    write_text(folder / INSTRUCTION, instruction + "\n")


def write_manifest(path: Path, lengths: Iterable[tuple[str, int]], fps: float = FPS, kind: Kind = "rates") -> None:
    """Write a manifest of JSON lines.

    Args:
        path: manifest.jsonl.
        lengths: folder of each episode, as `folder_of` names it, and its frames.
        fps: frames a second of all of them.
        kind: what their actions are.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps({"fps": fps, "actions": kind}) + "\n")
        for folder, count in lengths:
            file.write(json.dumps({"episode": Path(folder).name, "num_frames": count}) + "\n")
