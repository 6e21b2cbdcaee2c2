"""The steps of a run that are worth keeping, as a smaller run that only flies."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from wanact.errors import TakenError
from wanact.files import CheckpointError, disk_errors, replacing, replacing_folder, write_json
from wanact.models import pilot
from wanact.models.controller import controller_of
from wanact.runs import store
from wanact.runs.evaluations import evaluations, film_file, read_film
from wanact.runs.log import LOG
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import CONTROLLER, LORA, TRANSFORMER, CheckpointInfo, FlightWeights

# What a reader of a published checkpoint asks; settings of resuming, sums and machine paths stay behind.
KEPT = ("epoch", "loss", "reason", "stage", "config_summary", "versions", "timestamp")
KEPT_OF_PILOTS = ("kind", "loss", "reason", "stage", "success", "return", "timesteps", "updates", "task", "env_id")


def publish(
    run: Path,
    out: Path,
    steps: list[int] | None = None,
    base_model: str | None = None,
    dtype: torch.dtype | None = None,
) -> list[Path]:
    """Copy what flies of some checkpoints of a run, a model's or a pilot's.

    Args:
        run: a run with verified checkpoints.
        out: folder of the new run; must not exist.
        steps: which checkpoints; all if not given.
        base_model: written into the configuration instead of the path that the run was trained on.
        dtype: of the weights; as they are if not given. A pilot's stay as they are.

    Returns:
        The new checkpoints.

    Raises:
        CheckpointError: if a step is not there, or a checkpoint is damaged.
    """
    if out.exists():
        raise TakenError(f"{out} exists; name a new folder for --out")
    found = {info.step: info for info in store.list_checkpoints(run)}
    missing = [step for step in steps or [] if step not in found]
    if not found:
        raise CheckpointError(f"{run} has no checkpoints")
    if missing:
        raise CheckpointError(f"{run} has no checkpoint of step {missing}; it has {sorted(found)}")
    with replacing_folder(out, overwrite=False) as temporary:
        written = [_publish_one(found[step], temporary, base_model, dtype) for step in sorted(steps or found)]
        if (run / LOG).is_file():  # one from the Hub may have none
            shutil.copyfile(run / LOG, temporary / LOG)
        if _is_pilot(found[max(steps or found)]):
            for (where, step), figures in evaluations(run).items():
                shutil.copyfile(figures, temporary / figures.name)
                if (film := read_film(run, where, step)) is not None:
                    film_file(temporary, where, step).write_bytes(film)
        else:
            weights = store.load_flight_weights(written[-1])
            write_json(temporary / RUN_CONFIG, weights.config)
    return [out / path.relative_to(temporary) for path in written]


def _publish_one(info: CheckpointInfo, out: Path, base_model: str | None, dtype: torch.dtype | None) -> Path:
    store.verify(info.path)
    if _is_pilot(info):
        metadata = {name: info.metadata[name] for name in KEPT_OF_PILOTS if name in info.metadata}
        return store.write_checkpoint(out, info.step, lambda folder: _copy_pilot(info.path, folder), metadata)
    weights = store.load_flight_weights(info.path)
    if base_model is not None:
        weights.config["base_model"] = base_model
        for name in ("base_model_dir", "base_model_id"):
            weights.config.pop(name, None)
    weights = _to_fly(weights, dtype)
    metadata = {name: info.metadata[name] for name in KEPT if name in info.metadata}
    return store.write_checkpoint(out, info.step, lambda folder: write_flight_files(weights, folder), metadata)


def _to_fly(weights: FlightWeights, dtype: torch.dtype | None) -> FlightWeights:
    """Without what is never asked, in another type if one is given."""
    controller = weights.controller
    if controller is not None:
        with torch.device("meta"):
            controller = controller_of(weights.config["action_controller_config"]).used(controller)
    parts = {"controller": controller, "lora": weights.lora, "transformer": weights.transformer}
    return replace(
        weights,
        **{
            part: None if tensors is None else {name: value.to(dtype or value.dtype) for name, value in tensors.items()}
            for part, tensors in parts.items()
        },
    )


def _is_pilot(info: CheckpointInfo) -> bool:
    return info.metadata.get("kind") == store.PILOT


def _copy_pilot(checkpoint: Path, folder: Path) -> None:
    """What a pilot flies with; optimizer, rollout and environments stay behind."""
    for name in (pilot.WEIGHTS, pilot.CONFIG, pilot.NORMALIZER):
        shutil.copyfile(checkpoint / name, folder / name)


def write_flight_files(weights: FlightWeights, folder: Path) -> list[Path]:
    """Write the configuration and each kind of weights that there is; each file is whole or as before."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_CONFIG, weights.config)
    written = [folder / RUN_CONFIG]
    for name, tensors in ((CONTROLLER, weights.controller), (LORA, weights.lora), (TRANSFORMER, weights.transformer)):
        if tensors is not None:
            with replacing(folder / name) as temporary:
                with disk_errors():
                    save_file(tensors, temporary)
                with contextlib.suppress(OSError):  # some file systems have no modes
                    temporary.chmod(0o644)
            written.append(folder / name)
    return written
