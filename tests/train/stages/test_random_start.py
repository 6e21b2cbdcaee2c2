"""Short clips that begin anywhere: each is what its own frames would have been encoded to, with its own actions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from train.loop.config import ConfigError
from train.loop.seeding import Draw
from wanact.media import footage, video
from wanact.models import vae as wan_vae
from wanact.models.components import load_component
from wanact.models.lapped import AutoencoderLapped

FLAGS = ("--max_steps", "1", "--random_start", "--num_latent_frames_choices", "2", "--cache_dtype", "float32")


@pytest.fixture(scope="module")
def lapped_model(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lapped") / "model"
    shutil.copytree(model, folder)
    shutil.rmtree(folder / "vae")
    AutoencoderLapped(width=8, depth=1).save_pretrained(folder / "vae")
    return folder


@pytest.mark.parametrize("stage", ["action", "causal"])
def test_a_clip_begins_at_any_latent_frame_with_the_actions_from_there(run, stage, lapped_model, tmp_path):
    trained = run(stage, tmp_path, "--model_dir", str(lapped_model), *FLAGS).stage
    autoencoder = load_component("vae", lapped_model / "vae", torch.float32)
    draws = [Draw(i % len(trained), i, 0, 0, "test") for i in range(12)]
    batch = trained.load(draws)
    starts = [trained._start(draw, 2) for draw in draws]
    assert {0, 1} == set(starts)
    for i, (draw, start) in enumerate(zip(draws, starts, strict=True)):
        row = trained.rows[draw.index]
        frames = footage.read_video(row.video)[4 * start : 4 * start + 5]
        assert_close(batch["latents"][i], wan_vae.encode(autoencoder, video.to_tensor(frames)[None])[0])
        scale = np.array(trained.config.model.action_magnitude_scale)
        assert_close(batch["magnitude"][i, 0].double(), torch.from_numpy(row.track.magnitude[start] * scale).double())


def test_single_pictures_are_several_of_each_clip_and_drawn_from_words(run, lapped_model, tmp_path):
    """Nothing of a picture is given, whatever share of clips keeps its first frame; each has noise of its own."""
    flags = (*FLAGS[:4], "1", *FLAGS[5:], "--first_frame_dropout", "0.1", "--pictures_per_clip", "6")
    trained = run("i2v", tmp_path, "--model_dir", str(lapped_model), *flags).stage
    autoencoder = load_component("vae", lapped_model / "vae", torch.float32)
    batch = trained.load([Draw(i, i, 0, 0, "test") for i in range(2)])
    assert batch["from_words"].all() and len(batch["latents"]) == 12
    for i, row in enumerate(row for row in (trained.rows[0], trained.rows[1]) for _ in range(6)):
        stills = [video.to_tensor(frame[None])[None] for frame in footage.read_video(row.video)[::4]]
        alone = [wan_vae.encode(autoencoder, still)[0] for still in stills]
        assert any(torch.allclose(batch["latents"][i], latent, atol=1e-4) for latent in alone)
    assert len({float(noise.sum()) for noise in batch["noise"]}) == 12
    assert len({float(latent.sum()) for latent in batch["latents"]}) > 3, "from several places of each clip"


def test_the_whole_clip_has_one_beginning(run, lapped_model, tmp_path):
    stage = run("action", tmp_path, "--model_dir", str(lapped_model), *FLAGS[:3]).stage
    assert {stage._start(Draw(0, i, 0, 0, "test"), 3) for i in range(8)} == {0}


def test_an_autoencoder_with_a_memory_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="AutoencoderKLWan depends on those before it"):
        run("action", tmp_path, *FLAGS)
