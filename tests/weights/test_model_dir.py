import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from tests.conftest import ROOT
from tests.tiny_model import DEFAULTS as TINY_DEFAULTS
from tests.tiny_model import LATENT_CHANNELS
from wanact.weights.layouts import INDEX, METADATA, ModelDirError
from wanact.weights.model_dir import DEFAULTS, fingerprint, load_components, read_metadata, save_components

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def edit(file: Path, **entries) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def write_manifest(model_dir: Path, **components) -> None:
    usual = {"wan_video_dit": "transformer", "wan_video_text_encoder": "text_encoder", "wan_video_vae": "vae"}
    manifest = {"model_name": "tiny", "components": usual | components}
    (model_dir / INDEX).write_text(json.dumps(manifest))


def assert_same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


def refusal(path: Path, **kwargs) -> str:
    with pytest.raises(ModelDirError) as caught:
        load_components(path, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_diffusers_layout_loads_all_parts(model_dir):
    components = load_components(model_dir)
    stock = WanImageToVideoPipeline.from_pretrained(model_dir)
    assert_same_weights(components.transformer, stock.transformer)
    assert_same_weights(components.vae, stock.vae)
    assert_same_weights(components.text_encoder, stock.text_encoder)
    assert components.scheduler.config.flow_shift == 5.0
    assert components.tokenizer("a lake").input_ids == stock.tokenizer("a lake").input_ids
    silent = {"sigma_grid": "wan", "text_to_video": False, "perturbed_layers": []}
    assert components.metadata["defaults"] == TINY_DEFAULTS | silent
    assert not components.transformer.training and not components.text_encoder.training


def test_only_the_parts_asked_for_are_loaded(model_dir):
    shutil.rmtree(model_dir / "vae")
    edit(model_dir / INDEX, vae=[None, None])
    components = load_components(model_dir, parts=["transformer"])
    assert components.vae is None and components.tokenizer is None and components.transformer is not None


def test_half_precision_spares_the_vae_and_the_norms(model_dir):
    components = load_components(model_dir, dtype=torch.bfloat16)
    assert components.transformer.dtype == components.text_encoder.dtype == torch.bfloat16
    assert components.transformer.blocks[0].scale_shift_table.dtype == torch.float32
    assert components.vae.dtype == torch.float32


@pytest.mark.parametrize("pattern", ["transformer", f"transformer/{WEIGHTS}", "transformer/*.safetensors"])
def test_a_manifest_names_a_folder_a_file_or_a_glob(model_dir, pattern):
    expected = load_components(model_dir)
    write_manifest(model_dir, wan_video_dit=pattern)
    components = load_components(model_dir)
    assert_same_weights(components.transformer, expected.transformer)
    assert_same_weights(components.text_encoder, expected.text_encoder)
    assert components.scheduler.config.flow_shift == 5.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_manifest_joins_shards_of_any_name(model_dir, part, dtype):
    expected = load_components(model_dir, dtype=dtype)
    whole = next((model_dir / part).glob("*.safetensors"))
    state = load_file(whole)
    whole.unlink()
    names = sorted(state)
    for shard, half in enumerate((names[::2], names[1::2])):
        save_file({name: state[name] for name in half}, model_dir / part / f"part-{shard}.safetensors")
    name = {"transformer": "wan_video_dit", "vae": "wan_video_vae", "text_encoder": "wan_video_text_encoder"}[part]
    write_manifest(model_dir, **{name: [f"{part}/part-1.safetensors", f"{part}/part-0.safetensors"]})
    assert_same_weights(getattr(load_components(model_dir, dtype=dtype), part), getattr(expected, part))


def test_a_saved_directory_loads_here_and_in_stock_diffusers(model_dir, tmp_path):
    components = load_components(model_dir)
    again = load_components(save_components(components, tmp_path / "saved"))
    stock = WanImageToVideoPipeline.from_pretrained(tmp_path / "saved")
    assert_same_weights(again.transformer, components.transformer)
    assert_same_weights(stock.transformer, components.transformer)
    assert stock.config.expand_timesteps and type(stock.transformer).__name__ == "WanTransformer3DModel"
    assert again.metadata == components.metadata


def test_parts_can_be_saved_one_after_the_other(model_dir, tmp_path):
    for part in ("vae", "transformer", "text_encoder", "tokenizer", "scheduler"):
        save_components(load_components(model_dir, parts=[part]), tmp_path / "saved")
    assert_same_weights(load_components(tmp_path / "saved").transformer, load_components(model_dir).transformer)


def test_a_directory_without_metadata_gets_the_5b_defaults(model_dir):
    (model_dir / METADATA).unlink()
    assert read_metadata(model_dir)["defaults"] == DEFAULTS


def test_what_metadata_leaves_out_is_filled_in(model_dir):
    edit(model_dir / METADATA, defaults={"height": 96, "width": 160})
    assert read_metadata(model_dir)["defaults"] == DEFAULTS | {"height": 96, "width": 160, "text_to_video": False}


def test_a_model_draws_its_own_first_frame_if_its_metadata_says_so(model_dir):
    assert read_metadata(model_dir)["defaults"]["text_to_video"] is False
    edit(model_dir / METADATA, defaults={"text_to_video": True})
    assert read_metadata(model_dir)["defaults"]["text_to_video"] is True
    (model_dir / METADATA).unlink()
    assert read_metadata(model_dir)["defaults"]["text_to_video"] is True, "the 5B model draws it"
    assert read_metadata(ROOT / "assets" / "nano")["defaults"]["text_to_video"] is False


def test_the_bundled_world_says_what_it_draws():
    assert "landscapes" in read_metadata(ROOT / "assets" / "nano")["draws"], "visitors read it beside photographs"


def test_a_world_of_ours_from_before_there_was_a_choice_keeps_its_sampling_grid(model_dir):
    grids = {}
    for name in ("tiny", "nano"):
        edit(model_dir / METADATA, name=name, defaults={})
        grids[name] = read_metadata(model_dir)["defaults"]["sigma_grid"]
    assert grids == {"tiny": "wan", "nano": "from_one"}
    edit(model_dir / METADATA, name="nano", defaults={"sigma_grid": "wan"})
    assert read_metadata(model_dir)["defaults"]["sigma_grid"] == "wan"
    edit(model_dir / METADATA, defaults={"sigma_grid": "other"})
    with pytest.raises(ModelDirError, match="sigma_grid.*'other', expected wan, from_one"):
        read_metadata(model_dir)


def test_the_fingerprint_follows_the_weights_not_the_place(model_dir, tmp_path):
    before = fingerprint(model_dir)
    copy = Path(shutil.copytree(model_dir, tmp_path / "copy"))
    write_manifest(copy)
    assert fingerprint(copy) == before
    for part, name in (("transformer", "proj_out.bias"), ("vae", "quant_conv.bias")):
        file = copy / part / WEIGHTS
        state = load_file(file)
        save_file(state | {name: state[name] + 1}, file)
        changed = fingerprint(copy)
        assert changed != before, part
        save_file(state, file)
    edit(copy / "vae" / "config.json", latents_mean=[0.5] * LATENT_CHANNELS)
    assert fingerprint(copy) not in (before, changed), "the latents' statistics are in no weight file"


def test_a_missing_directory_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "has no model_index.json" in refusal(tmp_path)
    (tmp_path / "file").write_text("")
    assert "is not a directory" in refusal(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\xff"])
def test_a_damaged_index_is_refused(model_dir, text):
    (model_dir / INDEX).write_bytes(text.encode("latin-1"))
    assert INDEX in refusal(model_dir)


def test_an_index_of_no_known_layout_is_refused(model_dir):
    (model_dir / INDEX).write_text('{"name": "world"}')
    assert 'neither "components" (a manifest) nor "_class_name"' in refusal(model_dir)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: shutil.rmtree(d / "vae"), "names a vae, but .*vae is missing"),
        (lambda d: edit(d / INDEX, transformer=[None, None]), "names no transformer"),
        (lambda d: (d / "transformer" / WEIGHTS).unlink(), "the transformer cannot be loaded"),
        (lambda d: (d / "transformer" / WEIGHTS).write_bytes(b"oops"), "the transformer cannot be loaded"),
        (lambda d: (d / "transformer" / "config.json").unlink(), "config.json is missing"),
        (lambda d: (d / "transformer" / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda d: edit(d / "transformer" / "config.json", _class_name="UNet"), "is for UNet, expected WanTransformer"),
        (lambda d: edit(d / "transformer" / "config.json", num_layers=3), "the weights of .*transformer lack blocks.2"),
        (lambda d: edit(d / "transformer" / "config.json", num_layers=1), "the transformer cannot be loaded"),
        (lambda d: edit(d / "vae" / "config.json", base_dim=16), "the vae cannot be loaded"),
        (lambda d: edit(d / "text_encoder" / "config.json", model_type="bert"), "is for bert, expected umt5"),
        (lambda d: shutil.rmtree(d / "tokenizer") or (d / "tokenizer").mkdir(), "the tokenizer cannot be loaded"),
        (lambda d: edit(d / "scheduler" / "scheduler_config.json", _class_name="Tensor"), "no scheduler of diffusers"),
        (lambda d: (d / METADATA).write_text("nope"), "metadata.json cannot be read as JSON"),
        (lambda d: edit(d / METADATA, defaults=3), '"defaults" in .* must be an object'),
        (lambda d: edit(d / METADATA, defaults={"height": 100}), "height=100 must be a multiple of 32"),
        (lambda d: edit(d / METADATA, defaults={"num_frames": 80}), "num_frames=80 must be 4k.1"),
        (lambda d: edit(d / METADATA, defaults={"fps": "fast"}), "'fps' in .* is 'fast', expected a number"),
        (lambda d: edit(d / METADATA, defaults={"width": float("inf")}), "'width' in .* is inf"),
        (
            lambda d: edit(d / METADATA, defaults={"rest": "sleep"}),
            "'rest' in .* is 'sleep', expected hold, draw",
        ),
        (lambda d: edit(d / METADATA, defaults={"num_inference_steps": 0}), "is 0, expected a whole number"),
        (lambda d: edit(d / METADATA, defaults={"guidance_scale": 0}), "guidance_scale of 1 or more"),
        (lambda d: edit(d / METADATA, defaults={"text_to_video": "yes"}), "is 'yes', expected true or false"),
        (lambda d: edit(d / METADATA, places=[20]), "must be an object of num_inference_steps, guidance_scale"),
        (lambda d: edit(d / METADATA, defaults={"perturbed_layers": 3}), "is 3, expected a list of layers, from 0"),
        (lambda d: edit(d / METADATA, defaults={"perturbed_layers": [-1]}), r"is \[-1\], expected a list of layers"),
        (
            lambda d: edit(d / METADATA, defaults={"perturbed_layers": [1, 9]}),
            "layer 9, the transformer's last is 1",
        ),
        (lambda d: edit(d / METADATA, places={"perturbed_layers": [2]}), "names layer 2, the transformer's last is 1"),
        (lambda d: edit(d / METADATA, places={"num_inference_steps": 0}), "expected a whole number above 0"),
        (lambda d: edit(d / METADATA, draws=["hills"]), '"draws" in .* must be text'),
        (lambda d: edit(d / METADATA, draws="x" * 500), "up to 400 characters"),
        (lambda d: edit(d / METADATA, latent_rgb={"weight": [[1, 2]]}), '"latent_rgb" in'),
    ],
)
def test_a_damaged_directory_is_refused_in_one_sentence(model_dir, change, says):
    change(model_dir)
    with pytest.raises(ModelDirError, match=says) as caught:
        load_components(model_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("../elsewhere/model.safetensors", "points outside the directory"),
        ("/etc/model.safetensors", "points outside the directory"),
        ("transformer/*.gguf", "matches no file"),
        ("missing.safetensors", "matches no file"),
        ([], "must be a path, a glob or a list"),
        (7, "must be a path, a glob or a list"),
        ([["transformer"]], "must be a path, a glob or a list"),
        ("metadata.json", "cannot be read here"),
        (["transformer", "vae"], "cannot be read here"),
    ],
)
def test_a_wrong_manifest_entry_is_refused(model_dir, value, says):
    write_manifest(model_dir, wan_video_dit=value)
    assert says in refusal(model_dir)


def test_unknown_components_are_refused(model_dir):
    write_manifest(model_dir, wan_video_motion="motion")
    assert "unknown component 'wan_video_motion'; known are wan_video_dit" in refusal(model_dir)
    (model_dir / INDEX).write_text('{"model_name": "tiny", "components": ["transformer"]}')
    assert "must be an object" in refusal(model_dir)
    with pytest.raises(ValueError, match="parts .'wings'. are unknown"):
        load_components(model_dir, parts=["wings"])
