import json

import numpy as np
import pytest
import torch

from wanact import actions
from wanact.actions import CHANNELS, FULL_DEFLECTION, OPPOSITE, PRESETS, ActionError, ActionTrack


def random_track(num_actions: int = 20, seed: int = 0) -> ActionTrack:
    generator = np.random.default_rng(seed)
    held = generator.random((num_actions, 8)) < 0.4
    return ActionTrack.from_keys(held, generator.random(8) * FULL_DEFLECTION)


def on_disk(num_actions: int = 2) -> np.ndarray:
    """A valid (N, 2, 8) array: forward and a right turn."""
    values = np.zeros((num_actions, 2, 8))
    values[:, 0, [0, 5]] = 1
    values[:, 1, [0, 5]] = 0.05, 2.5
    return values


def test_opposite_pairs_the_channels():
    assert [OPPOSITE[OPPOSITE[i]] for i in range(8)] == list(range(8))
    for a, b in (("forward", "back"), ("left", "right"), ("yaw_left", "yaw_right"), ("pitch_up", "pitch_down")):
        assert OPPOSITE[CHANNELS.index(a)] == CHANNELS.index(b)


@pytest.mark.parametrize("seed", range(5))
def test_json_round_trip_is_exact(seed):
    track = random_track(seed=seed)
    assert ActionTrack.parse(track.to_json()) == track
    assert json.loads(track.to_json()) == track.to_list()


@pytest.mark.parametrize(
    "convert", [json.dumps, lambda v: v, np.asarray, torch.tensor, lambda v: json.dumps(v).encode()]
)
def test_every_form_parses_to_the_same_track(convert):
    track = ActionTrack.parse(convert(on_disk().tolist()))
    np.testing.assert_allclose(track.magnitude, on_disk()[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(track.binary, on_disk()[:, 0])


def test_a_half_precision_tensor_parses():
    assert len(ActionTrack.parse(torch.tensor(on_disk()).bfloat16())) == 2


def broken(position: tuple, value: float) -> list:
    values = on_disk()
    values[position] = value
    return values.tolist()


def both_ways() -> list:
    values = on_disk()
    values[1, :, CHANNELS.index("back")] = 1, 0.02
    return values.tolist()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (on_disk()[:, 0, :7].tolist(), r"shape \(2, 7\), expected \(N, 2, 8\)"),
        (on_disk()[:, :, :7].tolist(), r"shape \(2, 2, 7\)"),
        (np.stack([on_disk()] * 2).tolist(), r"shape \(2, 2, 2, 8\)"),
        (broken((1, 0, 0), float("nan")), "action 1, forward: flag nan, expected 0 or 1"),
        (broken((0, 0, 1), 1), "action 0: forward and back are active at once"),
        (3.0, r"shape \(\)"),
        ([[[0] * 8, [0] * 7]], "differ in length"),
        (broken((1, 1, 0), float("nan")), "action 1, forward: magnitude nan is not a finite number"),
        (broken((0, 1, 5), float("inf")), "yaw_right: magnitude inf is not a finite number"),
        (broken((1, 1, 0), -0.05), "forward: magnitude -0.05 is negative"),
        (broken((1, 1, 0), 1e30), "is larger than"),
        (broken((0, 0, 0), 2), "action 0, forward: flag 2, expected 0 or 1"),
        (broken((0, 0, 0), -1), "flag -1, expected 0 or 1"),
        (both_ways(), "action 1: forward and back are active at once"),
        ([[["1"] * 8, ["0.5"] * 8]], "hold text"),
        ([[[None] * 8, [0] * 8]], "a non-number"),
        ({"actions": []}, "an object"),
        ("fly!", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"forward": 1}', "an object"),
        ("[[[NaN]]]", r"shape \(1, 1, 1\)"),
        (b"\xff\xfe\x00garbage", "not valid JSON"),
    ],
)
def test_broken_tracks_are_refused_in_one_sentence(source, message):
    with pytest.raises(ActionError, match=message) as caught:
        ActionTrack.parse(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_batch_of_one_and_magnitudes_alone_are_the_same_track():
    track = ActionTrack.parse(on_disk())
    assert ActionTrack.parse(on_disk()[None].tolist()) == track
    assert ActionTrack.parse(json.dumps(on_disk()[:, 1].tolist())) == track
    assert ActionTrack.parse(torch.from_numpy(on_disk())[None]) == track


def test_flags_that_differ_from_magnitudes_are_mended_with_a_word_and_a_count():
    values = on_disk()
    expected = values[:, 1].copy()
    yaw, left = CHANNELS.index("yaw_left"), CHANNELS.index("left")
    values[0, 0, left] = values[1, 0, left] = values[0, 0, yaw] = 1  # no magnitude
    values[1, 0, CHANNELS.index("forward")] = 0  # a magnitude without its flag
    values[:, :, CHANNELS.index("yaw_right")] = expected[:, CHANNELS.index("yaw_right")] = 0
    expected[:, left], expected[0, yaw] = FULL_DEFLECTION[left], FULL_DEFLECTION[yaw]
    says = "3 flags without a magnitude are taken as full deflection, 1 magnitudes without a flag are taken as they are"
    with pytest.warns(UserWarning, match=says):
        track = ActionTrack.parse(values.tolist())
    np.testing.assert_allclose(track.magnitude, expected, rtol=1e-6)


def test_ten_megabytes_of_json_are_refused_before_they_are_parsed():
    with pytest.raises(ActionError, match="10,000,000 characters"):
        ActionTrack.parse("1" * 10_000_000)


def test_a_track_for_hours_is_refused():
    with pytest.raises(ActionError, match="20,000 actions, at most 10,000"):
        ActionTrack.parse(np.zeros((20_000, 2, 8)))


def test_an_empty_track_is_a_track():
    assert len(ActionTrack.parse("[]")) == 0
    assert ActionTrack.parse(ActionTrack.zeros(0).to_json()) == ActionTrack.zeros(0)


def test_opposite_keys_cancel():
    held = np.zeros((3, 8), bool)
    held[0, [0, 1]] = True
    held[1, [4, 5, 0]] = True
    held[2] = True
    track = ActionTrack.from_keys(held)
    assert track.magnitude[0].sum() == 0
    assert np.flatnonzero(track.binary[1]).tolist() == [0]
    assert track == ActionTrack.from_keys(held & ~held[:, OPPOSITE])


def test_a_held_key_is_full_deflection_and_half_the_time_is_half():
    held = np.eye(8)
    np.testing.assert_allclose(ActionTrack.from_keys(held).magnitude, np.diag(FULL_DEFLECTION), rtol=1e-6)
    np.testing.assert_allclose(ActionTrack.from_keys(held / 2).magnitude, np.diag(FULL_DEFLECTION) / 2, rtol=1e-6)


@pytest.mark.parametrize("held", [np.zeros(8), np.zeros((2, 7)), np.full((1, 8), 2.0), np.full((1, 8), np.nan)])
def test_keys_that_are_no_keys_are_refused(held):
    with pytest.raises(ActionError, match="held keys"):
        ActionTrack.from_keys(held)


def test_a_track_cannot_be_changed_behind_its_checks():
    magnitude = np.zeros((2, 8), np.float32)
    track = ActionTrack(magnitude)
    magnitude[0, 0] = -1
    assert track == ActionTrack.zeros(2)
    with pytest.raises(ValueError, match="read-only"):
        track.magnitude[0, 0] = 1


def test_equal_tracks_hash_alike():
    assert len({random_track(), random_track(), random_track(seed=1)}) == 2


def test_a_wrong_length_names_both_numbers():
    ActionTrack.zeros(20).require_length(81)
    with pytest.raises(ActionError, match="12 actions, but a clip of 81 frames needs 20"):
        ActionTrack.zeros(12).require_length(81)


def test_a_track_is_cut_and_continued_with_rest():
    track = random_track(5)
    assert track.with_length(3) == ActionTrack(track.magnitude[:3])
    longer = track.with_length(8)
    assert longer.with_length(5) == track
    assert longer.magnitude[5:].sum() == 0


def test_the_model_sees_flags_and_scaled_magnitudes():
    binary, magnitude = ActionTrack.parse(on_disk()).to_model()
    assert binary.dtype == magnitude.dtype == np.float32
    np.testing.assert_allclose(magnitude[0], [5, 0, 0, 0, 0, 2.5, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(binary[0], [1, 0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(ActionTrack.parse(on_disk()).to_model([1] * 8)[1], on_disk()[:, 1].astype(np.float32))


@pytest.mark.parametrize("scale", [[1.0] * 7, [float("nan")] * 8, 100.0])
def test_a_wrong_magnitude_scale_is_refused(scale):
    with pytest.raises(ActionError, match="action_magnitude_scale must be 8"):
        ActionTrack.zeros(1).to_model(scale)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("num_actions", [0, 1, 7, 20, 50])
def test_presets_have_the_length_asked_for_and_stay_on_the_stick(name, num_actions):
    track = PRESETS[name](num_actions)
    assert len(track) == num_actions
    assert (track.magnitude <= np.asarray(FULL_DEFLECTION, np.float32)).all()
    assert ActionTrack.parse(track.to_json()) == track


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_track_holds_that_channel_alone(name):
    track = actions.channel_track(name, 4, fraction=0.5)
    index = CHANNELS.index(name)
    assert np.flatnonzero(track.binary.any(axis=0)).tolist() == [index]
    assert track == actions.channel_track(index, 4, fraction=0.5)
    np.testing.assert_allclose(track.magnitude[:, index], FULL_DEFLECTION[index] / 2, rtol=1e-6)


def path_end(name: str) -> np.ndarray:
    return actions.plan_path(actions.channel_track(name, 20))[-1]


def test_the_path_goes_where_the_keys_point():
    np.testing.assert_allclose(path_end("forward"), [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(path_end("back"), [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(path_end("left"), [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(path_end("right"), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(path_end("yaw_right"), [0, 0, 60], atol=1e-6)
    np.testing.assert_allclose(path_end("yaw_left"), [0, 0, -60], atol=1e-6)
    np.testing.assert_allclose(path_end("pitch_up"), [0, 0, 0], atol=1e-6)


def test_forward_after_a_right_turn_goes_right():
    turn = actions.channel_track("yaw_right", 30).magnitude  # 90 degrees
    ahead = actions.channel_track("forward", 20).magnitude
    np.testing.assert_allclose(actions.plan_path(ActionTrack(np.vstack([turn, ahead])))[-1], [1, 0, 90], atol=1e-6)


def test_a_full_orbit_comes_back():
    magnitude = np.zeros((120, 8), np.float32)  # 120 times 3 degrees
    magnitude[:, CHANNELS.index("left")] = 0.05
    magnitude[:, CHANNELS.index("yaw_right")] = 3
    path = actions.plan_path(ActionTrack(magnitude))
    assert path.shape == (121, 3)
    np.testing.assert_allclose(path[-1], [0, 0, 360], atol=1e-5)


def test_the_path_agrees_with_chained_camera_poses():
    track = random_track(30)
    pose = np.eye(4)  # camera to world, OpenCV axes: x right, y down, z forward
    for forward, back, left, right, yaw_left, yaw_right, pitch_up, pitch_down in track.magnitude:
        if pitch_up or pitch_down:
            continue  # pitch before yaw composes differently in a free camera; the plot keeps the horizon level
        angle = np.radians(yaw_right - yaw_left)
        step = np.eye(4)
        step[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        step[:3, 3] = right - left, 0, forward - back
        pose = pose @ step
    level = ActionTrack(track.magnitude[~track.binary[:, 6:].any(axis=1)])
    x, y, _ = actions.plan_path(level)[-1]
    np.testing.assert_allclose([x, y], pose[[0, 2], 3], atol=1e-6)


def test_the_mirrored_track_turns_the_other_way():
    assert PRESETS["Orbit right"](20).mirrored() == PRESETS["Orbit left"](20)
    assert PRESETS["Forward"](20).mirrored() == PRESETS["Forward"](20)
