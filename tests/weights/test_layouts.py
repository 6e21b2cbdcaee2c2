import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from wanact.flying.pipeline import WanActPipeline
from wanact.weights import layouts
from wanact.weights.layouts import INDEX, ModelDirError
from wanact.weights.model_dir import load_components, read_metadata

HUB_ID = "someone/tiny-wan"
DIT = "diffusion_pytorch_model"


@pytest.fixture
def copies(original, manifest, tiny_model_dir, tmp_path) -> dict[str, Path]:
    """A copy of each layout that may be broken."""
    sources = {"original": original, "manifest": manifest, "diffusers": tiny_model_dir}
    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in sources.items()}


def fly(path: Path) -> np.ndarray:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8))
    return WanActPipeline.from_model_dir(path)("a lake at noon", image, height=32, width=64, num_frames=9)


def test_all_layouts_draw_the_same_clip_bit_for_bit(original, manifest, tiny_model_dir):
    expected = fly(tiny_model_dir)
    assert np.array_equal(fly(original), expected)
    assert np.array_equal(fly(manifest), expected)


def test_the_plain_pipeline_of_diffusers_is_a_layout_too(copies):
    index = json.loads((copies["diffusers"] / INDEX).read_text())
    (copies["diffusers"] / INDEX).write_text(json.dumps(index | {"_class_name": "WanPipeline"}))
    assert layouts.locate(copies["diffusers"]).kind == "diffusers"
    assert load_components(copies["diffusers"], parts=["transformer"]).transformer is not None


def test_one_file_instead_of_shards_and_safetensors_instead_of_pickles_load(copies):
    path = copies["original"]
    expected = load_components(path)
    shards = sorted(path.glob(f"{DIT}*"))
    merged = {
        name: tensor for shard in shards if shard.suffix == ".safetensors" for name, tensor in load_file(shard).items()
    }
    for shard in shards:
        shard.unlink()
    save_file(merged, path / f"{DIT}.safetensors")
    for name in ("Wan2.2_VAE", "models_t5_umt5-xxl-enc-bf16"):
        save_file(torch.load(path / f"{name}.pth", weights_only=True), path / f"{name}.safetensors")
        (path / f"{name}.pth").unlink()
    components = load_components(path)
    for part in ("transformer", "vae", "text_encoder"):
        ours, theirs = getattr(components, part).state_dict(), getattr(expected, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_manifest_of_diffsynth_has_no_tokenizer_entry_but_a_folder(copies):
    index = json.loads((copies["manifest"] / INDEX).read_text())
    del index["components"]["tokenizer"], index["components"]["scheduler"]
    (copies["manifest"] / INDEX).write_text(json.dumps(index))
    (copies["manifest"] / "google").mkdir()
    (copies["manifest"] / "tokenizer").rename(copies["manifest"] / "google" / "umt5-xxl")
    assert load_components(copies["manifest"], parts=["tokenizer", "scheduler"]).tokenizer is not None


# Names on the Hub


@pytest.fixture
def hub_cache(tmp_path, original, monkeypatch) -> Path:
    """A folder that stands for the Hub's cache, with the original release in it."""
    cache = tmp_path / "hub"
    repository = cache / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123abcd"
    shutil.copytree(original, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


@pytest.mark.parametrize(
    "name",
    [
        HUB_ID,
        f"hf://{HUB_ID}",
        f"{HUB_ID}:{DIT}*.safetensors, {HUB_ID}:models_t5_umt5-xxl-enc-bf16.pth, {HUB_ID}:Wan2.2_VAE.pth",
    ],
)
def test_a_name_on_the_hub_stands_for_its_cached_directory(name, hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = layouts.resolve(name)
    assert path.is_relative_to(hub_cache)
    assert load_components(name, parts=["transformer"]).transformer.config.num_layers == 2
    assert read_metadata(name)["name"] == "tiny"


def test_diffsynths_own_place_comes_before_the_hub(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original, tmp_path / "models" / HUB_ID)
    assert layouts.resolve(HUB_ID) == Path("models", HUB_ID)


def test_nothing_goes_online_when_a_directory_is_given(copies, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("something went online")

    monkeypatch.setattr("huggingface_hub.snapshot_download", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    for name in ("original", "manifest", "diffusers", f"{copies['original'].parent}/original"):
        load_components(name)
    for missing in ("nowhere", "original/inside", "./org/name", "/org/name", "../org"):
        with pytest.raises(ModelDirError, match="does not exist"):
            load_components(missing)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody/nothing", "nobody/nothing is neither a directory nor in the Hub's cache, and cannot be fetched"),
        ("hf://nothing", "hf://nothing is no Hub id; expected hf://org/name"),
        ("a/b:x.safetensors, c/d:y.pth", "must read org/name:pattern, org/name:pattern, of one repository"),
        ("a/b:", "must read org/name:pattern"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ModelDirError, match=says.replace("(", r"\(")):
        layouts.resolve(name)


def test_runs_can_lie_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with pytest.raises(ModelDirError, match="someone/runs is neither"):
        layouts.resolve_runs("hf://someone/runs")
    fetched = tmp_path / "wanact" / "runs" / "someone" / "runs"
    (fetched / "orbit").mkdir(parents=True)
    assert layouts.resolve_runs("hf://someone/runs") == fetched, "from before, without a network"
    assert layouts.resolve_runs(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(ModelDirError, match="is no Hub id"):
        layouts.resolve_runs("hf://../up")


# Directories that cannot be used. Those of the diffusers layout are in test_model_dir.py.


def edit(file: Path, **entries) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def edit_components(path: Path, **entries) -> None:
    edit(path / INDEX, components=json.loads((path / INDEX).read_text())["components"] | entries)


def drop_weight(path: Path, name: str) -> None:
    for file in path.glob("*.safetensors"):
        state = load_file(file)
        if state.pop(name, None) is not None:
            save_file(state, file)


def add_weight(file: Path, name: str) -> None:
    save_file(load_file(file) | {name: torch.zeros(1)}, file)


def first_shard(path: Path) -> Path:
    return next(path.glob(f"{DIT}-00001-of-*.safetensors"))


def save_torch(file: Path, **change) -> None:
    torch.save(torch.load(file, weights_only=True) | change, file)


class Evil:
    def __reduce__(self):
        return (os.getcwd, ())


ORIGINAL = [
    (lambda d: [f.unlink() for f in d.glob(f"{DIT}*")], "has no transformer"),
    (lambda d: first_shard(d).unlink(), f"original lacks {DIT}-00001-of-"),
    (lambda d: first_shard(d).write_bytes(b""), "00001-of-.* cannot be read as safetensors"),
    (lambda d: first_shard(d).write_bytes(first_shard(d).read_bytes()[:-9]), "cannot be read as safetensors"),
    (lambda d: shutil.copy(first_shard(d), d / f"{DIT}.safetensors"), "holds .*, which another file holds too"),
    (lambda d: drop_weight(d, "blocks.0.modulation"), "the weights of the transformer lack blocks.0.scale_shift"),
    (lambda d: add_weight(first_shard(d), "vace.0.weight"), "vace.0.weight belong to no transformer"),
    (lambda d: (d / "config.json").unlink(), "config.json must tell num_heads"),
    (lambda d: (d / "config.json").write_text("{"), "config.json is not valid JSON"),
    (lambda d: edit(d / "config.json", _class_name="FluxTransformer"), "config.json is for FluxTransformer, expected"),
    (lambda d: (d / "Wan2.2_VAE.pth").unlink(), "has no vae"),
    (lambda d: (d / "Wan2.2_VAE.pth").rename(d / "Wan2.1_VAE.pth"), "is the VAE of Wan 2.1; .* needs Wan2.2_VAE.pth"),
    (lambda d: (d / "Wan2.2_VAE.pth").write_bytes(b"oops"), "Wan2.2_VAE.pth"),
    (lambda d: torch.save({"x": Evil()}, d / "Wan2.2_VAE.pth"), "pickled objects and not only tensors"),
    (lambda d: torch.save([1, 2], d / "Wan2.2_VAE.pth"), "does not hold named tensors"),
    (lambda d: torch.save({"epoch": 3}, d / "Wan2.2_VAE.pth"), "does not hold named tensors only: epoch is none"),
    (lambda d: save_torch(d / "Wan2.2_VAE.pth", **{"conv1.bias": torch.zeros(7)}), "quant_conv.bias of the vae has"),
    (lambda d: (d / "models_t5_umt5-xxl-enc-bf16.pth").unlink(), "has no text_encoder"),
    (lambda d: shutil.copy(d / "Wan2.2_VAE.pth", d / "models_t5_umt5-xxl-enc-bf16.pth"), "belong to no text_encoder"),
    (lambda d: save_torch(d / "models_t5_umt5-xxl-enc-bf16.pth", motion=torch.zeros(1)), "motion belong to no text"),
    (lambda d: shutil.rmtree(d / "google"), "has no tokenizer; the original release has it in google/umt5-xxl"),
    (lambda d: (d / "google/umt5-xxl/tokenizer.json").write_text("{"), "the tokenizer cannot be loaded"),
    (lambda d: edit(d / "metadata.json", vae=[1]), '"vae" in .* must be an object'),
    (lambda d: edit(d / "metadata.json", vae={"latents_mean": [0.0], "latents_std": [1.0]}), "latents_mean"),
]

MANIFEST = [
    (lambda d: edit_components(d, wan_video_vae="vae/gone.pth"), "vae/gone.pth matches no file"),
    (lambda d: edit_components(d, wan_video_dit="dit/*.gguf"), "dit/.*.gguf matches no file"),
    (lambda d: edit_components(d, wan_video_vae="../original/Wan2.2_VAE.pth"), "points outside the directory"),
    (lambda d: edit_components(d, wan_video_vae="metadata.json"), "metadata.json cannot be read here"),
    (lambda d: edit_components(d, wan_video_motion="x"), "unknown component 'wan_video_motion'"),
    (lambda d: edit_components(d, transformer="dit/*.safetensors"), "names the transformer twice"),
    (lambda d: edit_components(d, tokenizer="vae/Wan2.2_VAE.pth"), "is no folder; the tokenizer needs one"),
    (lambda d: edit_components(d, wan_video_vae="dit/*.safetensors"), "belong to no vae"),
    (lambda d: edit_components(d, wan_video_dit=sorted(d.glob("dit/*"))[0].name), "matches no file"),
    (lambda d: next(d.glob("dit/*-00001-of-*")).unlink(), "matches no file"),
    (lambda d: edit(d / INDEX, components=[]), "must be an object of names and paths"),
]


@pytest.mark.parametrize(
    ("layout", "damage", "says"),
    [("original", *case) for case in ORIGINAL] + [("manifest", *case) for case in MANIFEST],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_directory_that_cannot_be_used_is_refused_in_one_sentence(copies, layout, damage, says):
    damage(copies[layout])
    with pytest.raises(ModelDirError, match=says) as caught:
        load_components(copies[layout])
    assert "\n" not in str(caught.value)


def test_a_glob_over_an_incomplete_series_of_shards_says_which_is_missing(copies):
    path = copies["manifest"]
    edit_components(path, wan_video_dit="dit/*.safetensors")
    next(path.glob("dit/*-00002-of-*")).unlink()
    with pytest.raises(ModelDirError, match=f"lacks {DIT}-00002-of-"):
        load_components(path)


def test_networks_of_different_models_are_refused(copies, tmp_path):
    from tests.tiny_model import build_text_encoder

    path = copies["diffusers"]
    edit(path / "text_encoder" / "config.json", d_model=16)
    shutil.rmtree(path / "text_encoder")
    encoder = build_text_encoder(40)
    encoder.config.d_model = 16
    type(encoder)(encoder.config).save_pretrained(path / "text_encoder")
    with pytest.raises(ModelDirError, match="reads text of width 32, but its text encoder writes 16"):
        load_components(path)


def test_a_model_with_two_transformers_is_refused(copies):
    edit(copies["diffusers"] / INDEX, transformer_2=["diffusers", "WanTransformer3DModel"])
    with pytest.raises(ModelDirError, match="names two transformers"):
        load_components(copies["diffusers"])
    edit(copies["diffusers"] / INDEX, _class_name="FluxPipeline")
    with pytest.raises(ModelDirError, match="is for FluxPipeline, expected WanImageToVideoPipeline or WanPipeline"):
        load_components(copies["diffusers"])


def test_an_empty_directory_is_told_what_it_lacks(tmp_path):
    with pytest.raises(ModelDirError, match=f"it has no {INDEX}, none of the files of the original release"):
        load_components(tmp_path)
