"""How widely the pilot explores: less and less, and for a while more where it stops getting better."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from train.pilot.config import TemperatureSettings


@dataclass
class TemperatureController:
    """Scales the deviation of the sticks that are tried; moved once an update, all of its state is in its fields.

    Attributes:
        current_temperature: what the policy's deviation is multiplied by.
        fast_ema, slow_ema: exponential means of the success of episodes; None before the first.
        stalled: updates in a row in which the fast mean was no better than the slow one.
        pulse_active: whether it is raised just now.
        pulse_left, cooldown_left: updates until the pulse ends, and until another may begin.
        num_pulses: how many there were.
    """

    current_temperature: float = 1.0
    fast_ema: float | None = None
    slow_ema: float | None = None
    stalled: int = 0
    pulse_active: bool = False
    pulse_left: int = 0
    cooldown_left: int = 0
    num_pulses: int = 0

    @classmethod
    def begin(cls, settings: TemperatureSettings) -> TemperatureController:
        return cls(current_temperature=settings.temperature_initial)

    def update(self, success: float | None, settings: TemperatureSettings) -> None:
        """Move on by one update.

        Args:
            success: share of the episodes since the update before that were done, None if none ended.
            settings: how it moves.
        """
        if success is not None:
            self.fast_ema = _towards(self.fast_ema, success, settings.temperature_fast)
            self.slow_ema = _towards(self.slow_ema, success, settings.temperature_slow)
        if self.pulse_active:
            self.pulse_left -= 1
            if self.pulse_left <= 0:
                self.pulse_active, self.cooldown_left = False, settings.temperature_cooldown
                self.current_temperature /= settings.temperature_pulse
            return
        lowest = settings.temperature_lowest
        self.current_temperature = max(self.current_temperature * settings.temperature_decay, lowest)
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            return
        self.stalled = self.stalled + 1 if self._is_stalled() else 0
        if self.stalled >= settings.temperature_patience:
            self.stalled, self.pulse_active = 0, True
            self.pulse_left = settings.temperature_pulse_updates
            self.current_temperature *= settings.temperature_pulse
            self.num_pulses += 1

    def _is_stalled(self) -> bool:
        if self.fast_ema is None or self.slow_ema is None:
            return False
        return self.fast_ema <= self.slow_ema + 1e-3 and self.fast_ema < 0.95

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _towards(mean: float | None, value: float, share: float) -> float:
    return value if mean is None else mean + share * (value - mean)
