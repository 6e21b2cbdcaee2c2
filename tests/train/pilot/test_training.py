"""A pilot's training stops and goes on as if it had not stopped, whatever stopped it, and says what it did."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.pilot import checkpoint, envs, evaluate, film
from train.pilot.config import PilotConfig, PilotError, parse
from train.pilot.demonstrations import clone, gather
from train.pilot.evaluate import PILOTS, measure
from train.pilot.ppo import PilotPPO
from train.pilot.temperature import TemperatureController
from train.pilot.training import LOG, PROGRESS, make_environments, train
from wanact.actions import ActionTrack
from wanact.files import CheckpointError, load_state, load_weights, read_json
from wanact.flying.record import FlightRecord
from wanact.media.footage import num_frames_of
from wanact.models.pilot import load_pilot
from wanact.runs import store
from wanact.runs.evaluations import SIMULATOR, film_file, read_evaluation, read_film

PLAN = Path(__file__).resolve().parents[3] / "train/configs/pilot/ppo_warmstart.json"
STEPS = 40


def settings(run: Path, **more: Any) -> PilotConfig:
    flags = {
        "output_dir": run, "num_envs": 2, "num_worlds": 1, "total_steps": STEPS, "rollout_len": 16, "batch_size": 8,
        "num_epochs": 2, "checkpoint_interval": 10, "max_checkpoints": 100, "tensorboard": False,
    } | more  # fmt: skip
    words = [f"--{name}={value}" for name, value in flags.items() if not isinstance(value, list)]
    lists = [[f"--{name}", *map(str, value)] for name, value in flags.items() if isinstance(value, list)]
    return parse([*words, *sum(lists, [])])


class Stop(Exception):
    """What stops a training where a test wants it."""


def stop_at(step: int):
    def look(model: PilotPPO) -> None:
        if model.steps == step:
            raise Stop

    return look


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("pilot") / "undisturbed"
    train(settings(run))
    return run


def all_of(run: Path, step: int = STEPS) -> dict[str, Any]:
    """Everything that a checkpoint holds, and the rows of the log up to it, without times."""
    folder = run / "checkpoints" / store.step_name(step)
    store.verify(folder)
    found: dict[str, Any] = {}
    for name in ("pilot", "normalizer", "rollout"):
        found |= {f"{name}.{key}": value for key, value in load_weights(folder / f"{name}.safetensors").items()}
    for index, state in load_state(folder / "optimizer.pt")["state"].items():
        found |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    rows = [{key: row[key] for key in row if key != "seconds"} for row in store.read_log(run) if row["step"] <= step]
    return found | {"state": read_json(folder / "trainer_state.json"), "log": rows}


def assert_same(one: Path, other: Path, step: int = STEPS) -> None:
    first, second = all_of(one, step), all_of(other, step)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name], name


@pytest.mark.parametrize("step", [13, 16, 25])
def test_stop_and_resume_equals_the_uninterrupted_run_bit_for_bit(undisturbed, tmp_path, step):
    with pytest.raises(Stop):
        train(settings(tmp_path), stop_at(step))
    saved = [info.step for info in store.list_checkpoints(tmp_path)]
    assert saved == [s for s in (10, 20) if s <= step]  # 10 and 20 lie within rollouts of 16
    state = read_json(tmp_path / "checkpoints" / store.step_name(saved[-1]) / "trainer_state.json")
    assert state["rollout_position"] == saved[-1] % 16
    train(settings(tmp_path))
    assert_same(tmp_path, undisturbed)
    assert f"[Resume] PPO training resumed from {tmp_path}" in (tmp_path / LOG).read_text()


def test_chunks_one_after_the_other_are_the_same_training(undisturbed, tmp_path):
    chunked = {"chunk_mode": True, "num_chunks": 3}
    train(settings(tmp_path, **chunked, stop_after_chunk=True))
    assert read_json(tmp_path / PROGRESS)["completed_chunks"] == [0]
    assert store.list_checkpoints(tmp_path)[-1].step == STEPS // 3  # at a chunk's end, whatever the interval
    train(settings(tmp_path, **chunked, stop_after_chunk=True))
    assert read_json(tmp_path / PROGRESS)["completed_chunks"] == [0, 1]
    train(settings(tmp_path, **chunked))
    assert read_json(tmp_path / PROGRESS)["completed_chunks"] == [0, 1, 2]
    assert_same(tmp_path, undisturbed)


def test_a_signal_saves_in_the_middle_of_a_rollout_and_the_same_command_goes_on(undisturbed, tmp_path):
    def interrupt(model: PilotPPO) -> None:
        if model.steps == 23:
            os.kill(os.getpid(), signal.SIGTERM)

    train(settings(tmp_path), interrupt)
    assert store.list_checkpoints(tmp_path)[-1].step == 23
    train(settings(tmp_path))
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_kills_lose_no_step(undisturbed, tmp_path):
    """More of them: WANACT_PILOT_KILLS=100."""
    rng, kills = random.Random(0), int(os.environ.get("WANACT_PILOT_KILLS", "5"))
    run, number = tmp_path / "0", 0
    while kills:
        newest = max((info.step for info in store.list_checkpoints(run)), default=0)
        if newest == STEPS:
            assert_same(run, undisturbed)
            number += 1
            run, newest = tmp_path / str(number), 0
        child = os.fork()
        if not child:
            try:
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                os.dup2(quiet, 2)
                train(settings(run, checkpoint_interval=4))
            finally:
                os._exit(0)  # a child never goes back into pytest; what is missing is seen below
        wanted = min(newest + 4 * rng.randrange(1, 4), STEPS)
        until = time.monotonic() + 120
        while time.monotonic() < until and not (run / "checkpoints" / store.step_name(wanted)).exists():
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills -= 1
        for info in store.list_checkpoints(run):
            store.verify(info.path)
        assert max(info.step for info in store.list_checkpoints(run)) >= newest
    train(settings(run, checkpoint_interval=4))
    assert_same(run, undisturbed)


def test_a_damaged_checkpoint_is_passed_over(undisturbed, tmp_path):
    with pytest.raises(Stop):
        train(settings(tmp_path), stop_at(25))
    file = tmp_path / "checkpoints" / store.step_name(20) / "pilot.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    train(settings(tmp_path))
    assert "step 20 is passed over" in (tmp_path / LOG).read_text() and "at step 10" in (tmp_path / LOG).read_text()
    assert_same(tmp_path, undisturbed)


def test_a_checkpoint_of_another_network_is_said_and_training_begins_anew(tmp_path):
    train(settings(tmp_path, total_steps=10))
    model = train(settings(tmp_path, hidden=[24]))
    log = (tmp_path / LOG).read_text()
    assert "does not fit: " in log and "[PPO:checkpoint] Continuing with fresh training state" in log
    assert model.steps == STEPS and "training begins at step 0" in log


def test_the_step_of_tensorboard_goes_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for total in (16, 48):
        train(settings(tmp_path, total_steps=total, tensorboard=True, checkpoint_interval=16))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [32, 64, 96]


def test_latest_pt_is_tensors_alone_and_can_be_gone_on_from(tmp_path):
    train(settings(tmp_path / "one", total_steps=20))
    link = tmp_path / "one" / "checkpoints" / "latest.pt"
    assert os.readlink(link) == f"{store.step_name(20)}/pilot.pt"
    assert all(torch.is_tensor(value) for value in load_state(link).values())
    model = train(settings(tmp_path / "other", total_steps=21, load_checkpoint=link))
    assert model.steps == 21 and "at step 20" in (tmp_path / "other" / LOG).read_text()


def test_the_oldest_checkpoints_go(tmp_path):
    train(settings(tmp_path, total_steps=30, checkpoint_interval=3, max_checkpoints=3))
    steps = [info.step for info in store.list_checkpoints(tmp_path)]
    assert steps[-3:] == [24, 27, 30] and len(steps) <= 4  # the best stays


# Warm start and the operator


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    axes = np.zeros((40, 4))
    axes[:, 0], axes[10:25, 2] = 0.05, 1.5
    image = Image.new("RGB", (96, 64), (90, 120, 160))
    record = FlightRecord(image, "hills", 1, ActionTrack.from_axes(axes), 161, 4, 1.0, kind="live")
    (folder / "flight.json").write_text(record.to_json())
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("policy") / "run"
    train(settings(run, total_steps=16, seed=5))
    return run / "checkpoints" / "latest.pt"


def in_a_terminal(config: PilotConfig, answer: str) -> str:
    """Train in a process whose input is a pseudo-terminal, answer what it asks, and return what it printed."""
    child, terminal = pty.fork()
    if not child:
        status = 1
        sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")  # not what pytest has put there
        try:
            train(config)
            status = 0
        finally:
            os._exit(status)
    said, is_answered = "", False
    try:
        while True:
            said += os.read(terminal, 4096).decode()
            if "Choose 1, 2 or 3" in said and not is_answered:
                os.write(terminal, f"{answer}\n".encode())
                is_answered = True
    except OSError:  # its end
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    return said


@pytest.mark.parametrize(
    ("answer", "does", "leaves"),
    [
        ("1", ["[Resume]", "at step 16"], ["[Warmstart]", "begins at step 0"]),
        ("2", ["[Warmstart] cloned", "begins at step 0"], ["[Resume]"]),
        ("3", ["[Warmstart] policy of", "begins at step 0"], ["[Resume]", "cloned"]),
    ],
)
def test_the_operator_is_asked_and_gets_what_was_chosen(tmp_path, records, policy, answer, does, leaves):
    train(settings(tmp_path, total_steps=16))
    (tmp_path / LOG).unlink()
    more = {"demonstrations": [records], "external_policy": policy, "clone_epochs": 1, "clone_copies": 6}
    said = in_a_terminal(settings(tmp_path, total_steps=20, **more), answer)
    log = (tmp_path / LOG).read_text()
    assert "1) resume" in said and "2) warm-start again" in said and "3) the external policy only" in said
    assert all(words in log for words in does) and not any(words in log for words in leaves)


@pytest.mark.parametrize(
    ("flag", "words"),
    [("ask", "[Resume]"), ("resume", "[Resume]"), ("external", "[Warmstart] policy of"), ("warmstart", "cloned")],
)
def test_without_a_terminal_the_flag_decides_and_resuming_is_the_default(tmp_path, records, policy, flag, words):
    train(settings(tmp_path, total_steps=16))
    (tmp_path / LOG).unlink()
    more = {"demonstrations": [records], "external_policy": policy, "clone_epochs": 1, "clone_copies": 6}
    train(settings(tmp_path, total_steps=18, on_existing=flag, **more))
    assert words in (tmp_path / LOG).read_text()


def test_what_was_chosen_must_be_named(tmp_path):
    train(settings(tmp_path, total_steps=16))
    with pytest.raises(PilotError, match="--external_policy"):
        train(settings(tmp_path, on_existing="external"))
    with pytest.raises(PilotError, match="--demonstrations"):
        train(settings(tmp_path, on_existing="warmstart"))


def test_cloning_comes_near_what_was_flown_and_the_pilot_is_held_there_at_first(tmp_path, records):
    config = settings(tmp_path, demonstrations=[records], clone_copies=6, clone_learning_rate=3e-3, kl_decay_updates=3)
    shown = gather(config)
    assert len(shown) > 20
    model = PilotPPO(make_environments(config), config)
    config.warmstart.clone_epochs = 1
    first = clone(model, shown)
    config.warmstart.clone_epochs = 40
    assert clone(model, shown) < first
    model.keep_as_reference()
    before = model.current_kl_coef()
    model.updates = 2
    assert before > model.current_kl_coef() > 0
    model.updates = 3
    assert model.current_kl_coef() == 0


def test_an_external_policy_that_does_not_fit_is_refused(tmp_path, policy):
    with pytest.raises(checkpoint.DoesNotFit, match="does not fit"):
        train(settings(tmp_path, external_policy=policy, hidden=[24]))


def test_a_policy_file_that_would_run_code_is_not_opened(tmp_path):
    torch.save({"weights": Path("/")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="pickle can run code"):
        train(settings(tmp_path / "run", external_policy=tmp_path / "evil.pt"))


# What flies, and what is set


def test_a_checkpoint_flies_as_it_was_trained_without_the_trainer(undisturbed, tmp_path):
    config = settings(tmp_path)
    model = PilotPPO(make_environments(config), config)
    folder = undisturbed / "checkpoints" / store.step_name(STEPS)
    checkpoint.load(model, folder)
    pilot = load_pilot(folder)
    for seed in range(4):
        seen = np.random.default_rng(seed).normal(size=pilot.size).astype(np.float32)
        expected, _ = model.predict(model.normalizer.normalize_obs(seen), deterministic=True)
        np.testing.assert_allclose(pilot.act(seen), np.clip(expected, -1, 1), atol=1e-6)


def test_measuring_gives_every_pilot_the_same_episodes():
    import gymnasium as gym

    from train.pilot.envs import SIM
    from wanact.world import tasks

    env = gym.make(SIM, num_worlds=1)
    skilled = measure(env, "gates", tasks.hand_written, 3)
    assert skilled == measure(env, "gates", tasks.hand_written, 3)
    idle = measure(env, "gates", lambda _: np.zeros(4), 3)
    assert skilled["success"] > idle["success"] == 0
    assert skilled["interval"][0] <= skilled["success"] <= skilled["interval"][1]


def test_measuring_writes_the_figures_and_a_film_of_the_flight_beside_the_checkpoints(undisturbed, monkeypatch, capsys):
    monkeypatch.setattr(film, "SIZE", (48, 80))
    monkeypatch.setattr(envs, "HELD_OUT", 0)  # the world that is made already
    monkeypatch.setattr(evaluate, "HELD_OUT", 0)
    assert evaluate.main([f"{undisturbed}@{STEPS}", "--tasks", "course", "--episodes", "2", "--num_worlds", "1"]) == 0
    figures = read_evaluation(undisturbed, SIMULATOR, STEPS)
    assert figures is not None and list(figures.tasks) == ["course"] and set(figures.tasks["course"]) == set(PILOTS)
    shown = read_film(undisturbed, SIMULATOR, STEPS)
    assert shown is not None and 2 <= num_frames_of(film_file(undisturbed, SIMULATOR, STEPS)) <= 49
    assert "a film of the best" in capsys.readouterr().out


def test_rings_stand_where_they_are_seen():
    dark = np.zeros((96, 160, 3), np.uint8)
    here = (0.0, 0.0, 30.0, 0.0, 0.0)
    ring = film.draw_rings(dark, here, [[50.0, 0.0, 30.0, 0.0, 8.0]]).max(-1)
    rows, columns = np.nonzero(ring > 100)
    assert abs(rows.mean() - 48) < 1 and abs(columns.mean() - 80) < 1
    assert abs((columns.max() - columns.min()) - 2 * 8 / 50 * 80 / np.tan(np.radians(37.5))) < 6  # and the line
    right = film.draw_rings(dark, here, [[50.0, 20.0, 40.0, 0.0, 8.0]]).max(-1)
    rows, columns = np.nonzero(right > 100)
    assert columns.min() > 80 and rows.max() < 48, "to the right and above"
    assert not film.draw_rings(dark, here, [[-50.0, 0.0, 30.0, 0.0, 8.0]]).any(), "behind"


def test_the_plans_file_is_read_and_flags_go_over_it():
    config = parse(["--config", str(PLAN), "--total_steps", "7"])
    assert config.checkpoints.checkpoint_interval == 128 and config.checkpoints.save_optimizer_state
    assert config.checkpoints.enable_checkpoints and config.checkpoints.incremental_checkpoints
    assert config.ppo.total_steps == 7 and not config.check()
    assert parse(["--chunk-mode", "--on-existing", "warmstart"]).chunks.chunk_mode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ppo": {"gama": 1}}, "section ppo has no 'gama'"),
        ({"pppo": {}}, "'pppo' is no section"),
        ({"checkpoints": {"interval": "often"}}, "interval is 'often', expected int"),
        ({"checkpoints": {"enable_checkpoints": 1}}, "expected bool"),
    ],
)
def test_a_file_with_a_mistake_is_named(tmp_path, content, message):
    (tmp_path / "pilot.json").write_text(json.dumps(content))
    with pytest.raises(PilotError, match=message):
        parse(["--config", str(tmp_path / "pilot.json")])


@pytest.mark.parametrize("argv", [["runs/pilot"], ["--none", "5"], ["--total_steps", "7", "train"]])
def test_what_is_no_setting_is_said(argv):
    with pytest.raises(PilotError, match="is no setting of a pilot's training"):
        parse(argv)


def test_an_interval_that_cuts_rollouts_is_warned_about(tmp_path):
    assert "is no multiple of --rollout_len" in settings(tmp_path).check()[0]
    assert not settings(tmp_path, checkpoint_interval=32).check()


def test_the_temperature_falls_pulses_where_nothing_is_gained_and_stays_where_something_is():
    config = parse([]).temperature
    stuck, learning = (TemperatureController.begin(config) for _ in range(2))
    pulses = []
    for update in range(120):
        stuck.update(0.2, config)
        learning.update(min(update / 100, 1.0), config)
        pulses.append(stuck.pulse_active)
    assert stuck.num_pulses >= 2 and any(pulses) and not all(pulses)
    assert learning.num_pulses == 0 and config.temperature_lowest <= learning.current_temperature < 1
    again = TemperatureController(**json.loads(json.dumps(stuck.to_json())))
    stuck.update(0.2, config)
    again.update(0.2, config)
    assert again == stuck
