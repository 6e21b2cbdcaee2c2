"""The Checkpoints page: every step of every run, its curve, its settings, its notes, and how well it obeys."""

from __future__ import annotations

from typing import Any

import gradio as gr

from wanact.ui.components import Component, Note
from wanact.ui.engine import TOGETHER, Engine
from wanact.ui.gpu import on_gpu
from wanact.ui.pages.checkpoints.cards import build_card
from wanact.ui.pages.checkpoints.desk import Shelf
from wanact.ui.pages.checkpoints.lapse import LapseDesk, LapseState, TimeLapse, lapse_seconds

# What the server says of an upload goes to the list, which keeps it in this tab.
_TELL = """(answer) => {
  if (answer?.upload) document.dispatchEvent(new CustomEvent('wanact:uploaded', {detail: {upload: answer.upload}}));
  return [answer];
}"""


_NOT_FLOWN = "() => { document.dispatchEvent(new CustomEvent('wanact:lapse-failed')); }"


class Ledger(Component):
    """Curves, list and details of all checkpoints; the value is the id of the selected one."""

    schema = {"type": "string", "description": "id of a checkpoint"}

    def __init__(self, shelf: Shelf, **kwargs: Any):
        super().__init__(
            "ledger",
            None,
            label="Checkpoints",
            server_functions=shelf.server_functions(),
            **kwargs,
        )


def build_checkpoints(engine: Engine, _last_frame: gr.State) -> None:
    """Lay out the page and connect it, inside the current gr.Blocks."""
    films = LapseDesk(engine)
    shelf = Shelf(engine, films)
    with gr.Column(elem_id="checkpoints"):
        with gr.Row(elem_id="shelf-head"):
            remark = Note(
                "Every saved step of every run. Choose one to fly it, or up to four to compare.",
                elem_id="shelf-remark",
            )
            upload = gr.UploadButton(
                "Upload a checkpoint",
                file_count="multiple",
                file_types=[".safetensors", ".json"],
                type="filepath",
                size="sm",
                elem_id="shelf-upload",
                scale=0,
                min_width=210,
            )
        ledger = Ledger(shelf, elem_id="ledger")
        lapse = TimeLapse(elem_id="lapse")
        panel, desk = build_card(engine, "card")
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    answer = gr.JSON(visible=False)
    ledger.input(desk.show, ledger, panel, trigger_mode="always_last", **quiet)
    flying = lapse.fly(
        on_gpu(films.film, lapse_seconds),
        lapse,
        lapse,
        concurrency_id="model",
        concurrency_limit=TOGETHER,
        trigger_mode="once",
        **quiet,
    )
    flying.failure(None, js=_NOT_FLOWN)
    lapse.cancel(_cancelled, None, lapse, cancels=[flying], queue=False, **quiet)
    upload.upload(shelf.add_upload, upload, answer, **quiet).then(_remark, answer, remark, js=_TELL, **quiet)


def _cancelled() -> LapseState:
    return LapseState(status="cancelled", message="Cancelled.")


def _remark(answer: Any) -> str:
    problem = answer.get("problem") if isinstance(answer, dict) else None
    if problem:
        gr.Warning(str(problem)[:1_000], title="This checkpoint cannot be used")
        return f"⚠ {str(problem)[:1_000]}"
    kept = "Your checkpoint is in the list. Only you see it, for an hour."
    return f"{kept} Choose it below, on Fly, on Plan a clip, or to compare."
