"""What every test stands on: no network, few threads, and one tiny model directory for the session."""

from __future__ import annotations

import os

# Before torch, diffusers or gradio are imported anywhere: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Gradio takes the first free port from here on, and two workers that look at once would find the same one.
os.environ["GRADIO_SERVER_PORT"] = str(7860 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))

import gc
import ipaddress
import json
import shutil
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUNDLED_RUN = ROOT / "assets" / "runs" / "live"
BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome")


def bundled_step() -> int:
    """The step that the bundled world recommends."""
    recommended = json.loads((ROOT / "assets" / "nano" / "metadata.json").read_text())["defaults"]["live_checkpoint"]
    return int(recommended.rpartition("-")[2])


def find_chromium() -> str | None:
    """The system's Chromium; WANACT_CHROMIUM names another one."""
    named = os.environ.get("WANACT_CHROMIUM")
    return named or next((path for path in map(shutil.which, BROWSER_NAMES) if path), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="attack the page for an hour (tests/attack)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    browser_tests = [item for item in items if item.get_closest_marker("browser")]
    for item in browser_tests:  # a page in a browser has its own time: it is said of a test that needed two tries
        item.add_marker(pytest.mark.flaky(reruns=1))
    if not browser_tests or find_chromium():
        return
    if os.environ.get("WANACT_REQUIRE_BROWSER"):
        raise pytest.UsageError("WANACT_REQUIRE_BROWSER is set, but no chromium is installed")
    for item in browser_tests:
        item.add_marker(pytest.mark.skip(reason="no chromium; install Debian's chromium or set WANACT_CHROMIUM"))


def pytest_collection_finish() -> None:
    """Set aside the half million objects that imports have made: every training begins with a `gc.collect`, which would
    walk through all of them, and in a forked process copy the memory that they lie in."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Where Chromium is, for playwright's `executable_path`."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium; install Debian's chromium or set WANACT_CHROMIUM")
    return path


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Let tests reach this machine only: a library that phones out fails its test at once."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise ConnectionRefusedError(f"tests have no network, but something connected to {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Let the disk write in its own time: what a test writes need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def _is_local(host: str) -> bool:
    if host in ("", "localhost", "0.0.0.0"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model directory in the diffusers layout: 64x96, 17 frames. Shared: copy it before changing it."""
    from tests.tiny_model import save_model_dir  # diffusers takes seconds to import, and most tests need none

    return save_model_dir(tmp_path_factory.mktemp("model") / "tiny")
