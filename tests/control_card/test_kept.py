import json
from dataclasses import replace

import pytest

from tests.conftest import BUNDLED_RUN, bundled_step
from wanact.control_card.card import ControlCard, card_path, keep_card, load_card, read_card, save_card
from wanact.control_card.face import face_of, series_of
from wanact.control_card.kept import KeptCards, best_step


@pytest.fixture
def full() -> ControlCard:
    card = load_card(BUNDLED_RUN, bundled_step())
    assert card is not None
    return card


def with_control(card: ControlCard, mean: float, **settings) -> ControlCard:
    measures = card.measures | {"sign_accuracy": card.measures["sign_accuracy"] | {"mean": mean}}
    return replace(card, measures=measures, settings=card.settings | settings)


@pytest.mark.parametrize("quick", [{"first_frames": 2}, {"first_frames": 2, "num_frames": 41, "dose_frames": 2}])
@pytest.mark.parametrize("model", ["the same", "another"])
def test_a_quick_card_says_so_and_never_replaces_a_full_one(full, tmp_path, quick, model):
    """Whatever it was measured with: longer clips and another model's weights do not make it worth more."""
    path = card_path(tmp_path, 300)
    save_card(full, path)
    card = replace(full, settings=full.settings | quick)
    card = card if model == "the same" else replace(card, model={"name": "new", "fingerprint": "cd34"})
    assert card.is_quick and not full.is_quick and card.num_runs == 16 and full.of_what == "48 runs of 21 frames"
    assert not keep_card(card, path) and read_card(path) == full
    other = card_path(tmp_path, 400)
    assert keep_card(card, other) and keep_card(full, other) and read_card(other) == full


def test_kept_cards_are_read_again_where_a_file_has_changed(full, tmp_path, monkeypatch):
    cards, reads = KeptCards(), []
    assert cards.of(tmp_path) == {}
    for step in (100, 200):
        save_card(full, card_path(tmp_path, step))
    card_path(tmp_path, 300).write_text("{")
    save_card(full, card_path(tmp_path, None))
    assert set(cards.of(tmp_path)) == {100, 200}
    monkeypatch.setattr("wanact.control_card.kept.read_card", lambda path: reads.append(path.name) or read_card(path))
    cards.of(tmp_path)
    assert reads == []
    save_card(with_control(full, 0.5), card_path(tmp_path, 200))
    assert cards.of(tmp_path)[200].number("sign_accuracy") == 0.5 and reads == ["step-000000200.json"]


def test_the_best_step_is_by_control_and_a_quick_card_counts_only_alone(full):
    cards = {100: with_control(full, 0.9), 200: with_control(full, 0.8), 300: with_control(full, 1, first_frames=2)}
    assert best_step(cards, [100, 200, 300]) == 100 and best_step(cards, [200, 300]) == 200
    assert best_step(cards, [300]) == 300 and best_step(cards, [7]) is None and best_step({}, []) is None
    equal = {1: full, 2: full}
    assert best_step(equal, [1, 2]) == 2


def test_what_a_page_draws_is_plain_and_a_damaged_card_is_none(full):
    face = face_of(full)
    assert face is not None
    json.dumps(face, allow_nan=False)
    assert face["headline"][0]["text"] == "100%" and len(face["channels"]) == len(face["matrix"]) == 8
    assert face["of"] == "48 runs of 21 frames" and "48 runs of 21 frames" in " ".join(face["measured"])
    quick = face_of(replace(full, settings=full.settings | {"first_frames": 2}))
    assert quick is not None and quick["quick"] and "quick" in " ".join(quick["measured"])
    for name in full.measures:
        if name != "idm":
            assert face_of(replace(full, measures=full.measures | {name: {"by_channel": "x"}})) is None, name
    series = series_of([full, replace(full, checkpoint={"run": "base", "step": None})])
    assert [point[0] for point in series[0]["points"]] == [0, bundled_step()]
