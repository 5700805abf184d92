"""Reading beam images (726x568 int16): ours against a row at a time through h5py and a raw sequential read.

All read the same random rows of the same generated files (the raw read: the same number of bytes in order). Files are
in the operating system's memory, as after the first epoch, so reading is copying and seconds are those of a core (user
+ system): other programs on the machine do not count but for the caches they take. The ways take turns and the best
round of each counts. A slow disk only brings the ways closer together.

"naive, opening" is the usual Dataset.__getitem__: open the file, read one row, close it. "naive, open" keeps the files
open. Both put each image into its place of a batch. Ours is asked for as many rows at once as training does: 8 batches
of 32, which it reads in the order of the files, to memory that stays in the processor's cache. The last lines train the
default network of the demo and count what a step waits for its batch, by the clock.

    python -m benchmarks.xtcav_reading [--rows 320] [--rounds 15] [--check]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from models.base import Place
from models.registry import get
from models.xtcav import generate
from models.xtcav.data import load
from models.xtcav.reader import ImageReader

FLOORS = {"naive, opening": 3.0, "naive, open": 3.0, "raw": 0.6}
MOST_WAITING = 0.05
_SHAPE, _BATCH, _WINDOW = (726, 568), 32, 8 * 32


def reading(files: list[Path], rows: int, rounds: int) -> dict[str, float]:
    """The best core seconds a row, by way of reading."""
    rng = np.random.default_rng(0)
    each = rows // len(files)
    file, row = np.repeat(np.arange(len(files)), each), np.tile(np.arange(each), len(files))
    order = rng.permutation(len(file))
    file, row = file[order], row[order]
    reader = ImageReader(files, "xtcavimg", _SHAPE, np.dtype(np.int16))
    out = np.empty((_BATCH, *_SHAPE), np.int16)
    buffer = bytearray(2**20)
    total = len(file) * out[0].nbytes

    def opening() -> None:
        for n in range(len(file)):
            with h5py.File(files[file[n]], "r") as handle:
                out[n % _BATCH] = handle["xtcavimg"][row[n]]

    def held() -> None:
        with contextlib.ExitStack() as stack:
            datasets = [stack.enter_context(h5py.File(path, "r"))["xtcavimg"] for path in files]
            for n in range(len(file)):
                out[n % _BATCH] = datasets[file[n]][row[n]]

    def raw() -> None:
        left = total
        for path in files:
            with open(path, "rb", buffering=0) as handle:
                while left > 0 and (got := handle.readinto(buffer)):
                    left -= got

    def ours() -> None:
        for n in range(0, len(file), _WINDOW):
            for _ in reader.portions(file[n : n + _WINDOW], row[n : n + _WINDOW]):
                pass

    ways: dict[str, Callable[[], None]] = {"naive, opening": opening, "naive, open": held, "raw": raw, "ours": ours}
    best = dict.fromkeys(ways, np.inf)
    for _ in range(rounds + 1):  # one more: the first fills the memory and opens our files
        for name, way in ways.items():
            begun = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - begun)
    for which, images in reader.portions(file[:8], row[:8]):
        for n, image in zip(which, images, strict=True):
            with h5py.File(files[file[n]], "r") as handle:
                assert np.array_equal(handle["xtcavimg"][row[n]], image)
    return {name: seconds / len(file) for name, seconds in best.items()}


def waiting(folder: Path, epochs: int) -> dict[str, float]:
    """Share of its time that training waits for batches: in the first epoch, which reads, and in those from memory."""
    block = {
        "path": str(folder / generate.LABELLED),
        "scalars": ["bld.L3energy"],
        "preprocess": [{"downsample": 8}, "log", "standardise"],
        "split": [0.8, 0.1, 0.1],
    }
    family, data = get("xtcav"), load(block, "val")
    settings = family.check({"EPOCHS": epochs + 1, "BATCH_SIZE": _BATCH})
    learner = family.learner(settings, data, Place(), 0)
    found = {}
    steps = data.train.batch_count(_BATCH)
    for name, end in (("first epoch", steps), ("cached", steps * (epochs + 1))):
        begun, waited = time.perf_counter(), data.train.waited
        while not learner.done and learner.steps < end - 1:
            learner.train_piece()
        found[name] = (data.train.waited - waited) / (time.perf_counter() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=320, help="images to read (default 320, 250 MiB)")
    parser.add_argument("--rounds", type=int, default=15, help="repetitions, the best counts (default 15)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs from memory (default 3)")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is below its floor")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        options = generate.checked({"files": 4, "rows": -(-arguments.rows // 4), "pred": 0, "dark": 0})
        begun = time.process_time()
        for name, kind, run, number, rows in generate.plan(options):
            generate.write_file(folder / name, kind, run, number, rows, options)
        print(f"generated: {1e3 * (time.process_time() - begun) / arguments.rows:.1f} ms of a core an image")
        seconds = reading(sorted(folder.glob("*.h5")), arguments.rows, arguments.rounds)
        for name, each in seconds.items():
            print(f"{name:16} {1 / each:7.0f} rows/s   ours is {each / seconds['ours']:.2f} x as fast")
        shares = waiting(folder, arguments.epochs)
        for name, share in shares.items():
            print(f"a step waits {100 * share:.2f} % of its time ({name})")
    slow = [name for name, floor in FLOORS.items() if seconds[name] / seconds["ours"] < floor]
    if arguments.check and (slow or shares["cached"] > MOST_WAITING):
        sys.exit(f"below the floor: {', '.join(slow) or 'waiting'}")


if __name__ == "__main__":
    main()
