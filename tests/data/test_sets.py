"""Data sets as they are opened: tables and episodes, what is looked at once and kept, and sources that stay as they
are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.conftest import write_table
from wanact.actions import ActionTrack
from wanact.commands.data import main
from wanact.data import episodes
from wanact.data.sets import DataSet, find_table
from wanact.data.tables import DataError
from wanact.media.video import write_mp4

FRAMES = 21


def pictures(seed: int) -> np.ndarray:
    """A picture that moves slowly to the left."""
    import cv2

    wide = np.random.default_rng(seed).integers(0, 255, (12, 24, 3), np.uint8)
    wide = cv2.resize(wide, (160, 48), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 2 * n : 2 * n + 64] for n in range(FRAMES)])


def track(axis: int = 2, value: float = 9.0) -> ActionTrack:
    axes = np.zeros((FRAMES // 4, 4))
    axes[:, axis] = value
    return ActionTrack.from_axes(axes)


@pytest.fixture
def folder(tmp_path):
    rows = []
    for number in range(3):
        write_mp4(pictures(number), tmp_path / f"clip{number}.mp4", fps=16, lossless=True)
        rows.append({"video": f"clip{number}.mp4", "prompt": "a lake", "action": track().to_json()})
    write_table(tmp_path / "clips.csv", rows)
    return tmp_path


def sources(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_what_was_looked_at_is_kept_and_looked_at_once(folder, monkeypatch):
    before = sources(folder)
    data = DataSet(folder)
    assert data.num_seen == 0
    data.look()
    assert data.num_seen == 3 and sources(folder) == before, "of source files none is changed"
    again = DataSet(folder)
    monkeypatch.setattr("wanact.data.seen.look", lambda *_: pytest.fail("looked twice"))
    again.look()
    for one, other in zip(data, again, strict=True):
        assert (one.key, one.prompt, one.id) == (other.key, other.prompt, other.id)
        np.testing.assert_allclose(one.axes, other.axes, atol=1e-6)
        assert data.seen(one).to_dict() == again.seen(other).to_dict()
        assert again.thumb(other).is_file()


def test_a_changed_video_is_looked_at_anew_and_a_changed_table_read_anew(folder):
    DataSet(folder).look()
    write_mp4(pictures(9), folder / "clip1.mp4", fps=16, lossless=True)
    (folder / "clips.csv").write_text((folder / "clips.csv").read_text().replace("a lake", "a bay"))
    data = DataSet(folder)
    assert data.num_seen == 2 and data.seen(data.clips[1]) is None
    assert [clip.prompt for clip in data] == ["a bay"] * 3


def test_a_row_that_cannot_be_used_is_named_and_the_others_shown(folder):
    with open(folder / "clips.csv", "a") as file:
        file.write('gone.mp4,a lake,"[[1]]"\n')
    data = DataSet(folder)
    data.look()
    assert "shape" in data.clips[3].problem and data.seen(data.clips[3]).problem == "file is missing"
    assert data.num_seen == 4 and len(data.evidence()) == 4


def test_a_part_of_a_video_has_its_own_frames_and_actions(folder):
    axes = np.zeros((5, 4))
    axes[:, 0] = np.arange(1, 6) / 100
    rows = [{"video": "clip0.mp4", "start": "0.5", "end": "1.3", "action": ActionTrack.from_axes(axes).to_json()}]
    write_table(folder / "parts.csv", rows)
    data = DataSet(folder / "parts.csv")
    data.look()
    (clip,) = data
    assert clip.key == "clip0.mp4@0.5" and data.seen(clip).frames == 13
    np.testing.assert_allclose(clip.axes[:, 0], [0.03, 0.04, 0.05], atol=1e-6)


def test_episodes_are_opened_at_their_own_rate(tmp_path):
    for name in ("ep_0001", "ep_0002"):
        place = tmp_path / "episodes" / name
        place.mkdir(parents=True)
        write_mp4(pictures(1), place / "video.mp4", fps=10, lossless=True)
        episodes.write_actions(place, track(), "over the lake")
    episodes.write_manifest(tmp_path / "manifest.jsonl", [("ep_0001", FRAMES), ("ep_0002", FRAMES)])
    data = DataSet(tmp_path)
    data.look()
    assert data.fps == 10 and [clip.key for clip in data] == ["ep_0001", "ep_0002"]
    assert data.clips[0].prompt == "over the lake" and data.seen(data.clips[0]).frames == FRAMES
    np.testing.assert_allclose(data.clips[0].axes[:, 2], 9.0, atol=1e-6)
    assert [verdict.name for verdict in data.verdicts()] == ["copies"], "both show the same"


def test_a_sheet_holds_every_frame_where_it_says(folder):
    from PIL import Image

    data = DataSet(folder)
    path, layout = data.sheet(data.clips[0])
    with Image.open(path) as picture:
        whole = np.asarray(picture.convert("RGB"))
    frames = pictures(0)
    assert layout["count"] == FRAMES
    for number in (0, 10, FRAMES - 1):
        row, column = divmod(number, layout["columns"])
        y, x = row * layout["height"], column * layout["width"]
        shown = whole[y : y + layout["height"], x : x + layout["width"]].astype(int)
        assert np.abs(shown - frames[number]).mean() < 12, "JPEG, and no other frame"
    assert data.sheet(data.clips[0]) == (path, layout)


def test_what_cannot_be_written_beside_the_table_is_kept_in_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda *_: False)
    DataSet(folder).look()
    assert not (folder / ".looked").exists() and list((tmp_path / "cache").rglob("seen.jsonl"))


@pytest.mark.parametrize("names, words", [((), "no table"), (("a.csv", "b.csv"), "a.csv, b.csv; name one")])
def test_a_folder_without_one_table_is_refused_by_what_it_has(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text("video\n")
    with pytest.raises(DataError, match=words):
        find_table(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_table(tmp_path / "gone")


def test_the_command_says_marks_and_mends(folder, capsys):
    write_table(
        folder / "clips.csv",
        [{"video": f"clip{n}.mp4", "prompt": "", "action": track(2, -9.0).to_json()} for n in range(3)],
    )
    before = (folder / "clips.csv").read_bytes()
    assert main([str(folder)]) == 1
    told = capsys.readouterr().out
    assert "Yaw looks mirrored in 3 of 3 clips" in told and "--apply yaw-mirrored" in told
    assert main([str(folder), "--apply", "yaw-mirrored"]) == 0
    assert main([str(folder), "--leave_out", "clip2", "--caption", "1", "a lake"]) == 0
    told = capsys.readouterr().out
    assert "Nothing is wrong" in told and "1 left out, 1 captioned anew, yaw mirrored" in told
    assert (folder / "clips.csv").read_bytes() == before
    kept = json.loads((folder / "clips.csv.marks.json").read_text())
    assert kept["fix"] == {"yaw_right": {"from": "yaw_right", "times": -1.0}}
    assert kept["clips"] == {"clip0.mp4": {"prompt": "a lake"}, "clip2.mp4": {"out": True}}
    assert main([str(folder), "--forget_marks", "--json"]) == 1
    assert not (folder / "clips.csv.marks.json").exists()


def test_a_verdict_that_does_not_hold_is_not_applied(folder):
    from wanact.errors import UserError

    with pytest.raises(UserError, match="no verdict 'yaw-mirrored'"):
        main([str(folder), "--apply", "yaw-mirrored"])
    with pytest.raises(UserError, match="3 clips are called like"):
        main([str(folder), "--leave_out", "clip"])
