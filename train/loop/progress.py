"""What is seen while a run goes on: a bar, log.jsonl, and a tracker's curves."""

from __future__ import annotations

import importlib.util
import time
import warnings

import torch
from torch import Tensor
from tqdm import tqdm

from train.loop.config import Tracker, TrainConfig
from train.loop.dist import Processes
from train.loop.log import RunLog
from train.loop.sampler import StepSampler


class Progress:
    """Reports the steps of one run. Only the main process writes.

    Args:
        log: where lines go; the main process's.
        step: steps done before.
        num_steps: steps of the whole run.
        sampler: for the number of samples in a step.
    """

    def __init__(
        self,
        processes: Processes,
        config: TrainConfig,
        log: RunLog | None,
        step: int,
        num_steps: int,
        sampler: StepSampler,
    ) -> None:
        self.processes, self.samples_per_step, self.run_log = processes, sampler.global_batch, log
        self.since_log, self.logged_step = time.perf_counter(), step
        self.norm = 0.0
        self.bar = tqdm(total=num_steps, initial=step, unit="step", disable=not processes.is_main, mininterval=1.0)
        self.tracker = config.log.tracker
        if self.tracker != "none":
            name = config.log.wandb_run_name
            key = {"wandb": {"name": name, "resume": "allow"}, "trackio": {"name": name}}.get(self.tracker, {})
            processes.accelerator.init_trackers(
                config.log.wandb_project, config=_flat(config), init_kwargs={self.tracker: key} if name else {}
            )

    def step(self, step: int, losses: dict[str, Tensor], rate: float, norm: float) -> None:
        """Move the bar by one step."""
        self.norm = norm
        if not self.bar.disable:
            self.bar.set_postfix_str(
                f"loss {float(losses['loss']):.4f}, lr {rate:.2e}, {self._speed():.2f} samples/s, {memory_gb():.1f} GB",
                refresh=False,
            )
        self.bar.update(1)

    def _speed(self) -> float:
        """Samples a second since the last log line, over all processes."""
        steps = self.bar.n - self.logged_step + 1
        return steps * self.samples_per_step / max(1e-9, time.perf_counter() - self.since_log)

    def log(self, step: int, epoch: int, means: dict[str, float], rate: float) -> None:
        """Write a line of log.jsonl: means over the steps since the line before, and the rate of this step."""
        if self.run_log is None:
            return
        now = time.perf_counter()
        seconds, steps = now - self.since_log, max(1, step - self.logged_step)
        self.since_log, self.logged_step = now, step
        row = {
            "step": step,
            "epoch": epoch,
            **{name: round(value, 6) for name, value in means.items()},
            "learning_rate": rate,
            "grad_norm": round(self.norm, 6),
            "seconds": round(seconds, 3),
            "samples_per_second": round(steps * self.samples_per_step / max(seconds, 1e-9), 3),
            "memory_gb": round(memory_gb(), 3),
        }
        self.run_log.add(row)
        if self.tracker != "none":
            values = {name: value for name, value in row.items() if name != "step"}
            try:
                self.processes.accelerator.log(values, step=step)
            except OSError as error:  # it writes files or sends them; neither is worth the run
                warnings.warn(f"{self.tracker} did not take step {step}: {error}. Training goes on", stacklevel=2)

    def close(self) -> None:
        self.bar.close()


def available_tracker(name: Tracker) -> Tracker:
    """The tracker that was asked for, or "none" with a warning if its package is not installed."""
    if name == "none" or importlib.util.find_spec(name) is not None:
        return name
    warnings.warn(f"{name} is not installed, so that curves go to log.jsonl alone; pip install {name}", stacklevel=2)
    return "none"


def memory_gb() -> float:
    """Most memory in use so far: on the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _flat(config: TrainConfig) -> dict[str, str | int | float | bool]:
    """Settings as trackers take them: one level, plain values."""
    flat: dict[str, str | int | float | bool] = {"stage": config.stage_name}
    for section, values in config.to_dict().items():
        if isinstance(values, dict):
            flat |= {
                f"{section}.{name}": v if isinstance(v, str | int | float | bool) else str(v)
                for name, v in values.items()
            }
    return flat
