"""Pictures from words, by a network of their own: where a flight begins, and what it shows anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.flying.test_draft import write_drafting_run
from tests.flying.test_pipeline import edit_config, write_run
from tests.tiny_model import build_transformer
from wanact.actions import channel_track
from wanact.files import write_json
from wanact.flying.draft import Drafter, DraftSettings
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.places import KEPT, LASTS, LEAST, Redrawer, Redrawn, _sky
from wanact.flying.request import ClipRequest
from wanact.flying.sight import Sight
from wanact.flying.stream import WanActStream
from wanact.flying.viewpoint import View
from wanact.models import vae as vae_ops
from wanact.ui.engine import Engine
from wanact.weights.layouts import METADATA, ModelDirError, read_json
from wanact.weights.model_dir import PLACES, load_components, save_components

ONE = {"height": 32, "width": 64, "num_frames": 1}
SAID = {"num_inference_steps": 5, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model_dir(tiny_model_dir, tmp_path_factory):
    """A base that is flown frame by frame, and a network of places beside it."""
    path = tmp_path_factory.mktemp("places") / "model"
    shutil.copytree(tiny_model_dir, path)
    build_transformer(seed=5).save_pretrained(path / PLACES)
    write_json(path / METADATA, read_json(path / METADATA) | {"places": SAID, "causal": True})
    return path


@pytest.fixture(scope="module")
def pipe(model_dir) -> WanActPipeline:
    return WanActPipeline.from_model_dir(model_dir)


def test_a_first_frame_is_drawn_by_the_network_of_places(pipe, tmp_path):
    """As one writes it down: from noise, along the guided velocity; whatever checkpoint is flown."""
    drawn = pipe("a lake at noon", None, seed=4, **ONE)
    network = build_transformer(seed=5)
    texts = pipe._prompts.encode(["a lake at noon", ""], pipe.device, torch.float32)
    latent = torch.randn(1, 48, 1, 2, 4, generator=torch.Generator().manual_seed(4))
    sigmas = pipe.rollout_sigmas(5)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        with torch.no_grad():
            asked, without = (network(latent, torch.full((1,), 1000 * sigma), t[None])[0] for t in texts)
        latent = latent + (following - sigma) * (without + 3.0 * (asked - without))
    assert np.abs(drawn.astype(int) - pipe.decode(latent)).max() <= 1

    run = write_run(tmp_path / "run")
    save_file(build_transformer(seed=2).state_dict(), run / "transformer.safetensors")
    edit_config(run, causal=True)
    pipe.load_controller(run)
    assert np.array_equal(pipe("a lake at noon", None, seed=4, **ONE), drawn)
    pipe.load_controller(None)
    assert Engine(pipe, tmp_path / "no runs").draws_places, "so the page offers to describe a place"


def test_a_base_that_draws_pictures_does_so_whatever_is_flown(tiny_model_dir, tmp_path):
    """What metadata.json says is enough; a run's transformer draws its flights and no places."""
    shutil.copytree(tiny_model_dir, base := tmp_path / "model")
    write_json(base / METADATA, read_json(base / METADATA) | {"places": SAID})
    pipe = WanActPipeline.from_model_dir(base)
    noise = torch.randn(1, 48, 1, 2, 4, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        drawn = pipe.places("a lake at noon", "").draw(noise)
        run = write_run(tmp_path / "run")
        save_file(build_transformer(seed=2).state_dict(), run / "transformer.safetensors")
        pipe.load_controller(run)
        assert torch.equal(pipe.places("a lake at noon", "").draw(noise), drawn)
        pipe.load_controller(None)
    asked = pipe.check(ClipRequest("a lake at noon", None, **ONE))
    assert (asked.num_inference_steps, asked.guidance_scale) == (5, 3.0), "as metadata.json says of places"
    asked = pipe.check(ClipRequest("a lake at noon", None, **ONE, num_inference_steps=2))
    assert (asked.num_inference_steps, asked.guidance_scale) == (2, 3.0)
    clip = pipe.check(ClipRequest("a lake at noon", None, **ONE | {"num_frames": 5}))
    assert clip.num_inference_steps == pipe.defaults["num_inference_steps"] != 5
    saved = save_components(pipe.components, tmp_path / "saved")
    assert not (saved / PLACES).exists()


def test_places_are_kept_with_the_model_and_belong_to_it(model_dir, tmp_path):
    saved = save_components(load_components(model_dir), tmp_path / "saved")
    ours, theirs = (load_components(path).places.state_dict() for path in (model_dir, saved))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert load_components(model_dir, parts=("vae",)).places is None, "who asks for parts gets those"
    (saved / PLACES / "config.json").unlink()
    with pytest.raises(ModelDirError, match="places"):
        load_components(saved)


def test_without_a_negative_prompt_nobody_is_led_away_from_it(pipe):
    network = pipe.components.places
    batches = []
    handle = network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    try:
        pipe("a lake", None, **ONE)
        with torch.no_grad():
            pipe.places("a lake").draw(torch.zeros(1, 48, 1, 2, 4))
    finally:
        handle.remove()
    assert batches == [2] * 5 + [1] * 5


def test_guidance_leads_away_from_what_does_not_look_around(tiny_model_dir, tmp_path):
    """As one writes it down: in places, and in clips, each with the layers that the model says."""
    shutil.copytree(tiny_model_dir, base := tmp_path / "model")
    said = read_json(base / METADATA)
    defaults = said["defaults"] | {"perturbed_layers": [0], "guidance_scale": 2.0}
    write_json(base / METADATA, said | {"defaults": defaults, "places": SAID | {"perturbed_layers": [1]}})
    pipe = WanActPipeline.from_model_dir(base)
    network, noise = pipe.components.transformer, torch.Generator().manual_seed(4)
    texts = pipe._prompts.encode(["a lake at noon", ""], pipe.device, torch.float32)

    def velocity(latent: torch.Tensor, timestep: float, layer: int, guidance: float) -> torch.Tensor:
        at = torch.full((1, latent.shape[2]), timestep)
        asked = network(latent, at, texts[:1])[0]
        without = network(latent, at, texts[1:], perturbed_layers=(layer,))[0]
        return without + guidance * (asked - without)

    latent = begun = torch.randn(1, 48, 1, 2, 4, generator=noise)
    sigmas = pipe.rollout_sigmas(5)
    with torch.no_grad():
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            latent = latent + (following - sigma) * velocity(latent, 1000 * sigma, 1, 3.0)
        torch.testing.assert_close(pipe.places("a lake at noon", "").draw(begun), latent, atol=1e-4, rtol=1e-3)

    clean: list[torch.Tensor] = []
    clip = {"height": 32, "width": 64, "num_frames": 5, "num_inference_steps": 1, "seed": 4}
    pipe("a lake at noon", None, on_step=lambda step: clean.append(step.latents_preview), **clip)
    latent = torch.randn(1, 48, 2, 2, 4, generator=torch.Generator().manual_seed(4))
    scheduler = pipe._make_scheduler(1)
    with torch.no_grad():
        drawn = latent - float(scheduler.sigmas[0]) * velocity(latent, float(scheduler.timesteps[0]), 0, 2.0)
    torch.testing.assert_close(clean[-1], drawn, atol=1e-4, rtol=1e-3)


def make_redrawer(drafter: Drafter, clear: torch.Tensor | None, pipe: WanActPipeline) -> Redrawer:
    redrawer = Redrawer(drafter, clear, pipe.places("a lake", ""), seed=3)
    redrawer.begin(drafter.start(1, "cpu"), 0)
    return redrawer


def seen(drafter: Drafter, picture: torch.Tensor, worn: float = 0.0, pitch: float = -8.0, yaw: float = 0.0) -> Sight:
    """A sight that has worn out so far in its right half."""
    place = drafter.start(1, "cpu")
    place[:, 2:] = torch.tensor([yaw, pitch])
    how_far = torch.zeros(1, 1, picture.shape[2] // 16, picture.shape[3] // 16)
    how_far[..., how_far.shape[3] // 2 :] = worn
    return drafter.sight(picture, place, how_far)


def as_turned(drafter: Drafter, picture: torch.Tensor, place: torch.Tensor, turn: float) -> torch.Tensor:
    """A picture that flights begin with, as a camera sees it that is at a place and has turned so far from it."""
    from_there = place.clone()
    from_there[:, 2:] = torch.stack([place[:, 2] - turn, drafter.start(1, "cpu")[:, 3]], dim=1)
    return drafter.sides.around(Sight(picture, from_there), place[:, None])[:, :, 0]


def hill_at(x: float) -> torch.Tensor:
    across = torch.arange(96.0)
    return (0.8 * torch.exp(-(((across - x) / 8) ** 2)) + across / 96 - 0.8).expand(1, 3, 64, 96)


def test_another_view_is_shown_where_a_part_has_worn_out(drafter, pipe):
    picture, redrawer = hill_at(70), make_redrawer(drafter, hill_at(48), pipe)
    assert redrawer(seen(drafter, picture, KEPT), LASTS) is None, "it bears so much"
    little = seen(drafter, picture)
    little.worn[..., 0] = 2.0
    assert little.worn.bool().float().mean() < LEAST and redrawer(little, LASTS) is None
    worn = seen(drafter, picture, KEPT + 0.1)
    assert redrawer(worn, LASTS - 1) is None, "what was seen is shown for its time"
    assert redrawer(worn, LASTS) is not None
    assert redrawer(worn, 2 * LASTS - 1) is None and redrawer(worn, 2 * LASTS) is not None


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_it_is_the_clear_picture_or_its_mirror_image_turned_to_where_it_fits(drafter, pipe, is_mirrored):
    """And its sides show what that picture shows, not its own mirror image."""
    clear = hill_at(40)
    shown, redrawer = clear.flip(-1) if is_mirrored else clear, make_redrawer(drafter, clear, pipe)
    sight = seen(drafter, clear, worn=2.0, yaw=33.0)
    sight.picture = as_turned(drafter, shown, sight.place, 20.0)
    redrawn = redrawer(sight, LASTS)
    assert redrawn is not None
    torch.testing.assert_close(redrawn.picture, sight.picture, atol=1e-4, rtol=0)
    back = sight.place.clone()
    back[:, 2] -= 20.0
    beside = drafter.sides.around(redrawn.region, back[:, None])[:, :, 0]
    torch.testing.assert_close(beside, as_turned(drafter, shown, back, 0.0), atol=1e-4, rtol=0)
    again = redrawer(sight, 2 * LASTS)
    assert again is not None
    assert (again.picture - sight.picture)[:, :, -8:].abs().max() > 0.1, "who flies on leaves it behind"


class Flat(torch.nn.Module):
    """Sees a plain under a sky."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, picture: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
        return torch.where(elevation > 0, 0.01, 1.0).expand(len(picture), -1, -1, -1)


@pytest.mark.parametrize(("x", "y", "is_worn"), [(0.0, 0.6, True), (0.0, 0.2, False), (0.6, 0.0, False)])
def test_what_is_seen_from_another_side_has_worn_out(drafter, pipe, x, y, is_worn):
    sees = Drafter(drafter.vae, DraftSettings(sees=True), [100.0] * 4 + [1.0] * 4, Flat())
    redrawer, sight = make_redrawer(sees, hill_at(48), pipe), seen(sees, hill_at(48))
    sight.place[:, :2] = torch.tensor([x, y])
    assert (redrawer(sight, LASTS) is not None) == is_worn
    redrawer.begin(sight.place, 40)  # as after a rewind
    assert redrawer(sight, 40 + LASTS) is None


@pytest.mark.parametrize("yaw", [0.0, 25.0])
def test_the_sky_stays_where_it_was(drafter, pipe, yaw):
    sees = Drafter(drafter.vae, DraftSettings(sees=True), [100.0] * 4 + [1.0] * 4, Flat())
    clear = hill_at(30)  # the sun, as it were
    redrawer = make_redrawer(sees, clear, pipe)
    sight = seen(sees, clear, worn=2.0, yaw=yaw)
    stays = as_turned(sees, clear, sight.place, yaw)
    sight.picture = as_turned(sees, clear, sight.place, -10.0)
    redrawn = redrawer(sight, LASTS)
    assert redrawn is not None
    x, y = torch.tensor([48.0]), torch.arange(64) + 0.5
    up = View(96, 64, sees.settings.field_of_view_deg).rays(x, y, sight.place[:, 3:]).elevation()[0, 0, :, 0]
    is_sky, is_land = (up > 6) & (up < 14), up < 0
    assert is_sky.sum() > 5
    middle = redrawn.picture[..., is_sky, 30:-30]  # of no mirror image
    torch.testing.assert_close(middle, stays[..., is_sky, 30:-30], atol=0.04, rtol=0)
    assert (redrawn.picture - stays)[..., is_land, :].abs().max() > 0.1, "and the land is another"


def test_a_sky_goes_on_behind_what_stands_before_it():
    picture = torch.linspace(0.8, -0.8, 32)[:, None].expand(1, 3, 32, 48).clone()
    known = torch.ones(1, 1, 32, 48)
    known[..., 20:, :] = known[..., 10:, 16:24] = 0
    hidden = torch.where(known > 0, picture, -1.0)
    sky = _sky(hidden, known)
    torch.testing.assert_close(sky[..., :20, :], picture[..., :20, :], atol=1e-5, rtol=0)
    torch.testing.assert_close(sky[..., 20:, :], picture[..., 19:20, :].expand(-1, -1, 12, -1), atol=1e-5, rtol=0)
    assert torch.equal(_sky(hidden, torch.zeros_like(known)), hidden), "there is none"


def test_other_words_have_a_clear_picture_drawn(drafter, pipe):
    picture, redrawer = torch.zeros(1, 3, 64, 96), make_redrawer(drafter, None, pipe)
    redrawn = redrawer(seen(drafter, picture, 2.0), LASTS)
    with torch.no_grad():
        noise = torch.randn(1, 48, 1, 4, 6, generator=torch.Generator().manual_seed(3))
        drawn = vae_ops.decode(drafter.vae, redrawer.places.draw(noise))[:, :, 0]
    assert redrawn is not None
    assert any(torch.equal(redrawn.region.picture, one) for one in (drawn, drawn.flip(-1)))


def test_what_was_seen_elsewhere_is_forgotten(lapped_dir, tmp_path, ramp, monkeypatch):
    """A flight that goes on in another place does not show the first one at its sides."""
    shutil.copytree(lapped_dir, folder := tmp_path / "model")
    WanActPipeline.from_model_dir(lapped_dir).components.transformer.save_pretrained(folder / PLACES)
    pipe = WanActPipeline.from_model_dir(folder)
    pipe.load_controller(write_drafting_run(tmp_path / "run", trust=1.0, noise=0.0, redraws=True))
    ahead = channel_track("forward", 1).magnitude[0]
    calls = []

    def elsewhere(self, sight, number):
        calls.append(number)
        return Redrawn(-sight.picture, sight) if len(calls) == 3 else None

    monkeypatch.setattr(Redrawer, "__call__", elsewhere)
    stream = WanActStream(pipe, ramp, "hills", 4)
    kept = []
    while len(calls) < 3:
        stream.step(ahead)
        kept.append(len(stream._now.rollout._album))
    assert max(kept) > 1 and kept[-1] <= 1
