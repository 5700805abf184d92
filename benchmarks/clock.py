"""CPU time: on a machine with other work, ratios of wall time say more about that work than about ours."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch


def cpu_seconds() -> float:
    """CPU time of this process, all its threads and its finished children, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def instruction_set() -> str:
    """The vector instructions that torch uses here, such as AVX2 or AVX512."""
    return torch.backends.cpu.get_cpu_capability()


def answer(step: Callable[[], object]) -> None:
    """What a process of `turn_by_turn` does: one step to warm up, then a step's CPU seconds for each line on stdin."""
    step()
    for _ in sys.stdin:
        begun = cpu_seconds()
        step()
        print(json.dumps(cpu_seconds() - begun), flush=True)


def turn_by_turn(module: str, case: str, rounds: int) -> dict[str, float]:
    """The median CPU seconds of a step of "plain" and of "ours", in processes of one thread each that take turns.

    Args:
        module: is run with `--worker KIND CASE` and calls `answer`.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = {
        kind: subprocess.Popen(
            [sys.executable, "-m", module, "--worker", kind, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for kind in ("plain", "ours")
    }
    times: dict[str, list[float]] = {kind: [] for kind in processes}
    try:
        for _ in range(rounds):
            for kind, process in processes.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                times[kind].append(json.loads(process.stdout.readline()))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return {kind: statistics.median(values) for kind, values in times.items()}
