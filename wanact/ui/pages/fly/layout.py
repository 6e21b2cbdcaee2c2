"""Plan a clip: a first frame, a prompt, a flight plan, and the clip that comes of them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from wanact.actions import PRESETS
from wanact.shapes import TEMPORAL_STRIDE
from wanact.ui.budget import MAX_STEPS
from wanact.ui.components import (
    ActionPad,
    CheckpointPicker,
    Chips,
    ClipState,
    ClipViewer,
    FlightPlan,
    OpenDropdown,
    step_heading,
)
from wanact.ui.engine import TOGETHER, Engine
from wanact.ui.pages.fly.desk import MAX_GUIDANCE, FlyDesk, size_choices
from wanact.ui.scene import AT_ONCE, QUIET, Scene, keep, negative_prompt

FIRST_PRESET = "Fly-through"
# The viewer answers the press at once; the server follows.
_ANNOUNCE = "(...inputs) => { document.dispatchEvent(new CustomEvent('wanact:generate')); return inputs; }"
_RESHAPE = (
    "(size) => { const [width, height] = (size || '').split('×').map(Number); "
    "document.dispatchEvent(new CustomEvent('wanact:shape', {detail: {from: 'fly', ratio: width / height}})); }"
)
_FAILED = "() => { document.dispatchEvent(new CustomEvent('wanact:failed')); }"


def build_fly(engine: Engine, last_frame: gr.State) -> None:
    """Lay out the page and connect it, inside the current gr.Blocks.

    Args:
        engine: the shared model.
        last_frame: where the last frame of the visitor's newest clip goes, uint8 [H, W, 3].
    """
    desk = FlyDesk(engine)
    scene = Scene("", engine, "First frame", frame_height=270, prompt_label=False)
    presets = {name: make(engine.num_actions) for name, make in PRESETS.items()}
    defaults = engine.defaults

    with gr.Column(elem_id="fly"):
        with gr.Column(elem_id="scene", elem_classes="card"):
            gr.HTML(step_heading(1, "First frame", "Upload, paste, take a photo, or pick one"))
            scene.frame.render()
            scene.crop.render()
            scene.note.render()
            scene.gallery.render()
            gr.HTML(step_heading(2, "Prompt", "Describe the scene"))
            scene.prompt.render()
            scene.describe.render()
            chips = Chips(scene.prompts, "Example prompts", elem_id="prompts", visible=bool(scene.prompts))
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                with gr.Row():
                    steps = gr.Slider(
                        1, MAX_STEPS, defaults["num_inference_steps"], step=1, label="Steps", min_width=140
                    )
                    guidance = gr.Slider(
                        1, MAX_GUIDANCE, defaults["guidance_scale"], step=0.1, label="Guidance", min_width=140
                    )
                with gr.Row():
                    scene.seed.render()
                    scene.dice.render()
                    size = OpenDropdown(
                        choices=size_choices(defaults["height"], defaults["width"]),
                        value=size_choices(defaults["height"], defaults["width"])[0],
                        label="Size (width × height)",
                        filterable=False,
                        min_width=140,
                        elem_id="size",
                    )
                negative = negative_prompt(engine)
        with gr.Column(elem_id="stage", elem_classes="card"):
            viewer = ClipViewer(defaults["width"] / defaults["height"], defaults["fps"], elem_id="viewer")
            with gr.Row(elem_id="launch"):
                checkpoint = CheckpointPicker(
                    desk.list_checkpoints, engine.default_checkpoint(), scale=3, min_width=180, elem_id="checkpoint"
                )
                generate = gr.Button(
                    "Generate", variant="primary", size="lg", scale=2, min_width=160, elem_id="generate"
                )
        with gr.Column(elem_id="plan-card", elem_classes="card"):
            with gr.Row(elem_id="plan-head"):
                gr.HTML(step_heading(3, "Flight plan", f"What the drone does in {_seconds(defaults)} seconds"))
                open_flight = gr.UploadButton(
                    "Open a flight", file_types=[".json"], size="sm", elem_id="open-flight", scale=0, min_width=130
                )
            with gr.Row(elem_id="plan-row"):
                ActionPad(elem_id="pad")
                plan = FlightPlan(
                    presets[FIRST_PRESET],
                    presets,
                    TEMPORAL_STRIDE / defaults["fps"],
                    elem_id="plan",
                )

    drawing = generate.click(
        desk.generate,
        [scene.frame, scene.prompt, plan, checkpoint, scene.seed, negative, steps, guidance, size, scene.crop],
        [viewer, last_frame],
        api_name="generate",
        js=_ANNOUNCE,
        concurrency_id="model",
        concurrency_limit=TOGETHER,
        show_progress="minimal",
        show_progress_on=[viewer],
        trigger_mode="always_last",  # see press.js
    )
    drawing.failure(None, js=_FAILED)
    viewer.cancel(_cancelled, None, viewer, cancels=[drawing], queue=False, **QUIET)
    scene.connect()
    scene.take(viewer.extend, desk.go_on, last_frame)
    chips.select(lambda text: text, chips, scene.prompt, **AT_ONCE)
    settings = [*scene.picture, scene.prompt, negative, scene.seed, steps, guidance, size, plan, checkpoint]
    scene.unmark(open_flight.upload(lambda path: _lay_out(desk.open_flight(path)), open_flight, settings, **QUIET))
    size.change(None, size, None, js=_RESHAPE, **AT_ONCE)


def _seconds(defaults: dict[str, Any]) -> str:
    return f"{(defaults['num_frames'] - 1) / defaults['fps']:g}"


def _cancelled() -> Any:
    return ClipState(status="cancelled", message="Cancelled. Everything is as you left it.")


def _lay_out(fields: dict[str, Any]) -> tuple[Any, ...]:
    return (
        fields["image"],
        keep(fields["image"]),
        "The first frame of the flight that you opened.",
        fields["prompt"],
        fields["negative_prompt"],
        fields["seed"],
        fields["num_inference_steps"],
        fields["guidance_scale"],
        gr.update(choices=[fields["size"]], value=fields["size"]),
        fields["track"],
        fields["checkpoint"] or gr.skip(),
    )
