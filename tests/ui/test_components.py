import json
import re

import numpy as np
import pytest

from wanact.actions import CHANNELS, OPPOSITE, PRESETS, ActionTrack, channel_track
from wanact.ui.components import MAX_PLAN_BYTES, FlightPlan, read_plan
from wanact.ui.samples import SAMPLES, load_samples
from wanact.ui.theme import FOLDERS, asset


def test_the_browser_knows_the_channels_in_the_models_order():
    script = asset("channels.js")
    assert tuple(re.findall(r"id: '(\w+)'", script)) == CHANNELS
    assert tuple(json.loads(re.search(r"OPPOSITE = (\[.*\])", script)[1])) == OPPOSITE


def test_nothing_on_the_page_comes_from_elsewhere():
    files = [file for folder in FOLDERS for file in folder.iterdir() if file.suffix in (".js", ".css", ".html", ".svg")]
    names = [file.name for file in files if file.name != "layout.css"]  # which each page has
    assert len(names) == len(set(names)) > 40, "a name is in one folder"
    for file in files:
        addresses = re.findall(r"https?://[^\s'\"]+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, f"{file.name}: {addresses}"


def test_a_plan_travels_in_the_format_on_disk():
    plan = FlightPlan(PRESETS["Forward"](20), {}, 0.25, render=False)
    track = channel_track("yaw_left", 20, 0.5)
    assert np.shape(plan.postprocess(track)) == (20, 2, 8)
    assert ActionTrack.parse(plan.postprocess(track)) == track
    assert ActionTrack.parse(plan.postprocess(None)) == ActionTrack.zeros(20)


def test_an_exported_plan_opens_again():
    track = PRESETS["Orbit left"](20)
    answer = read_plan({"text": track.to_json(), "steps": 20})
    assert ActionTrack.parse(answer["value"]) == track and "20 steps" in answer["note"]


def test_a_plan_of_flags_alone_says_what_was_made_of_them():
    answer = read_plan({"text": json.dumps([[[1] + [0] * 7, [0] * 8]]), "steps": 1})
    assert ActionTrack.parse(answer["value"]) == channel_track("forward", 1)
    assert answer["note"] == "Opened 1 steps; 1 flags without a magnitude are taken as full deflection."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("[[1, 2]]", r"expected \(N, 2, 8\)"),
        (json.dumps([[[2] + [0] * 7, [0] * 8]]), "flag 2, expected 0 or 1"),
        ('[[["a","b"]]]', "text where numbers were expected"),
        (json.dumps([[[1, 1] + [0] * 6] * 2]), "active at once"),
        ("[[[NaN]]]", "expected"),
        ('{"wanact_flight": 1}', "damaged"),
        (PRESETS["Forward"](19).to_json(), "19 steps, but this clip needs 20"),
        ("0" * (MAX_PLAN_BYTES + 1), "too large"),
        (None, "too large"),
    ],
)
def test_a_bad_plan_gets_one_sentence(text, says):
    answer = read_plan({"text": text, "steps": 20})
    assert set(answer) == {"problem"} and re.search(says, answer["problem"]), answer
    assert "\n" not in answer["problem"] and answer["problem"].endswith(".")


def test_a_message_that_is_no_plan_at_all_is_refused():
    for message in (None, [], "x", {}):
        assert "problem" in read_plan(message)


def test_every_sample_is_there_small_and_credited():
    samples, prompts = load_samples()
    listed = json.loads((SAMPLES / "samples.json").read_text())["samples"]
    assert len(samples) == len(listed) and prompts
    credits = (SAMPLES / "CREDITS.md").read_text()
    for sample in samples:
        assert sample.path.stat().st_size <= 200_000
        assert not sample.credit or sample.path.name in credits
        assert sample.entry()["thumbnail"].startswith("data:image/jpeg;base64,")


def test_damaged_samples_are_named(tmp_path):
    assert load_samples(tmp_path) == ([], [])
    (tmp_path / "samples.json").write_text('{"samples": [{}]}')
    with pytest.raises(ValueError, match="samples.json is damaged"):
        load_samples(tmp_path)
