"""Many visitors at once and abandoned flights, on a server of their own; `python -m tests.ui.crowd` does it with 50."""

from __future__ import annotations

from tests.flying.test_stream import write_causal_run
from tests.ui.conftest import write_run
from tests.ui.crowd import App, visit


def test_a_crowd_is_served_or_told_and_leaves_nothing(tiny_model_dir, picture, tmp_path):
    write_run(tmp_path / "runs" / "drone", steps=(7,))
    write_causal_run(tmp_path / "runs" / "live")
    app = App(tmp_path, "--model_dir", str(tiny_model_dir), "--runs", str(tmp_path / "runs"))
    try:
        app.wait_until_it_answers()
        report = visit(app, picture, num_visitors=24, num_abandoned=9)
    finally:
        app.close()
    assert not report.problems(), report.log[-4000:]
    assert report.served["clip"] and report.served["flight"] and report.served["small"] == 6
