"""What the Checkpoints page asks of the server: lists, curves, one checkpoint in full, notes, and what was measured."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from pydantic import BaseModel

from wanact.control_card.card import ControlCard
from wanact.errors import UserError, last_name
from wanact.files import CheckpointError, otherwise, read_json, visible
from wanact.models import pilot
from wanact.runs.evaluations import SIMULATOR, read_evaluation
from wanact.runs.index import Entry, Run
from wanact.runs.log import OF_PILOTS, read_curve
from wanact.runs.notes import NoteError, read_notes, write_note
from wanact.runs.ref import base_of
from wanact.ui.engine import Engine
from wanact.ui.pages.answers import answering
from wanact.ui.pages.checkpoints.lapse import LapseDesk
from wanact.ui.pages.fly.desk import sentence
from wanact.ui.quota import NO_ROOM
from wanact.ui.uploads import PREFIX, Upload

STATES = ("verified", "whole", "unsummed", "weightless", "damaged")
MAX_CURVES = 12
MAX_SHOWN_CHARACTERS = 200_000
MAX_DIFFERENCES = 400
_LISTING_LASTS_S = 2.0  # every visitor's page asks anew every few seconds

logger = logging.getLogger(__name__)


_Name = Annotated[str | None, otherwise(None)]
_Names = Annotated[list[_Name], otherwise([])]


class ShelfMessage(BaseModel):
    """What the page's script says; what is malformed counts as not said."""

    version: _Name = None
    runs: _Names = []
    id: _Name = None
    a: _Name = None
    b: _Name = None
    star: Annotated[bool, otherwise(False)] = False
    note: Annotated[str, otherwise("")] = ""
    ids: _Names = []


class Shelf:
    """The handlers of the Checkpoints page. Every message comes from a visitor and is checked.

    Args:
        engine: the shared model, with its index of runs.
        lapse: draws time-lapses, and knows which were drawn.
    """

    def __init__(self, engine: Engine, lapse: LapseDesk | None = None):
        self.engine = engine
        self.lapse = lapse or LapseDesk(engine)
        self._lock = threading.Lock()
        self._listing: tuple[float, dict[str, Any]] | None = None

    def server_functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        """What the page's script may call; each takes one message and answers {"problem": sentence} if it cannot."""
        functions = (
            self.list_shelf,
            self.read_curves,
            self.show_checkpoint,
            self.compare_settings,
            self.keep_note,
            self.verify_checkpoint,
            self.find_uploads,
        )
        read = partial(ShelfMessage.model_validate, strict=True)
        return [answering(function, read, self._may_edit, "checkpoints") for function in functions]

    def _may_edit(self, request: gr.Request | None) -> bool:
        return self.engine.edits.allow(request)

    # ---- the list ------------------------------------------------------------------------------------------

    def list_shelf(self, message: ShelfMessage, may_edit: bool = False) -> dict[str, Any]:
        """All runs and checkpoints, column by column; {"same": True} if the page has them already."""
        with self._lock:
            if self._listing is None or time.monotonic() - self._listing[0] > _LISTING_LASTS_S:
                self._listing = (time.monotonic(), self._list())
            listing = self._listing[1]
        self.engine.index.verify_in_background()
        listing = listing | {"notes_with_runs": may_edit}
        return {"same": True} if message.version == listing["version"] else listing

    def forget_listing(self) -> None:
        """Look at the disk again for the next answer."""
        with self._lock:
            self._listing = None

    def _list(self) -> dict[str, Any]:
        runs = self.engine.runs()
        cards = [self.engine.cards.of(run.path) if not run.problem else {} for run in runs]
        rows = [(number, entry) for number, run in enumerate(runs) for entry in run.entries]
        notes = [read_notes(run.path) if not run.problem else {} for run in runs]
        columns: dict[str, Any] = {
            "run": [number for number, _ in rows],
            "name": [entry.name for _, entry in rows],
            "step": [entry.step for _, entry in rows],
            "loss": [None if entry.is_pilot else entry.loss for _, entry in rows],
            "success": {str(index): success_of(entry) for index, (_, entry) in enumerate(rows) if entry.is_pilot},
            "saved": [_seconds(entry.saved_at) for _, entry in rows],
            "bytes": [entry.num_bytes for _, entry in rows],
            "state": [STATES.index(entry.state) for _, entry in rows],
            "best": [index for index, (_, entry) in enumerate(rows) if entry.is_best],
            "by": {str(index): entry.best_by for index, (_, entry) in enumerate(rows) if entry.is_best},
            "latest": [index for index, (_, entry) in enumerate(rows) if entry.is_latest],
            "problems": {str(index): entry.problem for index, (_, entry) in enumerate(rows) if entry.problem},
            "notes": {
                str(index): notes[number][entry.name]
                for index, (number, entry) in enumerate(rows)
                if entry.name in notes[number]
            },
            "cards": {
                str(index): card_figures(cards[number][entry.step])
                for index, (number, entry) in enumerate(rows)
                if entry.step in cards[number]
            },
        }
        answer = {
            "runs": [_describe(run) for run in runs],
            "columns": columns,
            "damaged": sum(entry.state == "damaged" for _, entry in rows),
        }
        digest = hashlib.sha256(json.dumps(answer, sort_keys=True).encode())
        return answer | {"version": digest.hexdigest()[:16]}

    def read_curves(self, message: ShelfMessage) -> dict[str, Any]:
        """Loss and learning rate of the named runs, of a dozen at most, and their steps' frames if they were drawn.

        Of runs of pilots success and return, which stand for themselves.
        """
        wanted = set(message.runs[:MAX_CURVES])
        runs = [run for run in self.engine.index.runs() if run.name in wanted and not run.problem]
        models = [run for run in runs if not run.is_pilot]
        lapses = {run.name: lapse for run in models if (lapse := self.lapse.recall(run)) is not None}
        return {
            "curves": {run.name: read_curve(run.path) for run in models},
            "pilots": {run.name: read_curve(run.path, OF_PILOTS) for run in runs if run.is_pilot},
            "lapses": lapses,
        }

    # ---- one checkpoint ------------------------------------------------------------------------------------

    def show_checkpoint(self, message: ShelfMessage) -> dict[str, Any]:
        """Metadata, configuration and files of a checkpoint, and whether it can be flown here and live."""
        found = self._find(message.id)
        if isinstance(found, Upload):
            settings, num_files = found.config, len(visible(found.path.iterdir()))
            return _facts(settings) | {
                "live": self.engine.flies_live(settings, found.path),
                "config": _shown(settings),
                "metadata": None,
                "files": [],
                "summary": f"{num_files} files, kept for you for an hour",
            }
        config = {"stage": "pilot"} | _read_json(found.path / pilot.CONFIG) if found.is_pilot else self._config(found)
        metadata = {key: value for key, value in found.metadata.items() if key not in ("files", "manifest_sha256")}
        files = found.metadata.get("files", {})
        base = config.get("base_fingerprint")
        return _facts(config) | {
            "live": not found.is_pilot and self.engine.flies_live(config, found.path),
            "metadata": _shown(metadata) if metadata else None,
            "config": _shown(config),
            "files": [{"name": str(name)[:200], "bytes": file["bytes"]} for name, file in list(files.items())[:200]],
            "fits": None if not isinstance(base, str) else self.engine.pipe.is_recorded_as(base),
            "here": self.engine.name,
        }

    def compare_settings(self, message: ShelfMessage) -> dict[str, Any]:
        """What differs between the configurations and metadata of two checkpoints: [[name, a, b]]."""
        sides = []
        for checkpoint_id in (message.a, message.b):
            found = self._find(checkpoint_id)
            if isinstance(found, Upload):
                sides.append(_flat({"config": found.config}))
                continue
            metadata = {k: v for k, v in found.metadata.items() if k not in ("files", "manifest_sha256", "sequence")}
            sides.append(_flat({"config": self._config(found), "checkpoint": metadata}))
        names = sorted({*sides[0], *sides[1]})
        differ = [[name, *(side.get(name, "–") for side in sides)] for name in names]
        rows = [row for row in differ if row[1] != row[2]]
        return {"rows": rows[:MAX_DIFFERENCES], "total": len(rows), "equal": len(differ) - len(rows)}

    def keep_note(self, message: ShelfMessage, may_edit: bool = False) -> dict[str, Any]:
        """Keep a star and a note with the run."""
        if not may_edit:
            raise NoteError("Notes stay in your browser; who runs this page has an address that keeps them.")
        found = self._find(message.id)
        if isinstance(found, Upload):
            raise NoteError("Notes on an upload stay in your browser.")
        write_note(found.run_dir, found.name, message.star, message.note)
        self.forget_listing()
        return {"kept": True}

    def verify_checkpoint(self, message: ShelfMessage) -> dict[str, Any]:
        """Read every file of a checkpoint, whatever its size."""
        found = self._find(message.id)
        if isinstance(found, Upload):
            return {"state": "verified"}
        entry = self.engine.index.verify(found)
        self.forget_listing()
        return {"state": entry.state, "why": entry.problem}

    def find_uploads(self, message: ShelfMessage) -> dict[str, Any]:
        """Of the uploads that a visitor's page remembers, those that are still kept."""
        kept = [self.engine.uploads.find(upload) for upload in message.ids[:50]]
        return {"uploads": [describe_upload(upload) for upload in kept if upload is not None]}

    def add_upload(self, files: list[str] | None) -> dict[str, Any]:
        """Check and keep the files that a visitor has chosen, as Gradio has received them."""
        try:
            upload = self.engine.uploads.add([(Path(file).name, Path(file)) for file in files or []])
        except UserError as error:
            return {"problem": sentence(error)}
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return {"problem": NO_ROOM if full else sentence("the upload cannot be read")}
        return {"upload": describe_upload(upload)}

    # ---- helpers -------------------------------------------------------------------------------------------

    def _find(self, checkpoint_id: Any) -> Entry | Upload:
        if isinstance(checkpoint_id, str) and checkpoint_id.startswith(PREFIX):
            upload = self.engine.uploads.find(checkpoint_id)
            if upload is None:
                raise CheckpointError("the upload is not kept any more; upload it again")
            return upload
        return self.engine.index.find(checkpoint_id)

    def _config(self, entry: Entry) -> dict[str, Any]:
        try:
            return entry.config
        except CheckpointError:
            return {}


def card_figures(card: ControlCard) -> dict[str, Any]:
    """What a list shows of a control card: four of its numbers, and how much they are measured from."""
    figures = {"control": "sign_accuracy", "worst": "worst_channel", "gain": "gain", "sharpness": "sharpness"}
    numbers = {name: card.number(measure) for name, measure in figures.items()}
    shown = {name: None if number is None else round(number, 4) for name, number in numbers.items()}
    return shown | {"of": card.of_what, "quick": card.is_quick}


def success_of(entry: Entry) -> dict[str, Any] | None:
    """The share of episodes that a pilot has done, and of which: those it was measured in, else its training's last."""
    try:
        measured = read_evaluation(entry.run_dir, SIMULATOR, entry.step)
    except CheckpointError:
        measured = None
    own = [pilots["trained"].success for pilots in measured.tasks.values() if "trained" in pilots] if measured else []
    if measured is not None and own:
        tasks = f" of each of {len(own)} tasks" if len(own) > 1 else ""
        return {"share": sum(own) / len(own), "of": f"{measured.episodes} held-out episodes{tasks}"}
    share: Any = entry.metadata.get("success")
    is_share = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1
    return {"share": float(share), "of": "the last episodes of its training, which explore"} if is_share else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (CheckpointError, OSError):
        return {}


def describe_upload(upload: Upload) -> dict[str, Any]:
    """An upload as a row of its visitor's list."""
    return {"id": upload.id, "label": upload.label, "bytes": upload.num_bytes, "injection": injection_of(upload.config)}


def injection_of(config: dict[str, Any]) -> str:
    """How the controller of a configuration reaches the transformer, "" if it is not said."""
    settings = config.get("action_controller_config")
    settings = settings if isinstance(settings, dict) else {}
    return str(config.get("injection_type") or settings.get("injection_type") or "")[:40]


def base_named(config: dict[str, Any]) -> str:
    """The model that a configuration names, without where it lay; "" if it is not said."""
    return last_name(base_of(config))[:60]


def _describe(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "problem": run.problem,
        "base": base_named(run.config),
        "injection": injection_of(run.config),
        "stage": "pilot" if run.is_pilot else str(run.config.get("stage") or "")[:20],
        "pilot": run.is_pilot,
    }


def _facts(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "injection": injection_of(config),
        "base": base_named(config),
        "stage": str(config.get("stage") or "")[:20],
    }


def _seconds(saved_at: str) -> float | None:
    try:
        return datetime.fromisoformat(saved_at).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _shown(content: dict[str, Any]) -> dict[str, Any]:
    """Content of sensible size without our paths, and with every number that JSON has no word for as text."""
    text = json.dumps(_plain(content))
    if len(text) > MAX_SHOWN_CHARACTERS:
        return {"": f"{len(text):,} characters, too many to show here"}
    return json.loads(text)


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return last_name(value)
    if isinstance(value, dict):
        return {last_name(str(key)): _plain(item, depth + 1) for key, item in value.items()} if depth < 12 else "…"
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value] if depth < 12 else "…"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value


def _flat(content: Any, name: str = "") -> dict[str, str]:
    if isinstance(content, dict) and content and name.count(".") < 12:
        rows: dict[str, str] = {}
        for key, value in content.items():
            rows |= _flat(value, f"{name}.{last_name(str(key))}" if name else last_name(str(key)))
        return rows
    return {name[:200]: json.dumps(_plain(content))[:300]}
