"""The Compare page: one flight, flown side by side, played in step and measured."""

from __future__ import annotations

import secrets
from typing import Any

import gradio as gr

from wanact.actions import PRESETS
from wanact.flying.record import MAX_SEED
from wanact.shapes import TEMPORAL_STRIDE
from wanact.ui.components import FrameInput, SampleGallery, picked, step_heading
from wanact.ui.engine import Engine
from wanact.ui.pages.checkpoints.cards import build_card
from wanact.ui.pages.compare.desk import CompareDesk, CompareState
from wanact.ui.pages.compare.parts import CompareStage, Lanes, PlanStrip
from wanact.ui.pages.fly.desk import MAX_GUIDANCE, MAX_STEPS, FlyDesk
from wanact.ui.samples import load_samples

FIRST_PRESET = "Fly-through"
_START = "(...inputs) => { document.dispatchEvent(new CustomEvent('wanact:compare-start')); return inputs; }"
_FAILED = "() => { document.dispatchEvent(new CustomEvent('wanact:compare-failed')); }"
_NOT_OPENED = "() => { document.dispatchEvent(new CustomEvent('wanact:open-failed')); }"


def build_compare(engine: Engine, _last_frame: gr.State) -> None:
    """Lay out the page and connect it, inside the current gr.Blocks."""
    flights = FlyDesk(engine)
    desk = CompareDesk(engine, flights)
    samples, _ = load_samples()
    first = samples[0] if samples else None
    presets = {name: make(engine.num_actions) for name, make in PRESETS.items()}
    defaults = engine.defaults

    last_good = gr.State(str(first.path) if first else None, time_to_live=3600)
    with gr.Column(elem_id="compare"):
        with gr.Column(elem_id="compare-flight", elem_classes="card"):
            gr.HTML(step_heading(1, "The flight", "the same for every lane"))
            with gr.Row(elem_id="compare-scene"):
                frame = FrameInput(
                    value=str(first.path) if first else None,
                    type="filepath",
                    sources=["upload", "clipboard"],
                    label="First frame of the comparison",
                    show_label=False,
                    height=190,
                    elem_id="compare-frame",
                    buttons=[],
                )
                with gr.Column(elem_id="compare-words"):
                    prompt = gr.Textbox(
                        value=first.prompt if first else "",
                        label="Prompt",
                        placeholder="for example: snowy mountains at dusk",
                        lines=2,
                        max_lines=4,
                        elem_id="compare-prompt",
                    )
                    with gr.Row():
                        seed = gr.Number(0, label="Seed", precision=0, min_width=100, elem_id="compare-seed")
                        dice = gr.Button("New seed", size="sm", min_width=90, elem_id="compare-dice")
            note = gr.Markdown("", elem_id="compare-note")
            gallery = SampleGallery(
                [s.entry() for s in samples], first.id if first else None, elem_id="compare-samples"
            )
            plan = PlanStrip(presets[FIRST_PRESET], presets, TEMPORAL_STRIDE / defaults["fps"], elem_id="compare-plan")
            with gr.Accordion("Advanced", open=False, elem_id="compare-advanced"):
                with gr.Row():
                    steps = gr.Slider(
                        1, MAX_STEPS, defaults["num_inference_steps"], step=1, label="Steps", min_width=130
                    )
                    guidance = gr.Slider(
                        1, MAX_GUIDANCE, defaults["guidance_scale"], step=0.1, label="Guidance", min_width=130
                    )
                negative = gr.Textbox(
                    defaults["negative_prompt"], label="Negative prompt: what the scene is not", lines=1, max_lines=3
                )
        with gr.Column(elem_id="compare-lanes", elem_classes="card"):
            gr.HTML(step_heading(2, "The lanes", "two to four, side by side"))
            lanes = Lanes(flights.list_checkpoints, engine.truth is not None, elem_id="lanes")
            go = gr.Button("Compare", variant="primary", size="lg", elem_id="compare-go")
        with gr.Column(elem_id="compare-stage", elem_classes="card"):
            stage = CompareStage(elem_id="stage-compare")
        with gr.Column(elem_id="compare-card"):
            build_card(engine, "card-compare")

    fields = [frame, prompt, plan, lanes, seed, negative, steps, guidance]
    flying = go.click(
        desk.compare,
        fields,
        stage,
        api_name="compare",
        js=_START,
        concurrency_id="model",
        show_progress="minimal",
        show_progress_on=[stage],
        trigger_mode="once",
    )
    flying.failure(None, js=_FAILED)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    stage.cancel(_cancelled, None, stage, cancels=[flying], queue=False, **quiet)
    frame.input(flights.check_frame, [frame, last_good], [frame, last_good, note], **quiet).then(
        _own_picture, plan, [gallery, plan], **quiet
    )
    by_id = {sample.id: sample for sample in samples}
    gallery.select(
        lambda chosen, now: (*picked(by_id.get(chosen)), _own_picture(now)[1]),
        [gallery, plan],
        [frame, last_good, prompt, note, plan],
        **quiet,
    )
    dice.click(lambda: secrets.randbelow(MAX_SEED + 1), None, seed, **quiet)
    opened = [frame, last_good, gallery, prompt, negative, seed, steps, guidance, plan, lanes, note]
    opening = plan.open(lambda value: _lay_out(desk.open(_wanted(value))), plan, opened, **quiet)
    opening.failure(None, js=_NOT_OPENED)


def _cancelled() -> CompareState:
    return CompareState(status="cancelled", message="Cancelled. Everything is as you left it.")


def _own_picture(plan: Any) -> tuple[Any, Any]:
    """After another picture was chosen: no sample is marked, and an opened flight begins with it."""
    if isinstance(plan, dict) and "flight" in plan:
        return None, plan | {"own_picture": False}
    return None, gr.skip()


def _wanted(plan: Any) -> Any:
    return plan.get("open") if isinstance(plan, dict) else None


def _lay_out(fields: dict[str, Any]) -> tuple[Any, ...]:
    lanes = fields["lanes"]
    if lanes is None:  # one flight: the lanes stay as they are
        lanes = gr.skip()
    return (
        fields["first_frame"],
        fields["first_frame"],
        fields["sample"],
        fields["prompt"],
        fields["negative_prompt"],
        fields["seed"],
        fields["steps"],
        fields["guidance"],
        fields["plan"],
        lanes,
        "Opened. Press Compare to fly it.",
    )
