"""How much memory this process has taken."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory_gb() -> float:
    """The most memory this process has held so far, in GB (1e9 bytes), torch and Python included."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss it does not count what a parent process held
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
