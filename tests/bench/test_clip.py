import json
import sys
from xml.etree import ElementTree

import pytest

from tests.flying.test_pipeline import write_run
from tests.flying.test_stream import write_causal_run
from wanact.__main__ import main as door
from wanact.bench.clip import STAGES, format_clip
from wanact.bench.memory import peak_memory_gb
from wanact.commands.bench import main
from wanact.errors import UserError

SMALL = ["--size", "32x64", "--frames", "5", "--steps", "2", "--runs", "1"]


def test_it_prints_a_table_and_writes_the_numbers(tiny_model_dir, tmp_path, capsys):
    file = tmp_path / "speed.json"
    main(["clip", "--model_dir", str(tiny_model_dir), "--json", str(file), *SMALL])
    result = json.loads(file.read_text())
    stages = [result[f"seconds_{stage}"] for stage in STAGES]
    assert all(seconds > 0 for seconds in stages)
    assert sum(stages) <= result["seconds_total"], "with one run the stages are parts of the total"
    assert result["seconds_step"] == pytest.approx(result["seconds_denoise"] / 2)
    assert (result["height"], result["width"], result["num_frames"]) == (32, 64, 5)
    assert result["guidance_scale"] == 3.0, "the model's default"
    assert result["checkpoint"] is None
    table = capsys.readouterr().out
    assert format_clip(result) in table and "base (no actions)" in table


def test_a_run_is_flown_along(tiny_model_dir, tmp_path, capsys):
    run = write_run(tmp_path / "hover")
    main(["clip", "--model_dir", str(tiny_model_dir), "--run", str(run), *SMALL])
    assert "hover" in capsys.readouterr().out


def test_a_live_flight_is_measured(tiny_model_dir, tmp_path, capsys):
    file, run = tmp_path / "live.json", write_causal_run(tmp_path / "orbit")
    main(["live", "--model_dir", str(tiny_model_dir), "--run", str(run), "--size", "32x64", "--seconds", "0.5",
          "--json", str(file)])  # fmt: skip
    result = json.loads(file.read_text())
    assert result["fps"] == pytest.approx(4 * result["latent_frames"] / result["seconds"])
    assert all(0 < result[share] < 1.2 for share in ("share_transformer", "share_decoder"))  # side by side
    assert result["first_frame_ms"] > 0 and result["sharpness_ratio"] > 0 and "memory_growth_mb" in result
    assert (result["window"], result["num_inference_steps"], result["height"]) == (3, 2, 32)
    assert "frames per second" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs a causal one"):
        main(["live", "--model_dir", str(tiny_model_dir), "--seconds", "0.1"])


def test_memory_only_grows():
    before = peak_memory_gb()
    block = bytearray(30_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_memory_gb() >= before > 0.01


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["clip", "--model_dir", "nowhere"], "error: nowhere does not exist"),
        (["clip", "--size", "96"], "write HEIGHTxWIDTH"),
        (["clip", "--steps", "0"], "no whole number above 0"),
    ],
)
def test_a_wrong_call_ends_with_one_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as caught:
        sys.exit(door(["bench", *arguments]))
    assert caught.value.code not in (0, None)
    assert says in f"{caught.value.code} {capsys.readouterr().err}"


def test_settings_that_cannot_be_flown_are_refused(tiny_model_dir, tmp_path):
    for wrong in (["--frames", "6"], ["--size", "33x64"], ["--guidance", "0"]):
        with pytest.raises(UserError, match="expected|must be"):
            main(["clip", "--model_dir", str(tiny_model_dir), *SMALL, *wrong])
    with pytest.raises(UserError, match="is not a folder"):
        main(["clip", "--model_dir", str(tiny_model_dir), "--run", str(tmp_path / "gone"), *SMALL])


def test_against_diffusers_the_clip_is_the_same_and_the_ratio_is_told(tiny_model_dir, tmp_path, capsys):
    numbers, plot = tmp_path / "speed.json", tmp_path / "speed.svg"
    main(["clip", "--model_dir", str(tiny_model_dir), "--vs-diffusers", "--floor", *SMALL,
          "--json", str(numbers), "--plot", str(plot)])  # fmt: skip
    result = json.loads(numbers.read_text())
    assert result["max_abs_difference"] < 1e-4 and result["max_abs_difference_pixels"] < 1e-4
    assert result["ratio_vs_diffusers"] > 0 and result["ratio_vs_diffusers_default"] == result["ratio_vs_diffusers"]
    assert len(result["seconds_ours_runs"]) == len(result["seconds_diffusers_runs"]) == 1
    assert 0 < result["floor_seconds_step"] < result["seconds_step"]
    assert result["tflop_step"] > 0 and result["gb_decode"] > 0
    table = capsys.readouterr().out
    assert "against diffusers" in table and "of it): " in table
    drawing = ElementTree.fromstring(plot.read_text())
    assert "diffusers, same type" in [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]


def test_a_model_of_other_patches_is_compared_too(tmp_path):
    main(["clip", "--random", "nano", "--vs-diffusers", "--json", str(tmp_path / "speed.json"), *SMALL])
    assert json.loads((tmp_path / "speed.json").read_text())["max_abs_difference"] < 1e-4


def test_random_weights_of_a_known_size_are_timed(tmp_path):
    main(["clip", "--random", "nano", "--json", str(tmp_path / "speed.json"), *SMALL])
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["checkpoint"] is None and result["dtype"] == "float32" and result["guidance_scale"] == 2.0


def test_one_layer_runs_at_the_size_of_a_clip(tmp_path, capsys):
    main(["block", "--preset", "nano", "--size", "192x320", "--frames", "81", "--json", str(tmp_path / "block.json")])
    result = json.loads((tmp_path / "block.json").read_text())
    assert result["tokens"] == 21 * 60 and result["velocity_shape"] == [1, 48, 21, 12, 20]
    assert result["modulation_per_token_mb"] == pytest.approx(result["modulation_mb"] * 60), "60 tokens a frame"
    assert "peak memory" in capsys.readouterr().out
