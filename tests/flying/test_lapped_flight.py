"""A model directory whose VAE is a lapped transform: drawn as a clip, flown live, loaded by stock diffusers."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import WanImageToVideoPipeline

from tests.flying.test_stream import write_causal_run
from wanact.flying.pipeline import WanActPipeline
from wanact.flying.stream import WanActStream
from wanact.models.lapped import AutoencoderLapped
from wanact.runs.ref import BASE_MODEL
from wanact.ui.pages.live.flight import LiveFlight


def test_a_clip_begins_with_the_picture_it_was_given(lapped_dir, ramp):
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    assert isinstance(pipe.components.vae, AutoencoderLapped)
    frames = pipe("hills", ramp, num_frames=9)
    assert frames.shape == (9, 64, 96, 3)
    assert np.abs(frames[0].astype(int) - np.asarray(ramp)).mean() < 6


def test_it_is_flown_live(lapped_dir, ramp, tmp_path):
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    pipe.load_controller(write_causal_run(tmp_path / "run"))
    stream = WanActStream(pipe, ramp, "hills", 5)
    shown = np.concatenate([stream.step(np.zeros(8)) for _ in range(2)])
    assert shown.shape == (8, 64, 96, 3)
    assert [len(piece) for piece in stream.draw(np.zeros(8))] == [1, 3], "the first can be shown by itself"


def test_the_page_has_all_pictures_of_a_flight(lapped_dir, ramp, tmp_path):
    pipe = WanActPipeline.from_model_dir(lapped_dir)
    pipe.load_controller(write_causal_run(tmp_path / "run"))
    flight = LiveFlight(WanActStream(pipe, ramp, "hills", 5), BASE_MODEL)
    for _ in range(3):
        flight.draw(np.zeros(8))
        flight.show()
        assert [len(pictures) for pictures in flight.ready(wait=True)] == [1, 3]


@pytest.mark.parametrize("handed", [False, True])
def test_stock_diffusers_loads_the_directory(lapped_dir, handed):
    given = {"vae": AutoencoderLapped.from_pretrained(lapped_dir / "vae")} if handed else {}
    pipeline = WanImageToVideoPipeline.from_pretrained(lapped_dir, **given)
    assert type(pipeline.vae) is AutoencoderLapped
    assert (pipeline.vae_scale_factor_spatial, pipeline.vae_scale_factor_temporal) == (16, 4)
