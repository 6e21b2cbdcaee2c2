"""From a training state to a checkpoint on disk: a copy to host memory now, the writing in a thread.

Training waits for the copy, and for the write before it if that has not ended; never for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from train.loop import sharded
from wanact.files import disk_errors, load_state, load_weights, replacing, write_json
from wanact.runs import store

WEIGHTS, FULL_WEIGHTS = "trainable.safetensors", "trainable_full.safetensors"
OPTIMIZER, SCHEDULER, EMA = "optimizer.pt", "scheduler.pt", "ema.safetensors"
STATE, CONFIG = "trainer_state.json", "train_config.json"
EXPORTED = (store.CONTROLLER, store.LORA, store.TRANSFORMER)


@dataclass
class Snapshot:
    """Everything a checkpoint holds, in host memory; where networks are sharded, what this process holds of it.

    Attributes:
        step: optimizer updates.
        weights: trained weights by full name.
        short_names: names for trainable.safetensors, if it is a second name of another file, by full name.
        optimizer: states by phase, None to leave them out.
        scheduler: what scheduler.pt says.
        ema: averaged weights by full name, {} without.
        state: content of trainer_state.json.
        config: content of train_config.json.
        metadata: for checkpoint_metadata.json.
        diverged: why nothing is to go on from here by itself (a loss or gradient that was not finite), or None.
    """

    step: int
    weights: dict[str, Tensor]
    short_names: dict[str, str]
    optimizer: dict[str, Any] | None
    scheduler: dict[str, Any]
    ema: dict[str, Tensor]
    state: dict[str, Any]
    config: dict[str, Any]
    metadata: dict[str, Any]
    diverged: str | None = None

    def num_bytes(self) -> int:
        """About what the checkpoint takes on disk."""
        tensors = [*self.weights.values(), *self.ema.values()]
        size = sum(t.numel() * t.element_size() for t in tensors) + sum(
            t.numel() * t.element_size() for t in self.weights.values()
        )
        for phase in (self.optimizer or {}).values():
            size += sum(t.numel() * t.element_size() for s in phase["state"].values() for t in s.values())
        return size + 2**20


# Files to fly with, from the weights; and the JSON file that belongs to them.
Export = Callable[[dict[str, Tensor]], dict[str, dict[str, Tensor]]]


@dataclass
class Saver:
    """Writes snapshots of one run, one at a time, in a background thread. Used by the main process only.

    Attributes:
        run: the run's folder.
        export: makes the files to fly with.
        export_config: name and content of the file that belongs to them, or None.
        keep: checkpoints to keep, None for all.
    """

    run: Path
    export: Export
    export_config: tuple[str, dict[str, Any]] | None
    keep: int | None
    last_seconds: float = 0.0
    _thread: threading.Thread | None = None
    _error: BaseException | None = None
    _verified: set[str] = field(default_factory=set)

    def launch(self) -> None:
        """Write the run's configuration, which tells what is trained before anything is saved.

        Where files to fly with are there already, theirs stays until they are replaced.
        """
        if self.export_config is not None and not any((self.run / name).is_file() for name in EXPORTED):
            name, content = self.export_config
            write_json(self.run / name, content)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write; waits for the write before."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when everything is on disk. Raises what went wrong, unless it was the disk."""
        self.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """Return when nothing is being written any more."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, snapshot: Snapshot) -> None:
        began = time.perf_counter()
        try:
            path = self._write(snapshot)
            if path is None:
                return
        except OSError as error:
            warnings.warn(f"step {snapshot.step} was not saved: {_reason(error)}. Training goes on", stacklevel=1)
        except BaseException as error:  # handed to the training thread by wait()
            self._error = error
        else:
            self._tidy(path, snapshot)
        self.last_seconds = time.perf_counter() - began

    def _tidy(self, path: Path, snapshot: Snapshot) -> None:
        """What comes after a checkpoint is in place; nothing of it makes the checkpoint less saved."""
        tasks: list[tuple[str, Callable[[], object]]] = []
        if snapshot.diverged:
            warnings.warn(
                f"step {snapshot.step} was saved, but {snapshot.diverged}: --resume_from auto passes it over, and the "
                "files to fly with in the run's folder stay",
                stacklevel=1,
            )
        else:
            tasks.append(("the files to fly with in the run's folder were not renewed", lambda: self._publish(path)))
        if (keep := self.keep) is not None:
            tasks.append(("older checkpoints were not removed", lambda: store.prune(self.run, keep, self._verified)))
        for failure, task in tasks:
            try:
                task()
            except OSError as error:
                warnings.warn(f"step {snapshot.step} was saved, but {failure}: {_reason(error)}", stacklevel=1)
            except BaseException as error:
                self._error = error

    def _write(self, snapshot: Snapshot) -> Path | None:
        """Write a checkpoint; where it lies, or None where another process has written the rest of it."""
        self._require_room(snapshot)
        snapshot.diverged = find_not_finite(snapshot.weights | snapshot.ema) or snapshot.diverged
        return self._write_checkpoint(snapshot, lambda folder: self._fill(folder, snapshot))

    def _require_room(self, snapshot: Snapshot) -> None:
        needed, free = snapshot.num_bytes(), store.free_bytes(self.run)
        if free < needed:
            raise OSError(errno.ENOSPC, f"it needs about {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free")

    def _write_checkpoint(self, snapshot: Snapshot, fill: Callable[[Path], None]) -> Path:
        own = {"diverged": snapshot.diverged} | ({"loss": None} if snapshot.diverged else {})  # it is never the best
        path = store.write_checkpoint(self.run, snapshot.step, fill, snapshot.metadata | own)
        self._verified.add(path.name)
        return path

    def _fill(self, folder: Path, snapshot: Snapshot) -> None:
        full = {name: tensor.contiguous() for name, tensor in snapshot.weights.items()}
        _save_tensors(full, folder / FULL_WEIGHTS)
        short = {snapshot.short_names[name]: tensor for name, tensor in full.items()}
        exported = self.export(snapshot.ema or snapshot.weights)
        for name, tensors in exported.items():
            _save_tensors(tensors, folder / name)
        # What the plan's trainer calls trainable.safetensors is a second name of a file that is there, or is left out:
        # with a whole 5B model every further copy takes 20 GB a step.
        for name, tensors in ((FULL_WEIGHTS, full), *exported.items()):
            if _same(tensors, short):
                _link(folder / name, folder / WEIGHTS)
                break
        if snapshot.ema:
            _save_tensors(snapshot.ema, folder / EMA)
        if snapshot.optimizer is not None:
            _save_state(snapshot.optimizer, folder / OPTIMIZER)
            _save_state(snapshot.scheduler, folder / SCHEDULER)
        self._fill_words(folder, snapshot)

    def _fill_words(self, folder: Path, snapshot: Snapshot) -> None:
        write_json(folder / STATE, snapshot.state)
        write_json(folder / CONFIG, snapshot.config)
        if self.export_config is not None:
            name, content = self.export_config
            write_json(folder / name, content)

    def _publish(self, path: Path) -> None:
        """Put the newest files to fly with into the run's folder."""
        if self.export_config is not None:
            name, content = self.export_config
            write_json(self.run / name, content)
        for name in EXPORTED:
            if (path / name).is_file():
                with replacing(self.run / name) as temporary:
                    _link_or_copy(path / name, temporary)


@dataclass
class ShardedSaver(Saver):
    """The same where networks are split: every process has one, and writes what it holds.

    They meet in a group of their own, so that nothing that training does in the meantime comes between.

    Attributes:
        group: of all processes, for host memory.
        whole: names of weights that are not split.
    """

    group: Any = None
    whole: frozenset[str] = frozenset()

    def launch(self) -> None:
        if self._is_main:
            super().launch()

    @property
    def _is_main(self) -> bool:
        return dist.get_rank(self.group) == 0

    def _write(self, snapshot: Snapshot) -> Path | None:
        tensors = {f"{sharded.WEIGHTS}/{name}": tensor for name, tensor in snapshot.weights.items()}
        tensors |= {f"{sharded.EMA}/{name}": tensor for name, tensor in snapshot.ema.items()}
        snapshot.diverged = self._not_finite(tensors) or snapshot.diverged
        tensors |= sharded.flat(snapshot.optimizer or {})
        if not self._is_main:
            folder = self._told()
            if folder is not None:
                with contextlib.suppress(OSError):  # the main process knows it too, and says it
                    sharded.save(tensors, folder / sharded.FOLDER, self.group)
            return None
        is_told = False

        def fill(folder: Path) -> None:
            nonlocal is_told
            (folder / sharded.FOLDER).mkdir()
            self._told(folder)
            is_told = True
            sharded.save(tensors, folder / sharded.FOLDER, self.group)
            kind = sharded.EMA if snapshot.ema else sharded.WEIGHTS
            sharded.write_exports(self.export, folder, kind, self.whole)
            if snapshot.optimizer is not None:
                _save_state(snapshot.scheduler, folder / SCHEDULER)
            self._fill_words(folder, snapshot)

        try:
            self._require_room(snapshot)
            return self._write_checkpoint(snapshot, fill)
        finally:
            if not is_told:
                self._told(None)

    def _not_finite(self, tensors: dict[str, Tensor]) -> str | None:
        name = sharded.first_not_finite(tensors, self.group)
        return None if name is None else f"{name.partition('/')[2]} holds NaN or infinity"

    def _told(self, folder: Path | None = None) -> Path | None:
        """The folder that the main process has made, or None if it could not."""
        box = [folder]
        dist.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """All trained weights of a checkpoint by full name, however it was written."""
    if sharded.is_sharded(checkpoint):
        return sharded.read(checkpoint, sharded.WEIGHTS)
    return load_weights(checkpoint / FULL_WEIGHTS)


def read_ema(checkpoint: Path) -> dict[str, Tensor]:
    """All averaged weights by full name; {} if there are none."""
    if sharded.is_sharded(checkpoint):
        return sharded.read(checkpoint, sharded.EMA)
    return load_weights(checkpoint / EMA) if (checkpoint / EMA).is_file() else {}


def read_optimizer(checkpoint: Path) -> dict[str, Any] | None:
    """What optimizers keep, by phase; None if that was not saved."""
    if sharded.is_sharded(checkpoint):
        kept = sharded.read(checkpoint, sharded.OPTIMIZER)
        return sharded.nested({f"{sharded.OPTIMIZER}/{name}": tensor for name, tensor in kept.items()})
    return load_state(checkpoint / OPTIMIZER, mmap=True) if (checkpoint / OPTIMIZER).is_file() else None


def find_not_finite(tensors: dict[str, Tensor]) -> str | None:
    """A clause about the first tensor with NaN or infinity in it, or None."""
    name = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
    return None if name is None else f"{name} holds NaN or infinity"


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    with disk_errors():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with contextlib.suppress(OSError):  # some file systems have no modes
        path.chmod(0o644)  # safetensors writes for its own user only


def _save_state(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # how torch reports a file that it cannot write to the end
        raise OSError(errno.ENOSPC, f"{path.name} was not written to the end: {error}".splitlines()[0]) from error


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name] is other[name] or one[name].data_ptr() == other[name].data_ptr() for name in one
    )


def _link(source: Path, target: Path) -> None:
    """A second name for a file; none where the file system has no hard links."""
    with contextlib.suppress(OSError):
        os.link(source, target)


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.strerror})" if error.strerror else "the disk is full"
    return str(error)
