"""Former command lines go on working, and say where they live now."""

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("wanact.flight replay", "wanact replay"),
        ("wanact.convert", "wanact convert"),
        ("wanact.push", "wanact push"),
        ("wanact.bench", "wanact bench"),
        ("wanact.control_card", "wanact card"),
        ("train.bench", "train bench"),
        ("train.crash_test", "train crash_test"),
    ],
)
def test_a_former_command_line_leads_to_the_new_one(former, now, monkeypatch, capsys):
    """In this process, which has imported torch already."""
    module, *arguments = former.split()
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])
    spec = find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = find_spec(f"{module}.__main__")
    assert spec is not None and spec.origin is not None
    with pytest.raises(SystemExit) as ended:  # run_module does not get past pytest's own loader of *_test.py
        runpy.run_path(spec.origin, run_name="__main__")
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert f"is `python -m {now}` now" in said.err and f"usage: python -m {now}" in said.out


def test_the_door_lists_its_commands_and_refuses_others():
    door = [sys.executable, "-m", "wanact"]
    listed = subprocess.run([*door, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert listed.returncode == 0 and "replay" in listed.stdout and "push" in listed.stdout
    refused = subprocess.run([*door, "fly"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "'fly' is unknown" in refused.stderr and "Traceback" not in refused.stderr
