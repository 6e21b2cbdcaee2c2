"""What of the browser's scripts needs no page is tested in Node, in tests/js."""

import os
import shutil
import subprocess

import pytest


def test_the_scripts_hold_in_node(root):
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("WANACT_REQUIRE_NODE"), "WANACT_REQUIRE_NODE is set, but no node is installed"
        pytest.skip("no node; install Debian's nodejs")
    files = sorted(str(file.relative_to(root)) for file in (root / "tests" / "js").glob("*.test.js"))
    assert len(files) >= 6
    command = [node, "--test", "--test-reporter=spec", *files]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
