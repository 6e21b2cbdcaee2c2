"""What becomes of checkpoints that are there already where a warm start is asked for: the operator says, or a flag."""

from __future__ import annotations

import sys
from typing import Literal

from train.pilot.config import PilotConfig, PilotError

Choice = Literal["resume", "warmstart", "external"]
_BY_NUMBER: dict[str, Choice] = {"1": "resume", "2": "warmstart", "3": "external"}


def choose(config: PilotConfig, step: int, where: str, has_progress: bool) -> Choice:
    """What to do with a checkpoint that was found.

    Args:
        config: the settings; `--on_existing` decides where it is given.
        step: of the newest checkpoint.
        where: its folder, for people.
        has_progress: whether completed chunks say that the training is under way: then nobody is asked.

    Raises:
        PilotError: if the answer needs a policy or demonstrations that were not named.
    """
    warm = config.warmstart
    choice: Choice
    if warm.on_existing != "ask":
        choice = warm.on_existing
    elif has_progress or not (warm.demonstrations or warm.external_policy) or not sys.stdin.isatty():
        choice = "resume"
    else:
        choice = _ask(config, step, where)
    if choice == "external" and not warm.external_policy:
        raise PilotError("the external policy was chosen, and none is named: give --external_policy FILE")
    if choice == "warmstart" and not (warm.demonstrations or warm.external_policy):
        raise PilotError("a warm start was chosen, and nothing to start from is named: give --demonstrations")
    return choice


def _ask(config: PilotConfig, step: int, where: str) -> Choice:
    warm = config.warmstart
    beside = [*warm.demonstrations, *([warm.external_policy] if warm.external_policy else [])]
    print(
        f"A checkpoint of step {step:,} is in {where}, and a warm start from {', '.join(beside)} is asked for.\n"
        "  1) resume from the checkpoint (the warm start is skipped)\n"
        "  2) warm-start again from fresh demonstrations (the checkpoint is ignored)\n"
        "  3) the external policy only (the checkpoint is ignored)",
        flush=True,
    )
    while True:
        try:
            answer = input("Choose 1, 2 or 3 [1]: ").strip() or "1"
        except EOFError:
            return "resume"
        if answer in _BY_NUMBER:
            return _BY_NUMBER[answer]
        print(f"{answer[:40]!r} is none of them.", flush=True)
