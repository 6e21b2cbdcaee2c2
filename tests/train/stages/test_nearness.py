"""Stage nearness: it learns from the simulator's own depth, and a draft that sees is better than one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from train.commands.run import train
from wanact.actions import channel_track
from wanact.flying.draft import Drafter, DraftSettings
from wanact.models.lapped import AutoencoderLapped
from wanact.models.nearness import load_nearness, usual_nearness
from wanact.world import simulator, views
from wanact.world.poses import PATH_UNITS

SIZE = (96, 160)


def test_it_learns_and_exports_what_is_loaded(tmp_path):
    arguments = [
        *("--output_path", str(tmp_path / "run"), "--export_model_dir", str(tmp_path / "model" / "nearness")),
        *("--height", "64", "--width", "96", "--worlds", "1", "--views_per_world", "4"),
        *("--nearness_channels", "8,8,8", "--batch_size", "4", "--max_steps", "30"),
        *("--learning_rate", "1e-2", "--log_steps", "10"),
    ]
    stage = train("nearness", arguments).stage
    loaded = load_nearness(tmp_path / "model" / "nearness")
    assert loaded is not None
    view = views.draw(stage.settings.first_world, 1, 32, 48)[0]
    picture = torch.from_numpy(view.frame.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    elevation = torch.from_numpy(view.elevation)[None, None]
    true = torch.from_numpy(np.maximum(view.nearness.astype(np.float32), 0.02))
    seen = loaded(nn.functional.interpolate(picture, scale_factor=2), elevation)[0, 0]
    away, usually = ((near.log() - true.log()).abs().mean() for near in (seen, usual_nearness(elevation)[0, 0]))
    assert float(away) < float(usually)


def test_nearness_is_what_rays_meet():
    """Against `exact_flow`, which finds depth in another way."""
    from wanact.world.exact_flow import ray_depths
    from wanact.world.poses import pose_matrix

    world, (height, width) = simulator.make_world(5), (24, 40)
    pose = simulator.fly_poses(world, np.random.default_rng([5, 77, 0]), 81)[0]
    view = views.draw(5, 1, height, width)[0]
    focal = width / 2 / np.tan(np.radians(simulator.FIELD_OF_VIEW_DEG / 2))
    row, column = np.mgrid[:height, :width]
    u, v = (column + 0.5 - width / 2) / focal, (row + 0.5 - height / 2) / focal
    depth = ray_depths(world, pose_matrix(pose), u.ravel(), v.ravel()).reshape(height, width)
    expected = PATH_UNITS / (depth * np.sqrt(1 + u**2 + v**2))
    assert np.mean(np.abs(view.nearness - expected) < 0.05 * expected + 0.02) > 0.95, "but for silhouettes"
    ray = pose_matrix(pose)[:3, :3] @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    up = np.degrees(np.arcsin(-ray[2] / np.linalg.norm(ray, axis=0))).reshape(height, width)
    np.testing.assert_allclose(view.elevation, up, atol=1e-3)


class TrueEye(nn.Module):
    """Sees one picture, as the simulator knows it."""

    def __init__(self, nearness: np.ndarray):
        super().__init__()
        self.nearness = nn.Parameter(torch.from_numpy(nearness)[None, None], requires_grad=False)

    def forward(self, picture, elevation):
        return self.nearness


@pytest.mark.parametrize("channel", ["forward", "left", "back"])
def test_a_draft_that_sees_moves_things_as_far_as_they_move(channel):
    world, (height, width) = simulator.make_world(900_132), SIZE
    track = channel_track(channel, 1)
    start = simulator.fly_poses(world, np.random.default_rng([900_132, 1]), 5, track)
    frame, depth = simulator.render_with_depth(world, start[0], height // 2, width // 2)
    length, _ = views.rays(start[0][4], height // 2, width // 2)
    near = np.maximum(PATH_UNITS / (depth * length), 0.02).astype(np.float32)
    frames = [simulator.render(world, pose, height, width).astype(np.float32) / 127.5 - 1 for pose in start]
    picture, truth = (torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in (frames[0], frames[4]))
    errors = []
    for eye in (None, TrueEye(near)):
        drafter = Drafter(AutoencoderLapped(width=8, depth=1), DraftSettings(sees=eye is not None), [1.0] * 8, eye)
        place = drafter.start(1, "cpu")
        targets = drafter._on_the_way(place, torch.from_numpy(track.magnitude.copy())[None], 4)
        seen = drafter.camera.seen(drafter.sight(picture, place), targets)
        known = ~seen.outside[:, -1]
        assert known.float().mean() > 0.8
        errors.append(float((seen.painted()[0][:, :, -1] - truth).square().mean(1)[known].mean()))
    assert errors[1] < 0.8 * errors[0]
