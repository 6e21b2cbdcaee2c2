"""A desk on the tiny model, with a run to fly, and one server for all tests that need a page."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import BUNDLED_RUN, bundled_step
from tests.ui.visits import serving
from wanact.actions import channel_track
from wanact.bench.live_browser import ARGUMENTS
from wanact.control_card.card import card_path, load_card, save_card
from wanact.flying.pipeline import WanActPipeline
from wanact.models.controller import WanActionController
from wanact.runs.store import write_checkpoint
from wanact.ui.engine import Engine
from wanact.ui.pages.fly.desk import FlyDesk

SCALE = [100.0] * 4 + [1.0] * 4


@pytest.fixture(scope="module")
def browser(chromium_path):
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # as pages wait: a busy machine takes seconds to show what it was told
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=ARGUMENTS)
        yield browser
        browser.close()


SETTINGS = {
    "hidden_size": 48,
    "num_heads": 2,
    "num_layers": 2,
    "initial_scale": 1.0,
    "injection_type": "adaln_tmod",
}


def write_run(path: Path, steps: tuple[int, ...] = (200, 400), **metadata) -> Path:
    """A run of the tiny model with a checkpoint a step; the higher the step, the lower the loss."""
    path.mkdir(parents=True)
    config = {"action_controller_config": SETTINGS, "action_magnitude_scale": SCALE}
    (path / "action_train_config.json").write_text(json.dumps(config))
    for step in steps:
        add_step(path, step, **metadata)
    return path


def add_step(run: Path, step: int, **metadata) -> None:
    """One more checkpoint of a run, as a training writes it."""
    torch.manual_seed(step)
    weights = WanActionController(**SETTINGS).state_dict()
    write_checkpoint(
        run,
        step,
        lambda folder: save_file(weights, folder / "action_controller.safetensors"),
        {"loss": 10 / step} | metadata,
    )


def write_card(run: Path, step: int, control: float = 1.0, first_frames: int = 6) -> None:
    """A control card beside a checkpoint: a bundled one, with this control of all its channels."""
    card = load_card(BUNDLED_RUN, bundled_step())
    assert card is not None
    named = dict.fromkeys(card.measures["sign_accuracy"]["by_channel"], control)
    accuracy = {"mean": control, "min": control / 2, "by_channel": named}
    card = replace(
        card,
        checkpoint={"run": run.name, "step": step},
        settings=card.settings | {"first_frames": first_frames},
        measures=card.measures | {"sign_accuracy": accuracy},
    )
    save_card(card, card_path(run, step))


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory) -> Path:
    """Shared: tests that change runs write their own."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "drone")
    return root


@pytest.fixture(scope="session")
def pipe(tiny_model_dir) -> WanActPipeline:
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    pipe.defaults["fps"] = 4  # a step takes a second, so that a busy machine can record held keys
    return pipe


@pytest.fixture(scope="session")
def engine(pipe, runs_root) -> Engine:
    return Engine(pipe, runs_root)


@pytest.fixture(scope="session")
def desk(engine) -> FlyDesk:
    return FlyDesk(engine)


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """A photograph-like picture, larger than a clip and of another shape."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((320, 240)))
    path = tmp_path_factory.mktemp("pictures") / "hills.jpg"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def request_fields(picture, engine) -> dict:
    """What the page sends when everything is in order."""
    return {
        "first_frame": str(picture),
        "prompt": "a lake at noon",
        "plan": channel_track("forward", engine.num_actions).to_list(),
        "checkpoint": "drone/step-000000400",
        "seed": 3,
        "size": "64 × 32",
    }


@pytest.fixture(scope="session")
def page_url(engine) -> Iterator[str]:
    """Address of the page, served by this process."""
    from wanact.ui.page import build_page

    with serving(build_page(engine)) as url:
        yield url


@pytest.fixture
def own_temp(tmp_path, monkeypatch) -> Path:
    """Temporary files of this test alone."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
