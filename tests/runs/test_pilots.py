"""Pilots among the runs: told apart from models, kept small, and their figures read without trust."""

from __future__ import annotations

import json

import pytest

from tests.pilots import write_evaluation, write_pilot
from wanact.files import CheckpointError
from wanact.runs import store
from wanact.runs.evaluations import MAX_FILM_BYTES, MODEL, SIMULATOR, film_file, read_evaluation, read_film
from wanact.runs.index import RunIndex
from wanact.runs.log import OF_PILOTS, read_curve
from wanact.runs.publish import publish


def test_a_pilot_is_sound_and_nothing_is_drawn_with_it(tmp_path):
    write_pilot(tmp_path / "pilot")
    (run,) = RunIndex([tmp_path]).runs()
    assert run.is_pilot and [entry.step for entry in run.entries] == [100, 200]
    assert all(entry.is_pilot and entry.is_sound and not entry.flyable for entry in run.entries)
    assert [entry.is_best for entry in run.entries] == [False, True]


def test_a_flipped_bit_in_a_pilot_is_found(tmp_path):
    run = write_pilot(tmp_path / "pilot", (100,))
    index = RunIndex([tmp_path])
    (entry,) = index.entries()
    assert index.verify(entry).state == "verified"
    weights = run / "checkpoints" / "step-000000100" / "pilot.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 64
    weights.write_bytes(content)
    fresh = RunIndex([tmp_path])
    assert fresh.verify(fresh.entries()[0]).state == "damaged"


def test_what_is_published_of_a_pilot_flies_and_is_small(tmp_path):
    run = write_pilot(tmp_path / "pilot")
    write_evaluation(run, 200, film=True)
    (written,) = publish(run, tmp_path / "out" / "pilot", [200])
    names = {file.name for file in written.iterdir()}
    assert names == {"pilot.safetensors", "pilot.json", "normalizer.safetensors", store.METADATA}
    store.verify(written)
    (entry,) = RunIndex([tmp_path / "out"]).entries()
    assert entry.is_pilot and entry.is_sound and entry.metadata["success"] == 0.5
    assert read_evaluation(entry.run_dir, SIMULATOR, 200) == read_evaluation(run, SIMULATOR, 200) is not None
    assert read_film(entry.run_dir, SIMULATOR, 200) == read_film(run, SIMULATOR, 200) is not None
    assert read_curve(entry.run_dir, OF_PILOTS)["success"][-1] == 0.5


def test_a_pilots_curve_is_its_success_and_return(tmp_path):
    curve = read_curve(write_pilot(tmp_path / "pilot"), OF_PILOTS)
    assert curve["step"] == [10 * n for n in range(1, 21)] and curve["return"][3] == 0 and curve["success"][19] == 0.5
    assert set(read_curve(tmp_path / "pilot")) == {"step", "loss", "learning_rate"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e["tasks"]["gates"]["trained"].update(success=1.5), "success is 1.5, expected a number from 0 to 1"),
        (lambda e: e["tasks"]["gates"]["trained"].update(success="all"), "success"),
        (lambda e: e["tasks"]["gates"]["trained"].pop("return"), "return” is missing"),
        (lambda e: e.update(episodes=0), "episodes is 0"),
        (lambda e: e.update(tasks=[]), "tasks"),
    ],
)
def test_damaged_figures_are_refused_by_name(tmp_path, change, says):
    run = write_pilot(tmp_path / "pilot", (100,))
    path = write_evaluation(run, 100)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"evaluation-sim-100.json is damaged.*{says}"):
        read_evaluation(run, SIMULATOR, 100)


def test_where_nothing_was_measured_there_are_no_figures(tmp_path):
    run = write_pilot(tmp_path / "pilot", (100,))
    assert read_evaluation(run, SIMULATOR, 100) is None and read_evaluation(run, SIMULATOR, None) is None
    (run / "evaluation-sim-100.json").symlink_to(write_evaluation(write_pilot(tmp_path / "other", (100,)), 100))
    assert read_evaluation(run, SIMULATOR, 100) is None, "a link leads anywhere"


def test_what_is_no_film_or_too_large_or_a_link_is_not_shown(tmp_path):
    run = write_pilot(tmp_path / "pilot", (100,))
    write_evaluation(run, 100, film=True)
    film = film_file(run, SIMULATOR, 100)
    assert read_film(run, SIMULATOR, 100) == film.read_bytes() and read_film(run, SIMULATOR, None) is None
    film_file(run, MODEL, 100).symlink_to(film)
    assert read_film(run, MODEL, 100) is None
    for content in (b"<html>", film.read_bytes() + bytes(MAX_FILM_BYTES)):
        film.write_bytes(content)
        assert read_film(run, SIMULATOR, 100) is None
