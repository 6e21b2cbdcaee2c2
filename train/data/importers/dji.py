"""DJI's drones: subtitles NAME.SRT that they write beside NAME.MP4, and flight logs exported as CSV.

What is read is where the drone was and how its gimbal looked: yaw clockwise from north, pitch negative below the
horizon, in degrees. Subtitles share the video's clock. Their dialects:

    [latitude: 47.1] [longitude: 8.5] [rel_alt: 1.3 abs_alt: 440.2] [gb_yaw: 3.1 gb_pitch: -9.0 gb_roll: 0.0]
    [latitude : 47.1] [longtitude : 8.5] [altitude: 440.2]                             no gimbal, DJI's own spelling
    F/2.8, SS 400, GPS (8.5, 47.1, 19), D 80.50m, H 45.00m, G.PRY (-60.0, 0.0, 90.0)   longitude first; pitch, roll, yaw
    HOME(8.5,47.1) 2017.08.05 14:11:51 GPS(8.5,47.1,16) BAROMETER:1.9                  longitude first, no gimbal

Where subtitles say nothing of the gimbal, a CSV does: of AirData (`gimbal_heading(degrees)`, ...) or of DJI's own log
viewers (`GIMBAL.yaw`, ...). Its clock is the remote control's: a column isVideo tells when recordings began, to within
a second or two; the rest is found by what turns in both.

Source: https://github.com/JuanIrache/DJI_SRT_Parser (dialects), https://app.airdata.com (columns); subtitles are read
by srt, which forgives their damages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from train.data.csv import Skipped
from train.data.importers.axes import attitude, forward_camera, local_ned, without_repeats
from train.data.importers.tables import Table, usable
from train.data.importers.trajectory import Trajectory, beside, library, videos_in

LONGEST_GAP_S = 2.0  # older drones write one subtitle a second
SLACK_S = 3.0  # of the column isVideo
FEET = 0.3048

_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_FIELD = re.compile(r"\b(latitude|longt?itude|rel_alt|abs_alt|altitude|gb_yaw|gb_pitch)\s*:\s*" + _NUMBER)
_FIX = re.compile(rf"\bGPS\s*\(\s*{_NUMBER}\s*,\s*{_NUMBER}")
_HEIGHT = re.compile(rf"\b(?:H|BAROMETER\s*:)\s*{_NUMBER}\s*[mM]?\b")
_GIMBAL = re.compile(rf"\bG\.PRY\s*\(\s*{_NUMBER}[^,]*,\s*{_NUMBER}[^,]*,\s*{_NUMBER}")

NO_GIMBAL = "its subtitles say nothing of the gimbal, so nobody knows where it looked; put the flight's CSV beside it"


def read(source: Path) -> Iterator[Trajectory | Skipped]:
    """Each video with its subtitles, or with a CSV of its name, or with the one CSV of its folder."""
    videos = videos_in(source)
    for number, video in enumerate(videos, start=1):
        subtitles, log = beside(video, ".srt"), _log_of(video)
        try:
            if subtitles is None and log is None:
                raise ValueError(f"{video.stem}.SRT is missing, and no CSV lies beside it")
            found = _from_subtitles(video, subtitles) if subtitles is not None else None
            if found is None and log is None:
                raise ValueError(NO_GIMBAL)
            same_log = [other for other in videos if _log_of(other) == log]
            yield found or _from_log(video, log, same_log.index(video), len(same_log))  # pyright: ignore
        except (OSError, ValueError) as error:
            yield Skipped(number, video.name, str(error))


def _log_of(video: Path) -> Path | None:
    logs = [file for file in sorted(video.parent.iterdir()) if file.suffix.lower() == ".csv"]
    return beside(video, ".csv") or (logs[0] if len(logs) == 1 else None)


def _from_subtitles(video: Path, file: Path) -> Trajectory | None:
    """None if they say nothing of the gimbal."""
    srt = library("srt", "dji")
    entries = list(srt.parse(file.read_text(encoding="utf-8-sig", errors="replace"), ignore_errors=True))
    rows = np.array([[entry.start.total_seconds(), *_fields(entry.content)] for entry in entries])
    if not len(rows) or not np.isfinite(rows[:, 1:4]).all(axis=1).any():
        raise ValueError(f"{file.name} holds no places; it is no subtitle of a DJI drone, or had no GPS")
    rows = rows[np.isfinite(rows[:, :4]).all(axis=1)]
    if not np.isfinite(rows[:, 4:]).all(axis=1).any():
        return None
    return _trajectory(video, rows[np.isfinite(rows).all(axis=1)], 0.0, {"log": file.name})


def _fields(text: str) -> tuple[float, float, float, float, float]:
    """Latitude, longitude, altitude in metres, gimbal's yaw and pitch; what is not said is NaN."""
    nan = math.nan
    text = re.sub(r"<[^>]*>", " ", text)
    named = {name: float(value) for name, value in _FIELD.findall(text)}
    latitude, longitude = named.get("latitude", nan), _first(named, "longitude", "longtitude")
    altitude = _first(named, "rel_alt", "abs_alt", "altitude")
    yaw, pitch = named.get("gb_yaw", nan), named.get("gb_pitch", nan)
    if math.isnan(latitude) and (fix := _FIX.search(text)):
        longitude, latitude = float(fix[1]), float(fix[2])
        if abs(latitude) > 90:  # the other order
            longitude, latitude = latitude, longitude
    if math.isnan(altitude) and (height := _HEIGHT.search(text)):
        altitude = float(height[1])
    if math.isnan(yaw) and (gimbal := _GIMBAL.search(text)):
        pitch, yaw = float(gimbal[1]), float(gimbal[3])
    if latitude == longitude == 0:  # no fix yet
        latitude = nan
    return latitude, longitude, altitude, yaw, pitch


def _first(named: dict[str, float], *names: str) -> float:
    return next((named[name] for name in names if name in named), math.nan)


def _from_log(video: Path, file: Path, place: int, videos: int) -> Trajectory:
    """Of the recording that is the video's, as counted by their names, if the log has as many of them as videos."""
    table = Table(file)
    columns = [
        _seconds(table),
        table.numbers("latitude", "OSD.latitude"),
        table.numbers("longitude", "OSD.longitude"),
        _height(table),
        table.numbers("gimbal_heading(degrees)", "GIMBAL.yaw", "GIMBAL.yaw[360]"),
        table.numbers("gimbal_pitch(degrees)", "GIMBAL.pitch"),
    ]
    good = usable(columns) & (np.abs(columns[1]) + np.abs(columns[2]) > 0)
    rows = np.stack(columns, axis=1)[good]
    if len(rows) < 2:
        raise ValueError(f"{file.name} has {len(rows)} rows with a time, a place and a gimbal, expected at least 2")
    begins = _recordings(table, good, rows[:, 0])
    notes = {"log": file.name}
    if len(begins) != videos:
        rows[:, 0] -= rows[0, 0]
        return _trajectory(video, rows, math.inf, notes)
    rows[:, 0] -= begins[place]
    return _trajectory(video, rows, SLACK_S, notes)


def _seconds(table: Table) -> np.ndarray:
    if table.find("time(millisecond)"):
        return table.numbers("time(millisecond)") / 1000
    if table.find("OSD.flyTime[s]"):
        return table.numbers("OSD.flyTime[s]")
    return np.array([_stamp(text) for text in table.texts("CUSTOM.updateTime", "CUSTOM.updateTime[local]")])


def _stamp(text: str) -> float:
    for written in ("%Y/%m/%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", "%I:%M:%S.%f %p", "%H:%M:%S.%f"):
        try:
            return (datetime.strptime(text, written) - datetime(1900, 1, 1)).total_seconds()
        except ValueError:
            continue
    return math.nan


def _height(table: Table) -> np.ndarray:
    names = ("height_above_takeoff", "OSD.height", "altitude_above_seaLevel", "altitude")
    for name in names:
        for unit, metres in (("(meters)", 1.0), ("[m]", 1.0), ("(feet)", FEET), ("[ft]", FEET), ("", 1.0)):
            if table.find(name + unit):
                return table.numbers(name + unit) * metres
    raise ValueError(f"there is no column of the height ({', '.join(names)})")


def _recordings(table: Table, good: np.ndarray, seconds: np.ndarray) -> list[float]:
    """When recordings begin, as the log's column isVideo says; none if it says nothing."""
    name = table.find("isVideo", "CUSTOM.isVideo", "CAMERA.isVideo")
    if name is None:
        return []
    on = np.array([text.lower() in ("1", "1.0", "true", "recording") for text in table.texts(name)])[good]
    return [float(moment) for moment in seconds[np.flatnonzero(np.diff(on.astype(int), prepend=0) == 1)]]


def _trajectory(video: Path, rows: np.ndarray, slack: float, notes: dict) -> Trajectory:
    """Of rows of seconds, latitude, longitude, altitude, yaw and pitch."""
    rows = rows[np.concatenate([[True], np.diff(np.maximum.accumulate(rows[:, 0])) > 0])]
    seconds = rows[:, 0]
    places = without_repeats(seconds, local_ned(rows[:, 1], rows[:, 2], rows[:, 3]))
    poses = forward_camera(attitude(rows[:, 4], rows[:, 5]), places)
    return Trajectory(video, seconds, poses, slack=slack, longest_gap=LONGEST_GAP_S, notes=notes)
