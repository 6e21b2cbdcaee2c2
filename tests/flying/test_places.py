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
from wanact.flying.draft import Drafter, Sight
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.places import KEPT, RAMP, SEEN, STAYS, TURNS_DEG, Redrawer, Redrawn, _upright
from wanact.flying.request import ClipRequest
from wanact.flying.stream import WanActStream
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


def pictures(*sides: tuple[float, float]) -> list[torch.Tensor]:
    """Pictures [1, 3, 64, 96] of so much light above and below."""
    return [torch.tensor(side).repeat_interleave(32).view(1, 1, 64, 1).expand(1, 3, 64, 96) for side in sides]


def make_redrawer(drafter: Drafter, clear: torch.Tensor | None, pipe: WanActPipeline) -> Redrawer:
    return Redrawer(drafter, clear, pipe.places("a lake", ""), seed=3)


def seen(drafter: Drafter, picture: torch.Tensor, worn: float = 0.0, pitch: float = -8.0) -> Sight:
    """A sight that has worn out so far in its right half."""
    place = drafter.start(1, "cpu")
    place[:, 3] = pitch
    how_far = torch.zeros(1, 1, picture.shape[2] // 16, picture.shape[3] // 16)
    how_far[..., how_far.shape[3] // 2 :] = worn
    return drafter.sight(picture, place, how_far)


def test_what_has_not_worn_out_stays_and_what_has_is_taken_from_the_clear_picture(drafter, pipe):
    clear, picture = torch.full((2, 1, 3, 64, 96), 0.5)
    picture -= 1.0
    redrawer = make_redrawer(drafter, clear, pipe)
    assert redrawer(seen(drafter, picture, KEPT), 7) is None, "it bears so much"
    shown = redrawer(seen(drafter, picture, KEPT + 2 * RAMP), 7)
    assert shown is not None and not shown.is_elsewhere and not shown.worn.any()
    torch.testing.assert_close(shown.picture[..., :40], picture[..., :40])
    torch.testing.assert_close(shown.picture[..., 56:], clear[..., 56:])
    assert (shown.picture[..., 40:56].diff(dim=3) >= 0).all(), "one goes over into the other"


def test_the_clear_picture_is_turned_to_where_it_fits(drafter, pipe):
    """A hill that stands to the right in what stays, and in the middle of the clear picture."""
    place = drafter.start(1, "cpu")
    across = torch.arange(96.0)
    hill = (0.8 * torch.exp(-(((across - 48) / 8) ** 2)) + across / 96 - 0.8).expand(1, 3, 64, 96)
    looks_left = drafter.turned(hill, place[:, 3:], [-15.0])[:, :, 0]
    worn = torch.zeros(1, 1, 4, 6)
    worn[..., 3:, :] = 2.0
    redrawer, sight = make_redrawer(drafter, hill, pipe), drafter.sight(looks_left, place, worn)
    shown = redrawer(sight, 7)
    assert shown is not None
    torch.testing.assert_close(shown.picture, looks_left, atol=1e-4, rtol=0)
    again = redrawer(sight, 14)
    assert again is not None
    assert (again.picture - looks_left)[:, :, -8:].abs().max() > 0.1, "who flies on leaves it behind"


def test_what_stands_on_what_is_shown_anew_comes_with_it():
    near = torch.full((1, 1, 32, 48), 0.01)
    near[..., 16:, :] = 0.4  # ground
    near[..., 4:16, 20:28] = 0.4  # a tower on it, and far behind a hill
    near[..., 12:16, 36:44] = 0.1
    share = torch.zeros(1, 1, 8, 12)
    share[:, :, 4:] = 1.0
    taken = _upright(share, near)[0, 0]
    assert taken[4:].all() and taken[1:4, 5:7].all() and taken[:4].sum() == 6


def test_other_words_have_a_clear_picture_drawn(drafter, pipe):
    picture, redrawer = torch.zeros(1, 3, 64, 96), make_redrawer(drafter, None, pipe)
    sight = seen(drafter, picture, 2.0)
    shown = redrawer(sight, 7)
    with torch.no_grad():
        noise = torch.randn(1, 48, 1, 4, 6, generator=torch.Generator().manual_seed(3))
        drawn = vae_ops.decode(drafter.vae, redrawer.places.draw(noise))[:, :, 0]
        turned = drafter.turned(drawn, sight.place[:, 3:], TURNS_DEG).unbind(2)
    assert shown is not None and torch.equal(shown.picture[..., :40], picture[..., :40])
    assert any(torch.allclose(shown.picture[..., 56:], one[..., 56:], atol=1e-5) for one in turned)


def test_another_view_is_shown_where_no_horizon_is_left(drafter, pipe):
    """After the first view has been shown for its time, when two pictures in a row have lost it, and nobody looks down;
    then no other for a while."""
    sides = pictures((0.8, -0.6), (-0.6, 0.8), (-0.6, -0.6))
    sides[0] = sides[0] + torch.linspace(0, 0.1, 96)  # so that each turn of it is another view
    sky, upside_down, wall = (seen(drafter, picture) for picture in sides)

    def begun() -> Redrawer:
        redrawer = make_redrawer(drafter, sky.picture, pipe)
        assert redrawer(sky, 1) is None, "nothing has worn out"
        return redrawer

    redrawer = begun()
    for number in (SEEN - 1, SEEN):
        assert redrawer(wall, number) is None, "what was seen is shown for its time"
    found = redrawer(wall, 1 + SEEN)
    assert found is not None and found.is_elsewhere and not found.worn.any()
    assert (found.picture - sky.picture).abs().mean() < 0.1
    for number in range(2 + SEEN, 1 + SEEN + STAYS):
        assert redrawer(wall, number) is None
    again = redrawer(wall, 1 + SEEN + STAYS)
    assert again is not None and again.is_elsewhere and not torch.equal(again.picture, found.picture)

    redrawer = begun()
    assert redrawer(upside_down, 100) is None, "one picture may be an accident"
    assert redrawer(sky, 101) is None
    assert redrawer(upside_down, 102) is None
    found = redrawer(upside_down, 103)
    assert found is not None and found.is_elsewhere, "the sky is below"

    redrawer, down = begun(), seen(drafter, wall.picture, pitch=-30.0)
    assert not any(redrawer(down, number) for number in range(100, 110)), "who looks down sees ground"

    never = make_redrawer(drafter, sky.picture, pipe)
    assert not any(never(wall, number) for number in range(1, 200)), "there was no horizon to lose"


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
        return Redrawn(-sight.picture, torch.zeros_like(sight.worn), True) if len(calls) == 3 else None

    monkeypatch.setattr(Redrawer, "__call__", elsewhere)
    stream = WanActStream(pipe, ramp, "hills", 4)
    kept = []
    while len(calls) < 3:
        stream.step(ahead)
        kept.append(len(stream._now.rollout._album))
    assert max(kept) > 1 and kept[-1] <= 1
