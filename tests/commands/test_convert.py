import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from tests.tiny_model import LATENT_CHANNELS, build_transformer
from wanact.__main__ import main
from wanact.commands.convert import convert_dir
from wanact.weights import layouts
from wanact.weights.layouts import ModelDirError
from wanact.weights.lora import read_lora
from wanact.weights.model_dir import fingerprint, load_components

NETWORKS = ("transformer", "vae", "text_encoder")


@pytest.fixture(scope="module")
def original_dir(tiny_model_dir, tmp_path_factory) -> Path:
    """The tiny model as the original release lies on a disk."""
    return convert_dir(tiny_model_dir, tmp_path_factory.mktemp("layouts") / "original", "original", report=print)


def assert_same_model(path: Path, expected: Path) -> None:
    ours, theirs = load_components(path), load_components(expected)
    for part in NETWORKS:
        a, b = (getattr(components, part) for components in (ours, theirs))
        assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=0, atol=0)
    assert ours.vae.config.latents_mean == theirs.vae.config.latents_mean
    assert ours.metadata["defaults"] == theirs.metadata["defaults"]
    assert ours.tokenizer("a lake").input_ids == theirs.tokenizer("a lake").input_ids
    assert ours.scheduler.config.flow_shift == theirs.scheduler.config.flow_shift


def test_the_original_layout_is_that_of_the_release(original_dir):
    names = {str(file.relative_to(original_dir)) for file in original_dir.rglob("*") if file.is_file()}
    assert {
        "diffusion_pytorch_model.safetensors",
        "config.json",
        "Wan2.2_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "google/umt5-xxl/tokenizer.json",
    } <= names
    assert "model_index.json" not in names
    config = json.loads((original_dir / "config.json").read_text())
    assert config["_class_name"] == "WanModel" and config["model_type"] == "ti2v" and config["num_heads"] == 2
    assert "blocks.0.self_attn.q.weight" in load_file(original_dir / "diffusion_pytorch_model.safetensors")
    vae = torch.load(original_dir / "Wan2.2_VAE.pth", weights_only=True)
    assert "encoder.downsamples.0.downsamples.0.residual.0.gamma" in vae
    assert len(json.loads((original_dir / "metadata.json").read_text())["vae"]["latents_mean"]) == LATENT_CHANNELS


def test_the_original_layout_loads_the_same_model(original_dir, tiny_model_dir):
    assert layouts.locate(original_dir).kind == "original"
    assert_same_model(original_dir, tiny_model_dir)


def test_there_and_back_in_shards_is_the_same_model(original_dir, tiny_model_dir, tmp_path):
    manifest = convert_dir(original_dir, tmp_path / "manifest", "manifest", max_shard_bytes=60_000)
    components = json.loads((manifest / "model_index.json").read_text())["components"]
    assert len(components["wan_video_dit"]) > 2 and components["wan_video_vae"] == "vae/Wan2.2_VAE.pth"
    assert_same_model(manifest, tiny_model_dir)
    back = convert_dir(manifest, tmp_path / "diffusers", "diffusers", max_shard_bytes=60_000)
    assert_same_model(back, tiny_model_dir)
    assert len(list((back / "transformer").glob("*-of-*.safetensors"))) > 2

    from diffusers import WanImageToVideoPipeline

    stock = WanImageToVideoPipeline.from_pretrained(back)
    assert stock.config.expand_timesteps and stock.transformer.config.num_layers == 2
    assert_close(dict(stock.transformer.state_dict()), dict(build_transformer().state_dict()), rtol=0, atol=0)


def test_a_cast_halves_the_files(tiny_model_dir, tmp_path):
    main(["convert", str(tiny_model_dir), str(tmp_path / "half"), "--to", "original", "--dtype", "bfloat16"])
    state = load_file(tmp_path / "half" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert load_components(tmp_path / "half", parts=["vae"]).vae.dtype == torch.float32


def test_a_fingerprint_knows_the_original_layout(original_dir):
    assert len(fingerprint(original_dir)) == 64


def test_files_of_fine_tuned_weights_convert(tmp_path, capsys):
    state = {f"blocks.0.self_attn.q.lora_{side}.default.weight": torch.ones(2, 2) for side in "AB"}
    save_file(state, tmp_path / "lora.safetensors")
    assert (
        main(["convert", str(tmp_path / "lora.safetensors"), str(tmp_path / "out.safetensors"), "--to", "diffusers"])
        == 0
    )
    assert set(load_file(tmp_path / "out.safetensors")) == {
        "transformer.blocks.0.attn1.to_q.lora_A.weight",
        "transformer.blocks.0.attn1.to_q.lora_B.weight",
    }
    torch.save({"generator": {"model.head.modulation": torch.ones(1, 2, 48)}}, tmp_path / "w.pt")
    assert main(["convert", str(tmp_path / "w.pt"), str(tmp_path / "w.safetensors"), "--to", "diffusers"]) == 0
    assert set(load_file(tmp_path / "w.safetensors")) == {"scale_shift_table"}
    assert "1 weights of a transformer" in capsys.readouterr().out


def test_what_cannot_be_converted_leaves_nothing_behind(tiny_model_dir, tmp_path, capsys):
    broken = Path(shutil.copytree(tiny_model_dir, tmp_path / "broken"))
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["convert", str(broken), str(tmp_path / "new"), "--to", "original"]) == 1
    assert "cannot be read as safetensors" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert main(["convert", str(tiny_model_dir), str(tmp_path / "full"), "--to", "original"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "new"), "--to", "original"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"broken", "full"}


def test_a_disk_without_room_is_said_before_anything_is_written(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(ModelDirError, match="needs 0.0 GB, but only 0.0 GB are free"):
        convert_dir(tiny_model_dir, tmp_path / "new", "original")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["original", "diffusers", "manifest"])
def test_a_converted_lora_is_as_strong_as_it_was(to, tmp_path):
    """Its strength stands in a header, or beside the file, that the converted one does not have."""
    generator = torch.Generator().manual_seed(0)
    names = (f"base_model.model.blocks.0.attn1.to_q.lora_{side}.weight" for side in "AB")
    matrices = (torch.randn(4, 48, generator=generator), torch.randn(48, 4, generator=generator))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(dict(zip(names, matrices, strict=True)), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 16}')
    assert main(["convert", str(folder), str(tmp_path / "converted.safetensors"), "--to", to]) == 0
    ours, theirs = read_lora(tmp_path / "converted.safetensors"), read_lora(folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    up, down = (theirs[f"transformer.blocks.0.attn1.to_q.lora_{side}.weight"] for side in "BA")
    assert_close(up @ down, 4 * matrices[1] @ matrices[0])
