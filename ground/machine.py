"""What a process may use of its machine, and how."""

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


def available_memory() -> int:
    """Bytes that a process could still get: of this machine, or of what its control group leaves."""
    found = [2**62]
    memory = Path("/proc/meminfo")
    if memory.exists():
        found += [int(line.split()[1]) * 1024 for line in memory.read_text().splitlines() if "MemAvailable" in line]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(
                int((Path("/sys/fs/cgroup") / limit).read_text()) - int((Path("/sys/fs/cgroup") / used).read_text())
            )
        except (OSError, ValueError):
            continue
    return max(0, min(found))


def tune_allocator() -> None:
    """Keep freed memory in the process: training and selection ask for the same large blocks at every step.

    glibc would return each to the kernel and fault its pages in again. Elsewhere this does nothing.
    """
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass
