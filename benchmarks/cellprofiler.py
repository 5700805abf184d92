"""Features of cells (5 channels, 128 x 128 pixels, 8 bits): ours against the usual loop over PNG files.

Both feed the same network the same cells, on one core, and take turns; seconds are those of the core (user + system,
all threads of the process), so other programs do not count but for the caches they take, and the best round counts.
Files are in the operating system's memory.

"plain" is what one writes first: a Dataset whose __getitem__ opens one tiled PNG of a store (as DeepProfiler wrote
them), stretches each channel and makes a tensor of it, in torch's DataLoader, then the network. "ours, store" reads
sharded HDF5 as training and validation do; "ours, images" crops the cells out of whole images as the verb `profile`
does. "reading" is the same without a network: what it costs to have stretched crops in batches.

    python -m benchmarks.cellprofiler [--cells 1536] [--rounds 5] [--net cnn] [--check]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ground.machine import tune_allocator
from models.cellprofiler import names, pixels
from models.cellprofiler.config import resolve
from models.cellprofiler.draw import Options
from models.cellprofiler.network import CellNetwork, placed
from models.cellprofiler.predictor import Extractor
from models.cellprofiler.project import LOCATION_COLUMNS, SITE_COLUMNS, Project
from models.cellprofiler.sample import sample
from models.cellprofiler.sites import SiteCells
from models.cellprofiler.store import CropStore
from models.cellprofiler.stream import batches, in_order

CHANNELS, BOX, SIDE, A_SITE, BATCH = ("DNA", "RNA", "ER", "AGP", "Mito"), 128, 1080, 192, 128
FLOORS = {"cnn": 2.0}
"""Of features from a store; by network."""


def write_project(root: Path, cells: int) -> Project:
    """Sites of 1080 x 1080 pixels: noise over blobs, which PNG can pack about as well as cells."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-40:41, -40:41]
    blob = np.exp(-(x**2 + y**2) / 300.0)
    rows = []
    for number in range(-(-cells // A_SITE)):
        centres = rng.integers(45, SIDE - 45, (A_SITE, 2))
        row = dict(zip(SITE_COLUMNS, ("P1", f"A{number + 1:02d}", "1"), strict=True))
        row |= {"Compound": f"c{number % 2}", "Split": "Training"}
        for channel in CHANNELS:
            image = rng.gamma(4, 2.0, (SIDE, SIDE))
            for cx, cy in centres:
                image[cy - 40 : cy + 41, cx - 40 : cx + 41] += rng.uniform(20, 60) * blob
            row[channel] = f"{row[SITE_COLUMNS[1]]}-{channel}.png"
            path = root / "inputs" / "images" / row[channel]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
        place = root / "inputs" / "locations" / "P1"
        place.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(centres, columns=list(LOCATION_COLUMNS))
        table.to_csv(place / f"{row[SITE_COLUMNS[1]]}-1-Nuclei.csv", index=False)
        rows.append(row)
    for name in ("metadata", "config"):
        (root / "inputs" / name).mkdir()
    pd.DataFrame(rows).to_csv(root / "inputs" / "metadata" / "index.csv", index=False)
    config = {
        "dataset": {
            "metadata": {"label_field": "Compound"},
            "images": {"channels": CHANNELS, "bits": 8, "width": SIDE, "height": SIDE},
            "locations": {"box_size": BOX},
        }
    }
    (root / "inputs" / "config" / "config.json").write_text(json.dumps(config))
    return Project.open(root)


class Strips(Dataset[torch.Tensor]):
    """Tiled PNGs, one a cell."""

    def __init__(self, folder: Path, table: pd.DataFrame) -> None:
        self.paths = [folder / name for name in table["Image_Name"]]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        strip = np.asarray(Image.open(self.paths[number]), dtype=np.float32)
        crop = np.stack([strip[:, k * BOX : (k + 1) * BOX] for k in range(len(CHANNELS))])
        low, high = crop.min((1, 2), keepdims=True), crop.max((1, 2), keepdims=True)
        return torch.from_numpy((crop - low) / (high - low + pixels.EPS))


def ways(root: Path, cells: int, net: str) -> dict[str, Callable[[], np.ndarray | None]]:
    """Each way as a function that goes over all cells once; those with a network return the features."""
    project = write_project(root, cells)
    quiet: Callable[[str], None] = lambda text: None  # noqa: E731
    hdf5 = CropStore.open(sample(project, "h5", Options(everything=True), processes=1, say=quiet))
    png = CropStore.open(sample(project, "png", Options(everything=True), "png", processes=1, say=quiet))
    torch.manual_seed(0)
    network = CellNetwork(resolve({"NET": net}), len(CHANNELS), BOX, 100).eval()
    ours_ = placed(copy.deepcopy(network), "cpu")  # the same weights
    about = {"box": BOX, "channels": list(CHANNELS), "classes": []}
    extractor = Extractor(ours_, about, torch.device("cpu"))
    every, layers = np.arange(cells), [names.POOL]
    loader = DataLoader(Strips(png.folder, png.table.iloc[:cells]), batch_size=BATCH)

    def plain() -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([network.looked_at(crops, layers)[1][names.POOL].numpy() for crops in loader])

    def ours(which: CropStore | SiteCells) -> np.ndarray:
        return np.concatenate([seen[names.POOL] for _, seen in extractor.cells(which, every, layers, BATCH)])

    def swallow(crops: Iterable[torch.Tensor]) -> None:
        for _ in crops:
            pass

    return {
        "plain": plain,
        "ours, store": lambda: ours(hdf5),
        "ours, images": lambda: ours(SiteCells(project)),
        "reading, plain": lambda: swallow(loader),
        "reading, store": lambda: swallow(map(pixels.normalise, batches(hdf5, in_order(every, BATCH)))),
    }


def measure(cells: int, rounds: int, net: str) -> dict[str, float]:
    """The best core seconds a cell, by way.

    Raises:
        AssertionError: two ways do not find the same features.
    """
    with tempfile.TemporaryDirectory() as folder:
        there = ways(Path(folder), cells, net)
        best = dict.fromkeys(there, np.inf)
        found: dict[str, np.ndarray | None] = {}
        for _ in range(rounds + 1):  # one more: the first brings files into memory
            for name, way in there.items():
                begun = time.process_time()
                found[name] = way()
                best[name] = min(best[name], time.process_time() - begun)
    features = [values for values in found.values() if values is not None]
    # the PNGs were stretched once more, all channels together, and rounded to 8 bits
    assert all(np.allclose(values, features[-1], atol=0.02 * np.abs(features[-1]).max()) for values in features)
    return {name: seconds / cells for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=8 * A_SITE, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, the best counts (default: %(default)s)")
    parser.add_argument("--net", choices=names.NETS, default="cnn")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is below its floor")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()  # as a trial and the verbs do; the plain loop gains, too
    seconds = measure(given.cells, given.rounds, given.net)
    for name, each in seconds.items():
        against = seconds["reading, plain" if name.startswith("reading") else "plain"]
        print(f"{name:16} {1 / each:7.0f} cells/s   {against / each:.2f} x as fast as plain")
    ratio = seconds["plain"] / seconds["ours, store"]
    if given.check and ratio < FLOORS.get(given.net, 1.0):
        sys.exit(f"below the floor: {ratio:.2f} < {FLOORS.get(given.net, 1.0)}")


if __name__ == "__main__":
    main()
