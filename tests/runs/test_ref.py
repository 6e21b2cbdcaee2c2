import re
from pathlib import Path

import pytest

from tests.test_floors import source_files
from wanact.files import CheckpointError, write_json
from wanact.runs import store
from wanact.runs.ref import BASE_MODEL, RUN_CONFIG, CheckpointRef, checkpoint_id, folder_of, run_of, split_name


def test_an_id_leads_back_to_its_folder(tmp_path):
    for folder in (tmp_path / "drone" / "checkpoints" / "step-000000552", tmp_path / "hover"):
        assert run_of(folder).parent == tmp_path
        assert folder_of(tmp_path, checkpoint_id(folder)) == folder
    assert checkpoint_id(tmp_path / "hover") == "hover/exported"
    assert checkpoint_id(tmp_path / "drone" / "checkpoints" / "step-000000552", "drone~2") == "drone~2/step-000000552"


def test_a_folder_may_have_the_sign_of_a_step_in_its_name(tmp_path):
    assert split_name("runs/drone@552") == (Path("runs/drone"), "552")
    assert split_name("runs/drone") == (Path("runs/drone"), None)
    for text in ("runs/drone@", "runs/drone@ "):
        with pytest.raises(CheckpointError, match="names no checkpoint behind the @; give runs/drone@STEP"):
            split_name(text)
    (tmp_path / "a@b").mkdir()
    assert split_name(str(tmp_path / "a@b")) == (tmp_path / "a@b", None)
    assert split_name(f"{tmp_path / 'a@b'}@best") == (tmp_path / "a@b", "best")


def test_what_people_read_of_a_checkpoint(tmp_path):
    run = tmp_path / "drone"
    path = store.write_checkpoint(run, 1552, lambda folder: None, {"loss": 0.5})
    ref = store.ref_of(path)
    assert ref == CheckpointRef("drone/step-000001552", "drone", 1552, path)
    assert (ref.name, ref.label, ref.run_dir) == ("step-000001552", "drone · step 1,552", run)
    assert store.ref_of(run) == CheckpointRef("drone/exported", "drone", None, run)
    assert (BASE_MODEL.label, BASE_MODEL.config) == ("base (no actions)", {})
    (info,) = store.list_checkpoints(run)
    assert [which for which in ("1552", "best", "latest", "all", "") if info.is_named(which)] == [
        "1552",
        "best",
        "latest",
    ]


def test_a_checkpoint_flies_with_its_own_configuration_or_its_runs(tmp_path):
    run = tmp_path / "drone"
    path = store.write_checkpoint(run, 5, lambda folder: None, {})
    ref = store.ref_of(path)
    assert ref.config == {}
    write_json(run / RUN_CONFIG, {"of": "the run"})
    assert ref.config == {"of": "the run"}
    write_json(path / RUN_CONFIG, {"of": "the step"})
    assert ref.config == {"of": "the step"}
    write_json(tmp_path / "secret.json", {"of": "somebody else"})
    (path / RUN_CONFIG).unlink()
    (path / RUN_CONFIG).symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="link out of its run"):
        _ = ref.config


def test_only_one_module_knows_where_a_checkpoint_lies_in_its_run():
    taken_apart = re.compile(r"\.parent\.parent|\.parent\.name == |rpartition\(\"@\"\)")
    assert [file.name for file in source_files() if taken_apart.search(file.read_text())] == ["ref.py"]
