"""The Data page: the clips of a data set, what is wrong with them, and what is marked."""

from __future__ import annotations

import gradio as gr

from wanact.ui.components import Component
from wanact.ui.engine import Engine
from wanact.ui.pages.data.desk import FLAGS, DataDesk


class Footage(Component):
    """Verdicts, histograms, a grid of all clips, and one of them in full; the value is the id of that one."""

    schema = {"type": "string", "description": "id of a clip of a data set"}

    def __init__(self, desk: DataDesk, may_fly: bool, **kwargs):
        super().__init__(
            "footage",
            None,
            label="Data",
            server_functions=desk.server_functions(),
            names=[data.name for data in desk.sets],
            flags=list(FLAGS),
            may_fly=may_fly,
            **kwargs,
        )


def build_data(desk: DataDesk, engine: Engine, _last_frame: gr.State) -> None:
    """Lay out the page and connect it, inside the current gr.Blocks."""
    with gr.Column(elem_id="data"):
        Footage(desk, engine.pipe.controller is not None or bool(engine.checkpoints()[0]), elem_id="footage")
