"""The loop: steps, accumulation, optimizers, checkpoints, signals. It knows no loss.

One step is one optimizer update of each phase. Everything that a step does is a function of the step's number, the
position in the data and the seed, so that resuming is running the same command again.
"""

from __future__ import annotations

import math
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from train.loop import export, foreach, resume, saving, sharded
from train.loop.claim import claim
from train.loop.config import ConfigError, TrainConfig
from train.loop.dist import Processes, clip_gradients, fill, like, local, sum_in_last_round, whole
from train.loop.log import RunLog
from train.loop.optim import build_optimizer, kept_names, learning_rate
from train.loop.progress import Progress
from train.loop.reader import Reader
from train.loop.sampler import StepSampler
from train.loop.seeding import derive_seed
from train.loop.stage import Stage, going_on
from wanact.errors import UserError, in_words
from wanact.files import CheckpointError, Lock
from wanact.runs import store
from wanact.runs.ref import CHECKPOINTS

MAX_BAD_STEPS = 10
_HOST = torch.empty(0)
_COUNT = "steps of "  # before a name: how many of the steps since the last line have it


class Trainer:
    """Trains one stage to its last step.

    Args:
        config: all settings.
        stage: what is trained; not set up yet.
        processes: who takes part.
    """

    def __init__(self, config: TrainConfig, stage: Stage, processes: Processes) -> None:
        self.config, self.stage, self.processes = config, stage, processes
        self.run_dir = Path(config.checkpoint.output_path)
        self.step = 0
        self.position = 0
        self.window: dict[str, float] = {}  # sums of losses and metrics since the last log line
        self.since_save = [0.0, 0]  # sum of losses since the last checkpoint, and their number
        self.bad_steps = 0
        self.diverged: str | None = None  # what was not finite in the last step
        self.is_set_up = False
        self.takes_requests = True  # to save now, by the file that asks for it
        self.blocked_seconds = 0.0  # how long the last save kept training waiting
        self.stop_signal: str | None = None
        self.claim: Lock | None = None
        self.saver: saving.Saver | None = None  # of the main process, like the log, unless networks are sharded
        self._taken: dict[str, list[str]] = {}  # parameters whose optimizer's state was found, by phase
        self.log: RunLog | None = None

    def run(self) -> int:
        """Train until the last step or a signal; returns the step reached."""
        if not self.is_set_up:
            self.setup()
        try:
            return self._run()
        finally:
            self.close()

    def close(self) -> None:
        """Let other trainers have the run's folder, once what is being written there is."""
        if self.saver is not None:
            self.saver.join()
        if self.claim is not None:
            self.claim.release()
            self.claim = None
        if self.config.optim.checks:
            torch.autograd.set_detect_anomaly(False)

    def _run(self) -> int:
        resumed_at = self.step
        progress = Progress(self.processes, self.config, self.log, self.step, self.num_steps, self.sampler)
        try:
            with self._signals():
                while self.step < self.num_steps:
                    losses, rate, norm = self._train_step()
                    progress.step(self.step, losses, rate, norm)
                    reason = self._after_step(progress, losses, rate)
                    if reason == "stop":
                        break
            if self.saver is not None:
                self.saver.wait()
            if self.step == self.num_steps and self.step > resumed_at:
                self._require_last_checkpoint()
        finally:
            progress.close()
            self.reader.close()
        return self.step

    def export_model_dir(self, folder: Path) -> None:
        """Write the base model with the trained (or averaged) weights in it, unless it is there. Collective."""
        if export.exported_from(folder) == self._origin():
            return
        weights = self._final_weights()
        if self.processes.is_main:
            with export.new_folder(folder, self._origin()) as temporary:
                self.stage.export_model_dir(temporary, weights)
            self.processes.print(f"wrote the model directory {folder}")
        self.processes.barrier()

    def export_file(self, file: Path) -> None:
        """Write the trained (or averaged) transformer as one file, unless it is there. Collective."""
        if self.processes.broadcast(export.file_exported_from(file) == self._origin()):
            return
        weights = self._final_weights()
        if self.processes.is_main:
            self.stage.export_file(file, weights, self._origin())
            self.processes.print(f"wrote {file}")
        self.processes.barrier()

    def _final_weights(self) -> dict[str, Tensor]:
        """All of them in the main process, nothing in the others. Collective."""
        weights = {}
        for name, value in (self.ema or self.parameters).items():
            full = whole(value.detach())
            if self.processes.is_main:
                weights[name] = full.to("cpu", copy=True)
        return weights

    def _origin(self) -> dict[str, Any]:
        return {"run": str(self.run_dir.resolve()), "step": self.step}

    # Beginning

    def setup(self) -> None:
        """Take the run's folder, build the stage and go to where the run continues. Collective.

        Raises:
            wanact.files.CheckpointError: if the folder cannot be used, or another trainer uses it.
        """
        self._claim()
        try:
            self._setup()
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        problem = None
        if self.processes.is_main:
            try:
                self.claim = claim(self.run_dir)
                self.log = RunLog(self.run_dir)
            except (UserError, OSError) as error:
                problem = in_words(error)
        problem = self.processes.broadcast(problem)
        if problem:
            self.close()
            raise CheckpointError(problem)

    def _setup(self) -> None:
        config, processes, stage = self.config, self.processes, self.stage
        stage.setup(processes)
        self.sampler = StepSampler(
            len(stage),
            config.data.dataset_repeat,
            config.optim.seed,
            stage.name,
            config.optim.batch_size,
            config.optim.gradient_accumulation_steps,
            processes.count,
            stage.order,
        )
        self.num_steps = self._count_steps()
        self.parameters = stage.trainable()
        if not self.parameters:
            raise ConfigError(f"--trainable_models {config.model.trainable_models} leaves nothing to train")
        self.buffers = stage.buffers()
        self.shapes = {name: value.shape for name, value in {**self.parameters, **self.buffers}.items()}
        if processes.is_main:
            store.clean(self.run_dir)
        processes.barrier()
        ahead = stage.read_ahead if config.data.dataset_num_workers > 0 else 0
        self.reader = Reader(stage.load, self.sampler, processes.rank, ahead)
        loaded = self._find()
        weights: dict[str, Tensor] = {}
        if loaded is not None and not loaded.in_parts:
            weights, loaded.weights = loaded.weights, {}
        elif loaded is None and config.checkpoint.init_from:
            wanted = {n: shape for n, shape in self.shapes.items() if n.partition(".")[0] not in stage.starts_itself}
            weights = resume.init_weights(Path(config.checkpoint.init_from), wanted)
        if processes.sharded:
            self._shard(weights.keys() | (loaded.weights.keys() if loaded is not None else set()))
        self._take_weights(weights)
        weights.clear()  # they have been copied; with a large model the memory is wanted
        self.optimizers = {
            phase: build_optimizer(stage.trainable(phase), config.optim, processes.sharded, processes.compute_dtype)
            for phase in stage.phases
        }
        self.ema = self._initial_ema(loaded)
        if loaded is not None:
            self._continue(loaded)
            if loaded.in_parts:
                self._read_parts(loaded)
        if self.log is not None:
            self.log.go_back_to(self.step)
        self.saver = self._new_saver()
        if self.saver is not None:
            self.saver.launch()
        if config.optim.checks:
            torch.autograd.set_detect_anomaly(True)
            for line in stage.self_check():
                processes.print(f"checked: {line}")
        self.is_set_up = True
        processes.print(
            f"{stage.name}: {self._num_parameters / 1e6:,.2f} M parameters, {len(stage)} rows, "
            f"{self.sampler.global_batch} samples a step, steps {self.step} to {self.num_steps}, "
            f"{processes.count} x {processes.device.type}"
        )

    def _new_saver(self) -> saving.Saver | None:
        """Of the main process; of each where networks are sharded, which writes its own part."""
        kept = self.config.checkpoint.max_checkpoints
        if self.processes.sharded:
            named = {**self.parameters, **self.buffers}
            whole = frozenset(name for name, tensor in named.items() if not isinstance(tensor, DTensor))
            stage, group = self.stage, self.processes.saving_group
            return saving.ShardedSaver(
                self.run_dir, stage.export, stage.export_config(), kept, group=group, whole=whole
            )
        if self.log is None:
            return None
        return saving.Saver(self.run_dir, self.stage.export, self.stage.export_config(), kept)

    @property
    def _num_parameters(self) -> int:
        return sum(self.shapes[name].numel() for name in self.parameters)

    @property
    def num_samples(self) -> int:
        """Samples of a run whose length is in epochs."""
        return self.config.optim.num_epochs * self.sampler.epoch_length

    def _count_steps(self) -> int:
        """Updates of the whole run: as many as were asked for, or those done and what the samples left need."""
        left = max(0, self.num_samples - self.position)
        return self.config.optim.max_steps or self.step + math.ceil(left / self.sampler.global_batch)

    def _rate(self, back: int = 0) -> float:
        """Rate of the next update, or of one so many updates back.

        In a run whose length is in epochs it is a function of the samples seen, so that another batch size neither
        repeats nor leaves out a part of the schedule.
        """
        if self.config.optim.max_steps:
            return learning_rate(self.step - back, self.num_steps, self.config.optim)
        batch = self.sampler.global_batch
        return learning_rate(self.position / batch - back, math.ceil(self.num_samples / batch), self.config.optim)

    def _find(self) -> resume.Loaded | None:
        """What to continue from. The main process chooses and verifies; the others read what it chose."""
        loaded, remarks, problem = None, [], None
        if self.processes.is_main:
            try:
                loaded, remarks = resume.find(self.config, self.stage.name, self.shapes, self.processes.sharded)
            except CheckpointError as error:
                problem = str(error)
        for remark in remarks:
            self.processes.print(remark)
        path, kept, problem = self.processes.broadcast(
            (loaded.path if loaded else None, loaded is not None and loaded.kept, problem)
        )
        if problem:
            raise CheckpointError(problem)
        if path is not None and loaded is None:
            if kept:
                loaded, _ = resume.keep_what_fits(path, self.shapes, [])
            else:
                parts = self.processes.sharded
                loaded = resume.load(path, self.stage.name, self.shapes, self.config, verified=True, in_parts=parts)
        return loaded

    def _read_parts(self, loaded: resume.Loaded) -> None:
        """Fill weights, averages and optimizers from the shards of a checkpoint. Collective."""
        held = {**self.parameters, **self.buffers}
        wanted = {f"{sharded.WEIGHTS}/{name}": held[name] for name in loaded.weights}
        wanted |= {f"{sharded.EMA}/{name}": self.ema[name] for name in loaded.ema if name in self.ema}
        wanted |= sharded.flat(
            {
                phase: {"state": {n: self.optimizers[phase].state[parameters[n]] for n in names if n in parameters}}
                for phase, names in self._taken.items()
                for parameters in (self.stage.trainable(phase),)
            }
        )
        with torch.no_grad():
            sharded.load(wanted, loaded.path, self.processes.saving_group)

    def _take_weights(self, weights: dict[str, Tensor]) -> None:
        held = {**self.parameters, **self.buffers}
        for name, value in weights.items():
            fill(held[name], value)

    def _shard(self, known: Set[str]) -> None:
        """Shard the networks that have units; small ones (a controller) stay whole on every process.

        Args:
            known: weights that come from elsewhere and need not be read with a network's own.
        """
        units = self.stage.shard_units()
        for network in self.stage.modules.values():
            inside = set(network.modules())
            own = [unit for unit in units if unit in inside]
            if own:
                self.processes.shard(own, network)
        for module, weights in self.stage.unread.items():
            network = self.stage.modules[module]
            self.processes.make_room(network)
            for name, parameter in network.named_parameters():
                if f"{module}.{name}" not in known:
                    fill(parameter, weights[name])
        self.stage.unread.clear()
        self.parameters = self.stage.trainable()

    def _initial_ema(self, loaded: resume.Loaded | None) -> dict[str, Tensor]:
        if not self.config.optim.ema_decay:
            return {}
        source, averaged = loaded.ema if loaded is not None else {}, self.stage.averaged_modules()
        return {
            name: like(source[name], parameter.detach()) if name in source else parameter.detach().clone()
            for name, parameter in self.parameters.items()
            if name.partition(".")[0] in averaged
        }

    def _continue(self, loaded: resume.Loaded) -> None:
        self.step = loaded.step
        state = loaded.state
        self.position = self.sampler.position_after(state, self.step)
        self.num_steps = self._count_steps()
        self.window = dict(state.get("window", {}))
        self.since_save = [0.0, 0]
        say = self.processes.print
        say(f"continuing from {loaded.path.name} at step {self.step}")
        for line in resume.changes(self.config, loaded):
            say(f"  changed since: {line}")
        if state.get("num_processes", self.processes.count) != self.processes.count:
            say(f"  changed since: processes were {state['num_processes']}, are {self.processes.count}")
        if state.get("data_fingerprint", self.stage.data_fingerprint) != self.stage.data_fingerprint:
            say("  changed since: the data; its order starts anew from the same place in the epoch")
        if loaded.optimizer is None:
            say("  it has no optimizer state: the optimizer starts fresh (--save_full_state keeps it)")
            return
        for phase, optimizer in self.optimizers.items():
            if phase in loaded.optimizer:
                self._load_optimizer(phase, optimizer, loaded.optimizer[phase])

    def _load_optimizer(self, phase: str, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        """States are kept by parameter name, so that neither their order nor the grouping matters."""
        fused, kept, fresh = optimizer.defaults.get("fused"), kept_names(optimizer), 0
        parameters = self.stage.trainable(phase)
        for name, parameter in parameters.items():
            state = saved["state"].get(name)
            if not state:
                continue
            shapes = {key: getattr(state.get(key), "shape", None) for key in kept[parameter]}
            if any(shape != (() if key == "step" else parameter.shape) for key, shape in shapes.items()):
                fresh += 1
                continue
            optimizer.state[parameter] = {
                # Counters stay in host memory unless the optimizer is one fused kernel.
                key: like(state[key], parameter.detach() if state[key].ndim or fused else _HOST)
                for key in kept[parameter]
            }
            self._taken.setdefault(phase, []).append(name)
        if fresh:
            self.processes.print(
                f"  the state of {fresh} of {len(parameters)} parameters is another optimizer's: it starts fresh there"
            )

    # One step

    def _train_step(self) -> tuple[dict[str, Tensor], float, float]:
        """One update of every phase; mean losses and metrics of this process, the rate and the gradient norm."""
        rate = self._rate()
        sums: dict[str, Tensor] = {}
        norm = 0.0
        self.diverged = None
        phases = [phase for phase in self.stage.phases if self.stage.runs(phase, self.step)]
        for phase in phases:
            parameters = self.stage.trainable(phase)
            if len(self.stage.phases) > 1:
                for name, parameter in self.parameters.items():
                    parameter.requires_grad_(name in parameters)
            for round_, batch in enumerate(self._micro_batches(), start=1):
                is_last = round_ == self.config.optim.gradient_accumulation_steps
                sum_in_last_round(self.stage.modules.values(), is_last)
                self._accumulate(batch, phase, sums)
            if self.config.optim.checks and not self.bad_steps:
                self._check_gradients(parameters)
            norm = self._update(phase, list(parameters.values()), rate)
            if not math.isfinite(norm):
                self.diverged = f"the gradient of its last step had the norm {norm}"
        if not math.isfinite(float(sums["loss"])):
            self.diverged = f"the loss of its last step was {float(sums['loss'])}"
        self.step += 1
        self.position += self.sampler.global_batch
        return sums, rate, norm

    def _check_gradients(self, parameters: dict[str, nn.Parameter]) -> None:
        """Raise ConfigError if the loss does not reach a weight that is trained."""
        without = [name for name, parameter in parameters.items() if parameter.grad is None]
        if without:
            raise ConfigError(
                f"--checks: the loss of step {self.step} reaches {len(parameters) - len(without)} of {len(parameters)} "
                f"trained weights, and not {without[0]}"
            )

    def _micro_batches(self) -> Iterator[dict[str, Any]]:
        for round_ in range(self.config.optim.gradient_accumulation_steps):
            draws, batch = self.reader.read(self.position, self.step, round_)
            # Dropout draws from the global generator; seeded like this it repeats itself after a resume.
            torch.manual_seed(derive_seed(self.config.optim.seed, self.stage.name, draws[0].position, "global"))
            yield _to(batch, self.processes.device)

    def _accumulate(self, batch: dict[str, Any], phase: str, sums: dict[str, Tensor]) -> None:
        accumulation = self.config.optim.gradient_accumulation_steps
        with self.processes.autocast():
            out = self.stage.loss(batch, phase)
        loss = out.loss.mean() / accumulation
        loss.backward()
        label = "loss" if phase == self.stage.phases[0] else f"{phase}_loss"
        for name, value in {label: loss.detach(), **out.metrics}.items():
            share = value.double() if name == label else value.detach().double().mean() / accumulation
            sums[name] = sums[name] + share if name in sums else share

    def _update(self, phase: str, parameters: list[nn.Parameter], rate: float) -> float:
        optimizer = self.optimizers[phase]
        self.processes.average_gradients(parameters)
        norm = float(clip_gradients(parameters, self.config.optim.max_grad_norm))
        if math.isfinite(norm):
            self.bad_steps = 0
            for group in optimizer.param_groups:
                group["lr"] = rate * self.stage.rate_factor(phase)
            optimizer.step()
            self._average_weights(phase)
        else:
            self._bad_step(norm)
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _bad_step(self, norm: float) -> None:
        self.bad_steps += 1
        self.processes.print(f"step {self.step}: the gradient's norm is {norm}; this update is left out")
        if self.bad_steps >= MAX_BAD_STEPS:
            raise ConfigError(
                f"{MAX_BAD_STEPS} updates in a row had no finite gradient; "
                f"lower --learning_rate {self.config.optim.learning_rate:g}"
            )

    @torch.no_grad()
    def _average_weights(self, phase: str) -> None:
        names = [name for name in self.stage.trainable(phase) if name in self.ema]
        if names:
            averages = [local(self.ema[name]) for name in names]
            current = [local(self.parameters[name]) for name in names]
            begun = self.step >= self.config.optim.ema_start_step
            foreach.lerp_(averages, current, 1 - self.config.optim.ema_decay if begun else 1.0)

    # Between steps

    def _after_step(self, progress: Progress, losses: dict[str, Tensor], rate: float) -> str | None:
        """Log, save and sample where it is time; "stop" when a signal asks for it."""
        for name, value in losses.items():
            self.window[name] = self.window.get(name, 0.0) + float(value)
            self.window[_COUNT + name] = self.window.get(_COUNT + name, 0) + 1  # some phases run in some steps
        self.window["steps"] = self.window.get("steps", 0) + 1
        if math.isfinite(float(losses["loss"])):
            self.since_save = [self.since_save[0] + float(losses["loss"]), self.since_save[1] + 1]
        last = self.step == self.num_steps
        if self.step % self.config.log.log_steps == 0 or last:
            self._log(progress, rate)
        asked = self.run_dir / "save"
        is_asked = self.processes.is_main and self.takes_requests and asked.exists()
        stop, save_now = self.processes.any([self.stop_signal is not None, is_asked])
        every = self.config.checkpoint.save_steps
        if last or stop or save_now or (every is not None and self.step % every == 0):
            reason = (
                "end" if last else (self.stop_signal or "signal") if stop else "asked for" if save_now else "interval"
            )
            self._save(reason)
            if save_now and self.processes.is_main:
                self._take_note(asked)
        every = self.config.log.sample_steps
        if every is not None and (last or self.step % every == 0):
            self._sample()
        if stop and not last:
            self.processes.print(f"stopped at step {self.step} ({self.stop_signal or 'by another process'})")
            return "stop"
        return None

    def _take_note(self, asked: Path) -> None:
        try:
            asked.unlink(missing_ok=True)
        except OSError as error:
            self.takes_requests = False  # or every step would be saved
            warnings.warn(f"{asked} cannot be removed ({error.strerror}) and is not heard any more", stacklevel=2)

    def _log(self, progress: Progress, rate: float) -> None:
        steps = self.window.pop("steps")
        names = sorted(name for name in self.window if not name.startswith(_COUNT))
        means = self.processes.mean([self.window[n] / self.window.get(_COUNT + n, steps) for n in names])
        progress.log(self.step, self.position // self.sampler.epoch_length, dict(zip(names, means, strict=True)), rate)
        self.window = {}

    def _save(self, reason: str) -> None:
        """Copy the state to host memory and let the saver write it. Collective."""
        total, count = self.processes.mean(self.since_save)
        (diverged,) = self.processes.any([self.diverged is not None])
        problem = (self.diverged or "the loss of another process was not finite") if diverged else None
        names = sorted(self.window)
        window = dict(zip(names, self.processes.mean([self.window[name] for name in names]), strict=True))
        full = self.config.checkpoint.save_full_state
        began = time.perf_counter()
        self.since_save = [0.0, 0]
        if self.saver is None:
            return
        if self.processes.sharded:
            self.saver.wait()  # or three copies of what a process holds would be in memory, and not two
        copy = self.processes.own_copy
        buffers = {name: copy(value) for name, value in self.buffers.items()}
        weights = {name: copy(parameter) for name, parameter in self.parameters.items()} | buffers
        optimizer = {phase: self._optimizer_state(phase) for phase in self.stage.phases} if full else None
        ema = {name: copy(value) for name, value in self.ema.items()}
        ema |= buffers if ema else {}
        rate = self._rate(back=1)
        self.saver.save(
            saving.Snapshot(
                step=self.step,
                weights=weights,
                short_names=self._short_names(),
                optimizer=optimizer,
                scheduler={"step": self.step, "learning_rate": rate, "num_steps": self.num_steps},
                ema=ema,
                state=self._state(window),
                config=self.config.to_dict(),
                metadata=self._metadata(total / count if count else None, reason, rate),
                diverged=problem,
            )
        )
        self.blocked_seconds = time.perf_counter() - began

    def _optimizer_state(self, phase: str) -> dict[str, Any]:
        states = self.optimizers[phase].state
        return {
            "state": {
                name: {key: self.processes.own_copy(value) for key, value in states[parameter].items()}
                for name, parameter in self.stage.trainable(phase).items()
                if parameter in states
            }
        }

    def _short_names(self) -> dict[str, str]:
        """Names for trainable.safetensors: without the module where only one is trained."""
        modules = {name.partition(".")[0] for name in self.parameters}
        return {name: name.partition(".")[2] if len(modules) == 1 else name for name in self.shapes}

    def _state(self, window: dict[str, float]) -> dict[str, Any]:
        return {
            "format": store.FORMAT,
            "global_step": self.step,
            "epoch": self.position // self.sampler.epoch_length,
            "position": self.position,
            "epoch_length": self.sampler.epoch_length,
            "stage": self.stage.name,
            "seed": self.config.optim.seed,
            "num_processes": self.processes.count,
            "global_batch": self.sampler.global_batch,
            "data_fingerprint": self.stage.data_fingerprint,
            "window": window,
        }

    def _metadata(self, loss: float | None, reason: str, rate: float) -> dict[str, Any]:
        optim = self.config.optim
        return {
            "epoch": self.position // self.sampler.epoch_length,
            "loss": loss,
            "stage": self.stage.name,
            "reason": reason,
            "config_summary": {
                "batch_size": optim.batch_size,
                "gradient_accumulation_steps": optim.gradient_accumulation_steps,
                "learning_rate": optim.learning_rate,
                "current_learning_rate": rate,
                "max_steps": self.num_steps,
                "trained": sorted({name.partition(".")[0] for name in self.parameters}),
                "parameters": self._num_parameters,
            },
            "base": self.stage.base,
            "data": {
                "position": self.position,
                "rows": len(self.stage),
                "fingerprint": self.stage.data_fingerprint,
            },
            "topology": {"processes": self.processes.count, "sharded": self.processes.sharded},
            "versions": library_versions(),
        }

    def _sample(self) -> None:
        """Sample clips, of the averaged weights if there are. Collective."""
        folder = self.run_dir / "samples" / store.step_name(self.step)
        if self.processes.is_main:
            with going_on(f"samples of step {self.step}"):
                folder.mkdir(parents=True, exist_ok=True)
        if self.processes.is_main or self.processes.sharded:
            with self._averaged(), going_on(f"samples of step {self.step}"):
                self.stage.sample(folder, self.step)
        self.processes.barrier()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the networks for a while."""
        pairs = [(self.parameters[name], average) for name, average in self.ema.items()]
        with torch.no_grad():
            trained = [parameter.detach().clone() for parameter, _ in pairs]
            for parameter, average in pairs:
                parameter.copy_(average)
            try:
                yield
            finally:
                for (parameter, _), value in zip(pairs, trained, strict=True):
                    parameter.copy_(value)

    def _require_last_checkpoint(self) -> None:
        """A run whose last state could not be written must not end as if it had been."""
        path = self.run_dir / CHECKPOINTS / store.step_name(self.step)
        if self.processes.is_main and not (path / store.METADATA).is_file():
            raise OSError(f"the last checkpoint was not written: {path} is missing; free some space and run again")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and the first Ctrl-C finish the step and save; the second Ctrl-C is Python's own."""

        def note(number: int, _frame: Any) -> None:
            self.stop_signal = signal.Signals(number).name
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            print(f"{self.stop_signal}: saving after this step", file=sys.stderr, flush=True)

        try:
            previous = {
                number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
            }
        except ValueError:  # not the main thread: whoever started us keeps the signals
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers", "accelerate", "peft")}
