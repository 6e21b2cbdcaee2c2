"""A card says what was flown: an obedient camera reads well in every measure, a deaf one reads chance."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from wanact.actions import CHANNELS, OPPOSITE, ActionTrack
from wanact.control_card.card import CURVES, ControlCard, card_path, load_card, load_cards, save_card
from wanact.control_card.clip import lag_of, measure_clip
from wanact.control_card.curves import draw_curves
from wanact.control_card.fly import measure_card, num_clips
from wanact.control_card.measures import _shape, cross_talk, dose_response, separation, sign_accuracy
from wanact.control_card.picture import draw_card
from wanact.control_card.probes import DOSES, FirstFrame, fixed_first_frames, out_and_back, probes
from wanact.data.camera import FULL, along_channels, asked_axes, see
from wanact.files import CheckpointError

HEIGHT, WIDTH = 96, 160
FOCAL = WIDTH / 2 / np.tan(np.radians(37.5))
CAMERA = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])


@pytest.fixture(scope="module")
def scenery() -> np.ndarray:
    """Blobs of all sizes, larger than a frame."""
    rng = np.random.default_rng(3)
    blobs = [cv2.GaussianBlur(rng.normal(0, s, (480, 800, 3)), (0, 0), s) for s in (2, 4, 9)]
    return np.clip(128 + 90 * sum(blobs), 0, 255).astype(np.uint8)


class Camera:
    """A camera before far scenery that turns as it is told; flying slides and grows the picture.

    Args:
        obedience: what becomes of an action.
        delay: latent frames until it does.
    """

    def __init__(self, scenery: np.ndarray, obedience: float = 1.0, delay: int = 0):
        self.scenery, self.obedience, self.delay = scenery, obedience, delay
        self.controller, self.checkpoint, self.causal = object(), SimpleNamespace(run="drone", step=40), None
        self.defaults, self.metadata = {"num_inference_steps": 8, "guidance_scale": 2.0}, {"name": "far"}
        self.calls = 0

    def fingerprint(self) -> str:
        return "ab12"

    def __call__(self, prompt, image, track, seed, num_frames, **settings):
        self.calls += 1
        asked = np.zeros((num_frames // 4, 4)) if track is None else asked_axes(track) * self.obedience
        late = np.concatenate([np.zeros((self.delay, 4)), asked])[: len(asked)]
        along = np.concatenate([np.zeros((1, 4)), np.cumsum(np.repeat(late / 4, 4, axis=0), axis=0)])
        return np.stack([self.look(*place) for place in along])

    def look(self, ahead, right, yaw_deg, pitch_deg):
        """Far scenery in this direction; nearer and farther, it is larger and smaller."""
        yaw, _ = cv2.Rodrigues(np.array([0, np.radians(yaw_deg), 0]))
        pitch, _ = cv2.Rodrigues(np.array([np.radians(pitch_deg), 0, 0]))
        slide = np.diag([np.exp(2 * ahead)] * 2 + [1]) @ np.array([[1, 0, -0.6 * right], [0, 1, 0], [0, 0, 1]])
        centre = np.array([[1, 0, -400 + WIDTH / 2], [0, 1, -240 + HEIGHT / 2], [0, 0, 1]])
        view = CAMERA @ slide @ (yaw @ pitch).T @ np.linalg.inv(CAMERA) @ centre
        return cv2.warpPerspective(self.scenery, view, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


START = FirstFrame(
    Image.new("RGB", (WIDTH, HEIGHT)),
    "blobs",
    0,
    {"camera": [0.1, 0.1, 0.03, 0.03, 3, 3, 3, 3], "picture": [0.1, 0.1, 0.0195, 0.0195, 0.034, 0.034, 0.034, 0.034]},
)


@pytest.fixture(scope="module")
def card(scenery) -> ControlCard:
    pipe = Camera(scenery)
    card = measure_card(pipe, [START], dose_frames=1)
    assert pipe.calls == num_clips(1, 1) == 49
    return card


@pytest.mark.parametrize("yaw_deg, pitch_deg", [(3, 0), (-3, 0), (0, 3), (0, -1.5), (2, -2), (0.75, 0)])
def test_rotation_is_read_in_degrees(scenery, yaw_deg, pitch_deg):
    camera = Camera(scenery)
    frames = np.stack([camera.look(0, 0, yaw_deg * t / 4, pitch_deg * t / 4) for t in range(5)])
    seen = see(frames).camera[0]
    assert seen[2:] == pytest.approx([yaw_deg, pitch_deg], abs=0.05)
    assert seen[:2] == pytest.approx([0, 0], abs=0.003), "the scenery is far: turning shows no parallax"


def test_an_obedient_camera_reads_well_in_every_measure(card):
    assert (card.number("sign_accuracy"), card.number("worst_channel"), card.number("separation")) == (1, 1, 1)
    doses = card.measures["dose_response"]["by_channel"]
    for channel in CHANNELS:
        assert doses[channel]["gain"] == pytest.approx(1, abs=0.06), channel
        assert doses[channel]["linearity_r2"] > 0.99 and doses[channel]["dead_zone"] < 0.05
    assert set(card.measures["lag"]["by_channel"].values()) == {0}
    assert card.number("null_drift") < 0.01 and card.number("out_and_back") < 0.03
    assert card.measures["out_and_back"]["psnr_db"]["yaw_left"] > 35


def test_turning_is_not_taken_for_flying(card):
    matrix = np.array(card.measures["cross_talk"]["matrix"])
    turns = matrix[4:]
    assert np.diag(turns[:, 4:]) == pytest.approx(1, abs=0.05)
    assert turns[~np.eye(4, 8, k=4, dtype=bool)].max() < 0.06


def test_a_late_camera_reads_late(scenery):
    late = Camera(scenery, delay=2)
    flights = [late("", None, out_and_back(c), 0, 33) for c in (4, 7)]
    for channel, frames in zip((4, 7), flights, strict=True):
        seen = along_channels(see(frames).camera)[:, channel]
        assert lag_of(along_channels(asked_axes(out_and_back(channel)))[:, channel], seen)[0] == 2


def test_a_camera_without_controls_is_flown_once_a_length_and_reads_chance(scenery):
    deaf = Camera(scenery)
    deaf.controller = deaf.checkpoint = None
    deaf.look = lambda *place: Camera.look(deaf, 0.02, 0.03, 0, 0) if deaf.calls % 2 else Camera.look(deaf, 0, 0, 0, 0)
    card = measure_card(deaf, [START], dose_frames=1)
    assert deaf.calls == 2 and card.title == "base"
    assert card.number("separation") == 0 and card.number("sign_accuracy") <= 0.5
    assert card.measures["lag"]["mean"] is None


def test_measures_of_known_answers():
    own = np.array([[1, -1, 1, 1, 0, 1, 1, 1.0], [1, 1, 1, -2, 1, 1, 1, 1]])
    assert sign_accuracy(own)["by_channel"]["back"] == 0.5 and sign_accuracy(own)["by_channel"]["yaw_left"] == 0.5
    assert separation(own)["by_channel"]["left"] == separation(own)["by_channel"]["right"] == 0.5
    exact, half_dead = np.array(DOSES), np.clip(np.array(DOSES) - 0.25, 0, 0.75)
    assert _shape(0.8 * exact) == pytest.approx({"gain": 0.8, "linearity_r2": 1, "dead_zone": 0, "saturation": 0})
    shape = _shape(half_dead)
    assert shape["dead_zone"] == pytest.approx(0.25) and shape["saturation"] == 1 and shape["linearity_r2"] == 1
    assert _shape(-exact)["gain"] == -1 and _shape(-exact)["dead_zone"] == 1
    alone = _shape(np.array([np.nan, np.nan, np.nan, 0.7, np.nan]))
    assert alone["gain"] == pytest.approx(0.7) and alone["linearity_r2"] is None
    unknown = dose_response(np.full((2, 8, 5), np.nan))
    assert unknown["mean_gain"] is None and unknown["by_channel"]["left"]["dead_zone"] is None


def test_cross_talk_stands_where_it_is_asked_and_seen():
    camera = np.zeros((1, 8, 4))
    camera[0, 2] = [0, -0.05, -1.5, 0]  # left turns left by half its full deflection as well
    talk = cross_talk(camera, np.array([[0.05] * 4 + [3.0] * 4]))
    assert talk["worst"] == {"asked": "left", "seen": "yaw_left", "share": 0.5}
    assert talk["matrix"][2] == pytest.approx([0, 0, 1, 0, 0.5, 0, 0, 0])


def test_lag_is_found_and_silence_has_none():
    asked = np.array([0, 1, 1, -1, -1, 0, 0, 0.0])
    for lag in range(4):
        found, likeness = lag_of(asked, np.concatenate([np.zeros(lag), 2 * asked])[:8])
        assert found == lag and likeness == pytest.approx(1)
    assert lag_of(asked, np.zeros(8)) == (None, 0.0) and lag_of(np.zeros(8), asked) == (None, 0.0)


def test_out_and_back_returns_and_probes_touch_one_channel_at_a_time():
    for c in range(8):
        assert np.allclose(asked_axes(out_and_back(c)).sum(0), 0)
        assert out_and_back(c).magnitude[1].argmax() == c and out_and_back(c).magnitude[3].argmax() == OPPOSITE[c]
    tracks = probes(5, doses=True)
    assert len(tracks) == 8 * 5 + 1 + 8 and max((p.track.magnitude > 0).sum(1).max() for p in tracks) == 1


def test_numbers_of_one_flight(scenery):
    magnitude = np.zeros((6, 8))
    magnitude[:3, 5], magnitude[3:, 6] = 3, 3
    track = ActionTrack(magnitude)
    numbers = measure_clip(Camera(scenery)("", None, track, 0, 25), track)
    json.dumps(numbers, allow_nan=False)
    assert numbers["agreement"]["yaw_right"] == numbers["agreement"]["pitch_up"] == numbers["mean_agreement"] == 1
    assert numbers["agreement"]["left"] is None and numbers["lag"] == 0 and numbers["likeness"] > 0.9
    assert numbers["correlation"]["yaw_right"] > 0.95 and numbers["correlation"]["ahead"] is None
    assert np.allclose(numbers["asked"], asked_axes(track)) and len(numbers["sharpness"]) == 25
    blurred = np.stack(
        [cv2.GaussianBlur(f, (0, 0), 0.1 + t / 6) for t, f in enumerate(Camera(scenery)("", None, None, 0, 13))]
    )
    worse = measure_clip(blurred, None)
    assert worse["sharpness"][-1] < 0.8 and worse["mean_agreement"] is None and worse["asked"] is None
    darker = np.stack([np.full((32, 32, 3), 200 - 10 * t, np.uint8) for t in range(5)])
    assert np.all(np.diff(measure_clip(darker, None)["colour"]) > 2)


def test_a_card_reads_back_and_lies_beside_its_checkpoints(card, tmp_path):
    run = tmp_path / "drone"
    path = save_card(card, card_path(run, 40))
    assert path.parent == run / "control_card" and load_card(run, 40) == card
    assert load_card(run, 41) is None and load_card(tmp_path / "none", 40) is None
    assert [c.title for c in load_cards(run)] == ["drone, step 40"] and load_cards(tmp_path) == []
    for name in CURVES:
        assert card.number(name) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"wanact_control_card": 9}', '{"wanact_control_card": 1}'])
def test_a_damaged_card_is_none(tmp_path, content):
    path = card_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_text(content)
    assert load_card(tmp_path, 1) is None and load_cards(tmp_path) == []
    with pytest.raises(CheckpointError):
        ControlCard.from_json(content)


def test_a_card_that_is_a_link_is_not_followed(card, tmp_path):
    outside = save_card(card, tmp_path / "elsewhere.json")
    path = card_path(tmp_path / "run", 1)
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    assert load_card(tmp_path / "run", 1) is None


def test_cards_and_curves_are_drawn_in_both_themes(card):
    light, dark = draw_card(card), draw_card(card, dark=True)
    assert light.size == dark.size and np.asarray(light).mean() > 200 > 60 > np.asarray(dark).mean()
    base = ControlCard({"run": "base", "step": None}, card.model, card.settings, card.measures)
    assert draw_curves([card, base]).width == light.width
    with pytest.raises(ValueError, match="no control cards"):
        draw_curves([])
    without = json.loads(json.dumps(card.to_json()).replace('"gain": 1.', '"gain": null, "was": 1.'))
    assert draw_card(ControlCard.from_json(without)).size == light.size


def test_the_fixed_first_frames_are_there():
    starts = fixed_first_frames()
    assert len(starts) == 12 and len({start.world for start in starts}) == 12
    for start in starts:
        assert start.image.size == (320, 192) and start.prompt and start.reference is not None
        assert min(start.reference["picture"]) > 0 and min(start.reference["camera"]) > 0
        assert start.reference["camera"][4:] == [FULL[2]] * 4
    with pytest.raises(ValueError, match="first_frames=13 must be 1 to 12"):
        fixed_first_frames(13)
