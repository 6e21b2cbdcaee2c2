import json
from types import SimpleNamespace

import pytest

from tests.ui.conftest import write_card, write_run
from wanact.runs import store
from wanact.runs.notes import read_notes
from wanact.ui.edits import Edits
from wanact.ui.engine import Engine
from wanact.ui.pages.checkpoints.desk import Shelf


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path / "drone")
    return tmp_path


@pytest.fixture
def shelf(pipe, root) -> Shelf:
    return Shelf(Engine(pipe, root, edits=Edits.new()))


def call(shelf, name, message, token=None):
    """As the page's script does, through the function that answers it."""
    request = SimpleNamespace(cookies={shelf.engine.edits.cookie: token} if token else {})
    return next(one for one in shelf.server_functions() if one.__name__ == name)(message, request)


def test_the_list_is_sent_once_and_again_when_something_is_new(shelf, root, monkeypatch):
    monkeypatch.setattr("wanact.ui.pages.checkpoints.desk._LISTING_LASTS_S", 1e9)
    first = call(shelf, "list_shelf", {})
    assert first["columns"]["step"] == [200, 400] and first["columns"]["best"] == first["columns"]["latest"] == [1]
    assert call(shelf, "list_shelf", {"version": first["version"]}) == {"same": True}
    write_run(root / "late", steps=(5,))
    shelf.forget_listing()
    again = call(shelf, "list_shelf", {"version": first["version"]})
    assert [run["name"] for run in again["runs"]] == ["drone", "late"]
    json.dumps(again, allow_nan=False)


def test_the_list_has_what_the_cards_say(shelf, root):
    columns = call(shelf, "list_shelf", {})["columns"]
    assert columns["cards"] == {} and columns["by"] == {"1": "loss"}
    write_card(root / "drone", 200, control=0.75, first_frames=2)
    shelf.forget_listing()
    listing = call(shelf, "list_shelf", {})
    assert listing["columns"]["best"] == [0] and listing["columns"]["by"] == {"0": "control"}
    card = listing["columns"]["cards"]["0"]
    assert (card["control"], card["worst"], card["of"], card["quick"]) == (0.75, 0.375, "16 runs of 21 frames", True)
    assert 0 < card["gain"] < 2 and 0 < card["sharpness"] < 2
    json.dumps(listing, allow_nan=False)


def test_metadata_and_settings_are_shown_and_compared(shelf):
    a, b = "drone/step-000000200", "drone/step-000000400"
    shown = call(shelf, "show_checkpoint", {"id": a})
    assert shown["injection"] == "adaln_tmod" and shown["metadata"]["step"] == 200 and not shown["live"]
    assert [file["name"] for file in shown["files"]] == [store.CONTROLLER]
    differ = call(shelf, "compare_settings", {"a": a, "b": b})
    assert {row[0] for row in differ["rows"]} >= {"checkpoint.loss", "checkpoint.step"} and differ["equal"] > 5
    assert call(shelf, "compare_settings", {"a": a, "b": a})["rows"] == []


@pytest.mark.parametrize("name", [f.__name__ for f in Shelf.server_functions(Shelf.__new__(Shelf))])
@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "x",
        3,
        {},
        {"id": "../../etc/passwd"},
        {"id": {"a": 1}},
        {"runs": [{}] * 99, "ids": 3, "a": [], "b": 1},
    ],
)
def test_no_message_of_a_visitor_breaks_anything(shelf, name, message):
    answer = call(shelf, name, message)
    assert isinstance(answer, dict)
    if "problem" in answer:
        assert "Something went wrong" not in answer["problem"] and answer["problem"].endswith(".")


def test_notes_go_into_the_run_with_the_owners_token_alone(pipe, root, shelf):
    token = shelf.engine.edits.address("").partition("=")[2]
    message = {"id": "drone/step-000000200", "star": True, "note": "good"}
    assert call(shelf, "keep_note", message, token) == {"kept": True}
    assert call(shelf, "list_shelf", {}, token)["notes_with_runs"]
    public = Shelf(Engine(pipe, root))
    for stranger, guess in ((shelf, None), (shelf, token[:-1]), (shelf, ""), (public, None), (public, token)):
        assert "stay in your browser" in call(stranger, "keep_note", message | {"note": "bad"}, guess)["problem"]
        assert not call(stranger, "list_shelf", {}, guess)["notes_with_runs"]
    assert read_notes(root / "drone")["step-000000200"]["note"] == "good"
    assert "characters" in call(shelf, "keep_note", message | {"note": "x" * 9_999}, token)["problem"]


def test_where_things_lay_is_not_said(pipe, tmp_path):
    """Configurations and metadata hold paths of the machine that a run was trained on."""
    summary = {"data": "/home/somebody/my data/clips.csv", "note": "resumed from /mnt/disk/a/run: it went on"}
    run = write_run(tmp_path / "drone", steps=(5,), config_summary=summary)
    config = json.loads((run / "action_train_config.json").read_text())
    config["base_model"] = "/mnt/models/Wan2.2-TI2V-5B"
    (run / "action_train_config.json").write_text(json.dumps(config))
    shelf, a = Shelf(Engine(pipe, tmp_path)), "drone/step-000000005"
    shown = call(shelf, "show_checkpoint", {"id": a})
    rows = call(shelf, "compare_settings", {"a": a, "b": a})
    said = json.dumps([shown, rows, call(shelf, "list_shelf", {})])
    assert "/home" not in said and "/mnt" not in said
    assert shown["base"] == "Wan2.2-TI2V-5B" and shown["metadata"]["config_summary"]["data"] == "clips.csv"


def test_metadata_too_large_or_without_words_in_json_is_shown_in_bounds(pipe, tmp_path):
    notes = ["x" * 1_000] * 300
    write_run(tmp_path / "wide", steps=(5,), config_summary={"notes": notes, "rate": float("nan")})
    answer = call(Shelf(Engine(pipe, tmp_path)), "show_checkpoint", {"id": "wide/step-000000005"})
    assert "too many to show" in str(answer["metadata"])
    json.dumps(answer, allow_nan=False)


def test_a_damaged_checkpoint_is_found_by_the_background_and_said(pipe, tmp_path):
    run = write_run(tmp_path / "drone", steps=(5,))
    weights = run / "checkpoints" / "step-000000005" / store.CONTROLLER
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x40")
    shelf = Shelf(Engine(pipe, tmp_path))
    call(shelf, "list_shelf", {})
    shelf.engine.index._verifier.join(60)
    shelf.forget_listing()
    listing = call(shelf, "list_shelf", {})
    assert listing["damaged"] == 1 and "checksum" in listing["columns"]["problems"]["0"]
    assert str(tmp_path) not in json.dumps(listing)
