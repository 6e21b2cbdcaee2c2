"""Episodes: a manifest read by line, actions at any rate, three cameras as one picture, flights written like that."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from train.__main__ import main
from train.data import csv, observation
from train.data.csv import DataError, RowError
from wanact.actions import CHANNELS, ActionTrack
from wanact.data import episodes
from wanact.data.episodes import Actions, Manifest
from wanact.media.video import fit_image, write_mp4

FLIGHTS = ["--clips", "3", "--clips_per_world", "2", "--num_frames", "9", "--height", "32", "--width", "32"]


def write_episode(folder, name, values, frames=None, instruction="a flight", fps=10):
    place = folder / "episodes" / name
    place.mkdir(parents=True)
    np.save(place / "actions.npy", values)
    (place / "instruction.txt").write_text(instruction)
    if frames is not None:
        write_mp4(frames, place / "video.mp4", fps=fps, lossless=True)
    return place


def test_simulated_flights_are_the_same_in_both_formats_and_go_on(tmp_path):
    assert main(["simulate", "--out", str(tmp_path / "table"), *FLIGHTS]) == 0
    assert main(["simulate", "--out", str(tmp_path / "episodes"), "--format", "episodes", *FLIGHTS]) == 0
    rows = csv.read_records(tmp_path / "table" / "clips.csv")
    found = list(Manifest(tmp_path / "episodes" / "manifest.jsonl", 10))
    for number, (row, record) in enumerate(zip(rows, found, strict=True), start=1):
        ours = csv.parse_row(record, number, tmp_path, 9, needs_action=True)
        theirs = csv.parse_row(row, number, tmp_path / "table", 9, needs_action=True)
        assert (ours.track, ours.prompt) == (theirs.track, theirs.prompt)
        assert np.array_equal(csv.clip_frames(ours, 9, 32, 32, "crop", 10), csv.clip_frames(theirs, 9, 32, 32, "crop"))
    kept = tmp_path / "episodes" / "episodes" / "ep_0001" / "video.mp4"
    before = kept.stat().st_mtime_ns
    assert main(["simulate", "--out", str(tmp_path / "episodes"), "--format", "episodes", *FLIGHTS]) == 0
    assert kept.stat().st_mtime_ns == before and len(Manifest(tmp_path / "episodes" / "manifest.jsonl")) == 3


def test_at_another_rate_the_same_path_is_flown():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(41, 4)) * [0.05, 0.05, 3, 3]
    actions = Actions(axes, 10.0, "rates")
    slow, fast = actions.track(10.0), actions.track(20.0)
    assert len(slow) == 10 and len(fast) == 20
    for track in (slow, fast):
        assert np.allclose(track.axes.sum(0), axes[1:].sum(0) / 4, atol=1e-4)
    assert np.allclose(fast.axes[::2] + fast.axes[1::2], slow.axes, atol=1e-4)


def test_what_goes_there_and_back_within_a_latent_frame_cancels():
    values = np.zeros((5, len(CHANNELS)))
    values[1:3, CHANNELS.index("left")] = values[3:5, CHANNELS.index("right")] = 0.04
    values[1:5, CHANNELS.index("forward")] = 0.02
    track = Actions(values, 10.0, "rates").track(10.0)
    assert track.magnitude[0].tolist() == pytest.approx([0.02, 0, 0, 0, 0, 0, 0, 0])


def test_states_lie_on_straight_lines_between_frames_and_steer_no_drone():
    joints = Actions(np.arange(10.0)[:, None] * np.arange(1, 15), 10.0, "states")
    assert np.allclose(joints.at(np.array([0, 3, 4]), 20.0), np.array([[0], [1.5], [2]]) * np.arange(1, 15))
    with pytest.raises(RowError, match="frame 20 has none"):
        joints.at(np.array([20]), 20.0)
    with pytest.raises(RowError, match="holds 14 states a frame, but the controller takes the 8 channels"):
        joints.track(10.0)


@pytest.mark.parametrize(
    ("name", "content", "fps"),
    [
        ("manifest.json", ["a", "b"], 10.0),
        ("manifest.json", {"fps": 20, "episodes": [{"episode": "a", "num_frames": 9}, "b"]}, 20.0),
        ("manifest.jsonl", '{"fps": 5, "actions": "rates"}\n\n{"episode": "a", "num_frames": 9}\n"b"\n', 5.0),
        ("manifest.jsonl", '{"episode": "a"}\n{"episode": "b"}', 10.0),
    ],
)
def test_manifests_of_every_form(tmp_path, name, content, fps):
    for episode in "ab":
        write_episode(tmp_path, episode, np.zeros((9, 8)), instruction=f" do {episode}\n")
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    manifest = Manifest(tmp_path / name)
    assert (len(manifest), manifest.own_fps) == (2, fps)
    assert [record["prompt"]() for record in manifest] == ["do a", "do b"]
    assert [manifest.episode(i).length(2 * fps) for i in range(2)] == [17, 17]
    assert manifest[0]["action"]() == ActionTrack.zeros(2)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("manifest.json", "{", "is damaged"),
        ("manifest.json", {"clips": []}, "must hold a list of episodes"),
        ("manifest.json", [], "lists no episode"),
        ("manifest.jsonl", "", "lists no episode"),
        ("manifest.json", {"fps": "ten", "episodes": ["a"]}, "fps 'ten', expected frames a second"),
        ("manifest.json", {"actions": "poses", "episodes": ["a"]}, "expected rates or states"),
        ("nowhere/manifest.json", None, "cannot be read"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=problem):
        Manifest(tmp_path / name)


def test_lines_that_are_no_episodes_are_named_in_their_place(tmp_path):
    lines = ['{"episode": "a"}', "{", "[1]", '"../secret"', '"/etc"', '{"episode": "a", "num_frames": 0}', '"missing"']
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    write_episode(tmp_path, "a", np.zeros((9, 8)))
    found = list(Manifest(tmp_path / "manifest.jsonl"))
    assert [isinstance(record, RowError) for record in found] == [False, *[True] * 5, False]
    with pytest.raises(RowError, match="file is missing"):
        csv.parse_row(found[-1], 7, tmp_path, 9, needs_action=False)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.zeros(9), "expected numbers"),
        (np.full((9, 8), np.nan), "NaN or infinity in row 0"),
        (np.array([{"a": 1}]), "cannot be read"),
    ],
)
def test_actions_that_cannot_be_used_say_why(tmp_path, values, problem):
    write_episode(tmp_path, "a", values)
    (tmp_path / "manifest.json").write_text('["a"]')
    with pytest.raises(RowError, match=problem):
        Manifest(tmp_path / "manifest.json").episode(0).actions()


def test_episodes_are_not_held_in_memory(tmp_path):
    count = 20_000
    with open(tmp_path / "manifest.jsonl", "w") as file:
        file.writelines(json.dumps({"episode": f"ep_{i:07d}", "num_frames": 100 + i}) + "\n" for i in range(count))
    tracemalloc.start()
    manifest = Manifest(tmp_path / "manifest.jsonl")
    assert sum(manifest.episode(i).length(10) for i in range(0, count, 500)) > 0
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(manifest) == count and manifest.episode(count - 1).num_frames == 100 + count - 1
    assert held < 16 * count


def test_statistics_are_those_of_all_frames_together(tmp_path):
    rng = np.random.default_rng(0)
    parts = [rng.normal(1000, 1e-3, (n, 14)) for n in (3, 50, 7)]
    for i, part in enumerate(parts):
        write_episode(tmp_path, f"ep_{i}", part)
    (tmp_path / "manifest.json").write_text(json.dumps([f"ep_{i}" for i in range(3)] + ["missing"]))
    found, whole = episodes.statistics(Manifest(tmp_path / "manifest.json")), np.concatenate(parts)
    assert found.rows == 60
    for name, true in (("mean", whole.mean(0)), ("std", whole.std(0)), ("low", whole.min(0)), ("high", whole.max(0))):
        assert np.allclose(getattr(found, name), true, rtol=1e-9), name


def test_three_cameras_are_one_picture_and_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    views = [rng.integers(0, 255, (2, *size, 3), dtype=np.uint8) for size in ((480, 640), (240, 320), (240, 320))]
    whole = observation.unified(*views)
    assert whole.shape == (2, 720, 640, 3)
    padded = np.stack([fit_image(Image.fromarray(frame), observation.PADDED, 640, "pad") for frame in whole])
    assert padded.shape == (2, 736, 640, 3)
    assert np.array_equal(observation.without_padding(padded, 720, 640), whole)
    assert all(map(np.array_equal, observation.views(padded), views))
    with pytest.raises(ValueError, match="the left view is"):
        observation.unified(views[0], views[0], views[2])

    place = write_episode(tmp_path, "a", np.zeros((2, 14)))
    for name, frames in zip(episodes.CAMERAS, views, strict=True):
        write_mp4(frames, place / name, fps=10, lossless=True)
    (tmp_path / "manifest.json").write_text('["a"]')
    row = csv.parse_row(Manifest(tmp_path / "manifest.json", 10)[0], 1, tmp_path, 1, needs_action=False)
    assert np.array_equal(csv.clip_frames(row, 2, 736, 640, "pad", 10), padded)
    (place / "right.mp4").unlink()
    with pytest.raises(RowError, match="right.mp4 is missing"):
        csv.parse_row(Manifest(tmp_path / "manifest.json", 10)[0], 1, tmp_path, 1, needs_action=False)
