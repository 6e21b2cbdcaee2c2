"""Pictures as they look from elsewhere: what one does not show, another one does."""

from __future__ import annotations

import pytest
import torch

from wanact.flying.sight import Camera, Seen, Sight

HEIGHT, WIDTH = 96, 160
CAMERA = Camera(75.0)
PLACE = torch.tensor([[0.0, 0.0, 0.0, -8.0]])


def post(picture: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """How near a plain under a sky is, and a post before it."""
    elevation = CAMERA.rays(picture, place).elevation()
    near = torch.where(elevation < -2, -elevation / 20, 0.02).expand(len(picture), 1, -1, -1).clone()
    near[..., 20:40, 36:44] = 3.0
    return near


def coloured(seed: int) -> torch.Tensor:
    """Soft colours, [1, 3, H, W]."""
    few = torch.rand(1, 3, 6, 10, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(few, (HEIGHT, WIDTH), mode="bicubic").clamp(-1, 1)


def targets(*places: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([[[x, y, yaw, -8.0] for x, y, yaw in places]])


AHEAD = targets((0.05, 0.0, 1.0), (0.1, 0.01, 3.0))


def moved_from(seed: int, look=post) -> Seen:
    return CAMERA.seen(Sight(coloured(seed), PLACE, look), AHEAD)


@pytest.mark.parametrize("look", [post, None])
def test_some_pixels_come_from_where_all_do(look):
    sight, asked = Sight(coloured(0), PLACE, look), torch.tensor([0, 7, WIDTH + 3, 33 * WIDTH + 81, HEIGHT * WIDTH - 1])
    every, some = CAMERA.comes(sight, AHEAD), CAMERA.comes(sight, AHEAD, asked)
    for one, other in zip(every[:4], some[:4], strict=True):
        torch.testing.assert_close(one.flatten(2, 3)[:, :, asked], other[:, :, 0], atol=1e-4, rtol=0)
    assert every.looked == some.looked == (look is not None)


def test_what_is_missing_is_what_another_picture_shows_there():
    """As one would reckon it from all of both."""
    seen, sight = moved_from(0), Sight(coloured(1), AHEAD[:, 0], post)
    other, filled = CAMERA.seen(sight, AHEAD), CAMERA.filled(seen, sight, AHEAD)
    fills = seen.missing & ~other.missing
    assert seen.hidden.any() and fills.any() and seen.outside.any()
    torch.testing.assert_close(filled.video, torch.where(fills[:, None], other.video, seen.video), atol=1e-4, rtol=0)
    torch.testing.assert_close(filled.near, torch.where(fills, other.near, seen.near), atol=1e-4, rtol=0)
    assert torch.equal(filled.missing, seen.missing & other.missing)
    assert torch.equal(filled.outside, seen.outside & other.outside), "what lay inside of either was hidden"


def test_what_fills_goes_over_into_what_is_around():
    seen, sight = moved_from(0), Sight(coloured(1), targets((0.0, 0.0, 20.0))[:, 0], post)
    filled = CAMERA.filled(seen, sight, AHEAD, seen.outside, 27)
    other = CAMERA.seen(sight, AHEAD)
    fills = seen.outside & ~other.missing
    assert fills.any()
    full, own = (video.permute(0, 2, 3, 4, 1)[fills] for video in (filled.video, other.video))
    assert (full - own).abs().mean() < 0.02
    apart = (filled.video - seen.video).abs().amax(1)[0, -1]
    beside = int(fills[0, -1].any(0).nonzero()[0])
    assert apart[:, beside - 6].max() > 0.05 and not apart[:, : beside - 40].any()
    assert torch.equal(filled.hidden, seen.hidden) and torch.equal(filled.outside, seen.outside & ~fills)


def test_flights_side_by_side_are_filled_as_each_alone():
    """Each misses other pixels, and all that any of them misses are reckoned for all."""
    alone = [
        (Sight(coloured(0), PLACE, post), Sight(coloured(1), AHEAD[:, 0], post), AHEAD),
        (
            Sight(coloured(2), PLACE, post),
            Sight(coloured(3), PLACE, post),
            targets((0.0, 0.1, -5.0), (0.0, 0.15, -9.0)),
        ),
    ]
    each = [CAMERA.filled(CAMERA.seen(first, way), other, way) for first, other, way in alone]
    firsts, others = (
        Sight(*(torch.cat([getattr(flight[k], name) for flight in alone]) for name in ("picture", "place")), post)
        for k in (0, 1)
    )
    ways = torch.cat([way for *_, way in alone])
    together = CAMERA.filled(CAMERA.seen(firsts, ways), others, ways)
    for k, one in enumerate(each):
        torch.testing.assert_close(together.video[k : k + 1], one.video, atol=1e-4, rtol=0)
        torch.testing.assert_close(together.worn[k : k + 1], one.worn, atol=1e-4, rtol=0)
        assert torch.equal(together.missing[k : k + 1], one.missing)


def test_a_picture_is_looked_at_when_its_guess_is_not_enough():
    looks = []

    def look(picture: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        looks.append(place)
        return post(picture, place)

    sight = Sight(coloured(1), PLACE, look, guess=post(coloured(1), PLACE))
    filled = CAMERA.filled(moved_from(0), sight, AHEAD)
    assert not looks and sight.worn_out is not None and not looks
    torch.testing.assert_close(filled.video, CAMERA.filled(moved_from(0), Sight(coloured(1), PLACE, look), AHEAD).video)
    CAMERA.seen(sight, AHEAD)
    assert len(looks) == 2, "one for the other picture"
