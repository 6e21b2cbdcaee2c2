import pytest

from wanact import shapes


def test_the_plans_clip_has_21_latent_frames_and_20_actions():
    assert shapes.num_latent_frames(81) == 21
    assert shapes.num_actions(81) == 20
    assert shapes.latent_size(480, 832) == (30, 52)


@pytest.mark.parametrize("num_latent", range(1, 60))
def test_pixel_and_latent_frames_invert_each_other(num_latent):
    assert shapes.num_latent_frames(shapes.num_pixel_frames(num_latent)) == num_latent


@pytest.mark.parametrize(
    ("num_frames", "nearest"), [(80, "77 and 81"), (82, "81 and 85"), (0, "1 and 5"), (-3, "1 and 5")]
)
def test_a_wrong_number_of_frames_is_told_the_nearest(num_frames, nearest):
    with pytest.raises(ValueError, match=f"num_frames={num_frames} .*{nearest}"):
        shapes.num_latent_frames(num_frames)


@pytest.mark.parametrize(
    ("size", "message"), [((100, 160), "height=100 .*96 and 128"), ((96, 0), "width=0 .*32 and 64")]
)
def test_a_wrong_size_is_told_the_nearest(size, message):
    with pytest.raises(ValueError, match=message):
        shapes.check_size(*size)


def test_no_latent_frames_decode_to_nothing_is_refused():
    with pytest.raises(ValueError, match="num_latent=0"):
        shapes.num_pixel_frames(0)
