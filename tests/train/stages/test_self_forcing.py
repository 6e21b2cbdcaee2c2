"""Self-forcing: rollouts with the truth are teacher forcing, and a critic teaches from a network's own flights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tests.train.conftest import CONTROLLER
from tests.train.processes import run_processes
from train.loop import sharded
from train.loop.config import ConfigError
from train.loop.seeding import Draw
from train.stages import stage_class
from train.stages.self_forcing import Score, at_level, drawn_clip, matching_loss, predicted_velocities
from wanact.files import CheckpointError, load_state, load_weights, read_json
from wanact.flying.album import Album
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.rollout import CausalRollout, CausalSettings
from wanact.flying.stream import WanActStream
from wanact.models.kv_cache import RolloutCache
from wanact.models.presets import PRESETS as MODELS
from wanact.models.presets import TRANSFORMER
from wanact.models.transformer import WanActTransformer3DModel
from wanact.runs import store

CONFIGS = Path(__file__).parents[3] / "train" / "configs" / "vidar"
BOTH = ("--trainable_models", "transformer,action_controller", "--action_controller_config", CONTROLLER)
ALONE = ("--trainable_models", "transformer")


@pytest.fixture(scope="session")
def runs(run, tmp_path_factory) -> Path:
    """Folder with a run that draws whole clips, `whole`, and a causal one to go on from, `student`."""
    folder = tmp_path_factory.mktemp("self-forcing")
    both = ("--trainable_models", "action_controller,transformer")
    run("action", folder / "whole", *both, "--max_steps", "2", "--learning_rate", "1e-2", "--export_dtype", "float32")
    run("vidarc", folder / "student", *BOTH, "--max_steps", "2", "--learning_rate", "1e-2", "--flight_steps", "2")
    return folder


@pytest.fixture
def match(run, runs):
    """Train by distribution matching: `match(output, "--max_steps", "4")` gives the Trainer."""

    def start(output: Path, *more: str):
        return run(
            *("vidarc", output, *BOTH, "--distribution_matching", "true", "--init_from", str(runs / "student")),
            *("--real_run", str(runs / "whole"), "--generator_every", "2", "--flight_steps", "2", "--window", "2"),
            *(
                "--learning_rate",
                "1e-3",
                "--lr_warmup_steps",
                "0",
                "--adam_beta1",
                "0",
                "--ema_decay",
                "0.5",
                "--lr_min_lr",
                "1e-3",
                *more,
            ),
        )

    return start


def state(trainer) -> dict[str, torch.Tensor]:
    """Everything that goes on: weights, averages and both optimizers."""
    found = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    found |= {f"ema.{name}": value.clone() for name, value in trainer.ema.items()}
    for phase in trainer.optimizers:
        states = trainer._optimizer_state(phase)["state"]
        found |= {f"{phase}.{name}.{key}": v for name, kept in states.items() for key, v in kept.items()}
    return found


# Rollouts of the plan


@pytest.mark.parametrize("flags", [BOTH, (*BOTH, "--chunk_size", "1"), ALONE], ids=["actions", "chunk", "words"])
def test_with_the_truth_committed_a_rollout_has_the_loss_of_teacher_forcing(run, tmp_path, monkeypatch, flags):
    stage = run("vidarc", tmp_path, "--max_steps", "1", *flags).stage
    batch = stage.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    forced = stage.loss(batch, "main").loss
    monkeypatch.setattr(stage.settings, "commit", "truth")
    assert_close(stage.loss(batch, "main").loss, forced, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(stage.settings, "commit", "own")
    whole = batch | {"predicted": (0, 3)}
    assert not torch.allclose(stage.loss(whole, "main").loss, forced, rtol=1e-3)


def test_a_late_rollout_has_the_loss_of_teacher_forcing_too(run, tmp_path, monkeypatch):
    flags = ("--late_share", "1", "--num_latent_frames_choices", "2")
    stage = run("causal", tmp_path, "--max_steps", "1", *flags).stage
    batch = stage.load([Draw(0, 0, 0, 0, "test")])
    forced = stage.loss(batch, "main").loss
    monkeypatch.setattr(stage.settings, "commit", "truth")
    assert_close(stage.loss(batch, "main").loss, forced, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("late", ["0", "1"])
def test_rollouts_go_on_from_drafts_as_teacher_forcing_does(run, lapped_model, tmp_path, monkeypatch, late):
    """With the truth committed the drafts are those of the true pictures; with the own estimate they are its own."""
    drafts = ("--draft_noise", "0.1", "--draft_sees", "true", "--draft_trust", "0.9")
    flags = ("--late_share", late, "--num_latent_frames_choices", "2" if late == "1" else "3", *drafts)
    stage = run("causal", tmp_path, "--max_steps", "1", "--model_dir", str(lapped_model), *flags).stage
    monkeypatch.setattr(Album, "find", lambda *_: None)  # a pass over true frames looks at the last one alone
    batch = stage.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    forced = stage.loss(batch, "main").loss
    monkeypatch.setattr(stage.settings, "commit", "truth")
    assert_close(stage.loss(batch, "main").loss, forced, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(stage.settings, "commit", "own")
    _, source, shows = stage._rolled_out(batch, stage._context(batch))
    assert shows.shape == (*source[:, :1].shape,) and float(shows.min()) < 1
    if late == "0":
        assert not torch.allclose(source[:, :, 2], stage._history(batch, stage._context(batch))[2][:, :, 2])


def rollout_of(model, frames: int, window: int) -> tuple[CausalRollout, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 48, frames, 4, 6, generator=generator) for _ in range(2))
    text = torch.randn(1, 5, 32, generator=generator)
    settings = CausalSettings(window, 2, "consistency")
    rollout = CausalRollout(model, None, text, latents[:, :, :1], [1.0, 0.5, 0.0], settings, cache=RolloutCache)
    return rollout, {"latents": latents, "noise": noise, "sigma": torch.full((1, frames), 0.7)}


def rolled_out(model, frames: int, window: int = 2, commit="own", grad_frames=None) -> torch.Tensor:
    rollout, inputs = rollout_of(model, frames, window)
    return predicted_velocities(
        rollout, **inputs, action_of=lambda frame: None, start=0, commit=commit, grad_frames=grad_frames
    ).velocity


@pytest.fixture
def transformer(model) -> WanActTransformer3DModel:
    return WanActTransformer3DModel.from_pretrained(model / "transformer")


def gradients(model, output: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    output.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_only_the_newest_frames_have_a_gradient_and_the_past_has_none(transformer):
    whole = rolled_out(transformer, 6)
    some = rolled_out(transformer, 6, grad_frames=2)
    assert_close(some, whole)
    wanted = gradients(transformer, torch.cat([whole[:, :, :4].detach(), whole[:, :, 4:]], dim=2))
    assert_close(gradients(transformer, some), wanted)


@pytest.mark.parametrize("commit", ["truth", "own"])
def test_what_is_computed_again_on_the_way_back_still_sees_what_it_saw(transformer, commit):
    """With gradient checkpointing, although the window has moved on and the first frame has been turned since."""
    plain = gradients(transformer, rolled_out(transformer, 7, commit=commit))
    transformer.enable_gradient_checkpointing()
    assert_close(gradients(transformer, rolled_out(transformer, 7, commit=commit)), plain, rtol=1e-4, atol=1e-7)


def test_memory_is_flat_in_the_length_of_the_rollout(transformer):
    """Of a rollout of any length the graph holds the newest frames, and the cache its window."""

    def held(frames: int) -> int:
        sizes: list[int] = []

        def count(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        rollout, inputs = rollout_of(transformer, frames, window=2)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            predicted_velocities(rollout, **inputs, action_of=lambda frame: None, start=0, commit="own", grad_frames=2)
        cache = rollout.cache
        kept = [tensor for past in cache._past for pair in past for tensor in pair]
        assert len(cache._past[0]) == 3, "the first frame and the window"
        return sum(sizes) + sum(tensor.numel() * tensor.element_size() for tensor in kept)

    assert held(6) == held(24) > 0


def test_a_rollout_trains_resumes_and_flies(run, model, tmp_path):
    flags = (*BOTH, "--commit", "own", "--grad_frames", "1", "--flight_steps", "2", "--learning_rate", "1e-3")
    whole = run("vidarc", tmp_path / "whole", "--max_steps", "4", *flags)
    run("vidarc", tmp_path / "parts", "--max_steps", "4", "--save_steps", "2", *flags)
    # As if it had been killed after its second step.
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / store.step_name(4))
    parts = run("vidarc", tmp_path / "parts", "--max_steps", "4", *flags)
    assert_close(state(parts), state(whole), rtol=0, atol=0)
    pipe = WanActPipeline.from_model_dir(model)
    pipe.load_controller(tmp_path / "parts")
    assert WanActStream(pipe, Image.new("RGB", (48, 48)), "a drone flies").step(np.zeros(8)).shape == (4, 32, 32, 3)


# Distribution matching


def test_the_gradient_is_the_difference_of_the_scores_over_the_distance_to_the_real_one():
    generator = torch.Generator().manual_seed(0)
    clip, real, fake = (torch.randn(2, 4, 3, 2, 2, generator=generator) for _ in range(3))
    counted = torch.zeros(2, 1, 3, 1, 1)
    counted[:, :, 1:] = 1
    clip.requires_grad_(True)
    loss, _ = matching_loss(clip, real, fake, counted)
    loss.sum().backward()
    for i in range(2):
        distance = (clip[i, :, 1:] - real[i, :, 1:]).abs().mean()
        wanted = (fake[i, :, 1:] - real[i, :, 1:]) / distance / clip[i, :, 1:].numel()
        assert_close(clip.grad[i, :, 1:], wanted.detach())
    assert bool((clip.grad[:, :, 0] == 0).all())
    assert bool((matching_loss(clip, real, real, counted)[0] == 0).all()), "nothing is left to match"


def test_points_are_moved_to_where_the_data_lies():
    """With the scores of two normal distributions known, the steps lead one to the other."""
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor(0.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, std], lr=0.05, betas=(0.0, 0.999))

    def estimate(noisy, sigma, centre, spread):  # of a clean sample, for data of this centre and spread
        signal = (1 - sigma) * spread.square() / ((1 - sigma) ** 2 * spread.square() + sigma**2)
        return centre + signal * (noisy - (1 - sigma) * centre)

    for _ in range(400):
        drawn = mean + std * torch.randn(64, 1, 1, 8, 8, generator=generator)
        sigma = torch.rand(64, 1, 1, 1, 1, generator=generator).clamp(0.02, 0.98)
        noisy = (1 - sigma) * drawn.detach() + sigma * torch.randn(drawn.shape, generator=generator)
        with torch.no_grad():
            real = estimate(noisy, sigma, torch.tensor(3.0), torch.tensor(0.5))
            fake = estimate(noisy, sigma, mean, std)
        optimizer.zero_grad()
        matching_loss(drawn, real, fake, torch.ones(64, 1, 1, 1, 1))[0].mean().backward()
        optimizer.step()
    assert abs(mean.item() - 3.0) < 0.2 and abs(abs(std.item()) - 0.5) < 0.2


def test_the_critic_learns_in_every_step_and_what_flies_in_every_second(match, runs, tmp_path):
    trainer = match(tmp_path, "--max_steps", "1", "--ema_start_step", "2")
    stage = trainer.stage
    real = {n: value.clone() for n, value in stage.real.transformer.state_dict().items()}
    assert_close(real, load_weights(runs / "whole" / "transformer.safetensors"))
    start = load_weights(runs / "student" / "checkpoints" / store.step_name(2) / "trainable_full.safetensors")
    for name, value in start.items():
        assert torch.equal(trainer.parameters[name], value), f"{name} learns in the second step"
        assert torch.equal(trainer.ema[name], value)
    assert not torch.equal(trainer.parameters["critic.proj_out.weight"], real["proj_out.weight"])
    assert trainer.ema.keys() == start.keys(), "the critic is not averaged"
    trainer = match(tmp_path, "--max_steps", "4", "--ema_start_step", "2")
    assert all(bool((trainer.parameters[name] != value).any()) for name, value in start.items() if "scale" not in name)
    assert any(not torch.equal(trainer.ema[name], trainer.parameters[name]) for name in start)
    assert_close(real, trainer.stage.real.transformer.state_dict(), rtol=0, atol=0)
    log = store.read_log(tmp_path)
    assert ["generator_loss" in row for row in log] == [False, True, False, True]
    assert all("loss" in row for row in log)
    mean = match(tmp_path / "mean", "--max_steps", "4", "--log_steps", "4", "--ema_start_step", "2")
    (row,) = store.read_log(mean.run_dir)
    assert row["generator_loss"] == pytest.approx(np.mean([r["generator_loss"] for r in log[1::2]]), abs=1e-5)


def test_an_interrupted_run_with_a_critic_ends_as_one_left_in_peace(match, tmp_path):
    whole = state(match(tmp_path / "whole", "--max_steps", "5", "--batch_size", "2"))
    match(tmp_path / "parts", "--max_steps", "5", "--batch_size", "2", "--save_steps", "3")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / store.step_name(5))
    parts = match(tmp_path / "parts", "--max_steps", "5", "--batch_size", "2")
    assert any(name.startswith("critic.critic.") for name in whole), "the critic's moments"
    assert any(name.startswith("generator.transformer.") for name in whole)
    assert_close(state(parts), whole, rtol=0, atol=0)
    folder = parts.run_dir / "checkpoints" / store.step_name(5)
    assert load_state(folder / "optimizer.pt").keys() == {"critic", "generator"}


def test_what_was_matched_flies_in_the_steps_of_its_rollouts(match, model, tmp_path):
    file = tmp_path / "vidarc.pt"
    trainer = match(tmp_path / "run", "--max_steps", "2", "--save_path", str(file), "--export_dtype", "float32",
                    "--sample_steps", "2", "--sample_count", "1")  # fmt: skip
    settings = {"window": 1, "num_inference_steps": 2, "sampler": "consistency", "guidance_scale": 1.0}
    assert read_json(tmp_path / "vidarc.json")["causal"] == settings
    pipe = WanActPipeline.from_model_dir(model, fine_tuned=[file])
    assert_close(
        pipe.components.transformer.state_dict()["proj_out.weight"], trainer.ema["transformer.proj_out.weight"]
    )
    pipe.load_controller(tmp_path / "run")
    stream = WanActStream(pipe, Image.new("RGB", (48, 48)), "a drone flies")
    assert stream.step(np.zeros(8)).shape == (4, 32, 32, 3) and stream.sampler == "consistency"


def test_the_last_step_of_a_rollout_is_one_for_all_samples_of_a_step(match, tmp_path):
    stage = match(tmp_path, "--max_steps", "1").stage
    batches = [[stage.load([Draw(i, 10 * step + i, step, 0, "test")]) for i in range(3)] for step in range(8)]
    chosen = [{batch["generator_last_step"] for batch in step} for step in batches]
    assert all(len(step) == 1 for step in chosen) and set.union(*chosen) == {0, 1}
    levels = torch.cat([batch["critic_sigma"] for step in batches for batch in step])
    assert float(levels.min()) >= 0.02 and float(levels.max()) < 0.981 and len(levels.unique()) > 10


def test_every_weight_of_all_networks_is_reached(match, tmp_path, capsys):
    match(tmp_path, "--debug", "--max_steps", "2")
    assert "do not know the one after them" in capsys.readouterr().out


def test_a_consistency_student_learns_the_end_of_its_teachers_steps(run, runs, tmp_path):
    """What distribution matching starts from: each level leads to the end, as its flights go."""
    student = run("vidarc", tmp_path, *BOTH, "--max_steps", "1", "--teacher_run", str(runs / "student"),
                  "--student_steps", "4", "--flight_sampler", "consistency", "--teacher_steps", "1",
                  "--init_from", str(runs / "student"))  # fmt: skip
    batch = student.stage.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    assert bool((batch["sigma_next"] == 0).all())
    causal = read_json(tmp_path / "action_train_config.json")["causal"]
    assert causal["sampler"] == "consistency" and causal["num_inference_steps"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grad_frames", "2"], "no effect without --commit or --distribution_matching"),
        (["--commit", "own", "--own_history", "0.5"], "--own_history has no effect beside --commit"),
        (["--commit", "own", "--history_noise", "0.5"], "--history_noise has no effect beside --commit"),
        (["--real_guidance", "2"], "--real_guidance has no effect without --distribution_matching true"),
        (["--distribution_matching", "true"], "--init_from"),
        (["--distribution_matching", "true", "--commit", "own"], "leave --commit out"),
        (["--distribution_matching", "true", "--draft_noise", "0.1"], "drawn from noise alone"),
        (["--distribution_matching", "true", "--late_share", "0.5"], "--late_share cuts clips"),
        (["--distribution_matching", "true", "--flight_sampler", "unipc"], "unipc is no sampler of few steps"),
        (["--distribution_matching", "true", "--flight_guidance", "3"], "--flight_guidance 3 has no effect"),
        (["--distribution_matching", "true", "--pt_dir", "w.pt", *BOTH], "with a controller needs --real_run"),
        (["--distribution_matching", "true", "--pt_dir", "w.pt", "--save_full_state", "false"], "--save_full_state"),
        (["--ema_start_step", "9"], "--ema_start_step has no effect without --ema_decay"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(flags, message, run, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run("vidarc", tmp_path, "--max_steps", "1", *flags)


def test_a_real_run_that_draws_frame_by_frame_or_has_no_controller_is_refused(match, run, runs, tmp_path):
    with pytest.raises(ConfigError, match="student draws frame by frame; give one that draws whole clips"):
        match(tmp_path / "a", "--max_steps", "1", "--real_run", str(runs / "student"))
    run("i2v", tmp_path / "words", "--max_steps", "1")
    with pytest.raises(CheckpointError, match="has no action_controller"):
        match(tmp_path / "b", "--max_steps", "1", "--real_run", str(tmp_path / "words"))


@pytest.mark.parametrize("flags", [(), ("--fsdp",)], ids=["whole", "sharded"])
def test_two_processes_roll_out_and_match_as_one_does(arguments, runs, tmp_path, flags):
    from train.commands.run import train

    own = [
        *(*BOTH, "--distribution_matching", "true", "--init_from", str(runs / "student"), "--generator_every", "2"),
        *("--real_run", str(runs / "whole"), "--flight_steps", "2", "--learning_rate", "1e-3", "--max_steps", "2"),
        *("--lr_warmup_steps", "0", "--ema_decay", "0.5", "--max_grad_norm", "0", "--adam_epsilon", "1e-3"),
    ]
    one = train("vidarc", arguments("vidarc", tmp_path / "one", *own, "--gradient_accumulation_steps", "2"))
    argv = arguments("vidarc", tmp_path / "two", *own, *flags)
    log = tmp_path / "log.txt"
    assert run_processes(2, lambda: train("vidarc", argv) and None, log) == [0, 0], log.read_text()
    both = [store.read_log(folder) for folder in (one.run_dir, tmp_path / "two")]
    for name in ("loss", "generator_loss"):
        first, second = ([row[name] for row in rows if name in row] for rows in both)
        assert first == pytest.approx(second, abs=1e-5), name
    folders = [tmp_path / name / "checkpoints" / store.step_name(2) for name in ("one", "two")]
    for file, kind in (("trainable_full.safetensors", sharded.WEIGHTS), ("ema.safetensors", sharded.EMA)):
        whole, shared = (
            sharded.read(folder, kind) if sharded.is_sharded(folder) else load_weights(folder / file)
            for folder in folders
        )
        assert_close(shared, whole, rtol=0, atol=1e-5)


def test_the_5b_preset_rolls_out_and_matches_on_the_meta_device():
    """Shapes, gradients and gradient checkpointing of three networks as wide as those of five billion, and no memory
    for them; of their thirty layers, which are alike, two."""
    from train.loop.config import parse

    kind = stage_class("vidarc")
    config = parse("vidarc", ["--config", str(CONFIGS / "vidarc_matching.yaml")], kind.options, usual=kind.usual)
    settings = config.stage
    assert (settings.generator_every, settings.real_guidance, settings.fake_guidance) == (5, 3.0, 0.0)
    assert (config.optim.adam_beta1, config.optim.ema_start_step, config.checkpoint.save_full_state) == (0.0, 200, True)
    with torch.device("meta"):
        sizes = TRANSFORMER | MODELS["ti2v_5b"]["transformer"] | {"num_layers": 2}
        ours, critic = (WanActTransformer3DModel(**sizes) for _ in range(2))
        latents, text = torch.empty(1, 48, 3, 46, 40), torch.empty(1, 512, 4096)
        counted, sigma = torch.ones(1, 1, 3, 1, 1), torch.empty(1)
    ours.enable_gradient_checkpointing()
    flown = CausalSettings(settings.window, settings.flight_steps, settings.flight_sampler)
    levels = [1.0, 15 / 16, 5 / 6, 5 / 8, 0.0]
    rollout = CausalRollout(ours, None, text, latents[:, :, :1], levels, flown, cache=RolloutCache)
    clip = drawn_clip(rollout, latents[:, :, :1], 3, lambda frame: None, lambda: torch.empty_like(latents[:, :, :1]),
                      settings.flight_steps - 1, settings.grad_frames)  # fmt: skip
    score = Score(critic, None, "flow_prediction")
    noisy = at_level(clip.detach(), torch.empty_like(clip), sigma)
    with torch.no_grad():
        real = score.clean(noisy, sigma, text, None, text, settings.real_guidance)
    matching_loss(clip, real, real, counted)[0].sum().backward()
    assert clip.shape == latents.shape and all(p.grad is not None for p in ours.parameters())
    assert all(p.grad is None for p in critic.parameters())
