"""What the Data page asks of the server: data sets, one clip in full, verdicts, and marks.

Nothing of where a data set lies leaves this file: sets are called by their number, clips by an id.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import numpy as np
from PIL import Image
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from wanact.actions import NUM_CHANNELS, ActionTrack, plan_path
from wanact.data import marks as marking
from wanact.data.marks import MAX_CUTS, MAX_PROMPT, Marks
from wanact.data.seen import Seen, frames_of_sheet
from wanact.data.sets import Clip, DataSet
from wanact.data.verdicts import AXIS_OF, flags_of, histograms, judge_with, together
from wanact.errors import UserError, without_folders
from wanact.files import otherwise, write_text
from wanact.flying.record import FlightRecord
from wanact.flying.request import clean_prompt
from wanact.media.footage import frames_of, read_video
from wanact.media.video import fit_image
from wanact.shapes import TEMPORAL_STRIDE
from wanact.ui.engine import Engine
from wanact.ui.pages.answers import answering
from wanact.ui.pages.fly.desk import sentence

FLAGS = ("against", "cut", "copy", "blurred", "dark", "bright", "unreadable", "estimated", "unmoved", "wordless")
MAX_SHOWN_PROMPT = 600  # characters of a caption that a list holds
MAX_SHOWN_ACTIONS = 64  # latent frames of a clip whose keys its card shows
MAX_SHEETS_WAITING = 8
SHEET_PATIENCE_S = 30.0
_AGAIN_S = 5.0  # while clips are being looked at, verdicts are not found more often
_FOR_A_WHILE = {"Cache-Control": "private, max-age=3600"}

logger = logging.getLogger(__name__)

_Text = Annotated[str, otherwise("")]


class DataMessage(BaseModel):
    """What the page's script says; what is malformed counts as not said."""

    number: Annotated[int, otherwise(0)] = 0
    version: _Text = ""
    id: _Text = ""
    name: _Text = ""
    out: Annotated[bool | None, otherwise(None)] = None
    prompt: Annotated[str | None, otherwise(None)] = None
    cuts: Annotated[list[float] | None, otherwise(None)] = None
    forget: Annotated[bool, otherwise(False)] = False


class DataDesk:
    """The handlers of the Data page. Every message comes from a visitor and is checked.

    Args:
        engine: whose model a clip's flight is made for, and who may write.
        sets: what is shown.
        looks: whether clips that nobody has looked at are looked at, one after the other, as long as the page stands.
    """

    def __init__(self, engine: Engine, sets: Sequence[DataSet], looks: bool = True):
        self.engine, self.sets = engine, list(sets)
        self._lock = threading.Lock()
        self._answers: dict[int, tuple[Any, float, dict[str, Any]]] = {}
        self._drawing = threading.BoundedSemaphore(1)  # a visitor who opens every clip draws one at a time
        self._waiting = threading.BoundedSemaphore(MAX_SHEETS_WAITING)
        if looks:
            threading.Thread(target=self._look, name="wanact-data", daemon=True).start()

    def _look(self) -> None:
        for data in self.sets:
            try:
                data.look()
            except Exception:
                logger.exception("looking at %s", data.name)

    def server_functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        """What the page's script may call; each takes one message and answers {"problem": sentence} if it cannot."""
        functions = (
            *(self.open_data, self.watch_data, self.show_data_clip, self.mask_data_clip, self.fly_data_clip),
            *(self.mark_data_clip, self.apply_verdict, self.forget_fixes),
        )
        return [answering(f, DataMessage.model_validate, self._may_edit, "data") for f in functions]

    def _may_edit(self, request: gr.Request | None) -> bool:
        return self.engine.edits.allow(request)

    # ---- the set ---------------------------------------------------------------------------------------------

    def open_data(self, message: DataMessage, may_edit: bool = False) -> dict[str, Any]:
        """All clips of a set, column by column, its verdicts and histograms; {"same": True} if the page has them."""
        data = self._set(message.number)
        with self._lock:
            answer = self._answer(message.number, data)
        same = message.version == answer["version"]
        return {"same": True, "looked": data.num_seen} if same else answer | {"may_edit": may_edit}

    def watch_data(self, message: DataMessage) -> dict[str, Any]:
        """How many clips were looked at, and which version the page would find."""
        data = self._set(message.number)
        return {"looked": data.num_seen, "clips": len(data)}

    def _answer(self, number: int, data: DataSet) -> dict[str, Any]:
        marked = data.reread_marks()
        now = (data.num_seen, marked.fix, tuple(sorted(marked.clips.items())))
        kept = self._answers.get(number)
        if kept is not None:
            key, made, answer = kept
            is_looking = key[0] != now[0] and key[1:] == now[1:]
            if key == now or (is_looking and time.monotonic() - made < _AGAIN_S):
                return answer
        answer = self._kept_answer(number, data)
        self._answers[number] = (now, time.monotonic(), answer)
        return answer

    def _kept_answer(self, number: int, data: DataSet) -> dict[str, Any]:
        """The answer as it was found before, by this page or another; of thousands of clips it takes seconds."""
        shown = {"number": number, "names": [one.name for one in self.sets]}
        path, told = data.kept / "page.json", data.fingerprint()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["told"] == told:
                return kept["answer"] | shown
        answer = self._describe(number, data)
        if data.num_seen == len(data):
            with contextlib.suppress(OSError):
                write_text(path, json.dumps({"told": told, "answer": answer}))
        return answer | shown

    def _describe(self, number: int, data: DataSet) -> dict[str, Any]:
        evidence = data.evidence()
        flags = flags_of(evidence)
        found = judge_with(evidence, flags, data.fps)
        place = {clip.key: i for i, clip in enumerate(data)}
        axes = [clip.axes for clip in evidence if clip.axes is not None]
        columns = _columns(data, flags)
        verdicts = [
            {
                "name": one.name,
                "words": without_folders(one.words),
                "remedy": one.remedy,
                "grave": one.grave,
                "does": one.does,
                "clips": None if one.keys is None else [place[key] for key in one.keys],
            }
            for one in found
        ]
        answer = {
            "number": number,
            "names": [one.name for one in self.sets],
            "name": data.name,
            "fps": data.fps,
            "total": data.total,
            "looked": data.num_seen,
            "marks": marking.say(data.marks),
            "fixed": bool(data.marks.fix) or any(mark.fix for mark in data.marks.clips.values()),
            "verdicts": verdicts,
            "histograms": histograms(axes),
            "together": together(axes),
            "flags": list(FLAGS),
            "columns": columns,
        }
        told = json.dumps([answer["looked"], answer["marks"], verdicts, columns])
        return answer | {"version": hashlib.sha256(told.encode()).hexdigest()[:16]}

    def _set(self, number: int) -> DataSet:
        if not 0 <= number < len(self.sets):
            raise UserError("There is no such data set here; reload the page.")
        return self.sets[number]

    # ---- one clip --------------------------------------------------------------------------------------------

    def show_data_clip(self, message: DataMessage) -> dict[str, Any]:
        """A clip in full: frames, actions, the camera's motion beside them, and the path of both from above."""
        data, clip = self._clip(message)
        axes, looked, mark = data.axes(clip), data.seen(clip), data.marks.of_clip(clip.key)
        answer: dict[str, Any] = {
            "id": clip.id,
            "title": clip.title,
            "number": clip.number,
            "prompt": mark.prompt if mark.prompt is not None else clip.prompt,
            "own_prompt": clip.prompt,
            "out": mark.out,
            "cuts": list(mark.cuts),
            "begins": round(data.span(clip)[0] / data.fps, 4),
            "fix": str(data.marks.fix_of(clip.key)) if data.marks.fix_of(clip.key) else "",
            "problem": without_folders(clip.problem or (looked.problem if looked else "")),
            "fps": data.fps,
            "estimated": clip.estimated,
            "lead": data.marks.fix_of(clip.key).lead,
            "masks": self.engine.masks.told(),
        }
        if axes is not None:
            answer |= {"axes": axes.round(5).tolist(), "path": _path(axes)}
        if looked is not None and len(looked.camera):
            read = looked.camera * np.array([*self._parallax(message.number, data), 1.0, 1.0])
            answer |= {
                "read": read.round(5).tolist(),
                "read_path": _path(read[: len(axes)] if axes is not None else read),
                "found_cuts": list(looked.cuts),
                "size": [looked.size[1], looked.size[0]],
                "sharpness": round(looked.sharpness, 3),
                "brightness": round(looked.brightness, 3),
            }
        try:
            answer["sheet"] = self._sheet(data, clip)[1]
        except (UserError, OSError) as error:
            answer["problem"] = answer["problem"] or sentence(error)
        return answer

    def mask_data_clip(self, message: DataMessage) -> dict[str, Any]:
        """Where a network of masks looks in a clip, see `Masks.read`."""
        path, layout = self._sheet(*self._clip(message))
        return self.engine.masks.read(frames_of_sheet(path, layout))

    def _sheet(self, data: DataSet, clip: Clip) -> tuple[Path, dict[str, int]]:
        """All frames of a clip and where each is; they are drawn now if nobody has opened the clip before."""
        if not self._waiting.acquire(blocking=False):
            raise UserError("Many clips are being opened just now; try again in a moment.")
        try:
            if not self._drawing.acquire(timeout=SHEET_PATIENCE_S):
                raise UserError("Many clips are being opened just now; try again in a moment.")
            try:
                return data.sheet(clip)
            finally:
                self._drawing.release()
        finally:
            self._waiting.release()

    def _parallax(self, number: int, data: DataSet) -> tuple[float, float]:
        """What brings parallax to the size of the actions of ahead and right: pictures alone do not tell it."""
        asked, read = np.zeros(2), np.zeros(2)
        for one in _some(data.clips):
            axes, looked = data.axes(one), data.seen(one)
            if axes is None or looked is None:
                continue
            asked += np.abs(axes[:, :2]).sum(axis=0)
            read += np.abs(looked.camera[: len(axes), :2]).sum(axis=0)
        scale = np.where(read > 0, asked / np.maximum(read, 1e-9), 1.0)
        return float(scale[0]) or 1.0, float(scale[1]) or 1.0

    def fly_data_clip(self, message: DataMessage) -> dict[str, Any]:
        """A clip's first frame and actions as the record of a flight of this page's model, as JSON."""
        data, clip = self._clip(message)
        axes, defaults = data.axes(clip), self.engine.defaults
        if axes is None:
            raise UserError(f"{clip.title} has no actions to fly")
        lead = data.marks.fix_of(clip.key).lead
        begin = data.span(clip)[0] + TEMPORAL_STRIDE * lead
        first = read_video(clip.video, 1, begin, data.fps)[0]
        image = fit_image(Image.fromarray(first), defaults["height"], defaults["width"])
        mark, most = data.marks.of_clip(clip.key), self.engine.num_actions
        # A plan is as long as the model's clips; what is compared ends where the clip does, which is a lane beside.
        track = ActionTrack.from_axes(axes[lead:][:most])
        track = track if message.name == "compare" else track.with_length(most)
        words = clean_prompt(mark.prompt if mark.prompt is not None else clip.prompt, "caption")
        model = {"name": self.engine.name, "fingerprint": self.engine.fingerprint()}
        checkpoint = {"id": self.engine.default_checkpoint()}
        record = FlightRecord.by_defaults(defaults, image, words, track, model=model, checkpoint=checkpoint)

        def filmed(flight: FlightRecord) -> np.ndarray | None:
            known = min(len(flight.track), len(axes) - lead)
            if not np.allclose(flight.track.magnitude[:known], track.magnitude[:known], atol=1e-5):
                return None  # another plan from the same first frame
            shown = itertools.islice(frames_of(clip.video, begin, data.fps), flight.num_frames)
            size = flight.image.height, flight.image.width
            frames = [np.asarray(fit_image(Image.fromarray(frame), *size)) for frame in shown]
            return np.stack(frames) if frames else None

        self.engine.keep_filmed(image, filmed)
        return {"flight": record.to_json(), "title": clip.title}

    def _clip(self, message: DataMessage) -> tuple[DataSet, Clip]:
        data = self._set(message.number)
        clip = data.by_id.get(message.id)
        if clip is None:
            raise UserError("There is no such clip here; reload the page.")
        return data, clip

    # ---- marks -----------------------------------------------------------------------------------------------

    def mark_data_clip(self, message: DataMessage, may_edit: bool = False) -> dict[str, Any]:
        """Leave a clip out or take it back, write its words anew, or split it."""
        _require(may_edit)
        data, clip = self._clip(message)
        changes: dict[str, Any] = {}
        if message.out is not None:
            changes["out"] = message.out
        if message.prompt is not None:
            words = clean_prompt(message.prompt[: MAX_PROMPT + 1], "caption")
            if len(words) > MAX_PROMPT:
                raise UserError(f"The caption has more than the {MAX_PROMPT:,} characters that are kept.")
            changes["prompt"] = None if words == clip.prompt else words
        if message.cuts is not None:
            if len(message.cuts) > MAX_CUTS or any(not 0 <= cut < 1e6 for cut in message.cuts):
                raise UserError(f"A clip is split at up to {MAX_CUTS} places, in seconds from its video's beginning.")
            changes["cuts"] = tuple(sorted({round(cut, 4) for cut in message.cuts}))
        data.mark(lambda marked: marked.with_clip(clip.key, **changes))
        return {"kept": True}

    def apply_verdict(self, message: DataMessage, may_edit: bool = False) -> dict[str, Any]:
        """Mark what mends a verdict."""
        _require(may_edit)
        data = self._set(message.number)
        verdict = next((one for one in data.verdicts() if one.name == message.name), None)
        if verdict is None:
            raise UserError("This verdict does not hold any more; the page shows those that do.")
        data.apply(verdict)
        return {"kept": True, "remedy": verdict.remedy}

    def forget_fixes(self, message: DataMessage, may_edit: bool = False) -> dict[str, Any]:
        """Take all actions as the table has them again."""
        _require(may_edit)
        self._set(message.number).mark(Marks.without_fixes)
        return {"kept": True}

    # ---- over HTTP -------------------------------------------------------------------------------------------

    def picture(self, number: int, name: str, what: str) -> Any:
        """The file of a clip's small picture or of its frames, or None."""
        clip = self.sets[number].by_id.get(name) if 0 <= number < len(self.sets) else None
        if clip is None or what not in ("thumb.jpg", "sheet.jpg"):
            return None
        data = self.sets[number]
        return data.thumb(clip) if what == "thumb.jpg" else data.kept_sheet(clip)


def _require(may_edit: bool) -> None:
    if not may_edit:
        raise UserError("Marks are kept by who runs this page; its terminal has an address that lets a browser do so.")


def _some(clips: Sequence[Clip], most: int = 500) -> Sequence[Clip]:
    return clips[:: max(1, len(clips) // most)]


def _path(axes: np.ndarray) -> list[list[float]]:
    return plan_path(ActionTrack.from_axes(axes)).round(4).tolist() if len(axes) else [[0.0, 0.0, 0.0]]


def _columns(data: DataSet, flags: dict[str, set[str]]) -> dict[str, Any]:
    """What cards and filters need of every clip; captions once each, held keys as base64."""
    prompts: dict[str, int] = {}
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("id", "title", "prompt", "frames", "held", "flags", "speed", "turn", "sharp", "light", "marked")
    }
    for clip in data:
        mark, looked, axes = data.marks.of_clip(clip.key), data.seen(clip), data.axes(clip)
        words = (mark.prompt if mark.prompt is not None else clip.prompt)[:MAX_SHOWN_PROMPT]
        said = _flags(clip, axes, looked, words) | flags.get(clip.key, set())
        columns["id"].append(clip.id)
        columns["title"].append(clip.title)
        columns["prompt"].append(prompts.setdefault(words, len(prompts)))
        columns["frames"].append(_frames(axes, looked))
        columns["held"].append(_held(axes))
        columns["flags"].append(sum(1 << i for i, name in enumerate(FLAGS) if name in said))
        columns["speed"].append(None if axes is None else _round(np.hypot(axes[:, 0], axes[:, 1])))
        columns["turn"].append(None if axes is None else _round(np.hypot(axes[:, 2], axes[:, 3])))
        columns["sharp"].append(None if looked is None or looked.problem else round(looked.sharpness, 3))
        columns["light"].append(None if looked is None or looked.problem else round(looked.brightness, 3))
        columns["marked"].append(mark.out + 2 * (mark.prompt is not None) + 4 * bool(mark.cuts) + 8 * bool(mark.fix))
    return columns | {"prompts": list(prompts)}


def _flags(clip: Clip, axes: np.ndarray | None, looked: Seen | None, words: str) -> set[str]:
    said = {
        "unreadable": bool(clip.problem) or (looked is not None and bool(looked.problem)),
        "estimated": clip.estimated,
        "unmoved": axes is None or not axes.any(),
        "wordless": not words.strip(),
    }
    return {name for name, holds in said.items() if holds}


def _frames(axes: np.ndarray | None, looked: Seen | None) -> int:
    if looked is not None and looked.frames:
        return looked.frames
    return 0 if axes is None else 4 * len(axes) + 1


def _held(axes: np.ndarray | None) -> str:
    """Which channels stand in each latent frame: a byte each, a bit a channel."""
    if axes is None or not len(axes):
        return ""
    shown = axes[:MAX_SHOWN_ACTIONS]
    bits = np.zeros(len(shown), np.uint8)
    for channel in range(NUM_CHANNELS):
        axis, sign = AXIS_OF[channel]
        bits |= ((sign * shown[:, axis] > 0).astype(np.uint8) << channel).astype(np.uint8)
    return base64.b64encode(bits.tobytes()).decode()


def _round(values: np.ndarray) -> float:
    return float(f"{float(values.mean()) if len(values) else 0.0:.4g}")


def routes() -> list[Route]:
    """What serves the pictures of clips; each is called by a number and an id."""
    return [Route("/data/{number:int}/{name}/{what}", _serve, methods=["GET", "HEAD"])]


def _serve(request: Request) -> Response:
    desk: DataDesk | None = getattr(request.app.get_blocks(), "data", None)
    asked = request.path_params
    path = desk.picture(asked["number"], asked["name"], asked["what"]) if desk else None
    if path is None:
        return PlainTextResponse("There is no such picture.", status_code=404, headers={"Cache-Control": "no-store"})
    return FileResponse(path, media_type="image/jpeg", headers=_FOR_A_WHILE)
