"""A flight's memory: drawing frame by frame equals one pass, and nothing that comes later changes what was before."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.models.test_transformer import TOKENS, H, T, W, like, make_actions, make_controller, make_inputs, run
from tests.tiny_model import build_transformer
from wanact.models import flex
from wanact.models.injection import INJECTION_TYPES
from wanact.models.kv_cache import FrameView, KVCache
from wanact.models.rotary import time_rotation, time_width

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def ours():
    return like(build_transformer())


@torch.no_grad()
def fly(model, inputs: dict[str, Tensor], cache: KVCache, actions=None, controller=None) -> Tensor:
    """Each frame in its turn, remembered as it came: velocities [B, C, T, h, w]."""
    velocities = []
    for frame in range(inputs["hidden_states"].shape[2]):
        one = inputs | {
            "hidden_states": inputs["hidden_states"][:, :, frame : frame + 1],
            "timestep": inputs["timestep"][:, frame : frame + 1],
        }
        action = None
        if actions is not None and frame > 0:
            action = model.prepare_frame_action(tuple(a[:, frame - 1 : frame] for a in actions), controller, frame)
        velocities.append(model(**one, actions=action, controller=controller, view=cache).sample)
        cache.commit()
    return torch.cat(velocities, dim=2)


@pytest.mark.parametrize("injection_type", INJECTION_TYPES)
def test_frame_by_frame_equals_one_pass_with_a_mask(injection_type, ours):
    inputs, actions, controller = make_inputs(), make_actions(), make_controller(injection_type)
    whole = run(ours, inputs, actions=actions, controller=controller, view=FrameView.causal(T))
    flown = fly(ours, inputs, KVCache(ours, (H, W), T, batch_size=2), actions, controller)
    assert_close(flown, whole, **CLOSE)


def test_a_full_window_forgets_the_oldest_frame_and_keeps_the_first(ours):
    del ours.blocks[1]  # with two layers the frames between pass on what they saw
    inputs = make_inputs()

    def last(changed: int) -> Tensor:
        latents = inputs["hidden_states"].clone()
        latents[:, :, changed] += 1.0
        cache = KVCache(ours, (H, W), window=2, batch_size=2)
        return fly(ours, inputs | {"hidden_states": latents}, cache)[:, :, T - 1]

    newest = fly(ours, inputs, KVCache(ours, (H, W), window=2, batch_size=2))[:, :, T - 1]
    assert [torch.equal(last(frame), newest) for frame in range(T - 1)] == [False, True, False, False]


def test_nothing_later_changes_what_was_before(ours):
    controller = make_controller("adaln_tmod")
    inputs, (binary, magnitude) = make_inputs(), make_actions()
    before = run(ours, inputs, actions=(binary, magnitude), controller=controller, view=FrameView.causal(T))
    changed, other = inputs["hidden_states"].clone(), magnitude.clone()
    changed[:, :, 3:], other[:, 2:] = 9.0, 7.0
    after = run(ours, inputs | {"hidden_states": changed}, actions=(binary, other), controller=controller,
                view=FrameView.causal(T))  # fmt: skip
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.allclose(before[:, :, 3:], after[:, :, 3:])


def test_teacher_forcing_shows_each_noisy_frame_what_the_flight_will_show_it(ours):
    clean, noisy = make_inputs(0), make_inputs(1)
    both = clean | {
        "hidden_states": torch.cat([clean["hidden_states"], noisy["hidden_states"]], dim=2),
        "timestep": torch.cat([torch.zeros(2, T), noisy["timestep"]], dim=1),
    }
    velocity = run(ours, both, view=FrameView.teacher_forcing(T))[:, :, T:]
    cache = KVCache(ours, (H, W), T, batch_size=2)
    for frame in range(T):
        place = slice(frame, frame + 1)
        parts = {"hidden_states": noisy["hidden_states"][:, :, place], "timestep": noisy["timestep"][:, place]}
        assert_close(run(ours, clean | parts, view=cache), velocity[:, :, place], **CLOSE)
        # The pass above left no trace: only what is committed is remembered.
        parts = {"hidden_states": clean["hidden_states"][:, :, place], "timestep": torch.zeros(2, 1)}
        run(ours, clean | parts, view=cache)
        cache.commit()


def test_a_chunk_is_predicted_as_it_is_in_the_whole_clip(ours):
    """A chunk of the noisy frames, at its own place, with all that is clean before it."""
    clean, noisy, chunk = make_inputs(0), make_inputs(1), range(2, 4)

    def forced(places: range) -> Tensor:
        kept = slice(places.start, places.stop)
        latents = [clean["hidden_states"][:, :, : places.stop], noisy["hidden_states"][:, :, kept]]
        steps = [torch.zeros(2, places.stop), noisy["timestep"][:, kept]]
        inputs = clean | {"hidden_states": torch.cat(latents, dim=2), "timestep": torch.cat(steps, dim=1)}
        view = FrameView.teacher_forcing(places.stop, window=2, predicted=places)
        return run(ours, inputs, view=view)[:, :, places.stop :]

    assert_close(forced(chunk), forced(range(T))[:, :, 2:4], **CLOSE)


@pytest.mark.parametrize("view", [FrameView.causal(T, 2), FrameView.teacher_forcing(T, 2),
                                  FrameView.teacher_forcing(T, 3, range(2, T))])  # fmt: skip
def test_blocks_of_the_mask_attend_as_the_dense_mask_does(ours, view):
    """The kernel that is fast on a GPU, against the reference."""
    count = len(view.positions)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 48, count, 2 * H, 4 * W, generator=generator)  # more tokens than a block, and no multiple
    inputs = {"hidden_states": latents, "timestep": torch.full((1, count), 300.0),
              "encoder_hidden_states": make_inputs()["encoder_hidden_states"][:1]}  # fmt: skip
    outputs = [run(ours, inputs, view=FrameView(view.positions, view.visible, kernel)) for kernel in ("dense", "flex")]
    assert_close(outputs[1], outputs[0], **CLOSE)


@pytest.mark.parametrize("frame_tokens", [5, 128, 300])
def test_a_block_is_left_out_if_nothing_in_it_is_seen_and_whole_if_all_is(frame_tokens):
    view = FrameView.teacher_forcing(6, 2)
    blocks = flex.block_mask(view.visible, frame_tokens)
    dense = view.attention_mask(frame_tokens)
    size = flex.BLOCK
    rows = -(-len(dense) // size)
    for row in range(rows):
        partial = blocks.kv_indices[0, 0, row, : blocks.kv_num_blocks[0, 0, row]].tolist()
        full = blocks.full_kv_indices[0, 0, row, : blocks.full_kv_num_blocks[0, 0, row]].tolist()
        for column in range(rows):
            tile = dense[row * size : (row + 1) * size, column * size : (column + 1) * size]
            assert (column in partial or column in full) == bool(tile.any())
            assert column not in full or (bool(tile.all()) and tile.numel() == size * size)


def test_prefill_and_forward_with_cache_equal_one_pass(ours):
    """The plan's two verbs: a clean past, then a noisy frame, of which the truth is remembered."""
    clean, noisy = make_inputs(0), make_inputs(1)
    both = clean | {
        "hidden_states": torch.cat([clean["hidden_states"], noisy["hidden_states"]], dim=2),
        "timestep": torch.cat([torch.zeros(2, T), noisy["timestep"]], dim=1),
    }
    whole = run(ours, both, view=FrameView.teacher_forcing(T))[:, :, T:]
    latents, context = clean["hidden_states"], clean["encoder_hidden_states"]
    cache = ours.prefill(latents[:, :, :2], context, window=T)
    for frame in range(2, T):
        place = slice(frame, frame + 1)
        velocity, cache = ours.forward_with_cache(
            noisy["hidden_states"][:, :, place], noisy["timestep"][:, place], cache, latents[:, :, place]
        )
        assert_close(velocity, whole[:, :, place], **CLOSE)
        assert velocity.requires_grad and not cache.keys.requires_grad
    assert cache.num_frames == T


def test_a_gradient_goes_through_the_newest_frame_and_stops_at_what_is_remembered(ours):
    clean, noisy = make_inputs(0), make_inputs(1)
    first = clean["hidden_states"][:, :, :1].clone().requires_grad_()
    newest = noisy["hidden_states"][:, :, :1].clone().requires_grad_()
    cache = ours.prefill(first, clean["encoder_hidden_states"], window=2)
    velocity, cache = ours.forward_with_cache(newest, noisy["timestep"][:, :1], cache, newest.detach())
    later, _ = ours.forward_with_cache(newest.detach(), noisy["timestep"][:, :1], cache)
    (velocity.square().mean() + later.square().mean()).backward()
    assert first.grad is None and newest.grad is not None and bool(newest.grad.abs().sum() > 0)
    assert all(weight.grad is not None for weight in ours.parameters())


def test_a_flight_never_ends(ours):
    """The same frames around it, the same velocity: after a few others, or after a hundred thousand."""
    inputs = make_inputs()
    first, *rest = inputs["hidden_states"].split(1, dim=2)
    one = inputs | {"timestep": inputs["timestep"][:, 1:2]}

    def last(num_frames: int) -> Tensor:
        cache = KVCache(ours, (H, W), window=2, batch_size=2)
        run(ours, one | {"hidden_states": first}, view=cache)
        cache.commit()
        cache.num_frames = num_frames - 1
        cache.commit()  # as if it had gone on; the window is empty, equally so in both flights
        for frame in rest:
            velocity = run(ours, one | {"hidden_states": frame}, view=cache)
            cache.commit()
        return velocity

    assert_close(last(6), last(100_006), rtol=1e-4, atol=1e-4)


def test_memory_is_taken_once(ours):
    cache = KVCache(ours, (H, W), 3)
    held = sum(t.numel() * t.element_size() for t in (cache.keys, cache.values, cache._first_keys))
    assert held == KVCache.num_bytes(ours, TOKENS, 3)
    pointer = cache.keys.data_ptr()
    inputs = make_inputs(batch=1)
    for _ in range(3):
        fly(ours, inputs, cache)
    assert cache.num_frames == 3 * T and cache.keys.data_ptr() == pointer


def test_positions_in_time_are_those_of_the_table(ours):
    cos, sin = ours.rope.freqs_cos, ours.rope.freqs_sin
    width = time_width(ours.config.attention_head_dim)
    for position in (0, 1, 17, len(cos) - 1):
        mine = time_rotation(position, ours.config.attention_head_dim)
        assert_close(mine[0].float(), cos[position, :width])
        assert_close(mine[1].float(), sin[position, :width])


def test_what_does_not_fit_is_refused(ours):
    cache = KVCache(ours, (H, W), 3, batch_size=2)
    with pytest.raises(ValueError, match="takes one frame at a time, got 5 of 6"):
        run(ours, make_inputs(), view=cache)
    with pytest.raises(ValueError, match="the view is of 3 latent frames, the latents are 5"):
        run(ours, make_inputs(), view=FrameView.causal(3))
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        KVCache(ours, (H, W), 0)
