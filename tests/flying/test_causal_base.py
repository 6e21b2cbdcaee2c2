"""A base whose weights are causal is flown frame by frame, live too, with checkpoints that leave it alone or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.flying.test_pipeline import edit_config, write_run
from tests.tiny_model import build_transformer
from wanact.actions import channel_track
from wanact.files import write_json
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError
from wanact.flying.rollout import DEFAULT_WINDOW, CausalRollout, CausalSettings
from wanact.flying.stream import WanActStream
from wanact.runs.ref import BASE
from wanact.ui.engine import Engine
from wanact.weights.convert import convert
from wanact.weights.layouts import ModelDirError

SIZE = {"height": 32, "width": 64, "num_frames": 17, "num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return convert("transformer", build_transformer(seed=7).state_dict(), "original", hints={"num_heads": 2})


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def vidarc(tiny_model_dir, weights, tmp_path_factory) -> WanActPipeline:
    path = tmp_path_factory.mktemp("pt") / "vidarc.pt"
    torch.save(weights, path)
    return WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[path])


@pytest.mark.parametrize(
    ("name", "header", "window", "expected"),
    [
        ("vidarc.pt", None, None, DEFAULT_WINDOW),
        ("vidar.pt", None, None, None),
        ("self_forcing_causal.safetensors", None, None, DEFAULT_WINDOW),
        ("noncausal.safetensors", None, None, None),
        ("model.safetensors", {"model_class": "WanModelCausal"}, None, DEFAULT_WINDOW),
        ("model.safetensors", {"causal": "false"}, None, None),
        ("vidar.pt", None, 6, 6),
        ("vidarc.pt", None, 0, None),
    ],
)
def test_a_file_is_causal_if_it_says_so_or_the_flag_does(tiny_model_dir, tmp_path, name, header, window, expected):
    some = {"head.head.bias": torch.ones(192)}
    if name.endswith(".pt"):
        torch.save(some, tmp_path / name)
    else:
        save_file(some, tmp_path / name, metadata=header)
    pipe = WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[tmp_path / name], causal=window)
    steps = pipe.defaults["num_inference_steps"]
    assert pipe.causal == (None if expected is None else CausalSettings(expected, steps))
    assert any("flown frame by frame" in note for note in pipe.notes) == (expected is not None)


def test_a_causal_base_never_looks_ahead(vidarc, tiny_model_dir, image):
    """What the end of a flight is asked to do changes nothing before it; a bidirectional base sees all of it."""
    longer = vidarc("a lake", image, seed=3, **SIZE | {"num_frames": 25})
    shorter = vidarc("a lake", image, seed=3, **SIZE)
    assert np.abs(longer[:13].astype(int) - shorter[:13]).max() <= 1  # the decoder's own tail aside
    both = WanActPipeline.from_model_dir(tiny_model_dir)
    assert np.abs(both("a lake", image, seed=3, **SIZE).astype(int)[:13] - shorter[:13]).max() > 1


def test_a_clip_from_words_alone_begins_with_a_frame_that_the_base_draws_alone(vidarc):
    frames = vidarc("a lake at noon", None, seed=1, **SIZE)
    assert frames.shape == (17, 32, 64, 3)
    assert np.array_equal(frames, vidarc("a lake at noon", None, seed=1, **SIZE))


def test_what_is_flown_begins_where_the_base_draws_a_place(vidarc, tmp_path):
    place = vidarc("a lake at noon", None, seed=1, **SIZE | {"num_frames": 1})
    run = write_run(tmp_path / "run")
    save_file(build_transformer(seed=2).state_dict(), run / "transformer.safetensors")
    edit_config(run, causal={"window": 3})
    vidarc.load_controller(run)
    worn = vidarc.checkpoint
    frames = vidarc("a lake at noon", None, channel_track("forward", 4), seed=1, **SIZE)
    assert np.abs(frames[0].astype(int) - place[0]).max() <= 1
    assert vidarc.checkpoint is worn and vidarc.causal == CausalSettings(3, vidarc.defaults["num_inference_steps"])
    vidarc.load_controller(None)


def test_a_checkpoint_that_leaves_the_base_alone_is_flown_as_the_base_is(vidarc, tmp_path):
    run = write_run(tmp_path / "run")
    vidarc.load_controller(run)
    assert vidarc.causal == vidarc.base_causal
    save_file(build_transformer(seed=2).state_dict(), run / "transformer.safetensors")
    vidarc.load_controller(run)
    assert vidarc.causal is None, "with its own transformer it is what it says, and it says nothing"
    vidarc.load_controller(None)
    assert vidarc.causal == vidarc.base_causal


def test_a_run_says_causal_in_a_word_or_with_its_settings(vidarc, tmp_path):
    run = write_run(tmp_path / "run")
    edit_config(run, causal=True)
    vidarc.load_controller(run)
    assert vidarc.causal == CausalSettings(DEFAULT_WINDOW, vidarc.defaults["num_inference_steps"])
    edit_config(run, causal={"window": 3})
    vidarc.load_controller(run)
    assert vidarc.causal == CausalSettings(3, vidarc.defaults["num_inference_steps"])
    vidarc.load_controller(None)


def test_a_causal_base_flies_live_and_its_flight_opens_again(vidarc, image, tmp_path, tiny_model_dir):
    vidarc.load_controller(None)
    engine = Engine(vidarc, tmp_path / "no runs")
    assert engine.flies_live({}, None)
    stream = WanActStream(vidarc, image, "a lake", 5, height=32, width=64)
    shown = [stream.step(np.zeros(8)) for _ in range(3)]
    assert np.concatenate(shown).shape == (12, 32, 64, 3) and stream.checkpoint.id == BASE
    record = FlightRecord.parse(FlightRecord.from_stream(stream).to_json())
    assert record.checkpoint["id"] == BASE
    plain = WanActPipeline.from_model_dir(tiny_model_dir)
    assert not Engine(plain, tmp_path / "no runs").flies_live({}, None)
    with pytest.raises(RequestError, match="needs a causal one"):
        WanActStream(plain, image, "a lake", 5)


def test_actions_steer_a_causal_base(vidarc, image, tmp_path):
    vidarc.load_controller(write_run(tmp_path / "run"))
    options = SIZE | {"seed": 3}
    forward, back = (vidarc("a lake", image, channel_track(name, 4), **options) for name in ("forward", "back"))
    assert not np.array_equal(forward, back)
    vidarc.load_controller(None)


def test_a_file_beside_the_weights_says_how_they_are_flown(tiny_model_dir, weights, image, tmp_path):
    """Window, steps, sampler and guidance, in clips and live; the flag has the last word on the window."""
    torch.save(weights, tmp_path / "drone.pt")
    said = {"window": 3, "num_inference_steps": 3, "sampler": "unipc", "guidance_scale": 4.0}
    write_json(tmp_path / "drone.json", {"causal": said})
    pipe = WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[tmp_path / "drone.pt"])
    assert pipe.causal == CausalSettings(**said)
    plain = WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[tmp_path / "drone.pt"], causal=3)
    assert plain.causal == CausalSettings(**said)
    other = WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[tmp_path / "drone.pt"], causal=2)
    assert other.causal == CausalSettings(**said | {"window": 2}) and other.fingerprint() == pipe.fingerprint()
    sizes = {name: SIZE[name] for name in ("height", "width", "num_frames")}
    assert np.array_equal(pipe("a lake", image, **sizes), pipe("a lake", image, **sizes, guidance_scale=4.0))
    assert not np.array_equal(pipe("a lake", image, **sizes), pipe("a lake", image, **sizes, guidance_scale=1.0))
    stream = WanActStream(pipe, image, "a lake", 5, height=32, width=64)
    assert stream.step(np.zeros(8)).shape == (4, 32, 64, 3)
    record = FlightRecord.from_stream(stream)
    assert (record.guidance_scale, record.sampler["name"], record.num_inference_steps) == (4.0, "unipc", 3)
    write_json(tmp_path / "drone.json", {"causal": said | {"guidance_scale": float("1e9")}})
    with pytest.raises(ModelDirError, match="beside drone.pt cannot be used: guidance_scale is"):
        WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[tmp_path / "drone.pt"])


@torch.no_grad()
def test_unipc_and_guidance_draw_a_latent_frame_as_the_models_own_scheduler_does(vidarc):
    """As Vidar's command: a fresh solver for each latent frame, and both branches see the keys of the prompt's past."""
    transformer = vidarc.components.transformer
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, 1, 48, 1, 2, 4, generator=generator)
    text, negative = vidarc.prepare_prompt("a lake"), vidarc.prepare_prompt("")
    settings = CausalSettings(4, 5, "unipc", 3.0)
    rollout = CausalRollout(transformer, None, text, first, vidarc.rollout_sigmas(5), settings, negative=negative)
    drawn = rollout.draw(None, lambda: noise.clone())
    scheduler = vidarc._make_scheduler(5)
    cache, latent = transformer.prefill(first, text, window=4), noise.clone()
    for sigma, t in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        timestep = 1000.0 * sigma.view(1, 1)
        one, other = (
            transformer(latent, timestep, read, return_dict=False, view=cache)[0] for read in (text, negative)
        )
        latent = scheduler.step(other + 3.0 * (one - other), t, latent, return_dict=False)[0]
    torch.testing.assert_close(drawn, latent, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn, CausalRollout(transformer, None, text, first, vidarc.rollout_sigmas(5),
                              settings).draw(None, lambda: noise.clone()), atol=1e-3)  # fmt: skip
