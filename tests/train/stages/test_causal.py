"""The causal stage: what it learns is what a flight draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from train.loop.config import ConfigError
from train.loop.seeding import Draw
from wanact.actions import PRESETS, ActionTrack
from wanact.files import read_json
from wanact.flying.draft import DraftSettings
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream
from wanact.runs.ref import RUN_CONFIG


@pytest.fixture
def trained(run, tmp_path):
    return run("causal", tmp_path / "run", "--max_steps", "3", "--learning_rate", "1e-2", "--history_noise", "0.3",
               "--export_dtype", "float32")  # fmt: skip


def test_a_causal_run_flies_as_a_clip_and_live_with_the_same_frames(trained, model, tmp_path):
    pipe = WanActPipeline.from_model_dir(model)
    pipe.load_controller(tmp_path / "run")
    assert pipe.causal is not None and pipe.causal.window == 20
    image, track = Image.new("RGB", (48, 48), (90, 120, 60)), PRESETS["Forward"](2)
    seen = []
    clip = pipe("a drone flies", image, track, on_step=lambda progress: seen.append(progress.step))
    assert clip.shape == (9, 32, 32, 3) and seen == [1, 2]
    changed = ActionTrack(np.stack([track.magnitude[0], PRESETS["Orbit left"](2).magnitude[1]]))
    other = pipe("a drone flies", image, changed)
    assert np.array_equal(other[:5], clip[:5]), "the past does not know the future"
    assert not np.array_equal(other[5:], clip[5:])
    live = WanActStream(pipe, image, "a drone flies")
    assert live.step(track.magnitude[0]).shape == (4, 32, 32, 3)
    pipe.load_controller(None)
    assert pipe.causal is None


@pytest.mark.parametrize("prediction", ["flow_prediction", "sample"])
def test_one_pass_with_teacher_forcing_has_the_loss_of_flying(trained, prediction, monkeypatch):
    """A frame's velocity in the loss's one pass is that of a flight with the same past."""
    stage = trained.stage
    monkeypatch.setattr(stage, "prediction", prediction)
    batch = stage.load([Draw(0, 0, 0, 0, "test")])
    latents, T = batch["latents"], batch["latents"].shape[2]
    clean = torch.cat([latents, batch["noise"]], dim=2)
    timestep = torch.tensor([[0.0] * T + [0.0] + [1000.0] * (T - 1)])
    with torch.no_grad():
        context = stage._context(batch)
        whole = stage.predict(clean, timestep, context, batch)
        from wanact.flying.rollout import CausalRollout

        rollout = CausalRollout(stage.transformer, stage.controller, context, latents[:, :, :1], [1.0, 0.0],
                                stage._settings, prediction=prediction)  # fmt: skip
        for frame in range(1, T):
            action = tuple(batch[name][:, frame - 1 : frame] for name in ("binary", "magnitude"))
            noise = batch["noise"][:, :, frame : frame + 1]
            velocity = rollout._velocity(noise, torch.full((1, 1), 1000.0), rollout._prepare(action))
            assert_close(velocity, whole[:, :, frame : frame + 1], rtol=1e-4, atol=1e-4)
            rollout.commit(latents[:, :, frame : frame + 1], action)


def test_every_frame_has_its_own_noise_and_the_first_has_none(trained):
    batch = trained.stage.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    assert batch["sigma"].shape == batch["history_sigma"].shape == (2, 3)
    assert (batch["sigma"][:, 0] == 0).all() and (batch["history_sigma"][:, 0] == 0).all()
    assert len(batch["sigma"][:, 1:].unique()) == 4
    assert 0 < batch["history_sigma"].max() <= 0.3


def test_a_late_step_goes_on_from_the_middle_of_a_clip(run, tmp_path):
    stage = run("causal", tmp_path, "--max_steps", "1", "--late_share", "1", "--num_latent_frames_choices", "2").stage
    draw = Draw(0, 0, 0, 0, "test")
    batch, whole = stage.load([draw]), stage.latents[0]["latents"].float()
    assert_close(batch["latents"][0], torch.stack([whole[:, 0], whole[:, 2]], dim=1))
    assert_close(batch["magnitude"], stage.conditions([draw], 3)["magnitude"][:, 1:])
    assert batch["late"] >= 1
    assert stage.loss(batch, "main").loss.isfinite().all()


def test_the_networks_own_history_begins_at_the_truth_and_leaves_no_gradient(run, tmp_path):
    stage = run("causal", tmp_path, "--max_steps", "1", "--own_history", "1").stage
    batch = stage.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    context = stage._context(batch)
    history, sigma, source, shows = stage._history(batch, context)
    assert shows is None, "all of what is drawn is seen"
    assert torch.equal(source, batch["noise"])
    assert_close(history[:, :, :1], batch["latents"][:, :, :1])
    assert not history.requires_grad and (sigma == 0).all()
    assert not torch.allclose(history[:, :, 1:], batch["latents"][:, :, 1:], atol=1e-2)
    nearly_true, *_ = stage._history(batch | {"own_sigma": batch["own_sigma"] * 0 + 1e-6}, context)
    assert_close(nearly_true, batch["latents"], atol=1e-4, rtol=1e-4)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(run, tmp_path):
    """The velocities of N steps are the teacher's own where both take the same steps."""
    run("causal", tmp_path / "teacher", "--max_steps", "2", "--export_dtype", "float32")
    distill = ("--max_steps", "1", "--init_from", str(tmp_path / "teacher"), "--teacher_run", str(tmp_path / "teacher"),
               "--student_steps", "2", "--learning_rate", "1e-12")  # fmt: skip
    same = run("causal", tmp_path / "same", *distill, "--teacher_steps", "1").stage
    batch = same.load([Draw(0, 0, 0, 0, "test")])
    assert set(batch["sigma"][0, 1:].tolist()) <= set(same._grid[:-1].tolist())
    assert same.loss(batch, "main").loss.item() < 1e-8
    other = run("causal", tmp_path / "other", *distill, "--teacher_steps", "3").stage
    assert other.loss(batch, "main").loss.item() > 1e-8
    config = read_json(tmp_path / "other" / RUN_CONFIG)
    assert config["causal"]["num_inference_steps"] == 2


def test_it_samples_resumes_and_says_how_it_is_flown(run, tmp_path):
    run("causal", tmp_path, "--max_steps", "2", "--sample_steps", "2", "--sample_count", "1", "--window", "3",
        "--flight_steps", "2", "--sample_inference_steps", "1")  # fmt: skip
    assert list(tmp_path.glob("samples/*/clip0.mp4"))
    config = read_json(tmp_path / RUN_CONFIG)
    assert config["causal"] == {
        "window": 3,
        "num_inference_steps": 2,
        "sampler": "euler",
        "guidance_scale": 1.0,
    }
    again = run("causal", tmp_path, "--max_steps", "3", "--window", "3", "--flight_steps", "2")
    assert again.step == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--window", "0"], "--window 0 must be at least 1"),
        (["--history_noise", "1"], "--history_noise 1 must be at least 0 and below 1"),
        (["--own_history", "2"], "--own_history 2 must be at least 0 and at most 1"),
        (["--student_steps", "2"], "a student needs a teacher"),
        (["--student_steps", "2", "--teacher_run", "x", "--flight_steps", "4"], "flies with its --student_steps"),
        (["--loss_weighting", "bell"], "every frame has its own noise level"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(flags, message, run, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run("causal", tmp_path, "--max_steps", "1", *flags)


# Drafts


@pytest.mark.parametrize("own", ["0", "1"])
def test_what_stays_of_a_draft_is_not_learned_and_the_run_flies(run, lapped_model, tmp_path, own):
    flags = ("--draft_noise", "0.1", "--draft_sees", "true", "--draft_trust", "0.9", "--own_history", own)
    stage = run("causal", tmp_path / "run", "--max_steps", "1", "--model_dir", str(lapped_model), *flags).stage
    batch = stage.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    assert batch["place"].shape == (2, 4)
    history, _, source, shows = stage._history(batch, stage._context(batch))
    assert shows.shape == (*history[:, :1].shape,) and (shows[:, :, 0] == 1).all()
    assert 0.1 - 1e-6 <= float(shows[:, :, 1:].min()) <= float(shows[:, :, 1:].max()) <= 1
    assert not torch.equal(source[:, :, 1:], batch["noise"][:, :, 1:])
    weighed = stage.loss(batch, "main").loss
    stage.settings.draft_trust = 0.0
    stage.drafter = stage._make_drafter()
    assert (weighed < stage.loss(batch, "main").loss).all(), "errors that nobody sees count little"
    pipe = WanActPipeline.from_model_dir(lapped_model)
    pipe.load_controller(tmp_path / "run")
    assert pipe.causal is not None and pipe.causal.draft == DraftSettings(0.1, sees=True, trust=0.9)
    image, track = Image.new("RGB", (48, 48), (90, 120, 60)), PRESETS["Forward"](2)
    assert pipe("a drone flies", image, track, num_frames=9, seed=1).shape[0] == 9


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--draft_sees", "true"], "--draft_sees has no effect without --draft_noise"),
        (["--draft_trust", "0.5"], "--draft_trust has no effect without --draft_noise"),
        (["--draft_mirrors", "true"], "--draft_mirrors has no effect without --draft_noise"),
        (["--draft_noise", "0.1", "--draft_trust", "1"], "below 1"),
    ],
)
def test_drafts_that_cannot_be_are_refused(run, tmp_path, flags, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run("causal", tmp_path, "--max_steps", "1", *flags)
