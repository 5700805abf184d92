"""The folders of a project, an example configuration and the head of an index. What is there stays as it is.

ROOT/inputs/config/config.json        which columns are channels and classes, how large images and crops are
ROOT/inputs/metadata/index.csv        a row a site: plate, well, site, an image a channel, the class, the split
ROOT/inputs/images/                   where the index's names begin: grey TIFF or PNG of 8 or 16 bits
ROOT/inputs/locations/PLATE/WELL-SITE-Nuclei.csv    Nuclei_Location_Center_X, Nuclei_Location_Center_Y in pixels
ROOT/inputs/outlines/                 masks, where dataset.locations.mask_objects is true
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ground.errors import BadInput
from ground.files import write_json, write_text
from models.cellprofiler.config_json import Config
from models.cellprofiler.project import SITE_COLUMNS

FOLDERS = ("inputs/config", "inputs/images", "inputs/locations", "inputs/metadata", "inputs/outlines", "outputs")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="the project's folder")
    parser.add_argument(
        "--channels", nargs="+", default=["DNA", "RNA", "ER", "AGP", "Mito"], help="columns of the index"
    )
    parser.add_argument("--label", default="Compound", help="the column that names a class (default: %(default)s)")
    parser.add_argument("--control", default="DMSO", help="the class of controls (default: %(default)s)")
    parser.add_argument("--box", type=int, default=128, help="side of a crop, pixels (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1080, help="of the images, pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=1080, help="(default: %(default)s)")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=16, help="of a pixel (default: %(default)s)")
    parser.add_argument("--format", default="tif", help="of the images (default: %(default)s)")


def main(given: argparse.Namespace) -> None:
    content = example(given)
    Config.of(content, "setup")
    for name in FOLDERS:
        (given.root / name).mkdir(parents=True, exist_ok=True)
    config, index = given.root / "inputs/config/config.json", given.root / "inputs/metadata/index.csv"
    if any(config.parent.glob("*.json")):
        print(f"{config.parent}: has a configuration already, which stays")
    else:
        write_json(config, content)
        print(config)
    if index.exists():
        print(f"{index}: is there already and stays")
    else:
        columns = [*SITE_COLUMNS, *given.channels, given.label, "Split"]
        if len(set(columns)) < len(columns) or any("," in name or '"' in name for name in columns):
            raise BadInput(f"the columns {', '.join(columns)} are not all of one name each")
        write_text(index, ",".join(columns) + "\n")
        print(index)


def example(given: argparse.Namespace) -> dict[str, Any]:
    """A configuration with the values that published runs had."""
    return {
        "dataset": {
            "metadata": {"label_field": given.label, "control_value": given.control},
            "images": {
                "channels": given.channels,
                "file_format": given.format,
                "bits": given.bits,
                "width": given.width,
                "height": given.height,
            },
            "locations": {
                "mode": "single_cells",
                "box_size": given.box,
                "area_coverage": 1.0,
                "mask_objects": False,
            },
        },
        "prepare": {
            "illumination_correction": {"down_scale_factor": 4, "median_filter_size": 24},
            "compression": {"implement": False, "scaling_factor": 1.0},
        },
        "train": {
            "partition": {
                "targets": [given.label],
                "split_field": "Split",
                "training_values": ["Training"],
                "validation_values": ["Validation"],
                "test_values": ["Test"],
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
            "validation": {"frequency": 1, "top_k": 5, "batch_size": 32, "sample_first_crops": False},
        },
        "profile": {"feature_layer": "pool5", "checkpoint": "checkpoint_0020.hdf5", "batch_size": 32},
    }
