"""What one request may ask is held by the server, whatever it is made of: steps, frames, size, lanes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from wanact.actions import ActionTrack
from wanact.flying.record import FlightRecord
from wanact.flying.request import RequestError
from wanact.shapes import num_pixel_frames
from wanact.ui.budget import Budget
from wanact.ui.pages.compare.desk import CompareDesk, CompareForm
from wanact.ui.pages.fly.desk import FlyForm

OWN = Budget(96, 160, 81)


def record(num_actions: int, kind: str = "clip", size: tuple[int, int] = (160, 96), steps: int = 8) -> FlightRecord:
    return FlightRecord(
        image=Image.new("RGB", size),
        prompt="",
        seed=0,
        track=ActionTrack(np.zeros((num_actions, 8), np.float32)),
        num_frames=num_pixel_frames(num_actions + 1),
        num_inference_steps=steps,
        guidance_scale=1.0,
        kind=kind,  # pyright: ignore[reportArgumentType]
    )


def test_the_page_s_own_choices_are_within_the_budget():
    for height, width in ((96, 160), (160, 96), (128, 128)):
        OWN.check_clip(height, width, 81, 55)
    OWN.check_clip(96, 160, 81, 60)
    OWN.check_clip(192, 320, 81, 15)
    OWN.check_lanes(record(20, steps=30), 4)
    OWN.check_lanes(record(240, "live"), 2)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda: OWN.check_clip(192, 320, 81, 60), "60 steps are too many for 81 frames of 320 × 192; up to 15"),
        (lambda: OWN.check_record(record(120)), "120 actions; up to 80 of this kind"),
        (lambda: OWN.check_record(record(40, size=(320, 192))), "40 actions; up to 20"),
        (lambda: OWN.check_record(record(241, "live")), "241 actions; up to 240"),
        (lambda: OWN.check_lanes(record(240, "live"), 4), "4 lanes of 240 actions are too long; up to 12[01]"),
        (lambda: OWN.check_lanes(record(20, steps=60), 4), "4 lanes of 60 steps are too much at once; up to 30"),
    ],
)
def test_more_than_that_is_refused_with_what_would_be_drawn(asked, says):
    with pytest.raises(RequestError, match=says):
        asked()


@pytest.mark.parametrize("steps", [61, 1000, float("nan"), 10**400, True, "8", 0])
def test_steps_of_a_request_are_bounded_by_the_server(desk, request_fields, steps):
    with pytest.raises(RequestError, match="steps is"):
        desk.read_flight(FlyForm(**request_fields | {"steps": steps}))


def test_a_large_clip_and_a_long_record_are_refused_where_they_arrive(desk, engine, request_fields):
    own = engine.defaults["height"], engine.defaults["width"]
    large = f"{2 * own[1]} × {2 * own[0]}"
    with pytest.raises(RequestError, match="up to 15 are drawn"):
        desk.read_flight(FlyForm(**request_fields | {"size": large, "steps": 60}))
    fields = {key: request_fields[key] for key in ("first_frame", "prompt", "seed")}
    comparing = CompareDesk(engine, desk)
    for num_actions in (100, 300):
        long = record(num_actions, size=(own[1], own[0]))
        plan = {"flight": json.loads(long.to_json()), "own_picture": True}
        with pytest.raises(RequestError, match="actions; up to"):
            comparing.read(CompareForm(plan=plan, lanes=["base", "base"], **fields))
        with pytest.raises(Exception, match="actions; up to"):
            comparing.open({"text": long.to_json()})
