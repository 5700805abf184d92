"""Projects to test with: the real NF1 wells, and small generated ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from PIL import Image

NF1 = "NF1-Plate-2"
CHANNELS = ("DAPI", "GFP", "RFP")


def nf1(tmp: Path, shared: Path, splits: Mapping[str, str] | None = None) -> Path:
    """The five NF1 wells as a project; the class is a well's row on the plate (B, D, F, H), D has two wells.

    Args:
        tmp: a folder; the project is a folder in it.
        shared: the reference data.
        splits: well -> value of Split (default: D7 is Validation, the others Training).
    """
    root, data = tmp / "nf1", shared / "cellpainting"
    data = data if data.exists() else shared / "data" / "cellpainting"
    folders = {name: root / "inputs" / name for name in ("config", "images", "locations", "metadata")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    sites: dict[str, dict[str, str]] = {}
    for path in sorted((data / "nf1_plate2" / "images").iterdir()):
        found = re.fullmatch(r"([A-H]\d+)_01_\d_(\d)_(\w+)_001\.tif", path.name)
        assert found
        well, site, channel = found.groups()
        row = sites.setdefault(well, {"Metadata_Plate": NF1, "Metadata_Well": well, "Metadata_Site": site})
        row[channel] = f"{NF1}/{path.name}"
        (folders["images"] / NF1).mkdir(exist_ok=True)
        (folders["images"] / row[channel]).symlink_to(path)
    splits = dict.fromkeys(sites, "Training") | {"D7": "Validation"} | dict(splits or {})
    with h5py.File(data / "nf1_single_cell_crops_128.h5") as file:
        wells, centres = file["well"][:].astype(str), file["center_yx"][:]
    for well, row in sites.items():
        row |= {"Row": well[0], "Split": splits[well]}
        write_locations(root, NF1, well, row["Metadata_Site"], centres[wells == well][:, ::-1])
    pd.DataFrame(sites.values()).to_csv(folders["metadata"] / "index.csv", index=False)
    about = config(CHANNELS, "Row", width=1224, height=904, bits=16, box=128)
    about["dataset"]["images"]["file_format"] = "tif"
    (folders["config"] / "nf1.json").write_text(json.dumps(about))
    return root


def config(
    channels: Sequence[str], label: str, width: int, height: int, bits: int = 8, box: int = 16, control: str = "DMSO"
) -> dict[str, Any]:
    """A configuration as DeepProfiler's users write them."""
    return {
        "dataset": {
            "metadata": {"label_field": label, "control_value": control},
            "images": {
                "channels": list(channels),
                "file_format": "png",
                "bits": bits,
                "width": width,
                "height": height,
            },
            "locations": {"mode": "single_cells", "box_size": box, "mask_objects": False},
        },
        "prepare": {
            "illumination_correction": {"down_scale_factor": 4, "median_filter_size": 24},
            "compression": {"implement": False, "scaling_factor": 1.0},
        },
        "train": {
            "partition": {
                "targets": [label],
                "split_field": "Split",
                "training_values": ["Training"],
                "validation_values": ["Validation"],
            },
            "model": {
                "name": "efficientnet",
                "crop_generator": "sampled_crop_generator",
                "augmentations": True,
                "metrics": ["accuracy", "top_k"],
                "epochs": 20,
                "initialization": "ImageNet",
                "lr_schedule": "cosine",
                "params": {"learning_rate": 0.005, "batch_size": 32, "conv_blocks": 0, "label_smoothing": 0.0},
            },
            "sampling": {"factor": 1.0, "workers": 4, "cache_size": 1000},
            "validation": {"frequency": 1, "top_k": 5, "batch_size": 32, "sample_first_crops": True},
        },
        "profile": {"feature_layer": "pool5", "checkpoint": "checkpoint_0020.hdf5", "batch_size": 32},
    }


def write_locations(root: Path, plate: str, well: str, site: str, centres: np.ndarray) -> Path:
    """(n, 2) x and y of a site's cells."""
    path = root / "inputs" / "locations" / plate / f"{well}-{site}-Nuclei.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]
    pd.DataFrame(np.asarray(centres).reshape(-1, 2), columns=names).to_csv(path, index=False)
    return path


LABELS = ("DMSO", "NA", "aspirin", "Zinc")
"""Four classes; sorted, capitals come first, and NA is a name."""


def small(
    tmp: Path,
    plates: Sequence[str] = ("P-1", "P-2"),
    wells: int = 4,
    sites: int = 2,
    cells: int = 6,
    size: tuple[int, int] = (48, 64),
    bits: int = 8,
    box: int = 16,
    seed: int = 0,
) -> Path:
    """A project of noise: classes by well, the last plate is Validation, `cells` - 1 to `cells` + 1 cells a site.

    Args:
        size: height and width of the images.
    """
    root, generator = tmp / "small", np.random.default_rng(seed)
    channels, rows = ("DNA", "ER"), []
    for plate in plates:
        for number in range(wells):
            for site in range(1, sites + 1):
                well = f"A{number + 1:02d}"
                row = {"Metadata_Plate": plate, "Metadata_Well": well, "Metadata_Site": str(site)}
                for channel in channels:
                    row[channel] = f"{plate}/{well}_s{site}_{channel}.png"
                    pixels = generator.integers(1, 2**bits, size).astype(f"uint{bits}")
                    path = root / "inputs" / "images" / row[channel]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
                count = cells + (number + site) % 3 - 1
                centres = generator.uniform(0, 1, (count, 2)) * [size[1] - 1, size[0] - 1]
                write_locations(root, plate, well, str(site), centres.round(2))
                split = "Validation" if plate == plates[-1] else "Training"
                row |= {"Compound": LABELS[number % 4], "Split": split, "Metadata_moa": f"m{number % 2}"}
                rows.append(row)
    for name in ("config", "metadata"):
        (root / "inputs" / name).mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(root / "inputs" / "metadata" / "index.csv", index=False)
    about = config(channels, "Compound", size[1], size[0], bits, box)
    (root / "inputs" / "config" / "config.json").write_text(json.dumps(about))
    return root


def edit(root: Path, **changes: Any) -> None:
    """Change values of a project's configuration; `a__b=value` is key b of section a."""
    path = next((root / "inputs" / "config").glob("*.json"))
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *sections, last = name.split("__")
        at = content
        for section in sections:
            at = at[section]
        at[last] = value
    path.write_text(json.dumps(content))
