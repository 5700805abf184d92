"""Inverting traces on one core: training against the textbook loop, reading against plain h5py, in CPU time.

Training: design a2f791f3a, traces of 1600 bins x 3 probes, 19 conductances, batches of 128, both loops over the same
file held in memory, in processes of their own, turn by turn, so that a noisy machine disturbs them alike; ours with
the allocator settings that trials get. Seconds are those of an epoch; ours also looks at 16 validation rows.

Reading: all rows of some packs, against h5py reading them in order, 32 MiB at a time and kept nowhere. "in order" is
how blocks are read, "into memory" reads, checks and keeps them, "shuffled" is an epoch that does not fit into memory,
given out in random batches. Files are in the operating system's memory, so reading is copying; the ways take turns and
the best round of each counts.

    python -m benchmarks.cellspike [--rounds 5] [--check]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.clock import answer, instruction_set, turn_by_turn

FLOORS = {"training": 1.3, "in order": 0.8}
SETTINGS: dict[str, Any] = {
    "CONV_DEPTH": 3, "FILTERS_1": 30, "FILTERS_2": 90, "FILTERS_3": 180,
    **{f"{name}_{number}": 4 for name in ("KERNEL", "POOL") for number in (1, 2, 3)},
    "FC_DEPTH": 5, "FC_1": 512, "FC_2": 512, "FC_3": 512, "FC_4": 256, "FC_5": 128, "DROPOUT": 0.05,
    "BATCH_SIZE": 128, "SCHEDULE": "constant", "EPOCHS": 1000,
}  # fmt: skip
_BINS, _PROBES, _OUTPUTS, _ROWS = 1600, 3, 19, 512
_CELLS, _EACH, _PORTION = 4, 3072, 32 * 2**20


def pack(path: Path, rows: int, seed: int) -> Path:
    """A pack of one cell in ONTRA's format, of noise: what is in it costs no less to read or to learn."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split, count in (("train", rows), ("val", 16), ("test", 16)):
            file[f"{split}_frames"] = rng.standard_normal((count, _BINS, _PROBES), np.float32)
            file[f"{split}_unitStar_par"] = rng.uniform(-1, 1, (count, _OUTPUTS)).astype(np.float32)
    return path


# ---- training


def worker(kind: str, path: Path) -> None:
    """Answer each line on stdin with the CPU seconds of an epoch."""
    import torch

    torch.set_num_threads(1)
    from benchmarks.plain_cellspike import PlainLoop
    from ground.machine import tune_allocator
    from models.base import Place
    from models.registry import get

    family = get("cellspike")
    settings = family.check(SETTINGS)
    step: Any
    if kind == "ours":
        tune_allocator()
        learner = family.learner(settings, family.load({"path": str(path)}, "val"), Place(), 0)

        def step() -> None:
            learner.train_piece()
            while not learner.due:
                learner.train_piece()
    else:
        step = PlainLoop(settings, path).epoch
    answer(step)


def training(rounds: int, folder: Path) -> dict[str, float]:
    """The median CPU seconds of an epoch, by kind of loop."""
    path = pack(folder / "bbp1531_excite.cellSpike_3prB8kHz.data.h5", _ROWS, 0)
    return turn_by_turn("benchmarks.cellspike", str(path), rounds)


# ---- reading


def reading(rounds: int, folder: Path) -> dict[str, float]:
    """The best CPU seconds a GiB of traces, by way of reading."""
    from models.cellspike.data import load, sweep
    from models.cellspike.traces import Traces

    paths = [pack(folder / f"bbp1{n}01_excite.cellSpike_3prB8kHz.data.h5", _EACH, n) for n in range(1, _CELLS + 1)]
    rows = max(1, _PORTION // (4 * _BINS * _PROBES))

    def plain() -> None:
        for path in paths:
            with h5py.File(path) as file:
                for start in range(0, _EACH, rows):
                    file["train_frames"][start : start + rows]

    traces = load({"path": str(folder)}, "val").train

    def in_order() -> None:
        for _ in traces.batches(rows):
            pass

    ways: dict[str, Callable[[], Any]] = {
        "plain": plain,
        "in order": in_order,
        # a handle of its own: what was read is kept in it
        "into memory": lambda: Traces(traces.segments, traces.reading).held(),
        "shuffled": lambda: sweep(traces, limit=traces.bytes()),
    }
    best = dict.fromkeys(ways, np.inf)
    for _ in range(rounds + 1):  # one more: the first fills the memory
        for name, way in ways.items():
            begun = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - begun)
    return {name: float(seconds) / traces.bytes() * 2**30 for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each way (default 5)")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is below its floor")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], Path(arguments.worker[1]))
        return
    import torch

    from ground.machine import tune_allocator

    torch.set_num_threads(1)
    tune_allocator()  # as trials do; for all ways alike
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in ("training", "reading")}
        for folder in folders.values():
            folder.mkdir()
        epoch = training(arguments.rounds, folders["training"])
        ratios = {"training": epoch["plain"] / epoch["ours"]}
        speed = {kind: _ROWS // SETTINGS["BATCH_SIZE"] * SETTINGS["BATCH_SIZE"] / s for kind, s in epoch.items()}
        print(f"training, samples a second of one core, {instruction_set()}, median of {arguments.rounds}: plain loop "
              f"{speed['plain']:.0f}, ours {speed['ours']:.0f}: {ratios['training']:.2f} x", flush=True)  # fmt: skip
        each = reading(arguments.rounds, folders["reading"])
        print(f"reading, h5py: {1 / each['plain']:.1f} GiB a second of one core")
        for name in ("in order", "into memory", "shuffled"):
            ratios[name] = each["plain"] / each[name]
            print(f"reading, ours {name}: {1 / each[name]:.1f} GiB a second, {ratios[name]:.2f} x", flush=True)
    slow = [name for name, floor in FLOORS.items() if ratios[name] < floor]
    if arguments.check and slow:
        sys.exit(f"below the floor: {', '.join(slow)}")


if __name__ == "__main__":
    main()
