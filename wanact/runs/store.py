"""Runs and checkpoints on disk: write, list, verify, resolve, prune, and load what flying needs.

A checkpoint is a directory `RUN/checkpoints/step-000000552`. It exists when its `checkpoint_metadata.json`, written
last, is there and the sums in it hold; the file holds a sum of itself as well. Saving fills a hidden directory and
renames it once, links are swapped by `os.replace`, and pruning renames before it deletes, so that a process killed at
any moment leaves only whole checkpoints and hidden rubbish, which `clean` removes.

Nothing here knows of several processes: one process writes, which `train.loop.claim` sees to. Folders come from users,
so names are taken only from the folder itself, links count only while they stay inside it, and weights are read without
unpickling.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from wanact.files import (
    CheckpointError,
    json_bytes,
    load_weights,
    parse_json,
    read_bytes,
    read_json,
    sha256,
    sync,
    write_json,
)
from wanact.runs.ref import CHECKPOINTS, RUN_CONFIG, CheckpointRef, checkpoint_id, is_in_run, run_name

FORMAT = 1
METADATA = "checkpoint_metadata.json"
PILOT = "pilot"  # what the metadata of a pilot's checkpoint says it is
MAX_METADATA_BYTES = 4 * 2**20  # a few kilobytes in truth; it is parsed for every row of a list
CONTROLLER, LORA, TRANSFORMER = "action_controller.safetensors", "lora.safetensors", "transformer.safetensors"
LATEST, BEST = "latest", "checkpoint-best"

# step-000000552 is ours; the others are what earlier trainers left.
_STEP_NAME = re.compile(r"(?:step-(\d{8,9})|checkpoint-(?:epoch\d+-)?step(\d+)(?:-.*)?|checkpoint-best)")
_LINK_NAME = re.compile(r"latest|checkpoint-best|checkpoint-step\d+-.+")
# Temporary files of what a trainer writes into a run's folder; notes are written by the pages, maybe now.
_UNFINISHED = re.compile(r"\.(?!notes\.json).+\.tmp")
_HIDDEN = (".saving-", ".replaced-", ".deleting-", ".link-")


@dataclass(frozen=True)
class CheckpointInfo(CheckpointRef):
    """One checkpoint as the metadata tells it; no weights are read.

    Attributes:
        loss: mean training loss since the checkpoint before, None if unknown.
        saved_at: local time, ISO 8601, "" if unknown.
        is_best, is_latest: among the checkpoints of its run, as `find_marks` says.
        problem: why it cannot be used (file missing, size wrong, metadata damaged), else None.
        metadata: content of checkpoint_metadata.json, {} for older layouts.
        sequence: saves of the run before this one: the order in time, whatever the clock and the step say.
    """

    step: int
    path: Path
    loss: float | None = None
    saved_at: str = ""
    is_best: bool = False
    is_latest: bool = False
    problem: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    sequence: int = -1

    @property
    def manifest(self) -> str | None:
        """What tells a checkpoint from every other one, None for older layouts."""
        return self.metadata.get("manifest_sha256")

    @property
    def diverged(self) -> str | None:
        """Why nothing goes on from it by itself: weights, loss or gradient were not finite when it was saved."""
        return self.metadata.get("diverged")

    def is_named(self, which: str) -> bool:
        """Whether RUN@WHICH means this one: its step, `best` or `latest`."""
        return which in (str(self.step), "best" if self.is_best else "", "latest" if self.is_latest else "")


@dataclass(frozen=True)
class RunInfo:
    """One run: its folder's name, its configuration ({} if it has none) and its checkpoints, oldest first."""

    name: str
    path: Path
    config: dict[str, Any]
    checkpoints: list[CheckpointInfo] = field(default_factory=list)


@dataclass(frozen=True)
class FlightWeights:
    """What a run or checkpoint adds to the base model.

    Attributes:
        ref: which one it is.
        config: content of action_train_config.json.
        controller: weights of the action controller, None if the run has none (a base model's LoRA).
        lora: weights with `transformer.` names, or None.
        transformer: replacement weights of the transformer, complete or partial, or None.
    """

    ref: CheckpointRef
    config: dict[str, Any]
    controller: dict[str, Tensor] | None
    lora: dict[str, Tensor] | None
    transformer: dict[str, Tensor] | None

    @property
    def step(self) -> int | None:
        """Optimizer updates, None if unknown."""
        return self.ref.step

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.ref.run


# Listing


def list_runs(root: str | os.PathLike) -> list[RunInfo]:
    """The runs in a folder, by name; links that lead out of the folder are left out. [] if there is no folder."""
    root = Path(root)
    if not root.is_dir():
        return []
    folders = [entry for entry in sorted(root.iterdir()) if not entry.name.startswith(".") and entry.is_dir()]
    return [run_info(entry) for entry in folders if _is_inside(entry, root) and is_run(entry)]


def is_step_name(name: str) -> bool:
    """Whether a name in a checkpoints folder is that of a checkpoint, in this layout or an older one."""
    return _STEP_NAME.fullmatch(name) is not None


def step_of(name: str) -> int | None:
    """The step in the name of a checkpoint, None if it has none."""
    match = _STEP_NAME.fullmatch(name)
    step = next((group for group in match.groups() if group), None) if match else None
    return None if step is None else int(step)


def is_run(path: Path) -> bool:
    """Whether the folder holds checkpoints, or exported weights to fly with."""
    return (path / CHECKPOINTS).is_dir() or (path / CONTROLLER).is_file() or (path / RUN_CONFIG).is_file()


def run_info(run: Path) -> RunInfo:
    """One run's configuration and checkpoints; a damaged configuration counts as none."""
    try:
        config = read_json(run / RUN_CONFIG)
    except CheckpointError:
        config = {}
    return RunInfo(run.name, run, config, list_checkpoints(run))


def list_checkpoints(run: str | os.PathLike) -> list[CheckpointInfo]:
    """The checkpoints of a run, oldest first. Reads metadata and file sizes only; `verify` reads the rest."""
    folder = Path(run) / CHECKPOINTS
    if not folder.is_dir():
        return []
    infos = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _STEP_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                infos.append(checkpoint_info(Path(entry.path)))
    infos = own_checkpoints(info for info in infos if is_there(info))
    latest, best = find_marks(folder, infos)
    return [replace(info, is_latest=info.path.name == latest, is_best=info.path.name == best) for info in infos]


def is_there(info: CheckpointInfo) -> bool:
    """Whether a checkpoint has not been pruned while it was looked at."""
    return (info.problem is None and bool(info.metadata)) or info.path.is_dir()


def own_checkpoints(infos: Iterable[CheckpointInfo]) -> list[CheckpointInfo]:
    """The checkpoints among what lies in a folder, in order of saving.

    Where a run was copied by what follows links (`cp -rL`, an archive, a cloud drive) folders stand where links to
    checkpoints were. They are no checkpoints of their own.
    """
    infos = list(infos)
    saved = {info.manifest for info in infos if _is_own(info.path.name)} - {None}
    own = [info for info in infos if _is_own(info.path.name) or info.manifest not in saved]
    return sorted(own, key=lambda info: (info.sequence, info.step, info.path.name))


def _is_own(name: str) -> bool:
    """Whether only this project names a checkpoint so."""
    return name.startswith("step-")


def find_marks(folder: Path, infos: Sequence[CheckpointInfo]) -> tuple[str | None, str | None]:
    """Names of the latest and of the best checkpoint of a folder.

    They are what the metadata says: the last that was saved, and of those with the lowest loss the last. Links are
    followed where there is no metadata, in older layouts: they are for people and other programs, and a copy, a clone
    or a file system without links may have lost them.
    """
    sound = [info for info in infos if info.problem is None and info.metadata]
    latest = max(sound, key=lambda info: info.sequence, default=None)
    with_loss = [info for info in sound if info.loss is not None and abs(info.loss) < float("inf")]
    best = min(with_loss, key=lambda info: (info.loss, -info.sequence), default=None)
    return (
        latest.path.name if latest else _link_target(folder, LATEST),
        best.path.name if best else _link_target(folder, BEST),
    )


def checkpoint_info(path: Path) -> CheckpointInfo:
    """What one checkpoint's metadata and file sizes say; never raises for a damaged one, or one that is being pruned.

    What is the best and the latest is a question to all of a run: see `list_checkpoints`.
    """
    step = step_of(path.name) or 0
    metadata, problem, told = {}, None, {}
    if (path / METADATA).exists() or not is_legacy(path):
        try:
            metadata = told = read_metadata(path, to_the_byte=False)
            problem = _find_problem(path, metadata, sums=False)
        except CheckpointError as error:
            told = _foreign_metadata(path)
            problem = None if told and is_legacy(path) else str(error)
    loss, said = told.get("loss"), told.get("step")
    return CheckpointInfo(
        id=checkpoint_id(path),
        run=run_name(path),
        step=said if isinstance(said, int) else step,
        path=path,
        loss=float(loss) if isinstance(loss, int | float) and abs(loss) < 1e300 else None,
        saved_at=told["timestamp"] if isinstance(told.get("timestamp"), str) else "",
        problem=problem,
        metadata=metadata,
        sequence=int(metadata.get("sequence", -1)),
    )


def ref_of(path: Path) -> CheckpointRef:
    """The checkpoint, or the run's exported weights, that lie in a folder."""
    step = checkpoint_info(path).step if is_in_run(path) else None
    return CheckpointRef(checkpoint_id(path), run_name(path), step, path)


def is_legacy(path: Path) -> bool:
    """Whether a checkpoint, folder or file, was written in a layout without a manifest.

    One of ours that has lost its manifest is none of these: its trainer_state.json carries a format. A
    checkpoint_metadata.json without a manifest is another program's.
    """
    if path.is_file():
        return True
    if (path / METADATA).exists() and not _foreign_metadata(path):
        return False
    try:
        return "format" not in read_json(path / "trainer_state.json")
    except CheckpointError:
        return True


def _foreign_metadata(path: Path) -> dict[str, Any]:
    """What another program's checkpoint_metadata.json says; {} if it is ours, or damaged."""
    try:
        content = parse_json(path / METADATA, read_bytes(path / METADATA, MAX_METADATA_BYTES))
    except CheckpointError:
        return {}
    return {} if content.keys() & {"manifest_sha256", "files", "format", "sequence"} else content


def resolve(path: str | os.PathLike) -> Path:
    """The directory that a run or checkpoint stands for.

    A checkpoint, or a link to one, is itself; a run is its newest one that is neither damaged nor diverged, or the
    run's own folder if it holds exported weights only.

    Raises:
        CheckpointError: if nothing is there, or a link leads out of its folder.
    """
    given = Path(path)
    if not given.is_dir():
        raise CheckpointError(f"{given} is not a folder; expected a run or one of its checkpoints")
    if given.is_symlink() and is_in_run(given):
        if _link_target(given.parent, given.name) is None:
            raise CheckpointError(f"{given} is a link out of its folder; it is not followed")
        return given.parent / os.readlink(given)
    if not (given / CHECKPOINTS).is_dir():
        return given
    usable = [info for info in list_checkpoints(given) if info.problem is None]
    if usable:
        return next((info.path for info in usable[::-1] if not info.diverged), usable[-1].path)
    if (given / CONTROLLER).is_file() or (given / LORA).is_file() or (given / TRANSFORMER).is_file():
        return given
    raise CheckpointError(f"{given} has no usable checkpoint; `python -m train verify {given}` names the damage")


def read_log(run: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of log.jsonl, oldest first; a half-written last line is left out. [] if there is no log."""
    path = Path(run) / "log.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


# Verifying


def verify(path: str | os.PathLike) -> None:
    """Read every file of a checkpoint and compare it with its sum.

    Raises:
        CheckpointError: naming the first file that is missing, of another size, or damaged.
    """
    path = Path(path)
    problem = _find_problem(path, read_metadata(path), sums=True)
    if problem:
        raise CheckpointError(problem)


def read_metadata(path: Path, to_the_byte: bool = True) -> dict[str, Any]:
    """Content of checkpoint_metadata.json, with its own sum checked.

    Args:
        path: the checkpoint's directory.
        to_the_byte: refuse a file that is not as it was written even where JSON forgives it. Lists of thousands go
            without, which takes half the time; `verify` never does.

    Raises:
        CheckpointError: if it is missing, no valid JSON, or changed after it was written.
    """
    file = path / METADATA
    data = read_bytes(file, MAX_METADATA_BYTES)
    metadata = parse_json(file, data)
    try:
        is_intact = metadata.get("manifest_sha256") == _manifest_sum(metadata)
        is_intact &= not to_the_byte or _plain_lines(data) == json_bytes(metadata)
    except RecursionError:  # JSON that is nested deeper than anything is written here
        is_intact = False
    if not is_intact:
        raise CheckpointError(f"{file} is damaged: its own checksum does not match")
    files = metadata.get("files")
    entries = files.values() if isinstance(files, dict) else [None]
    if not isinstance(metadata.get("step"), int) or not isinstance(metadata.get("sequence"), int):
        raise CheckpointError(f"{file} names no step or sequence")
    if not all(isinstance(e, dict) and isinstance(e.get("bytes"), int) and "sha256" in e for e in entries):
        raise CheckpointError(f"{file} lists no files with their sums")
    return metadata


def _find_problem(path: Path, metadata: dict[str, Any], sums: bool) -> str | None:
    for name, entry in metadata["files"].items():
        try:
            problem = _file_problem(path, name, entry, sums)
        except CheckpointError as error:
            return str(error)
        except (OSError, ValueError) as error:  # gone by now, or a name that no file can have
            return f"{path / METADATA} lists {ascii(name)[:80]}, which cannot be read ({str(error)[:80]})"
        if problem:
            return problem
    return None


def _file_problem(path: Path, name: str, entry: dict[str, Any], sums: bool) -> str | None:
    file = path / name
    # A plain name stays in its folder unless it is a link; only the others need every link resolved.
    plain = os.sep not in name and name not in ("", ".", "..")
    if file.is_symlink() or not (plain or _is_inside(file, path)):
        return f"{file} leads out of the checkpoint"
    if not file.is_file():
        return f"{file} is missing"
    return _find_difference(file, entry, sums)


def _find_difference(file: Path, entry: dict[str, Any], sums: bool) -> str | None:
    size = file.stat().st_size
    if size == entry["bytes"] and (not sums or sha256(file) == entry["sha256"]):
        return None
    # A clone or an archive may have changed the ends of lines, which say nothing in JSON.
    content = _plain_lines(read_bytes(file)) if file.suffix == ".json" else None
    if content is not None and len(content) == entry["bytes"]:
        if not sums or hashlib.sha256(content).hexdigest() == entry["sha256"]:
            return None
    elif size != entry["bytes"]:
        return f"{file} has {size} bytes, expected {entry['bytes']}: it is truncated or was changed"
    return f"{file} is damaged: its checksum does not match"


def _plain_lines(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def _manifest_sum(metadata: dict[str, Any]) -> str:
    content = {key: value for key, value in metadata.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# Writing


def step_name(step: int) -> str:
    return f"step-{step:09d}"


def write_checkpoint(run: Path, step: int, write: Callable[[Path], object], metadata: dict[str, Any]) -> Path:
    """Write one checkpoint whole, or leave nothing of it.

    Args:
        run: the run's folder.
        step: optimizer updates; an older checkpoint of this step is replaced.
        write: fills the directory it is given.
        metadata: for checkpoint_metadata.json; `files`, `sequence`, `step`, `timestamp` and `is_best` are filled in
            here. Its `loss` decides whether the checkpoint is the best so far.

    Returns:
        The checkpoint's directory.

    Raises:
        OSError: if the disk is full or cannot be written; what was written is removed and older ones are untouched.
    """
    folder = run / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".saving-{step_name(step)}"
    final = folder / step_name(step)
    _remove(hidden)
    try:
        hidden.mkdir()
        write(hidden)
        existing = [info for info in list_checkpoints(run) if info.path != final]
        is_best = _is_best(metadata.get("loss"), existing)
        metadata = {
            "format": FORMAT,
            "step": step,
            "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
            **metadata,
            "is_best": is_best,
            "sequence": 1 + max((info.sequence for info in list_checkpoints(run)), default=-1),
            "files": _file_sums(hidden),
        }
        metadata["manifest_sha256"] = _manifest_sum(metadata)
        write_json(hidden / METADATA, metadata)
        sync(hidden)
        if final.exists():
            os.rename(final, folder / f".replaced-{final.name}")
        os.rename(hidden, final)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        replaced = folder / f".replaced-{final.name}"
        if replaced.exists() and not final.exists():
            os.rename(replaced, final)
        raise
    # From here on the checkpoint is there, and whatever fails is no reason to say that it is not.
    with contextlib.suppress(OSError):
        sync(folder)
        _remove(folder / f".replaced-{final.name}")
        _mend_links(folder)
    _link(folder / LATEST, final.name)
    _link(folder / _readable_name(step, metadata), final.name)
    if is_best:
        _link(folder / BEST, final.name)
    return final


def _is_best(loss: Any, existing: list[CheckpointInfo]) -> bool:
    """Lowest loss so far. NaN and infinity are never best; without any loss the first one stands."""
    if not isinstance(loss, int | float) or not abs(loss) < float("inf"):
        return False
    losses = [info.loss for info in existing if info.loss is not None and info.problem is None]
    return all(not other < loss for other in losses)


def _file_sums(folder: Path) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    sums: dict[tuple[int, int], str] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = file.stat()
        inode = (stat.st_dev, stat.st_ino)
        if inode not in sums:  # hard links share content
            sync(file)
            sums[inode] = sha256(file)
        files[file.relative_to(folder).as_posix()] = {"bytes": stat.st_size, "sha256": sums[inode]}
    return files


def _readable_name(step: int, metadata: dict[str, Any]) -> str:
    stamp = re.sub(r"\D", "", metadata["timestamp"][:19])
    loss = metadata.get("loss")
    return f"checkpoint-step{step}-loss{loss if loss is None else f'{loss:.4f}'}-{stamp[:8]}_{stamp[8:]}"


def _link(link: Path, target: str) -> None:
    """Point a link to a name in the same folder, atomically.

    Where that cannot be done there is none, rather than one that points to something older.
    """
    temporary = link.with_name(f".link-{link.name}")
    try:
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary)
        os.replace(temporary, link)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if link.is_symlink() and os.readlink(link) != target:
                link.unlink()


def _mend_links(folder: Path) -> None:
    """Put links again where a copy or a clone has left a folder, or a file with the link's target, in their place.

    A copied checkpoint is removed only if the one that it is a copy of can be read to the last byte.
    """
    verified: set[str] = set()
    for entry in sorted(folder.iterdir()):
        if not _LINK_NAME.fullmatch(entry.name) or entry.is_symlink():
            continue
        if entry.is_file():
            target = entry.read_text(errors="replace").strip() if entry.stat().st_size < 100 else ""
            if _is_own(target) and is_step_name(target):
                entry.unlink()
                if (folder / target).is_dir():
                    _link(entry, target)
            continue
        copied = checkpoint_info(entry)
        target = folder / step_name(copied.step)
        if copied.manifest and checkpoint_info(target).manifest == copied.manifest and _verifies(target, verified):
            hidden = entry.with_name(f".deleting-{entry.name}")
            _remove(hidden)
            os.rename(entry, hidden)
            _link(entry, target.name)
            shutil.rmtree(hidden)


def clean(run: Path) -> list[str]:
    """Finish or remove what a killed process left; returns the names of what was removed."""
    folder = run / CHECKPOINTS
    removed = []
    for entry in sorted(run.iterdir()) if run.is_dir() else []:
        if _UNFINISHED.fullmatch(entry.name) and entry.is_file():
            _remove(entry)
            removed.append(entry.name)
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not entry.name.startswith(_HIDDEN):
            continue
        original = folder / entry.name.removeprefix(".replaced-")
        if entry.name.startswith(".replaced-") and not original.exists():
            os.rename(entry, original)
            continue
        _remove(entry)
        removed.append(entry.name)
    _drop_dangling_links(folder)
    return removed


def prune(run: Path, keep: int, verified: set[str] | None = None) -> list[Path]:
    """Delete the oldest checkpoints beyond `keep`.

    The best, the latest and the last two that verify and have not diverged always stay, whatever `keep` says.

    Args:
        run: the run's folder.
        keep: newest checkpoints to keep.
        verified: names known to verify, so that they are not read again; grows.

    Returns:
        What was deleted.
    """
    verified = set() if verified is None else verified
    newest_first = list_checkpoints(run)[::-1]
    linked = {_link_target(run / CHECKPOINTS, name) for name in (LATEST, BEST)}  # whoever moved them had a reason
    protected = {i.path for i in newest_first if i.is_best or i.is_latest or i.path.name in linked}
    sound = 0
    for info in newest_first:
        if sound == 2:
            break
        if info.problem is None and info.metadata and not info.diverged and _verifies(info.path, verified):
            protected.add(info.path)
            sound += 1
    # Only what this project wrote is pruned; other directories belong to someone else.
    doomed = [i.path for i in newest_first[keep:] if i.path not in protected and _is_own(i.path.name)]
    for path in doomed:
        hidden = path.with_name(f".deleting-{path.name}")
        _remove(hidden)
        os.rename(path, hidden)
        shutil.rmtree(hidden)
    _drop_dangling_links(run / CHECKPOINTS)
    return doomed


def _verifies(path: Path, verified: set[str]) -> bool:
    if path.name not in verified:
        try:
            verify(path)
        except CheckpointError:
            return False
        verified.add(path.name)
    return True


def _drop_dangling_links(folder: Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_symlink() and _LINK_NAME.fullmatch(entry.name) and not entry.exists():
            entry.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


# Flying


def load_flight_weights(path: str | os.PathLike) -> FlightWeights:
    """Everything a run or checkpoint adds to its base model.

    Args:
        path: a run, a checkpoint, or a folder with action_train_config.json and exported weights.

    Raises:
        CheckpointError: if there is nothing to fly with, or a file is damaged or leads elsewhere.
    """
    folder = resolve(path)
    ref = ref_of(folder)
    run, config = ref.run_dir, ref.config
    weights = {name: _exported(folder, run, name) for name in (CONTROLLER, LORA, TRANSFORMER)}
    if weights[LORA] is not None:  # known to lie inside the run
        weights[LORA] = _lora(folder / LORA, config)
    if all(value is None for value in weights.values()) and is_in_run(folder) and is_legacy(folder):
        weights |= _trained(folder, run)
    if all(value is None for value in weights.values()):
        raise CheckpointError(f"{folder} holds no exported weights ({CONTROLLER}, {LORA} or {TRANSFORMER})")
    if weights[CONTROLLER] is not None and not isinstance(config.get("action_controller_config"), dict):
        raise CheckpointError(f"{run / RUN_CONFIG} is missing or names no action_controller_config")
    return FlightWeights(ref, config, weights[CONTROLLER], weights[LORA], weights[TRANSFORMER])


def _exported(folder: Path, run: Path, name: str) -> dict[str, Tensor] | None:
    file = folder / name
    if not file.exists() and not file.is_symlink():
        return None
    if not _is_inside(file, run):
        raise CheckpointError(f"{file} is a link out of its run; it is not followed")
    return load_weights(file)


def _trained(folder: Path, run: Path) -> dict[str, dict[str, Tensor]]:
    """Weights to fly with of a step folder that another trainer has written, by the file that ours would be in."""
    from wanact.runs.trained import split, trained_file

    file = trained_file(folder)
    loaded = None if file is None else _exported(folder, run, file.name)
    return {} if loaded is None else split(loaded)


def _lora(file: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """A run's LoRA, as strong as its file says, or its run's configuration where the file says nothing."""
    from wanact.weights.lora import read_lora  # brings diffusers, for which nobody waits who only lists runs
    from wanact.weights.names import ConvertError

    alpha = config["lora"].get("lora_alpha") if isinstance(config.get("lora"), dict) else None
    try:
        return read_lora(file, None if alpha is None else {"lora_alpha": alpha})
    except ConvertError as error:
        raise CheckpointError(f"{file.parent} was made for another base model: {error}") from error


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _link_target(folder: Path, name: str) -> str | None:
    """Name in the same folder that a link points to, None if it is no such link."""
    try:
        target = os.readlink(folder / name)
    except OSError:
        return None
    return target if "/" not in target and target not in (".", "..") else None


def free_bytes(path: Path) -> int:
    """Bytes that can still be written under a folder."""
    return shutil.disk_usage(path).free
