import re

import numpy as np

from tests.conftest import BUNDLED_RUN, ROOT, bundled_step
from tests.control_card.test_card import START, Camera, scenery  # noqa: F401  the fixture is shared
from wanact.actions import CHANNELS, PRESETS, ActionTrack, channel_track
from wanact.control_card.card import load_card
from wanact.control_card.clip import measure_clip
from wanact.control_card.fly import fly_probes
from wanact.control_card.measures import all_measures
from wanact.control_card.obeyed import count_obeyed, runs_of


def test_a_cards_control_is_that_of_its_own_clips(scenery):  # noqa: F811
    """The measure under a flight, taken of the clips that a card flies, gives the card's own figure."""
    camera = Camera(scenery, obedience=np.array([1, 1, -1, 1]))  # turns the wrong way

    def fly(start, track):
        return camera(start.prompt, start.image, track, start.seed, 4 * len(track) + 1)

    flown = fly_probes(fly, [START], dose_frames=0)
    _, seen = flown[0]
    counted = [count_obeyed(channel_track(c, 5), seen["hold", c, 1.0].picture) for c in range(8)]
    assert [one.runs for one in counted] == [1] * 8 and {one.longest for one in counted} == {21}
    accuracy = all_measures(flown)["sign_accuracy"]
    assert accuracy["mean"] == sum(one.right for one in counted) / 8 == 0.75
    assert [accuracy["by_channel"][name] for name in CHANNELS] == [one.share for one in counted]


def test_runs_are_cut_from_a_plan_where_the_picture_tells_them():
    fly_through = [(c, end - first) for c, first, end in runs_of(PRESETS["Fly-through"](20))]
    assert fly_through == [(0, 5)] * 4 + [(4, 4), (5, 4)]
    assert runs_of(PRESETS["Orbit left"](20)) == [], "left and yaw right slide the picture against each other"
    assert runs_of(channel_track("forward", 1)) == [], "over before the picture answers"
    assert all(2 <= end - first <= 5 for _, first, end in runs_of(channel_track("back", 13)))


def test_a_long_flight_tells_its_control_and_how_much_it_is_of(scenery):  # noqa: F811
    magnitude = np.zeros((12, 8))
    magnitude[:5, 5], magnitude[5:10, 6], magnitude[10:, 5] = 3, 3, 3
    track = ActionTrack(magnitude)
    control = measure_clip(Camera(scenery)("", None, track, 0, 49), track)["control"]
    assert (control["share"], control["right"], control["runs"]) == (1, 3, 3)
    assert control["of_what"] == "3 runs of 9 to 21 frames"
    frames = Camera(scenery, obedience=-1)("", None, track, 0, 49)
    assert measure_clip(frames, track)["control"]["share"] == 0
    assert measure_clip(frames, None)["control"] is None
    nothing = measure_clip(frames, ActionTrack.zeros(12))["control"]
    assert nothing["share"] is None and nothing["runs"] == 0


def test_what_the_readme_says_of_control_is_what_the_card_measured():
    run, step = BUNDLED_RUN.name, bundled_step()
    card = load_card(BUNDLED_RUN, step)
    assert card is not None and not card.is_quick
    words = (ROOT / "README.md").read_text(encoding="utf-8")
    of_what = re.escape(card.of_what)
    said = re.search(
        rf"`{run}` \(step {step}\): share of {of_what} .*\| (\d+)%, .*`wanact card assets/runs/{run}`", words
    )
    assert said and int(said[1]) == round(100 * card.number("sign_accuracy"))
