"""How much memory this process has taken."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory_gb() -> float:
    """The most memory this process has held so far, in GB (1e9 bytes), torch and Python included."""
    peak = _status_bytes("VmHWM")
    if peak is not None:  # unlike ru_maxrss it does not count what a parent process held
        return peak / 1e9
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def held_memory_mb() -> float:
    """What this process holds now, in MB (1e6 bytes); 0 where the system does not tell."""
    return (_status_bytes("VmRSS") or 0) / 1e6


def _status_bytes(field: str) -> int | None:
    """A line of Linux' account of this process; None on other systems."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
