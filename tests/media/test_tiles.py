import numpy as np
import pytest

from wanact.media.tiles import tile_clips


def clip(value, frames=5, height=32, width=64):
    return np.full((frames, height, width, 3), value, np.uint8)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_clip_stands_whole_where_the_layout_says(count):
    clips = [np.random.default_rng(i).integers(0, 256, (5, 32, 64, 3), np.uint8) for i in range(count)]
    tiled, layout = tile_clips(clips, [f"lane {i}" for i in range(count)])
    assert tiled.shape == (5, *layout.size, 3) and tiled.shape[1] % 2 == tiled.shape[2] % 2 == 0
    for (left, top), one in zip(layout.to_dict()["places"], clips, strict=True):
        assert np.array_equal(tiled[:, top : top + 32, left : left + 64], one)


def test_a_lane_that_failed_leaves_its_place_and_a_short_one_stands_still():
    tiled, layout = tile_clips([clip(200, frames=9), None, clip(90, frames=5)], ["a", "b", "c"])
    (left, top) = layout.to_dict()["places"][2]
    assert len(tiled) == 9 and (tiled[8, top : top + 32, left : left + 64] == 90).all()
    (left, top) = layout.to_dict()["places"][1]
    assert np.ptp(tiled[:, top : top + 32, left : left + 64].reshape(-1, 3), axis=0).max() == 0


def test_labels_are_written_however_long():
    short, layout = tile_clips([clip(0), clip(0)], ["A", "B"])
    long, _ = tile_clips([clip(0), clip(0)], ["A" * 500, ""])
    assert short.shape == long.shape and (short[:, 32:] != long[:, 32:]).any()


def test_clips_of_several_sizes_or_none_are_refused():
    for clips in ([None, None], [clip(0), clip(0, height=64)]):
        with pytest.raises(ValueError, match="sizes"):
            tile_clips(clips, ["a", "b"])


def test_a_label_is_one_line_whatever_it_says():
    """Pillow refuses to measure text of several lines, and fonts have no surrogates."""
    tiled, _ = tile_clips([clip(0), clip(0)], ["two\nlines\x00", "half a pair \ud800"])
    same, _ = tile_clips([clip(0), clip(0)], ["two lines", "half a pair"])
    assert np.array_equal(tiled, same)
