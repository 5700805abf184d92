"""How many cores there are to compute on."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus() -> int:
    """Cores this process may use (a container or `taskset` may grant fewer than the machine has)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores
