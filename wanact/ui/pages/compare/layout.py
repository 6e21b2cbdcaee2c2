"""The Compare page: one flight, flown side by side, played in step and measured."""

from __future__ import annotations

from typing import Any

import gradio as gr

from wanact.actions import PRESETS
from wanact.shapes import TEMPORAL_STRIDE
from wanact.ui.budget import MAX_STEPS
from wanact.ui.components import step_heading
from wanact.ui.engine import TOGETHER, Engine
from wanact.ui.pages.checkpoints.cards import build_card
from wanact.ui.pages.compare.desk import CompareDesk, CompareState
from wanact.ui.pages.compare.parts import CompareStage, Lanes, PlanStrip
from wanact.ui.pages.fly.desk import MAX_GUIDANCE, FlyDesk
from wanact.ui.scene import QUIET, Scene, keep, negative_prompt

FIRST_PRESET = "Fly-through"
_START = "(...inputs) => { document.dispatchEvent(new CustomEvent('wanact:compare-start')); return inputs; }"
_FAILED = "() => { document.dispatchEvent(new CustomEvent('wanact:compare-failed')); }"
_NOT_OPENED = "() => { document.dispatchEvent(new CustomEvent('wanact:open-failed')); }"


def build_compare(engine: Engine, _last_frame: gr.State) -> None:
    """Lay out the page and connect it, inside the current gr.Blocks."""
    flights = FlyDesk(engine)
    desk = CompareDesk(engine, flights)
    scene = Scene("compare-", engine, "First frame of the comparison", frame_height=190, webcam=False)
    presets = {name: make(engine.num_actions) for name, make in PRESETS.items()}
    defaults = engine.defaults

    with gr.Column(elem_id="compare"):
        with gr.Column(elem_id="compare-flight", elem_classes="card"):
            gr.HTML(step_heading(1, "The flight", "the same for every lane"))
            with gr.Row(elem_id="compare-scene"):
                scene.frame.render()
                with gr.Column(elem_id="compare-words"):
                    scene.prompt.render()
                    scene.describe.render()
                    with gr.Row():
                        scene.seed.render()
                        scene.dice.render()
            scene.crop.render()
            scene.note.render()
            scene.gallery.render()
            plan = PlanStrip(presets[FIRST_PRESET], presets, TEMPORAL_STRIDE / defaults["fps"], elem_id="compare-plan")
            with gr.Accordion("Advanced", open=False, elem_id="compare-advanced"):
                with gr.Row():
                    steps = gr.Slider(
                        1, MAX_STEPS, defaults["num_inference_steps"], step=1, label="Steps", min_width=130
                    )
                    guidance = gr.Slider(
                        1, MAX_GUIDANCE, defaults["guidance_scale"], step=0.1, label="Guidance", min_width=130
                    )
                negative = negative_prompt(engine)
        with gr.Column(elem_id="compare-lanes", elem_classes="card"):
            gr.HTML(step_heading(2, "The lanes", "two to four, side by side"))
            lanes = Lanes(desk.list_lanes, engine.truth is not None, elem_id="lanes")
            go = gr.Button("Compare", variant="primary", size="lg", elem_id="compare-go")
        with gr.Column(elem_id="compare-stage", elem_classes="card"):
            stage = CompareStage(elem_id="stage-compare")
        with gr.Column(elem_id="compare-card"):
            build_card(engine, "card-compare")

    fields = [scene.frame, scene.prompt, plan, lanes, scene.seed, negative, steps, guidance, scene.crop]
    flying = go.click(
        desk.compare,
        fields,
        stage,
        api_name="compare",
        js=_START,
        concurrency_id="model",
        concurrency_limit=TOGETHER,
        show_progress="minimal",
        show_progress_on=[stage],
        trigger_mode="always_last",  # see press.js
    )
    flying.failure(None, js=_FAILED)
    stage.cancel(_cancelled, None, stage, cancels=[flying], queue=False, **QUIET)
    for event in scene.connect():
        event.then(_own_picture, plan, plan, **QUIET)
    opened = [*scene.picture, scene.gallery, scene.prompt, negative, scene.seed, steps, guidance, plan, lanes]
    opening = plan.open(lambda value: _lay_out(desk.open(_wanted(value))), plan, opened, **QUIET)
    opening.failure(None, js=_NOT_OPENED)


def _cancelled() -> CompareState:
    return CompareState(status="cancelled", message="Cancelled. Everything is as you left it.")


def _own_picture(plan: Any) -> Any:
    """After another picture was chosen an opened flight begins with it."""
    if isinstance(plan, dict) and "flight" in plan:
        return plan | {"own_picture": False}
    return gr.skip()


def _wanted(plan: Any) -> Any:
    return plan.get("open") if isinstance(plan, dict) else None


def _lay_out(fields: dict[str, Any]) -> tuple[Any, ...]:
    lanes = fields["lanes"]
    if lanes is None:  # one flight: the lanes stay as they are
        lanes = gr.skip()
    return (
        fields["first_frame"],
        keep(fields["first_frame"]),
        "Opened. Press Compare to fly it.",
        fields["sample"],
        fields["prompt"],
        fields["negative_prompt"],
        fields["seed"],
        fields["steps"],
        fields["guidance"],
        fields["plan"],
        lanes,
    )
