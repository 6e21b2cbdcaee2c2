"""Data sets of 20 flights each in which one thing is wrong: each is named, what mends it mends it, and of the untouched
set nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from wanact.data.marks import Fix
from wanact.data.seen import Seen, copies_in, cuts_in
from wanact.data.sets import DataSet
from wanact.data.verdicts import Evidence, flags_of, histograms, judge, together

pytestmark = pytest.mark.slow


def times(*factors):
    return lambda axes: axes * np.array(factors)


def order(*source):
    return lambda axes: axes[:, list(source)]


def late(latent_frames):
    """Actions stand so much later in the table than they move the picture; what is not known is rest."""

    def shift(axes):
        shifted = np.zeros_like(axes)
        if latent_frames > 0:
            shifted[latent_frames:] = axes[:-latent_frames]
        else:
            shifted[:latent_frames] = axes[-latent_frames:]
        return shifted

    return shift


RADIANS = np.pi / 180
SPOILT = {
    "yaw-mirrored": (times(1, 1, -1, 1), "mirrored in"),
    "sideways-mirrored": (times(1, -1, 1, 1), "mirrored in"),
    "forward-mirrored": (times(-1, 1, 1, 1), "reversed in"),
    "pitch-mirrored": (times(1, 1, 1, -1), "upside down in"),
    "yaw-pitch-scaled": (times(1, 1, RADIANS, RADIANS), "they look like radians"),
    "forward-sideways-scaled": (times(12, 12, 1, 1), r"1\d times larger than in the base model's data"),
    "forward-scaled": (times(12, 1, 1, 1), r"1\d times larger than in the base model's data"),
    "shifted": (late(2), "2.* latent frames too late .*0.5.* s at 16"),  # half a second
    "swapped-forward-sideways": (order(1, 0, 2, 3), "Forward and sideways look swapped"),
    "swapped-yaw-pitch": (order(0, 1, 3, 2), "Yaw and pitch look swapped"),
}


def test_of_an_untouched_set_nothing_is_said(flights):
    assert flights.verdicts() == []


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_is_named_and_its_remedy_mends_it(flights, spoilt, name):
    change, words = SPOILT[name]
    data = spoilt(name, change)
    (verdict,) = data.verdicts()
    assert verdict.name == name and verdict.grave
    assert_says(verdict.words, words)
    before = data.table.read_bytes()
    data.apply(verdict)
    again = DataSet(data.table)
    assert again.verdicts() == [], "what was applied is kept, and mends it"
    assert data.table.read_bytes() == before, "the source is never changed"
    if name.endswith("-mirrored") or name.startswith("swapped"):
        for clip, own in zip(again, flights, strict=True):
            np.testing.assert_allclose(again.axes(clip), own.axes, atol=1e-6)


def assert_says(words, pattern):
    import re

    assert re.search(pattern, words), words


def test_actions_that_come_too_early_are_named(spoilt):
    (verdict,) = spoilt("early", late(-2)).verdicts()
    assert verdict.name == "shifted" and "too early" in verdict.words
    assert verdict.fix == Fix(later=-2.0)


def test_two_mistakes_are_both_named(spoilt):
    data = spoilt("both", lambda axes: times(1, 1, -1, 1)(late(2)(axes)))
    assert {verdict.name for verdict in data.verdicts()} == {"shifted", "yaw-mirrored"}
    for name in ("shifted", "yaw-mirrored"):
        data.apply(next(verdict for verdict in data.verdicts() if verdict.name == name))
    assert data.verdicts() == []


def test_where_some_clips_are_mirrored_those_alone_are_turned_round(flights, spoilt):
    wrong = {clip.key for clip in flights.clips[::2]}
    clips = [
        Evidence(c.key, c.axes * np.array([1, 1, -1 if c.key in wrong else 1, 1]), flights.seen(c)) for c in flights
    ]
    (verdict,) = judge(clips)
    assert verdict.name == "yaw-mirrored" and verdict.keys is not None
    assert set(verdict.keys) <= wrong
    assert "against" not in flags_of(clips)[flights.clips[1].key]


def test_actions_of_other_clips_are_called_so(flights):
    shuffled = np.random.default_rng(0).permutation(len(flights))
    clips = [Evidence(c.key, flights.clips[n].axes, flights.seen(c)) for n, c in zip(shuffled, flights, strict=True)]
    assert [verdict.name for verdict in judge(clips)] == ["unrelated"]


def test_a_hard_cut_is_found_where_it_is_and_a_flight_has_none(flights):
    from wanact.data.seen import look
    from wanact.media.footage import read_video
    from wanact.media.video import write_mp4

    assert all(not flights.seen(clip).cuts for clip in flights)
    first, other = (read_video(flights.clips[number].video) for number in (0, -1))
    path = flights.table.parent / "cut.mp4"
    write_mp4(np.concatenate([first[:22], other[22:]]), path, fps=16, lossless=True)
    seen, _ = look(path, 16)
    assert seen.cuts == (22,)
    assert not seen.whole[5] and seen.whole[[4, 6]].all(), "the latent frame from 20 to 24 is in two scenes"
    (verdict,) = judge([Evidence("cut", None, seen)])
    assert (verdict.name, verdict.does) == ("cuts", "split")


def test_a_copy_is_found_and_flights_of_one_world_are_none(flights):
    signatures = [flights.seen(clip).signature for clip in flights]
    assert copies_in(signatures) == [None] * len(flights)
    assert copies_in([*signatures, signatures[3]])[-1] == 3


def test_turning_fast_is_no_cut():
    rng = np.random.default_rng(0)
    wide = np.repeat(rng.uniform(0, 255, (24, 100, 3)), 4, axis=1).astype(np.float32)
    turning = np.stack([wide[:, 4 * n : 4 * n + 40] for n in range(40)])
    assert cuts_in(turning) == ()


def test_sharpness_tells_blur_and_not_what_is_seen(flights):
    import cv2

    from wanact.data.seen import look, sharpness
    from wanact.media.footage import read_video

    usual = [flights.seen(clip).sharpness for clip in flights]
    assert min(usual) > 0.65 * np.median(usual)
    for clip in flights.clips[::5]:
        grey = cv2.cvtColor(read_video(clip.video, 1)[0], cv2.COLOR_RGB2GRAY)
        assert sharpness(cv2.GaussianBlur(grey, (0, 0), 1.2)) < 0.6 * np.median(usual)
    assert look(flights.clips[0].video.with_name("gone.mp4"), 16)[0].problem


def test_blurred_and_black_clips_stand_out():
    def clip(sharpness=1.0, brightness=0.5):
        return Seen(frames=41, size=(64, 96), sharpness=sharpness, brightness=brightness)

    clips = [Evidence(str(n), None, clip()) for n in range(5)]
    clips += [Evidence("soft", None, clip(sharpness=0.2)), Evidence("night", None, clip(brightness=0.01))]
    flags = flags_of(clips)
    assert flags["soft"] == {"blurred"} and flags["night"] == {"dark"} and not flags["0"]


def test_histograms_count_every_action_of_every_channel(flights):
    axes = [clip.axes for clip in flights]
    joined = np.concatenate(axes)
    rows = histograms(axes)
    for row, (axis, sign) in zip(
        rows, ((0, 1), (0, -1), (1, -1), (1, 1), (2, -1), (2, 1), (3, 1), (3, -1)), strict=True
    ):
        expected = int((sign * joined[:, axis] > 0).sum())
        assert sum(row["counts"]) + row["beyond"] == expected
        assert row["share"] == pytest.approx(expected / len(joined), abs=1e-4)
    both = np.array(together(axes))
    assert both[0, 1] == both[2, 3] == 0, "opposite channels never stand together"
    np.testing.assert_allclose(np.diag(both), [row["share"] for row in rows], atol=1e-4)
