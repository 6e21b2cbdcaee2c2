"""JSON from outside is taken as it is meant, or refused in one sentence that names the field."""

import json
import subprocess
import sys
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from wanact.actions import ActionTrack
from wanact.files import number, otherwise, parse_foreign, plain, read_model, says, text, whole
from wanact.flying.comparison import ComparisonError, Lane
from wanact.flying.record import FlightError, FlightRecord
from wanact.flying.request import ClipRequest, RequestError, check_request

HUGE = 10**400
DEFAULTS = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0}


class Inner(BaseModel):
    share: Annotated[float, number(0, 1)] = 0.0


class Outer(BaseModel):
    count: Annotated[int, whole(0, 9)] = 0
    rounded: Annotated[int, whole(0, 9, floats=True)] | None = None
    free: Annotated[float, number()] = 0.0
    words: Annotated[str, text(5, shortest=1)] = "a"
    kind: Literal["clip", "live"] = "clip"
    notes: Annotated[dict[str, Any], plain()] = {}
    inner: Inner = Inner()
    places: Annotated[list[int], says("its places are none")] = []
    silent: Annotated[int | None, otherwise(None)] = None


def test_what_is_meant_is_taken():
    content = {"count": 9, "rounded": 3.0, "free": 2, "words": "ü", "inner": {"share": 1}, "silent": "x", "new": 1}
    taken = read_model(Outer, content, ValueError)
    assert (taken.count, taken.rounded, taken.free, taken.words) == (9, 3, 2.0, "ü")
    assert (taken.inner.share, taken.silent, hasattr(taken, "new")) == (1.0, None, False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"count": -1}, "count is -1, expected a whole number from 0 to 9"),
        ({"count": True}, "count is True, expected a whole number"),
        ({"count": 3.0}, "count is 3.0, expected a whole number"),
        ({"count": "3"}, "count is '3', expected a whole number"),
        ({"count": HUGE}, "expected a whole number from 0 to 9"),
        ({"rounded": 3.5}, "rounded is 3.5"),
        ({"rounded": float("nan")}, "rounded is nan"),
        ({"free": HUGE}, "expected a number"),
        ({"free": float("inf")}, "free is inf, expected a number"),
        ({"free": False}, "free is False, expected a number"),
        ({"words": ""}, "words is '', expected text of 1 to 5 characters"),
        ({"words": "x" * 10**6}, "expected text of 1 to 5 characters"),
        ({"words": "\ud800"}, r"words is '\\ud800', expected text"),
        ({"kind": "film"}, "kind is 'film', expected clip or live"),
        ({"notes": {"x": float("nan")}}, "finite numbers and readable text"),
        ({"notes": {"\udfff": 1}}, "finite numbers and readable text"),
        ({"inner": {"share": 2}}, "inner.share is 2, expected a number from 0 to 1"),
        ({"inner": []}, "inner is .., expected an object"),
        ({"places": [1, True]}, "^its places are none$"),
        ([], "the content is .., expected an object"),
    ],
)
def test_what_is_not_is_refused_by_name(content, says):
    with pytest.raises(RequestError, match=says) as caught:
        read_model(Outer, content, RequestError)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    str(caught.value).encode()


@pytest.mark.parametrize("value", [pytest.param(HUGE, id="huge"), -HUGE, float("nan"), True, "7", None, [7]])
@pytest.mark.parametrize("name", ["height", "num_frames", "num_inference_steps", "guidance_scale", "seed"])
def test_numbers_of_a_request_are_numbers(name, value):
    if value is None and name != "seed":
        return  # the model's default
    asked = ClipRequest(**{"prompt": "", "image": Image.new("RGB", (32, 32)), "negative_prompt": "", name: value})
    with pytest.raises(RequestError, match=f"{name} is .*, expected a"):
        check_request({"negative_prompt": ""} | DEFAULTS, 81, asked)


@pytest.fixture
def record() -> dict[str, Any]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    return json.loads(FlightRecord(image, "a lake", 3, ActionTrack.zeros(1), 5, 8, 1.0).to_json())


@pytest.mark.parametrize("value", [pytest.param(HUGE, id="huge"), float("nan"), True, "7", None, "\ud800"])
@pytest.mark.parametrize(
    "place",
    ["seed", "size.width", "size.num_frames", "size.fps", "sampler.num_inference_steps", "sampler.guidance_scale"],
)
def test_numbers_of_a_record_are_numbers(record, place, value):
    *groups, name = place.split(".")
    (record[groups[0]] if groups else record)[name] = value
    with pytest.raises(FlightError, match=rf"^The flight is damaged: {place} is .*, expected a .*\.$") as caught:
        FlightRecord.parse(json.dumps(record))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("fps", [-1, 0, 0.001, 1e6, 1e308])
def test_a_clip_has_a_speed_that_can_be_played(record, fps):
    record["size"]["fps"] = fps
    with pytest.raises(FlightError, match=r"size.fps is .*, expected a number from 1 to 240"):
        FlightRecord.parse(json.dumps(record))


def test_json_is_bounded_before_it_is_read():
    for source, reason in (
        ("[" * 10**6, "nested too deeply|at most"),
        ("[" + "[]," * 10**4 + "[]]", "at most 9,000 are read"),
        (b"\xff", "characters that are none"),
        ('"\\ud800"', "characters that are none"),
        ('{"seed": ' + "9" * 400 + "}", "a whole number of 400 digits"),
        ("[9223372036854775808]", "a whole number of 19 digits"),
        ("[NaN]", "NaN, which is no number"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse_foreign(source, max_values=9_000, strict=True)
    assert parse_foreign(b'["\\ud83d\\ude00", "\xf0\x9f\x98\x80", 9223372036854775807, 1e30]', strict=True)
    assert parse_foreign('{"seed": ' + "9" * 400 + "}")["seed"] == 10**400 - 1, "its field says what it expects"


def test_nothing_in_a_record_is_unwritable(record):
    for change in (
        {"prompt": "\ud800"},
        {"model": {"name": "\ud800"}},
        {"checkpoint": {"id": "\ud800"}},
        {"checkpoint": {"step": float("nan")}},
        {"sampler": record["sampler"] | {"x": [float("inf")]}},
        {"image": record["image"] | {"sha256": HUGE}},
    ):
        with pytest.raises(FlightError, match=r"^The flight is damaged: .*\.$"):
            FlightRecord.parse(json.dumps(record | change))
    kept = FlightRecord.parse(json.dumps(record | {"new": 1, "sampler": record["sampler"] | {"flow_shift": 5.0}}))
    assert kept.sampler == {"flow_shift": 5.0}


@pytest.mark.parametrize("value", [pytest.param(HUGE, id="huge"), float("nan"), True, "7", [1]])
@pytest.mark.parametrize("name", ["seed", "guidance", "scale"])
def test_numbers_of_a_lane_are_numbers(name, value):
    with pytest.raises(ComparisonError, match=rf"^A lane's {name} is .*, expected a .*\.$"):
        Lane.parse({"checkpoint": "base", name: value})


def test_who_only_reads_runs_does_not_wait_for_pydantic():
    script = "import sys, wanact.actions, wanact.runs.index, wanact.files; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
