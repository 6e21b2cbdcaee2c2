"""Drafts: the last picture as a camera would see it from where an action leads, and flights that begin from them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.flying.test_stream import write_causal_run
from wanact.actions import CHANNELS, ActionTrack, channel_track
from wanact.errors import UserError
from wanact.files import CheckpointError
from wanact.flying import pixels
from wanact.flying import sight as sights
from wanact.flying.draft import Drafter, DraftSettings
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.rollout import CausalSettings
from wanact.flying.sight import Sight, worn_there
from wanact.flying.stream import WanActStream
from wanact.flying.viewpoint import View
from wanact.models import vae as vae_ops
from wanact.models.nearness import FOLDER, LOWEST_DEG, NEARNESS, STEP_DEG
from wanact.runs.ref import RUN_CONFIG
from wanact.weights.layouts import METADATA, ModelDirError
from wanact.weights.model_dir import PLACES
from wanact.world.poses import PATH_UNITS, pose_matrix

SCALE = [100.0] * 4 + [1.0] * 4
HEIGHT, WIDTH = 64, 96
PICTURE = torch.zeros(1, 3, HEIGHT, WIDTH)


def sight(drafter: Drafter, latent: torch.Tensor) -> Sight:
    """The last picture of a latent frame, from where flights begin."""
    return drafter.sight(drafter.picture(latent), drafter.start(1, "cpu"))


def scaled(track: ActionTrack) -> torch.Tensor:
    return torch.from_numpy(track.magnitude.copy())[None] * torch.tensor(SCALE)


def places_of(drafter: Drafter, track: ActionTrack, pitch: float) -> torch.Tensor:
    """Where the pixels of the four frames of a track's only action lie in the picture before, [4, H, W, 2]."""
    place = torch.tensor([[0.3, -0.2, 40.0, pitch]])  # anywhere: only the way from there counts
    return drafter.camera.comes(Sight(PICTURE, place), drafter._on_the_way(place, scaled(track), 4)).grid[0]


def places_by_matrices(track: ActionTrack, pitch: float) -> np.ndarray:
    """Where the pixels of the fourth frame lie in the last picture, [H, W, 2]: by poses, and rays to what is seen."""
    m = track.magnitude[0]
    level = np.cos(np.radians(pitch))
    yaw, up = np.radians((m[5] - m[4]) / level), m[6] - m[7]
    ahead, right = (m[0] - m[1]) / level * PATH_UNITS, (m[3] - m[2]) * PATH_UNITS
    heading = yaw / 2
    x, y = ahead * np.cos(heading) - right * np.sin(heading), ahead * np.sin(heading) + right * np.cos(heading)
    before, after = (
        pose_matrix((*place, 50.0, turned, float(np.radians(tilt))))
        for place, turned, tilt in (((0.0, 0.0), 0.0, pitch), ((float(x), float(y)), float(yaw), pitch + up))
    )
    focal = WIDTH / 2 / np.tan(np.radians(37.5))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    ray = np.stack([(column + 0.5 - WIDTH / 2) / focal, (row + 0.5 - HEIGHT / 2) / focal, np.ones_like(row)], -1)
    ray = ray @ after[:3, :3].T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    knots = LOWEST_DEG + STEP_DEG * np.arange(len(NEARNESS))
    near = np.interp(np.degrees(np.arcsin(-ray[..., 2])), knots, NEARNESS) / PATH_UNITS
    point = (ray + (after[:3, 3] - before[:3, 3]) * near[..., None]) @ before[:3, :3]
    return np.stack([point[..., k] / point[..., 2] * focal for k in (0, 1)], -1) * 2 / (WIDTH, HEIGHT)


@pytest.mark.parametrize("pitch", [-8.0, -25.0])
@pytest.mark.parametrize("channel", CHANNELS)
def test_pixels_come_from_where_poses_and_rays_say(drafter, channel, pitch, monkeypatch):
    track = channel_track(channel, 1)
    between = places_of(drafter, track, pitch)
    monkeypatch.setattr(sights, "NODES", WIDTH)
    grid = places_of(drafter, track, pitch)
    assert float((between - grid).abs().max()) * WIDTH / 2 < 1.5, "pixels"
    assert grid.shape == (4, HEIGHT, WIDTH, 2)
    np.testing.assert_allclose(grid[3].numpy(), places_by_matrices(track, pitch), atol=2e-3)
    assert np.abs(grid[0].numpy() - grid[3].numpy()).max() > 0.01, "it moves from frame to frame"


@pytest.mark.parametrize("channel", ["forward", "right", "yaw_left", "pitch_up"])
def test_a_draft_is_nearer_to_what_the_simulator_sees_than_the_last_picture(drafter, channel):
    from wanact.world.simulator import fly, make_world

    flown = fly(make_world(3), np.random.default_rng(2), 13, 96, 160, channel_track(channel, 3))
    video = torch.from_numpy(flown.frames.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]
    latents, actions = vae_ops.encode(drafter.vae, video), scaled(flown.track)
    guess = drafter(sight(drafter, latents[:, :, 2:3]), actions[:, 2:3]).latent
    drafted = vae_ops.decode(drafter.vae, torch.cat([latents[:, :, :3], guess], dim=2))[:, :, 9:]
    away, before = (float((shown - video[:, :, 9:]).square().mean()) for shown in (drafted, video[:, :, 8:9]))
    assert away < 0.75 * before


def test_at_rest_the_last_picture_stays(drafter):
    latents = vae_ops.encode(drafter.vae, torch.linspace(-0.8, 0.8, WIDTH).expand(1, 3, 1, HEIGHT, WIDTH))
    guess, noise = drafter(sight(drafter, latents), torch.zeros(1, 1, 8))[:2]
    assert (noise == drafter.settings.noise).all(), "nothing is seen that was not there before"
    assert float((guess - latents).abs().mean()) < 0.02 * float(latents.abs().mean())


def test_what_was_outside_of_the_last_picture_is_all_noise(drafter):
    latents = torch.zeros(1, 48, 1, HEIGHT // 16, WIDTH // 16)
    noise = drafter(
        drafter.sight(drafter.picture(latents), torch.zeros(1, 4)), scaled(channel_track("yaw_right", 1))
    ).noise
    across = noise[0, 0, 0].mean(0)
    assert noise.shape == (1, 1, 1, HEIGHT // 16, WIDTH // 16)
    assert across[-1] > 0.3 and torch.allclose(across[:-2], across.new_tensor(0.1))


def test_the_camera_stops_where_the_worlds_does(drafter):
    place = drafter.start(2, "cpu")
    for _ in range(30):
        place = drafter.moved(place, scaled(channel_track("pitch_down", 1)))
    assert place[:, 3].tolist() == [-38.0, -38.0]
    moved, still = (
        places_of(drafter, track, -38.0) for track in (channel_track("pitch_down", 1), ActionTrack.zeros(1))
    )
    torch.testing.assert_close(moved, still)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"noise": -1}, "noise is -1"),
        ({"noise": "much"}, "noise is much"),
        ({"pitch_deg": 200}, "pitch_deg is 200"),
        ({"mirrors": 1}, "mirrors is 1"),
        ({"pitch_limits_deg": [5]}, "two numbers"),
        ({"pitch_limits_deg": [20, -20]}, "lower one first"),
    ],
)
def test_settings_that_cannot_be_flown_are_refused(said, sentence):
    with pytest.raises(UserError, match=sentence):
        DraftSettings(**said)


def test_settings_are_what_a_run_says_of_them():
    settings = CausalSettings(5, 2, draft=DraftSettings(0.4))
    assert CausalSettings(**json.loads(json.dumps(settings.said()))) == settings
    assert "draft" not in CausalSettings(5, 2).said()


def test_what_nobody_has_seen_is_mirrored_at_the_sides_of_what_was(drafter):
    wide = Drafter(drafter.vae, DraftSettings(noise=0.1, pitch_deg=0.0, mirrors=True), SCALE)
    across = torch.linspace(-0.8, 0.8, WIDTH).expand(1, 3, HEIGHT, WIDTH)  # darkest at the left, brightest at the right
    first = Sight(across, wide.start(1, "cpu"))
    turns = scaled(channel_track("yaw_right", 1))
    seen = wide(first, turns, region=first)
    assert (seen.noise == 0.1).all(), "nothing is left to noise alone"
    row = seen.video[0, 0, -1, HEIGHT // 2]
    assert row.argmax() < WIDTH - 4 and row[-1] < row.max() - 0.02, "it grows darker again beyond the right side"
    around = wide.start(1, "cpu")
    around[:, 2] = 150.0  # twice as far as the picture is wide: mirrored twice, it is as it was
    again = wide.sides.mirrored(first.picture, first.place, around[:, None])[0, 0, 0, HEIGHT // 2]
    torch.testing.assert_close(again[4:-4], across[0, 0, HEIGHT // 2][4:-4], atol=0.02, rtol=0)


@pytest.mark.parametrize("side", [1, -1])
def test_beside_a_picture_lies_what_is_likest_to_its_mirror_image(drafter, side):
    """Of waves along the horizon, those half a wave on: the same at the side, and no mirror image of all of them."""
    flat = Drafter(drafter.vae, DraftSettings(pitch_deg=0.0), SCALE)

    def waves(yaw: float) -> torch.Tensor:
        x, y = torch.arange(WIDTH) + 0.5, torch.tensor([HEIGHT / 2])
        ray = View(WIDTH, HEIGHT, 75.0).rays(x, y, torch.zeros(1, 1))
        azimuth = torch.rad2deg(torch.atan2(ray.across, ray.along))[0, 0, 0] + yaw
        return 0.5 * torch.sin(torch.deg2rad(azimuth * 6)).expand(1, 3, HEIGHT, WIDTH)

    first = Sight(waves(0.0), flat.start(1, "cpu"))
    there = flat.start(1, "cpu")
    seen = flat.sides.around(first, there[:, None])[:, :, 0]
    torch.testing.assert_close(seen[..., 2:-2], first.picture[..., 2:-2], atol=0.02, rtol=0)
    there[:, 2] = 44.0 * side
    seen, expected = flat.sides.around(first, there[:, None])[:, :, 0], waves((44.0 - 45.0) * side)
    beyond = slice(WIDTH // 2 + 8, -2) if side > 0 else slice(2, WIDTH // 2 - 8)  # the seam
    rows = slice(HEIGHT // 4, -HEIGHT // 4)  # above and below, its edges have their own rule
    torch.testing.assert_close(seen[..., rows, beyond], expected[..., rows, beyond], atol=0.05, rtol=0)


def test_the_sky_goes_on_above_what_was_seen(drafter):
    """Whoever looks up sees a mirrored strip, and then the colour of the upper edge; below the ground is mirrored."""
    wide = Drafter(drafter.vae, DraftSettings(noise=0.1, pitch_deg=0.0, mirrors=True), SCALE)
    upright = torch.linspace(0.8, -0.8, HEIGHT)[:, None].expand(1, 3, HEIGHT, WIDTH)
    first = Sight(upright, wide.start(1, "cpu"))
    up = wide(first, scaled(channel_track("pitch_up", 1)), region=first)
    assert (up.noise == 0.1).all() and (up.video[0, :, -1, 0] > 0.65).all()
    there = wide.start(1, "cpu")
    there[:, 3] = 25.0
    column = wide.sides.mirrored(first.picture, first.place, there[:, None])[0, 0, 0, :, WIDTH // 2]
    assert float(column.min()) > -0.1, "the ground is not mirrored into the sky"
    torch.testing.assert_close(column[:10], upright[0, 0, : pixels.EDGE].mean().expand(10), atol=0.01, rtol=0)
    down = wide(first, scaled(channel_track("pitch_down", 1)), region=first)
    assert (down.noise == 0.1).all() and (down.video[0, :, -1, -1] < -0.65).all()


def test_a_sky_does_not_wear_out(drafter):
    """What is drawn anew is what is near: a flight comes no nearer to the sky, and its mirror image is a sky."""
    near = torch.full((1, 1, HEIGHT // 2, WIDTH // 2), 0.02)
    near[..., HEIGHT // 4 :, :] = 1.0
    worn = torch.full((1, 1, HEIGHT // 16, WIDTH // 16), 0.9)
    picture, place = torch.zeros(1, 3, HEIGHT, WIDTH), drafter.start(1, "cpu")
    seen = Sight(picture, place, lambda *_: near, worn).worn_out
    half = HEIGHT // 32
    assert not seen[..., :half, :].any() and torch.equal(seen[..., half:, :], worn[..., half:, :])
    assert torch.equal(Sight(picture, place, None, worn).worn_out, worn), "nobody looked"


@pytest.mark.parametrize("channel, is_kept", [("pitch_down", True), ("yaw_left", False)])
def test_whoever_looks_down_on_the_way_finds_the_sky_again(lapped_dir, tmp_path, ramp, channel, is_kept):
    """What is mirrored is renewed as one flies on, but not by a picture that shows less of the sky."""
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    pipe.load_controller(write_drafting_run(tmp_path / "run", mirrors=True))
    stream = WanActStream(pipe, ramp, "hills", 4, rest="commit")
    turned, ahead = (channel_track(name, 1).magnitude[0] for name in (channel, "forward"))
    for action in [turned] * 3:
        stream.step(action)
    region = stream._now.rollout._region
    for action in [ahead] * 10:
        stream.step(action)
    assert (stream._now.rollout._region is region) == is_kept


# Flights


def write_drafting_run(folder, **draft):
    run = write_causal_run(folder)
    config = json.loads((run / RUN_CONFIG).read_text())
    config["causal"] |= {"sampler": "euler", "draft": {"noise": 0} | draft}  # clips and live flights draw other noise
    (run / RUN_CONFIG).write_text(json.dumps(config))
    return run


@pytest.fixture
def drafting_run(tmp_path):
    return write_drafting_run(tmp_path / "run")


@pytest.mark.parametrize("draft", [{}, {"trust": 0.85}, {"trust": 0.85, "sees": True}])
def test_a_clip_and_a_live_flight_begin_from_the_same_drafts(lapped_dir, tmp_path, draft, ramp):
    drafting_run = write_drafting_run(tmp_path / "run", **draft)
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    pipe.load_controller(drafting_run)
    track = channel_track("forward", 3)  # into the picture: nothing comes into view that is noise
    clip = pipe("hills", ramp, track, num_frames=13, seed=4)
    stream = WanActStream(pipe, ramp, "hills", 4, rest="commit")
    live = np.concatenate([np.asarray(stream.image)[None], *(stream.step(action) for action in track.magnitude)])
    assert np.abs(clip[1:].astype(int) - live[1:]).max() <= 1
    pipe.load_controller(None)
    assert pipe.drafter() is None


def test_what_is_known_stays_whatever_the_network_makes_of_it(lapped_dir, tmp_path, ramp):
    pipe, track, apart = WanActPipeline.from_model_dir(lapped_dir), channel_track("forward", 3), {}
    for trust in (0, 1):
        pipe.load_controller(write_drafting_run(tmp_path / str(trust), noise=0.5, trust=trust))
        one, other = (pipe("hills", ramp, track, num_frames=13, seed=seed) for seed in (4, 5))
        apart[trust] = np.abs(one[1:].astype(int) - other[1:]).max()
    assert apart[1] <= 1 < apart[0]


def test_a_flight_of_many_turns_frays_nothing(lapped_dir, tmp_path):
    """Ten turns there and back: what was seen first is as it was, although every picture was made from one before."""
    pixels = np.random.default_rng(0).integers(0, 2, (HEIGHT // 8, WIDTH // 8), np.uint8) * 200 + 20
    picture = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).convert("RGB")
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    pipe.load_controller(write_drafting_run(tmp_path / "run", trust=1.0, pitch_deg=0.0))
    stream = WanActStream(pipe, picture, "hills", 4, height=HEIGHT, width=WIDTH)
    turns = [channel_track(channel, 1).magnitude[0] for channel in ["yaw_right"] * 5 + ["yaw_left"] * 5]
    last = [stream.step(action) for action in turns][-1][-1].astype(int)
    middle = slice(WIDTH // 4, -WIDTH // 4)
    assert np.abs(last - np.asarray(stream.image))[8:-8, middle].mean() < 4


def test_a_model_directory_may_say_that_its_base_is_causal_and_without_actions_it_stays(lapped_dir, tmp_path, ramp):
    folder = tmp_path / "model"
    shutil.copytree(lapped_dir, folder)
    metadata = json.loads((folder / METADATA).read_text())
    metadata["causal"] = CausalSettings(3, 2, draft=DraftSettings(0.1, trust=1.0)).said()
    (folder / METADATA).write_text(json.dumps(metadata))
    pipe = WanActPipeline.from_model_dir(folder)
    assert pipe.base_causal is not None and pipe.base_causal.window == 3
    clip = pipe("hills", ramp, None, num_frames=13, seed=4).astype(int)
    assert np.abs(clip[1:] - clip[1]).mean() < 1
    metadata["causal"] = {"window": -1}
    (folder / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(ModelDirError, match=METADATA):
        WanActPipeline.from_model_dir(folder)


def test_what_is_flown_at_wears_out(drafter):
    """By a doubling where it is seen twice as large, and no less after it was seen small again."""
    across, down = ((torch.arange(count) + 0.5) * 2 / count - 1 for count in (6, 4))
    cells = torch.stack(torch.meshgrid(across, down, indexing="xy"))[None]
    worn = torch.full((1, 1, 4, 6), 0.1)
    torch.testing.assert_close(worn_there(worn, cells / 2), worn + 1, atol=1e-2, rtol=0)
    torch.testing.assert_close(worn_there(worn, cells), worn, atol=1e-2, rtol=0)
    assert not worn_there(worn, cells * 4).any()

    picture = drafter.sight(torch.zeros(1, 3, HEIGHT, WIDTH), drafter.start(1, "cpu"))
    assert not picture.worn.any()
    ahead, turned, still = (
        drafter(picture, scaled(track)).worn[0, 0]
        for track in (channel_track("forward", 1), channel_track("yaw_right", 1), ActionTrack.zeros(1))
    )
    assert ahead[-1].mean() > 2 * ahead[0].mean() > 0, "what is near grows sooner than the sky"
    assert float(still.max()) < 1e-5
    assert float(turned.max()) < 0.1, "and what came into view is new"


def test_what_has_worn_out_is_shown_anew_and_flown_on_from(lapped_dir, tmp_path, ramp):
    """Whenever drafts begin to be moved from the newest picture: from the first frame, or by other words from the
    network of places."""
    folder = tmp_path / "model"
    shutil.copytree(lapped_dir, folder)
    WanActPipeline.from_model_dir(lapped_dir).components.transformer.save_pretrained(folder / PLACES)
    pipe = WanActPipeline.from_model_dir(folder)
    run = write_drafting_run(tmp_path / "run", trust=1.0, noise=0.0, redraws=True)
    ahead = channel_track("forward", 1).magnitude[0]

    def fly(other_words: str | None = None) -> np.ndarray:
        stream, frames = WanActStream(pipe, ramp, "hills", 4), []
        for number in range(16):
            if number == 4 and other_words:
                stream.prompt = other_words
            frames.append(stream.step(ahead))
        return np.concatenate(frames)

    pipe.load_controller(run)
    seen: list[torch.Tensor] = []
    assert pipe.components.places is not None
    handle = pipe.components.places.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    drawn = fly()
    assert not seen and np.array_equal(drawn, fly()), "the same flight is the same again"
    other = fly("dunes")
    assert seen and not np.array_equal(other[-4:], drawn[-4:]), "with other words another land comes"
    handle.remove()
    pipe.load_controller(write_drafting_run(tmp_path / "other", trust=1.0, noise=0.0))
    kept = fly()
    assert np.array_equal(drawn[:20], kept[:20]) and not np.array_equal(drawn[-4:], kept[-4:])
    pipe.load_controller(run)
    clip = pipe("hills", ramp, channel_track("forward", 16), seed=4, num_frames=65)
    assert np.array_equal(clip[1:], drawn), "in a clip as in a live flight"


def test_drafts_that_see_need_a_network_that_does(lapped_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(lapped_dir, folder, ignore=shutil.ignore_patterns(FOLDER))
    pipe = WanActPipeline.from_model_dir(folder)
    with pytest.raises(CheckpointError, match=f"no {FOLDER}/"):
        pipe.load_controller(write_drafting_run(tmp_path / "run", sees=True))
    with pytest.raises(CheckpointError, match=f"show anew .* no {PLACES}/"):
        pipe.load_controller(write_drafting_run(tmp_path / "other", redraws=True))


def test_a_flight_that_is_taken_up_again_knows_how_far_its_camera_has_turned(lapped_dir, drafting_run, ramp):
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    pipe.load_controller(drafting_run)
    stream = WanActStream(pipe, ramp, "hills", 4)
    down, ahead = (channel_track(c, 1).magnitude[0] for c in ("pitch_down", "forward"))
    for action in [down] * 3 + [ahead] * 9:  # more than is remembered: a window of 3, and what that saw
        stream.step(action)
    before = stream._now.rollout.place
    assert before is not None and float(before[0, 3]) == pytest.approx(-17.0)
    stream.prefill()
    assert stream._now.rollout.place is not before and torch.equal(stream._now.rollout.place, before)


def test_a_model_whose_latent_frames_depend_on_one_another_refuses_such_a_run(tiny_model_dir, drafting_run):
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    with pytest.raises(CheckpointError, match="drafts"):
        pipe.load_controller(drafting_run)
