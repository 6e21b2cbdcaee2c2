"""The VAE stage on a VAE of a few thousand weights: it learns, resumes to the bit, and exports what decodes."""

from __future__ import annotations

import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from tests.tiny_model import build_vae
from tests.train.conftest import NUM_FRAMES, SIZE
from train.loop.config import ConfigError, parse
from train.loop.seeding import Draw
from train.stages import principal
from train.stages import vae as vae_stage
from train.stages.principal import Basis
from train.stages.vae import CropKind, VAEOptions, VAEStage, set_latent_statistics
from wanact.files import load_state, load_weights
from wanact.media import video
from wanact.media.footage import read_video
from wanact.models import presets
from wanact.models import vae as wan_vae
from wanact.models.components import load_component
from wanact.runs import store
from wanact.weights import model_dir

CROPS = ("--vae_crops", "5x32x32:1", "2x9x16x32:1")


@pytest.fixture
def train_vae(dataset, model):
    """Train in this process: `train_vae(output, "--max_steps", "4")` gives the Trainer."""
    from train.commands.run import train

    def start(output, *more, base=model):
        origin = ("--model_dir", str(base)) if base else ()
        return train("vae", [
            *origin, *CROPS, *more,
            *("--dataset_base_path", str(dataset), "--dataset_metadata_path", str(dataset / "clips.csv")),
            *("--output_path", str(output), "--height", str(SIZE), "--width", str(SIZE)),
            *("--num_frames", str(NUM_FRAMES), "--batch_size", "2", "--optimizer", "muon", "--save_full_state"),
            *("--learning_rate", "3e-3", "--log_steps", "1", "--ema_decay", "0.5"),
        ])  # fmt: skip

    return start


def weights_of(run, step):
    folder = run / "checkpoints" / store.step_name(step)
    tensors = {f"{f.name}.{n}": v for f in folder.glob("*.safetensors") for n, v in load_weights(f).items()}
    optimizer = load_state(folder / "optimizer.pt")["main"]["state"]
    return tensors | {f"{name}.{key}": value for name, state in optimizer.items() for key, value in state.items()}


def stop_before_second_step(patch):
    """A run that is asked to stop goes on to the end of its second step."""
    from train.loop.trainer import Trainer

    step = Trainer._train_step

    def interrupted(self):
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    patch.setattr(Trainer, "_train_step", interrupted)


def test_a_stopped_run_repeats_the_uninterrupted_one(train_vae, tmp_path, monkeypatch):
    train_vae(tmp_path / "whole", "--max_steps", "4")
    with monkeypatch.context() as patch:
        stop_before_second_step(patch)
        assert train_vae(tmp_path / "parts", "--max_steps", "4").step == 2
    train_vae(tmp_path / "parts", "--max_steps", "4")
    whole, parts = weights_of(tmp_path / "whole", 4), weights_of(tmp_path / "parts", 4)
    assert whole.keys() == parts.keys()
    assert any(name.endswith(".momentum") for name in whole)
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    losses = [[row["loss"] for row in store.read_log(tmp_path / run)] for run in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert all(math.isfinite(loss) for loss in losses[0])


def test_training_lowers_the_loss(train_vae, tmp_path):
    stage = train_vae(tmp_path, "--max_steps", "12", "--still_share", "0.5").stage
    batch = stage.load([Draw(i, i, 0, 0, "vae") for i in range(2)])
    trained = stage.loss(batch, "main").loss.mean()
    stage.vae.load_state_dict(stage._build().state_dict())
    assert trained < 0.9 * stage.loss(batch, "main").loss.mean()


def test_export_holds_the_averaged_weights_and_unit_latents(train_vae, tmp_path, dataset, model):
    trainer = train_vae(tmp_path / "run", "--max_steps", "2", "--export_model_dir", str(tmp_path / "model"))
    loaded = model_dir.load_components(tmp_path / "model")
    for name, value in loaded.vae.state_dict().items():
        assert torch.equal(value, trainer.ema[f"vae.{name}"]), name
    clips = [read_video(path) for path in sorted(dataset.glob("*.mp4"))]
    latents = torch.cat([wan_vae.encode(loaded.vae, video.to_tensor(clip)[None]) for clip in clips])
    channels = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(dim=1), torch.zeros(48), atol=1e-3, rtol=0)
    torch.testing.assert_close(channels.std(dim=1), torch.ones(48), atol=1e-2, rtol=0)
    assert np.array(loaded.metadata["latent_rgb"]["weight"]).shape == (48, 3)
    theirs = (model_dir.former_fingerprint(tmp_path / "model"), model_dir.fingerprint(tmp_path / "model"))
    assert theirs[0] == model_dir.former_fingerprint(model), "the transformer is the base's"
    assert theirs[1] != model_dir.fingerprint(model), "with another VAE it is another world"


def test_a_decoder_can_be_trained_alone_and_the_latents_stay(train_vae, model, dataset, tmp_path):
    out = tmp_path / "model"
    run = tmp_path / "run"
    train_vae(run, "--max_steps", "3", "--learning_rate", "1e-2", "--decoder_only", "--export_model_dir", str(out))
    before, after = (model_dir.load_components(path, parts=("vae",)).vae for path in (model, out))
    clip = video.to_tensor(read_video(next(dataset.glob("*.mp4"))))[None]
    latents = wan_vae.encode(before, clip)
    assert torch.equal(wan_vae.encode(after, clip), latents)
    assert not torch.equal(wan_vae.decode(after, latents), wan_vae.decode(before, latents))
    exported = load_weights(store.resolve(run) / "vae.safetensors")
    assert exported.keys() == after.state_dict().keys()


def test_a_new_vae_is_exported_as_a_folder_of_its_own(train_vae, tmp_path, monkeypatch):
    small = {"vae": presets.PRESETS["ti2v_5b"]["vae"] | {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1}}
    monkeypatch.setitem(presets.PRESETS, "small", small)
    out = tmp_path / "vae"
    train_vae(tmp_path / "run", "--max_steps", "1", "--vae_preset", "small", "--export_model_dir", str(out), base=None)
    config = json.loads((out / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKLWan"
    assert len(set(config["latents_std"])) > 1
    with pytest.raises(FileExistsError, match="holds a model already"):
        train_vae(tmp_path / "other", "--max_steps", "1", "--export_model_dir", str(out))


# A lapped VAE


@pytest.fixture
def train_lapped(train_vae, monkeypatch):
    """As `train_vae`, for a new lapped VAE of a few channels."""
    small = {"vae": presets.PRESETS["nano"]["vae"] | {"width": 8, "depth": 1}}
    monkeypatch.setitem(presets.PRESETS, "small", small)
    monkeypatch.setattr(principal, "STRIDE", 1)

    def start(output, *more):
        return train_vae(output, "--vae_preset", "small", "--kl_weight", "0", *more, base=None)

    return start


def test_a_lapped_vae_begins_with_the_principal_components_of_the_clips(train_lapped, tmp_path):
    stage = train_lapped(tmp_path, "--max_steps", "1").stage
    basis = Basis.load(tmp_path / "basis.safetensors")
    products = torch.einsum("acij,bcij->ab", basis.basis, basis.basis)
    torch.testing.assert_close(products, torch.eye(48), atol=1e-4, rtol=0)
    vae, clip = stage._build(), video.to_tensor(stage.clip(0))[None]

    def error():
        with torch.no_grad():
            return (wan_vae.decode_raw(vae, wan_vae.encode_moments(vae, clip)[0]) - clip).square().mean()

    of_cosines = error()
    vae.set_basis(*basis)
    assert error() < 0.3 * of_cosines  # the clips are noise, of which cosines keep next to nothing


def test_a_stopped_lapped_run_repeats_the_uninterrupted_one(train_lapped, tmp_path, monkeypatch):
    terms = ("--sharpness_weight", "0.5", "--psnr_weight", "0.5")
    train_lapped(tmp_path / "whole", "--max_steps", "3", *terms)
    with monkeypatch.context() as patch:
        stop_before_second_step(patch)
        assert train_lapped(tmp_path / "parts", "--max_steps", "3", *terms).step == 2
        patch.setattr(vae_stage, "principal_components", lambda *_: pytest.fail("the transform was computed again"))
        train_lapped(tmp_path / "parts", "--max_steps", "3", *terms)
    whole, parts = weights_of(tmp_path / "whole", 3), weights_of(tmp_path / "parts", 3)
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_a_lapped_vae_is_exported_with_one_deviation_for_all_latents(train_lapped, tmp_path, dataset):
    out = tmp_path / "vae"
    train_lapped(tmp_path / "run", "--max_steps", "2", "--export_model_dir", str(out))
    vae = load_component("vae", out, torch.float32)
    assert type(vae).__name__ == "AutoencoderLapped"
    assert len(set(vae.config.latents_std)) == 1
    clips = [read_video(path) for path in sorted(dataset.glob("*.mp4"))]
    latents = torch.cat([wan_vae.encode(vae, video.to_tensor(clip)[None]) for clip in clips])
    channels = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(dim=1), torch.zeros(48), atol=1e-3, rtol=0)
    torch.testing.assert_close(channels.var(dim=1).mean(), torch.tensor(1.0), atol=1e-2, rtol=0)


def test_the_decoder_of_a_lapped_vae_can_be_trained_alone(train_lapped, tmp_path):
    vae = train_lapped(tmp_path, "--max_steps", "2", "--decoder_only").stage.vae
    fixed = {name for name, parameter in vae.named_parameters() if not parameter.requires_grad}
    assert fixed == {"analysis", "offset"}


def test_samples_show_clips_above_their_reconstructions(train_vae, tmp_path):
    train_vae(tmp_path, "--max_steps", "1", "--sample_steps", "1", "--sample_count", "1")
    (file,) = tmp_path.glob("samples/*/reconstruction-0.mp4")
    assert read_video(file).shape == (NUM_FRAMES, 2 * SIZE, SIZE, 3)


def test_a_step_draws_one_kind_and_the_same_crops_whenever_it_is_asked(train_vae, tmp_path):
    stage = train_vae(tmp_path, "--max_steps", "1", "--still_share", "0.5").stage
    assert isinstance(stage, VAEStage)
    shapes = set()
    for step in range(12):
        draws = [Draw(i, 2 * step + i, step, 0, "vae") for i in range(2)]
        batch, again = stage.load(draws), stage.load(draws)
        assert torch.equal(batch["video"], again["video"])
        assert torch.equal(batch["noise"], again["noise"])
        assert not torch.equal(batch["noise"][0], batch["noise"][-1])
        shapes.add((tuple(batch["video"].shape), tuple(batch["noise"].shape)))
    assert shapes == {
        ((2, 1, 5, 32, 32, 3), (2, 48, 2, 2, 2)),
        ((2, 2, 9, 16, 32, 3), (4, 48, 3, 1, 2)),
    }


def test_clips_beyond_the_memory_budget_are_read_again(train_vae, tmp_path):
    stage = train_vae(tmp_path, "--max_steps", "1", "--cache_memory_gb", "0.00004").stage
    assert 0 < len(stage._held) < len(stage.rows)
    last = len(stage.rows) - 1
    np.testing.assert_array_equal(stage.clip(last), read_video(stage.rows[last].video))


def test_latent_colours_fit_where_the_latents_hold_them():
    vae = build_vae()
    rng = np.random.default_rng(0)
    clips = [np.broadcast_to(rng.integers(0, 255, (1, 1, 1, 3), np.uint8), (5, 32, 32, 3)) for _ in range(60)]
    rgb = set_latent_statistics(vae, [np.ascontiguousarray(clip) for clip in clips])
    latents = wan_vae.encode(vae, video.to_tensor(np.ascontiguousarray(clips[0]))[None])[0]
    colours = torch.einsum("cthw,cr->rthw", latents, torch.tensor(rgb["weight"])).mean(dim=(1, 2, 3))
    colours += torch.tensor(rgb["bias"])
    torch.testing.assert_close(
        colours, video.to_tensor(np.ascontiguousarray(clips[0])).mean(dim=(1, 2, 3)), atol=0.15, rtol=0
    )


def test_fast_norms_change_nothing():
    video_clip = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, fast = build_vae(), wan_vae.use_fast_operations(build_vae())
    torch.testing.assert_close(wan_vae.encode(fast, video_clip), wan_vae.encode(plain, video_clip))
    latents = wan_vae.encode(plain, video_clip)
    torch.testing.assert_close(wan_vae.decode(fast, latents), wan_vae.decode(plain, latents))


@pytest.mark.parametrize(
    "text, message",
    [
        ("17x64", "must read"),
        ("16x64x64:1", "4k\\+1"),
        ("17x60x64", "multiples of 16"),
        ("x", "must read"),
        ("17x64x64:0", "share above 0"),
    ],  # fmt: skip
)
def test_a_wrong_crop_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        CropKind.parse(text)


@pytest.mark.parametrize("name", ["vae"])
def test_the_shipped_settings_can_be_read(name, root):
    config = parse("vae", ["--config", str(root / f"train/configs/nano/{name}.yaml")], VAEOptions)
    assert sum(kind.share for kind in config.stage.kinds) == pytest.approx(1)


def test_settings_that_do_not_fit_are_refused(root):
    config = parse("vae", ["--config", str(root / "train/configs/nano/vae.yaml")], VAEOptions)
    config.data.dataset_metadata_path = config.checkpoint.output_path = "somewhere"
    VAEStage.check(config)
    config.data.width = 160
    with pytest.raises(ConfigError, match="5x192x320 do not fit"):
        VAEStage.check(config)
    config.model.model_dir = "there"
    with pytest.raises(ConfigError, match="one of them"):
        VAEStage.check(config)
