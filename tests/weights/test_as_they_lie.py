"""Directories as they lie on people's disks: other indexes or none, what file managers leave, marks and pointers."""

from __future__ import annotations

import codecs
import json
import shutil
from pathlib import Path

import pytest
import torch

from train.loop.export import require_free
from wanact.commands.convert import convert_dir
from wanact.files import CheckpointError, check_safetensors, load_weights, read_json
from wanact.runs import store
from wanact.runs.index import RunIndex
from wanact.weights import layouts
from wanact.weights.layouts import INDEX, MANIFEST_INDEX, ModelDirError
from wanact.weights.lora import read_lora
from wanact.weights.model_dir import fingerprint, load_components
from wanact.weights.names import ConvertError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 9999999\n".format("0" * 64)
PARTS = ("transformer", "vae", "text_encoder")


@pytest.fixture(scope="module")
def expected(tiny_model_dir):
    return load_components(tiny_model_dir)


@pytest.fixture
def copy(tmp_path):
    return lambda source: Path(shutil.copytree(source, tmp_path / f"copy of {source.name}"))


def assert_same(path: Path, expected) -> None:
    components = load_components(path)
    assert components.tokenizer is not None
    for part in PARTS:
        ours, theirs = getattr(components, part).state_dict(), getattr(expected, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_diffsynths_own_name_of_a_manifest_is_one(copy, manifest, expected):
    path = copy(manifest)
    (path / INDEX).rename(path / MANIFEST_INDEX)
    assert layouts.locate(path).kind == "manifest"
    assert_same(path, expected)
    index = json.loads((path / MANIFEST_INDEX).read_text())
    index["components"]["wan_video_vae"] = "nowhere.pth"
    (path / MANIFEST_INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelDirError, match=f"{MANIFEST_INDEX}: nowhere.pth matches no file"):
        layouts.locate(path)


def test_folders_without_an_index_are_a_model_directory(copy, manifest, tiny_model_dir, expected):
    for source in (manifest, tiny_model_dir):
        path = copy(source)
        (path / INDEX).unlink()
        assert_same(path, expected)


def test_files_of_the_release_and_folders_go_together(copy, original, manifest, expected):
    """As the plan of Vidar has its base: the transformer in the root, t5 and vae beside it."""
    path = copy(original)
    for file, folder in (("Wan2.2_VAE.pth", "vae"), ("models_t5_umt5-xxl-enc-bf16.pth", "t5")):
        (path / folder).mkdir()
        (path / file).rename(path / folder / file)
    assert_same(path, expected)


def litter(path: Path) -> None:
    """What macOS and Windows leave beside every file and in every folder."""
    for folder in [path, *(p for p in path.rglob("*") if p.is_dir() and not p.is_symlink())]:
        for file in list(folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                (folder / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07Mac OS X")
        (folder / ".DS_Store").write_bytes(b"\x00Bud1")
        (folder / "desktop.ini").write_text("[.ShellClassInfo]\n")


@pytest.mark.parametrize("layout", ["original", "manifest", "tiny_model_dir"])
def test_what_file_managers_leave_counts_for_nothing(copy, layout, expected, request):
    path = copy(request.getfixturevalue(layout))
    before = fingerprint(path)
    if layout == "manifest":  # globs meet the most
        index = json.loads((path / INDEX).read_text())
        index["components"]["wan_video_dit"] = "dit/*.safetensors"
        (path / INDEX).write_text(json.dumps(index))
    litter(path)
    assert_same(path, expected)
    assert fingerprint(path) == before


def test_a_folder_with_nothing_but_litter_is_empty(tiny_model_dir, tmp_path):
    target = tmp_path / "new"
    target.mkdir()
    (target / ".DS_Store").write_bytes(b"\x00Bud1")
    require_free(target, "run")
    convert_dir(tiny_model_dir, target, "diffusers")
    assert (target / INDEX).is_file() and not (target / ".DS_Store").exists()


@pytest.mark.parametrize("layout", ["original", "manifest", "tiny_model_dir"])
def test_a_byte_order_mark_in_json_is_passed_over(copy, layout, expected, request):
    path = copy(request.getfixturevalue(layout))
    for file in path.rglob("*.json"):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert_same(path, expected)
    assert read_json(path / "metadata.json") == read_json(request.getfixturevalue(layout) / "metadata.json")


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("original", "Wan2.2_VAE.pth"),
        ("original", "diffusion_pytorch_model-00001-of-00004.safetensors"),
        ("manifest", "text_encoder/models_t5_umt5-xxl-enc-bf16.pth"),
        ("manifest", "tokenizer/tokenizer.json"),
        ("manifest", "model_index.json"),
        ("tiny_model_dir", "vae/diffusion_pytorch_model.safetensors"),
        ("tiny_model_dir", "text_encoder/model.safetensors"),
        ("tiny_model_dir", "tokenizer/tokenizer.json"),
        ("tiny_model_dir", "transformer/config.json"),
        ("tiny_model_dir", "metadata.json"),
    ],
)
def test_a_pointer_where_a_part_of_a_model_should_be_is_called_one(copy, layout, file, request):
    path = copy(request.getfixturevalue(layout))
    target = path / file
    if "00001-of" in file:
        target = sorted(path.glob("diffusion_pytorch_model-00001-of-*.safetensors"))[0]
    target.write_text(POINTER)
    with pytest.raises(ModelDirError, match=f"{target.name} is a Git LFS pointer; fetch the file with git lfs pull"):
        load_components(path)


def test_a_pointer_where_weights_of_a_run_should_be_is_called_one(tmp_path):
    says = "is a Git LFS pointer; fetch the file with git lfs pull"
    run = tmp_path / "runs" / "cloned"
    run.mkdir(parents=True)
    file = run / "action_controller.safetensors"
    file.write_text(POINTER)
    (run / "action_train_config.json").write_text('{"action_controller_config": {}}')
    for read in (load_weights, check_safetensors):
        with pytest.raises(CheckpointError, match=f"action_controller.safetensors {says}"):
            read(file)
    with pytest.raises(CheckpointError, match=says):
        store.load_flight_weights(run)
    index = RunIndex([tmp_path / "runs"])
    assert says in index.verify(index.entries()[0]).problem
    (run / "action_train_config.json").write_text(POINTER)
    with pytest.raises(CheckpointError, match=f"action_train_config.json {says}"):
        read_json(run / "action_train_config.json")
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(CheckpointError, match=says):
            load_weights(tmp_path / name)
        with pytest.raises(ConvertError, match=says):
            read_lora(tmp_path / name)
