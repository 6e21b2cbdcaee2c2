"""Checkpoints that visitors bring: checked before they are kept, and then known only to whoever holds their id."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanact.files import CheckpointError, check_safetensors, parse_json, read_bytes
from wanact.runs.check import EXPORTED, check_flight_files
from wanact.runs.ref import RUN_CONFIG
from wanact.runs.store import CONTROLLER, LORA, TRANSFORMER
from wanact.ui.quota import has_room

PREFIX = "upload/"
MAX_FILES = 4
MAX_FILE_BYTES = 64 * 2**20
MAX_KEPT, MAX_KEPT_BYTES = 24, 2**30  # of all visitors; the oldest leave first
KEEP_S = 3600.0
_MAX_CONFIG_BYTES = 2**20


@dataclass
class Upload:
    """One visitor's checkpoint: an id that cannot be guessed, what it is called, and where it lies."""

    id: str
    label: str
    path: Path
    config: dict[str, Any]
    num_bytes: int
    used: float = field(default_factory=time.monotonic)


class Uploads:
    """What visitors have brought in the last hour, in a folder of its own that goes with the process.

    Args:
        width, num_layers: of the transformer that they are flown on; None takes any.
        check_settings: raises CheckpointError for a configuration with a number that the model cannot use.
    """

    def __init__(
        self,
        width: int | None = None,
        num_layers: int | None = None,
        check_settings: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ):
        self.width, self.num_layers = width, num_layers
        self._check_settings = check_settings
        self._folder = tempfile.TemporaryDirectory(prefix="wanact-uploads-")
        self._kept: dict[str, Upload] = {}
        self._lock = threading.Lock()

    def add(self, files: Sequence[tuple[str, Path]]) -> Upload:
        """Check and keep a checkpoint.

        Args:
            files: name as the visitor calls it, and where the upload lies: weights as .safetensors and the
                action_train_config.json that belongs to them.

        Raises:
            CheckpointError: in one sentence that names the file and not where it lies.
        """
        self._make_room(sum(path.stat().st_size for _, path in files[:MAX_FILES]))
        token = secrets.token_urlsafe(16)
        folder = Path(self._folder.name) / token
        folder.mkdir(mode=0o700)
        try:
            config, names = self._take(files, folder)
            self._check_settings(config)
            try:
                check_flight_files(folder, config)
            except CheckpointError as error:
                message = str(error).replace(f"{folder}/", "").replace(str(folder), "the upload")
                for kept, name in names.items():
                    message = message.replace(kept, name)
                raise CheckpointError(message) from error
            self._check_size(config, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        num_bytes = sum(file.stat().st_size for file in folder.iterdir())
        label = "upload · " + ", ".join(sorted(names.values()))[:60]
        upload = Upload(PREFIX + token, label, folder, config, num_bytes)
        with self._lock:
            self._forget_old(MAX_KEPT - 1, MAX_KEPT_BYTES - num_bytes)
            self._kept[upload.id] = upload
        return upload

    def _make_room(self, num_bytes: int) -> None:
        """Let the oldest leave until there is room for so many bytes more.

        Raises:
            CheckpointError: if there is none even then.
        """
        with self._lock:
            self._forget_old(MAX_KEPT - 1, MAX_KEPT_BYTES - num_bytes)
            while not has_room(self._folder.name, num_bytes):
                if not self._kept:
                    raise CheckpointError("the server's disk is full, so that no checkpoint can be kept now")
                self._forget_old(len(self._kept) - 1)

    def forget_old(self) -> None:
        """Forget what nobody has asked for in an hour."""
        with self._lock:
            self._forget_old(MAX_KEPT)

    def find(self, upload_id: Any) -> Upload | None:
        """The upload with this id, None if there is none or it has expired."""
        with self._lock:
            self._forget_old(MAX_KEPT)
            upload = self._kept.get(upload_id) if isinstance(upload_id, str) else None
            if upload is not None:
                upload.used = time.monotonic()
            return upload

    def _forget_old(self, limit: int, max_bytes: int | None = None) -> None:
        oldest_first = sorted(self._kept.values(), key=lambda upload: upload.used)
        surplus = len(oldest_first) - limit
        surplus_bytes = sum(upload.num_bytes for upload in oldest_first) - (
            MAX_KEPT_BYTES if max_bytes is None else max_bytes
        )
        for number, upload in enumerate(oldest_first):
            if number < surplus or surplus_bytes > 0 or time.monotonic() - upload.used > KEEP_S:
                shutil.rmtree(upload.path, ignore_errors=True)
                del self._kept[upload.id]
                surplus_bytes -= upload.num_bytes

    def _take(self, files: Sequence[tuple[str, Path]], folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """Copy the files under the names that flying looks for; {name here: name there} of the weights."""
        if not 1 <= len(files) <= MAX_FILES:
            raise CheckpointError(f"{len(files)} files were chosen, expected weights and their {RUN_CONFIG}")
        config: dict[str, Any] = {}
        names: dict[str, str] = {}
        for name, path in files:
            name = "".join(char for char in Path(name).name if char.isprintable())[:80] or "the file"
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise CheckpointError(f"{name} has {size / 2**20:.0f} MB, up to {MAX_FILE_BYTES >> 20} MB are taken")
            if name.lower().endswith(".json"):
                config = _renamed(path, name, lambda file: parse_json(file, read_bytes(file, _MAX_CONFIG_BYTES)))
                (folder / RUN_CONFIG).write_text(json.dumps(config), encoding="utf-8")
            elif name.lower().endswith(".safetensors"):
                kind = _kind_of(name, _renamed(path, name, check_safetensors))
                if kind in names:
                    raise CheckpointError(f"{name} and {names[kind]} are of the same kind; choose one of them")
                names[kind] = name
                shutil.copyfile(path, folder / kind)
            else:
                raise CheckpointError(
                    f"{name} is neither .safetensors nor .json; weights are taken as .safetensors only"
                )
        if not names:
            raise CheckpointError(f"there are no weights among the files; choose a .safetensors and its {RUN_CONFIG}")
        if not config:
            raise CheckpointError(f"the {RUN_CONFIG} of these weights is missing; choose both files together")
        return config, names

    def _check_size(self, config: dict[str, Any], folder: Path) -> None:
        settings = config.get("action_controller_config")
        if self.width is None or not isinstance(settings, dict) or not (folder / CONTROLLER).exists():
            return
        made_for = settings.get("hidden_size"), settings.get("num_layers")
        if made_for != (self.width, self.num_layers):
            raise CheckpointError(
                f"these weights were made for another base model: {made_for[0]} wide with {made_for[1]} layers, "
                f"this one is {self.width} wide with {self.num_layers}"
            )


def _renamed(path: Path, name: str, read: Any) -> dict[str, Any]:
    """What `read` makes of a file; an error calls it by the visitor's name."""
    try:
        return read(path)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), name)) from error


def _kind_of(name: str, header: dict[str, Any]) -> str:
    """Which of the exported files this one is, by its name or by the names in it."""
    if name in EXPORTED:
        return name
    weights = " ".join(key for key in header if key != "__metadata__")
    if "lora" in weights.lower():
        return LORA
    return TRANSFORMER if "blocks." in weights and "action_embed" not in weights else CONTROLLER
