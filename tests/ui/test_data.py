"""The Data page's handlers: what they tell of a data set, to whom marks are open, and what is served beside."""

from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.data.conftest import write_table
from tests.data.test_sets import FRAMES, pictures, track
from wanact.data import marks, tables
from wanact.data.sets import DataSet
from wanact.flying.record import FlightRecord
from wanact.media.video import write_mp4
from wanact.ui.engine import Engine
from wanact.ui.page import build_page
from wanact.ui.pages.data import desk as data_desk
from wanact.ui.pages.data.desk import DataDesk, DataMessage


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory):
    """Four clips whose picture turns to the right while the table says left, and a row that names none."""
    folder = tmp_path_factory.mktemp("footage") / "lakes"
    folder.mkdir()
    rows = []
    for number in range(4):
        write_mp4(pictures(number), folder / f"clip{number}.mp4", fps=16, lossless=True)
        axis = track(0, 0.04) if number == 3 else track(2, -9.0)
        rows.append({"video": f"clip{number}.mp4", "prompt": f"lake {number}", "action": axis.to_json()})
    rows.append({"video": "gone.mp4", "prompt": "", "action": ""})
    write_table(folder / "clips.csv", rows)
    DataSet(folder).look()
    return folder


@pytest.fixture
def folder(looked_at, tmp_path):
    return shutil.copytree(looked_at, tmp_path / "lakes", copy_function=shutil.copy2)


@pytest.fixture
def desk(pipe, runs_root, folder):
    return DataDesk(Engine(pipe, runs_root), [DataSet(folder)], looks=False)


def test_a_set_is_told_column_by_column_and_names_no_folder(desk, folder):
    answer = desk.open_data(DataMessage())
    columns = answer["columns"]
    assert [len(column) for name, column in columns.items() if name != "prompts"] == [5] * 11
    assert answer["name"] == "lakes" and answer["looked"] == 5 and not answer["may_edit"]
    assert [verdict["name"] for verdict in answer["verdicts"]] == ["yaw-mirrored", "unreadable"]
    assert answer["verdicts"][1]["clips"] == [4]
    held = [list(base64.b64decode(one)) for one in columns["held"]]
    assert held[0] == [1 << 4] * 5 and held[3] == [1] * 5 and held[4] == []
    assert [columns["prompts"][i] for i in columns["prompt"]] == ["lake 0", "lake 1", "lake 2", "lake 3", ""]
    flags = {name for i, name in enumerate(answer["flags"]) if columns["flags"][4] >> i & 1}
    assert flags == {"unreadable", "unmoved", "wordless"}
    assert str(folder.parent) not in json.dumps(answer)
    assert desk.open_data(DataMessage(version=answer["version"])) == {"same": True, "looked": 5}


def test_a_clip_is_told_in_full_and_names_no_folder(desk, folder):
    ids = desk.open_data(DataMessage())["columns"]["id"]
    answer = desk.show_data_clip(DataMessage(id=ids[0]))
    assert answer["sheet"]["count"] == FRAMES and len(answer["axes"]) == len(answer["read"]) == 5
    assert np.array(answer["axes"])[:, 2].max() < 0 < np.array(answer["read"])[:, 2].min()
    assert len(answer["path"]) == len(answer["read_path"]) == 6
    gone = desk.show_data_clip(DataMessage(id=ids[4]))
    assert gone["problem"] and "sheet" not in gone
    assert str(folder.parent) not in json.dumps([answer, gone])


@pytest.mark.parametrize("message", [{"id": "../../etc/passwd"}, {"number": 7}, {"id": 3, "number": "x"}, None, []])
def test_whatever_is_asked_for_the_answer_is_a_sentence(desk, message):
    show = next(f for f in desk.server_functions() if f.__name__ == "show_data_clip")
    assert set(show(message)) == {"problem"}


def test_marks_are_for_who_runs_the_page(desk, folder):
    first = desk.open_data(DataMessage())["columns"]["id"][0]
    for function in desk.server_functions():
        if function.__name__ in ("mark_data_clip", "apply_verdict", "forget_fixes"):
            assert "terminal" in function({"id": first, "out": True, "name": "yaw-mirrored"})["problem"]
    assert not marks.of(folder / "clips.csv")


def test_marks_are_kept_and_told(desk, folder):
    before = (folder / "clips.csv").read_bytes()
    ids = desk.open_data(DataMessage())["columns"]["id"]
    desk.mark_data_clip(DataMessage(id=ids[3], out=True), may_edit=True)
    desk.mark_data_clip(DataMessage(id=ids[1], prompt="a bay", cuts=[0.5]), may_edit=True)
    desk.apply_verdict(DataMessage(name="yaw-mirrored"), may_edit=True)
    answer = desk.open_data(DataMessage())
    assert [verdict["name"] for verdict in answer["verdicts"]] == ["unreadable"]
    assert answer["columns"]["marked"] == [0, 6, 0, 1, 0] and answer["fixed"]
    kept = marks.of(folder / "clips.csv")
    assert kept.of_clip("clip3.mp4").out and kept.of_clip("clip1.mp4").prompt == "a bay"
    assert desk.show_data_clip(DataMessage(id=ids[0]))["axes"][0][2] == 9.0
    desk.mark_data_clip(DataMessage(id=ids[1], prompt="lake 1", cuts=[]), may_edit=True)
    assert not marks.of(folder / "clips.csv").of_clip("clip1.mp4"), "as the table has it is no mark"
    desk.forget_fixes(DataMessage(), may_edit=True)
    assert not marks.of(folder / "clips.csv").fix and (folder / "clips.csv").read_bytes() == before


def test_marks_of_another_program_are_seen(desk, folder):
    version = desk.open_data(DataMessage())["version"]
    marks.of(folder / "clips.csv").with_clip("clip0.mp4", out=True).save()
    assert desk.open_data(DataMessage(version=version))["columns"]["marked"][0] == 1


def test_a_clip_flies_on_the_pages_own_model(desk, engine):
    ids = desk.open_data(DataMessage())["columns"]["id"]
    plan = FlightRecord.parse(desk.fly_data_clip(DataMessage(id=ids[3], name="fly"))["flight"])
    assert plan.image.size == (engine.defaults["width"], engine.defaults["height"])
    plan.track.require_length(engine.defaults["num_frames"])
    np.testing.assert_allclose(plan.track.axes[0], [0.04, 0, 0, 0], atol=1e-6)
    beside = FlightRecord.parse(desk.fly_data_clip(DataMessage(id=ids[3], name="compare"))["flight"])
    filmed = desk.engine.filmed(beside)
    assert filmed.shape == (beside.num_frames, beside.image.height, beside.image.width, 3)
    np.testing.assert_array_equal(filmed[0], np.asarray(beside.image))
    other = beside.with_track(type(beside.track).zeros(len(beside.track)))
    assert desk.engine.filmed(other) is None, "another plan was not filmed"
    with pytest.raises(ValueError, match="no actions"):
        desk.fly_data_clip(DataMessage(id=ids[4]))


def test_pictures_are_served_by_number_and_id_and_nothing_else(desk):
    app = Starlette(routes=data_desk.routes())
    app.get_blocks = lambda: type("Page", (), {"data": desk})()
    client = TestClient(app)
    first = desk.open_data(DataMessage())["columns"]["id"][0]
    assert client.get(f"/data/0/{first}/thumb.jpg").headers["content-type"] == "image/jpeg"
    assert client.get(f"/data/0/{first}/sheet.jpg").status_code == 404, "nobody has opened it"
    desk.show_data_clip(DataMessage(id=first))
    assert client.get(f"/data/0/{first}/sheet.jpg").status_code == 200
    for address in (f"/data/1/{first}/thumb.jpg", "/data/0/clip0.mp4/thumb.jpg", f"/data/0/{first}/clips.csv"):
        assert client.get(address).status_code == 404


def test_the_tab_is_there_where_there_is_data(pipe, runs_root, folder):
    def tabs(**more):
        page = build_page(Engine(pipe, runs_root, **more))
        props = [component["props"] for component in page.get_config_file()["components"]]
        return [one["label"] for one in props if "tabs" not in one and one.get("label") and "id" in one]

    assert tabs()[-1] == "Compare"
    assert tabs(data=[DataSet(folder)])[-2:] == ["Compare", "Data"]


def test_what_was_read_is_not_read_again(desk, folder, monkeypatch):
    monkeypatch.setattr(tables, "read_records", lambda *_: pytest.fail("read twice"))
    again = DataDesk(desk.engine, [DataSet(folder)], looks=False)
    assert again.open_data(DataMessage()) == desk.open_data(DataMessage())
