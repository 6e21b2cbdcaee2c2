"""Killed twenty times, also inside a save and a prune, a run ends as if nothing had happened."""

from __future__ import annotations

import json
import os

from tests.train.conftest import CONTROLLER
from tests.train.processes import start, wait

BOTH = ("--trainable_models", "transformer,action_controller", "--action_controller_config", CONTROLLER)


def test_twenty_kills_lose_no_step(tmp_path):
    from train.__main__ import main

    report, log = tmp_path / "crash.json", tmp_path / "log.txt"
    argv = ["crash_test", "--kills", "20", "--json", str(report), "--work_dir", str(tmp_path / "runs")]
    assert wait(start(lambda: os._exit(main(argv)), log), 600) == 0, log.read_text()
    figures = json.loads(report.read_text())
    assert figures["kills"] == 20 and figures["kills_inside_save"] > 0
    assert figures["lost_steps"] == 0 and figures["weights_equal"] is True
    assert figures["failed_loads"] == 0 and figures["missing_log_lines"] == 0


def test_kills_lose_no_step_of_a_critic_either(run, arguments, tmp_path):
    """Three networks, two optimizers and an average, trained by distribution matching."""
    from train.__main__ import main

    run("action", tmp_path / "whole", "--trainable_models", "action_controller,transformer", "--max_steps", "1")
    run("vidarc", tmp_path / "student", *BOTH, "--max_steps", "1")
    flags = [
        *BOTH,
        *("--distribution_matching", "true", "--generator_every", "2", "--flight_steps", "2", "--ema_decay", "0.5"),
        *("--init_from", str(tmp_path / "student"), "--real_run", str(tmp_path / "whole"), "--num_frames", "5"),
    ]
    report = tmp_path / "crash.json"
    own = ["--kills", "4", "--steps", "8", "--json", str(report), "--work_dir", str(tmp_path / "runs")]
    argv = ["crash_test", *own, "vidarc", *arguments("vidarc", tmp_path / "unused", *flags)]
    log = tmp_path / "log.txt"
    wait(start(lambda: main(argv) and None, log), 600)
    figures = json.loads(report.read_text()) if report.exists() else log.read_text()
    assert figures["kills"] >= 4 and figures["lost_steps"] == 0 and figures["weights_equal"] is True, figures
    assert figures["failed_loads"] == 0 and figures["missing_log_lines"] == 0
