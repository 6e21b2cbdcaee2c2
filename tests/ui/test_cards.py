"""Control cards on the page: what is shown of them, and what a quick one may do."""

from dataclasses import replace

import pytest

from tests.ui.conftest import write_card, write_run
from wanact.control_card.card import load_card
from wanact.ui.engine import Engine
from wanact.ui.pages.checkpoints import cards
from wanact.ui.pages.checkpoints.cards import CardDesk

STEP = "drone/step-000000200"


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "drone")


@pytest.fixture
def desk(pipe, run) -> CardDesk:
    return CardDesk(Engine(pipe, run.parent))


@pytest.fixture
def measured_quickly(run, monkeypatch):
    """Measuring takes no time and finds a control of one half."""

    def measure(_engine, choice):
        write_card(run.parent / "elsewhere", 7, control=0.5, first_frames=cards.QUICK_FRAMES)
        yield 1, 2
        found = load_card(run.parent / "elsewhere", 7)
        yield replace(found, checkpoint={"run": choice.run, "step": choice.step})

    monkeypatch.setattr(cards, "measure_quickly", measure)


def test_a_card_is_shown_in_numbers_and_over_the_steps(desk, run):
    write_card(run, 200)
    write_card(run, 400, control=0.5)
    shown = desk.show(STEP)
    assert shown["card"]["headline"][0]["text"] == "100%" and not shown["card"]["quick"]
    assert [x for x, _ in shown["series"][0]["points"]] == [200, 400] and shown["step"] == 200
    assert "note" not in shown


def test_a_quick_measurement_says_so_and_the_full_card_stays(desk, run, measured_quickly):
    write_card(run, 200)
    *_, last = desk.measure(STEP, keep=True)
    assert last["card"]["quick"] and last["card"]["of"] == "16 runs of 21 frames" and last["has_full"]
    assert "quick" in last["note"] and "16 runs" in last["note"] and "full card stays" in last["note"]
    assert load_card(run, 200).number("sign_accuracy") == 1, "the full card is as it was"
    assert not desk.show(STEP)["card"]["quick"], "and is what is shown next"


def test_a_quick_card_is_kept_where_there_is_none(desk, run, measured_quickly):
    *_, last = desk.measure(STEP, keep=True)
    assert not last["has_full"] and "saved with the run" in last["note"]
    assert desk.show(STEP)["card"]["quick"]
    *_, strangers = desk.measure("drone/step-000000400", keep=False)
    assert "not saved" in strangers["note"] and load_card(run, 400) is None


def test_a_damaged_card_is_one_sentence(desk, run):
    write_card(run, 200)
    file = run / "control_card" / "step-000000200.json"
    file.write_text(file.read_text().replace('"matrix"', '"was"'))
    shown = desk.show(STEP)
    assert "damaged" in shown["note"] and "card" not in shown
