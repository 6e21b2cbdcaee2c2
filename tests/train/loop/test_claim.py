"""Two trainers on one folder: the second is told who has it; a lock that nobody holds any more stops nobody."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.train.processes import start, wait
from tests.waiting import wait_for
from train.loop.claim import LOCK, claim
from train.loop.config import parse
from train.loop.dist import Processes
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
from wanact.errors import UserError
from wanact.files import BusyError
from wanact.runs import store


class Slow(SyntheticStage):
    def load(self, draws):
        time.sleep(0.02)
        return super().load(draws)


def train(run, steps=8, stage=SyntheticStage):
    config = parse("synthetic", [f"--output_path={run}", f"--max_steps={steps}", "--save_steps=1", "--save_full_state",
                                 "--max_checkpoints=2", "--log_steps=1"])  # fmt: skip
    processes = Processes("no")
    trainer = Trainer(config, stage(config, processes.device), processes)
    trainer.run()
    return trainer


@pytest.fixture
def first(tmp_path):
    """A trainer at work in another process; its id."""
    child = start(lambda: train(tmp_path / "run", 100_000, Slow), tmp_path / "first.log")
    wait_for(lambda: store.list_checkpoints(tmp_path / "run"))
    yield child
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        return
    os.waitpid(child, 0)


def test_the_second_trainer_is_told_who_has_the_folder_and_harms_nothing(first, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=rf"run is being written by process {first} on \S+ since 2"):
        train(run)
    wait_for(lambda: len(store.list_checkpoints(run)) >= 2)
    os.kill(first, signal.SIGTERM)
    assert wait(first) == 0, (tmp_path / "first.log").read_text()
    steps = [row["step"] for row in store.read_log(run)]
    assert steps == list(range(1, len(steps) + 1)), "the first went on as if nobody had come"
    for info in store.list_checkpoints(run):
        store.verify(info.path)


def test_a_killed_trainer_holds_nothing(first, tmp_path):
    run = tmp_path / "run"
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert (run / LOCK).exists(), "who was killed could not clear up"
    last = store.list_checkpoints(run)[-1].step
    trainer = train(run, last + 2)
    assert trainer.step == last + 2 and not (run / LOCK).exists()


def test_a_trainer_that_fails_lets_go_of_the_folder(tmp_path):
    class Failing(SyntheticStage):
        def setup(self, processes):
            raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        train(tmp_path, stage=Failing)
    assert train(tmp_path).step == 8


def test_one_at_a_time_from_the_same_process_too(tmp_path):
    with claim(tmp_path), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        claim(tmp_path)
    claim(tmp_path).release()
    assert not (tmp_path / LOCK).exists()


def test_where_there_are_no_locks_it_is_said_and_training_goes_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="without locks"):
        assert train(tmp_path).step == 8
