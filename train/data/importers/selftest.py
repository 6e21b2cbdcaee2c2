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

from train.data.csv import DataError
from train.data.importers import LEAST_PATH, Cut, Trajectory, import_footage
from train.data.importers.axes import metres_per_degree
from wanact.actions import CHANNELS, ActionTrack
from wanact.media.video import encode_jpeg, write_mp4
from wanact.world import simulator
from wanact.world.poses import DEAD_ZONE, PATH_UNITS, actions_from_poses, pose_matrix

FPS, NUM_FRAMES, SIZE = 16.0, 21, (32, 64)
SECONDS = 12  # of a flight: enough turning to tell when it begins
FIELD_OF_VIEW_DEG = 75.0
DJI_FPS = 30.0
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


def fixes(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latitude and longitude in degrees and altitude in metres of a flight over the Alps, a unit being a metre."""
    north, east, down = poses[:, :3, 3].T
    per_latitude, per_longitude = metres_per_degree(47.0)
    return 47.0 + (north - north[0]) / per_latitude, 8.5 + (east - east[0]) / per_longitude, 400 - down + down[0]


def write_dji(flight: Flight, folder: Path) -> None:
    """Subtitles of newer drones."""
    _write_subtitles(flight, folder, newer_dji)


def newer_dji(latitude: float, longitude: float, altitude: float, yaw: float, pitch: float) -> str:
    """A row of newer drones: six decimals of a degree, one of the gimbal's."""
    return (
        f"[iso: 100] [shutter: 1/1000.0] [fnum: 1.7] [latitude: {latitude:.6f}] [longitude: {longitude:.6f}] "
        f"[rel_alt: {altitude - 400:.3f} abs_alt: {altitude:.3f}] "
        f"[gb_yaw: {yaw:.1f} gb_pitch: {pitch:.1f} gb_roll: 0.0]"
    )


def write_dji_matrice(flight: Flight, folder: Path) -> None:
    """Subtitles of enterprise drones: longitude first, the gimbal as pitch, roll, yaw."""

    def entry(latitude: float, longitude: float, altitude: float, yaw: float, pitch: float) -> str:
        return (
            f"F/2.8, SS 400, ISO 100, EV 0, DZOOM 1.0, GPS ({longitude:.6f}, {latitude:.6f}, 21), D 80.50m, "
            f"H {altitude - 400:.2f}m, H.S 3.20m/s, V.S 0.00m/s, F.PRY (1.2, -0.5, 88.0), "
            f"G.PRY ({pitch:.1f}, 0.0, {yaw:.1f})"
        )

    _write_subtitles(flight, folder, entry)


def _write_subtitles(flight: Flight, folder: Path, entry: Callable[..., str]) -> None:
    flight.write_video(folder / "DJI_0001.MP4", DJI_FPS)
    times, poses = flight.at(DJI_FPS)
    (folder / "DJI_0001.SRT").write_text(dji_subtitles(times, poses, entry))


def dji_subtitles(seconds: np.ndarray, poses: np.ndarray, entry: Callable[..., str] = newer_dji) -> str:
    """What DJI's drones write beside a video: a subtitle a frame.

    Args:
        seconds: of each frame, [F].
        poses: camera-to-world, OpenCV axes, in metres, [F, 4, 4].
        entry: latitude, longitude, altitude, yaw and pitch -> the words of a dialect.
    """
    lines = []
    for number, row in enumerate(zip(seconds, *fixes(poses), *angles_deg(poses), strict=True)):
        begin, end = (f"00:00:{t:06.3f}".replace(".", ",") for t in (row[0], row[0] + 1 / DJI_FPS))
        head = f'<font size="28">FrameCnt: {number + 1}, DiffTime: 33ms\n2026-02-12 11:15:29.246'
        lines.append(f"{number + 1}\n{begin} --> {end}\n{head}\n{entry(*row[1:])} </font>\n")
    return "\n".join(lines)


def write_dji_csv(flight: Flight, folder: Path) -> None:
    """AirData's export: ten rows a second, feet, and a column that says when the recording ran."""
    flight.write_video(folder / "DJI_0001.MP4")
    times, poses = flight.at(10)
    names = ["time(millisecond)", "latitude", "longitude", "height_above_takeoff(feet)", "isVideo"]
    names += ["gimbal_heading(degrees)", "gimbal_pitch(degrees)"]
    with open(folder / "Feb-12th-2026-11-15AM-Flight-Airdata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for t, latitude, longitude, altitude, yaw, pitch in zip(times, *fixes(poses), *angles_deg(poses), strict=True):
            feet = f"{altitude / 0.3048:.2f}"
            recorded = int(t >= flight.before + 0.4)  # a recording is said to run a little late
            place = [f"{latitude:.9f}", f"{longitude:.9f}"]
            writer.writerow([round(1000 * t), *place, feet, recorded, f"{yaw % 360:.1f}", f"{pitch:.1f}"])


def write_ulog(flight: Flight, folder: Path) -> None:
    """A log with a gimbal whose yaw counts from the nose, while the body leans as it flies."""
    flight.write_video(folder / "flight.mp4")
    formats = {
        "vehicle_attitude": "uint64_t timestamp;float[4] q;",
        "vehicle_local_position": "uint64_t timestamp;float x;float y;float z;",
        "gimbal_device_attitude_status": "uint64_t timestamp;float[4] q;uint16_t device_flags;",
    }
    content = bytes.fromhex("554c6f67011235") + b"\x01" + struct.pack("<Q", 0)
    for name, fields in formats.items():
        content += _ulog_message("F", f"{name}:{fields}".encode())
    for number, name in enumerate(formats):
        content += _ulog_message("A", struct.pack("<BH", 0, number) + name.encode())
    yaw, pitch = angles_deg(flight.poses)
    body = wxyz(Rotation.from_euler("ZYX", np.stack([yaw, 0 * yaw - 9, 0 * yaw + 4], 1), degrees=True))
    gimbal = wxyz(Rotation.from_euler("ZYX", np.stack([0 * yaw, pitch, 0 * yaw], 1), degrees=True))
    for index, t in enumerate(flight.seconds):
        stamp = struct.pack("<Q", round(1e6 * (t + 40)))
        rows = (body[index], flight.poses[index, :3, 3], gimbal[index])
        tails = (b"", b"", struct.pack("<H", 0))
        for number, (row, tail) in enumerate(zip(rows, tails, strict=True)):
            data = struct.pack("<H", number) + stamp + struct.pack(f"<{len(row)}f", *row) + tail
            content += _ulog_message("D", data)
    (folder / "flight.ulg").write_bytes(content)


def _ulog_message(kind: str, content: bytes) -> bytes:
    return struct.pack("<Hc", len(content), kind.encode()) + content


def write_tlog(flight: Flight, folder: Path) -> None:
    """Telemetry with fixes of 1e-7 degrees, and no gimbal."""
    from pymavlink.dialects.v20 import common as mavlink

    flight.write_video(folder / "flight.mp4")
    link = mavlink.MAVLink(None, srcSystem=1, srcComponent=1)
    yaw, pitch = angles_deg(flight.poses)
    content = b""
    rows = zip(flight.seconds, *fixes(flight.poses), np.radians(yaw), np.radians(pitch), strict=True)
    for t, latitude, longitude, altitude, yaw_rad, pitch_rad in rows:
        boot, stamp = round(1000 * t) + 50_000, struct.pack(">Q", round(1.7e15 + 1e6 * t))
        place = (round(1e7 * latitude), round(1e7 * longitude), round(1000 * altitude), 0, 0, 0, 0, 0)
        for message in (
            mavlink.MAVLink_attitude_message(boot, 0, pitch_rad, yaw_rad, 0, 0, 0),
            mavlink.MAVLink_global_position_int_message(boot, *place),
        ):
            content += stamp + message.pack(link)
    (folder / "flight.tlog").write_bytes(content)


def write_bin(flight: Flight, folder: Path) -> None:
    """A DataFlash log of a mounted camera that looks along the nose."""
    flight.write_video(folder / "flight.mp4")
    formats = {  # number, name -> field types, names
        (128, "FMT"): ("BBnNZ", "Type,Length,Name,Format,Columns", "<BB4s16s64s"),
        (130, "ATT"): ("Qfff", "TimeUS,Roll,Pitch,Yaw", "<Qfff"),
        (131, "POS"): ("QLLf", "TimeUS,Lat,Lng,Alt", "<Qiif"),
    }
    content = b""
    for (number, name), (types, names, packed) in formats.items():
        length = 3 + struct.calcsize(packed)
        described = struct.pack("<BB4s16s64s", number, length, name.encode(), types.encode(), names.encode())
        content += b"\xa3\x95" + bytes([128]) + described
    for t, latitude, longitude, altitude, yaw, pitch in zip(
        flight.seconds, *fixes(flight.poses), *angles_deg(flight.poses), strict=True
    ):
        stamp = round(1e6 * t) + 30_000_000
        content += b"\xa3\x95" + bytes([130]) + struct.pack("<Qfff", stamp, 0.0, pitch, yaw % 360)
        place = struct.pack("<Qiif", stamp, round(1e7 * latitude), round(1e7 * longitude), altitude)
        content += b"\xa3\x95" + bytes([131]) + place
    (folder / "flight.bin").write_bytes(content)


def write_litchi(flight: Flight, folder: Path) -> None:
    """A waypoint for each frame at which the drone is elsewhere, and a stay where it is not."""
    flight.write_video(folder / "flight.mp4")
    places, speeds = flight.poses[:, :3, 3], []
    for step in np.linalg.norm(np.diff(places, axis=0), axis=1):
        speeds.append(step * FPS)
    names = ["latitude", "longitude", "altitude(m)", "heading(deg)", "curvesize(m)", "rotationdir", "gimbalmode"]
    names += ["gimbalpitchangle", "actiontype1", "actionparam1", "altitudemode", "speed(m/s)"]
    with open(folder / "flight.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        rows = zip(*fixes(flight.poses), *angles_deg(flight.poses), [*speeds, speeds[-1]], strict=True)
        for latitude, longitude, altitude, yaw, pitch, speed in rows:
            writer.writerow([latitude, longitude, altitude, yaw % 360, 0, 0, 2, pitch, -1, 0, 0, speed])


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
        moving: whether the format cannot say how long a drone stands still, so that the flight never does.
        within: largest error of translation, in clip paths, and of rotation, in degrees, that the format's own rounding
            and rate explain.
    """

    kind: str
    write: Callable[[Flight, Path], None]
    settings: dict[str, Any] = field(default_factory=dict)
    level: bool = False
    scaled: bool = False
    before: float = 0.0
    moving: bool = False
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
    # Six decimals of a degree are 0.11 m, 0.0006 of these paths; an action at the dead zone may stand in one of both.
    "dji (subtitles)": Format("dji", write_dji, within=(4e-3, 0.5)),
    "dji (enterprise)": Format("dji", write_dji_matrice, within=(4e-3, 0.5)),
    "dji (csv)": Format("dji", write_dji_csv, before=3.0, within=(0.012, 0.8)),
    "ulog": Format("ulog", write_ulog, before=3.0, within=(3e-3, 0.35)),
    "tlog": Format("tlog", write_tlog, before=3.0, within=(3e-3, 0.35)),
    "bin": Format("bin", write_bin, before=3.0, within=(3e-3, 0.35)),
    "litchi": Format("litchi", write_litchi, before=3.0, within=(3e-3, 0.35), moving=True),
}


def simulated(
    world: simulator.World, level: bool = False, before: float = 0.0, moving: bool = False, seed: int = 1
) -> Flight:
    """A flight of the simulator that moves every channel (all but pitch if level), without drawing it."""
    count = round((SECONDS + before) * FPS / 4) * 4 + 1
    flown = len(CHANNELS) - 2 * level
    for attempt in range(seed, seed + ATTEMPTS):
        rng = np.random.default_rng(attempt)
        poses = simulator.fly_poses(world, rng, count, _never_still(rng, (count - 1) // 4) if moving else None)
        if level:
            poses = [(x, y, altitude, yaw, 0.0) for x, y, altitude, yaw, _ in poses]
        flight = Flight(np.stack([pose_matrix(pose) for pose in poses]), before)
        moved = actions_from_poses(flight.shown).magnitude > 3 * DEAD_ZONE
        if moved[:, :flown].any(axis=0).all():
            return flight
    raise AssertionError(f"no flight of {ATTEMPTS} moves every channel")


def _never_still(rng: np.random.Generator, count: int) -> ActionTrack:
    """Sticks that always ask to go somewhere, each held for three actions."""
    axes = rng.choice([-1.0, 1.0], (count // 3 + 1, 4)) * rng.uniform(0.5, 1.0, (count // 3 + 1, 4))
    axes[:, 2:] *= rng.random((len(axes), 2)) < 0.6
    return ActionTrack.from_axes((axes * [0.05, 0.05, 3.0, 3.0]).repeat(3, axis=0)[:count])


def round_trip(name: str, world: simulator.World, folder: Path, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Largest error of each channel, [8], over all clips of a flight that was written in a format and imported.

    Raises:
        DataError: if the importer finds nothing in what was written, or its library is missing.
    """
    made = FORMATS[name]
    flight = simulated(world, made.level, made.before, made.moving)
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


def video_errors() -> dict[str, Any]:
    """Mean errors of what is read from pictures alone, see `video.measured`."""
    from train.data.importers import video

    model = video.load_idm()
    if model is None:
        raise DataError("assets/idm holds no inverse dynamics model; python -m train idm makes one")
    return video.measured(model)


def is_within(name: str, errors: np.ndarray) -> bool:
    """Whether errors [8] are no larger than the format's own rounding explains."""
    made = FORMATS[name]
    return bool((errors[:4] <= made.within[0]).all() and (errors[4:] <= made.within[1]).all())


def lacking(name: str) -> tuple[str, ...]:
    """Channels that a format cannot say."""
    return CHANNELS[6:] if FORMATS[name].level else ()
