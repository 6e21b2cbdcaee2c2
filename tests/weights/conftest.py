"""The tiny model directory in the other layouts, in several shards; shared: copy one before changing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanact.commands.convert import convert_dir


@pytest.fixture(scope="session")
def original(tiny_model_dir, tmp_path_factory) -> Path:
    return convert_dir(tiny_model_dir, tmp_path_factory.mktemp("o") / "original", "original", max_shard_bytes=80_000)


@pytest.fixture(scope="session")
def manifest(tiny_model_dir, tmp_path_factory) -> Path:
    return convert_dir(tiny_model_dir, tmp_path_factory.mktemp("m") / "manifest", "manifest", max_shard_bytes=80_000)
