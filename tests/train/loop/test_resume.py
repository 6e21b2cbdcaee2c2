"""Resuming repeats the uninterrupted run, bit for bit."""

from __future__ import annotations

import pytest
import torch

from wanact.files import CheckpointError, load_state, load_weights, read_json
from wanact.runs import store

VARIANTS = {
    "action": ("action", []),
    "action-full": ("action", ["--trainable_models", "action_controller,transformer", "--ema_decay", "0.9"]),
    "i2v": ("i2v", ["--trainable_models", "transformer,text_encoder"]),
    "i2v-lora": ("i2v", ["--lora_base_model", "transformer", "--lora_rank", "4"]),
}


def state_of(run, step):
    """Everything a checkpoint says about the training: tensors by file and name, and its place in the data."""
    folder = run / "checkpoints" / store.step_name(step)
    optimizer = load_state(folder / "optimizer.pt")["main"]["state"]
    tensors = {f"optimizer.{n}.{k}": v for n, state in optimizer.items() for k, v in state.items()}
    for file in folder.glob("*.safetensors"):
        tensors |= {f"{file.name}.{name}": value for name, value in load_weights(file).items()}
    place = read_json(folder / "trainer_state.json")
    return (
        tensors,
        load_state(folder / "scheduler.pt"),
        (place["position"], place["epoch"], place["window"]),
    )


def curve(run):
    timing = {"seconds", "samples_per_second", "memory_gb"}
    return [{k: v for k, v in row.items() if k not in timing} for row in store.read_log(run)]


def assert_same(one, other, step):
    (tensors, scheduler, place), (tensors2, scheduler2, place2) = state_of(one, step), state_of(other, step)
    assert tensors.keys() == tensors2.keys()
    for name in tensors:
        assert torch.equal(tensors[name], tensors2[name]), name
    assert scheduler == scheduler2
    assert place == place2
    assert curve(one) == curve(other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_twenty_steps_equal_eight_and_twelve(variant, run, tmp_path):
    stage, flags = VARIANTS[variant]
    common = [*flags, "--max_steps", "20", "--batch_size", "2", "--num_latent_frames_choices", "2,3"]
    run(stage, tmp_path / "whole", *common)
    stop_at(run, stage, tmp_path / "parts", 8, *common)
    run(stage, tmp_path / "parts", *common)
    assert_same(tmp_path / "whole", tmp_path / "parts", 20)


def test_stops_inside_and_across_epochs_leave_no_trace_with_accumulation(run, tmp_path):
    # Five rows and 4 x 1 samples a step: nearly every step crosses an epoch.
    common = ["--max_steps", "20", "--gradient_accumulation_steps", "4", "--action_dropout", "0.3"]
    run("action", tmp_path / "whole", *common)
    for step in (5, 10):
        stop_at(run, "action", tmp_path / "parts", step, *common)
    run("action", tmp_path / "parts", *common)
    assert_same(tmp_path / "whole", tmp_path / "parts", 20)


def stop_at(run, stage, output, step, *flags):
    """Run the same command until a signal arrives during this step."""
    import os
    import signal

    from train.loop.trainer import Trainer

    train_step = Trainer._train_step

    def interrupted(self):
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        trainer = run(stage, output, *flags)
    assert trainer.step == step
    folder = output / "checkpoints" / store.step_name(step)
    assert store.read_metadata(folder)["reason"] == "SIGTERM"


def test_a_finished_run_ends_at_once(run, tmp_path):
    run("action", tmp_path, "--max_steps", "2")
    before = curve(tmp_path)
    assert run("action", tmp_path, "--max_steps", "2").step == 2
    assert curve(tmp_path) == before


def test_resuming_without_optimizer_state_says_so(run, tmp_path, capsys):
    run("action", tmp_path, "--max_steps", "2", "--save_full_state", "false")
    run("action", tmp_path, "--max_steps", "4")
    assert "optimizer starts fresh" in capsys.readouterr().out


def test_a_changed_setting_is_printed_unless_it_is_made_explicit(run, tmp_path, capsys):
    run("action", tmp_path, "--max_steps", "1")
    run("action", tmp_path, "--max_steps", "2", "--learning_rate", "3e-4")
    assert "learning_rate was 0.0001, is 0.0003" in capsys.readouterr().out
    run("action", tmp_path, "--max_steps", "3", "--learning_rate", "5e-4", "--override", "learning_rate")
    assert "learning_rate" not in capsys.readouterr().out


def test_weights_of_another_shape_are_an_error_that_names_them(run, tmp_path):
    run("i2v", tmp_path, "--max_steps", "1", "--lora_base_model", "transformer", "--lora_rank", "4")
    with pytest.raises(CheckpointError, match=r"lora_A.*shape \(4, 48\), expected \(2, 48\)"):
        run("i2v", tmp_path, "--max_steps", "2", "--lora_base_model", "transformer", "--lora_rank", "2")


def test_another_stage_is_an_error(run, tmp_path):
    run("i2v", tmp_path / "i2v", "--max_steps", "1")
    with pytest.raises(CheckpointError, match="is of stage i2v, this run is action"):
        run("action", tmp_path / "action", "--max_steps", "1", "--resume_from", str(tmp_path / "i2v"))


def test_init_from_takes_weights_and_starts_at_step_zero(run, tmp_path):
    first = run("action", tmp_path / "first", "--max_steps", "3")
    trainer = run("action", tmp_path / "second", "--max_steps", "1", "--learning_rate", "1e-12", "--weight_decay", "0",
                  "--init_from", str(tmp_path / "first"))  # fmt: skip
    assert trainer.step == 1
    for name, parameter in trainer.parameters.items():
        torch.testing.assert_close(parameter, first.parameters[name])


def test_resume_from_none_refuses_to_mix_two_runs(run, tmp_path):
    run("action", tmp_path, "--max_steps", "1")
    with pytest.raises(CheckpointError, match="mix two runs"):
        run("action", tmp_path, "--max_steps", "1", "--resume_from", "none")


def test_an_older_checkpoint_named_explicitly_starts_a_branch_that_auto_follows(run, tmp_path):
    run("action", tmp_path, "--max_steps", "4", "--save_steps", "2")
    named = str(tmp_path / "checkpoints" / store.step_name(2))
    run("action", tmp_path, "--max_steps", "3", "--resume_from", named)
    assert [info.step for info in store.list_checkpoints(tmp_path)] == [2, 4, 3]
    assert run("action", tmp_path, "--max_steps", "5").step == 5
    assert [row["step"] for row in store.read_log(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_file_named_save_asks_for_a_checkpoint_now(run, tmp_path):
    tmp_path.joinpath("save").touch()
    run("action", tmp_path, "--max_steps", "2")
    first = store.list_checkpoints(tmp_path)[0]
    assert (first.step, first.metadata["reason"]) == (1, "asked for")
    assert not tmp_path.joinpath("save").exists()


# Length in epochs


def seen_by(run, *flags, stop=None, rows=7):
    """Train the synthetic stage; the rows that were learned from, and the trainer."""
    from train.loop.config import parse
    from train.loop.dist import Processes
    from train.loop.trainer import Trainer
    from train.stages.synthetic import SyntheticStage

    seen = []

    class Stage(SyntheticStage):
        def load(self, draws):
            seen.extend(draw.index for draw in draws)
            return super().load(draws)

    class Stopping(Trainer):
        def _train_step(self):
            if stop is not None and self.step + 1 == stop:
                self.stop_signal = "SIGTERM"
            return super()._train_step()

    config, processes = (
        parse("synthetic", [f"--output_path={run}", "--log_steps=1", "--save_full_state", *flags]),
        Processes("no"),
    )
    trainer = Stopping(config, Stage(config, processes.device, num_rows=rows), processes)
    trainer.run()
    return seen, trainer


@pytest.mark.parametrize(("before", "stop", "after"), [(2, 3, 4), (4, 3, 2), (1, 5, 8), (3, 4, 3)])
def test_another_batch_size_neither_ends_epochs_early_nor_repeats_them(before, stop, after, tmp_path):
    epochs = "--num_epochs=4"
    first, stopped = seen_by(tmp_path, epochs, f"--batch_size={before}", stop=stop)
    second, trainer = seen_by(tmp_path, epochs, f"--batch_size={after}")
    assert stopped.step == stop and len(first) == stop * before
    whole = first + second
    assert 28 <= len(whole) < 28 + after, "four epochs of seven rows, to the end of the last step"
    for epoch in range(4):
        assert sorted(whole[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    rows = store.read_log(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, trainer.step + 1))
    assert [row["epoch"] for row in rows] == sorted(row["epoch"] for row in rows) and rows[-1]["epoch"] == 4
    assert rows[-1]["learning_rate"] < 0.3 * max(row["learning_rate"] for row in rows), "the schedule ends with the run"
    assert seen_by(tmp_path, epochs, f"--batch_size={after}")[0] == [], "it is finished"


@pytest.mark.parametrize("rows", [70, 3])
def test_the_epoch_does_not_fall_when_the_data_grows_or_shrinks(rows, tmp_path):
    seen_by(tmp_path, "--num_epochs=4", "--batch_size=2", stop=9)  # in the middle of the third epoch
    before = store.read_log(tmp_path)[-1]["epoch"]
    seen, _ = seen_by(tmp_path, "--num_epochs=4", "--batch_size=2", rows=rows)
    epochs = [row["epoch"] for row in store.read_log(tmp_path)]
    assert before == 2 and epochs == sorted(epochs) and epochs[-1] == 4
    assert rows <= len(seen) <= 2 * rows, "what is left of the third epoch, and the fourth"


def test_a_run_without_a_change_has_the_rates_it_always_had(tmp_path):
    from train.loop.optim import learning_rate

    _, trainer = seen_by(tmp_path, "--num_epochs=4", "--batch_size=2")
    rates = [row["learning_rate"] for row in store.read_log(tmp_path)]
    assert rates == [learning_rate(step, 14, trainer.config.optim) for step in range(14)]
