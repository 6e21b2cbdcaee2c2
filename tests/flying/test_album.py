"""What was seen before is recalled: an album of pictures, and drafts that look into it."""

from __future__ import annotations

import pytest
import torch

from wanact.actions import channel_track
from wanact.flying import album as albums
from wanact.flying.album import Album
from wanact.flying.draft import Drafter, DraftSettings
from wanact.flying.viewpoint import View, flown, way_to
from wanact.models import vae as vae_ops
from wanact.models.lapped import AutoencoderLapped

HEIGHT, WIDTH = 64, 96
VIEW = View(WIDTH, HEIGHT, 75.0)
LIMITS = (-38.0, 16.0)


def place(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, pitch: float = -8.0) -> torch.Tensor:
    return torch.tensor([[x, y, yaw, pitch]])


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 3, HEIGHT, WIDTH), value)


def missing_on_the_right(count: int = 1) -> torch.Tensor:
    missing = torch.zeros(count, 4, 6)
    missing[:, :, 4:] = 1
    return missing


def test_a_way_there_and_back_ends_where_it_began():
    at, shares = place(0.2, -0.1, 30.0, -20.0), torch.tensor([0.5, 1.0])
    for axes in ([0.05, 0, 0, 0], [0, 0.04, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 2.0], [0.05, 0, 0, 0]):
        there = flown(at, torch.tensor([axes]), shares, LIMITS)
        assert not torch.equal(there[:, 1], at)
        back = flown(there[:, 1], -torch.tensor([axes]), shares, LIMITS)
        torch.testing.assert_close(back[:, 1], at, atol=1e-5, rtol=0)
        torch.testing.assert_close(back[:, 0, :3], there[:, 0, :3], atol=1e-4, rtol=0)


def test_the_way_to_a_place_is_told_along_ones_own_heading():
    east = place(yaw=90.0)  # yaw turns from x to y
    torch.testing.assert_close(way_to(east, place(0.0, 0.5)[:, None]), torch.tensor([[[0.5, 0.0]]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(way_to(east, place(0.5, 0.0)[:, None]), torch.tensor([[[0.0, -0.5]]]), atol=1e-6, rtol=0)


def test_the_picture_is_found_that_shows_what_is_missing():
    album = Album()
    for value, yaw in ((-0.5, -40.0), (0.5, 40.0), (0.0, 180.0)):
        album.keep(flat(value), place(yaw=yaw))
    found = album.find(place(), missing_on_the_right(), VIEW)
    assert found is not None
    sight, fits = found
    assert fits.all() and float(sight.place[0, 2]) == 40.0
    torch.testing.assert_close(sight.picture, flat(0.5), atol=0.01, rtol=0)


def test_what_was_seen_from_far_away_or_not_at_all_is_not_recalled():
    album = Album()
    assert album.find(place(), missing_on_the_right(), VIEW) is None, "an empty one"
    album.keep(flat(0.5), place(yaw=180.0))
    album.keep(flat(0.5), place(x=-albums.TOO_FAR - 0.1, yaw=20.0))
    assert album.find(place(), missing_on_the_right(), VIEW) is None


def test_each_of_several_flights_finds_its_own():
    looks = []

    def look(picture: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        looks.append(at)
        return at[:, 2].view(-1, 1, 1, 1).expand(-1, 1, HEIGHT // 2, WIDTH // 2)

    album = Album(look)
    album.keep(torch.cat([flat(-0.5), flat(0.5)]), torch.cat([place(yaw=180.0), place(yaw=40.0)]))
    album.keep(torch.cat([flat(0.7), flat(0.1)]), torch.cat([place(yaw=35.0), place(yaw=180.0)]))
    for _ in range(2):
        sight, fits = album.find(place().repeat(2, 1), missing_on_the_right(2), VIEW)
        assert fits.all()
        torch.testing.assert_close(sight.picture, torch.cat([flat(0.7), flat(0.5)]), atol=0.01, rtol=0)
        assert len(looks) in (0, 2), "not before it is asked for, and then once"
        assert sight.near[:, 0, 0, 0].tolist() == [35.0, 40.0]
    album.keep(flat(0.0).repeat(2, 1, 1, 1), torch.cat([place(yaw=180.0), place(yaw=180.0)]))
    _, fits = album.find(place().repeat(2, 1), torch.stack([missing_on_the_right()[0], torch.zeros(4, 6)]), VIEW)
    assert fits.tolist() == [True, False]


def test_a_full_album_keeps_its_first_and_its_newest(monkeypatch):
    monkeypatch.setattr(albums, "MOST", 4)
    album = Album()
    for number in range(9):
        album.keep(flat(number / 10), place(yaw=float(number)))
    assert [float(kept.place[0, 2]) for kept in album._kept] == [0, 6, 7, 8]


@pytest.fixture(scope="module")
def drafter() -> Drafter:
    return Drafter(AutoencoderLapped(width=8, depth=1).eval(), DraftSettings(), [100.0] * 4 + [1.0] * 4)


def test_a_turn_back_shows_what_was_there_and_knows_that_it_knows(drafter):
    """A picture with a bright right half, turned away from until that is out of sight, and back."""
    first = flat(-0.6)
    first[..., WIDTH // 2 :] = 0.6
    latent = vae_ops.encode(drafter.vae, first[:, :, None])
    left, right = (
        torch.from_numpy(channel_track(c, 1).magnitude.copy())[None] * torch.tensor([100.0] * 4 + [1.0] * 4)
        for c in ("yaw_left", "yaw_right")
    )
    album, at = Album(), drafter.start(1, "cpu")
    album.keep(drafter.picture(latent), at)
    seen = flat(-0.6)  # after turning away
    for _ in range(13):
        at = drafter.moved(at, left)
    last = drafter.sight(seen, at)
    with_album, without = drafter(last, right, album), drafter(last, right)
    shown = [vae_ops.decode(drafter.vae, torch.cat([latent, d.latent], dim=2))[0, :, -1] for d in (with_album, without)]
    edge = [float(picture[:, 10:-10, -4:].mean()) for picture in shown]
    assert edge[0] > edge[1] + 0.5, "the bright half comes into view from the right"
    assert with_album.noise[..., -1].max() < without.noise[..., -1].max()
