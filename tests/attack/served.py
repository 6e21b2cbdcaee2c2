"""The app as a host runs it: a process of its own, with what it says, what it takes and what it leaves."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_START_S = 300


class Served:
    """`python app.py` with the bundled world, on a port of its own, in a temporary folder of its own.

    Args:
        folder: where its log and its temporary files go.
        arguments: more flags of app.py.
        runs: folder of runs; the bundled ones if not given.
        root: the checkout that is run.
        environment: more variables.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        runs: Path | None = None,
        root: Path = ROOT,
        environment: dict[str, str] | None = None,
    ):
        self.temp = folder / "temp"
        self.temp.mkdir(parents=True)
        self.log_file = folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.runs = runs or root / "assets" / "runs"
        command = [sys.executable, "app.py", "--port", str(port), "--runs", str(self.runs), *arguments]
        environment = (
            os.environ
            | (environment or {})
            | {"TMPDIR": str(self.temp), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        )
        environment.pop("GRADIO_TEMP_DIR", None)
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + _START_S
        while "WanAct is at" not in self.log():
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RuntimeError(f"the app did not start:\n{self.log()}")
            time.sleep(0.1)

    def close(self) -> None:
        """End it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    # ---- what can be seen of it ------------------------------------------------------------------------------

    def log(self) -> str:
        """Everything it has said."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def memory(self) -> int:
        """Bytes of its own, without what it shares with files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found, "Linux tells RssAnon"
        return int(found[1]) * 1024

    def peak(self) -> int:
        """The most memory that it has had since `forget_peak`, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, "Linux tells VmHWM"
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Begin to count the peak anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def num_files(self) -> int:
        """Open descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def places(self) -> list[str]:
        """Folders of this machine that no answer may name."""
        home = str(Path.home())
        named = {str(ROOT), str(self.temp), str(self.runs), sys.prefix, home if len(home) > 2 else str(ROOT)}
        return sorted({name for place in named for name in (place, os.path.realpath(place))})
