"""A merged model directory does what the base with its adapter does, here and in stock diffusers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from train.__main__ import main
from train.commands.merge import merge, scaled
from wanact.files import CheckpointError, load_weights, sha256
from wanact.runs import store
from wanact.weights import model_dir


@pytest.fixture(scope="module")
def lora(run, tmp_path_factory):
    """A run of a LoRA that does something."""
    path = tmp_path_factory.mktemp("lora") / "run"
    run(
        "i2v",
        path,
        "--lora_base_model",
        "transformer",
        "--lora_rank",
        "4",
        "--max_steps",
        "3",
        "--learning_rate",
        "0.05",
    )
    return path


def velocity(transformer):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 48, 3, 2, 2, generator=generator)
    context = torch.randn(1, 16, 32, generator=generator)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500.0]), context, return_dict=False)[0]


def adapted(model, lora, alpha=1.0):
    transformer = model_dir.load_components(model, parts=("transformer",)).transformer
    transformer.load_lora_adapter(load_weights(lora / "lora.safetensors"), prefix="transformer")
    transformer.set_adapters(transformer.active_adapters(), alpha)
    return velocity(transformer)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_merged_model_equals_the_adapter(alpha, lora, model, tmp_path):
    assert main(["merge-lora", "--model_dir", str(model), "--lora_path", str(lora / "lora.safetensors"),
                 "--alpha", str(alpha), "--output_dir", str(tmp_path / "merged")]) == 0  # fmt: skip
    merged = velocity(model_dir.load_components(tmp_path / "merged", parts=("transformer",)).transformer)
    base = velocity(model_dir.load_components(model, parts=("transformer",)).transformer)
    torch.testing.assert_close(merged, adapted(model, lora, alpha), rtol=1e-4, atol=1e-5)
    assert (merged - base).abs().max() > 1e-3


def test_stock_diffusers_loads_the_merged_model_and_it_says_where_it_came_from(lora, model, tmp_path):
    from diffusers import WanImageToVideoPipeline

    merge(model, lora, tmp_path / "merged")
    stock = WanImageToVideoPipeline.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(velocity(stock.transformer), adapted(model, lora), rtol=1e-4, atol=1e-5)
    origin = model_dir.read_metadata(tmp_path / "merged")["merged_from"]
    assert origin["base_fingerprint"] == model_dir.fingerprint(model)
    assert origin["lora_sha256"] == sha256(lora / "lora.safetensors") and origin["alpha"] == 1.0


def test_what_is_there_is_replaced_only_when_asked(lora, model, tmp_path):
    (tmp_path / "merged").mkdir()
    with pytest.raises(FileExistsError, match="--overwrite replaces it"):
        merge(model, lora, tmp_path / "merged")
    merge(model, lora, tmp_path / "merged", overwrite=True)
    assert (tmp_path / "merged" / "model_index.json").is_file()
    with pytest.raises(FileExistsError, match="the base model itself"):
        merge(model, lora, model, overwrite=True)


def test_the_default_place_is_named_after_the_base(lora, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["merge-lora", "--model_dir", str(model), "--lora_path", str(lora)]) == 0
    assert (tmp_path / "models" / "merged" / "model_merged" / "model_index.json").is_file()


def test_a_lora_of_another_model_is_refused_and_nothing_is_left(model, tmp_path, capsys):
    pair = {f"transformer.blocks.9.attn1.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(pair, tmp_path / "other.safetensors")
    argv = ["merge-lora", "--model_dir", str(model), "--lora_path", str(tmp_path / "other.safetensors")]
    assert main([*argv, "--output_dir", str(tmp_path / "merged")]) == 1
    assert "does not fit" in capsys.readouterr().err
    assert not list(tmp_path.glob("*merged*"))


def test_a_file_without_a_lora_is_refused(model, tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "no.safetensors")
    with pytest.raises(CheckpointError, match="holds no LoRA that is known"):
        merge(model, tmp_path / "no.safetensors", tmp_path / "merged")


def test_any_format_is_read_and_an_alpha_inside_the_file_is_folded_in(tmp_path):
    module = "diffusion_model.blocks.0.self_attn.q"
    lora = {f"{module}.lora_down.weight": torch.ones(4, 3), f"{module}.lora_up.weight": torch.ones(5, 4),
            f"{module}.alpha": torch.tensor(2.0)}  # fmt: skip
    save_file(lora, tmp_path / "kohya.safetensors")
    result = scaled(tmp_path / "kohya.safetensors", 3.0)
    assert torch.equal(result["transformer.blocks.0.attn1.to_q.lora_B.weight"], torch.full((5, 4), 1.5))
    assert len(result) == 2


def test_a_merged_model_is_the_base_of_the_next_stage(lora, model, run, tmp_path):
    merge(model, lora, tmp_path / "merged")
    assert run("action", tmp_path / "run", "--model_dir", str(tmp_path / "merged"), "--max_steps", "1").step == 1


def header_lora(folder, alpha, rank=4):
    """A LoRA of one layer as diffusers writes it, and the product that it adds."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(rank, 48, generator=generator), torch.randn(48, rank, generator=generator)
    state = {f"transformer.blocks.0.attn1.to_q.lora_{side}.weight": t for side, t in (("A", down), ("B", up))}
    path = folder / "pytorch_lora_weights.safetensors"
    header = json.dumps({"transformer.r": rank, "transformer.lora_alpha": alpha})
    save_file(state, path, metadata={"lora_adapter_metadata": header})
    return path, alpha / rank * up @ down


def test_the_strength_in_a_header_counts_wherever_a_lora_is_taken(model, run, tmp_path):
    path, product = header_lora(tmp_path, alpha=16)
    merge(model, path, tmp_path / "merged")
    layer = model_dir.load_components(tmp_path / "merged", parts=("transformer",)).transformer.blocks[0].attn1.to_q
    before = model_dir.load_components(model, parts=("transformer",)).transformer.blocks[0].attn1.to_q
    torch.testing.assert_close(layer.weight - before.weight, product, rtol=1e-4, atol=1e-5)
    flags = ["--lora_base_model", "transformer", "--lora_rank", "4", "--lora_target_modules", "blocks.0.attn1.to_q"]
    flags += ["--max_steps", "1", "--learning_rate", "1e-12", "--weight_decay", "0"]
    for taken in ("--lora_checkpoint", "--init_from"):
        trainer = run("i2v", tmp_path / taken, *flags, taken, str(path))
        down, up = (value.detach() for value in trainer.parameters.values())
        torch.testing.assert_close(up @ down, product, rtol=1e-4, atol=1e-5)


def test_a_run_may_say_how_strong_its_lora_is(lora, tmp_path):
    own = store.load_flight_weights(lora).lora
    for name in ("lora.safetensors", "action_train_config.json"):
        shutil.copy(lora / name, tmp_path / name)
    config = json.loads((tmp_path / "action_train_config.json").read_text())
    config["lora"]["lora_alpha"] = 8  # of rank 4
    (tmp_path / "action_train_config.json").write_text(json.dumps(config))
    stronger = store.load_flight_weights(tmp_path).lora
    assert own is not None and stronger is not None
    for name, value in own.items():
        torch.testing.assert_close(stronger[name], value * (2 if ".lora_B." in name else 1))
