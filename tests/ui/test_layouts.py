"""The page does not know in which layout its model lies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wanact.actions import channel_track
from wanact.commands.convert import convert_dir
from wanact.flying.pipeline import WanActPipeline
from wanact.ui.engine import Engine, Flight


def as_seen(model_dir: Path, runs_root: Path) -> dict:
    engine = Engine(WanActPipeline.from_model_dir(model_dir), runs_root)
    checkpoint = engine.find(engine.default_checkpoint())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    flight = Flight(
        "a lake", image, channel_track("forward", 4), "", 64, 96, None, 2, 3.0, seed=3, checkpoint=checkpoint
    )
    *events, frames = engine.fly(flight)
    return {
        "name": engine.name,
        "defaults": engine.defaults,
        "checkpoints": [choice.label for choice in engine.checkpoints()[0]],
        "events": {type(event).__name__ for event in events} - {"Waiting"},
        "frames": frames,
    }


@pytest.mark.parametrize("layout", ["original", "manifest"])
def test_the_page_behaves_the_same_on_every_layout(tiny_model_dir, runs_root, tmp_path, layout):
    expected = as_seen(tiny_model_dir, runs_root)
    seen = as_seen(convert_dir(tiny_model_dir, tmp_path / layout, layout), runs_root)
    assert np.array_equal(seen.pop("frames"), expected.pop("frames"))
    assert seen == expected
