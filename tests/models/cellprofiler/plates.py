"""A small project in DeepProfiler's layout: cells are blobs whose width and brightness go by the compound."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.cellprofiler.draw import Options
from models.cellprofiler.project import Project
from models.cellprofiler.sample import sample

CHANNELS = ("DNA", "ER")
COMPOUNDS = {"DMSO": (2.0, 1.0), "lupin": (3.5, 1.0), "malva": (2.0, 0.4), "nerin": (3.0, 0.3)}
SPLITS = {"P-1": "Training", "P-2": "Validation", "P-3": "Test"}


def project(
    root: Path, plates: Mapping[str, str] = SPLITS, cells: int = 6, seed: int = 0, box: int = 16, wells: int = 2
) -> Path:
    """Write a project; plates (named with hyphens) have twice as many control wells as wells of a compound.

    The last well of each plate is without a cell.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, str]] = []
    for plate, split in plates.items():
        labels = [name for name in COMPOUNDS for _ in range(2 * wells if name == "DMSO" else wells)]
        for number, label in enumerate(labels):
            well = f"{'ABCDEFGH'[number // 6]}{number % 6 + 1:02d}"
            width, height = 100, 80
            centres = rng.uniform(4, [width - 4, height - 4], (cells if number < len(labels) - 1 else 0, 2))
            image = _image(rng, (height, width), centres, COMPOUNDS[label])
            row = {"Metadata_Plate": plate, "Metadata_Well": well, "Metadata_Site": "1", "Compound": label,
                   "Split": split, "Metadata_dose": "0010"}  # fmt: skip
            for channel, pixels in zip(CHANNELS, image, strict=True):
                name = f"{plate}/{well}-{channel}.png"
                path = root / "inputs" / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
                row[channel] = name
            rows.append(row)
            _write(
                root / "inputs" / "locations" / plate / f"{well}-1-Nuclei.csv",
                [dict(zip(("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"), c, strict=True)) for c in centres],
            )
    _write(root / "inputs" / "metadata" / "index.csv", rows)
    config = {
        "dataset": {
            "metadata": {"label_field": "Compound", "control_value": "DMSO"},
            "images": {"channels": list(CHANNELS), "file_format": "png", "bits": 8, "width": 100, "height": 80},
            "locations": {"mode": "single_cells", "box_size": box},
        },
        "train": {"partition": {"split_field": "Split", "training_values": ["Training"],
                                "validation_values": ["Validation"], "test_values": ["Test"]}},
    }  # fmt: skip
    (root / "inputs" / "config").mkdir(parents=True)
    (root / "inputs" / "config" / "cells.json").write_text(json.dumps(config))
    return root


def stored(root: Path, **written: Any) -> Path:
    """`project`, with its cells sampled into the store single-cells."""
    project(root, **written)
    sample(Project.open(root), options=Options(), say=lambda text: None)
    return root


def _image(
    rng: np.random.Generator, size: tuple[int, int], centres: np.ndarray, kind: tuple[float, float]
) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    image = rng.uniform(0, 20, (2, *size))
    for a, b in centres:
        blob = np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * kind[0] ** 2))
        image += 150 * np.stack([blob, kind[1] * np.roll(blob, 2, 1)])
    return np.clip(image, 0, 255).astype(np.uint8)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0]) if rows else ["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
