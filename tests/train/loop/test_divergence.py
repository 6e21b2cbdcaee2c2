"""A run that diverged goes on from before it did: what is not finite is passed over, named, and never the best."""

from __future__ import annotations

import pytest
import torch

from train.loop.config import ConfigError, parse
from train.loop.dist import Processes
from train.loop.stage import StepLoss
from train.loop.trainer import Trainer
from train.stages.synthetic import SyntheticStage
from wanact.files import CheckpointError, load_weights
from wanact.runs import store


class Spoilt(SyntheticStage):
    """Its loss is NaN in some steps; `weights` makes a weight infinite in a step, as an overflow would."""

    steps: tuple[int, ...] = ()
    weights: int | None = None

    def export(self, weights):
        return {store.TRANSFORMER: {name: value.clone() for name, value in weights.items()}}

    def load(self, draws):
        return super().load(draws) | {"step": draws[0].step + 1}

    def loss(self, batch, phase):
        out = super().loss(batch, phase)
        if batch["step"] == self.weights:
            with torch.no_grad():
                next(self.modules["network"].parameters())[0] = float("inf")
        return StepLoss(out.loss * float("nan")) if batch["step"] in self.steps else out


def train(run, last, steps=(), weights=None, *more):
    flags = [
        f"--output_path={run}",
        f"--max_steps={last}",
        "--save_steps=1",
        "--save_full_state",
        "--log_steps=1",
        *more,
    ]
    config, processes = parse("synthetic", flags), Processes("no")
    stage = type("Stage", (Spoilt,), {"steps": tuple(steps), "weights": weights})
    trainer = Trainer(config, stage(config, processes.device), processes)
    trainer.run()
    return trainer


@pytest.mark.filterwarnings("ignore:step .* was saved, but")
@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"steps": (3, 4)}, "the loss of its last step was nan"),
        ({"weights": 3}, "network.0.weight holds NaN or infinity"),
    ],
    ids=["losses", "weights"],
)
def test_auto_goes_on_from_before_and_names_what_it_passes_over(tmp_path, capsys, spoilt, why):
    train(tmp_path, 4, **spoilt)
    infos = {info.step: info for info in store.list_checkpoints(tmp_path)}
    assert [bool(infos[step].diverged) for step in (1, 2, 3, 4)] == [False, False, True, True]
    assert infos[3].loss is None and not infos[3].is_best and not infos[4].is_best
    assert store.resolve(tmp_path) == infos[2].path, "what is flown"
    flown = load_weights(tmp_path / store.TRANSFORMER)
    assert all(torch.isfinite(value).all() for value in flown.values())
    capsys.readouterr()
    trainer = train(tmp_path, 5)
    said = capsys.readouterr().out
    assert f"passed over step-000000004: {'the loss' if 'steps' in spoilt else why}" in said
    assert f"passed over step-000000003: {why}" in said and "continuing from step-000000002" in said
    assert trainer.step == 5
    assert all(torch.isfinite(parameter).all() for parameter in trainer.parameters.values())
    assert [row["step"] for row in store.read_log(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore:step .* was saved, but")
def test_an_update_that_was_left_out_is_forgotten_when_the_next_is_sound(tmp_path, capsys):
    train(tmp_path, 4, (2,), None, "--save_steps=2", "--max_checkpoints=9")
    newest = store.list_checkpoints(tmp_path)[-1]
    assert newest.step == 4 and newest.diverged is None and newest.loss is not None


@pytest.mark.filterwarnings("ignore:step .* was saved, but")
def test_pruning_keeps_what_a_diverged_run_goes_on_from(tmp_path):
    with pytest.raises(ConfigError, match="no finite gradient"):
        train(tmp_path, 50, range(6, 50), None, "--max_checkpoints=2")
    infos = store.list_checkpoints(tmp_path)
    sound = [info.step for info in infos if not info.diverged]
    assert sound[-2:] == [4, 5] and len([info for info in infos if info.diverged]) <= 2
    assert train(tmp_path, 7).step == 7


@pytest.mark.filterwarnings("ignore:step .* was saved, but")
def test_weights_that_are_not_finite_are_refused_by_name_too(tmp_path):
    train(tmp_path / "run", 3, weights=3)
    named = str(tmp_path / "run" / "checkpoints" / store.step_name(3))
    with pytest.raises(CheckpointError, match=r"step-000000003 has diverged: network.0.weight holds NaN or infinity"):
        train(tmp_path / "run", 4, (), None, f"--resume_from={named}")
    with pytest.raises(CheckpointError, match="has diverged"):
        train(tmp_path / "new", 4, (), None, f"--init_from={named}")


def test_a_checkpoint_of_before_this_was_written_down_says_it_by_its_loss(tmp_path, capsys):
    train(tmp_path, 2)
    newest = tmp_path / "checkpoints" / store.step_name(2)
    metadata = {k: v for k, v in store.read_metadata(newest).items() if k != "diverged"} | {"loss": None}
    metadata["manifest_sha256"] = store._manifest_sum(metadata)
    store.write_json(newest / store.METADATA, metadata)
    train(tmp_path, 3)
    assert "passed over step-000000002: losses before it were not finite" in capsys.readouterr().out
