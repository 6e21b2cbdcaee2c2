"""Control of long flights, measured on a world whose motion is known: a picture that slides and grows as told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from wanact.actions import CHANNELS, FULL_DEFLECTION, OPPOSITE
from wanact.control_card.live import HOLD, hold_plan, measure_live
from wanact.data.motion import CHANNEL_SIGNS, COMPONENTS


class Slide:
    """A flight over a still picture; `obeys` says which channels do anything, `drift` what it forgets."""

    def __init__(self, seed: int, obeys: set[str], drift: float = 0.0):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 64, 3), np.uint8)
        self.picture = cv2.resize(noise, (480, 288), interpolation=cv2.INTER_CUBIC)
        self.obeys, self.drift, self.seen = obeys, drift, np.zeros(3)
        self.image = Image.fromarray(self._frame())

    def _frame(self) -> np.ndarray:
        x, y, growth = self.seen
        zoom = 1.05**growth
        view = np.array([[zoom, 0, 160 / 2 + x - zoom * 240], [0, zoom, 96 / 2 + y - zoom * 144]], np.float32)
        return cv2.warpAffine(self.picture, view, (160, 96), borderMode=cv2.BORDER_REFLECT)

    def step(self, action: np.ndarray) -> np.ndarray:
        frames = []
        for _ in range(4):
            for channel, name in enumerate(CHANNELS):
                if action[channel] and name in self.obeys:
                    component, sign = CHANNEL_SIGNS[name]
                    self.seen[COMPONENTS.index(component)] += sign * action[channel] / FULL_DEFLECTION[channel] / 2
            self.seen[0] += self.drift
            frames.append(self._frame())
        return np.stack(frames)


def test_a_flight_that_obeys_is_right_in_every_channel_and_comes_back():
    summary = measure_live(lambda i: Slide(i, set(CHANNELS)), 1, 160).summary()
    assert summary["min_sign_accuracy"] == 1 and set(summary["sign_accuracy_late"].values()) == {1.0}
    assert summary["holds"] == 160 // HOLD
    assert min(summary["out_and_back_least_db"].values()) > 30


def test_what_is_not_obeyed_and_what_does_not_come_back_is_seen():
    summary = measure_live(lambda i: Slide(i, set(CHANNELS) - {"yaw_left"}, drift=0.6), 1, 80).summary()
    accuracy = summary["sign_accuracy"]
    assert accuracy["forward"] == accuracy["back"] == accuracy["pitch_up"] == 1
    assert summary["response"]["yaw_left"] < summary["response"]["left"]
    assert summary["out_and_back_psnr_db"]["yaw_left, yaw_right"] < 25


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_holds_opposite_channels_next_to_each_other(seed):
    plan = hold_plan(np.random.default_rng(seed), 200)
    assert len(plan) == 20 and set(plan) == set(range(8))
    assert all(OPPOSITE[out] == back for out, back in zip(plan[::2], plan[1::2], strict=True))
