"""Values that no page sends, and those that it sends, in other places."""

from __future__ import annotations

import random
from typing import Any

from tests.attack.visitor import FILE

_DEEP: Any = "bottom"
for _ in range(60):
    _DEEP = [_DEEP]

# Others may add what once broke their rows.
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    0.5,
    1e308,
    2**53,
    "",
    "x",
    "x" * 20_000,
    "\x00",
    "a\nb\r\n",
    "☃𝔘 \u202e rtl",
    "<img src=x onerror=alert(1)>",
    "../../../etc/passwd",
    "/dev/zero",
    "base",
    "truth",
    "upload/x",
    "1e999",
    "64 × 32",
    "10000000 × 10000000",
    "٣ × ٣",
    "[" * 3_000,
    [],
    [[]],
    [None] * 100,
    ["x", {}, 5],
    [[[1] * 8, [1] * 8]] * 20,
    [[["x"] * 8] * 2],
    _DEEP,
    {},
    {"a": {"b": [{}]}},
    {"path": "/etc/passwd"},
    {"path": "/etc/passwd", "meta": FILE},
    {"path": "", "url": "data:image/png;base64,AAAA"},
    {"path": None},
    {"path": ["x"], "meta": FILE},
    {"url": "http://127.0.0.1:1/", "path": "http://127.0.0.1:1/", "meta": FILE},
    {"__type__": "update", "value": "x", "visible": False},
    {"id": "x" * 5_000},
    {"id": {"a": 1}, "ids": [[]], "runs": [{}], "a": 1, "b": [], "note": 5, "star": "x", "version": {}},
    {"id": "gone/step-000000942", "a": "base", "b": "upload/x"},
    {"text": "[[[1]]]", "steps": -1},
    {"text": {"a": 1}, "steps": "x"},
    {"open": {"text": "{}"}},
    {"open": {"link": "eyJ2IjoxfQ"}},
    {"open": 5},
    {"flight": {"wanact_flight": 3}, "own_picture": "x"},
    {"wanact_flight": 3, "image": {"path": "/etc/passwd", "sha256": ""}},
    {"flight": "x" * 30, "what": "record"},
    {"flight": "../../etc", "held": [1e308] * 8, "n": 2**52, "ack": -1, "prompt": "\x00", "rewind": 1e9},
    {"from": "x", "at": -1},
    {"course": {"id": []}},
    {"course": "lighthouses", "from": "x" * 24},
    {"flight": "x" * 24, "name": "<b>\u202e", "seconds": -1, "course": "lighthouses", "place": 1},
    {"flight": "../best-times.json", "name": "Ada"},
    {"problem": "<b>"},
    [{"checkpoint": "x"}] * 3,
    [{"checkpoint": {}}, 5],
    ["base"] * 9,
]

# Whose answer takes seconds where everything is in order: of these one field alone is not enough to be refused.
SLOW = {"generate", "compare", "fly", "film", "measure", "measure_1", "control_card"}


def fields(usual: list[Any], name: str, rng: random.Random) -> list[Any]:
    """What an event gets: mostly what it is used to, with something else in one or several places."""
    data = list(usual)
    for _ in range(rng.choice((1, 1, 1, 2, len(data) or 1))):
        if data:
            data[rng.randrange(len(data))] = rng.choice(VALUES)
    if name in SLOW:
        data = [{"path": "/none"} if isinstance(value, dict) and "path" in value else value for value in data]
        data = ["none" if value == "base" else value for value in data]
    if rng.random() < 0.05:
        data = data[:-1] if rng.random() < 0.5 else [*data, rng.choice(VALUES)]
    return data


def bodies(usual: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A body with one of its own fields spoiled."""
    spoiled = dict(usual)
    spoiled[rng.choice(list(spoiled))] = rng.choice(VALUES)
    return spoiled
