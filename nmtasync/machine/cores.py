"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""The quota of a container: microseconds of CPU time, or "max", and the period's microseconds."""


def available_cores() -> int:
    """Count the CPU cores that this process may use, a container's quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no such file, or no quota
        quota, period = map(int, CPU_MAX.read_text("ascii").split())
        cores = min(cores, max(1, math.ceil(quota / period)))
    return cores
