"""What a scene does with pictures and words, and what a tab gives back to it."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from wanact.ui import cache
from wanact.ui.describe import Describer
from wanact.ui.engine import Engine
from wanact.ui.pages.fly.desk import FlyForm
from wanact.ui.samples import load_samples
from wanact.ui.scene import Scene, check_frame, keep

PROMPT = "a boat on a lake"


@pytest.fixture
def scene(engine) -> Scene:
    cache.make_own()
    with gr.Blocks():
        return Scene("x-", engine, "First frame", frame_height=200)


@pytest.fixture
def painter(pipe, runs_root, monkeypatch) -> Engine:
    """An engine whose model says that it draws its own first frames."""
    monkeypatch.setitem(pipe.defaults, "text_to_video", True)
    return Engine(pipe, runs_root)


def data_url(picture: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()


def is_left(value) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1


def test_a_sample_comes_back_with_the_words_that_were_changed(scene):
    sample = load_samples()[0][1]
    shown, last_good, _, prompt, marked = scene._restore({"sample": sample.id, "prompt": PROMPT, "crop": 0.2})
    assert (shown, last_good, prompt, marked) == (str(sample.path), str(sample.path), PROMPT, sample.id)
    assert scene._restore({"sample": sample.id})[3] == sample.prompt, "a link names no words"


def test_a_picture_of_ones_own_comes_back_byte_for_byte(scene, picture):
    shown, last_good, _, prompt, marked = scene._restore({"picture": data_url(picture), "prompt": ""})
    assert Path(shown).read_bytes() == picture.read_bytes() and cache.holds(shown)
    assert isinstance(last_good, bytes) and prompt == "" and marked is None


@pytest.mark.parametrize(
    "kept",
    [
        None,
        5,
        [],
        {},
        {"sample": "../../etc/passwd"},
        {"sample": ["coast"], "picture": 5, "prompt": {}, "crop": "x"},
        {"picture": "/etc/passwd"},
        {"picture": "file:///etc/passwd"},
        {"picture": "data:image/png;base64,AAAA"},
        {"picture": "data:text/html;base64,PGI+"},
        {"sample": {"path": "/etc/passwd"}},
    ],
)
def test_what_no_tab_has_kept_changes_no_picture(scene, kept):
    shown, last_good, note, prompt, marked = scene._restore(kept)
    assert all(map(is_left, (shown, last_good, prompt, marked)))
    assert is_left(note) or note.startswith("⚠")


def test_words_of_a_sample_go_with_it_and_a_visitors_own_stay(scene, picture):
    sample = load_samples()[0][0]
    _, own, _ = check_frame(str(picture), None)
    assert scene._own(own, sample.prompt) == (None, "")
    marked, prompt = scene._own(own, PROMPT)
    assert marked is None and is_left(prompt)
    assert all(map(is_left, scene._own(str(sample.path), sample.prompt))), "a picture that was refused"
    marked, prompt = scene._own(None, sample.prompt)
    assert marked is None and is_left(prompt), "a picture that was taken away"


def test_photographs_are_told_what_the_model_draws(engine, picture, monkeypatch):
    monkeypatch.setattr(engine, "draws", "Hills only.")
    with gr.Blocks():
        scene = Scene("y-", engine, "First frame", frame_height=200)
    notes = {sample.id: scene._pick(sample.id)[3] for sample in load_samples()[0]}
    told = {name for name, note in notes.items() if note.endswith("Hills only.")}
    assert told == {sample.id for sample in load_samples()[0] if sample.world is None}
    assert scene._restore({"picture": data_url(picture)})[2] == "Hills only."


def test_a_picture_is_flown_as_it_is_cut(desk, request_fields, tmp_path):
    halves = np.zeros((200, 100, 3), np.uint8)
    halves[:100, :, 0], halves[100:, :, 2] = 200, 200
    Image.fromarray(halves).save(tmp_path / "tall.png")
    fields = request_fields | {"first_frame": str(tmp_path / "tall.png")}
    for crop, channel in ((0, 0), (1, 2)):
        image = np.asarray(desk.read_flight(FlyForm(**fields, crop=crop)).image)
        assert image.shape == (32, 64, 3) and image.mean(axis=(0, 1)).argmax() == channel


def test_words_become_a_first_frame_the_same_for_the_same_seed(painter):
    describer = Describer(painter)
    (*_, (first, note)), (*_, (again, _)), (*_, (other, _)) = (
        list(describer.describe(PROMPT, seed)) for seed in (3, 3, 4)
    )
    size = painter.defaults["width"], painter.defaults["height"]
    assert isinstance(first, Image.Image) and first.size == size and "your words" in note
    assert np.array_equal(*map(np.asarray, (first, again))) and not np.array_equal(*map(np.asarray, (first, other)))
    assert isinstance(keep(first), bytes)


@pytest.mark.parametrize(
    ("prompt", "seed", "says"),
    [
        ("  ", 0, "describe a place"),
        ("x" * 3000, 0, "3,000 characters"),
        (None, 0, "describe a place"),
        (5, 0, "expected text"),
        (PROMPT, -1, "seed is -1"),
        (PROMPT, "x", "seed is 'x'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_no_picture(painter, prompt, seed, says):
    *_, (shown, note) = Describer(painter).describe(prompt, seed)
    assert is_left(shown) and says in note.lower() and "\n" not in note


def test_only_a_model_that_says_so_is_asked(engine, painter):
    with gr.Blocks():
        scenes = [Scene("", one, "First frame", frame_height=200) for one in (engine, painter)]
    assert [scene.describe.visible for scene in scenes] == [False, True]
