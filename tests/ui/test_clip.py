import base64
import errno
import io
import json
import struct
import zlib
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageChops

from tests.flying.test_stream import write_causal_run
from tests.ui.conftest import write_run
from wanact.actions import ActionTrack, channel_track
from wanact.flying.record import FlightRecord
from wanact.media.footage import read_video
from wanact.media.video import decode_jpeg
from wanact.runs.ref import BASE
from wanact.ui.engine import Engine
from wanact.ui.pages.fly.desk import FlyDesk, preview_url, read_prompt, size_choices
from wanact.ui.scene import check_frame, keep

# Outside of a page, Gradio turns a toast into a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:gradio.helpers")


def fly(desk, fields):
    """States of the viewer, the last frame, and the error that a program would get."""
    states, last_frame, error = [], None, None
    try:
        for state, frame in desk.generate(**fields):
            if isinstance(state, dict):  # nothing new: only whether anybody listens is asked
                continue
            if state.status == "done":
                state = state.model_copy(update={"message": Path(state.record.path).read_text()})
                last_frame = (frame, read_video(state.video.path))
            states.append(state)
    except gr.Error as caught:
        error = caught
    return states, last_frame, error


@pytest.fixture(scope="module")
def flown(desk, request_fields):
    """States, last frame and clip of a flight that went well."""
    states, (last, clip), error = fly(desk, request_fields)
    assert error is None
    return states, last, clip


def refused(desk, fields) -> str:
    """The sentence that a bad request gets, in the page and for programs alike."""
    states, _, error = fly(desk, fields)
    assert states[-1].status == "failed" and error is not None
    sentence = states[-1].message
    assert error.message == sentence
    assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence and len(sentence) < 300
    return sentence


def test_a_flight_ends_with_a_clip_and_its_record(flown):
    states, last, clip = flown
    assert [state.status for state in states[-3:]] == ["working", "done", "done"], "GIF and WebP follow the clip"
    assert {state.status for state in states[:-2]} == {"working"} and states[-1].gif and states[-1].webp
    assert [state.progress for state in states] == sorted(state.progress for state in states)
    assert any(state.preview for state in states) and "step 2 of 2" in " ".join(state.message for state in states)
    assert clip.shape == (17, 32, 64, 3) and last.shape == (32, 64, 3)
    record = FlightRecord.parse(states[-1].message)
    assert record.prompt == "a lake at noon" and record.seed == 3
    assert record.checkpoint == {"id": "drone/step-000000400", "run": "drone", "step": 400}
    assert record.track == channel_track("forward", 4) and len(record.model["fingerprint"]) == 64
    assert states[-1].track == record.track.to_list() and "drone · step 400" in states[-1].caption


def test_a_causal_clip_plays_while_it_is_drawn_and_says_how_much_there_is(engine, request_fields, tmp_path):
    write_causal_run(tmp_path / "live")
    desk = FlyDesk(Engine(engine.pipe, tmp_path))
    (choice, *_) = [entry["id"] for entry in desk.list_checkpoints()["choices"]]
    states, (_, clip), error = fly(desk, request_fields | {"checkpoint": choice})
    assert error is None
    playing = [state for state in states if state.frames]
    assert [state.begin for state in playing] == [0, 1, 5, 9, 13], "a latent frame at a time, before the next is drawn"
    assert [state.message for state in playing] == [f"Drawing: {seconds}.0 of 4 s" for seconds in range(5)]
    assert [state.progress for state in states] == sorted(state.progress for state in states)
    shown = np.stack([decode_jpeg(base64.b64decode(frame)) for state in playing for frame in state.frames])
    assert shown.shape == clip.shape and np.abs(shown.astype(int) - clip).mean() < 12, "what plays is the clip"
    assert not states[-1].frames and not any(state.preview for state in states)


def test_the_desk_leaves_no_files_behind(desk, request_fields, own_temp):
    for state, _ in desk.generate(**request_fields):
        if state.status == "done":
            assert len(list(own_temp.iterdir())) == 1
    assert not list(own_temp.iterdir())


def test_a_record_flies_again_to_the_same_clip(desk, flown, tmp_path):
    states, last, _ = flown
    path = tmp_path / "flight.json"
    path.write_text(states[-1].message)
    fields = desk.open_flight(str(path))
    fields["image"].save(tmp_path / "first.png")
    again = {
        "first_frame": str(tmp_path / "first.png"),
        "prompt": fields["prompt"],
        "plan": fields["track"].to_list(),
        "checkpoint": fields["checkpoint"],
        "seed": fields["seed"],
        "steps": fields["num_inference_steps"],
        "guidance": fields["guidance_scale"],
        "size": fields["size"],
    }
    _, (last_again, _), _ = fly(desk, again)
    assert np.array_equal(last, last_again)


def test_the_base_model_flies_and_says_so_in_its_record(desk, request_fields):
    states, _, error = fly(desk, request_fields | {"checkpoint": BASE})
    assert error is None and FlightRecord.parse(states[-1].message).checkpoint is None


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("first_frame", None, "no first frame yet"),
        ("prompt", "x" * 10_000, "The prompt has 10,000 characters, at most 2,000"),
        ("negative_prompt", "x" * 2_001, "The negative prompt has 2,001 characters"),
        ("plan", [], r"0 actions, but a clip of 17 frames needs 4"),
        ("plan", "{", "not valid JSON"),
        ("plan", [[[0] * 8, [0] * 7]] * 4, "differ in length"),
        ("plan", [[[0] * 8] * 2] * 5, "5 actions, but a clip of 17 frames needs 4"),
        ("plan", [[[1] + [0] * 7, [float("nan")] + [0] * 7]] * 4, "not a finite number"),
        ("plan", [[[1] + [0] * 7, [-1] + [0] * 7]] * 4, "is negative"),
        ("plan", [[[1, 1] + [0] * 6, [1, 1] + [0] * 6]] * 4, "forward and back are active at once"),
        ("plan", [[["w"] * 8] * 2] * 4, "text where numbers were expected"),
        ("plan", "[" + "0," * 5_000_000 + "0]", "at most 8,000,000 are read"),
        ("plan", None, "where numbers were expected"),
        ("seed", -1, "Seed is -1, expected a whole number from 0 to 2147483647"),
        ("seed", 2**31, "Seed is 2147483648"),
        ("seed", 0.5, "Seed is 0.5"),
        ("seed", None, "Seed is None"),
        ("crop", 1.5, "Crop is 1.5, expected a number from 0 to 1"),
        ("crop", "top", "expected a number from 0 to 1"),
        ("size", "64 × 33", "multiples of 32"),
        ("size", "huge", "The size is huge"),
        ("size", "3200 × 3200", "too large for this model"),
        ("checkpoint", "drone/step-000000999", "is not there any more; choose another one"),
        ("checkpoint", None, "is not there any more"),
    ],
)
def test_a_bad_setting_gets_one_sentence(desk, request_fields, field, value, says):
    assert_matches(refused(desk, request_fields | {field: value}), says)


def assert_matches(sentence, says):
    assert says in sentence, sentence


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.png", b"not an image", "is not an image"),
        ("empty.jpg", b"", "is empty (0 bytes)"),
        ("cut.jpg", None, "is damaged"),
    ],
)
def test_a_bad_picture_gets_one_sentence_and_the_one_before_comes_back(
    desk, request_fields, picture, tmp_path, name, content, says
):
    path = tmp_path / name
    path.write_bytes(picture.read_bytes()[:2000] if content is None else content)
    assert_matches(refused(desk, request_fields | {"first_frame": str(path)}), says)
    before = Image.new("RGB", (32, 32), "red")
    shown, kept, note = check_frame(str(path), keep(before))
    assert ImageChops.difference(shown.convert("RGB"), before).getextrema()[0][1] < 3
    assert says in note and not isinstance(kept, bytes)


def test_a_gigantic_picture_gets_one_sentence(desk, request_fields, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (1, 1)).save(path)
    data = bytearray(path.read_bytes())  # the size stands at 16, its checksum at 29
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert_matches(refused(desk, request_fields | {"first_frame": str(path)}), "megapixels")


@pytest.mark.parametrize("kind", ["cmyk.jpg", "deep.png", "palette.png", "alpha.png", "moving.gif", "moving.webp"])
def test_unusual_pictures_are_taken(tmp_path, kind):
    path = tmp_path / kind
    red = Image.new("RGB", (60, 40), (200, 30, 30))
    if kind == "cmyk.jpg":
        red.convert("CMYK").save(path)
    elif kind == "deep.png":
        Image.fromarray(np.full((40, 60), 30_000, np.uint16)).save(path)
    elif kind == "palette.png":
        red.convert("P").save(path)
    elif kind == "alpha.png":
        red.convert("RGBA").save(path)
    else:
        red.save(path, save_all=True, append_images=[Image.new("RGB", (60, 40), "blue")])
    shown, kept, note = check_frame(str(path), None)
    assert kept == keep(shown) and shown.mode == "RGB" and shown.size == (60, 40) and note == ""
    if kind != "deep.png":
        assert shown.getpixel((30, 20))[0] > shown.getpixel((30, 20))[2] + 80


def test_a_turned_photograph_stands_upright(tmp_path):
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert check_frame(str(tmp_path / "turned.jpg"), None)[0].size == (40, 60)


def test_emoji_stay_and_control_characters_go():
    assert read_prompt("a\x00 lake\n👨‍👩‍👧 ❄️\x1b[31m") == "a  lake 👨‍👩‍👧 ❄️ [31m"
    assert read_prompt("") == read_prompt(None) == ""


def test_an_empty_prompt_and_emoji_fly(desk, request_fields):
    for prompt in ("", "🚁🏔️"):
        assert fly(desk, request_fields | {"prompt": prompt})[2] is None


def test_a_damaged_checkpoint_gets_one_sentence_and_the_next_flight_flies(pipe, request_fields, tmp_path):
    run = write_run(tmp_path / "drone")
    desk = FlyDesk(Engine(pipe, tmp_path))
    weights = run / "checkpoints" / "step-000000400" / "action_controller.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[8:40] = bytes(32)  # the header, at the same length: only loading it shows
    weights.write_bytes(bytes(damaged))
    assert_matches(refused(desk, request_fields), "cannot be loaded")
    assert fly(desk, request_fields | {"checkpoint": "drone/step-000000200"})[2] is None


def test_a_full_disk_gets_one_sentence(desk, request_fields, monkeypatch, own_temp):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wanact.ui.pages.fly.desk.write_mp4", full)
    assert_matches(refused(desk, request_fields), "disk is full")
    assert not list(own_temp.iterdir())
    monkeypatch.undo()
    assert fly(desk, request_fields)[2] is None


def test_our_own_bugs_do_not_show_their_insides(desk, request_fields, monkeypatch, caplog):
    monkeypatch.setattr("wanact.ui.pages.fly.desk.write_mp4", lambda *_, **__: 1 / 0)
    assert_matches(refused(desk, request_fields), "Something went wrong")
    assert "ZeroDivisionError" in caplog.text


def test_a_session_keeps_one_frame_of_a_clip_and_not_all(flown):
    _, frame, _ = flown
    assert frame.base is None, "a view keeps all that it is a part of"


def test_going_on_starts_from_the_last_frame(desk, flown):
    _, last, _ = flown
    image, note = desk.go_on(last)
    assert np.array_equal(np.asarray(image), last) and "last frame" in note
    with pytest.raises(gr.Error, match="no clip"):
        desk.go_on(None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "no flight record"),
        ("{}", "no flight record"),
        ('{"wanact_flight": 9}', "version 9"),
        ("\x00", "no flight"),
    ],
)
def test_a_file_that_is_no_flight_gets_one_sentence(desk, tmp_path, content, says):
    path = tmp_path / "flight.json"
    path.write_text(content)
    with pytest.raises(gr.Error, match=says):
        desk.open_flight(str(path))


def test_a_flight_of_another_length_or_checkpoint_is_told_apart(desk, flown, tmp_path):
    record = json.loads(flown[0][-1].message)
    path = tmp_path / "flight.json"
    path.write_text(json.dumps(record | {"checkpoint": {"id": "elsewhere/step-1"}}))
    assert desk.open_flight(str(path))["checkpoint"] is None
    path.write_text(json.dumps(record | {"actions": ActionTrack.zeros(20).to_list()}))
    with pytest.raises(gr.Error, match="20 actions, but a clip of 17 frames needs 4"):
        desk.open_flight(str(path))
    path.write_text(json.dumps(record | {"kind": "live"}))
    with pytest.raises(gr.Error, match="flown live, and is no clip; open it on Compare"):
        desk.open_flight(str(path))


def test_the_list_names_run_step_and_loss_with_the_base_last(desk):
    listing = desk.list_checkpoints()
    labels = [choice["label"] for choice in listing["choices"]]
    assert labels[1:] == ["drone · step 200 · loss 0.0500", "base (no actions)"]
    assert listing["default"] == "drone/step-000000400" and listing["damaged"] == 0


def test_sizes_are_the_models_own_turned_and_square():
    assert size_choices(96, 160) == ["160 × 96", "96 × 160", "128 × 128"]
    assert size_choices(64, 64) == ["64 × 64"]


def test_a_preview_is_a_small_animation():
    clip = np.random.default_rng(0).integers(0, 256, (21, 24, 40, 3), np.uint8)
    data = base64.b64decode(preview_url(clip, 16).split(",")[1])
    image = Image.open(io.BytesIO(data))
    assert image.n_frames == 21 and image.size == (40, 24) and len(data) < 40_000
