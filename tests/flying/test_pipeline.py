import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanPipeline
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from tests.tiny_model import DEFAULTS, on_wans_grid
from wanact.actions import ActionError, ActionTrack, channel_track
from wanact.files import CheckpointError, sha256
from wanact.flying.pipeline import Cancelled, OutOfMemory, Progress, WanActPipeline
from wanact.flying.placement_options import FitOptions
from wanact.flying.request import ClipRequest, Request, RequestError, clean_prompt
from wanact.media.video import fit_image
from wanact.models.controller import WanActionController
from wanact.models.small_decoder import SmallDecoder
from wanact.weights.layouts import ModelDirError
from wanact.weights.model_dir import fingerprint, former_fingerprint

H, W, F = 32, 64, 9  # smaller than the model's defaults, because decoding takes most of a test
SMALL = {"height": H, "width": W, "num_frames": F}
PROMPT = "a lake at noon"
FORWARD = channel_track("forward", 2)


@pytest.fixture(scope="module")
def shared(tiny_model_dir) -> WanActPipeline:
    return WanActPipeline.from_model_dir(tiny_model_dir)


@pytest.fixture
def pipe(shared) -> WanActPipeline:
    shared.load_controller(None)
    return shared


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8))


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


def write_run(path: Path, seed: int = 0, **config) -> Path:
    """A folder that can be flown: a controller that steers strongly, and its settings."""
    torch.manual_seed(seed)
    settings = {"hidden_size": 48, "num_heads": 2, "num_layers": 2, "initial_scale": 1.0}
    settings |= {"injection_type": "adaln_tmod"} | config
    path.mkdir(parents=True)
    save_file(WanActionController(**settings).state_dict(), path / "action_controller.safetensors")
    content = {"action_controller_config": settings, "action_magnitude_scale": [100.0] * 4 + [1.0] * 4}
    (path / "action_train_config.json").write_text(json.dumps(content))
    return path


def fly(pipe: WanActPipeline, image: Image.Image | None, track: ActionTrack | None = None, **options) -> np.ndarray:
    return pipe(**{"prompt": PROMPT, "image": image, "track": track} | SMALL | options)


def edit_config(run: Path, **entries) -> None:
    file = run / "action_train_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_clip_has_the_models_size_and_begins_with_the_image(pipe, image):
    frames = pipe(PROMPT, image)
    height, width = DEFAULTS["height"], DEFAULTS["width"]
    assert frames.shape == (DEFAULTS["num_frames"], height, width, 3) and frames.dtype == np.uint8
    first = pipe.decode(pipe.encode_image(fit_image(image, height, width)))
    assert np.abs(frames[0].astype(int) - first[0]).max() <= 1


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_the_base_equals_stock_diffusers(pipe, image, tiny_model_dir, guidance_scale, scheduler, monkeypatch):
    stock = WanImageToVideoPipeline.from_pretrained(tiny_model_dir)
    stock.set_progress_bar_config(disable=True)
    if scheduler == "euler":
        stock.scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
        monkeypatch.setattr(pipe.components, "scheduler", stock.scheduler)
    on_wans_grid(stock)
    expected = stock(
        image,
        PROMPT,
        negative_prompt="fog",
        **SMALL,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(5),
        max_sequence_length=DEFAULTS["max_sequence_length"],
        output_type="np",
    ).frames[0]
    ours = fly(pipe, image, negative_prompt="fog", num_inference_steps=3, guidance_scale=guidance_scale, seed=5)
    assert_close(torch.from_numpy(ours).float(), torch.from_numpy(expected * 255), rtol=0, atol=0.51)


@pytest.mark.parametrize("prediction", ["flow_prediction", "sample"])
def test_the_latents_equal_those_of_stock_diffusers(pipe, image, tiny_model_dir, prediction, monkeypatch):
    stock = WanImageToVideoPipeline.from_pretrained(tiny_model_dir)
    stock.scheduler.register_to_config(prediction_type=prediction)
    monkeypatch.setattr(pipe.components, "scheduler", stock.scheduler)
    stock.set_progress_bar_config(disable=True)
    on_wans_grid(stock)
    size = SMALL | {"num_inference_steps": 3}
    generator = torch.Generator().manual_seed(0)
    expected = stock(image, PROMPT, generator=generator, max_sequence_length=16, output_type="latent", **size).frames

    seen = []
    fly(pipe, image, guidance_scale=5.0, num_inference_steps=3, on_step=lambda p: seen.append(p.latents_preview))
    assert_close(seen[-1], expected, rtol=1e-4, atol=1e-4)  # the last estimate of the clean clip is the clip


def test_a_world_that_begins_at_one_is_flown_on_the_schedulers_own_grid(pipe, image, tiny_model_dir, monkeypatch):
    """nano was trained and measured on it."""
    stock = WanImageToVideoPipeline.from_pretrained(tiny_model_dir)
    stock.set_progress_bar_config(disable=True)
    options = SMALL | {"num_inference_steps": 3}
    monkeypatch.setitem(pipe.defaults, "sigma_grid", "from_one")
    generator = torch.Generator().manual_seed(0)
    expected = stock(image, PROMPT, generator=generator, max_sequence_length=16, output_type="latent", **options).frames
    seen = []
    fly(pipe, image, guidance_scale=5.0, num_inference_steps=3, on_step=lambda p: seen.append(p.latents_preview))
    assert_close(seen[-1], expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setitem(pipe.defaults, "sigma_grid", "wan")
    fly(pipe, image, guidance_scale=5.0, num_inference_steps=3, on_step=lambda p: seen.append(p.latents_preview))
    assert (seen[-1] - expected).abs().max() > 1e-3, "the grids differ"


def test_without_a_picture_the_base_equals_stock_text_to_video(pipe, tiny_model_dir):
    parts = WanImageToVideoPipeline.from_pretrained(tiny_model_dir).components
    names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    stock = WanPipeline(**{name: parts[name] for name in names}, expand_timesteps=True)
    on_wans_grid(stock)
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "guidance_scale": 3.0}
    generator = torch.Generator().manual_seed(5)
    expected = stock(PROMPT, **SMALL, **options, generator=generator, max_sequence_length=16, output_type="np").frames
    ours = fly(pipe, None, **options, seed=5)
    assert_close(torch.from_numpy(ours).float(), torch.from_numpy(expected[0] * 255), rtol=0, atol=0.51)


def test_actions_steer_a_clip_without_a_picture(pipe, run):
    pipe.load_controller(run)
    still, ahead = fly(pipe, None), fly(pipe, None, FORWARD)
    assert not np.array_equal(still, ahead)


def test_the_same_seed_gives_the_same_clip(pipe, image):
    first, again, other = (fly(pipe, image, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_request_gives_the_clip_that_its_fields_give(pipe, image):
    request = ClipRequest(PROMPT, image, seed=7, **SMALL)
    assert np.array_equal(pipe(request), fly(pipe, image, seed=7))
    with pytest.raises(TypeError):
        pipe(request, seed=8)


def test_actions_steer_and_the_base_comes_back_exactly(pipe, image, run):
    base = fly(pipe, image)
    pipe.load_controller(run)
    steered = fly(pipe, image, FORWARD)
    assert not np.array_equal(steered, base)
    assert not np.array_equal(fly(pipe, image, channel_track("yaw_left", 2)), steered)
    assert np.array_equal(fly(pipe, image), base), "without a track the base flies"
    pipe.load_controller(None)
    with pytest.warns(UserWarning, match="no action controller is loaded"):
        assert np.array_equal(fly(pipe, image, FORWARD), base)


def test_actions_reach_both_branches_of_guidance(pipe, image, run):
    """With equal prompts and actions both branches predict the same, and guidance changes nothing."""
    pipe.load_controller(run)
    one = fly(pipe, image, FORWARD, guidance_scale=1.0)
    both = fly(pipe, image, FORWARD, negative_prompt=PROMPT, guidance_scale=9.0)
    assert np.abs(one.astype(int) - both).max() <= 1


def test_the_runs_own_magnitude_scale_is_used(pipe, image, tmp_path):
    runs = [write_run(tmp_path / name) for name in ("one", "other")]
    edit_config(runs[1], action_magnitude_scale=[1.0] * 8)
    clips = []
    for run in runs:
        pipe.load_controller(run)
        clips.append(fly(pipe, image, FORWARD))
    assert not np.array_equal(*clips)


def test_lora_and_full_weights_are_flown_and_taken_off_again(pipe, image, tmp_path):
    base_weights = {name: tensor.clone() for name, tensor in pipe.components.transformer.state_dict().items()}
    base = fly(pipe, image)
    generator = torch.Generator().manual_seed(1)
    lora_run, full_run = write_run(tmp_path / "lora"), write_run(tmp_path / "full")
    name = "transformer.blocks.0.attn2.to_v"
    lora = {"lora_A": torch.randn(2, 48, generator=generator), "lora_B": torch.randn(48, 2, generator=generator)}
    save_file({f"{name}.{key}.weight": value for key, value in lora.items()}, lora_run / "lora.safetensors")
    full = {key: value.bfloat16() + 0.1 for key, value in base_weights.items()}
    save_file(full, full_run / "transformer.safetensors")

    clips = [base]
    for run in (lora_run, full_run):
        pipe.load_controller(run)
        clips.append(fly(pipe, image))
    assert len({clip.tobytes() for clip in clips}) == 3
    pipe.load_controller(None)
    assert_close(dict(pipe.components.transformer.state_dict()), base_weights, rtol=0, atol=0)
    assert np.array_equal(fly(pipe, image), base)


def test_a_checkpoint_is_loaded_once_until_it_changes(pipe, run):
    pipe.load_controller(run)
    loaded = pipe.controller
    pipe.load_controller(run)
    assert pipe.controller is loaded
    assert pipe.checkpoint.run == "run" and pipe.checkpoint.path == run
    shutil.rmtree(run)
    write_run(run, seed=1, injection_type="add_residual")
    pipe.load_controller(run)
    assert pipe.controller.injection_type == "add_residual"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: shutil.rmtree(run), "is not a folder"),
        (lambda run: (run / "action_controller.safetensors").write_bytes(b"\0" * 40), "action_controller.safetensors"),
        (lambda run: (run / "action_train_config.json").unlink(), "action_train_config.json"),
        (lambda run: edit_config(run, action_magnitude_scale=[1.0]), "action_magnitude_scale must be 8"),
        (lambda run: edit_config(run, action_controller_config={"wings": 2}), "cannot be used here: .*wings"),
        (lambda run: edit_config(run, action_controller_config={"hidden_size": 24}), "cannot be used here"),
        (lambda run: save_file({"no.weight": torch.ones(1)}, run / "transformer.safetensors"), "another base model"),
        (lambda run: save_file({"x.lora_A.weight": torch.ones(1)}, run / "lora.safetensors"), "another base model"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_leaves_the_base(pipe, tmp_path, damage, says):
    weights = {name: tensor.clone() for name, tensor in pipe.components.transformer.state_dict().items()}
    run = write_run(tmp_path / "bad")
    damage(run)
    with pytest.raises(CheckpointError, match=says) as caught:
        pipe.load_controller(run)
    assert "\n" not in str(caught.value)
    assert pipe.checkpoint is None and pipe.controller is None
    assert_close(dict(pipe.components.transformer.state_dict()), weights, rtol=0, atol=0)


def test_a_controller_for_another_transformer_is_refused(pipe, tmp_path):
    with pytest.raises(CheckpointError, match="width 48 with 3 layers"):
        pipe.load_controller(write_run(tmp_path / "run", num_layers=3))


def test_progress_shows_every_step_and_ends_with_the_clip(pipe, image):
    seen: list[Progress] = []
    frames = fly(pipe, image, num_inference_steps=3, on_step=seen.append)
    assert [(p.step, p.total) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    first = pipe.encode_image(image)
    assert all(torch.equal(p.latents_preview[:, :, :1], first) for p in seen)
    assert np.abs(pipe.decode(seen[-1].latents_preview).astype(int) - frames).max() <= 1
    preview = pipe.preview(seen[0].latents_preview)
    assert preview.shape == (3, H // 2, W // 2, 3) and preview.dtype == np.uint8


def test_a_preview_needs_no_metadata(pipe, image, monkeypatch):
    monkeypatch.delitem(pipe.components.metadata, "latent_rgb")
    preview = pipe.preview(pipe.encode_image(image), scale=2)
    assert preview.shape == (1, H // 8, W // 8, 3)
    assert np.array_equal(preview[..., 0], preview[..., 2])


def test_cancelling_stops_between_steps_and_leaves_the_pipeline_usable(pipe, image):
    steps = []

    def cancel_after_two(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        fly(pipe, image, num_inference_steps=5, on_step=cancel_after_two)
    assert steps == [1, 2]
    assert fly(pipe, image, num_frames=1).shape == (1, H, W, 3)


@pytest.mark.parametrize("whole", [True, False])
def test_frames_arrive_in_order_and_complete(pipe, image, monkeypatch, whole):
    expected = fly(pipe, image)
    monkeypatch.setattr("wanact.flying.pipeline.MAX_WHOLE_DECODE_PIXELS", H * W if whole else 0)
    pieces: list[np.ndarray] = []
    frames = fly(pipe, image, on_frames=pieces.append)
    assert [len(piece) for piece in pieces] == ([F] if whole else [1, 4, 4])
    assert np.array_equal(np.concatenate(pieces), frames)
    assert np.abs(frames.astype(int) - expected).max() <= 1


def test_two_callers_take_turns(pipe, image):
    expected, clips = fly(pipe, image), {}
    threads = [threading.Thread(target=lambda i=i: clips.update({i: fly(pipe, image)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(clip, expected) for clip in clips.values()) and len(clips) == 2


def test_a_prompt_is_encoded_once(pipe, image, monkeypatch):
    calls = []
    encode = pipe.components.text_encoder.forward
    monkeypatch.setattr(pipe.components.text_encoder, "forward", lambda *a, **k: calls.append(1) or encode(*a, **k))
    fly(pipe, image, prompt="a desert town", num_frames=1)
    before = len(calls)
    fly(pipe, image, prompt="a desert town", num_frames=1)
    assert before >= 1 and len(calls) == before


def test_any_image_is_fitted(pipe, tmp_path):
    tall = Image.new("RGBA", (50, 201), (200, 10, 10, 128))
    tall.save(tmp_path / "tall.png")
    for source in (tall, tmp_path / "tall.png", (tmp_path / "tall.png").read_bytes()):
        assert fly(pipe, source, fit="pad", num_frames=1).shape == (1, H, W, 3)


def test_other_sizes_and_lengths_fly(pipe, image, run):
    pipe.load_controller(run)
    frames = fly(pipe, image, channel_track("left", 1), height=64, width=32, num_frames=5)
    assert frames.shape == (5, 64, 32, 3)


def test_seconds_are_kept_for_every_stage(pipe, image):
    fly(pipe, image, num_frames=1)
    assert list(pipe.timings) == ["text", "encode", "denoise", "decode"]
    assert all(seconds > 0 for seconds in pipe.timings.values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"seed": -1}, "seed is -1, expected a whole number from 0 to 2147483647"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": None}, "seed is None"),
        ({"seed": float("nan")}, "seed is nan"),
        ({"seed": True}, "seed is True"),
        ({"num_frames": 80}, "num_frames=80 must be 4k.1"),
        ({"num_frames": 10_001}, "num_frames is 10001"),
        ({"height": 100}, "height=100 must be a multiple of 32"),
        ({"height": 8192}, "height is 8192"),
        ({"height": 2048, "width": 2048}, "2048 x 2048 is larger than the 1.6 megapixels"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5, expected a number from 1 to 30"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"prompt": "x" * 10_001}, "the prompt has 10,001 characters, at most 10,000 are taken"),
        ({"negative_prompt": "x" * 10_001}, "the negative prompt has 10,001 characters"),
        ({"prompt": None}, "the prompt is NoneType, expected text"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(pipe, image, arguments, says):
    with pytest.raises(RequestError, match=says) as caught:
        pipe(**{"prompt": PROMPT, "image": image} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_actions", [1, 3, 20])
def test_a_track_of_another_length_is_refused_before_anything_is_computed(pipe, image, run, num_actions):
    pipe.load_controller(run)
    with pytest.raises(ActionError, match=f"{num_actions} actions, but a clip of {F} frames needs 2"):
        fly(pipe, image, ActionTrack.zeros(num_actions), on_step=lambda progress: pytest.fail("it flew"))


@pytest.mark.parametrize(
    "prompt", ["x" * 10_000, "🚁❄️ über den Bergen", "a\x00b\x1b[31m\r\nc", "\ud800 alone", "", " \n "]
)
def test_unusual_prompts_fly(pipe, image, prompt):
    assert fly(pipe, image, prompt=prompt, num_frames=1).shape == (1, H, W, 3)


def test_control_characters_become_spaces():
    assert clean_prompt("snow\x00\x07\nat\u2028dusk\ud83d \x9f") == "snow at dusk"


def test_running_out_of_memory_is_explained_and_survived(pipe, image, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(pipe.components.transformer, "forward", fail)
        with pytest.raises(OutOfMemory, match="memory ran out: 64x32 with 9 frames needs about 0.0 GB"):
            fly(pipe, image)
    assert len(fly(pipe, image)) == F


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_and_a_cache_of_prompts_give_the_same_clip(pipe, image, run, tiny_model_dir, tmp_path, offload):
    expected = fly(pipe, image), fly_with(pipe, image, run)
    options = FitOptions(offload=offload, text_cache=str(tmp_path / "prompts"))
    fitted = WanActPipeline.from_model_dir(tiny_model_dir, fit=options)
    assert fitted.components.text_encoder is None
    for _ in range(2):
        assert np.array_equal(fly(fitted, image), expected[0])
        assert np.array_equal(fly_with(fitted, image, run), expected[1])
        fitted.load_controller(None)
        fitted.forget_prompts()
    assert len(list((tmp_path / "prompts").iterdir())) == 2


def fly_with(pipe: WanActPipeline, image: Image.Image, run: Path) -> np.ndarray:
    pipe.load_controller(run)
    return fly(pipe, image, FORWARD)


def test_guidance_in_two_batches_gives_nearly_the_same_clip(pipe, image, run):
    pipe.load_controller(run)
    together = fly(pipe, image, FORWARD)
    pipe.placement.splits_guidance = lambda *args: True
    try:
        apart = fly(pipe, image, FORWARD)
    finally:
        del pipe.placement.splits_guidance
    assert np.abs(together.astype(int) - apart).max() <= 2


def test_tiles_give_a_whole_clip(image, tiny_model_dir):
    tiled = WanActPipeline.from_model_dir(tiny_model_dir, fit=FitOptions(vae_tiling=True))
    assert fly(tiled, image).shape == (F, H, W, 3)


def test_fine_tuned_weights_change_the_clip_and_the_fingerprint(pipe, image, tiny_model_dir, tmp_path):
    weights = {"head.head.bias": torch.ones(192)}
    torch.save({"generator_ema": weights}, tmp_path / "tuned.pt")
    tuned = WanActPipeline.from_model_dir(tiny_model_dir, fine_tuned=[tmp_path / "tuned.pt"])
    assert tuned.notes[0].startswith("tuned.pt (generator_ema): weights for 1 of")
    assert not np.array_equal(fly(tuned, image), fly(pipe, image))
    assert tuned.fingerprint() != pipe.fingerprint() == fingerprint(tiny_model_dir)
    former = former_fingerprint(tiny_model_dir)
    assert former != fingerprint(tiny_model_dir)
    assert pipe.is_recorded_as(former) and pipe.is_recorded_as(pipe.fingerprint())
    assert not tuned.is_recorded_as(former) and not pipe.is_recorded_as(tuned.fingerprint())
    assert tuned.is_recorded_as(hashlib.sha256((former + sha256(tmp_path / "tuned.pt")).encode()).hexdigest())


def test_the_step_loop_never_waits_for_the_device(tiny_model_dir, image):
    """On the meta device there are no values, so that reading one on the host is an error."""
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    pipe.components.transformer.to("meta")
    pipe.placement.device = torch.device("meta")
    context = torch.zeros(2, 16, 32, device="meta")
    request = Request("", "", image, F, 3, 3.0, 0, H, W)
    latents = pipe._denoise(request, context, torch.zeros(1, 48, 1, 2, 4, device="meta"), None, None)
    assert latents.shape == (1, 48, 3, 2, 4)


def test_a_small_decoder_shows_the_clip_while_it_is_drawn(image, tiny_model_dir, tmp_path):
    torch.manual_seed(0)
    torch.save(SmallDecoder(48, 2).state_dict(), tmp_path / "taew2_2.pth")
    options = FitOptions(small_decoder=str(tmp_path / "taew2_2.pth"))
    pipe = WanActPipeline.from_model_dir(tiny_model_dir, fit=options)
    seen = []
    fly(pipe, image, on_step=lambda progress: seen.append(pipe.preview(progress.latents_preview)))
    assert seen[-1].shape == (3, 16, 32, 3) and seen[-1].dtype == np.uint8
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelDirError, match="other.pth cannot be used"):
        WanActPipeline.from_model_dir(tiny_model_dir, fit=FitOptions(small_decoder=str(tmp_path / "other.pth")))
