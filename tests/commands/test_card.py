"""The command line: which steps it measures, what it keeps, and what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.flying.test_stream import write_causal_run
from wanact.__main__ import main
from wanact.commands.card import chosen
from wanact.control_card.card import ControlCard, card_path, keep_card, load_card, load_cards, read_card, save_card
from wanact.control_card.fly import measure_card
from wanact.control_card.probes import fixed_first_frames
from wanact.files import CheckpointError
from wanact.flying.pipeline import WanActPipeline
from wanact.runs import store
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import write_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = write_causal_run(tmp_path_factory.mktemp("runs") / "drone")
    for step in (10, 20):

        def write(hidden: Path) -> None:
            shutil.copy(folder / store.CONTROLLER, hidden)
            shutil.copy(folder / RUN_CONFIG, hidden)

        write_checkpoint(folder, step, write, {"loss": float(step)})
    return folder


@pytest.fixture(scope="module")
def base_card(tiny_model_dir) -> ControlCard:
    """Of the base, which takes no actions: two clips."""
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    return measure_card(pipe, fixed_first_frames(1), dose_frames=0, num_frames=5, num_inference_steps=1)


def test_a_run_is_all_its_steps_and_a_name_behind_it_one_of_them(run):
    assert [step for _, step in chosen(str(run))[1]] == [10, 20]
    assert [step for _, step in chosen(f"{run}@20")[1]] == [step for _, step in chosen(f"{run}@latest")[1]] == [20]
    assert [step for _, step in chosen(f"{run}@best")[1]] == [10]
    folder, found = chosen(str(run / "checkpoints" / "step-000000010"))
    assert folder == run.resolve() and found[0][1] == 10
    with pytest.raises(CheckpointError, match="no sound checkpoint '7'; its steps are 10, 20"):
        chosen(f"{run}@7")


def test_cards_are_kept_drawn_and_not_measured_twice(run, base_card, tiny_model_dir, tmp_path, capsys):
    out, settings = tmp_path / "out", base_card.settings | {"num_inference_steps": 1}
    for step in (10, 20):  # as if they had been measured: what is there is not flown again
        card = ControlCard({"run": "drone", "step": step}, base_card.model, settings, base_card.measures)
        save_card(card, out / "drone" / card_path(run, step).name)
    arguments = [str(run), "--model_dir", str(tiny_model_dir), "--first_frames", "1", "--dose_frames", "0", "--base"]
    arguments += ["--num_frames", "5", "--steps", "1", "--out", str(out), "--json", str(tmp_path / "all.json")]
    assert main(["card", *arguments]) == 0
    written = {path.name for path in (out / "drone").iterdir()}
    names = {"base", "step-000000010", "step-000000020"}
    assert written == {f"{name}{end}" for name in names for end in (".json", ".png")} | {"curves.png"}
    assert Image.open(out / "drone" / "base.png").width == 2320
    cards = json.loads((tmp_path / "all.json").read_text())["cards"]
    assert [card["checkpoint"]["step"] for card in cards] == [None, 10, 20]
    assert {"sign_accuracy", "dose_response", "cross_talk", "lag", "null_drift", "separation"} <= set(cards[0])
    assert cards[0]["sign_accuracy"]["mean"] <= 0.5 and cards[0]["separation"]["mean"] == 0
    assert "drone, step 20" in capsys.readouterr().out
    assert load_cards(run) == [] and load_card(run, 10) is None, "nothing beside the run, since --out was given"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["--validate", "--dose_frames", "0"], "needs --dose_frames of at least 1"),
        (["{run}", "--first_frames", "99"], "first_frames=99 must be 1 to 12"),
        (["{run}@5"], "no sound checkpoint '5'"),
    ],
)
def test_mistakes_get_one_sentence(run, tiny_model_dir, capsys, arguments, says):
    words = [word.replace("{run}", str(run)) for word in arguments]
    assert main(["card", *words, "--model_dir", str(tiny_model_dir)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error


def test_something_must_be_asked_for(capsys):
    assert main(["card"]) == 2 and "--validate" in capsys.readouterr().err


def test_a_lesser_card_does_not_replace_a_fuller_one(base_card, tmp_path):
    def card(first_frames, doses, fingerprint="a", frames=21):
        settings = {"first_frames": first_frames, "dose_frames": doses, "num_frames": frames}
        return ControlCard({"run": "drone", "step": 10}, {"fingerprint": fingerprint}, settings, base_card.measures)

    path = tmp_path / "card.json"
    assert keep_card(card(2, 1), path) and keep_card(card(6, 2), path)
    for lesser in (card(2, 1), card(6, 1), card(6, 2, frames=5)):
        assert not keep_card(lesser, path)
    assert read_card(path).settings["first_frames"] == 6
    assert keep_card(card(6, 2), path), "as full: measured anew"
    assert keep_card(card(12, 1), path), "more of one and less of the other is another card"
    assert not keep_card(card(1, 0, fingerprint="b"), path), "a quick one never stands for a full one"
    assert keep_card(card(6, 2, fingerprint="b"), path), "of another model it says nothing"


def test_a_quick_look_takes_the_fuller_card_that_is_there(run, base_card, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("wanact.commands.card._measure_one", lambda *_: pytest.fail("a fuller one is there"))
    settings = {"first_frames": 6, "dose_frames": 2, "num_frames": 21}
    card = ControlCard({"run": "drone", "step": 10}, base_card.model, settings, base_card.measures)
    path = save_card(card, tmp_path / "drone" / card_path(run, 10).name)
    content = path.read_bytes()
    arguments = [f"{run}@10", "--model_dir", str(tiny_model_dir), "--num_frames", "21", "--out", str(tmp_path)]
    assert main(["card", *arguments, "--quick"]) == 0
    assert path.read_bytes() == content
