import json
import os

import pytest

from wanact.runs.log import MAX_POINTS, read_curve
from wanact.runs.notes import MAX_NOTE_CHARACTERS, NOTES, NoteError, read_notes, write_note

STEP = "step-000000552"


def test_notes_and_stars_are_kept_with_the_run_until_both_are_gone(tmp_path):
    write_note(tmp_path, STEP, True, " turns well ")
    write_note(tmp_path, "step-000000001", False, "blurred")
    assert read_notes(tmp_path) == {
        STEP: {"star": True, "note": "turns well"},
        "step-000000001": {"star": False, "note": "blurred"},
    }
    write_note(tmp_path, STEP, False, "")
    assert list(read_notes(tmp_path)) == ["step-000000001"]
    assert [file.name for file in tmp_path.iterdir()] == [NOTES], "nothing else is left behind"


def test_a_note_that_cannot_be_kept_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch):
    write_note(tmp_path, STEP, True, "kept")
    with pytest.raises(NoteError, match="2,001 characters"):
        write_note(tmp_path, STEP, True, "x" * (MAX_NOTE_CHARACTERS + 1))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(NoteError, match="cannot be written"):
        write_note(tmp_path, STEP, False, "lost")
    assert read_notes(tmp_path)[STEP]["note"] == "kept"


@pytest.mark.parametrize("content", ["[]", "{", '{"checkpoints": 3}', '{"checkpoints": {"a": []}}', "[" * 100_000])
def test_a_damaged_notes_file_counts_as_none(tmp_path, content):
    (tmp_path / NOTES).write_text(content)
    assert read_notes(tmp_path) == {}


def test_a_notes_file_that_is_a_link_is_not_read_and_is_replaced_by_a_file(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"checkpoints": {STEP: {"note": "secret"}}}))
    run = tmp_path / "run"
    run.mkdir()
    (run / NOTES).symlink_to(secret)
    assert read_notes(run) == {}
    write_note(run, STEP, False, "mine")
    assert read_notes(run)[STEP]["note"] == "mine" and "secret" in secret.read_text()


def test_curves_are_those_of_the_log_and_long_ones_are_averaged(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "learning_rate": 1e-3} for step in range(1, 3001)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3001, "lo')
    curve = read_curve(tmp_path)
    assert 100 < len(curve["step"]) <= MAX_POINTS and curve["step"] == sorted(curve["step"])
    assert sum(curve["loss"]) / len(curve["loss"]) == pytest.approx(sum(1 / s for s in range(1, 3001)) / 3000, rel=0.01)


def test_a_run_that_went_back_shows_its_newer_branch(tmp_path):
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": "bad"}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_curve(tmp_path) == {"step": [1, 2, 3], "loss": [3.0, 2.0, None], "learning_rate": [None] * 3}


def test_a_log_that_leads_elsewhere_or_is_no_log_gives_no_curve(tmp_path):
    empty = {"step": [], "loss": [], "learning_rate": []}
    (tmp_path / "secret").write_text('{"step": 1, "loss": 1}')
    run = tmp_path / "run"
    run.mkdir()
    assert read_curve(run) == empty
    (run / "log.jsonl").symlink_to(tmp_path / "secret")
    assert read_curve(run) == empty
    (run / "log.jsonl").unlink()
    (run / "log.jsonl").write_bytes(b"\x00" * 10_000 + b'\n[1]\n{"step": -1}\n' + b"[" * 50_000)
    assert read_curve(run) == empty
