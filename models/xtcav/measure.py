"""How long a step of a network takes here, and how much memory its process: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ground.errors import CommandFailed
from models.xtcav.build import LAYOUT, build, placed

STEPS = 2


def measure(
    config: Mapping[str, Any], shape: tuple[int, int], scalars: int, outputs: int, threads: int
) -> dict[str, float]:
    """{"train_s", "eval_s", "peak_mb"}: seconds of a step of random images, resident memory at its height (MB).

    Raises:
        CommandFailed: the process did not come through.
    """
    told = json.dumps([dict(config), list(shape), scalars, outputs, threads])
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "models.xtcav.measure"], input=told, capture_output=True, text=True, cwd=root
    )
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]
        raise CommandFailed(f"the step could not be measured: {why}")
    return dict(json.loads(ran.stdout))


def _here(config: dict[str, Any], shape: list[int], scalars: int, outputs: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    network = placed(build(config, (shape[0], shape[1]), scalars, outputs), "cpu")
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    images = torch.randn(config["BATCH_SIZE"], 1, *shape).contiguous(memory_format=LAYOUT)
    joined = torch.randn(config["BATCH_SIZE"], scalars if config["SCALARS"] else 0)
    labels = torch.randint(0, outputs, (config["BATCH_SIZE"],))

    def train() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images, joined), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def evaluate() -> None:
        with torch.inference_mode():
            network(images, joined)

    network.train()
    trained = _seconds(train)
    peak = peak_mb()
    network.eval()
    return {"train_s": trained, "eval_s": _seconds(evaluate), "peak_mb": peak}


def _seconds(call: Any) -> float:
    """The shortest of some calls, after one that warms up."""
    call()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mb() -> float:
    """The largest resident memory of this process so far, MB of 2^20 bytes; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    # not getrusage: it starts with what the parent process had
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


if __name__ == "__main__":
    print(json.dumps(_here(*json.load(sys.stdin))))
