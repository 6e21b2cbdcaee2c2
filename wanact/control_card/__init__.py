"""What a checkpoint does with the controls: the motion that is seen in its frames, against the motion asked for.

    python -m wanact card RUN[@STEP] ... --model_dir DIR     # measures, and keeps cards beside the run

    load_card(run, step) -> ControlCard | None                       # what was measured; load_cards(run) has them all
    draw_card(card) -> PIL.Image                                     # one picture to be read at a glance
    draw_curves(cards) -> PIL.Image                                  # each measure over the steps of a run
    measure_clip(frames, track) -> dict                              # the numbers of one flight
    measure_card(pipe) -> ControlCard                                # minutes: flies some hundred short clips

docs/control-card.md defines every measure and says how far each can be trusted.
"""

from wanact.control_card.camera import AXES as AXES
from wanact.control_card.camera import see as see
from wanact.control_card.card import CURVES as CURVES
from wanact.control_card.card import ControlCard as ControlCard
from wanact.control_card.card import card_path as card_path
from wanact.control_card.card import load_card as load_card
from wanact.control_card.card import load_cards as load_cards
from wanact.control_card.card import save_card as save_card
from wanact.control_card.clip import measure_clip as measure_clip
from wanact.control_card.control import Control as Control
from wanact.control_card.control import measure_control as measure_control
from wanact.control_card.curves import draw_curves as draw_curves
from wanact.control_card.fly import measure_card as measure_card
from wanact.control_card.motion import CHANNEL_SIGNS as CHANNEL_SIGNS
from wanact.control_card.motion import COMPONENTS as COMPONENTS
from wanact.control_card.motion import Motion as Motion
from wanact.control_card.motion import measure_motion as measure_motion
from wanact.control_card.motion import motion_track as motion_track
from wanact.control_card.picture import draw_card as draw_card
from wanact.control_card.probes import FirstFrame as FirstFrame
from wanact.control_card.probes import fixed_first_frames as fixed_first_frames
