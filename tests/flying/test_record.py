import base64
import dataclasses
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wanact.actions import PRESETS, ActionTrack
from wanact.flying.record import FlightError, FlightRecord, image_sha256
from wanact.flying.request import Request


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
        (lambda r: r.update(wanact_flight=4), "version 4"),
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


VERSION_1 = """{"wanact_flight": 1, "prompt": "hills", "negative_prompt": "", "seed": 3,
 "size": {"width": 2, "height": 1, "num_frames": 5, "fps": 16.0},
 "sampler": {"flow_shift": 5.0, "num_inference_steps": 8, "guidance_scale": 2.0},
 "model": {"name": "nano", "fingerprint": "ab"}, "checkpoint": {"run": "full", "step": 7},
 "actions": [[[1, 0, 0, 0, 0, 0, 0, 0], [0.05, 0, 0, 0, 0, 0, 0, 0]]],
 "image": {"sha256": "%s", "png": "%s"}}"""


def test_a_record_of_version_1_still_opens():
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    png = io.BytesIO()
    image.save(png, "PNG")
    record = FlightRecord.parse(VERSION_1 % (image_sha256(image), base64.b64encode(png.getvalue()).decode()))
    assert (record.kind, record.prompt_changes, record.taken_up) == ("clip", (), ())
    assert (record.checkpoint, record.num_frames) == ({"run": "full", "step": 7}, 5)
    assert FlightRecord.parse(record.to_json()) == record


@pytest.fixture
def live(flight) -> FlightRecord:
    changes = ((0, "hills"), (12, "snow"))
    track = PRESETS["Fly-through"](30)
    return dataclasses.replace(
        flight, kind="live", track=track, num_frames=121, prompt_changes=changes, taken_up=(3, 12)
    )


def test_a_live_record_reads_back_with_its_words(live):
    again = FlightRecord.parse(live.to_json())
    assert (again.kind, again.num_frames, len(again.track)) == ("live", 121, 30)
    assert (again.prompt_changes, again.taken_up) == (live.prompt_changes, live.taken_up)


def test_a_flight_is_rewound_and_forked(live):
    early = live.until(5)
    assert (len(early.track), early.num_frames, early.prompt_changes, early.taken_up) == (
        5,
        21,
        live.prompt_changes[:1],
        (3,),
    )
    fork = early.continued([[0, 0, 0, 0, 3, 0, 0, 0]] * 2)
    assert fork.num_frames == 29 and fork.track.magnitude[5:, 4].tolist() == [3, 3]
    assert np.array_equal(fork.track.magnitude[:5], live.track.magnitude[:5])
    with pytest.raises(FlightError, match="30 latent frames to go back to, not 31"):
        live.until(31)


def test_a_record_keeps_its_rests_along_its_own_track_alone(live):
    still = ActionTrack(np.concatenate([live.track.magnitude[:5], np.zeros((6, 8))]))
    rested = dataclasses.replace(live.until(5).with_track(still), held=(10, 11))
    assert FlightRecord.parse(rested.to_json()).held == rested.with_track(still).held == (10, 11)
    assert rested.until(10).held == (10,) and rested.until(4).held == ()
    assert rested.continued([[0] * 8]).held is None and live.held is None
    for held in ((11, 10), (10, 10), (5,)):
        with pytest.raises(FlightError, match="expected rising numbers of actions that are 0"):
            dataclasses.replace(rested, held=held)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(kind="film"), "kind is 'film', expected clip or live"),
        (lambda r: r.update(kind="clip"), "only a live flight changes"),
        (lambda r: r["prompt_changes"].append([40, "x"]), "changes words at .*up to 30"),
        (lambda r: r["prompt_changes"].append([12, "x"]), "rising numbers"),
        (lambda r: r["prompt_changes"].append(["13", "x"]), "no pairs"),
        (lambda r: r.update(taken_up=[True]), "no whole numbers"),
        (lambda r: r.update(held=[1.5]), "no whole numbers"),
        (lambda r: r.update(held=[1]), r"rests at \[1\], expected rising numbers of actions that are 0"),
        (lambda r: r.update(held=[0]), "rests at"),
        (lambda r: r.update(held=[31]), "rests at"),
        (lambda r: r["size"].update(num_frames=5), "has 5 frames, but 30 actions"),
    ],
)
def test_a_live_record_that_contradicts_itself_is_refused(live, change, says):
    record = json.loads(live.to_json())
    change(record)
    with pytest.raises(FlightError, match=says):
        FlightRecord.parse(json.dumps(record))


def test_a_picture_may_lie_beside_the_record_and_nowhere_else(flight, tmp_path):
    folder = tmp_path / "flights"
    folder.mkdir()
    flight.image.save(folder / "first.png")
    flight.image.save(tmp_path / "outside.png")
    (folder / "a.json").write_text(flight.to_json(image_path="first.png"))
    assert FlightRecord.load(folder / "a.json") == flight
    with pytest.raises(FlightError, match="file of its own"):
        FlightRecord.parse((folder / "a.json").read_text())
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    for name in ("../outside.png", str(tmp_path / "outside.png"), "link.png"):
        (folder / "b.json").write_text(flight.to_json(image_path=name))
        with pytest.raises(FlightError, match="outside its folder"):
            FlightRecord.load(folder / "b.json")
    with pytest.raises(FlightError, match="cannot be read"):
        FlightRecord.load(folder / "none.json")


def test_a_checked_request_becomes_a_record_and_comes_back():
    track = ActionTrack.zeros(2)
    asked = Request("hills", "", Image.new("RGB", (96, 64), "teal"), 9, 2, 1.5, 7, 64, 96, track)
    record = FlightRecord.from_request(asked, fps=16.0, model={"name": "tiny", "fingerprint": "ab"}, checkpoint=None)
    again = FlightRecord.parse(record.to_json()).to_request()
    assert (again.prompt, again.height, again.width, again.seed) == ("hills", 64, 96, 7) and again.track == track
    with pytest.raises(FlightError, match="words alone"):
        FlightRecord.from_request(replace(asked, image=None), fps=16.0)


def test_a_record_by_defaults_is_as_long_as_its_track_and_keeps_what_the_model_says(flight):
    defaults = {"num_inference_steps": 3, "guidance_scale": 2.0, "fps": 8, "flow_shift": 5.0}
    record = FlightRecord.by_defaults(
        defaults, flight.image, "a bay", PRESETS["Fly-through"](4), checkpoint={"id": "x"}
    )
    assert (record.num_frames, record.fps, record.sampler, record.checkpoint) == (
        17,
        8.0,
        {"flow_shift": 5.0},
        {"id": "x"},
    )
    assert FlightRecord.parse(record.to_json()) == record
