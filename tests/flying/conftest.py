"""What flights with a lapped autoencoder begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny_model
from wanact.flying.draft import Drafter, DraftSettings
from wanact.models.lapped import AutoencoderLapped
from wanact.models.nearness import NearnessConfig, NearnessNetwork
from wanact.weights import model_dir


@pytest.fixture(scope="session")
def lapped_dir(tmp_path_factory) -> Path:
    """The tiny model directory with a lapped autoencoder and a network of nearness. Shared: copy it to change it."""
    path = tiny_model.save_model_dir(tmp_path_factory.mktemp("lapped") / "model")
    components = model_dir.load_components(path)
    components.vae = AutoencoderLapped(width=8, depth=1)
    components.nearness = NearnessNetwork(NearnessConfig((4, 8)))
    return model_dir.save_components(components, path)


@pytest.fixture(scope="module")
def drafter() -> Drafter:
    """Of a lapped autoencoder; nobody sees how near things are."""
    return Drafter(AutoencoderLapped(width=8, depth=1).eval(), DraftSettings(), [100.0] * 4 + [1.0] * 4)


@pytest.fixture
def ramp() -> Image.Image:
    """A smooth picture, which such an autoencoder keeps without any training."""
    ramp = np.linspace(40, 200, 96)[None, :, None] + np.linspace(0, 40, 64)[:, None, None]
    return Image.fromarray(np.repeat(ramp, 3, axis=2).astype(np.uint8))
