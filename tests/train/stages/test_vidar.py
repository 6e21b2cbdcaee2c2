"""Vidar and Vidarc: the plan's files train, and what they write is Wan's model, flown as a clip and live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tests import original_wan
from tests.tiny_model import LATENT_CHANNELS, TEXT_DIM
from tests.train.conftest import CONTROLLER
from tests.train.processes import run_processes
from train.loop.config import ConfigError
from train.loop.seeding import Draw
from wanact.actions import PRESETS
from wanact.errors import TakenError, UserError
from wanact.files import read_json
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream
from wanact.models import masked_idm
from wanact.models.presets import PRESETS as MODELS
from wanact.models.presets import TRANSFORMER
from wanact.models.transformer import WanActTransformer3DModel
from wanact.runs.ref import BASE_MODEL
from wanact.ui.engine import Engine, Flight
from wanact.weights.convert import ORIGINAL, convert

CONFIGS = Path(__file__).parents[3] / "train" / "configs" / "vidar"
TINY = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": TEXT_DIM, "freq_dim": 32}
IMAGE = Image.new("RGB", (48, 48), (90, 120, 60))
BOTH = ("--trainable_models", "transformer,action_controller", "--action_controller_config", CONTROLLER)


def test_what_stage_1_writes_is_read_by_wans_own_code_and_by_the_app(run, model, tmp_path):
    file = tmp_path / "weights" / "vidar.pt"
    trainer = run("vidar", tmp_path / "run", "--max_steps", "1", "--save_path", str(file), "--learning_rate", "1e-2",
                  "--lr_warmup_steps", "0", "--export_dtype", "float32")  # fmt: skip
    state = torch.load(file, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    theirs = original_wan.WanModel(in_dim=LATENT_CHANNELS, **TINY)
    assert theirs.load_state_dict(state, strict=False).missing_keys == [] and state.keys() == theirs.state_dict().keys()
    trained = trainer.stage.transformer.state_dict()
    assert_close(state["head.head.weight"], trained["proj_out.weight"], rtol=0, atol=0)
    pipe = WanActPipeline.from_model_dir(model, fine_tuned=[file])
    assert pipe.causal is None
    for name, value in pipe.components.transformer.state_dict().items():
        assert_close(value, trained[name], rtol=0, atol=0)
    again = run("vidar", tmp_path / "other", "--max_steps", "1", "--pt_dir", str(file), "--learning_rate", "1e-12")
    assert_close(again.stage.transformer.state_dict(), trained, rtol=0, atol=1e-6)


def test_a_file_of_others_is_never_replaced_and_a_run_that_is_repeated_leaves_its_own(run, tmp_path):
    file = tmp_path / "vidar.pt"
    file.write_bytes(b"released")
    with pytest.raises(TakenError, match="vidar.pt is there and was not written by this run; name another --save_path"):
        run("vidar", tmp_path / "run", "--max_steps", "1", "--save_path", str(file))
    assert file.read_bytes() == b"released" and not (tmp_path / "run" / "checkpoints").exists()
    file.unlink()
    run("vidar", tmp_path / "run", "--max_steps", "1", "--save_path", str(file))
    written = file.stat().st_mtime_ns
    run("vidar", tmp_path / "run", "--max_steps", "1", "--save_path", str(file))
    assert file.stat().st_mtime_ns == written
    run("vidar", tmp_path / "run", "--max_steps", "2", "--save_path", str(file))
    assert file.stat().st_mtime_ns != written and read_json(tmp_path / "vidar.json")["step"] == 2
    with pytest.raises(TakenError):
        run("vidar", tmp_path / "another", "--max_steps", "1", "--save_path", str(file))


def test_all_825_names_and_shapes_of_the_5b_model_are_wans():
    sizes = TRANSFORMER | MODELS["ti2v_5b"]["transformer"]
    with torch.device("meta"):
        ours = WanActTransformer3DModel(**sizes)
        theirs = original_wan.WanModel(in_dim=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30,
                                       text_dim=4096, freq_dim=256)  # fmt: skip
    state = convert("transformer", ours.state_dict(), ORIGINAL, config=sizes)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert len(shapes) == 825
    assert shapes == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}


@pytest.mark.parametrize("controller", [(), BOTH], ids=["words", "actions"])
def test_what_stage_2_writes_flies_as_a_clip_and_live(run, model, tmp_path, controller):
    file = tmp_path / "drone.pt"
    run("vidarc", tmp_path / "runs" / "vidarc", "--max_steps", "1", "--save_path", str(file), "--flight_steps", "2",
        "--sample_steps", "1", "--sample_count", "1", *controller)  # fmt: skip
    assert list(tmp_path.glob("runs/vidarc/samples/*/clip0.mp4"))
    settings = {"window": 1, "num_inference_steps": 2, "sampler": "unipc", "guidance_scale": 3.0}
    assert read_json(tmp_path / "drone.json")["causal"] == settings, "no longer history than clips of three show"
    pipe = WanActPipeline.from_model_dir(model, fine_tuned=[file])
    engine = Engine(pipe, tmp_path / "runs")
    assert engine.flies_live({}, None), "its name says nothing: the file beside it does"
    track = PRESETS["Forward"](2) if controller else None
    for choice in engine.checkpoints()[0]:
        assert engine.flies_live(choice.config, choice.path)
        flown = track if choice is not BASE_MODEL else None
        *_, frames = engine.fly(Flight("a drone flies", IMAGE, flown, checkpoint=choice))
        assert frames.shape == (9, 32, 32, 3)
        pipe.load_controller(choice.path)
        assert (pipe.controller is None) == (not controller or choice is BASE_MODEL)
        stream = WanActStream(pipe, IMAGE, "a drone flies")
        assert stream.step(np.zeros(8)).shape == (4, 32, 32, 3) and stream.sampler == "unipc"


def test_a_chunk_has_the_loss_of_its_frames_in_the_whole_clip(run, tmp_path):
    stage = run("vidarc", tmp_path, "--max_steps", "1", "--chunk_size", "1").stage
    batches = [stage.load([Draw(i, i, step, 0, "test") for i in range(2)]) for step in range(12)]
    assert {batch["predicted"] for batch in batches} == {(1, 2), (2, 3)}, "every length of the history comes"
    batch = batches[0]
    parts = [stage.loss(batch | {"predicted": (t, t + 1)}, "main").loss for t in (1, 2)]
    whole = stage.loss(batch | {"predicted": (0, 3)}, "main").loss
    assert_close(torch.stack(parts).mean(dim=0), whole, rtol=1e-5, atol=1e-6)


def test_the_causal_loss_is_that_of_the_plans_two_verbs(run, tmp_path):
    """Teacher forcing in one pass against the plan's loop: prefill, then forward_with_cache frame by frame."""
    stage = run("vidarc", tmp_path, "--max_steps", "1").stage
    batch = stage.load([Draw(0, 0, 0, 0, "test")])
    latents, noise, sigma = batch["latents"], batch["noise"], batch["sigma"]
    cache = stage.transformer.prefill(latents[:, :, :1], stage._context(batch), window=stage.settings.window)
    errors = []
    for t in range(1, latents.shape[2]):
        clean, one = latents[:, :, t : t + 1], noise[:, :, t : t + 1]
        level = sigma[:, t : t + 1]
        noisy = (1 - level.view(1, 1, 1, 1, 1)) * clean + level.view(1, 1, 1, 1, 1) * one
        velocity, cache = stage.transformer.forward_with_cache(noisy, 1000 * level, cache, clean)
        errors.append((velocity - (one - clean)).square().mean())
    assert_close(torch.stack(errors).mean(), stage.loss(batch, "main").loss[0], rtol=1e-5, atol=1e-5)


def test_the_checks_find_a_model_that_looks_ahead(run, tmp_path, monkeypatch, capsys):
    run("vidarc", tmp_path / "run", "--debug", "--max_steps", "1", "--save_path", "vidarc.pt")
    assert "checked: 2 latent frames do not know the one after them" in capsys.readouterr().out
    assert (tmp_path / "run" / "vidarc.pt").is_file(), "whoever tries leaves the weights that are there alone"
    from wanact.models.kv_cache import FrameView

    whole = FrameView.teacher_forcing
    monkeypatch.setattr(FrameView, "teacher_forcing", lambda *arguments: FrameView(
        whole(*arguments).positions, torch.ones_like(whole(*arguments).visible)))  # fmt: skip
    with pytest.raises(UserError, match="velocity depends on one that comes after it"):
        run("vidarc", tmp_path / "other", "--debug", "--max_steps", "1")


@pytest.mark.parametrize(
    ("stage", "flags", "message"),
    [
        ("vidar", ["--lora_base_model", "dit"], "the whole transformer is trained here"),
        ("vidar", ["--trainable_models", "text_encoder"], "leaves out the transformer"),
        ("vidarc", ["--action_injection_type", "adaln_tmod"], "no effect without --trainable_models"),
        ("vidarc", ["--flight_guidance", "99"], "--flight_guidance 99 must be from 1 to 30"),
        ("vidarc", ["--chunk_size", "0"], "--chunk_size 0 must be at least 1"),
        ("vidar", ["--pt_dir", "nowhere.pt"], "--init_from .* nowhere.pt is missing"),
        ("i2v", ["--save_path", "w.pt", "--trainable_models", "text_encoder"], "none is trained whole here"),
        ("i2v", ["--save_path", "w.pt", "--lora_base_model", "dit"], "none is trained whole here"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(stage, flags, message, run, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(stage, tmp_path, "--max_steps", "1", *flags)


def test_the_plans_three_files_train_on_two_processes_and_their_weights_fly(model, dataset, tmp_path, monkeypatch):
    """As `torchrun --nproc_per_node 2 -m train --config FILE --output_dir DIR` starts them."""
    from train.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "Wan2.2-TI2V-5B").symlink_to(model)
    data = ("--dataset_base_path", str(dataset), "--dataset_metadata_path", str(dataset / "clips.csv"))
    config = replace(masked_idm.preset("small", 14), height=32, width=32)
    masked_idm.MaskedInverseDynamics(config).save(tmp_path / "checkpoints" / "vidar")  # as idm.pt, beside vidar.pt
    over = ("--max_steps", "1")
    start = ("--ckpt_dir", "checkpoints/Wan2.2-TI2V-5B", "--pt_dir", "checkpoints/vidar/vidar.pt")
    for name, more in (
        ("vidar_finetune", ()),
        ("vidarc_causal", ()),
        ("vidarc_2xh200", (*start, "--save_path", "checkpoints/vidar/vidarc2.pt")),
    ):
        argv = ["--config", str(CONFIGS / f"{name}.yaml"), "--output_dir", f"outputs/{name}", *data, *over, *more]
        log = tmp_path / f"{name}.log"
        statuses = run_processes(2, lambda argv=argv: _require_zero(main(argv)), log, timeout=600)
        assert statuses == [0, 0], log.read_text()
        assert "128 samples a step, steps 0 to 1, 2 x cpu" in log.read_text()
    for name, causal in (("vidar", False), ("vidarc", True), ("vidarc2", True)):
        file = tmp_path / "checkpoints" / "vidar" / f"{name}.pt"
        pipe = WanActPipeline.from_model_dir(model, fine_tuned=[file])
        assert pipe("a drone flies", IMAGE).shape == (9, 32, 32, 3)
        assert (pipe.causal is not None) == causal
        if causal:
            assert WanActStream(pipe, IMAGE, "a drone flies").step(np.zeros(8)).shape == (4, 32, 32, 3)


def _require_zero(status: int) -> None:
    assert status == 0
