"""What a checkpoint does with the controls: the motion that is seen in its frames, against the motion asked for.

    python -m wanact card RUN[@STEP] ... --model_dir DIR     # measures, and keeps cards beside the run

    card.load_card(run, step) -> ControlCard | None                  # what was measured; load_cards(run) has them all
    picture.draw_card(card) -> PIL.Image                             # one picture to be read at a glance
    curves.draw_curves(cards) -> PIL.Image                           # each measure over the steps of a run
    clip.measure_clip(frames, track) -> dict                         # the numbers of one flight
    fly.measure_card(pipe) -> ControlCard                            # minutes: flies some hundred short clips

docs/control-card.md defines every measure and says how far each can be trusted.
"""
