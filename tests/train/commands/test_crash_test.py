"""Killed twenty times, also inside a save and a prune, a run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_twenty_kills_lose_no_step(tmp_path):
    report = tmp_path / "crash.json"
    command = [sys.executable, "-m", "train", "crash_test", "--kills", "20", "--json", str(report)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--work_dir", str(tmp_path / "runs")],
        cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    assert figures["kills"] == 20 and figures["kills_inside_save"] > 0
    assert figures["lost_steps"] == 0 and figures["weights_equal"] is True
    assert figures["failed_loads"] == 0 and figures["missing_log_lines"] == 0
