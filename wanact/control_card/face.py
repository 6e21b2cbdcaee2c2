"""A control card as plain lists, for a page that draws it: the same figures and words as its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from wanact.actions import CHANNELS
from wanact.control_card.card import CURVES, ControlCard
from wanact.control_card.picture import WORDS, at_rest, headline, how_measured, judge_share


def face_of(card: ControlCard) -> dict[str, Any] | None:
    """Everything that a card shows, None if parts of its measures are missing or are no numbers.

    Returns:
        {"headline": [{text, label, judgement}], "measured": [words], "quick", "of",
         "channels": [{name, share, judgement, gain, linearity, lag, separation, response, inverse}],
         "doses": [5], "matrix": [8][8], "sharpness", "colour": {rest, held, end}, "rest": [[name, words]]}
    """
    try:
        return _face(card)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _face(card: ControlCard) -> dict[str, Any]:
    measures = card.measures
    return {
        "headline": [asdict(one) for one in headline(card)],
        "measured": how_measured(card),
        "quick": card.is_quick,
        "of": card.of_what,
        "channels": [_channel(measures, channel, words) for channel, words in zip(CHANNELS, WORDS, strict=True)],
        "doses": [float(dose) for dose in measures["dose_response"]["doses"]],
        "matrix": [_numbers(row) for row in measures["cross_talk"]["matrix"]],
        "sharpness": _over_time(measures["sharpness"]),
        "colour": _over_time(measures["colour"]),
        "rest": [list(row) for row in at_rest(card)],
    }


def _channel(measures: dict[str, Any], channel: str, words: str) -> dict[str, Any]:
    answer = measures["dose_response"]["by_channel"][channel]
    inverse = (measures.get("idm") or {}).get("dose_response")
    share = _number(measures["sign_accuracy"]["by_channel"][channel])
    return {
        "name": words,
        "share": share,
        "judgement": judge_share(share),
        "gain": _number(answer["gain"]),
        "linearity": _number(answer["linearity_r2"]),
        "lag": _number(measures["lag"]["by_channel"][channel]),
        "separation": _number(measures["separation"]["by_channel"][channel]),
        "response": _numbers(answer["response"]),
        "inverse": _numbers(inverse["by_channel"][channel]["response"]) if inverse else None,
    }


def _over_time(entry: dict[str, Any]) -> dict[str, Any]:
    return {"rest": _numbers(entry["rest"]), "held": _numbers(entry["held"]), "end": _number(entry["end"])}


def _numbers(values: Sequence[Any]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def series_of(cards: Sequence[ControlCard]) -> list[dict[str, Any]]:
    """Each measure over the steps of a run: [{label, best, points: [[step, value]]}]; the base stands at step 0."""
    ordered = sorted(cards, key=lambda card: card.checkpoint.get("step") or 0)
    return [
        {
            "label": label,
            "best": best,
            "points": [[card.checkpoint.get("step") or 0, _number(card.number(name))] for card in ordered],
        }
        for name, (_, label, best) in CURVES.items()
    ]
