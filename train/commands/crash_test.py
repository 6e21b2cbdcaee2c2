"""Kill the trainer at random moments, restart it by the same command, and compare with a run left in peace.

    python -m train crash_test --kills 200 --json crash.json
    python -m train crash_test --kills 20 --steps 20 vidarc --model_dir DIR --distribution_matching true ...

The first trains a network without data or meaning, the second a stage with its own settings.

A third of the kills come at a random time, a third while a checkpoint is being written and a third while an old one
is being removed. After every kill each checkpoint whose manifest is valid must verify, and the restart must continue
from the newest of them. When a run reaches its end, its weights and its optimizer must equal those of the undisturbed
run bit for bit, and its log must hold every step once; then the next run begins, until all kills are spent.

The runs are forked from this process, so that a restart costs milliseconds and not the import of torch.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from train.loop import saving
from train.loop.config import TrainConfig, parse
from train.loop.dist import Processes
from train.loop.stage import Stage
from train.loop.trainer import Trainer, library_versions
from train.stages import STAGES, refuse_unused, stage_class
from train.stages.synthetic import SyntheticStage
from wanact.errors import UserError
from wanact.files import CheckpointError, place, write_json
from wanact.runs import store
from wanact.runs.ref import CHECKPOINTS

STEPS, SAVE_STEPS, KEEP = 40, 2, 3
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Subject:
    """What is trained and killed.

    Attributes:
        stage: its name; None for the synthetic one.
        flags: its settings, but for where it writes and how often.
        steps: of a run.
    """

    stage: str | None = None
    flags: tuple[str, ...] = ()
    steps: int = STEPS

    @property
    def kind(self) -> type[Stage]:
        return SyntheticStage if self.stage is None else stage_class(self.stage)

    def config(self, run: Path) -> TrainConfig:
        """Settings of a run in this folder."""
        flags = {
            **({"batch_size": 2, "ema_decay": 0.9} if self.stage is None else {}),
            "output_path": run,
            "max_steps": self.steps,
            "save_steps": SAVE_STEPS,
            "max_checkpoints": KEEP,
            "save_full_state": True,
            "log_steps": 1,
        }
        own, kind = [f"--{name}={value}" for name, value in flags.items()], self.kind
        if self.stage is None:
            return parse(kind.name, own)
        config = parse(self.stage, [*self.flags, *own], kind.options, partial(refuse_unused, kind), kind.usual)
        kind.check(config)
        return config

    def trainer(self, run: Path) -> Trainer:
        config = self.config(run)
        processes = Processes("no" if self.stage is None else config.optim.mixed_precision)
        return Trainer(config, self.kind(config, processes.device), processes)


@dataclass
class Report:
    """What happened. `ok` is whether all of it is as it must be."""

    kills: int = 0
    kills_inside_save: int = 0
    kills_inside_prune: int = 0
    runs: int = 0
    lost_steps: int = 0
    failed_loads: int = 0
    missing_log_lines: int = 0
    weights_equal: bool = True
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.weights_equal and not (self.lost_steps or self.failed_loads or self.missing_log_lines)


def main(argv: list[str] | None = None) -> int:
    """Run the crash test; the exit status is 1 if anything was lost."""
    argv = sys.argv[1:] if argv is None else argv
    at = next((i for i, token in enumerate(argv) if token in STAGES), len(argv))
    parser = argparse.ArgumentParser(
        prog="python -m train crash_test",
        description=f"{main.__doc__} Behind these flags STAGE and its own train that stage: {', '.join(STAGES)}.",
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=STEPS, help="of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=place, help="write the figures here")
    parser.add_argument("--work_dir", type=place, help="keep the runs here instead of a temporary folder")
    args = parser.parse_args(argv[:at])
    for name in ("kills", "steps"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be at least 1")
    subject = Subject(*argv[at : at + 1], flags=tuple(argv[at + 1 :]), steps=args.steps)
    subject.config(args.work_dir or Path("run"))  # what cannot be used is said now
    torch.set_num_threads(1)  # threads do not survive a fork
    folder = args.work_dir or Path(tempfile.mkdtemp(prefix="crash-"))
    try:
        report = crash_test(folder, args.kills, args.seed, subject)
    finally:
        if args.work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    for name, value in asdict(report).items():
        print(f"{name:20} {value}")
    if args.json:
        write_json(args.json, asdict(report))
    return 0 if report.ok else 1


def crash_test(folder: Path, kills: int, seed: int, subject: Subject) -> Report:
    """Spend `kills` kills on runs under `folder`."""
    began, rng, report = time.perf_counter(), random.Random(seed), Report()
    import torch._dynamo  # noqa: F401  # every optimizer imports it; here once for all children

    library_versions()
    reference = folder / "undisturbed"
    _finish(subject, reference)
    duration = _duration(subject, folder / "timed")
    while report.kills < kills:
        run = folder / f"run{report.runs}"
        while report.kills < kills and not _is_finished(run, subject.steps):
            _kill_once(subject, run, rng, duration, report)
        _finish(subject, run)
        report.runs += 1
        report.weights_equal &= _same_state(run, reference, subject.steps)
        steps = [row["step"] for row in store.read_log(run)]
        report.missing_log_lines += steps != list(range(1, subject.steps + 1))
    report.seconds = round(time.perf_counter() - began, 1)
    return report


def _train(subject: Subject, run: Path, resumed: int) -> None:
    """What a child process does; tells through the pipe `resumed` where it continued."""
    trainer = subject.trainer(run)
    trainer.setup()
    os.write(resumed, trainer.step.to_bytes(8, "little"))
    trainer.run()


def _start(subject: Subject, run: Path) -> tuple[int, int]:
    """Fork a trainer; its process id, and a pipe that says at which step it continued."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    status = 1
    try:
        os.close(reader)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        _train(subject, run, writer)
        status = 0
    finally:
        os._exit(status)


def _finish(subject: Subject, run: Path) -> None:
    child, reader = _start(subject, run)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reader)
    if status:
        raise RuntimeError(f"the run in {run} ended with status {status} although nobody disturbed it")


def _duration(subject: Subject, run: Path) -> float:
    began = time.perf_counter()
    _finish(subject, run)
    return time.perf_counter() - began


def _is_finished(run: Path, steps: int) -> bool:
    return any(info.step == steps and info.problem is None for info in store.list_checkpoints(run))


def _kill_once(subject: Subject, run: Path, rng: random.Random, duration: float, report: Report) -> None:
    """Start the run, kill it once, and look at what is left."""
    expected = _newest_sound(run, report)
    child, reader = _start(subject, run)
    moment = rng.choice([None, ".saving-", ".deleting-"])
    if moment is None:
        _wait(child, lambda: False, rng.uniform(0, duration * 0.6))
    else:
        # Let some checkpoints pass first, so that the run moves on.
        passed = rng.randrange(4)
        last = expected + passed * SAVE_STEPS
        hidden = run / CHECKPOINTS
        _wait(child, lambda: _latest_step(run) >= last and _has(hidden, moment), LONGEST_WAIT)
        time.sleep(rng.random() * rng.choice([0.0, 0.002, 0.02]))
    os.kill(child, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    told = os.read(reader, 8)
    os.close(reader)
    if told:
        report.lost_steps += max(0, expected - int.from_bytes(told, "little"))
    if killed:
        report.kills += 1
        folder = run / CHECKPOINTS
        report.kills_inside_save += _has(folder, ".saving-") or _has(folder, ".replaced-")
        report.kills_inside_prune += _has(folder, ".deleting-")


def _wait(child: int, until: Callable[[], bool], seconds: float) -> None:
    """Wait until something holds, the time is over, or the child has ended (it stays to be reaped)."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not until():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.0002)


def _has(folder: Path, prefix: str) -> bool:
    return folder.is_dir() and any(name.startswith(prefix) for name in os.listdir(folder))


def _latest_step(run: Path) -> int:
    folder = run / CHECKPOINTS
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name[5:]) for name in names if name.startswith("step-")), default=0)


def _newest_sound(run: Path, report: Report) -> int:
    """Step that a restart has to continue from; every checkpoint with a valid manifest is read to the last byte."""
    newest = 0
    for info in store.list_checkpoints(run):
        if not info.metadata:
            continue
        try:
            store.verify(info.path)
        except CheckpointError as error:
            print(error)
            report.failed_loads += 1
        else:
            newest = info.step
    return newest


def _same_state(one: Path, other: Path, steps: int) -> bool:
    first, second = (_state(run / CHECKPOINTS / store.step_name(steps)) for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and what every optimizer keeps."""
    state = saving.read_weights(checkpoint)
    state |= {f"ema.{name}": value for name, value in saving.read_ema(checkpoint).items()}
    for phase, content in (saving.read_optimizer(checkpoint) or {}).items():
        for name, kept in content["state"].items():
            state |= {f"{phase}.{name}.{key}": value for key, value in kept.items()}
    return state
