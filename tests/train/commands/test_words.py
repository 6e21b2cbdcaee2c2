"""What a picture shows is told by colours and texture: the simulator's own views are, and words are counted."""

from __future__ import annotations

import json

import numpy as np

from tests.flying.test_stream import write_causal_run
from train.__main__ import main
from train.commands.evaluate import words
from train.commands.evaluate.words import Known, agreement, everything, prompt_of, statistics, views
from wanact.world import simulator

SIZE = (64, 96)
SAID = [(biome, time) for biome in ("a sandy desert", "snowy mountains") for time in ("at noon", "at night")]


def test_the_simulators_own_views_of_other_worlds_are_told_apart():
    known = {said: views(said, [number], 4, SIZE) for number, said in enumerate(SAID)}
    held_out = [(said, view) for n, said in enumerate(SAID) for view in views(said, [100 + n], 2, SIZE)]
    classes = Known.of(known)
    seen = [classes.nearest(view) for _, view in held_out]
    assert agreement([said for said, _ in held_out], seen)["exact"] >= 0.75  # chance is 0.25


def test_views_differ_within_a_world_and_statistics_see_blur():
    import cv2

    one, other = views(SAID[0], [3], 2, SIZE)
    assert not np.array_equal(one, other)
    blurred = cv2.GaussianBlur(one, (0, 0), 2)
    assert np.abs(statistics(one) - statistics(blurred)).max() > 1
    assert statistics(one).shape == (words.BANDS * (3 * words.QUANTILES + len(words.BLURS)),)


def test_biome_and_time_are_counted_together_and_alone():
    said = [("a", "noon"), ("a", "night"), ("b", "noon"), ("b", "night")]
    seen = [("a", "noon"), ("a", "noon"), ("a", "noon"), ("a", "noon")]
    assert agreement(said, seen) == {"exact": 0.25, "biome": 0.5, "time": 0.5}


def test_there_are_36_prompts_that_say_what_they_are_of():
    said = everything()
    prompts = [prompt_of(one) for one in said]
    assert len(set(prompts)) == 36
    assert all(b in prompt and t in prompt for (b, t), prompt in zip(said, prompts, strict=True))


def test_a_world_can_be_asked_for_by_biome_and_time():
    caption = simulator.make_world(5, "farmland", "at dusk").caption
    assert "farmland" in caption and "at dusk" in caption


def test_words_command_writes_the_keys_that_are_read_elsewhere(tiny_model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(words, "everything", lambda: SAID[:2])
    arguments = ["--model_dir", str(tiny_model_dir), "--run", str(write_causal_run(tmp_path / "run"))]
    few = ["--worlds", "1", "--views", "2", "--num_frames", "5", "--steps", "1", "--guidance", "1"]
    out = ["--json", str(tmp_path / "words.json"), "--sheet", str(tmp_path / "words.png")]
    assert main(["evaluate", "words", *arguments, *few, *out]) == 0
    result = json.loads((tmp_path / "words.json").read_text())
    assert {"exact", "biome", "time"} <= result.keys() and {"exact", "biome", "time"} == result["simulator"].keys()
    assert result["chance"] == 0.5 and len(result["prompts"]) == 2
    assert (tmp_path / "words.png").is_file()
    assert "chance" in capsys.readouterr().out
