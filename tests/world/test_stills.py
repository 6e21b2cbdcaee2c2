"""Pictures under a moving camera."""

import numpy as np

from wanact.world import stills


def test_the_pool_is_seeded_and_leaves_out_the_held_out_photographs():
    first, again = (
        stills.dead_leaves(np.random.default_rng(1), 64, 80),
        stills.dead_leaves(np.random.default_rng(1), 64, 80),
    )
    assert np.array_equal(first, again) and first.dtype == np.uint8 and first.std() > 10
    assert not set(stills.TRAINING_PHOTOGRAPHS) & set(stills.HELD_OUT_PHOTOGRAPHS)


def test_a_moving_crop_moves_without_jumping():
    picture = stills.clouds(np.random.default_rng(0), 128)
    frames = stills.moving_crop(picture, np.random.default_rng(2), 9, 48).astype(float)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert frames.shape == (9, 48, 48, 3)
    assert 0 < steps.min() and steps.max() < np.abs(frames[8] - frames[0]).mean() + 20


def test_photographs_come_with_scikit_image():
    for picture in stills.photographs(stills.HELD_OUT_PHOTOGRAPHS):
        assert picture.ndim == 3 and min(picture.shape[:2]) <= 400
