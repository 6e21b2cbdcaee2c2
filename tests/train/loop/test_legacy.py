"""Checkpoints of other trainers and earlier layouts load; what they lack is said; pickles are refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from train.loop import legacy, resume
from train.loop.config import ConfigError, ModelConfig, parse
from wanact.files import CheckpointError
from wanact.runs import store
from wanact.weights.layouts import ModelDirError


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """Weights by full name, and the state of a torch optimizer over them, after two steps."""
    trainer = run("action", tmp_path_factory.mktemp("legacy") / "run", "--max_steps", "2")
    weights = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    return weights, _plain_adamw(trainer)


def _plain_adamw(trainer):
    """As torch saves it for parameters given in one list."""
    parameters = list(trainer.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    optimizer.state.update({p: trainer.optimizers["main"].state[p] for p in parameters})
    return optimizer.state_dict()


def short(weights):
    return {name.removeprefix("action_controller."): value for name, value in weights.items()}


def step_directory(name):
    def build(root, weights, optimizer):
        folder = root / "checkpoints" / name
        folder.mkdir(parents=True)
        save_file({f"pipe.{n}": v for n, v in weights.items()}, folder / "trainable_full.safetensors")
        save_file(short(weights), folder / "trainable.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 100, "epoch": 1}))
        torch.save(optimizer, folder / "optimizer.pt")
        torch.save({"last_epoch": 100}, folder / "scheduler.pt")
        return folder

    return build


def epoch_and_step(root, weights, optimizer):
    folder = root / "checkpoints" / "checkpoint-epoch0-step100"
    folder.mkdir(parents=True)
    save_file(short(weights), folder / "model.safetensors")
    torch.save({"epoch": 0, "step": 100, "optimizer_state_dict": optimizer}, folder / "trainer_state.pt")
    return folder


def best_with_epoch_and_step_only(root, weights, optimizer):
    folder = root / "checkpoints" / "checkpoint-best"
    folder.mkdir(parents=True)
    save_file(short(weights), folder / "adapter_model.safetensors")
    torch.save({"epoch": 0, "step": 100}, folder / "trainer_state.pt")
    return folder


def accelerate_state(root, weights, optimizer):
    folder = root / "checkpoint_100"
    folder.mkdir(parents=True)
    save_file({f"module.{n}": v for n, v in weights.items()}, folder / "model.safetensors")
    torch.save(optimizer, folder / "optimizer.bin")
    torch.save({"last_epoch": 100}, folder / "scheduler.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"step": 1}))  # never read
    return folder


def diffsynth_step(root, weights, optimizer):
    save_file(short(weights), root / "step-100.safetensors")
    return root / "step-100.safetensors"


def diffsynth_epoch(root, weights, optimizer):
    save_file({f"pipe.{n}": v for n, v in weights.items()}, root / "epoch-3.safetensors")
    return root / "epoch-3.safetensors"


def bare_controller(root, weights, optimizer):
    save_file(short(weights), root / "action_controller.safetensors")
    return root / "action_controller.safetensors"


# Layout, the step it says, and whether it brings an optimizer.
LAYOUTS = [
    (step_directory("step-000000100"), 100, True),
    (step_directory("step-00000100"), 100, True),
    (epoch_and_step, 100, True),
    (best_with_epoch_and_step_only, 100, False),
    (accelerate_state, 100, True),
    (diffsynth_step, 100, False),
    (diffsynth_epoch, 0, False),
    (bare_controller, 0, False),
]


@pytest.mark.parametrize("build, step, has_optimizer", LAYOUTS, ids=lambda v: getattr(v, "__name__", None))
def test_an_older_layout_loads_and_says_what_it_lacks(build, step, has_optimizer, trained, arguments, tmp_path):
    weights, optimizer = trained
    path = build(tmp_path, weights, optimizer)
    config = parse("action", arguments("action", tmp_path / "run", "--resume_from", str(path)))
    shapes = {name: value.shape for name, value in weights.items()}
    if has_optimizer:
        loaded, _ = resume.find(config, "action", shapes)
        first = next(iter(weights))
        assert torch.equal(loaded.optimizer["main"]["state"][first]["exp_avg"], optimizer["state"][0]["exp_avg"])
    else:
        with pytest.warns(UserWarning, match="start fresh|weights only"):
            loaded, _ = resume.find(config, "action", shapes)
        assert loaded.optimizer is None
    assert loaded.step == step
    assert loaded.weights.keys() == weights.keys()
    for name in weights:
        assert torch.equal(loaded.weights[name], weights[name])


def with_metadata_of_its_own(root, weights, optimizer):
    """As the plan's curriculum trainer writes it: a checkpoint_metadata.json that is no manifest."""
    folder = root / "checkpoints" / "checkpoint-step100-loss0.0385-20251130_014518"
    folder.mkdir(parents=True)
    save_file(short(weights), folder / "adapter_model.safetensors")
    torch.save({"epoch": 0, "step": 100, "optimizer_state_dict": optimizer}, folder / "trainer_state.pt")
    summary = {"batch_size": 2, "learning_rate": 2e-05, "max_seq_length": 4000}
    metadata = {"epoch": 0, "step": 100, "loss": 0.0385, "timestamp": "2025-11-30T01:44:54", "is_best": True}
    (folder / "checkpoint_metadata.json").write_text(json.dumps(metadata | {"config_summary": summary}))
    return folder


def test_metadata_without_our_manifest_is_another_programs_and_not_damage(trained, tmp_path):
    folder = with_metadata_of_its_own(tmp_path, *trained)
    (info,) = store.list_checkpoints(tmp_path)
    assert (info.problem, info.step, info.loss, info.saved_at) == (None, 100, 0.0385, "2025-11-30T01:44:54")
    assert store.is_legacy(folder) and store.resolve(tmp_path) == folder
    (folder / "trainer_state.json").write_text('{"format": 1}')  # one of ours that has lost its manifest
    assert "damaged" in store.list_checkpoints(tmp_path)[0].problem


@pytest.mark.parametrize("build", [step_directory("step-00000100"), epoch_and_step, with_metadata_of_its_own])
def test_auto_takes_an_older_layout_and_trains_on(build, trained, run, tmp_path, capsys):
    build(tmp_path, *trained)
    assert run("action", tmp_path, "--max_steps", "101").step == 101
    assert "at step 100" in capsys.readouterr().out
    assert [info.step for info in store.list_checkpoints(tmp_path)] == [100, 101]


def test_weights_of_any_layout_may_begin_a_new_run(trained, run, tmp_path):
    weights, optimizer = trained
    path = diffsynth_step(tmp_path, weights, optimizer)
    flags = ["--max_steps", "1", "--learning_rate", "1e-12", "--weight_decay", "0"]
    trainer = run("action", tmp_path / "run", *flags, "--init_from", str(path))
    for name, value in weights.items():
        torch.testing.assert_close(trainer.parameters[name].detach(), value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_controller_checkpoint_is_taken_in_either_format(suffix, run, tmp_path):
    controller = run("action", tmp_path / "first", "--max_steps", "2").stage.controller
    state = {name: value.detach().clone() for name, value in controller.state_dict().items()}
    path = tmp_path / f"controller{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    flags = ["--max_steps", "1", "--learning_rate", "1e-12", "--weight_decay", "0"]
    trainer = run("action", tmp_path / "second", *flags, "--action_controller_checkpoint", str(path))
    torch.testing.assert_close(dict(trainer.stage.controller.state_dict()), state)


def test_a_controller_checkpoint_that_does_not_fit_names_the_weight(run, tmp_path):
    save_file({"action_embed.0.weight": torch.ones(3, 3)}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="bad.safetensors does not fit"):
        run("action", tmp_path / "run", "--action_controller_checkpoint", str(tmp_path / "bad.safetensors"))


def test_an_optimizer_for_other_parameters_starts_fresh(trained, tmp_path):
    weights, optimizer = trained
    optimizer = {**optimizer, "param_groups": [{**optimizer["param_groups"][0], "params": [0, 1]}]}
    folder = step_directory("step-00000100")(tmp_path, weights, optimizer)
    _, _, state, remarks = legacy.load(folder, {name: value.shape for name, value in weights.items()})
    assert state is None and "other parameters" in remarks[0]


def find_fresh(arguments, path, output, weights):
    config = parse("action", arguments("action", output, "--resume_from", str(path), "--on_resume_error", "fresh"))
    return resume.find(config, "action", {name: value.shape for name, value in weights.items()})


def test_fresh_keeps_all_weights_and_the_step_where_only_the_optimizer_cannot_load(trained, arguments, tmp_path):
    folder = step_directory("step-00000100")(tmp_path, *trained)
    (folder / "optimizer.pt").write_bytes(b"half")
    loaded, (_, said) = find_fresh(arguments, folder, tmp_path / "run", trained[0])
    count = len(trained[0])
    assert f"{count} of {count} weights are kept" in said and "the optimizer starts fresh" in said
    assert loaded.step == 100 and loaded.optimizer is None
    assert all(torch.equal(loaded.weights[name], value) for name, value in trained[0].items())


def test_fresh_keeps_the_weights_that_fit_and_begins_at_step_0(trained, arguments, run, tmp_path):
    weights = dict(trained[0])
    changed, *rest = weights
    folder = step_directory("step-00000100")(tmp_path, weights | {changed: torch.zeros(3, 3)}, trained[1])
    loaded, (*_, said) = find_fresh(arguments, folder, tmp_path / "run", trained[0])
    assert loaded.step == 0 and loaded.weights.keys() == set(rest)
    assert f"{len(rest)} of {len(weights)} weights are kept" in said and changed in said
    trainer = run("action", tmp_path / "run", "--resume_from", str(folder), "--on_resume_error", "fresh",
                  "--max_steps", "1", "--learning_rate", "1e-12", "--weight_decay", "0")  # fmt: skip
    assert trainer.step == 1
    for name in rest:
        torch.testing.assert_close(trainer.parameters[name].detach(), weights[name])


def test_fresh_keeps_nothing_that_is_not_finite_or_not_there(trained, arguments, tmp_path):
    weights = {name: value.fill_(float("nan")) for name, value in dict(trained[0]).items() for value in [value.clone()]}
    folder = step_directory("step-00000100")(tmp_path, weights, trained[1])
    (folder / "optimizer.pt").write_bytes(b"half")
    loaded, remarks = find_fresh(arguments, folder, tmp_path / "run", trained[0])
    assert loaded is None and "no weight" in remarks[-1]


def test_a_pickled_optimizer_is_refused_with_a_sentence(trained, tmp_path):
    folder = step_directory("step-00000100")(tmp_path, *trained)
    (folder / "optimizer.pt").write_bytes(pickle.dumps(ModelConfig()))
    with pytest.raises(CheckpointError, match="a pickle can run code"):
        legacy.load(folder, {name: value.shape for name, value in trained[0].items()})


def test_a_diffsynth_lora_gets_the_names_of_the_adapter(tmp_path):
    lora = {f"pipe.dit.blocks.0.self_attn.q.lora_{side}.default.weight": torch.zeros(2, 2) for side in "AB"}
    save_file(lora, tmp_path / "step-1.safetensors")
    full = legacy.load(tmp_path / "step-1.safetensors", {})[1]
    assert list(full) == [f"transformer.blocks.0.attn1.to_q.lora_{side}.default.weight" for side in "AB"]


def test_a_diffsynth_transformer_gets_the_names_of_diffusers():
    shapes = {"transformer.blocks.1.attn2.to_out.0.bias": torch.Size([2]), "action_controller.x": torch.Size([2])}
    full = legacy.full_names({"pipe.dit.blocks.1.cross_attn.o.bias": torch.zeros(2), "x": torch.ones(2)}, shapes)
    assert list(full) == list(shapes)


def test_files_of_one_model_directory_name_it(model):
    paths = [str(model / "transformer" / "diffusion_pytorch_model.safetensors"), [str(model / "vae" / "config.json")]]
    assert legacy.base_model_dir(ModelConfig(model_paths=json.dumps(paths))) == model.resolve()
    with pytest.raises(ConfigError, match="is missing"):
        legacy.base_model_dir(ModelConfig(model_paths='["nowhere.safetensors"]'))


def test_a_hub_model_is_looked_for_where_diffsynth_puts_it(model, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "Wan-AI").mkdir(parents=True)
    (tmp_path / "models" / "Wan-AI" / "Wan2.2-TI2V-5B").symlink_to(model)
    given = "Wan-AI/Wan2.2-TI2V-5B:diffusion_pytorch_model*.safetensors, Wan-AI/Wan2.2-TI2V-5B:Wan2.2_VAE.pth"
    config = ModelConfig(model_id_with_origin_paths=given)
    assert str(legacy.base_model_dir(config)) == "models/Wan-AI/Wan2.2-TI2V-5B"
    with pytest.raises(ModelDirError, match="cannot be fetched"):
        legacy.base_model_dir(ModelConfig(model_id_with_origin_paths="nobody/nothing:*.safetensors"))
