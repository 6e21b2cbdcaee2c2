import json

import numpy as np
import pytest
from PIL import Image

from wanact.actions import PRESETS
from wanact.flight import FlightError, FlightRecord, image_sha256


@pytest.fixture
def flight() -> FlightRecord:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    return FlightRecord(
        image=Image.fromarray(pixels),
        prompt="snowy mountains at dusk ❄",
        negative_prompt="fog",
        seed=7,
        track=PRESETS["Orbit left"](20),
        num_frames=81,
        num_inference_steps=8,
        guidance_scale=3,
        model={"name": "nano", "fingerprint": "ab12"},
        checkpoint={"run": "drone", "step": 400},
        sampler={"flow_shift": 5.0},
    )


def test_a_record_reads_back_equal(flight):
    again = FlightRecord.parse(flight.to_json())
    assert np.array_equal(np.asarray(again.image), np.asarray(flight.image))
    for name in ("prompt", "negative_prompt", "seed", "track", "num_frames", "fps", "num_inference_steps"):
        assert getattr(again, name) == getattr(flight, name)
    assert (again.guidance_scale, again.model, again.checkpoint) == (3, flight.model, flight.checkpoint)
    assert again.sampler == {"flow_shift": 5.0}
    assert FlightRecord.parse(again.to_json().encode()).to_json() == again.to_json()


def test_the_fingerprint_depends_on_the_pixels_and_the_shape(flight):
    turned = flight.image.transpose(Image.Transpose.ROTATE_90)
    assert image_sha256(flight.image) != image_sha256(turned)
    assert image_sha256(flight.image) == image_sha256(flight.image.convert("RGBA"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(wanact_flight=2), "version 2"),
        (lambda r: r.pop("wanact_flight"), "no flight record"),
        (lambda r: r.pop("prompt"), "“prompt” is missing"),
        (lambda r: r.update(seed=-1), "seed is -1"),
        (lambda r: r.update(seed=True), "expected a whole number"),
        (lambda r: r.update(seed="7"), "expected a whole number"),
        (lambda r: r["actions"][3][0].__setitem__(0, 1), "actions cannot be flown"),
        (lambda r: r["actions"][3].pop(), "actions cannot be flown"),
        (lambda r: r["image"].update(png="!!"), "first frame cannot be read"),
        (lambda r: r["image"].update(sha256="0"), "does not match its fingerprint"),
        (lambda r: r["size"].update(width=32), "is damaged"),
        (lambda r: r.update(checkpoint="drone"), "checkpoint is damaged"),
        (lambda r: r["sampler"].update(guidance_scale=float("inf")), "expected a number"),
    ],
)
def test_a_changed_record_is_refused_in_one_sentence(flight, change, says):
    record = json.loads(flight.to_json())
    change(record)
    with pytest.raises(FlightError, match=says) as caught:
        FlightRecord.parse(json.dumps(record))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_other_files_are_no_flight(text):
    with pytest.raises(FlightError, match="no flight record"):
        FlightRecord.parse(text)


def test_a_huge_file_is_refused_before_it_is_parsed():
    with pytest.raises(FlightError, match="at most 32 MB"):
        FlightRecord.parse(b" " * (33 * 2**20))
