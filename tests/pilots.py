"""Checkpoints of pilots that were not trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from wanact.media.video import write_mp4
from wanact.runs.store import PILOT, write_checkpoint
from wanact.world import tasks


def write_pilot(
    run: Path, steps: tuple[int, ...] = (100, 200), task: str = "gates", observation: str = "state"
) -> Path:
    """A run of a pilot with a checkpoint a step, whose weights are chance; the higher the step, the more was done."""
    for step in steps:
        torch.manual_seed(step)
        weights = {}
        for name, out, into in (
            ("mlp_extractor.policy_net.0", 16, tasks.SIZE),
            ("mlp_extractor.policy_net.2", 16, 16),
            ("action_net", 4, 16),
        ):
            weights |= {f"{name}.weight": 0.3 * torch.randn(out, into), f"{name}.bias": torch.zeros(out)}
        mean, variance = torch.zeros(tasks.SIZE, dtype=torch.float64), torch.ones(tasks.SIZE, dtype=torch.float64)

        def fill(folder: Path, weights=weights, mean=mean, variance=variance) -> None:
            save_file(weights, folder / "pilot.safetensors")
            save_file({"observation.mean": mean, "observation.variance": variance}, folder / "normalizer.safetensors")
            (folder / "pilot.json").write_text(json.dumps({"observation": observation, "task": task}))
            (folder / "optimizer.pt").write_bytes(b"resuming needs it")

        share = step / (2 * steps[-1])
        metadata = {"kind": PILOT, "stage": "pilot", "loss": 1 - share, "success": share, "task": task}
        write_checkpoint(run, step, fill, metadata)
    rows = [{"step": 10 * n, "success": n / 40, "return": n / 4 - 1, "loss": 0.1} for n in range(1, 21)]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def write_evaluation(run: Path, step: int, where: str = "sim", film: bool = False, **success: float) -> Path:
    """Figures of a checkpoint: the success of `trained`, `hand_written` and `random` at gates, and a film."""
    pilots = {
        name: {"success": share, "interval": [max(0, share - 0.1), min(1, share + 0.1)], "return": 9.5, "length": 41.0}
        for name, share in ({"trained": 0.9, "hand_written": 1.0, "random": 0.0} | success).items()
    }
    if film:
        write_mp4(np.zeros((4, 16, 32, 3), np.uint8), run / f"flight-{where}-{step}.mp4", 8)
    path = run / f"evaluation-{where}-{step}.json"
    path.write_text(json.dumps({"step": step, "episodes": 50, "worlds": 20, "tasks": {"gates": pilots}}))
    return path
