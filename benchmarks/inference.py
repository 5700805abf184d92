"""Rates of many published checkpoints: ours against a plain one-by-one loop, on one core or more.

From files to rates, in one process with as many threads as torch takes by itself. The plain loop does what the
textbook program does for each checkpoint: unpickle, build a model with fresh weights, load, run all trials with
attention weights returned. Ours reads the imported study, as every ensemble is built.

    python -m benchmarks.inference ARCHIVE_FOLDER/mc_maze_small NDT_FILE
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.plain_ndt import PlainNDT
from ensembles.archive import import_archive
from ensembles.members import candidates, predictions
from models.ndt.config import resolve
from models.ndt.data import SpikeData
from models.ndt.original import flatten, load
from models.registry import get
from tuner.study import Study


def plain(paths: list[Path], data: SpikeData) -> list[np.ndarray]:
    rates = []
    for path in paths:
        content = load(path)
        config = resolve({k: v for k, v in flatten(content["config"]).items() if k.startswith("MODEL.")})
        model = PlainNDT(config, content["trial_length"], content["num_neurons"])
        model.load_state_dict(content["state_dict"])
        model.eval()
        heldin = torch.from_numpy(data.eval.heldin).clamp(max=content["max_spikes"])
        padding = (0, content["num_neurons"] - heldin.shape[2], 0, content["trial_length"] - heldin.shape[1])
        with torch.no_grad():
            lograte, _ = model(F.pad(heldin, padding))
            rates.append(lograte.exp().numpy())
    return rates


def ours(study: Study, data: SpikeData) -> list[dict[str, np.ndarray]]:
    return predictions(study.family, candidates(study), data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of .pth files (EMBED_DIM 0)")
    parser.add_argument("data", type=Path, help="an NDT file")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    data = get("ndt").load({"path": str(arguments.data)}, "val")
    paths = sorted(arguments.folder.glob("*.pth"))
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as home:
        (study,) = import_archive(arguments.folder, Path(home))
        for _ in range(arguments.rounds):
            begun = time.perf_counter()
            expected = plain(paths, data)
            middle = time.perf_counter()
            found = ours(study, data)
            times["plain"].append((middle - begun) / len(paths))
            times["ours"].append((time.perf_counter() - middle) / len(paths))
        assert len(found) == len(expected)
    best = {name: min(values) for name, values in times.items()}
    print(f"{len(paths)} checkpoints: plain {1e3 * best['plain']:.1f} ms each, ours {1e3 * best['ours']:.1f} ms: "
          f"{best['plain'] / best['ours']:.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
