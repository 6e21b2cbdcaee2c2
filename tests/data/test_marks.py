"""Marks: written and read back, applied to rows in their places, and refused where they say what cannot be done."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wanact.actions import ActionTrack, read_track
from wanact.data import marks
from wanact.data.marks import Fix, LeftOut, Mark, Marks, MarksError, keys_of

AXES = np.random.default_rng(0).normal(size=(20, 4)) * np.array([0.05, 0.05, 3, 3])


def row(name="a.mp4", **more):
    return {"video": name, "prompt": "a lake", "action": ActionTrack.from_axes(AXES).to_json()} | more


def test_marks_come_back_as_they_were_written(tmp_path):
    table = tmp_path / "clips.csv"
    written = (
        marks.of(table)
        .with_fix(Fix((1, 0, 2, 3), (1.0, 1.0, -1.0, 57.2958), 2.0))
        .with_clip("a.mp4", out=True)
        .with_clip("b.mp4", prompt="", cuts=(1.25, 3.5))
        .with_fix(Fix(times=(1.0, -1.0, 1.0, 1.0)), ["c.mp4"])
    )
    written.save()
    assert marks.of(table) == written
    assert [file.name for file in tmp_path.iterdir()] == ["clips.csv.marks.json"]


def test_where_nothing_is_marked_any_more_no_file_is_left(tmp_path):
    table = tmp_path / "clips.csv"
    marked = marks.of(table).with_clip("a.mp4", out=True)
    marked.save()
    marked.with_clip("a.mp4", out=False).save()
    assert not list(tmp_path.iterdir())


def test_a_mirrored_axis_is_turned_back_by_the_same_fix():
    fix = Fix(times=(1.0, 1.0, -1.0, 1.0))
    np.testing.assert_array_equal(fix.then(fix).of_axes(AXES), AXES.round(9))
    assert not fix.then(fix)


def test_fixes_one_after_the_other_are_as_one():
    first, second = Fix((2, 1, 0, 3), (2.0, 1.0, -1.0, 1.0)), Fix((1, 0, 2, 3), (1.0, 3.0, 1.0, 0.5))
    np.testing.assert_allclose(first.then(second).of_axes(AXES), second.of_axes(first.of_axes(AXES)), atol=1e-8)


def test_actions_that_were_late_come_in_their_time():
    fix = Fix(later=2.0)
    np.testing.assert_allclose(fix.of_axes(AXES), AXES[2:], atol=1e-8)
    assert fix.lead == 0
    early = Fix(later=-2.0)
    np.testing.assert_allclose(early.of_axes(AXES)[2:], AXES[:-2], atol=1e-8)
    assert early.lead == 2 and len(early.of_axes(AXES)) == len(AXES)


def test_half_a_latent_frame_flies_the_same_path():
    moved = Fix(later=0.5).of_axes(AXES)
    np.testing.assert_allclose(moved.sum(axis=0), AXES.sum(axis=0) - 0.5 * (AXES[0] + AXES[-1]), atol=1e-6)


def test_rows_stay_in_their_places_and_unmarked_ones_as_they_are(tmp_path):
    records = [row("a.mp4"), row("b.mp4"), row("c.mp4")]
    marked = marks.of(tmp_path / "t.csv").with_clip("a.mp4", out=True).with_clip("c.mp4", prompt="a city", cuts=(2.0,))
    out, same, anew = marked.applied(records)
    assert isinstance(out, LeftOut) and same is records[1]
    assert anew["prompt"] == "a city" and anew["cuts"] == (2.0,) and anew["action"] == records[2]["action"]
    assert records[2]["prompt"] == "a lake"


def test_a_fix_reaches_the_actions_of_a_row(tmp_path):
    marked = marks.of(tmp_path / "t.csv").with_fix(Fix(times=(1.0, 1.0, -1.0, 1.0)))
    (fixed,) = marked.applied([row()])
    expected = read_track(row()["action"])[0].axes * np.array([1, 1, -1, 1])
    np.testing.assert_allclose(fixed["action"]().axes, expected, atol=1e-6)
    assert marked.applied([row(action="")])[0]["action"] == "", "a row without actions stays without"


def test_rows_that_share_a_video_are_told_apart():
    records = [row("a.mp4"), row("a.mp4", start="2.5"), row("a.mp4"), row("a.mp4", start=0)]
    assert keys_of(records) == ["a.mp4", "a.mp4@2.5", "a.mp4#2", "a.mp4@0"]


@pytest.mark.parametrize(
    "content, words",
    [
        ({"clips": {"a": {"out": "yes"}}}, "out"),
        ({"clips": {"a": {"unknown": 1}}}, "unknown"),
        ({"fix": {"yaw_right": {"times": 0}}}, "multiplied by 0"),
        ({"fix": {"ahead": {"from": "right"}}}, "each of the four once"),
        ({"fix": {"later": 1e9}}, "late"),
        ({"fix": {"roll": {}}}, "roll"),
        ({"format": 2}, "newer version"),
        ([], "expected a JSON object"),
    ],
)
def test_marks_that_say_what_cannot_be_done_are_refused_by_name(tmp_path, content, words):
    (tmp_path / "clips.csv.marks.json").write_text(json.dumps(content))
    with pytest.raises(MarksError, match=words) as caught:
        marks.of(tmp_path / "clips.csv")
    assert "clips.csv.marks.json" in str(caught.value)


def test_what_is_marked_is_said_in_a_sentence(tmp_path):
    marked = Marks(tmp_path / "m", Fix(times=(1.0, 1.0, -1.0, 1.0)), {"a": Mark(out=True), "b": Mark(cuts=(1.0,))})
    assert marks.say(marked) == "1 left out, 1 split, yaw mirrored"
    assert marks.say(Marks(tmp_path / "m")) == ""
