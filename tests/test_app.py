import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import app
from wanact.flying.placement_options import FitOptions, options_of


def test_variables_of_a_space_name_the_model_the_runs_and_the_address(monkeypatch, root):
    usual = app.parse_args([])
    assert Path(usual.model_dir) == root / "assets" / "nano" and usual.runs == [str(root / "assets" / "runs")]
    assert usual.host == "127.0.0.1" and options_of(usual) == FitOptions()
    monkeypatch.setenv("WANACT_MODEL_DIR", "Wan-AI/Wan2.2-TI2V-5B")
    monkeypatch.setenv("WANACT_RUNS", "hf://me/orbit")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    named = app.parse_args([])
    assert (named.model_dir, named.runs, named.host) == ("Wan-AI/Wan2.2-TI2V-5B", ["hf://me/orbit"], "0.0.0.0")
    assert app.parse_args(["--model_dir", "here"]).model_dir == "here"


def test_the_fitting_flags_reach_the_pipeline():
    args = app.parse_args(["--offload", "model", "--fp8", "--text_cache", "cache", "--lora", "a", "--lora", "b"])
    assert options_of(args) == FitOptions(offload="model", fp8=True, text_cache="cache")
    assert args.lora == ["a", "b"] and args.pt_dir == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pt_dir", "gone.pt"], "the fine-tuned weights gone.pt are missing"),
        (["--runs", "hf://nothing"], "hf://nothing is no Hub id"),
        (["--model_dir", "nobody/nothing"], "nobody/nothing is neither a directory nor in the Hub's cache"),
    ],
)
def test_what_cannot_be_had_is_said_before_the_page_opens(
    tiny_model_dir, tmp_path, capsys, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert app.main(["--model_dir", str(tiny_model_dir), "--runs", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("127.0.0.1", None, "port {port} is in use by another program"),
        ("0.0.0.0", None, "port {port} is in use by another program"),
        ("127.0.0.1", 70_000, "--port 70000 is no port"),
        ("192.0.2.1", 7_860, "--host 192.0.2.1 is not an address of this machine"),
        ("no.such.host.invalid", 7_860, "--host no.such.host.invalid is no address"),
    ],
)
def test_an_address_that_cannot_be_had_is_said_before_a_model_is_loaded(capsys, host, port, says):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port or taken.getsockname()[1]
        assert app.main(["--model_dir", "nothing/here", "--host", host, "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("app.py: " + says.format(port=port)) and said.count("\n") == 1


def test_loading_and_saving_a_model_says_nothing(tiny_model_dir, tmp_path, root):
    """Whatever libraries have to remark of themselves, in a process of its own: some of it comes with the import."""
    code = (
        "import sys, torch\n"
        "from wanact.flying.pipeline import WanActPipeline\n"
        "from wanact.weights.model_dir import save_components\n"
        "pipe = WanActPipeline.from_model_dir(sys.argv[1], dtype=torch.bfloat16)\n"
        "save_components(pipe.components, sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(tiny_model_dir), str(tmp_path / "saved")]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


def test_the_head_of_the_readme_makes_the_repository_a_space(root):
    head = yaml.safe_load((root / "README.md").read_text().split("---\n")[1])
    assert head["sdk"] == "gradio" and (root / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60, "the Hub refuses more"
    required = {r.name: r for r in map(Requirement, _lines(root / "requirements.txt"))}
    assert head["sdk_version"] in required["gradio"].specifier
    assert "2.8.0" in required["torch"].specifier and "2.11.0" in required["torch"].specifier, "as ZeroGPU has them"


def test_the_dockerfile_copies_what_there_is(root):
    dockerfile = (root / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (root / name).exists(), name
    ignored = (root / ".dockerignore").read_text().split()
    assert not {"wanact", "train", "assets", "app.py"} & set(ignored)


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def test_an_address_to_write_from_is_printed_at_home_or_where_the_owner_says_so(monkeypatch):
    def printed(*arguments):
        return app._may_edit(app.parse_args(arguments))

    monkeypatch.delenv("SPACE_ID", raising=False)
    assert printed() and printed("--host", "0.0.0.0", "--allow_edits")
    assert not printed("--host", "0.0.0.0")
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert not printed() and "https://huggingface.co" in app.parse_args([]).embed_in
