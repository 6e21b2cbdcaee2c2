"""What the stages train and export, and what the loop does for a stage with two optimizers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.conftest import CONTROLLER
from train.commands import bench
from train.data.csv import read_records
from train.loop.config import ConfigError
from wanact.actions import PRESETS, ActionTrack
from wanact.files import read_json
from wanact.media.footage import read_video
from wanact.runs import store
from wanact.runs.ref import RUN_CONFIG
from wanact.weights import model_dir

ROOT = Path(__file__).parents[3]


def same_frames(one, other):
    return np.array_equal(one, other)


@pytest.fixture
def fly(model):
    """Draw a clip of the model directory with a run or checkpoint."""
    from wanact.flying.pipeline import WanActPipeline

    pipe = WanActPipeline.from_model_dir(model)

    def fly(run, track=None):
        pipe.load_controller(run)
        return pipe("a drone flies", Image.new("RGB", (48, 48), (90, 120, 60)), track or PRESETS["Forward"](2))

    return fly


def test_the_controller_learns_and_the_base_stays_as_it_was(run, model, tmp_path):
    trainer = run("action", tmp_path, "--max_steps", "3", "--learning_rate", "1e-2")
    base = model_dir.load_components(model, parts=("transformer",)).transformer.state_dict()
    for name, value in trainer.stage.transformer.state_dict().items():
        assert torch.equal(value, base[name]), name
    moved = [
        n
        for n, v in trainer.parameters.items()
        if not torch.equal(v.cpu(), trainer.stage._initial[n.partition(".")[2]])
    ]
    assert moved


def test_checkpoints_and_runs_fly_in_the_pipeline(run, fly, tmp_path):
    run("action", tmp_path, "--max_steps", "3", "--save_steps", "1", "--learning_rate", "0.1",
        "--trainable_models", "action_controller,transformer", "--export_dtype", "float32")  # fmt: skip
    newest, base = fly(tmp_path), fly(None)
    assert newest.shape == base.shape == (9, 32, 32, 3)
    assert same_frames(newest, fly(tmp_path / "checkpoints" / "latest"))
    assert not same_frames(newest, fly(tmp_path / "checkpoints" / store.step_name(1)))
    config = read_json(tmp_path / RUN_CONFIG)
    assert config["action_magnitude_scale"] == [100.0] * 4 + [1.0] * 4
    assert config["injection_type"] == config["action_controller_config"]["injection_type"] == "adaln_tmod"


def test_a_lora_run_flies_as_it_was_trained(run, fly, tmp_path):
    trainer = run("i2v", tmp_path, "--max_steps", "3", "--lora_base_model", "dit", "--lora_rank", "4",
                  "--learning_rate", "0.05")  # fmt: skip
    exported = store.load_flight_weights(tmp_path)
    assert exported.controller is None and exported.config["lora"]["lora_rank"] == 4
    trained = {n for n in trainer.parameters if ".lora_" in n}
    assert len(trained) == len(trainer.parameters) == len(exported.lora)
    assert not same_frames(fly(tmp_path, ActionTrack.zeros(2)), fly(None))


def test_averaged_weights_are_what_is_exported(run, tmp_path):
    trainer = run("action", tmp_path, "--max_steps", "3", "--ema_decay", "0.5", "--learning_rate", "1e-2")
    exported = store.load_flight_weights(tmp_path).controller
    for name, average in trainer.ema.items():
        assert torch.equal(exported[name.partition(".")[2]], average)
        assert not torch.equal(average, trainer.parameters[name]) or not trainer.parameters[name].any()


def test_an_exported_model_directory_is_the_base_of_the_next_stage(run, tmp_path):
    flags = ["--max_steps", "2", "--learning_rate", "1e-2", "--trainable_models", "transformer,text_encoder"]
    trainer = run(
        "i2v", tmp_path / "a", *flags, "--export_model_dir", str(tmp_path / "model"), "--export_dtype", "float32"
    )
    exported = model_dir.load_components(tmp_path / "model")
    for name, parameter in trainer.parameters.items():
        part, _, rest = name.partition(".")
        assert torch.equal(dict(getattr(exported, part).named_parameters())[rest], parameter), name
    assert run("action", tmp_path / "b", "--model_dir", str(tmp_path / "model"), "--max_steps", "1").step == 1


def test_a_model_directory_of_someone_else_is_not_written_over_and_ones_own_is_left(run, model, tmp_path, capsys):
    with pytest.raises(FileExistsError, match="holds a model already"):
        run("i2v", tmp_path / "run", "--max_steps", "1", "--export_model_dir", str(model))
    assert not (tmp_path / "run").exists()
    flags = ["--max_steps", "1", "--export_model_dir", str(tmp_path / "model")]
    run("i2v", tmp_path / "run", *flags)
    assert read_json(tmp_path / "model" / "exported_from.json")["step"] == 1
    capsys.readouterr()
    run("i2v", tmp_path / "run", *flags)
    assert "wrote" not in capsys.readouterr().out


def test_the_export_command_writes_what_the_trainer_would(run, tmp_path, capsys):
    from train.__main__ import main

    run("action", tmp_path / "run", "--max_steps", "2", "--save_steps", "1",
        "--trainable_models", "action_controller,transformer")  # fmt: skip
    older = tmp_path / "run" / "checkpoints" / store.step_name(1)
    assert main(["export", str(older), "--output_dir", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        RUN_CONFIG, store.CONTROLLER, store.TRANSFORMER}  # fmt: skip
    written, kept = store.load_flight_weights(tmp_path / "out"), store.load_flight_weights(older)
    torch.testing.assert_close(written.controller, kept.controller, rtol=0, atol=0)
    assert main(["export", str(tmp_path / "run"), "--export_model_dir", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "transformer" / "config.json").is_file()
    assert main(["export", str(older), "--export_model_dir", str(tmp_path / "model")]) == 1
    assert "holds a model already" in capsys.readouterr().err


def test_sample_clips_lie_in_the_run_and_do_not_disturb_training(run, tmp_path):
    common = ["--max_steps", "2", "--ema_decay", "0.5"]
    plain = run("action", tmp_path / "plain", *common)
    sampled = run("action", tmp_path / "sampled", *common, "--sample_steps", "1", "--sample_count", "2",
                  "--sample_inference_steps", "2")  # fmt: skip
    for name in plain.parameters:
        assert torch.equal(plain.parameters[name], sampled.parameters[name])
    for step in (1, 2):
        folder = tmp_path / "sampled" / "samples" / store.step_name(step)
        assert [read_video(folder / f"clip{i}.mp4").shape for i in range(2)] == [(9, 32, 32, 3)] * 2


def test_all_ways_to_hold_memory_down_give_the_same_loss(run, tmp_path):
    losses = []
    for name, flags in {
        "plain": [],
        "checkpointing": ["--use_gradient_checkpointing"],
        "disk": ["--cache_memory_gb", "0", "--dataset_num_workers", "2"],
        "cpu": ["--initialize_model_on_cpu"],
    }.items():
        run("action", tmp_path / name, "--max_steps", "3", "--gradient_accumulation_steps", "2", *flags)
        losses.append([row["loss"] for row in store.read_log(tmp_path / name)])
    run("action", tmp_path / "bf16", "--max_steps", "3", "--gradient_accumulation_steps", "2",
        "--mixed_precision", "bf16")  # fmt: skip
    assert losses[0] == pytest.approx([row["loss"] for row in store.read_log(tmp_path / "bf16")], rel=0.02)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] == losses[2] == losses[3]


def test_frozen_layers_stay_and_are_exported_with_the_others(run, model, tmp_path):
    flags = ["--frozen_layers", "attn2, condition_embedder.text_embedder", "--export_dtype", "float32"]
    run("i2v", tmp_path, "--max_steps", "2", *flags)
    before = model_dir.load_components(model, parts=("transformer",)).transformer.state_dict()
    after = store.load_flight_weights(tmp_path).transformer
    assert after.keys() == before.keys()
    held = {name for name in after if ".attn2." in name or ".text_embedder." in name}
    changed = {name for name in after if not torch.equal(after[name].float(), before[name].float())}
    assert held and not held & changed and any(".attn1." in name for name in changed)
    run("i2v", tmp_path, "--max_steps", "3", *flags)
    assert store.read_log(tmp_path)[-1]["step"] == 3


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--frozen_layers", "attn3"], "--frozen_layers attn3 is no layer"),
        (["--frozen_layers", "attn2", "--lora_base_model", "transformer"], "no effect on a LoRA"),
        (["--frozen_layers", "attn2", "--trainable_models", "text_encoder"], "where the transformer is not trained"),
        (["--frozen_layers", "attn2", "--init_from", "."], "--init_from brings others"),
    ],
)
def test_frozen_layers_are_refused_where_they_mean_nothing(run, tmp_path, flags, said):
    with pytest.raises(ConfigError, match=said):
        run("i2v", tmp_path / "run", "--max_steps", "1", *flags)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_train_as_the_others_do(run, tmp_path):
    losses = []
    for flags in ([], ["--compile_blocks", "true"]):
        folder = tmp_path / str(len(losses))
        run("i2v", folder, "--max_steps", "2", *flags)
        losses.append([row["loss"] for row in store.read_log(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4), "the second is that of what the first has learnt"


def test_dropped_actions_are_no_actions_and_dropped_prompts_no_prompt(run, tmp_path):
    stage = run("action", tmp_path, "--max_steps", "1", "--action_dropout", "1", "--prompt_dropout", "1").stage
    from train.loop.seeding import Draw

    draws = [Draw(i, i, 0, 0, "action") for i in range(4)]
    batch = stage.load(draws)
    assert not batch["binary"].any() and not batch["magnitude"].any()
    assert torch.equal(batch["context"][0], batch["context"][1])


def test_magnitudes_reach_the_model_scaled_and_frame_zero_is_clean(run, tmp_path):
    stage = run("action", tmp_path, "--max_steps", "1", "--action_magnitude_scale", "2,2,2,2,3,3,3,3").stage
    from train.loop.seeding import Draw

    batch = stage.load([Draw(1, 0, 0, 0, "action")])
    track = stage.rows[1].track
    scale = torch.tensor([2.0] * 4 + [3.0] * 4)
    torch.testing.assert_close(batch["magnitude"][0], torch.from_numpy(track.magnitude.copy()) * scale)
    seen = {}

    def predict(noisy, timestep, context, batch):
        seen.update(noisy=noisy, timestep=timestep)
        return torch.zeros_like(noisy)

    stage.predict = predict
    stage.loss(batch, "main")
    assert torch.equal(seen["noisy"][:, :, 0], batch["latents"][:, :, 0])
    stage.loss(batch | {"from_words": torch.tensor([True])}, "main")
    assert not torch.equal(seen["noisy"][:, :, 0], batch["latents"][:, :, 0]), "from words alone"
    assert float(seen["timestep"][0, 0]) == float(seen["timestep"][0, 1]) == pytest.approx(1000 * float(batch["sigma"]))
    stage.loss(batch, "main")
    assert float(seen["timestep"][0, 0]) == 0 and float(seen["timestep"][0, 1]) == pytest.approx(
        1000 * float(batch["sigma"])
    )


def test_a_large_network_is_trained_with_gradient_checkpointing_whatever_is_said(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("train.stages.flow.LARGE_NETWORK", 1000)
    trainer = run("action", tmp_path, "--max_steps", "1")
    assert trainer.stage.transformer.is_gradient_checkpointing
    assert "gradient checkpointing is on" in capsys.readouterr().out


def test_two_phases_update_their_own_networks_and_resume(tmp_path):
    """A stage with a second optimizer, as a VAE with a discriminator has."""
    from train.loop.config import parse
    from train.loop.dist import Processes
    from train.loop.stage import StepLoss
    from train.loop.trainer import Trainer
    from train.stages.synthetic import SyntheticStage

    class Adversarial(SyntheticStage):
        phases = ("main", "judge")

        def setup(self, processes):
            super().setup(processes)
            network = self.modules["network"]
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.modules["judge"] = torch.nn.Linear(3, 3)
            self.modules = {"network": network, "judge": self.modules["judge"]}

        def phase_modules(self, phase):
            return ["network" if phase == "main" else "judge"]

        def runs(self, phase, step):
            return phase == "main" or step >= 2

        def loss(self, batch, phase):
            mean = torch.stack([p.mean() for module in self.modules.values() for p in module.parameters()]).sum()
            sign = 1 if phase == "main" else -1
            return StepLoss(sign * (mean - batch["target"]).square(), {"calls": torch.tensor(1.0)})

    def train(folder, steps):
        config = parse("synthetic", [f"--output_path={folder}", "--max_steps=4", "--save_full_state", "--log_steps=1",
                                     "--lr_warmup_ratio=0", "--save_steps=2"])  # fmt: skip
        processes = Processes("no")
        trainer = Trainer(config, Adversarial(config, processes.device), processes)
        trainer.setup()
        start = {name: p.detach().clone() for name, p in trainer.parameters.items()}
        trainer.num_steps = 4
        while trainer.step < steps:
            trainer._train_step()
            if trainer.step == 2:
                trainer._save("test")
                trainer.saver.wait()
        return start, {name: p.detach().clone() for name, p in trainer.parameters.items()}

    start, early = train(tmp_path / "whole", 2)
    assert all(torch.equal(start[n], early[n]) for n in start if n.startswith("judge"))
    assert not any(torch.equal(start[n], early[n]) for n in start if n.startswith("network"))
    _, resumed = train(tmp_path / "whole", 4)
    _, whole = train(tmp_path / "other", 4)
    assert not all(torch.equal(whole[n], start[n]) for n in start if n.startswith("judge"))
    for name in whole:
        assert torch.equal(resumed[name], whole[name]), name


def test_updates_without_a_finite_gradient_are_left_out_and_stop_the_run_in_the_end(tmp_path, capsys):
    from train.loop.config import ConfigError, parse
    from train.loop.dist import Processes
    from train.loop.stage import StepLoss
    from train.loop.trainer import Trainer
    from train.stages.synthetic import SyntheticStage

    class Exploding(SyntheticStage):
        def loss(self, batch, phase):
            out = super().loss(batch, phase)
            return StepLoss(out.loss * float("nan"))

    config = parse("synthetic", [f"--output_path={tmp_path}", "--max_steps=50"])
    processes = Processes("no")
    trainer = Trainer(config, Exploding(config, processes.device), processes)
    trainer.setup()
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    with pytest.raises(ConfigError, match="lower --learning_rate"):
        trainer.run()
    assert all(torch.equal(before[name], p) for name, p in trainer.parameters.items())
    assert "this update is left out" in capsys.readouterr().out


@pytest.mark.slow
def test_the_shell_script_of_the_5b_model_runs_on_a_small_one_and_its_outputs_fly(model, dataset, fly, tmp_path):
    environment = os.environ | {
        "DATASET_BASE": str(dataset),
        "METADATA_PATH": str(dataset / "clips.csv"),
        "MODEL_DIR": str(model),
        "OUTPUT_PATH": str(tmp_path / "run"),
        "ACCELERATE_FLAGS": "--cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WANDB_MODE": "disabled",
    }
    smaller = ["--action_controller_config", CONTROLLER, "--height", "32", "--width", "32", "--num_frames", "9",
               "--max_steps", "2", "--dataset_num_workers", "1"]  # fmt: skip
    script = ROOT / "train" / "configs" / "ti2v_5b" / "train_action.sh"
    done = subprocess.run(
        [str(script), *smaller], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert store.list_checkpoints(tmp_path / "run")[-1].step == 2
    config = read_json(tmp_path / "run" / RUN_CONFIG)
    assert config["injection_type"] == "cross_attn_frame"
    assert fly(tmp_path / "run").shape == (9, 32, 32, 3)


def test_every_clip_can_be_learnt_from_mirrored_too(run, dataset, tmp_path):
    stage = run("action", tmp_path, "--max_steps", "1", "--mirror", "true", "--cache_dir", str(tmp_path / "own")).stage
    assert len(stage) == 2 * len(read_records(dataset / "clips.csv"))
    for plain, mirrored in zip(range(0, len(stage), 2), range(1, len(stage), 2), strict=True):
        assert stage.rows[mirrored].track == stage.rows[plain].track.mirrored()
        assert stage.rows[mirrored].video == stage.rows[plain].video
    encoder = stage._clip_encoder()
    frames = np.ascontiguousarray(encoder._frames(stage.rows[0])[:, :, ::-1])
    again = encoder._encode(frames)["latents"]
    assert torch.equal(stage.latents[1]["latents"], again)


def test_the_cost_of_saving_and_resuming_is_measured(tmp_path, capsys):
    assert bench.main(["--config", "nano", "--json", str(tmp_path / "cost.json"), "--work_dir", str(tmp_path)]) == 0
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["checkpoint_mb"] > 3 * 4 * cost["parameters_million"]
    assert cost["build_and_resume_seconds"] > 0
    assert "save_blocked_seconds" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "cost.json"], "nothing is left behind"
