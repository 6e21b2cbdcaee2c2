"""What a stage is: what is trained, what one step's loss is, what it exports.

The loop (`trainer.py`) knows optimizers, steps, checkpoints and processes; a stage knows networks, data and the
loss. They meet in `Stage`, and nowhere else:

    stage = MyStage(config, device)      # light: reads the configuration, builds nothing heavy
    stage.setup(processes)               # builds `modules` (seeded) and the data, before any step
    len(stage), stage.data_fingerprint   # rows of one epoch, and what they are
    batch = stage.load(draws)            # CPU tensors of one micro-batch; may run in a background thread
    out = stage.loss(batch, phase)       # `StepLoss` with one loss a sample
    stage.export(weights)                # {file name: tensors} to fly with, from a CPU copy of the weights

Randomness belongs to samples, not to processes: take it from `Draw.generator(purpose)`, whose seed is a function of
(seed, stage, position, purpose). Then a run that is resumed, or split over more processes, draws the same numbers.

A stage with several optimizers (a VAE with a discriminator) names them in `phases`. The loop runs the phases of a
step in order on the same micro-batches: for each phase, `loss(batch, phase)` is averaged over the global batch and
differentiated with respect to `phase_modules(phase)` alone, then that phase's optimizer steps. A phase that does not
run in a step (`runs(phase, step)`) is passed over; the first runs in every step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from train.loop.config import NO_EFFECT, SECTIONS, TrainConfig
from train.loop.seeding import Draw
from wanact.errors import UserError, in_words

if TYPE_CHECKING:
    from pathlib import Path

    from train.loop.dist import Processes

# Settings that the loop itself uses, whatever the stage is: whole sections, and single ones.
LOOP_USES = (
    *("optim", "shard", "dataset_repeat", "dataset_num_workers"),
    "checks",
    *("output_path", "save_steps", "max_checkpoints", "save_full_state", "export_model_dir"),
    *("resume_from", "on_resume_error", "init_from", "override"),
    *("log_steps", "tracker", "use_wandb", "wandb_project", "wandb_run_name"),
    *NO_EFFECT,
)


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """Around what is nice to have: where the disk does not take it, that is said and training goes on."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{what} was not written: {in_words(error)}. Training goes on", stacklevel=3)


@dataclass
class StepLoss:
    """What a stage hands to the loop for one micro-batch of one phase.

    Attributes:
        loss: one value a sample, [B], float32, with a graph.
        metrics: further values to log, scalars or one a sample, without a graph; averaged like the loss.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Stage:
    """Base of all stages. Override what differs; see the module's docstring for the order of calls.

    Attributes:
        name: the word on the command line.
        options: dataclass of flags that only this stage has, or None. Its values are in `config.stage`.
        uses: sections of the settings, and single settings, that count here, beside `LOOP_USES` and `options`.
        refuses: of those, the ones that do not count all the same, and why. What is not used is refused where it is
            given, so that nobody waits for an effect that never comes.
        usual: what settings are in this stage where nobody gives them, if that is not their default.
        phases: optimizers of a step, in order.
        starts_itself: networks whose weights `setup` has put in; `--init_from` leaves them alone.
        modules: trained networks by name, filled by `setup`. Parameters that require gradients when `setup` returns
            are trained, counted and saved under "<module>.<parameter>".
        base: what the trained networks started from (model directory, fingerprint), for the checkpoint's metadata.
        unread: of networks that `setup` has left on the meta device, the weights by parameter, each of which is read
            when it is asked for: once a network is split, every process reads its own part.
    """

    name: ClassVar[str]
    options: ClassVar[type | None] = None
    uses: ClassVar[tuple[str, ...]] = ()
    refuses: ClassVar[dict[str, str]] = {}
    usual: ClassVar[dict[str, Any]] = {}
    phases: tuple[str, ...] = ("main",)
    starts_itself: tuple[str, ...] = ()

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.modules: dict[str, nn.Module] = {}
        self.unread: dict[str, Mapping[str, Tensor]] = {}
        self.base: dict[str, Any] = {}

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Raise ValueError for settings that this stage cannot use. Called before anything loads."""

    @classmethod
    def used_settings(cls) -> frozenset[str]:
        """Names of all settings that count in this stage, but for its own `options`."""
        named = {*LOOP_USES, *cls.uses}
        fields = {f.name: section for section, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
        used = {name for name, section in fields.items() if {name, section} & named}
        return frozenset(used - cls.refuses.keys())

    def setup(self, processes: Processes) -> None:
        """Build `modules` and the data. Collective: every process calls it."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Rows in one epoch."""
        raise NotImplementedError

    @property
    def data_fingerprint(self) -> str:
        """Changes when the rows or their order change; compared on resume."""
        return ""

    def order(self, seed: int, epoch: int, repeat: int) -> Tensor | None:
        """The rows of an epoch, each `repeat` times, where they are best read in an order of their own.

        A function of its arguments and of what `data_fingerprint` tells of. None has them shuffled as a whole.
        """
        return None

    @property
    def read_ahead(self) -> int:
        """Micro-batches that are read ahead where threads may read, each by one; `load` is called by all at once."""
        return 1

    def load(self, draws: list[Draw]) -> dict[str, Any]:
        """Micro-batch for these samples, on the CPU. A function of `draws` alone."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        """Loss of one micro-batch. Tensors of `batch` are already on `device`; runs under autocast."""
        raise NotImplementedError

    def phase_modules(self, phase: str) -> list[str]:
        """Names in `modules` that this phase's optimizer updates."""
        return list(self.modules)

    def runs(self, phase: str, step: int) -> bool:
        """Whether the phase runs in this step, counted from 0."""
        return True

    def rate_factor(self, phase: str) -> float:
        """Rate of the phase's optimizer, as a multiple of `--learning_rate`."""
        return 1.0

    def averaged_modules(self) -> list[str]:
        """Names in `modules` whose weights `--ema_decay` averages."""
        return list(self.modules)

    def shard_units(self) -> list[nn.Module]:
        """Modules that FSDP shards one by one (transformer blocks), inner ones first."""
        return []

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Files to use the result with: {"name.safetensors": tensors}. `weights` has full names, on the CPU."""
        return {}

    def export_config(self) -> tuple[str, dict[str, Any]] | None:
        """Name and content of the JSON file that belongs to the exported weights, or None."""
        return None

    def export_model_dir(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write a complete model directory in diffusers layout with these trained weights (full names, on the CPU)."""
        raise UserError(f"stage {self.name!r} does not export a model directory; use i2v or vae")

    def export_file(self, file: Path, weights: dict[str, Tensor], origin: dict[str, Any]) -> None:
        """Write the trained transformer (full names, on the CPU) as one .pt file of this run and step."""
        raise UserError(f"stage {self.name!r} trains no transformer; leave --save_path out")

    def self_check(self) -> list[str]:
        """What `--checks` looks at before the first step; a line for each thing that holds.

        Raises:
            UserError: for one that does not.
        """
        return []

    def sample(self, folder: Path, step: int) -> None:
        """Write sample clips into `folder`, on fixed inputs, so that steps can be compared.

        Called on the main process, or on all where networks are sharded; the main process writes. Where
        networks are sharded it writes inside of `going_on`, so that it goes on with the others.
        """

    def trainable(self, phase: str | None = None) -> dict[str, nn.Parameter]:
        """Trained parameters by full name, of one phase or of all."""
        names = list(self.modules) if phase is None else self.phase_modules(phase)
        return {
            f"{module}.{name}": parameter
            for module in names
            for name, parameter in self.modules[module].named_parameters()
            if name not in self._frozen(module)
        }

    def buffers(self) -> dict[str, Tensor]:
        """What a network keeps beside its parameters and training changes (statistics of the data, of a batch norm).

        By full name, like `trainable`: saved with the weights, and there again after a resume. Of several processes the
        main one's count.
        """
        return {}

    def _frozen(self, module: str) -> frozenset[str]:
        """Parameters without gradients at the time of first asking; phases may toggle requires_grad afterwards."""
        cache = self.__dict__.setdefault("_frozen_names", {})
        if module not in cache:
            parameters = self.modules[module].named_parameters()
            cache[module] = frozenset(name for name, parameter in parameters if not parameter.requires_grad)
        return cache[module]
