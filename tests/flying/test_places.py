"""Pictures from words, by a network of their own: where a flight begins, and what it shows anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.flying.test_pipeline import edit_config, write_run
from tests.tiny_model import build_transformer
from wanact.files import write_json
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.request import ClipRequest
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


def test_what_has_not_worn_out_stays_and_what_has_is_drawn_anew(pipe):
    with torch.no_grad():
        places = pipe.places("a lake at noon", "")
        noise, known = torch.randn(2, 1, 48, 1, 2, 4, generator=torch.Generator().manual_seed(1))
        worn = torch.zeros(1, 1, 1, 2, 4)
        assert torch.equal(places.draw(noise, known, worn), known)
        torch.testing.assert_close(places.draw(noise, known, worn + 1), places.draw(noise), atol=0.02, rtol=0)
        worn[..., 2:] = 0.6
        half = places.draw(noise, known, worn)
        assert torch.equal(half[..., :2], known[..., :2])
        changed = (half - known)[..., 2:].square().mean()
        assert 0 < changed < (places.draw(noise) - known)[..., 2:].square().mean()


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
