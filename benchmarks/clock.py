"""CPU time: on a machine with other work, ratios of wall time say more about that work than about ours."""

from __future__ import annotations

import resource
import time

import torch


def cpu_seconds() -> float:
    """CPU time of this process, all its threads and its finished children, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def instruction_set() -> str:
    """The vector instructions that torch uses here, such as AVX2 or AVX512."""
    return torch.backends.cpu.get_cpu_capability()
