"""A new injection type is one class and its test: nothing else in the tree has to know its name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models.test_controller import PLAN_NAMES
from tests.models.test_controller import make as make_small
from tests.models.test_kv_cache import CLOSE, fly
from tests.models.test_transformer import H, T, W, like, make_actions, make_controller, make_inputs, run
from tests.tiny_model import build_transformer
from wanact.models.controller import WanActionController
from wanact.models.injection import COMMON_PARTS, INJECTION_TYPES, Injection
from wanact.models.kv_cache import FrameView, KVCache
from wanact.runs.check import check_flight_files
from wanact.runs.store import CONTROLLER
from wanact.weights.convert import convert, key_map


class Gate(Injection):
    """A new type: it turns tokens up and down by its own layers, and shifts the modulation by a common part.

    What it prepares is [3, B, T, D], with the latent frames where no other type has them.
    """

    name = "gate"
    uses = ("v_proj",)
    own_parts = ("gate", "gate_bias")
    frame_dim = 2

    def make(self, controller: WanActionController, action_dim: int, hidden_size: int) -> None:
        controller.gate = nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.Tanh())
        controller.gate_bias = nn.Parameter(torch.full((2 * hidden_size,), 0.1))

    def prepare(self, controller: WanActionController, action_emb: Tensor) -> Tensor:
        factor, term = (controller.gate(action_emb) + controller.gate_bias).chunk(2, dim=-1)
        return torch.stack([factor, term, controller.v_proj(action_emb)])

    def modulate(self, controller: WanActionController, modulation: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        T = prepared.shape[2]
        per_frame = modulation if modulation.shape[1] == 1 else modulation.unflatten(1, (T, -1)).mean(dim=2)
        return per_frame + (scale * prepared[2]).unsqueeze(2)

    def inject(self, controller: WanActionController, tokens: Tensor, prepared: Tensor, scale: Tensor) -> Tensor:
        factor, term = (scale * x.unsqueeze(2) for x in prepared[:2])
        frames = tokens.unflatten(1, (prepared.shape[2], -1))
        return (frames * (1 + factor) + term).flatten(1, 2).type_as(tokens)


@pytest.fixture
def gate(monkeypatch) -> WanActionController:
    monkeypatch.setitem(INJECTION_TYPES, Gate.name, Gate())
    return make_controller(Gate.name)


@pytest.fixture
def ours():
    return like(build_transformer())


def test_a_new_type_steers_a_clip_and_a_flight_alike(gate, ours):
    inputs, actions = make_inputs(), make_actions()
    whole = run(ours, inputs, actions=actions, controller=gate, view=FrameView.causal(T))
    assert not torch.allclose(whole, run(ours, inputs, view=FrameView.causal(T)))
    assert_close(fly(ours, inputs, KVCache(ours, (H, W), T, batch_size=2), actions, gate), whole, **CLOSE)


def test_a_new_type_is_saved_and_loaded(gate, tmp_path):
    gate.save_pretrained(tmp_path)
    again = WanActionController.from_pretrained(tmp_path)
    assert again.injection is INJECTION_TYPES[Gate.name]
    assert_close(again.state_dict(), gate.state_dict(), rtol=0, atol=0)


def test_a_new_type_trains_its_own_parts_and_the_common_ones_that_it_uses(gate, ours):
    run_with_gradients = ours(**make_inputs(), actions=make_actions(), controller=gate.requires_grad_(True)).sample
    run_with_gradients.square().sum().backward()
    trained = {name.partition(".")[0] for name, p in gate.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"action_embed", "temporal_pos_embed", "output_scale", "gate", "gate_bias", "v_proj"}
    assert trained == {name.partition(".")[0] for name, p in gate.named_parameters() if p.requires_grad}


def test_the_weights_of_a_new_type_are_told_renamed_and_checked(gate, tmp_path):
    state = {f"pipe.action_controller.{name}": value for name, value in gate.state_dict().items()}
    assert convert("controller", state, hints={"injection_type": Gate.name}).keys() == gate.state_dict().keys()
    told = key_map("controller", {name: tuple(value.shape) for name, value in state.items()}).config
    assert told is not None and told["injection_type"] == Gate.name
    save_file(gate.state_dict(), tmp_path / CONTROLLER)
    check_flight_files(tmp_path, {"action_controller_config": dict(gate.config)})


def test_a_run_of_a_new_type_flies(gate, tiny_model_dir, tmp_path):
    from PIL import Image

    from wanact.actions import channel_track
    from wanact.flying.pipeline import WanActPipeline

    config = {name: value for name, value in gate.config.items() if not name.startswith("_")}
    save_file(gate.state_dict(), tmp_path / CONTROLLER)
    content = {"action_controller_config": config, "action_magnitude_scale": [100.0] * 4 + [1.0] * 4}
    (tmp_path / "action_train_config.json").write_text(json.dumps(content))
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    arguments = ("a lake", Image.new("RGB", (64, 32)), channel_track("forward", 2))
    with pytest.warns(UserWarning, match="no action controller is loaded"):
        base = pipe(*arguments, height=32, width=64, num_frames=9)
    pipe.load_controller(tmp_path)
    assert pipe.controller is not None and pipe.controller.injection_type == Gate.name
    assert_close(dict(pipe.controller.state_dict()), load_file(tmp_path / CONTROLLER), rtol=0, atol=0)
    assert (pipe(*arguments, height=32, width=64, num_frames=9) != base).any()


@pytest.mark.parametrize("kind", INJECTION_TYPES.values(), ids=lambda kind: kind.name)
def test_a_type_says_which_parts_it_has_and_uses(kind):
    model = make_small(kind.name)
    extra = {name.partition(".")[0] for name in model.state_dict().keys() - PLAN_NAMES.keys()}
    assert extra == set(kind.own_parts)
    frozen = {name.partition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(COMMON_PARTS) - set(kind.uses)
