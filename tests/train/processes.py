"""Start the processes of a distributed run by forking: torch is imported already, so that they start at once."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_processes(count: int, function: Callable[[], None], output: Path, timeout: float = 240.0) -> list[int]:
    """Call `function` in `count` processes of one group; their exit statuses.

    Args:
        output: file that takes what they print.
    """
    environment = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = [start(function, output, environment | {"RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(count)]
    return [wait(child, timeout) for child in children]


def start(function: Callable[[], None], output: Path, environment: dict[str, str] | None = None) -> int:
    """Fork a process that calls `function`; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        # Also what pytest put in their place.
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        os.environ |= environment or {}
        AcceleratorState._reset_state(True)  # what a test of the parent's left would hide the group
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(child: int, timeout: float = 240.0) -> int:
    """Exit status of a child; it is killed if it takes longer than `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise TimeoutError(f"process {child} ran longer than {timeout:g} s")
