"""Two processes do what one does; a resume may change their number; networks may be sharded over them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.train.processes import run_processes, start, wait
from train.loop import saving, sharded, trainer
from train.loop.dist import Processes, local
from wanact.files import CheckpointError, load_weights
from wanact.runs import store

STEPS = 6


@pytest.fixture
def launch(arguments):
    """Train with so many processes: `launch(2, "action", output, "--max_steps", "4")`."""

    def launch(count: int, stage: str, output: Path, *flags: str, steps: int = STEPS) -> str:
        from train.commands.run import train

        log = output.with_suffix(f".{count}.log")
        argv = arguments(stage, output, "--max_steps", str(STEPS), *flags)
        statuses = run_processes(count, lambda: _train_until(train, stage, argv, steps), log)
        assert statuses == [0] * count, log.read_text()
        return log.read_text()

    return launch


def _train_until(train, stage, argv, steps):
    """Train, and let a signal to the last process stop all of them at `steps`."""
    from train.loop.trainer import Trainer

    train_step = Trainer._train_step

    def interrupted(self):
        if self.step + 1 == steps < STEPS and self.processes.rank == self.processes.count - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return train_step(self)

    Trainer._train_step = interrupted
    try:
        assert train(stage, argv).step == steps
    finally:
        Trainer._train_step = train_step


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in store.read_log(run)]


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return saving.read_weights(run / "checkpoints" / store.step_name(step))


def rates(run: Path) -> list[float]:
    return [row["learning_rate"] for row in store.read_log(run)]


def test_one_process_with_four_rounds_learns_what_two_with_two_learn(launch, tmp_path):
    launch(1, "action", tmp_path / "one", "--gradient_accumulation_steps", "4")
    launch(2, "action", tmp_path / "two", "--gradient_accumulation_steps", "2")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-6)
    assert rates(tmp_path / "one") == rates(tmp_path / "two")
    torch.testing.assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), rtol=0, atol=1e-6)


def test_two_processes_resume_bit_for_bit_after_a_signal_to_one_of_them(launch, tmp_path):
    launch(2, "action", tmp_path / "whole")
    launch(2, "action", tmp_path / "parts", steps=3)
    launch(2, "action", tmp_path / "parts")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"), rtol=0, atol=0)


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_a_resume_may_change_the_number_of_processes(before, after, launch, tmp_path):
    def flags(count):
        return ["--gradient_accumulation_steps", str(2 // count)]

    launch(before, "action", tmp_path / "whole", *flags(before))
    launch(before, "action", tmp_path / "parts", *flags(before), steps=3)
    log = launch(after, "action", tmp_path / "parts", *flags(after))
    assert f"processes were {before}, are {after}" in log
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "parts"), abs=1e-6)


def test_a_sharded_transformer_trains_and_resumes_as_a_whole_one(launch, tmp_path):
    full = ["--trainable_models", "action_controller,transformer", "--ema_decay", "0.9"]
    launch(1, "action", tmp_path / "whole", *full, "--gradient_accumulation_steps", "2")
    launch(2, "action", tmp_path / "shards", *full, "--fsdp", steps=3)
    launch(2, "action", tmp_path / "shards", *full, "--fsdp")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "shards"), abs=1e-5)
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(tmp_path / "shards"), rtol=0, atol=1e-5)
    metadata = store.read_metadata(store.resolve(tmp_path / "shards"))
    assert metadata["topology"] == {"processes": 2, "sharded": True}


FULL = ["--trainable_models", "action_controller,transformer", "--ema_decay", "0.9"]


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_a_sharded_run_goes_on_in_another_number_of_processes(before, after, launch, tmp_path):
    def flags(count):
        return [*FULL, "--gradient_accumulation_steps", str(2 // count), *["--fsdp"] * (count > 1)]

    launch(before, "action", tmp_path / "whole", *flags(before))
    launch(before, "action", tmp_path / "parts", *flags(before), steps=3)
    launch(after, "action", tmp_path / "parts", *flags(after))
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "parts"), abs=1e-6)
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"), rtol=0, atol=1e-6)
    for run in ("whole", "parts"):
        store.verify(store.resolve(tmp_path / run))


def test_a_sharded_run_resumes_bit_for_bit(launch, tmp_path):
    more = [*FULL, "--fsdp", "--gradient_accumulation_steps", "2"]
    launch(2, "action", tmp_path / "whole", *more)
    launch(2, "action", tmp_path / "parts", *more, steps=3)
    launch(2, "action", tmp_path / "parts", *more)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    one, other = (store.resolve(tmp_path / run) for run in ("whole", "parts"))
    for kind in (sharded.WEIGHTS, sharded.EMA, sharded.OPTIMIZER):
        torch.testing.assert_close(sharded.read(one, kind), sharded.read(other, kind), rtol=0, atol=0)


def test_a_sharded_checkpoint_is_in_parts_that_its_sums_cover_and_flies(launch, tmp_path):
    launch(1, "action", tmp_path / "one", *FULL, "--gradient_accumulation_steps", "2")
    launch(2, "action", tmp_path / "two", *FULL, "--fsdp")
    one, two = (store.resolve(tmp_path / run) for run in ("one", "two"))
    files = store.read_metadata(two)["files"]
    parts = [name for name in files if name.startswith("shards/")]
    assert len(parts) == 2 and "trainable_full.safetensors" not in files and "optimizer.pt" not in files
    sizes = [files[name]["bytes"] for name in parts]
    assert max(sizes) < 0.8 * sum(sizes), "nobody holds nearly all of it"
    for name in ("transformer.safetensors", "action_controller.safetensors"):
        flown, wanted = (load_weights(path / name) for path in (two, one))
        torch.testing.assert_close(flown, wanted, rtol=0, atol=1e-2)  # bfloat16
        assert {n: t.dtype for n, t in flown.items()} == {n: t.dtype for n, t in wanted.items()}
        assert (tmp_path / "two" / name).read_bytes() == (two / name).read_bytes()
    torch.testing.assert_close(saving.read_ema(two), saving.read_ema(one), rtol=0, atol=1e-5)
    part = two / parts[1]
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)
    with pytest.raises(CheckpointError, match="shard-0000.*is damaged"):
        store.verify(two)


@pytest.mark.parametrize(
    "more", [["--cpu_offload"], ["--sharding_strategy", "SHARD_GRAD_OP"], ["--sharding_strategy", "HYBRID_SHARD"]]
)
def test_however_it_is_sharded_the_same_is_learnt(more, launch, tmp_path):
    launch(1, "action", tmp_path / "one", *FULL, "--gradient_accumulation_steps", "4")
    launch(2, "action", tmp_path / "two", *FULL, "--gradient_accumulation_steps", "2", "--fsdp", *more, steps=3)
    launch(2, "action", tmp_path / "two", *FULL, "--gradient_accumulation_steps", "2", "--fsdp", *more)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-5)
    torch.testing.assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), rtol=0, atol=1e-5)


def test_gradients_travel_once_an_update(launch, tmp_path):
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as fsdp

    def counting(steps):
        """The sums over processes that FSDP asks for in a run."""
        log = tmp_path / f"sums-{steps}"
        reduce = fsdp.foreach_reduce

        def counted(*args, **kwargs):
            with open(log, "a") as file:
                file.write("x")
            return reduce(*args, **kwargs)

        fsdp.foreach_reduce = counted
        try:
            more = ["--gradient_accumulation_steps", str(steps), "--fsdp", "--trainable_models", "transformer"]
            launch(2, "i2v", tmp_path / f"run-{steps}", *more)
        finally:
            fsdp.foreach_reduce = reduce
        return len(log.read_text())

    once, thrice = counting(1), counting(3)
    assert once == thrice > 0


def test_a_disk_that_is_full_for_one_process_leaves_the_older_checkpoint_and_training_goes_on(launch, tmp_path):
    write = sharded.save

    def failing(tensors, folder, group):
        if "step-000000004" in str(folder) and os.environ["RANK"] == "1":
            (folder / "shard-00002-model-00001-of-00001.safetensors").mkdir()  # where its file would be
        write(tensors, folder, group)

    sharded.save = failing
    try:
        launch(2, "action", tmp_path / "run", *FULL, "--fsdp", "--save_steps", "2")
    finally:
        sharded.save = write
    assert [info.step for info in store.list_checkpoints(tmp_path / "run")] == [2, 6]
    store.verify(store.resolve(tmp_path / "run"))


def test_a_process_reads_and_copies_no_more_than_it_holds(launch, tmp_path, monkeypatch):
    """Of the base model at the start, and into host memory for a checkpoint."""
    own_copy, fill, notes = Processes.own_copy, trainer.fill, tmp_path / "numbers"

    def note(what: str, tensor: torch.Tensor) -> None:
        with open(f"{notes}-{what}-{os.environ['RANK']}", "a") as file:
            file.write(f"{local(tensor).numel()}\n")

    def noting_copy(self, tensor):
        copy = own_copy(self, tensor)
        note("copied", copy)
        return copy

    def noting_fill(tensor, value):
        note("read", tensor)
        fill(tensor, value)

    monkeypatch.setattr(Processes, "own_copy", noting_copy)
    monkeypatch.setattr(trainer, "fill", noting_fill)
    launch(2, "i2v", tmp_path / "run", "--trainable_models", "transformer", "--fsdp", steps=1)
    parts = sharded.Parts(store.resolve(tmp_path / "run"))
    described = parts.described()
    whole = {"copied": sum(tensor.numel() for tensor in described.values())}
    whole["read"] = sum(described[f"{sharded.WEIGHTS}/{name}"].numel() for name in parts.kind(sharded.WEIGHTS))
    for what, numbers in whole.items():
        held = [sum(map(int, Path(f"{notes}-{what}-{rank}").read_text().split())) for rank in (0, 1)]
        assert sum(held) == pytest.approx(numbers, rel=0.02) and max(held) < 0.6 * numbers, what


def test_the_processes_share_the_encoding_and_agree_on_what_is_skipped(arguments, dataset, tmp_path):
    from train.commands.run import train

    lines = (dataset / "clips.csv").read_text().splitlines()
    (tmp_path / "clips.csv").write_text("\n".join([*lines, lines[-1].replace("clip4.mp4", "missing.mp4")]) + "\n")
    argv = arguments("action", tmp_path / "run", "--max_steps", "1", "--max_skipped", "0.5")
    argv += ["--dataset_metadata_path", str(tmp_path / "clips.csv"), "--cache_dir", str(tmp_path / "cache")]
    log = tmp_path / "log"
    assert run_processes(2, lambda: train("action", argv), log) == [0, 0], log.read_text()
    assert "1 of 6 rows are left out" in log.read_text()
    assert "missing.mp4" in (tmp_path / "run" / "skipped.csv").read_text()


def test_sigterm_saves_and_ends_with_status_zero(arguments, tmp_path):
    from train.__main__ import main

    argv = ["action", *arguments("action", tmp_path / "run", "--max_steps", "100000")]
    child = start(lambda: os._exit(main(argv)), tmp_path / "log")
    import time

    end = time.monotonic() + 120
    while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    assert wait(child) == 0, (tmp_path / "log").read_text()
    (info,) = store.list_checkpoints(tmp_path / "run")
    assert info.metadata["reason"] == "SIGTERM" and info.problem is None
