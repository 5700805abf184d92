"""Rates from many members of an ensemble: ours against a plain one-by-one loop, full-size mc_maze_small shapes.

All in CPU time, summed over threads.

The plain loop does what the textbook program does for each checkpoint: build a model with fresh weights, load
the saved ones, run all trials with attention weights returned. It is measured on one thread, as a trial has,
and on all; ours gives each member one thread and runs as many members as there are cores.

    python -m benchmarks.inference [--trials 100] [--members 8]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.clock import cpu_seconds, instruction_set
from benchmarks.ndt import SETTINGS
from benchmarks.plain_ndt import PlainNDT
from models.base import Place
from models.ndt.config import resolve
from models.ndt.data import SpikeData, Spikes
from models.ndt.network import NDT
from models.registry import get

BINS, FORWARD, HELDIN, UNITS, MAX_SPIKES = 140, 40, 107, 142, 10


def plain(config: dict[str, Any], states: list[dict[str, torch.Tensor]], heldin: np.ndarray) -> list[np.ndarray]:
    rates = []
    for state in states:
        model = PlainNDT(config, BINS + FORWARD, UNITS)
        model.load_state_dict(state)
        model.eval()
        with torch.no_grad():
            lograte, _ = model(F.pad(torch.from_numpy(heldin), (0, UNITS - HELDIN, 0, FORWARD)))
            rates.append(lograte.exp().numpy())
    return rates


def ours(config: dict[str, Any], states: list[dict[str, torch.Tensor]], data: SpikeData) -> list[dict[str, np.ndarray]]:
    family = get("ndt")
    sizes = {"length": BINS + FORWARD, "units": UNITS, "max_spikes": MAX_SPIKES, "bins": BINS, "heldin_units": HELDIN}
    place = Place(threads=torch.get_num_threads())
    members = [family.restore(config, {"network": state, **sizes}, place) for state in states]
    return list(family.predict_many(members, data, place))


def measure(trials: int, members: int, rounds: int) -> dict[str, float]:
    """The best CPU seconds a member, by way of doing it."""
    config = resolve(SETTINGS)
    states = [NDT(config, BINS + FORWARD, UNITS, MAX_SPIKES).state_dict() for _ in range(members)]
    heldin = np.random.default_rng(0).poisson(0.06, (trials, BINS, HELDIN)).astype(np.float32)
    spikes = Spikes(heldin)
    data = SpikeData(spikes, spikes, "generated")
    threads = torch.get_num_threads()
    ways: dict[str, tuple[int, Callable[[], list[Any]]]] = {
        "plain, one thread": (1, lambda: plain(config, states, heldin)),
        "plain, all threads": (threads, lambda: plain(config, states, heldin)),
        "ours": (threads, lambda: ours(config, states, data)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, list[Any]] = {}
    for _ in range(rounds):
        for name, (count, way) in ways.items():
            torch.set_num_threads(count)
            begun = cpu_seconds()
            results[name] = way()
            times[name].append((cpu_seconds() - begun) / members)
    torch.set_num_threads(threads)
    for expected, found in zip(results["plain, one thread"], results["ours"], strict=True):
        np.testing.assert_allclose(found["eval_rates_heldin"], expected[:, :BINS, :HELDIN], rtol=1e-4)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="trials to infer (default 100)")
    parser.add_argument("--members", type=int, default=8, help="checkpoints (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, the best counts (default 3)")
    arguments = parser.parse_args()
    times = measure(arguments.trials, arguments.members, arguments.rounds)
    print(f"CPU time of {arguments.trials} trials, {instruction_set()}")
    for name, seconds in times.items():
        print(f"{name:20} {1e3 * seconds:7.1f} ms a member   ours takes 1 / {seconds / times['ours']:.2f} of that")


if __name__ == "__main__":
    main()
