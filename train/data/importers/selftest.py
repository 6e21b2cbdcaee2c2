"""The round trip of every format: a simulated flight, written as others write it, comes back as the actions flown.

Writers take the simulator's poses to each format by their own arithmetic, so that a sign or an axis that an importer
has wrong shows as an error of the channel that it swaps.
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from train.data.importers import LEAST_PATH, Cut, Trajectory, import_footage
from wanact.actions import CHANNELS, ActionTrack
from wanact.media.video import encode_jpeg, write_mp4
from wanact.world.painted import simulator
from wanact.world.poses import DEAD_ZONE, PATH_UNITS, actions_from_poses, pose_matrix

FPS, NUM_FRAMES, SIZE = 16.0, 21, (32, 64)
SECONDS = 12  # of a flight: enough turning to tell when it begins
FIELD_OF_VIEW_DEG = 75.0
ATTEMPTS = 50  # flights that are tried until one moves every channel

# The simulator's world is north, east, down with a body whose nose is the camera's view: the columns of the camera's
# matrix are right, down, forward, those of the body's forward, right, down.
_BODY = [2, 0, 1]


@dataclass(frozen=True)
class Flight:
    """A simulated flight, [F, 4, 4] camera-to-world poses, 16 a second; the video begins and ends within it.

    Attributes:
        poses: as `wanact.world` flies them.
        before: seconds of the flight that a log has before its video begins.
    """

    poses: np.ndarray
    before: float = 0.0

    @property
    def seconds(self) -> np.ndarray:
        """Of each pose after the flight's beginning."""
        return np.arange(len(self.poses)) / FPS

    def at(self, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Times and poses at another rate, from the flight's beginning to its end."""
        times = np.arange(int(self.seconds[-1] * rate + 1e-6) + 1) / rate
        return times, Trajectory(Path(), self.seconds, self.poses).at(times)

    @property
    def shown(self) -> np.ndarray:
        """The poses of the video's frames, 16 a second."""
        return self.poses[round(self.before * FPS) :]

    def frames(self, poses: np.ndarray) -> Iterator[np.ndarray]:
        """What a camera in the middle of a painted drum sees: pictures that turn and tilt, and do not move."""
        rng = np.random.default_rng(5)
        height, width = SIZE
        focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
        drum = rng.integers(0, 256, (24, 40, 3), np.uint8)
        drum = cv2.resize(np.hstack([drum, drum[:, :1]]), (round(2 * np.pi * focal), 4 * height))
        for pose in poses:
            forward = pose[:3, 2]
            column = np.arctan2(forward[1], forward[0]) * focal + np.arange(width)
            row = 2 * height - np.arcsin(-forward[2]) * focal + np.arange(height) - height / 2
            x, y = np.meshgrid(column % drum.shape[1], row)
            yield cv2.remap(drum, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)

    def write_video(self, file: Path, rate: float = FPS) -> None:
        """The video, from where it begins in the flight."""
        file.parent.mkdir(parents=True, exist_ok=True)
        times, poses = self.at(rate)
        write_mp4(self.frames(poses[times >= self.before - 1e-9]), file, rate)

    def write_pictures(self, folder: Path, suffix: str = "", rate: float = FPS) -> list[str]:
        """The video as pictures, and their names."""
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        for number, frame in enumerate(self.frames(self.at(rate)[1])):
            names.append(f"{number:06d}{suffix}.jpg")
            (folder / names[-1]).write_bytes(encode_jpeg(frame))
        return names


def body_to_ned(poses: np.ndarray) -> Rotation:
    """Attitude of a body whose nose is the camera's view."""
    return Rotation.from_matrix(poses[:, :3, _BODY])


def wxyz(rotations: Rotation) -> np.ndarray:
    """Quaternions, the scalar first."""
    return np.roll(rotations.as_quat(), 1, axis=1)


def angles_deg(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Yaw clockwise from north and pitch up, of the view itself."""
    forward = poses[:, :3, 2]
    return np.degrees(np.arctan2(forward[:, 1], forward[:, 0])), np.degrees(np.arcsin(-forward[:, 2]))


def write_sekai(flight: Flight, folder: Path) -> None:
    """Places scaled so that none exceeds 1."""
    flight.write_video(folder / "flight.mp4")
    matrices = flight.poses.copy()
    matrices[:, :3, 3] /= np.abs(matrices[:, :3, 3]).max()
    np.savez(folder / "flight.npz", extrinsic=matrices, intrinsic=np.eye(3))


def write_tartanair(flight: Flight, folder: Path) -> None:
    """Version 1."""
    flight.write_pictures(folder / "P000/image_left", "_left")
    rows = np.hstack([flight.poses[:, :3, 3], body_to_ned(flight.poses).as_quat()])
    np.savetxt(folder / "P000/pose_left.txt", rows)


def write_midair(flight: Flight, folder: Path) -> None:
    """Records 100 a second, pictures 25."""
    import h5py

    stream = "color_left/trajectory_0000"
    names = flight.write_pictures(folder / stream, rate=25)
    _, poses = flight.at(100)
    with h5py.File(folder / "sensor_records.hdf5", "w") as file:
        group = file.create_group("trajectory_0000")
        group["groundtruth/position"] = poses[:, :3, 3]
        group["groundtruth/attitude"] = wxyz(body_to_ned(poses))
        group["camera_data/color_left"] = [f"{stream}/{name}" for name in names]


def write_uavflow(flight: Flight, folder: Path) -> None:
    """Unreal's axes: z up, in centimetres."""
    flight.write_pictures(folder / "2025-03-30_11-49-14")
    x, y, down = 100 * flight.poses[:, :3, 3].T
    yaw, zero = angles_deg(flight.poses)[0], np.zeros(len(flight.poses))
    rows = np.stack([x, y, -down, zero, yaw, zero], axis=1)
    log = {"raw_logs": rows.tolist(), "preprocessed_logs": rows.tolist(), "instruction": "Fly on."}
    (folder / "2025-03-30_11-49-14/log.json").write_text(json.dumps(log))


def write_openfly(flight: Flight, folder: Path) -> None:
    """x forward, y to the left, z up; yaw counter-clockwise in radians."""
    names = flight.write_pictures(folder / "env_airsim_16/one")
    x, y, down = flight.poses[:, :3, 3].T
    entry = {
        "image_path": "env_airsim_16/one",
        "index_list": [Path(name).stem for name in names],
        "pos": np.stack([x, -y, -down], axis=1).tolist(),
        "yaw": np.radians(-angles_deg(flight.poses)[0]).tolist(),
        "gpt_instruction": "Fly on.",
        "action": [1] * len(names),
    }
    (folder / "train.json").write_text(json.dumps([entry]))


def write_colmap(flight: Flight, folder: Path, binary: bool = True) -> None:
    """World to camera; images in no order, as COLMAP leaves them."""
    names = flight.write_pictures(folder / "images")
    model = folder / "sparse/0"
    model.mkdir(parents=True)
    inverse = np.linalg.inv(flight.poses)
    rows = [
        (number, wxyz(Rotation.from_matrix(inverse[number : number + 1, :3, :3]))[0], inverse[number, :3, 3], name)
        for number, name in enumerate(names)
    ]
    np.random.default_rng(0).shuffle(rows)  # pyright: ignore[reportArgumentType]
    if not binary:
        (model / "cameras.txt").write_text("1 SIMPLE_PINHOLE 64 32 40 32 16\n")
        (model / "points3D.txt").write_text("")
        lines = [f"{n + 1} {' '.join(map(repr, map(float, [*q, *t])))} 1 {name}\n\n" for n, q, t, name in rows]
        (model / "images.txt").write_text("".join(lines))
        return
    (model / "cameras.bin").write_bytes(struct.pack("<QIiQQ3d", 1, 1, 0, 64, 32, 40, 32, 16))
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    content = struct.pack("<Q", len(rows))
    for number, quaternion, translation, name in rows:
        content += struct.pack("<I7dI", number + 1, *quaternion, *translation, 1)
        content += name.encode() + b"\0" + struct.pack("<Q", 0)
    (model / "images.bin").write_bytes(content)


def write_colmap_text(flight: Flight, folder: Path) -> None:
    """The same as text."""
    write_colmap(flight, folder, binary=False)


def write_tum(flight: Flight, folder: Path) -> None:
    """Seconds since 1970."""
    flight.write_video(folder / "flight.mp4")
    rotations = Rotation.from_matrix(flight.poses[:, :3, :3]).as_quat()
    rows = np.column_stack([1305031102.0 + flight.seconds, flight.poses[:, :3, 3], rotations])
    np.savetxt(folder / "flight.txt", rows, fmt="%.9f", header="prompt: a drone over hills")


def write_kitti(flight: Flight, folder: Path) -> None:
    """The benchmark's own folders."""
    flight.write_pictures(folder / "sequences/00/image_2")
    np.savetxt(folder / "sequences/00/times.txt", flight.seconds)
    (folder / "poses").mkdir()
    np.savetxt(folder / "poses/00.txt", flight.poses[:, :3].reshape(-1, 12))


def write_airsim(flight: Flight, folder: Path) -> None:
    """Tabs between columns, milliseconds."""
    names = flight.write_pictures(folder / "2026-01-01/images", "_img")
    columns = ["VehicleName", "TimeStamp", "POS_X", "POS_Y", "POS_Z", "Q_W", "Q_X", "Q_Y", "Q_Z", "ImageFile"]
    places, attitudes = flight.poses[:, :3, 3], wxyz(body_to_ned(flight.poses))
    with open(folder / "2026-01-01/airsim_rec.txt", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(columns)
        for seconds, place, quaternion, name in zip(flight.seconds, places, attitudes, names, strict=True):
            writer.writerow(["Drone1", f"{1.7e12 + 1000 * seconds:.1f}", *place, *quaternion, f"{name};other.jpg"])


@dataclass(frozen=True)
class Format:
    """How the round trip of a format is made.

    Attributes:
        kind: of the importer.
        write: a flight into a folder.
        settings: of the import.
        level: whether the format has no pitch, so that the flight has none.
        scaled: whether the format keeps no scale, so that each clip's own path counts as 1.
        before: seconds of log before the video begins.
        within: largest error of translation, in clip paths, and of rotation, in degrees, that the format's own rounding
            and rate explain.
    """

    kind: str
    write: Callable[[Flight, Path], None]
    settings: dict[str, Any] = field(default_factory=dict)
    level: bool = False
    scaled: bool = False
    before: float = 0.0
    within: tuple[float, float] = (1e-4, 1e-2)


_AT_16 = {"source_fps": FPS}
FORMATS = {
    "sekai": Format("sekai", write_sekai, scaled=True),
    "tartanair": Format("tartanair", write_tartanair, _AT_16),
    "midair": Format("midair", write_midair, within=(5e-4, 0.02)),  # a frame lies between two of its records
    "uavflow": Format("uavflow", write_uavflow, _AT_16 | {"path_units": 100 * PATH_UNITS}, level=True),
    "openfly": Format("openfly", write_openfly, _AT_16, level=True),
    "colmap (binary)": Format("colmap", write_colmap, _AT_16),
    "colmap (text)": Format("colmap", write_colmap_text, _AT_16),
    "tum": Format("tum", write_tum),
    "kitti": Format("kitti", write_kitti),
    "airsim": Format("airsim", write_airsim),
}


def simulated(world: simulator.World, level: bool = False, before: float = 0.0, seed: int = 1) -> Flight:
    """A flight of the simulator that moves every channel (all but pitch if level), without drawing it."""
    count = round((SECONDS + before) * FPS / 4) * 4 + 1
    flown = len(CHANNELS) - 2 * level
    for attempt in range(seed, seed + ATTEMPTS):
        poses = simulator.fly_poses(world, np.random.default_rng(attempt), count)
        if level:
            poses = [(x, y, altitude, yaw, 0.0) for x, y, altitude, yaw, _ in poses]
        flight = Flight(np.stack([pose_matrix(pose) for pose in poses]), before)
        moved = actions_from_poses(flight.shown).magnitude > 3 * DEAD_ZONE
        if moved[:, :flown].any(axis=0).all():
            return flight
    raise AssertionError(f"no flight of {ATTEMPTS} moves every channel")


def round_trip(name: str, world: simulator.World, folder: Path, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Largest error of each channel, [8], over all clips of a flight that was written in a format and imported.

    Raises:
        DataError: if the importer finds nothing in what was written, or its library is missing.
    """
    made = FORMATS[name]
    flight = simulated(world, made.level, made.before)
    made.write(flight, folder / "source")
    units = {} if made.scaled else {"path_units": PATH_UNITS}
    cut = Cut(num_frames, FPS, SIZE, **(units | made.settings))
    import_footage(made.kind, folder / "source", folder / "out", cut)
    flown = _truth(flight, made, num_frames)
    errors = []
    with open(folder / "out/clips.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            notes = json.loads((folder / "out" / row["video"]).with_suffix(".json").read_text())
            first = round(notes["first_s"] * FPS)
            errors.append(np.abs(ActionTrack.parse(row["action"]).magnitude - flown(first)).max(axis=0))
    return np.max(errors, axis=0)


def _truth(flight: Flight, made: Format, num_frames: int) -> Callable[[int], np.ndarray]:
    """The simulator's own actions of the clip that begins at a frame of the video, [N, 8]."""

    def path(first: int) -> float:
        places = flight.shown[first : first + num_frames, :3, 3]
        return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())

    longest = max(path(first) for first in range(0, len(flight.shown) - num_frames + 1, num_frames))

    def flown(first: int) -> np.ndarray:
        units = max(path(first), LEAST_PATH * longest) if made.scaled else PATH_UNITS
        return actions_from_poses(flight.shown[first : first + num_frames], units).magnitude

    return flown


def is_within(name: str, errors: np.ndarray) -> bool:
    """Whether errors [8] are no larger than the format's own rounding explains."""
    made = FORMATS[name]
    return bool((errors[:4] <= made.within[0]).all() and (errors[4:] <= made.within[1]).all())


def lacking(name: str) -> tuple[str, ...]:
    """Channels that a format cannot say."""
    return CHANNELS[6:] if FORMATS[name].level else ()
